"""Turn pydantic's errors into one line for each mistake, with the key, the value found and the values expected."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from rostersync.address import Wrong, may_be_a_token

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

Key = tuple[int | str, ...]

# Error messages never contain the values of these settings, because a value may be a password or a token.
_NEVER_SHOWN = frozenset({"url", "urls", "ping_url", "base_url", "token_env", "token_file", "tokens_dir", "after_run"})


def describe(error: ValidationError, root: type[BaseModel]) -> dict[Key, str]:
    """Return an error line for each wrong setting, by the key of the setting. `root` is the model of the whole file."""
    return {detail["loc"]: f"{spell_key(detail['loc'])}: {_line(detail, root)}" for detail in error.errors()}


def spell_key(key: Key) -> str:
    """Return a key in the notation `sources[0].base_url`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in key)
    return "".join(steps).removeprefix(".")


def _line(detail: ErrorDetails, root: type[BaseModel]) -> str:
    kind, key = detail["type"], detail["loc"]
    if kind == "extra_forbidden":
        return f"unknown setting{_suggestion(key, root)}"
    field = find_field(key, root)
    expected = (field and field.description) or "a table"
    if kind == "missing":
        return f"missing; expected {expected}"
    reason = detail.get("ctx", {}).get("error")
    return str(reason) if isinstance(reason, Wrong) else f"found {_found(detail['input'], key)}; expected {expected}"


def _found(value: Any, key: Key) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and _NEVER_SHOWN.isdisjoint(key) and not may_be_a_token(value):
        return repr(value if len(value) <= 60 else value[:57] + "...")  # noqa: PLR2004 - the length that fits into a line
    if isinstance(value, int | float):
        return str(value)
    names: dict[type, str] = {str: "an unusable string", list: "a list", dict: "a table"}
    return names.get(type(value), "a date or time")


def settings(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return a dictionary from the keys of a table in the file to the fields of the model."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def find_field(key: Key, root: type[BaseModel]) -> FieldInfo | None:
    """Return the field for `key`, or None if the setting does not exist.

    For an element of a list, return the list's field.
    """
    model: type[BaseModel] | None = root
    field: FieldInfo | None = None
    for step in (step for step in key if isinstance(step, str)):
        field = settings(model).get(step) if model else None
        model = _table(field)
    return field


def _table(field: FieldInfo | None) -> type[BaseModel] | None:
    """Return the model of a field if its value is a table or a list of tables, else None."""
    kinds = (field.annotation, *get_args(field.annotation)) if field else ()
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _suggestion(key: Key, root: type[BaseModel]) -> str:
    """Return a hint about an unknown setting. The hint suggests a similar name, or the table that has this setting."""
    name = str(key[-1])
    if name == "token":
        return "; the token itself does not belong in this file: use token_env or token_file"
    if len(key) > 1 and name in settings(root) and _table(settings(root)[name]) is None:
        return "; it belongs at the beginning of the file, before the first table"
    table = _table(find_field(key[:-1], root)) or root
    if close := difflib.get_close_matches(name, settings(table), n=1):
        return f"; did you mean {close[0]}?"
    sections = {section: _table(field) for section, field in settings(root).items()}
    homes = [section for section, model in sections.items() if model and name in settings(model)]
    return f"; it belongs in [{homes[0]}]" if homes else f"; known here: {', '.join(settings(table))}"
