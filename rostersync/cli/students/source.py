"""Choose the source for a command of `rostersync students`, and open its API."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from rostersync.errors import ConfigError
from rostersync.runs import wiring

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rostersync.cli.options import Session
    from rostersync.config import Source
    from rostersync.managebac import ManageBac

one_source_option = click.option(
    "--source", "name", metavar="NAME", help="The source. Required if several sources are configured."
)


def chosen_source(session: Session, name: str | None) -> Source:
    """Return the source with this name.

    If `name` is None, return the only source, or raise `ConfigError` if there are several.
    """
    sources = session.chosen([name] if name else [])
    if len(sources) > 1:
        names = ", ".join(source.name for source in sources)
        raise ConfigError([f"there are several sources: {names}"], "choose one with --source NAME")
    return sources[0]


@contextmanager
def opened(session: Session, name: str | None) -> Iterator[ManageBac]:
    """Yield the client of the chosen source. Raise `ConfigError` if its token is missing or invalid."""
    with wiring.clients(session.config)(chosen_source(session, name).name, session.scope) as api:
        yield api
