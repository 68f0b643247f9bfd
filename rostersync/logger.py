"""Provide the loggers of all modules, which wrap the standard logger `rostersync` and its children.

By default, the loggers log nothing. The command line configures the loggers with `rostersync.observe.log`. An
application that uses rostersync as a library adds its own handlers, as it does for other libraries. This module does
not change the application's configuration of structlog. structlog is imported only when the first event is logged.
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import structlog

logging.getLogger("rostersync").addHandler(logging.NullHandler())  # otherwise `logging` prints our warnings to stderr


class Logger:
    """The logger of a module. An event has a name and values, as in `log.info("stopped", signal=2)`."""

    def __init__(self, name: str) -> None:
        self._standard = logging.getLogger(name)

    @cached_property
    def _structured(self) -> structlog.stdlib.BoundLogger:
        import structlog  # noqa: PLC0415 - slow to import, and many commands log nothing

        logger = structlog.wrap_logger(
            self._standard,
            processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
            wrapper_class=structlog.stdlib.BoundLogger,
        )
        return cast("structlog.stdlib.BoundLogger", logger)

    def debug(self, event: str, **values: Any) -> None:
        self._log(logging.DEBUG, event, values)

    def info(self, event: str, **values: Any) -> None:
        self._log(logging.INFO, event, values)

    def warning(self, event: str, **values: Any) -> None:
        self._log(logging.WARNING, event, values)

    def error(self, event: str, **values: Any) -> None:
        self._log(logging.ERROR, event, values)

    def exception(self, event: str, **values: Any) -> None:
        """Log an error and the exception that is being handled."""
        self._log(logging.ERROR, event, {"exc_info": True, **values})

    def _log(self, level: int, event: str, values: dict[str, Any]) -> None:
        if self._standard.isEnabledFor(level):
            self._structured.log(level, event, **values)


def get_logger(name: str) -> Logger:
    """Return the logger of the module `name`."""
    return Logger(name)
