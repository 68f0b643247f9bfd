"""Create the objects that do the work, such as the executor and the API clients, from the configuration."""

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
"""The rate limiters of the whole process.

When the configuration is reloaded, the rate limiters are kept, unless the concurrency changes.
"""


def policy(config: Config) -> SyncPolicy:
    """Return the settings in `[sync]` and `[guard]` that control how a run reads lists and removes students."""
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
    """Return a function that creates the API client for the source with a given name.

    If the scope is cancelled, the client sends no further requests. The time limit of a client starts when the client
    is created. All clients of this process for the same host share one rate limiter. The function raises `ConfigError`
    if the token of the source is not available.
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
    """Return a function that opens the API for one run of the source with a given name.

    The returned function raises `ConfigError` if the token of the source is not available.
    """
    client = clients(config)

    @contextmanager
    def connect(name: str, scope: CancelScope) -> Iterator[StudentReader]:
        with client(name, scope) as api:
            yield StudentReader(api, config.sync.per_page)

    return connect


def executor(config: Config, store: Store, purpose: str) -> Executor:
    """Return the executor for the configured sources. Processes that need the same lock report `purpose`."""
    return Executor(store, policy(config), connector(config), purpose, after_run=hooks(config).after_run)


def hooks(config: Config) -> Hooks:
    """Return the object that runs the command in `[hooks]`.

    The command does not receive environment variables that contain a token or a part of the database's url.
    """
    secrets = {DEFAULT_VARIABLE, *(source.token_env for source in config.sources if source.token_env)}
    secrets |= {name for name, value in os.environ.items() if value and value in config.database.url}
    return Hooks(config.hooks.after_run, config.hooks.timeout, secrets)


def token_mistakes(sources: Iterable[Source]) -> dict[str, ConfigError]:
    """Return an error for each source that has no token, keyed by the name of the source."""
    mistakes = {}
    for source in sources:
        try:
            source.token()
        except ConfigError as error:
            mistakes[source.name] = error
    return mistakes
