"""The mapped classes declare the fields that there are, with their types; to import them opens nothing."""

from __future__ import annotations

import subprocess
import sys
from datetime import date, datetime
from typing import Any, get_type_hints

import pytest
from sqlalchemy import inspect
from sqlalchemy.orm import Mapped, configure_mappers

from rostersync import models
from rostersync.records import FIELDS, Kind

TYPES: dict[Kind, Any] = {
    Kind.TEXT: str | None,
    Kind.INTEGER: int | None,
    Kind.BOOLEAN: bool | None,
    Kind.DATE: date | None,
    Kind.TIMESTAMP: datetime | None,
    Kind.TEXTS: tuple[str, ...] | None,
    Kind.INTEGERS: tuple[int, ...] | None,
}
CLASSES = sorted((mapper.class_ for mapper in models.Model.registry.mappers), key=lambda mapped: mapped.__name__)


def test_the_fields_of_the_mapped_classes_are_those_of_a_student_in_name_type_and_order() -> None:
    expected = [(field.name, Mapped[TYPES[field.kind]]) for field in FIELDS]  # type: ignore[misc] # made at run time
    assert list(get_type_hints(models.Fields).items()) == [*expected, ("extra", Mapped[dict[str, Any]])]


@pytest.mark.parametrize("mapped", CLASSES, ids=lambda mapped: mapped.__name__)
def test_a_class_declares_each_column_that_it_has_and_no_other(mapped: type[models.Model]) -> None:
    configure_mappers()
    declared = {name for name, hint in get_type_hints(mapped).items() if getattr(hint, "__origin__", None) is Mapped}
    known = inspect(mapped)
    assert declared == set(known.columns.keys()) | set(known.relationships.keys())


def test_to_import_the_models_opens_no_file_and_no_connection() -> None:
    code = """
import sys
def refuse(event, arguments):
    mode = arguments[1] if event == "open" else None
    assert event not in ("sqlite3.connect", "socket.connect") and (not isinstance(mode, str) or mode in ("r", "rb"))
sys.addaudithook(refuse)
import rostersync.models
assert not {"psycopg", "alembic", "requests"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-B", "-c", code], check=True)
