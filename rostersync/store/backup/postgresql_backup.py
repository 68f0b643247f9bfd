"""Write and restore backups of a PostgreSQL database.

A backup is a dump of our tables and views in `pg_dump`'s custom format.

A dump of the whole database, made by an administrator, can also be restored. The dump may have any schema revision that
this version knows. A restore reads only our tables from the dump, with their keys, indexes and ids. `pg_restore` writes
the tables as SQL, and our own connection executes this SQL, so that one transaction replaces and upgrades the tables.
The views in the dump are not restored, because this version creates its own views.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, BinaryIO

import msgspec
from sqlalchemy import text

from rostersync.errors import StoreError
from rostersync.store.backup import continuity
from rostersync.store.backup.continuity import NOTHING_USED
from rostersync.store.backup.postgresql_programs import find, running, way_to_server
from rostersync.store.database import own_schema
from rostersync.store.database.engine import open_engine, past_sqlalchemy, run_verbatim, writing
from rostersync.store.database.files import copy
from rostersync.store.database.own_schema import OF_VIEWS, SCHEMA
from rostersync.store.schema import column_statistics, revisions
from rostersync.store.schema.revisions import Level
from rostersync.store.schema.tables import metadata
from rostersync.store.schema.view_upgrade import access_to, give_access, require_no_dependents, upgraded_views
from rostersync.store.schema.views import VIEWS, placed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection

    from rostersync.clock import Clock
    from rostersync.report import ProgressCallback
    from rostersync.store.backup.continuity import Used

_TABLES = (*metadata.tables, "alembic_version")
_VIEW_NAMES = {view.name for view in VIEWS}

_STORED = text("""
SELECT format('%I.%I', nspname, relname) AS name, relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
 WHERE relkind IN ('r', 'p') AND (nspname = :tables AND (:all OR relname = ANY(:ours))
                              OR nspname = :views AND relname = ANY(:earlier)) ORDER BY 1
""")
_EXISTING = text("SELECT name FROM unnest(CAST(:names AS text[])) name WHERE to_regclass(name) IS NOT NULL")
_IS_MISSING = text("SELECT to_regrole(:role) IS NULL")
_ROWS = 1000
"""The number of rows after which we check whether the process was asked to stop."""

_ENTRY = re.compile(
    r"\d+; \d+ \d+ "
    r"(TABLE DATA|TABLE|SEQUENCE OWNED BY|SEQUENCE SET|SEQUENCE|DEFAULT|CONSTRAINT|FK CONSTRAINT|INDEX|ACL) "
    r"(\S+) (?:(?:TABLE|COLUMN) )?(\w+)"
)
_GRANT = re.compile(r"GRANT .* TO (.+?)(?: WITH GRANT OPTION)?;")
_OF_PSQL = (b"--", b"\\", b"SET ", b"SELECT pg_catalog.set_config(")
"""Lines with these prefixes are commands for psql, or would change the settings of our session.

An older server does not know some of these settings.
"""


def write(url: str, file: BinaryIO, progress: ProgressCallback) -> None:
    """Write a dump of our tables and views into `file`. Meanwhile, other processes can read and write the database."""
    with open_engine(url, read_only=True).connect() as connection, connection.begin():
        revisions.require_filled(connection, "the database")
        place = continuity.place_of_tables(connection)
        wanted = [*(f"{place}{table}" for table in _TABLES), *map(placed, VIEWS)]
        names = connection.execute(_EXISTING, {"names": wanted}).scalars().all()
        server = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one()) // 10_000
    program = find("pg_dump", server)
    environment, proof = way_to_server(url)
    options = ["--format=custom", "--encoding=UTF8", "--no-password", "--lock-wait-timeout=30000"]
    command = [program, *options, *proof, *(f"--table={name}" for name in names)]
    # Use a pipe. If pg_dump could seek in its output, it would write the list of contents twice, and a truncated dump
    # could look complete.
    with running(command, "cannot back up", env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        copy(process.stdout, file, lambda done: progress(f"{done >> 20} MB", 0, 0))


class _Entry(msgspec.Struct, frozen=True):
    """A line in a dump's list of contents. `name` is the name of a table, sequence, index or view."""

    line: str
    kind: str
    place: str
    name: str

    def is_of_tables(self, place: str) -> bool:
        """Return whether the entry belongs to one of our tables. `place` is the schema of our tables in the dump."""
        tables = _TABLES if place == SCHEMA else tuple(own_schema.EARLIER_TABLES)
        if self.place != place or self.kind == "ACL":
            return False
        if self.kind == "INDEX":
            return self.name.startswith(tuple(f"ix_{table}_" for table in tables))
        return self.name in (continuity.SEQUENCES if self.kind.startswith("SEQUENCE") else tables)


@contextmanager
def opened(url: str, file: BinaryIO, clock: Clock, _progress: ProgressCallback) -> Iterator[PostgresqlBackup]:
    """Yield the backup in `file`, as `backup.opened` does."""
    yield PostgresqlBackup(url, file, clock)


class PostgresqlBackup:
    """A dump that can be restored into a PostgreSQL database."""

    def __init__(self, url: str, file: BinaryIO, clock: Clock) -> None:
        """Read the dump's list of contents and its schema revision. Raises the same errors as `backup.opened`."""
        self._url, self._file, self._clock = url, file, clock
        self._program = find("pg_restore")
        with self._running("--list") as output:
            listed = output.read().decode(errors="replace")
        entries = [_Entry(line, *found.groups()) for line in listed.splitlines() if (found := _ENTRY.match(line))]
        place = _place_of_tables(entries)
        self._of_tables = [entry for entry in entries if entry.is_of_tables(place)]
        self._grants = [entry for entry in entries if entry.kind == "ACL" and entry.name in _VIEW_NAMES]
        self._revision = revisions.require_known(self._dumped_revision(), file.name)
        created = re.search("Archive created at (.+)", listed)
        self.description = f"schema {self._revision}, written {created[1] if created else 'at an unknown time'}"

    def _dumped_revision(self) -> str | None:
        rows = [entry for entry in self._of_tables if (entry.kind, entry.name) == ("TABLE DATA", "alembic_version")]
        if not rows:
            return None
        with self._sql(rows) as output:
            found = re.search(rb"(?: FROM stdin;\n|VALUES \(')(\w+)", output.read())
        return found[1].decode() if found else None

    @contextmanager
    def _running(self, *options: str) -> Iterator[IO[bytes]]:
        """Run pg_restore on the backup file, and yield the output of pg_restore."""
        self._file.seek(0)
        command, failure = [self._program, *options], f"cannot read the backup {self._file.name}"
        with running(command, failure, stdin=self._file, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            yield process.stdout

    @contextmanager
    def _sql(self, entries: list[_Entry]) -> Iterator[IO[bytes]]:
        """Yield the entries as SQL statements. The rows of a table follow its COPY statement."""
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as chosen:
            chosen.writelines(f"{entry.line}\n" for entry in entries)
            chosen.flush()
            with self._running("--no-owner", "--file=-", f"--use-list={chosen.name}") as output:
                yield output

    def restore(self, sources: Iterable[str], progress: ProgressCallback) -> list[str]:
        """Replace our tables with the tables in the backup, as described in `Backup.restore`."""
        engine = open_engine(self._url)
        with (
            engine.connect() as session,  # this session has the locks of the sources
            continuity.undisturbed(session, None, sources, self._clock.now()),
            engine.connect() as connection,
            writing(connection),
        ):
            revisions.wait_for_others(connection)
            level = revisions.level(connection)
            own_schema.prepare(connection)
            self._replace_tables(connection, level, progress)
            return self._grant(connection) if level is Level.EMPTY else []

    def _replace_tables(self, connection: Connection, level: Level, progress: ProgressCallback) -> None:
        with upgraded_views(connection, detached=True):
            stored = _stored_tables(connection, level)
            access = {table: access_to(connection, name) for name, table in stored.items()}
            used = _drop(connection, list(stored))
            with self._sql(self._of_tables) as output:
                self._load(connection, output, progress)
            own_schema.move_tables(connection)
            if self._revision != revisions.HEAD:
                revisions.migrate(connection)
        column_statistics.withhold(connection)
        tables = [f"{SCHEMA}.{table}" for table in _TABLES]
        for table in access.keys() & set(_TABLES):
            give_access(connection, f"{SCHEMA}.{table}", access[table])
        continuity.go_on(connection, used)
        # Without statistics, PostgreSQL would assume that the tables are empty, and choose plans that read whole
        # tables.
        connection.exec_driver_sql(f"ANALYZE {', '.join(tables)}")

    def _load(self, connection: Connection, output: IO[bytes], progress: ProgressCallback) -> None:
        """Execute the SQL that pg_restore writes.

        If pg_restore stops in the middle of a table, this method returns, and `running` raises the error.
        """
        total = os.fstat(self._file.fileno()).st_size >> 20
        script: list[bytes] = []
        with past_sqlalchemy(connection) as driver, driver.cursor() as cursor:
            for line in output:
                if line.startswith(b"COPY ") and line.endswith(b" FROM stdin;\n"):
                    cursor.execute(b"".join(script))
                    script.clear()
                    with cursor.copy(line) as rows:
                        for number, row in enumerate(iter(output.readline, b"\\.\n")):
                            if not row:
                                return
                            rows.write(row)
                            if number % _ROWS == 0:
                                progress("MB", os.lseek(self._file.fileno(), 0, os.SEEK_CUR) >> 20, total)
                elif line.startswith(b"SET client_encoding") or not line.startswith(_OF_PSQL):
                    script.append(line)
            cursor.execute(b"".join(script))
            cursor.execute("SET client_encoding = 'UTF8'")

    def _grant(self, connection: Connection) -> list[str]:
        """Execute the dump's grants on the views. Return a note about the roles that do not exist on this server."""
        with self._sql(self._grants) as output:
            statements = [found for line in output if (found := _GRANT.match(line.decode()))]
        missing = set()
        for statement in statements:
            role = statement[1]
            if role != "PUBLIC" and connection.scalar(_IS_MISSING, {"role": role}):
                missing.add(role)
                continue
            with suppress(StoreError), connection.begin_nested():  # the grant may be on a column that no longer exists
                run_verbatim(connection, statement[0])
        if not missing:
            return []
        roles = ", ".join(sorted(missing))
        hint = "create them, then run: grant-reader"
        return [f"these roles have read access in the backup, but do not exist here: {roles}; {hint}"]


def _place_of_tables(entries: list[_Entry]) -> str:
    """Return the schema of our tables in a dump, or "" if the dump does not contain our tables."""
    for place in (SCHEMA, OF_VIEWS):
        if own_schema.are_ours(entry.name for entry in entries if (entry.kind, entry.place) == ("TABLE", place)):
            return place
    return ""


def _stored_tables(connection: Connection, level: Level) -> dict[str, str]:
    """Return the tables that a restore replaces, as a dict from the full name to the name without the schema.

    If a later version of rostersync wrote the schema, the restore replaces all tables in our schema, because this
    version may not know all of them.
    """
    places = {"tables": SCHEMA, "views": OF_VIEWS, "earlier": own_schema.earlier_tables(connection)}
    known = {"all": level is Level.NEWER, "ours": list(_TABLES)}
    return {row.name: row.relname for row in connection.execute(_STORED, {**places, **known})}


def _drop(connection: Connection, tables: list[str]) -> Used:
    """Drop the tables, and return the highest ids and fence numbers that they contained.

    Raises `StoreError` if another object depends on one of the tables.
    """
    if not tables:
        return NOTHING_USED
    connection.exec_driver_sql(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
    used = continuity.used(connection)
    require_no_dependents(connection, tables, "the tables of rostersync")
    connection.exec_driver_sql(f"DROP TABLE {', '.join(tables)}")
    return used
