"""`rostersync resync`: read the whole roster again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rostersync.cli.options import configured, json_option, source_option
from rostersync.cli.output import document, note
from rostersync.cli.sync import carry_out, show_outcomes
from rostersync.report import RunKind, RunRequest
from rostersync.store.queue import requests
from rostersync.store.store import open_store

if TYPE_CHECKING:
    from rostersync.cli.options import Session
    from rostersync.store.store import Store


@click.command()
@source_option
@click.option("--no-wait", is_flag=True, help="Queue the request and return at once.")
@json_option
@configured
def command(session: Session, names: tuple[str, ...], no_wait: bool, as_json: bool) -> int:
    """Read the whole roster again, like `sync --full`.

    With --no-wait, the command only queues a request. The daemon, or the next command that syncs the source, carries
    out the request.
    """
    sources = session.chosen(names)
    if not no_wait:
        outcomes = carry_out(session, [RunRequest(source.name, RunKind.FULL) for source in sources])
        return show_outcomes(session, outcomes, as_json=as_json)
    store = open_store(session.config, session.clock, create=True)
    queued = [_queue(store, source.name) for source in sources]
    if as_json:
        document({"requests": queued})
        return 0
    for request in queued:
        taken = "the process that holds this source carries out the request (at once, if the process is a daemon)"
        waits = "no run is in progress; the next run of this source will carry out the request"
        note(f"{request['source']}: request {request['request_id']} queued; {taken if request['lock_held'] else waits}")
    return 0


def _queue(store: Store, source: str) -> dict[str, Any]:
    with store.writing() as connection:
        number = requests.file(connection, RunRequest(source, RunKind.FULL, wait=None), store.clock.now())
    return {"source": source, "request_id": number, "lock_held": store.is_held(source)}
