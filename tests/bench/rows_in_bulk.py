"""How long it takes to write rows in bulk: by `insert()` on the mapped class's table, and as the sync does it.

Run it with `python tests/bench/rows_in_bulk.py [STUDENTS]`. It prints the median of five transactions on each database.
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

sys.path[:0] = [str(Path(__file__).parents[1])]

from conftest import ManualClock, running_postgres
from msgspec.structs import asdict, replace
from sqlalchemy import delete, insert
from sqlalchemy.orm import Session

from rostersync.managebac.decoding.records import decode_student
from rostersync.models import Source, Student
from rostersync.records import Student as Served
from rostersync.records import content_hash, encode
from rostersync.simulator.state import School
from rostersync.store.schema.rows import NAMES, TIMESTAMP, insert_all, values_of
from rostersync.store.schema.tables import student
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
FACTS = {"first_seen_at": NOW, "valid_from": NOW, "op": "insert", "changed_fields": (), "run_id": 1}


def students(count: int) -> list[Served]:
    decoded = [decode_student(record) for record in School(1, 500, ManualClock()).truth().values()]
    known = [row for row in decoded if isinstance(row, Served)]
    return [replace(known[number % len(known)], id=number + 1) for number in range(count)]


def by_session(connection: Connection, rows: list[Served]) -> None:
    """The mapper's own bulk insert."""
    with Session(connection) as session:
        session.execute(insert(Student), [values(row) for row in rows])


def by_insert(connection: Connection, rows: list[Served]) -> None:
    connection.execute(insert(student), [values(row) for row in rows])


def values(row: Served) -> dict[str, Any]:
    fields = {name: value for name, value in asdict(row).items() if name in NAMES}
    return {"source": "main", **fields, "content_hash": content_hash(encode(row)), **FACTS}


def by_the_sync(connection: Connection, rows: list[Served]) -> None:
    """COPY on PostgreSQL, plain tuples on SQLite."""
    now = TIMESTAMP.process_bind_param(NOW, connection.dialect)
    facts = {**dict(zip(FACTS, (now, now, "insert", "[]", 1), strict=True)), "source": "main"}
    made = []
    for row in rows:
        known = facts | dict(zip(NAMES, values_of(row), strict=False)) | {"content_hash": content_hash(encode(row))}
        made.append(tuple(map(known.get, student.c.keys())))
    insert_all(connection, student, made)


def seconds(store: Store, write: Callable[[Connection, list[Served]], None], rows: list[Served]) -> float:
    with store.writing() as connection:
        connection.execute(delete(student))
    begun = time.perf_counter()
    with store.writing() as connection:
        write(connection, rows)
    return time.perf_counter() - begun


def measure(url: str, rows: list[Served]) -> None:
    store = Store(url, ManualClock(), create=True)
    with store.writing() as connection:
        connection.execute(insert(Source.__table__), {"name": "main"})
    for way in (by_session, by_insert, by_the_sync):
        taken = median(seconds(store, way, rows) for _ in range(5))
        print(f"{store.engine.dialect.name:10} {way.__name__:11} {len(rows):,} rows in {taken:.2f} s")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="rs-bench-") as folder:
        rows = students(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
        measure(f"sqlite:///{folder}/roster.db", rows)
        Path(folder).chmod(0o755)
        (Path(folder) / "pg").mkdir()
        with running_postgres(Path(folder) / "pg") as admin:
            measure(admin.render_as_string(hide_password=False), rows)
