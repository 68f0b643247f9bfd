"""Everything that can go wrong and is reported to a person.

The message of each error is the line that the user reads: what failed, and on what. `hint` is the next step. What a
library said stays in ``__cause__`` and is shown at debug level only. The errors of the HTTP library are not kept, since
they hold the request and with it the token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


TRY_AGAIN_LATER = "try again later"
"""The hint of failures that pass by themselves; the daemon says instead that it will."""


class RostersyncError(Exception):
    """A failure that is reported in one line, with a hint about what to do next."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def unexpected(error: BaseException) -> RostersyncError:
    """Return what a person is told of an error that nobody foresaw: its text may hold anything."""
    hint = 'run it again with logging.level = "debug" for details'
    return RostersyncError(f"unexpected: {type(error).__name__}", hint)


def reported(error: Exception) -> RostersyncError:
    """Return an error as a person is told of it: itself, where it is made to be read."""
    return error if isinstance(error, RostersyncError) else unexpected(error)


class Stopped(Exception):
    """The process was asked to end; `signal` is the number of the signal that it got (0: none)."""

    def __init__(self, signal: int = 0) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal
        self.in_doubt = False
        """Whether a write may have been carried out, whose answer nobody waited for."""
        self.left_running = False
        """Whether a run goes on that this process has only waited for, because another one does it."""


class ConfigError(RostersyncError):
    """The configuration or the command line is wrong; `mistakes` has a line for each mistake."""

    exit_status = 2

    def __init__(self, mistakes: Sequence[str], hint: str = "") -> None:
        super().__init__("\n".join(mistakes), hint)
        self.mistakes = tuple(mistakes)


class NotConfigured(ConfigError):
    """Something is missing that a new installation does not have yet: the configuration, or a token."""


# What the API did ------------------------------------------------------------------------------------------------


class ApiError(RostersyncError):
    """A request to the API did not return what it asked for. It never counts as "no students".

    `status` is that of the answer, None where there was none. `request` is the method and the path that were asked,
    as in `PATCH /v2p1/students/2054`, empty where nothing was sent; the query, which may name people, is left out.
    """

    worth_retrying: ClassVar[bool] = False

    def __init__(self, message: str, hint: str = "", *, status: int | None = None) -> None:
        super().__init__(message, hint)
        self.status = status
        self.request = ""
        self.sent = True
        """Whether the request may have reached the server; what never left may be sent again."""


class AccessDenied(ApiError):
    """The token does not open this endpoint. The vendor does not say when that is 401 and when 403."""


class Unauthorized(AccessDenied):
    """401: the token is missing, invalid or disabled."""


class Forbidden(AccessDenied):
    """403: the token lacks the permission for this endpoint."""


class NotFound(ApiError):
    """404: no such student; or for the list itself, which means that the version or the host is wrong."""


class Refused(ApiError):
    """Another 4xx: the API does not accept the request."""


class Invalid(Refused):
    """The API does not accept what is to be written (400 or 422), or it cannot be right and was not sent.

    `fields` has the messages of each field that is wrong. Nothing was sent where `status` is None.
    """

    def __init__(
        self, message: str, hint: str = "", *, fields: Mapping[str, tuple[str, ...]], status: int | None = None
    ) -> None:
        super().__init__(message, hint, status=status)
        self.fields = dict(fields)


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


class OutcomeUnknown(ApiError):
    """A write was sent, and no answer tells whether it was carried out. It is never repeated by itself."""


DECLINED = (Refused, Forbidden, NotFound, ServerFailed, Malformed, TooLarge)
"""How a server answers a query that it does not accept; it may accept another."""


# What the database did -------------------------------------------------------------------------------------------


class StoreError(RostersyncError):
    """The database cannot be used, or refused something."""


class NoDatabase(StoreError):
    """There is no database yet, and this command does not create one."""


class DatabaseUnreachable(StoreError):
    """The server or the file cannot be opened."""


class LockTimedOut(StoreError):
    """Another session of the database has kept a lock for too long."""


class SchemaOutdated(StoreError):
    """The schema is older than this version of rostersync needs."""


class SchemaTooNew(StoreError):
    """The schema was written by a later version of rostersync."""


class LockHeld(StoreError):
    """Another process is the writer of this source."""

    exit_status = 75


class ReadOnly(StoreError):
    """A flush of mapped classes (`rostersync.models`) would have written the replica."""


class LockLost(StoreError):
    """Another process has become the writer of a source during a run of ours."""


class RequestFailed(StoreError):
    """Another process took a request of ours, and no run came of it: the message is that of its error."""


# What a run found ------------------------------------------------------------------------------------------------


class RunFailed(RostersyncError):
    """The run read something that must not be applied."""
