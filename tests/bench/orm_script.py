"""The usual alternative: requests, and `Session.merge` of SQLAlchemy's ORM for each record.

It reads the list once, or only the students who were modified since a time. It knows nothing of deletions, of lists
that move, or of bad records. `orm_script.py PORT PER_PAGE DATABASE_URL [SINCE]`
"""

from __future__ import annotations

import sys
from typing import Any

import requests
from sqlalchemy import JSON, BigInteger, Boolean, Integer, Text, create_engine
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column

KINDS = {int: BigInteger, bool: Boolean, list: JSON, str: Text}
KEY = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    pass


def model(student: dict[str, Any]) -> type[Any]:
    columns = {name: mapped_column(KINDS[type(value)]) for name, value in student.items() if name != "id"}
    columns["id"] = mapped_column(KEY, primary_key=True, autoincrement=False)
    return type("Student", (Base,), {"__tablename__": "student", **columns})


def main(port: int, per_page: int, url: str, since: str | None) -> None:
    http = requests.Session()
    engine = create_engine(url)
    number, total, student = 1, 1, None
    with Session(engine) as session:
        while number <= total:
            asked = {"page": number, "per_page": per_page, **({"modified_since": since} if since else {})}
            page = http.get(f"http://127.0.0.1:{port}/v2p1/students", params=asked, timeout=30).json()
            total = page["meta"]["total_pages"]
            for row in page["students"]:
                if student is None:
                    student = model(row)
                    Base.metadata.create_all(engine)
                session.merge(student(**row))
            session.commit()
            number += 1


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4] if len(sys.argv) > 4 else None)
