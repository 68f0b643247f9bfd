"""`rostersync resync`: the whole roster anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rostersync.cli.options import configured, json_option, source_option
from rostersync.cli.output import document
from rostersync.cli.sync import carry_out, tell_all
from rostersync.report import RunKind, RunRequest
from rostersync.runs import wiring
from rostersync.store import requests

if TYPE_CHECKING:
    from rostersync.cli.options import Session
    from rostersync.store import Store


@click.command()
@source_option
@click.option("--no-wait", is_flag=True, help="Leave the request in the database, and return.")
@json_option
@configured
def command(session: Session, names: tuple[str, ...], no_wait: bool, as_json: bool) -> int:
    """Read everything anew: `sync --full` under the name that operators look for.

    With --no-wait the source's next run carries the request out, whoever does that.
    """
    sources = session.chosen(names)
    if not no_wait:
        outcomes = carry_out(session, [RunRequest(source.name, RunKind.FULL) for source in sources])
        return tell_all(session, outcomes, as_json=as_json)
    store = wiring.open_store(session.config, session.clock, create=True)
    left = [_leave(store, source.name) for source in sources]
    if as_json:
        document({"requests": left})
        return 0
    for request in left:
        who = "somebody is at this source now" if request["lock_held"] else "nobody is at this source now"
        click.echo(f"{request['source']}: request {request['request_id']} is left for the next run; {who}")
    return 0


def _leave(store: Store, source: str) -> dict[str, Any]:
    with store.writing() as connection:
        number = requests.file(connection, RunRequest(source, RunKind.FULL, wait=None), store.clock.now())
    return {"source": source, "request_id": number, "lock_held": store.is_held(source)}
