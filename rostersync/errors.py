"""Define the errors that rostersync reports to users, and `Stopped`, which ends a process.

The tree below shows the error classes. A number in parentheses is the exit status of a command that ends with the
error. Errors without a number have the exit status 1::

    RostersyncError
        ConfigError               the configuration or the command line is wrong (2)
            NotConfigured         a new installation lacks its configuration, an address or a token (2)
        ApiError                  the API did not return what the client requested
            AccessDenied          the token does not give access to this endpoint
                Unauthorized      401
                Forbidden         403
            NotFound              404
            Refused               another 4xx
                Invalid           400 or 422 after a write, or a value that was not sent
            Redirected            3xx
            Malformed             a response that the API does not document
            TooLarge              a response that exceeds a limit
            RateLimited           429
            ServerFailed          5xx
            Unreachable           the connection failed or broke
            TimedOut              no complete response within one request's time
            OutOfTime             the deadline of the run or of the client has passed
            OutcomeUnknown        a write that may or may not have been carried out
        StoreError                the database cannot be used, or refused an operation
            NoDatabase            the database does not exist yet
            DatabaseUnreachable   the server or the file cannot be used
            LockTimedOut          another database session kept a lock for too long
            SchemaOutdated        an older version of rostersync wrote the schema
            SchemaTooNew          a later version of rostersync wrote the schema
            LockHeld              another process holds the source's lock (75)
            ReadOnly              a class of `rostersync.models` was about to write
            LockLost              another process took the source's lock during our run
            RequestFailed         another process took our request, and it produced no run
        RunFailed                 the run could not execute its request, or the data it read must not be applied
    Stopped                       the process was asked to end (128 + the signal's number)

An error's message is the line that the user reads. The message says what failed, and names the object concerned. `hint`
says what to do next. If a library raised the original exception, the exception is kept in ``__cause__`` and logged only
at debug level. Exceptions from the HTTP library are dropped, because they contain the request and therefore the token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


TRY_AGAIN_LATER = "try again later"
"""The hint for temporary failures. The daemon replaces this hint, because it retries by itself."""


class RostersyncError(Exception):
    """The base class of all errors that users read. An error has a message, and a hint about what to do next.

    `exit_status` is the status of a command that ends with this error.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def unexpected(error: BaseException) -> RostersyncError:
    """Convert an unexpected exception to an error that can be reported.

    The error's message has only the exception's type, because the exception's message may contain personal data.
    """
    hint = 'run it again with logging.level = "debug" for details'
    return RostersyncError(f"unexpected: {type(error).__name__}", hint)


def reported(error: Exception) -> RostersyncError:
    """Return `error` if it is a `RostersyncError`, else `unexpected(error)`."""
    return error if isinstance(error, RostersyncError) else unexpected(error)


class Stopped(Exception):
    """The process was asked to end.

    `signal` is the number of the signal that the process received, or 0 if it received no signal.
    """

    def __init__(self, signal: int = 0) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal
        self.in_doubt = False
        """Whether the API may have carried out a write, although we did not wait for the response."""
        self.left_running = False
        """Whether another process is still executing the run that this process was waiting for."""


class ConfigError(RostersyncError):
    """The configuration or the command line is wrong. `mistakes` has one line for each mistake."""

    exit_status = 2

    def __init__(self, mistakes: Sequence[str], hint: str = "") -> None:
        super().__init__("\n".join(mistakes), hint)
        self.mistakes = tuple(mistakes)


class NotConfigured(ConfigError):
    """A new installation still lacks its configuration, the address of a source, or a token."""


# Errors of the API -----------------------------------------------------------------------------------------------


class ApiError(RostersyncError):
    """The API did not return what the client requested.

    An API error is never treated as an empty list of students. `status` is the HTTP status of the response, or None if
    no response arrived. `request` is the method and the path of the request, such as `PATCH /v2p1/students/2054`. The
    query is left out, because it may contain names of people. `request` is empty if the error does not belong to a
    single request, for example because a value was refused before anything was sent.
    """

    worth_retrying: ClassVar[bool] = False

    def __init__(self, message: str, hint: str = "", *, status: int | None = None) -> None:
        super().__init__(message, hint)
        self.status = status
        self.request = ""
        self.sent = True
        """Whether any part of the request may have left this machine. If nothing was sent, even a write can be sent
        again.
        """


class AccessDenied(ApiError):
    """The token does not give access to this endpoint.

    ManageBac does not document in which cases it responds with 401, and in which cases with 403.

    Catch this class rather than its subclasses, unless the difference matters.
    """


class Unauthorized(AccessDenied):
    """401: the token is missing, invalid or disabled."""


class Forbidden(AccessDenied):
    """403: the token lacks the permission for this endpoint."""


class NotFound(ApiError):
    """404: the student does not exist. If a list request gets a 404, `base_url` or `api_version` is wrong."""


class Refused(ApiError):
    """Any other 4xx: the API does not accept the request."""


class Invalid(Refused):
    """An argument is invalid, such as an id, a filter of a list, or a value to write.

    If `status` is None, rostersync found the mistake and sent nothing. If `status` is 400 or 422, the API refused a
    write. `fields` maps each invalid field to its messages. The key `base` has the messages that do not belong to one
    particular field.
    """

    def __init__(
        self, message: str, hint: str = "", *, fields: Mapping[str, tuple[str, ...]], status: int | None = None
    ) -> None:
        super().__init__(message, hint, status=status)
        self.fields = dict(fields)


class Redirected(ApiError):
    """3xx. The client does not follow redirects, because it must send the token only to the configured host."""


class Malformed(ApiError):
    """The response differs from the API's documentation.

    Examples are a response that is HTML, incomplete JSON, or a list without meta.
    """

    worth_retrying = True


class TooLarge(ApiError):
    """The response exceeds the size limit, or the first page is so large that a later page might exceed it."""


class RateLimited(ApiError):
    """429 in response to every attempt, although the client waited before each of them."""

    worth_retrying = True


class ServerFailed(ApiError):
    """5xx: the server failed."""

    worth_retrying = True


class Unreachable(ApiError):
    """The connection could not be made, or it broke. The message gives the reason, such as DNS, TLS or "refused"."""

    worth_retrying = True


class TimedOut(ApiError):
    """The response was not complete within the time for one request."""

    worth_retrying = True


class OutOfTime(ApiError):
    """The deadline of a run or of a client has passed, or the next wait would exceed it."""


class OutcomeUnknown(ApiError):
    """The API may or may not have carried out a write that was sent. The client never repeats a write in doubt."""


DECLINED = (Refused, Forbidden, NotFound, ServerFailed, Malformed, TooLarge)
"""The errors for a query that the server does not accept. The server may still accept other queries."""


# Errors of the database ------------------------------------------------------------------------------------------


class StoreError(RostersyncError):
    """The database cannot be used, or it refused an operation."""


class NoDatabase(StoreError):
    """The database does not exist or is empty, and this command does not create it."""


class DatabaseUnreachable(StoreError):
    """The database server or file cannot be reached, opened or created."""


class LockTimedOut(StoreError):
    """Another session of the database has kept a lock for too long."""


class SchemaOutdated(StoreError):
    """The schema is older than this version of rostersync needs, or the database is empty."""


class SchemaTooNew(StoreError):
    """A later version of rostersync wrote the schema."""


class LockHeld(StoreError):
    """Another process holds the lock of this source, or no daemon has taken a request that a daemon must execute."""

    exit_status = 75


class ReadOnly(StoreError):
    """A flush of the mapped classes in `rostersync.models` tried to write to the replica."""


class LockLost(StoreError):
    """Another process took over the lock of a source during our run. Our run did not commit anything."""


class RequestFailed(StoreError):
    """A run was requested, but the request ended without a run.

    If the process that took the request failed, the message is that process's error message. Another possible cause is
    that the request was withdrawn.
    """


# Errors of a run -------------------------------------------------------------------------------------------------


class RunFailed(RostersyncError):
    """The run could not do what was requested, or the data that it read is not safe to apply."""
