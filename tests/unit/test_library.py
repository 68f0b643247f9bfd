"""What whoever imports rostersync as a library can rely on."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOGGING_MODULES = ("managebac.wire.transport", "sync.run", "runs.batch", "runs.executor", "daemon.service")

SAY_EVERYTHING = """
import importlib
module = importlib.import_module("rostersync.{name}")
for level in ("debug", "info", "warning", "error"):
    getattr(module.log, level)("said", at=level)
try:
    raise LookupError("a failure")
except LookupError:
    module.log.exception("failed")
"""


def python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)


@pytest.mark.parametrize("name", LOGGING_MODULES)
def test_a_module_that_is_imported_alone_prints_nothing_at_any_level_until_logging_is_configured(name: str) -> None:
    done = python(SAY_EVERYTHING.format(name=name))
    assert (done.stdout, done.stderr) == ("", "")


def test_the_standard_librarys_logging_is_all_that_an_application_needs_to_hear_it() -> None:
    done = python("import logging; logging.basicConfig(level=logging.INFO)" + SAY_EVERYTHING.format(name="sync.run"))
    assert done.stdout == ""
    assert "INFO:rostersync.sync.run:" in done.stderr
    assert "DEBUG" not in done.stderr


def test_an_applications_own_structlog_is_left_as_it_is() -> None:
    done = python("import structlog, rostersync.runs.wiring; structlog.get_logger().info('mine')")
    assert "mine" in done.stdout
