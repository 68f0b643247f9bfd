"""Disks that fail or fill up at any write of a run, and processes that die at it: on SQLite."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import traced
from canary import SEARCH
from conftest import memory
from crash_observer import GUARDLESS, CrashObserver, is_told_well, noting
from daemons import started, wait_until
from school_site import Site, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from canary import Process
    from traced import Ended

    Start = Callable[..., Process]

pytestmark = pytest.mark.long

PAGE = 4096
FULL = "database or disk is full"

FAULTS = {
    "fails once": "error=EIO:when={n}",
    "finds no room once": "error=ENOSPC:when={n}",
    "and all later ones find no room": "error=ENOSPC:when={n}+",
    "is the last": "signal=KILL:when={n}",
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for the database; where strace plays the disk, a real one need not take its time."""
    with tempfile.TemporaryDirectory(prefix="rs-", dir=memory()) as folder:
        yield Path(folder).resolve()
        SEARCH.folder(Path(folder))


@pytest.fixture
def site(folder: Path, tmp_path: Path) -> Iterator[Site]:
    with serve(tmp_path, f"sqlite:///{folder}/roster.db", 6) as site:
        yield site


@pytest.fixture
def strace() -> None:
    """Skip a test where strace is not there, or may not trace; on a machine that is there for checks, fail it."""
    try:
        subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        tell = pytest.fail if os.environ.get("CI") else pytest.skip
        tell(f"strace does not work here: {error}")


def change(site: Site) -> None:
    """Let one student come, one go, and one move."""
    first, second, *_ = sorted(site.school.truth())
    site.school.update(first, nickname="Nick 1")
    site.school.delete(second)
    site.school.create()


def harmed(ended: Ended) -> bool:
    """Tell whether the fault happened: a process that strace kills leaves the call unfinished."""
    return ended.status == -signal.SIGKILL or any("(INJECTED)" in call for call in ended.calls)


@pytest.mark.parametrize("call", traced.CALLS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("strace")
def test_wherever_a_write_of_a_run_fails_the_roster_is_old_or_new_as_told_and_the_next_run_makes_it_exact(
    site: Site, folder: Path, call: str, fault: str
) -> None:
    database = folder / "roster.db"
    site.ok("sync")
    observer = CrashObserver(site)
    before, kept = observer.snapshot(), database.read_bytes()
    change(site)
    calls = [line.split()[0] for line in traced.sync(site, database).calls if f" {call}(" in line]
    assert len(set(calls)) == 1, "more than one thread writes: strace would count for each"
    for n in range(1 + [*FAULTS].index(fault) % 2, len(calls) + 1, 2):  # two of the faults at each of the calls
        database.write_bytes(kept)
        with noting(f"{call} number {n} of {len(calls)} {fault}"):
            ended = traced.sync(site, database, f"{call}:{FAULTS[fault].format(n=n)}")
            assert harmed(ended)
            assert is_told_well(ended.status, ended.out, ended.err), ended
            assert site.rows("PRAGMA integrity_check") == [("ok",)]
            applied = observer.tells_of_a_whole_run(before)
            assert ended.status == -signal.SIGKILL or applied == (ended.status == 0)
            observer.sync()
            assert observer.is_exact()
            assert not observer.requests_of_the_dead()
            assert not list(folder.glob(".*")), "a stage was left behind"


@pytest.mark.usefixtures("strace")
def test_a_first_run_whose_write_fails_leaves_a_database_that_the_next_run_can_use(site: Site, folder: Path) -> None:
    database = folder / "roster.db"
    writers = Counter(line.split()[0] for line in traced.sync(site, database).calls if " pwrite64(" in line)
    faults = cycle(FAULTS.items())
    for n in range(1, max(writers.values()) + 1, 5):
        for file in folder.iterdir():
            file.unlink()
        name, fault = next(faults)
        with noting(f"pwrite64 number {n} {name}"):
            ended = traced.sync(site, database, f"pwrite64:{fault.format(n=n)}")
            assert harmed(ended)
            assert is_told_well(ended.status, ended.out, ended.err), ended
            assert site.rows("PRAGMA integrity_check") == [("ok",)]
            site.ok("sync")
            assert CrashObserver(site).is_exact()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "rostersync", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user cannot mount a file system")
    yield folder
    SEARCH.folder(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, pages: int) -> Path:
    """Fill a disk but for so many pages; return the file that does."""
    ballast = disk / "ballast"
    with suppress(OSError):  # a daemon may use some of it meanwhile
        ballast.write_bytes(bytes((os.statvfs(disk).f_bavail - pages) * PAGE))
    return ballast


def test_a_full_disk_is_told_and_loses_nothing_and_the_next_run_succeeds_as_soon_as_there_is_room(
    small_disk: Path, tmp_path: Path
) -> None:
    with serve(tmp_path, f"sqlite:///{small_disk}/roster.db", 5) as site:
        site.configure(GUARDLESS)
        site.ok("sync")
        observer = CrashObserver(site)
        told = ""
        for pages in (0, 4, 8, 12, 16, 24, 32, 64):
            change(site)
            before = observer.snapshot()
            ballast = fill(small_disk, pages)
            process = site.start("sync")
            out, err = process.communicate(timeout=60)
            ballast.unlink()
            with noting(f"room for {pages} pages"):
                assert is_told_well(process.returncode, out, err), err
                assert site.rows("PRAGMA integrity_check") == [("ok",)]
                assert observer.tells_of_a_whole_run(before) == (process.returncode == 0)
                observer.sync()
                assert observer.is_exact()
            told += err
        assert "database or disk is full\nhint: free some space" in told
        assert process.returncode == 0, "there was room enough"


@contextmanager
def filled(disk: Path, pages: int) -> Iterator[None]:
    """Leave so many pages of a disk free for a while."""
    ballast = fill(disk, pages)
    try:
        yield
    finally:
        ballast.unlink()


@pytest.fixture
def beside(small_disk: Path, tmp_path: Path) -> Iterator[tuple[Site, Start]]:
    """A daemon that has made its first run, with its database on a small disk."""
    with serve(tmp_path, f"sqlite:///{small_disk}/roster.db", 30) as site, started(site) as start:
        site.configure(GUARDLESS)
        start("run")
        wait_until(lambda: site.has_database() and "succeeded" in site.run("status").stdout)
        yield site, start


@pytest.mark.parametrize("pages", [0, 4, 16])
def test_a_sync_beside_a_daemon_that_cannot_write_its_request_ends_with_the_reason(
    beside: tuple[Site, Start], small_disk: Path, pages: int
) -> None:
    site, start = beside
    with filled(small_disk, pages):
        caller = start("sync", "--full")
        out, err = caller.communicate(timeout=60)
        with noting(f"{out} {err}"):
            assert caller.returncode == 1
            assert FULL in err
    site.ok("sync")


@pytest.mark.parametrize("pages", [0, 4, 16])
def test_a_sync_whose_daemon_finds_the_disk_full_ends_with_the_reason(
    beside: tuple[Site, Start], small_disk: Path, pages: int
) -> None:
    site, start = beside
    for key in site.school.truth():
        site.school.update(key, nickname="N" * 200)
    may_answer = threading.Event()
    site.app.on_request = lambda _: may_answer.wait(20)
    caller = start("sync", "--full")
    wait_until(lambda: site.rows("SELECT 1 FROM run_request WHERE state = 'taken'"))
    with filled(small_disk, pages):
        may_answer.set()
        out, err = caller.communicate(timeout=60)
        with noting(f"{out} {err}"):
            assert caller.returncode == 1
            assert FULL in err
    site.ok("sync")
