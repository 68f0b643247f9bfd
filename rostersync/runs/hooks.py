"""The hook: a command of the administrator's that is told of each run that wrote something.

It is foreign, and nothing that it does may harm a run. So it is called after the commit, gets its input and is read
without anybody waiting for it, has a limited time, and leaves no process behind.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
from contextlib import closing, contextmanager, suppress
from pathlib import Path
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

_LOOK_EVERY_S = 0.01

_KEEPER = Path(__file__).with_name("keeper.py")

_GIVEN = re.compile(r"PATH|HOME|LANG|ROSTERSYNC_\w+", re.ASCII)
_SECRET = re.compile(r"TOKEN|PASS|SECRET|KEY|CREDENTIAL", re.ASCII | re.IGNORECASE)
"""The variables of the environment that the command gets, except those that have such a word in their name."""


class Hooks:
    """Calls the configured command, if there is one, and logs how it ended."""

    def __init__(self, command: Sequence[str], timeout: timedelta, clock: Clock, secrets: Collection[str]) -> None:
        """`secrets` are the names of further environment variables that the command must not get."""
        self._command = command
        self._timeout = timeout
        self._clock = clock
        self._secrets = frozenset(secrets)

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
            return f"refused: users other than root may write {place}"
        until = self._clock.monotonic() + self._timeout.total_seconds()
        with _running(self._command, self._environ()) as hook, _Pipes(hook, document, tail) as pipes:
            while not hook.has_ended():
                self._clock.check()
                if self._clock.monotonic() >= until:
                    return f"killed after {spell_duration(self._timeout)}"
                pipes.serve(STOP_CHECK_S)
            pipes.serve(0)  # what it said last; we do not wait for a process that still writes
            return _failure(hook.status())

    def _environ(self) -> dict[str, str]:
        return {
            name: value
            for name, value in os.environ.items()
            if _GIVEN.fullmatch(name) and not _SECRET.search(name) and name not in self._secrets
        }


def _changed_students(report: RunReport) -> bool:
    """Tell whether a run changed a student or the quarantine: a failed one and a dry one never did."""
    done = report.counts
    changes = done.inserted + done.updated + done.deleted + done.restored + done.quarantined
    return report.run_id is not None and changes > 0


def _failure(status: int) -> str | None:
    if status < 0:
        return f"ended by signal {-status}"
    return f"exit status {status}" if status else None


class _Hook:
    """A hook that was started, below a keeper: see `keeper.py`."""

    def __init__(self, keeper: subprocess.Popen[bytes], report: socket.socket) -> None:
        self.keeper, self.report = keeper, report
        self.reported = bytearray()

    def has_ended(self) -> bool:
        return self.reported.endswith(b"\n") or self.keeper.poll() is not None

    def status(self) -> int:
        """Return how the hook ended, as `Popen.returncode` does. Raises `OSError` if it could not be started."""
        what, _, number = self.reported.decode().partition(" ")
        if what == "errno":
            raise OSError(int(number), os.strerror(int(number)))
        return int(number) if what else self.keeper.wait()

    def kill(self) -> None:
        """Kill every process that the hook has started, and the keeper."""
        for _ in range(int(_KILL_S / _LOOK_EVERY_S)):
            found = _below(self.keeper.pid)
            for process in found:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(process, signal.SIGKILL)
            if not found:
                break
            with suppress(subprocess.TimeoutExpired):
                self.keeper.wait(_LOOK_EVERY_S)
        self.report.close()  # the keeper ends now, unless the hook has stopped it
        with suppress(subprocess.TimeoutExpired):
            self.keeper.wait(_KILL_S)
        with suppress(ProcessLookupError, PermissionError):  # without /proc they are in the keeper's group, at least
            os.killpg(self.keeper.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self.keeper.wait(_KILL_S)


def _below(ancestor: int) -> set[int]:
    """Return all living processes below a process; none if this system has no /proc."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            state, parent = place.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state not in {"Z", "X"}:
                parents[int(place.parent.name)] = int(parent)
    found = {ancestor}
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {ancestor}


@contextmanager
def _running(command: Sequence[str], environ: dict[str, str]) -> Iterator[_Hook]:
    """Start a command in a new session; in the end kill every process that it has left. Raises `OSError`."""
    ours, theirs = socket.socketpair()
    keeper = [sys.executable, "-I", "-S", str(_KEEPER), str(theirs.fileno())]
    if not os.access(sys.executable, os.X_OK):  # we were root until now, and Python is in root's home
        keeper = []
    with closing(ours), closing(theirs):
        process = subprocess.Popen(  # noqa: S603 - the administrator's own command, without a shell
            [*keeper, *command],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environ,
            start_new_session=True,
            pass_fds=[theirs.fileno()] if keeper else [],
        )
        theirs.close()
        hook = _Hook(process, ours)
        try:
            yield hook
        finally:
            hook.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


class _Pipes(selectors.DefaultSelector):
    """The input, the output and the report of a hook; we never wait longer for any of them than the caller says."""

    def __init__(self, hook: _Hook, document: bytes, tail: bytearray) -> None:
        """`document` is what the hook should read; the last bytes that it writes go into `tail`."""
        super().__init__()
        self._document = document
        process = hook.keeper
        for pipe, event, into in (
            (process.stdin, selectors.EVENT_WRITE, None),
            (process.stdout, selectors.EVENT_READ, tail),
            (hook.report, selectors.EVENT_READ, hook.reported),
        ):
            assert pipe is not None  # it was asked for
            os.set_blocking(pipe.fileno(), False)
            self.register(pipe, event, into)

    def serve(self, seconds: float) -> None:
        """Wait until the hook reads or writes, at most so long; then do the other half, once."""
        for key, _ in self.select(seconds):
            pipe: IO[bytes] = key.fileobj  # type: ignore[assignment] # what was registered
            done = self._write(pipe) if key.data is None else self._read(pipe, key.data)
            if done:
                self.unregister(pipe)
                pipe.close()

    def _write(self, pipe: IO[bytes]) -> bool:
        try:
            self._document = self._document[os.write(pipe.fileno(), self._document) :]
        except BrokenPipeError:  # it does not want to know
            return True
        return not self._document

    def _read(self, pipe: IO[bytes], into: bytearray) -> bool:
        try:
            chunk = os.read(pipe.fileno(), _CHUNK)
        except ConnectionResetError:  # the keeper was killed
            return True
        into += chunk[-TAIL - 1 :]
        del into[: -TAIL - 1]  # one more than is kept, to know that there was more
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
