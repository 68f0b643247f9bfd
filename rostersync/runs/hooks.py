"""The hook: a command of the administrator's that is told of each run that wrote something.

It is foreign, and nothing that it does may harm a run. So it is called after the commit, gets its input and is read
without anybody waiting for it, has a limited time, and leaves no process behind.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from rostersync.config import shared_place_of_command, spell_duration
from rostersync.errors import Stopped
from rostersync.logger import get_logger
from rostersync.pool import STOP_CHECK_S

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import timedelta

    from rostersync.clock import Clock
    from rostersync.report import RunReport

log = get_logger(__name__)

TAIL = 4096
"""So many bytes of a hook's output are kept, its last ones."""

_CHUNK = 1 << 16
_KILL_S = 1.0
"""How long a killed process gets to be gone; one of another user, such as by sudo, may never be."""

_SYSTEMD = ("CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


class Hooks:
    """Calls the configured command, if there is one, and logs how it ended."""

    def __init__(self, command: Sequence[str], timeout: timedelta, clock: Clock, secrets: Collection[str]) -> None:
        """`secrets` are the names of environment variables that the command must not get."""
        self._command = command
        self._timeout = timeout
        self._clock = clock
        self._withheld = {*secrets, *_SYSTEMD}

    def after_run(self, report: RunReport) -> None:
        """Tell the command of a run that is committed, if it changed a student, and wait for it; raises nothing.

        It is killed after its time, and as soon as the process is to end.
        """
        if not self._command or not _changed_students(report):
            return
        tail = bytearray()
        try:
            reason = self._call(f"{json.dumps(report.to_json())}\n".encode(), tail)
        except Stopped:
            reason = "not finished: the process was asked to end"
        except OSError as error:
            reason = f"cannot be carried out: {error.strerror}"
        except Exception as error:  # noqa: BLE001 - whatever it is, the run is done
            reason = f"cannot be carried out: {type(error).__name__}"
        if reason is None:
            log.debug("hook_finished", source=report.source, run_id=report.run_id)
        else:
            output = last_lines(bytes(tail))
            log.warning("hook_failed", source=report.source, run_id=report.run_id, reason=reason, output=output)

    def _call(self, document: bytes, tail: bytearray) -> str | None:
        """Run the command; its output goes into `tail`. Return why it failed, None when it did not.

        Raises `OSError` when it cannot be started, `Stopped` when the process is to end.
        """
        self._clock.check()
        if os.geteuid() == 0 and (place := shared_place_of_command(self._command)):
            return f"refused: others than root may write {place}"
        until = self._clock.monotonic() + self._timeout.total_seconds()
        environ = {name: value for name, value in os.environ.items() if name not in self._withheld}
        with _running(self._command, environ) as process, _Pipes(process, document, tail) as pipes:
            while process.poll() is None:
                self._clock.check()
                if self._clock.monotonic() >= until:
                    return f"killed after {spell_duration(self._timeout)}"
                pipes.serve(STOP_CHECK_S)
            pipes.serve(0)  # what it said last; whoever still writes is not waited for
            return _failure(process.returncode)


def _changed_students(report: RunReport) -> bool:
    """Tell whether a run changed a student or the quarantine: a failed one and a dry one never did."""
    done = report.counts
    changes = done.inserted + done.updated + done.deleted + done.restored + done.quarantined
    return report.run_id is not None and changes > 0


def _failure(status: int) -> str | None:
    if status < 0:
        return f"ended by signal {-status}"
    return f"exit status {status}" if status else None


@contextmanager
def _running(command: Sequence[str], environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command in a process group of its own; in the end kill what is left of it. Raises `OSError`."""
    process = subprocess.Popen(  # noqa: S603 - the administrator's own command, without a shell
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environ,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_S)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


class _Pipes(selectors.DefaultSelector):
    """The input and output of a process, neither of which is ever waited for longer than one says."""

    def __init__(self, process: subprocess.Popen[bytes], document: bytes, tail: bytearray) -> None:
        """`document` is what the process is to read; the last bytes that it writes go into `tail`."""
        super().__init__()
        self._document = document
        self._tail = tail
        for pipe, event in ((process.stdin, selectors.EVENT_WRITE), (process.stdout, selectors.EVENT_READ)):
            assert pipe is not None  # it was asked for
            os.set_blocking(pipe.fileno(), False)
            self.register(pipe, event)

    def serve(self, seconds: float) -> None:
        """Wait until the process reads or writes, at most so long; then do the other half, once."""
        for key, event in self.select(seconds):
            pipe: IO[bytes] = key.fileobj  # type: ignore[assignment] # what was registered
            done = self._write(pipe) if event & selectors.EVENT_WRITE else self._read(pipe)
            if done:
                self.unregister(pipe)
                pipe.close()

    def _write(self, pipe: IO[bytes]) -> bool:
        try:
            self._document = self._document[os.write(pipe.fileno(), self._document) :]
        except BrokenPipeError:  # it does not want to know
            return True
        return not self._document

    def _read(self, pipe: IO[bytes]) -> bool:
        chunk = os.read(pipe.fileno(), _CHUNK)
        self._tail += chunk[-TAIL - 1 :]
        del self._tail[: -TAIL - 1]  # one more than is kept, to know that there was more
        return not chunk


def last_lines(output: bytes) -> list[str]:
    """Return the lines of the last bytes of an output, without what controls a terminal.

    If it was cut at its beginning, that is lost up to the first space: a part of a secret would not be recognised.
    """
    text = output.decode(errors="replace")
    if len(output) > TAIL:
        text = "".join(text.split(maxsplit=1)[1:]) if not text[:1].isspace() else text
    lines = ("".join(char if char.isprintable() else " " for char in line).rstrip() for line in text.splitlines())
    return [line for line in lines if line]
