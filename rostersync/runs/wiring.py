"""Build the parts that do the work from the configuration."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rostersync.clock import SystemClock
from rostersync.config import DEFAULT_VARIABLE
from rostersync.errors import ConfigError
from rostersync.managebac.client import ManageBac
from rostersync.managebac.reader import StudentReader
from rostersync.managebac.wire.limits import HostLimiters
from rostersync.runs.executor import Executor
from rostersync.runs.hooks import Hooks
from rostersync.sync.guard import GuardPolicy
from rostersync.sync.watermarks import SyncPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from rostersync.cancel import CancelScope
    from rostersync.config import Config, Source
    from rostersync.store.store import Store

_limiters = HostLimiters(1, SystemClock())
"""The limiters of the whole process. A reload of the configuration keeps them, unless it changes the concurrency."""


def policy(config: Config) -> SyncPolicy:
    """Return the settings of `[sync]` and `[guard]` about reading and removing."""
    guard = config.guard
    return SyncPolicy(
        overlap=config.sync.overlap,
        max_age=config.sync.max_age,
        attempts=config.sync.crawl_attempts,
        details_per_run=config.sync.details_per_run,
        stage_bytes=config.sync.stage_mib << 20,
        guard=GuardPolicy(guard.max_deletions, guard.max_deletion_percent, guard.floor),
    )


def clients(config: Config) -> Callable[[str, CancelScope], ManageBac]:
    """Return a function that makes the client of a source, by the source's name. The scope ends the client's calls.

    A client's deadline begins when it is made. All clients of the process share the pace of their host. The function
    raises `ConfigError` if the source's token is not available.
    """
    _limiters.keep([_host(source) for source in config.sources], config.sync.concurrency)
    sources = {source.name: source for source in config.sources}
    sync = config.sync

    def client(name: str, scope: CancelScope) -> ManageBac:
        source = sources[name]
        return ManageBac(
            source.base_url,
            source.token(),
            api_version=source.api_version,
            auth=source.auth,
            timeout=sync.timeout.total_seconds(),
            retries=sync.retries,
            concurrency=sync.concurrency,
            run_seconds=sync.run_deadline.total_seconds(),
            scope=scope,
            limiter=_limiters.of(_host(source)),
            proxy_from_env=config.network.proxy_from_env,
        )

    return client


def _host(source: Source) -> str:
    return urlsplit(source.base_url).netloc


def connector(config: Config) -> Callable[[str, CancelScope], AbstractContextManager[StudentReader]]:
    """Return a function that opens the API of a source, by the source's name, for one run: see `clients`."""
    client = clients(config)

    @contextmanager
    def connect(name: str, scope: CancelScope) -> Iterator[StudentReader]:
        with client(name, scope) as api:
            yield StudentReader(api, config.sync.per_page)

    return connect


def executor(config: Config, store: Store, purpose: str) -> Executor:
    """Return the executor for the configured sources. `purpose` names this process to others who want the same lock."""
    return Executor(store, policy(config), connector(config), purpose, after_run=hooks(config).after_run)


def hooks(config: Config) -> Hooks:
    """Return the object that runs the command in `[hooks]`.

    It does not give the command any variable that holds a token or a part of the database's url.
    """
    secrets = {DEFAULT_VARIABLE, *(source.token_env for source in config.sources if source.token_env)}
    secrets |= {name for name, value in os.environ.items() if value and value in config.database.url}
    return Hooks(config.hooks.after_run, config.hooks.timeout, secrets)


def token_mistakes(sources: Iterable[Source]) -> dict[str, ConfigError]:
    """Return an error for each source without an available token, by the source's name."""
    mistakes = {}
    for source in sources:
        try:
            source.token()
        except ConfigError as error:
            mistakes[source.name] = error
    return mistakes
