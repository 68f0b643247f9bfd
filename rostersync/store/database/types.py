"""Define column types that store and return the same values on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, BigInteger, Boolean, Date, DateTime, Text, TypeDecorator

from rostersync.clock import from_text, to_milliseconds, to_text
from rostersync.records import Kind

if TYPE_CHECKING:
    from sqlalchemy import Dialect
    from sqlalchemy.types import TypeEngine


class Timestamp(TypeDecorator[datetime]):
    """An aware UTC time in whole milliseconds.

    PostgreSQL stores the time as `timestamptz(3)`. SQLite stores the time as text in a format that its date functions
    can read.
    """

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            from sqlalchemy.dialects.postgresql import TIMESTAMP  # noqa: PLC0415 - slow to import, not used for SQLite

            return dialect.type_descriptor(TIMESTAMP(timezone=True, precision=3))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        return to_milliseconds(value) if dialect.name == "postgresql" else to_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return to_milliseconds(value) if dialect.name == "postgresql" else from_text(value)


class Json(TypeDecorator[Any]):
    """A JSON value, stored as `jsonb` on PostgreSQL. None is stored as SQL's NULL and never as JSON's `null`."""

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            from sqlalchemy.dialects.postgresql import JSONB  # noqa: PLC0415 - the same

            return dialect.type_descriptor(JSONB(none_as_null=True))
        return dialect.type_descriptor(JSON(none_as_null=True))


class JsonTuple(TypeDecorator[tuple[Any, ...]]):
    """A JSON array that is a tuple in Python, as in `Student`."""

    impl = Json
    cache_ok = True

    def process_bind_param(self, value: tuple[Any, ...] | None, dialect: Dialect) -> Any:  # noqa: ARG002 - the protocol
        return None if value is None else list(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> tuple[Any, ...] | None:  # noqa: ARG002 - the same
        return None if value is None else tuple(value)


COLUMN_TYPES: dict[Kind, TypeEngine[Any]] = {
    Kind.TEXT: Text(),
    Kind.INTEGER: BigInteger(),
    Kind.BOOLEAN: Boolean(create_constraint=False),
    Kind.DATE: Date(),
    Kind.TIMESTAMP: Timestamp(),
    Kind.TEXTS: JsonTuple(),
    Kind.INTEGERS: JsonTuple(),
}
