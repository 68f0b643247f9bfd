"""Loggers for every module: on top of the standard library's, below `rostersync`, and silent until configured.

The program configures them in `rostersync.observe.log`. An application that embeds rostersync adds handlers of its own,
as with any library; its own use of structlog is left as it is.
"""

from __future__ import annotations

import logging
from typing import cast

import structlog

logging.getLogger("rostersync").addHandler(logging.NullHandler())  # else the standard library prints warnings by itself


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of the module `name`: an event is a word with values, as in `log.info("stopped", signal=2)`."""
    logger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return cast("structlog.stdlib.BoundLogger", logger)
