"""Loggers for every module: on top of the standard library's, below `rostersync`, and silent until somebody listens.

The program listens by `rostersync.observe.log.configure`; an application that embeds rostersync does so as with any
library, by handlers of its own. Its own use of structlog is left as it is.
"""

from __future__ import annotations

import logging
from typing import cast

import structlog

logging.getLogger("rostersync").addHandler(logging.NullHandler())  # or the library would print warnings by itself


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of the module `name`: an event is a word with values, as in `log.info("stopped", signal=2)`."""
    logger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return cast("structlog.stdlib.BoundLogger", logger)
