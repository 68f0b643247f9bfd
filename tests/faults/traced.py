"""`rostersync sync` as a process under strace, which lets a system call on its database fail, or be its last.

The processes are forked from one that has loaded the program already: most of a short run's time is Python's start.
(They load this module, too, so it does without anything that is slow to load.)
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from school_site import Site

CALLS = ("pwrite64", "fdatasync")
"""How SQLite writes."""

PATIENCE = 30

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["rostersync.cli.sync", "sqlalchemy.dialects.sqlite.pysqlite"])

_PR_SET_PTRACER = 0x59616D61
_ANYBODY = ctypes.c_ulong(-1)


@dataclass(frozen=True)
class Ended:
    """How a process ended, and the calls on its database that were watched: as strace writes them, in order."""

    status: int
    out: str
    err: str
    calls: list[str]


def sync(site: Site, database: Path, *faults: str) -> Ended:
    """Have a run done, with these `faults` (in strace's words) in what it does to `database` and its log."""
    folder = site.folder
    ready = _FORKS.Event()
    process = _FORKS.Process(target=_sync, args=(folder, site.path, site.environ, ready))
    process.start()
    assert ready.wait(PATIENCE)
    # One path after the other: strace counts the calls on all of them together, for each thread by itself.
    # What is written it does not write down.
    watched = ["-s", "0", "-e", f"trace={','.join(CALLS)}", "-P", str(database), "-P", f"{database}-wal"]
    injected = [word for fault in faults for word in ("-e", f"inject={fault}")]
    log = folder / "calls"
    command = ["strace", "-f", "-qq", "-o", str(log), "-p", str(process.pid), *watched, *injected]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        process.join(PATIENCE)
        _, told = tracer.communicate(timeout=PATIENCE)
    assert tracer.returncode == 0, told
    assert process.exitcode is not None
    lines = log.read_text(errors="replace").splitlines()
    calls = [line for line in lines if any(f" {call}(" in line for call in CALLS)]
    return Ended(process.exitcode, (folder / "out").read_text(), (folder / "err").read_text(), calls)


def _sync(folder: Path, config: Path, environ: dict[str, str], ready: Event) -> None:
    """Be the process: wait for the tracer, then do as the command line would."""
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), descriptor)
    os.environ.update(environ)
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY, 0, 0, 0)  # where a process may trace its children only
    ready.set()
    deadline = time.monotonic() + PATIENCE
    while "TracerPid:\t0\n" in Path("/proc/self/status").read_text(encoding="ascii"):
        if time.monotonic() > deadline:
            return
        time.sleep(0.001)

    from rostersync.cli.program import program  # noqa: PLC0415 - here it is loaded already

    program.main(["sync", "-c", str(config)])
