"""Everything that can go wrong and is reported to a person.

The message of each error is the line that the user reads: what failed, and on what. `hint` is the next step. What a
library said stays in ``__cause__`` and is shown at debug level only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


TRY_AGAIN_LATER = "try again later"
"""The hint of failures that pass by themselves; the daemon says instead that it will."""


class RostersyncError(Exception):
    """A failure that is reported in one line, with a hint about what to do next."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Stopped(Exception):
    """The process was asked to end; `signal` is the number of the signal that it got (0: none)."""

    def __init__(self, signal: int = 0) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


class ConfigError(RostersyncError):
    """The configuration or the command line is wrong; `mistakes` has a line for each mistake."""

    exit_status = 2

    def __init__(self, mistakes: Sequence[str], hint: str = "") -> None:
        super().__init__("\n".join(mistakes), hint)
        self.mistakes = tuple(mistakes)


# What the API did ------------------------------------------------------------------------------------------------


class ApiError(RostersyncError):
    """A request to the API did not return what it asked for. It never counts as "no students"."""

    worth_retrying: ClassVar[bool] = False


class Unauthorized(ApiError):
    """401: the token is missing, invalid or disabled."""


class Forbidden(ApiError):
    """403: the token lacks the permission for this endpoint."""


class NotFound(ApiError):
    """404 where it cannot be an answer: for the list itself, so the version or the host is wrong."""


class Refused(ApiError):
    """Another 4xx: the API does not accept the request."""


class Redirected(ApiError):
    """3xx: not followed, because the token is for the configured host only."""


class Malformed(ApiError):
    """The answer is not what the API documents: HTML, truncated or foreign JSON, no meta."""

    worth_retrying = True


class TooLarge(ApiError):
    """The answer is larger than any page can be."""


class RateLimited(ApiError):
    """429, again after every wait."""

    worth_retrying = True


class ServerFailed(ApiError):
    """5xx."""

    worth_retrying = True


class Unreachable(ApiError):
    """No connection, or one that broke: DNS, refused, reset, cut off, TLS."""

    worth_retrying = True


class TimedOut(ApiError):
    """The answer was not complete within the request's time."""

    worth_retrying = True


class OutOfTime(ApiError):
    """The run's deadline has passed."""


DECLINED = (Refused, Forbidden, NotFound, ServerFailed, Malformed, TooLarge)
"""How a server answers a query that it does not accept; it may accept another."""


# What the database did -------------------------------------------------------------------------------------------


class StoreError(RostersyncError):
    """The database cannot be used, or refused something."""


class NoDatabase(StoreError):
    """There is no database yet, and this command does not create one."""


class DatabaseUnreachable(StoreError):
    """The server or the file cannot be opened."""


class SchemaOutdated(StoreError):
    """The schema is older than this version of rostersync needs."""


class SchemaTooNew(StoreError):
    """The schema was written by a later version of rostersync."""


class LockHeld(StoreError):
    """Another process is the writer of this source."""

    exit_status = 75


class LockLost(StoreError):
    """Another process has become the writer of a source during a run of ours."""


# What a run found ------------------------------------------------------------------------------------------------


class RunFailed(RostersyncError):
    """The run read something that must not be applied."""
