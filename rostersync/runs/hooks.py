"""Run the hook: a command, set by the administrator, that gets the report of each run that changed a student.

The hook is not our program, so it must not be able to disturb a run. Therefore we start the hook after the commit. We
never block on the hook's input or output. We limit the time of the hook, and we kill all its processes at the end.
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

    from rostersync.cancel import CancelScope
    from rostersync.report import RunReport

log = get_logger(__name__)

TAIL = 4096
"""The number of bytes that we keep from the end of a hook's output."""

_CHUNK = 1 << 16
_KILL_S = 1.0
"""The number of seconds to wait until killed processes have ended.

A process may continue to run if it belongs to another user, for example because of sudo.
"""

_LOOK_EVERY_S = 0.01

_KEEPER = Path(__file__).with_name("keeper.py")

_GIVEN = re.compile(r"PATH|HOME|LANG|ROSTERSYNC_\w+", re.ASCII)
_SECRET = re.compile(r"TOKEN|PASS|SECRET|KEY|CREDENTIAL", re.ASCII | re.IGNORECASE)
"""The hook gets only environment variables whose names match `_GIVEN` and do not contain a word in `_SECRET`."""


class Hooks:
    """Runs the configured command, if there is one, and logs how the command ended."""

    def __init__(self, command: Sequence[str], timeout: timedelta, secrets: Collection[str]) -> None:
        """Prepare to run a command.

        Args:
            command: The program and its arguments. The sequence is empty if no hook is configured.
            timeout: The time after which the command is killed.
            secrets: The names of other environment variables that the command must not receive.

        """
        self._command = command
        self._timeout = timeout
        self._secrets = frozenset(secrets)

    def after_run(self, report: RunReport, scope: CancelScope) -> None:
        """Run the command with the report of a committed run, if the run changed students or the quarantine.

        This method waits until the command ends. The command is killed after the timeout, or if `scope` is cancelled.
        This method never raises an error.
        """
        if not self._command or not _changed_students(report):
            return
        tail = bytearray()
        try:
            reason = self._call(f"{json.dumps(report.to_json())}\n".encode(), tail, scope)
        except Stopped:
            reason = "not finished: the process was asked to end"
        except OSError as error:
            reason = f"cannot be run: {error.strerror}"
        except Exception as error:  # noqa: BLE001 - the run is committed, so an error in the hook must not make the run fail
            reason = f"cannot be run: {type(error).__name__}"
        if reason is None:
            log.debug("hook_finished", source=report.source, run_id=report.run_id)
        else:
            output = last_lines(bytes(tail))
            log.warning("hook_failed", source=report.source, run_id=report.run_id, reason=reason, output=output)

    def _call(self, document: bytes, tail: bytearray, scope: CancelScope) -> str | None:
        """Run the command, and put the end of its output into `tail`.

        Return the reason if the command failed, or None if the command succeeded.

        Raises `OSError` if the command cannot be started, and `Stopped` if the scope is cancelled.
        """
        scope.check()
        if os.geteuid() == 0 and (place := shared_place_of_command(self._command)):
            return f"refused: users other than root may write {place}"
        until = scope.clock.monotonic() + self._timeout.total_seconds()
        with _running(self._command, self._environ()) as hook, _Pipes(hook, document, tail) as pipes:
            while not hook.has_ended():
                scope.check()
                if scope.clock.monotonic() >= until:
                    return f"killed after {spell_duration(self._timeout)}"
                pipes.serve(STOP_CHECK_S)
            pipes.serve(0)  # read the rest of the output, but do not wait for a process that is still writing
            return _failure(hook.status())

    def _environ(self) -> dict[str, str]:
        return {
            name: value
            for name, value in os.environ.items()
            if _GIVEN.fullmatch(name) and not _SECRET.search(name) and name not in self._secrets
        }


def _changed_students(report: RunReport) -> bool:
    """Return whether a run changed a student or the quarantine. For a failed run and a dry run, return False."""
    done = report.counts
    changes = done.inserted + done.updated + done.deleted + done.restored + done.quarantined
    return report.run_id is not None and changes > 0


def _failure(status: int) -> str | None:
    if status < 0:
        return f"ended by signal {-status}"
    return f"exit status {status}" if status else None


class _Hook:
    """A running hook.

    `process` is the program `keeper.py`, which has started the hook and writes the hook's exit status to the other end
    of `status_socket`. If this user cannot execute Python, no keeper is used. Then `process` is the hook itself,
    nothing is read from `status_socket`, and the exit status is that of `process`. Without a keeper, `kill` may miss
    processes that have their own session.
    """

    def __init__(self, process: subprocess.Popen[bytes], status_socket: socket.socket) -> None:
        self.process, self.status_socket = process, status_socket
        self.reported = bytearray()

    def has_ended(self) -> bool:
        return self.reported.endswith(b"\n") or self.process.poll() is not None

    def status(self) -> int:
        """Return the hook's exit status in the same form as `Popen.returncode`.

        Raises `OSError` if the hook could not be started.
        """
        what, _, number = self.reported.decode().partition(" ")
        if what == "errno":
            raise OSError(int(number), os.strerror(int(number)))
        return int(number) if what else self.process.wait()

    def kill(self) -> None:
        """Kill the hook, every process that it has started, and the keeper."""
        for _ in range(int(_KILL_S / _LOOK_EVERY_S)):
            found = _below(self.process.pid)
            for process_id in found:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(process_id, signal.SIGKILL)
            if not found:
                break
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_LOOK_EVERY_S)
        self.status_socket.close()  # the keeper then ends, unless the hook has suspended it
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_KILL_S)
        with suppress(ProcessLookupError, PermissionError):  # needed if there is no /proc or no keeper
            os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_KILL_S)


def _below(ancestor: int) -> set[int]:
    """Return the ids of all running descendants of a process, or an empty set if the system has no /proc."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process has just ended
            state, parent = place.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state not in {"Z", "X"}:
                parents[int(place.parent.name)] = int(parent)
    found = {ancestor}
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {ancestor}


@contextmanager
def _running(command: Sequence[str], environ: dict[str, str]) -> Iterator[_Hook]:
    """Start a command in a new session.

    At the end of the block, kill all processes that the command has left running.
    """
    ours, theirs = socket.socketpair()
    keeper = [sys.executable, "-I", "-S", str(_KEEPER), str(theirs.fileno())]
    if not os.access(sys.executable, os.X_OK):  # we no longer run as root, but Python is in root's home folder
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
    """The pipes for the input, output and status report of a hook. Waiting for a pipe always has a time limit."""

    def __init__(self, hook: _Hook, document: bytes, tail: bytearray) -> None:
        """Prepare to write `document` to the hook's input and to store the end of its output in `tail`."""
        super().__init__()
        self._document = document
        process = hook.process
        for pipe, event, into in (
            (process.stdin, selectors.EVENT_WRITE, None),
            (process.stdout, selectors.EVENT_READ, tail),
            (hook.status_socket, selectors.EVENT_READ, hook.reported),
        ):
            assert pipe is not None  # all three are pipes
            os.set_blocking(pipe.fileno(), False)
            self.register(pipe, event, into)

    def serve(self, seconds: float) -> None:
        """Wait up to `seconds` until the hook can read input or has written output. Then transfer data once."""
        for key, _ in self.select(seconds):
            pipe: IO[bytes] = key.fileobj  # type: ignore[assignment] # we registered pipes only
            done = self._write(pipe) if key.data is None else self._read(pipe, key.data)
            if done:
                self.unregister(pipe)
                pipe.close()

    def _write(self, pipe: IO[bytes]) -> bool:
        try:
            self._document = self._document[os.write(pipe.fileno(), self._document) :]
        except BrokenPipeError:  # the hook has closed its input
            return True
        return not self._document

    def _read(self, pipe: IO[bytes], into: bytearray) -> bool:
        try:
            chunk = os.read(pipe.fileno(), _CHUNK)
        except ConnectionResetError:  # the keeper was killed
            return True
        into += chunk[-TAIL - 1 :]
        del into[: -TAIL - 1]  # if there is one byte more than `TAIL`, the output was cut off
        return not chunk


def last_lines(output: bytes) -> list[str]:
    """Return the last lines of a hook's output, without the characters that control a terminal.

    If the beginning of the output was cut off, the first word is dropped. This word may be the end of a secret, and the
    log redacts only complete secrets.
    """
    text = output.decode(errors="replace")
    if len(output) > TAIL:
        text = "".join(text.split(maxsplit=1)[1:]) if not text[:1].isspace() else text
    lines = ("".join(char if char.isprintable() else " " for char in line).rstrip() for line in text.splitlines())
    return [line for line in lines if line]
