"""The hook: what it gets, what it does not get, and that nothing that it does harms the run or the process."""

from __future__ import annotations

import io
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from rostersync.cancel import CancelScope
from rostersync.clock import SystemClock
from rostersync.observe.log import configure
from rostersync.report import Counts, RunKind, RunReport, RunState, Watermarks
from rostersync.runs.hooks import TAIL, Hooks, last_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "tok-Invented-0123456789"
NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)


@pytest.fixture
def events() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Return what reads the events logged so far."""
    root, ours = logging.getLogger(), logging.getLogger("rostersync")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    stream = io.StringIO()
    configure("debug", "json", stream, redact=(SECRET,))
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def report(state: RunState = RunState.SUCCEEDED, run_id: int | None = 7, **counts: int) -> RunReport:
    return RunReport(
        run_id, "main", RunKind.INCREMENTAL, state, Counts(**counts), 3, 0, 0.5, Watermarks(NOW, NOW), NOW, NOW
    )


UPDATED = report(fetched=1, updated=1)
LARGE = replace(UPDATED, error="x" * 1_000_000)


NOTE_NAMES = """
import os, sys
with open(sys.argv[1], "w") as file:
    file.write(" ".join(sorted(os.environ.keys() - {"LC_CTYPE"})))
"""


def call(*command: str, seconds: float = 20, scope: CancelScope | None = None, run: RunReport = UPDATED) -> float:
    """Call a hook; return how many seconds it took."""
    begun = time.monotonic()
    hooks = Hooks(command, timedelta(seconds=seconds), {"ROSTERSYNC_TOKEN"})
    hooks.after_run(run, scope or CancelScope(SystemClock()))
    return time.monotonic() - begun


def shell(script: str, *arguments: object, **options: Any) -> float:
    return call("sh", "-c", script, "hook", *map(str, arguments), **options)


def ends(number: int) -> bool:
    """Tell whether a process ends by itself, or was killed, in a moment; if not, end it."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            stat = Path(f"/proc/{number}/stat").read_text(encoding="ascii")
        except (FileNotFoundError, ProcessLookupError):
            return True
        if stat.rpartition(")")[2].split()[0] in {"Z", "X"}:  # its exit status, which nobody may be left to collect
            return True
        time.sleep(0.01)
    os.kill(number, signal.SIGKILL)
    return False


# What it gets ----------------------------------------------------------------------------------------------------


def test_the_command_gets_the_run_as_one_line_of_json(tmp_path: Path, events: Any) -> None:
    shell('cat > "$1"', tmp_path / "got")
    got = (tmp_path / "got").read_text()
    assert got.endswith("}\n")
    assert got.count("\n") == 1
    assert json.loads(got) == UPDATED.to_json()
    assert [(event["level"], event["event"], event["run_id"]) for event in events()] == [("debug", "hook_finished", 7)]


@pytest.mark.parametrize(
    "run",
    [
        report(fetched=1, inserted=1),
        report(fetched=1, restored=1),
        report(fetched=1, quarantined=1),
        report(deleted=1),
        report(RunState.HELD, fetched=1, updated=1, removals_held=9),
        report(RunState.INCOMPLETE, fetched=1, updated=1),
    ],
    ids=lambda run: f"{run.state}",
)
def test_each_run_that_changed_a_student_is_told(run: RunReport, tmp_path: Path) -> None:
    shell('touch "$1"', tmp_path / "called", run=run)
    assert (tmp_path / "called").exists()


@pytest.mark.parametrize(
    "run",
    [
        report(fetched=9, unchanged=8, ignored=1, stale=1),
        report(RunState.HELD, removals_held=9),
        report(RunState.FAILED),
        report(RunState.DRY_RUN, None, fetched=1, updated=1),
    ],
    ids=lambda run: f"{run.state}",
)
def test_a_run_that_changed_nothing_failed_or_was_dry_is_not(run: RunReport, tmp_path: Path) -> None:
    shell('touch "$1"', tmp_path / "called", run=run)
    assert not (tmp_path / "called").exists()


def test_without_a_command_nothing_happens(events: Any) -> None:
    call()
    assert events() == []


def test_its_environment_holds_the_few_variables_that_a_command_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["HOME", "LANG", "ROSTERSYNC_CONFIG", "ROSTERSYNC_MAIL_TO"]
    withheld = ["ROSTERSYNC_TOKEN", "ROSTERSYNC_OLD_TOKEN", "ROSTERSYNC_DB_PASSWORD", "DB_PASSWORD", "PGPASSWORD"]
    for name in [*given, *withheld, "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "ANOTHER"]:
        monkeypatch.setenv(name, "/invented")
    call(shutil.which("env") or "", "-u", "_", sys.executable, "-ISc", NOTE_NAMES, str(tmp_path / "env"))
    assert (tmp_path / "env").read_text().split() == sorted([*given, "PATH"])


def test_no_word_of_it_is_a_shells(tmp_path: Path) -> None:
    call("touch", f"{tmp_path}/$(id); *")
    assert [path.name for path in tmp_path.iterdir()] == ["$(id); *"]


# What it does wrong ----------------------------------------------------------------------------------------------


def failure(events: Any) -> dict[str, Any]:
    """Return the one warning that there is."""
    (event,) = events()
    assert (event["level"], event["event"], event["source"], event["run_id"]) == ("warning", "hook_failed", "main", 7)
    return dict(event)


def test_an_exit_status_is_told_with_the_last_lines_of_the_output(events: Any) -> None:
    shell("echo one; echo two >&2; exit 3")
    assert failure(events)["reason"] == "exit status 3"
    assert failure(events)["output"] == ["one", "two"]


def test_a_signal_is_told(events: Any) -> None:
    shell("kill -SEGV $$")
    assert failure(events)["reason"] == f"ended by signal {signal.SIGSEGV.value}"


def test_a_command_that_does_not_exist_or_cannot_be_executed_is_told(tmp_path: Path, events: Any) -> None:
    call("rostersync-no-such-command")
    plain = tmp_path / "plain"
    plain.write_text("echo\n")
    call(str(plain))
    plain.chmod(0o755)
    call(str(plain))  # no #! line
    call(str(tmp_path / "none"))
    reasons = [event["reason"].removeprefix("cannot be run: ") for event in events()]
    assert reasons == [
        "No such file or directory",
        "Permission denied",
        "Exec format error",
        "No such file or directory",
    ]


def test_a_hook_that_hangs_is_killed_after_its_time(events: Any) -> None:
    assert shell("echo waiting; exec sleep 60", seconds=1) < 5
    assert failure(events)["reason"] == "killed after 1s"
    assert failure(events)["output"] == ["waiting"]


def test_a_hook_that_ignores_sigterm_is_killed_with_all_that_it_has_started(tmp_path: Path, events: Any) -> None:
    script = 'trap "" TERM HUP; sleep 60 & echo $! > "$1"; while :; do sleep 60; done'
    assert shell(script, tmp_path / "child", seconds=1) < 5
    assert failure(events)["reason"] == "killed after 1s"
    assert ends(int((tmp_path / "child").read_text()))


def test_what_a_hook_leaves_behind_with_its_output_open_is_neither_waited_for_nor_left(
    tmp_path: Path, events: Any
) -> None:
    assert shell('sleep 60 & echo $! > "$1"', tmp_path / "child") < 5
    assert [event["event"] for event in events()] == ["hook_finished"]
    assert ends(int((tmp_path / "child").read_text()))


LEAVE_EVERYTHING = """
import os, subprocess, sys, time
if os.fork():
    time.sleep(60 if sys.argv[2] == "wait" else 0)
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
for stream in range(3):
    os.dup2(os.open(os.devnull, os.O_RDWR), stream)
with open(sys.argv[1], "w") as file:
    file.write(str(os.getpid()))
os.execve("/bin/sleep", ["sleep", "60"], {})
"""
"""A program that becomes a daemon: with a session, without a parent, and without the environment and the streams."""


@pytest.mark.parametrize("then", ["wait", "end"])
def test_a_process_that_has_become_a_daemon_is_killed_with_the_hook(tmp_path: Path, events: Any, then: str) -> None:
    others = [subprocess.Popen(["sleep", "60"]), subprocess.Popen(["setsid", "sleep", "60"])]
    script = f'"{sys.executable}" -ISc "$2" "$1" {then}; while ! test -s "$1"; do :; done'
    assert shell(script, tmp_path / "child", LEAVE_EVERYTHING, seconds=2) < 5
    assert [event["event"] for event in events()] == ["hook_failed" if then == "wait" else "hook_finished"]
    assert ends(int((tmp_path / "child").read_text()))
    assert [other.poll() for other in others] == [None, None]  # our own other children are left alone
    for other in others:
        other.kill()
        other.wait()


def test_a_hook_that_signals_its_whole_process_group_is_told_as_such(tmp_path: Path, events: Any) -> None:
    shell("kill 0; sleep 60")
    assert failure(events)["reason"] == f"ended by signal {signal.SIGTERM.value}"


def test_a_hook_that_kills_its_parent_is_a_failure(events: Any) -> None:
    shell("kill -9 $PPID; sleep 60")
    assert failure(events)["reason"] == f"ended by signal {signal.SIGKILL.value}"


def test_one_that_left_the_process_group_and_writes_for_ever_is_not_waited_for(tmp_path: Path, events: Any) -> None:
    assert shell('setsid sh -c "echo \\$\\$ > $1; exec yes" & while ! test -s "$1"; do :; done', tmp_path / "child") < 5
    assert [event["event"] for event in events()] == ["hook_finished"]
    assert ends(int((tmp_path / "child").read_text()))  # nobody reads it any more


def test_a_flood_of_output_fills_no_memory(events: Any) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert shell("yes flood", seconds=1) < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB
    event = failure(events)
    assert event["reason"] == "killed after 1s"
    assert set(event["output"]) == {"flood"}
    assert len(json.dumps(event)) < 4 * TAIL


def test_a_hook_need_not_read_what_it_is_told(events: Any) -> None:
    shell("exec <&-; sleep 0.3", run=LARGE)
    call("true")
    call("sleep", "0.3")
    assert [event["event"] for event in events()] == ["hook_finished"] * 3


def test_a_report_larger_than_a_pipe_reaches_a_hook_that_reads_and_no_other_waits(tmp_path: Path, events: Any) -> None:
    shell('cat > "$1"', tmp_path / "got", run=LARGE)
    assert json.loads((tmp_path / "got").read_text()) == LARGE.to_json()
    assert call("sleep", "60", seconds=1, run=LARGE) < 5
    assert [event["event"] for event in events()] == ["hook_finished", "hook_failed"]


def test_a_hook_leaves_no_file_open(events: Any) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for command in ("true", "rostersync-no-such-command", "yes"):
        call(command, seconds=1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert len(events()) == 3


# When the process is to end --------------------------------------------------------------------------------------


def test_a_hook_is_killed_as_soon_as_the_process_is_to_end(tmp_path: Path, events: Any) -> None:
    class Ending(CancelScope):
        def check(self) -> None:
            if (tmp_path / "begun").exists():
                self.cancel(15)
            super().check()

    assert shell('touch "$1"; exec sleep 60', tmp_path / "begun", scope=Ending(SystemClock())) < 5
    assert failure(events)["reason"] == "not finished: the process was asked to end"


def test_it_is_not_begun_when_the_process_is_to_end(events: Any) -> None:
    scope = CancelScope(SystemClock())
    scope.cancel(15)
    call("rostersync-no-such-command", scope=scope)
    assert failure(events)["reason"] == "not finished: the process was asked to end"


# What is told of its output --------------------------------------------------------------------------------------


def test_the_token_in_its_output_is_replaced_in_the_log(events: Any) -> None:
    shell(f"echo got {SECRET}; exit 1")
    assert failure(events)["output"] == ["got ***"]


def test_a_token_that_is_cut_off_by_the_bound_is_not_told_in_part(events: Any) -> None:
    for padding in range(TAIL - len(SECRET) - 4, TAIL + 2, 7):
        call(sys.executable, "-ISc", f"print({SECRET!r} + ' ' + 'x' * {padding}); raise SystemExit(1)")
    shown = [event["output"] for event in events()]
    assert len(shown) > 3
    parts = {SECRET[start:] for start in range(len(SECRET) - 5)}
    assert not [line for lines in shown for line in lines for part in parts if part in line]


def test_an_output_is_told_in_lines_that_control_nothing_and_are_bounded() -> None:
    assert last_lines(b"\x1b[31mred\x07\r\nn\xffxt\n\n  end  \n") == [" [31mred", "n�xt", "  end"]
    assert last_lines(b"a" * TAIL) == ["a" * TAIL]
    assert last_lines(b"aa " + b"b" * (TAIL - 2)) == ["b" * (TAIL - 2)]
    assert last_lines(b"\n" + b"b" * TAIL) == ["b" * TAIL]
    assert last_lines(b"a" * (TAIL + 1)) == []
