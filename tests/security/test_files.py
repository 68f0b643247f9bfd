"""Nothing planted beside the database is followed, waited for or written to: not in the place of any file of ours."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from school_site import Site, serve

from rostersync.store.database import engine
from rostersync.store.database.files import is_plain, open_plain

if TYPE_CHECKING:
    from collections.abc import Iterator

TREASURE = "not to be touched\n"


def plant_link(place: Path, target: Path) -> None:
    place.symlink_to(target)


def plant_dangling_link(place: Path, target: Path) -> None:
    place.symlink_to(target.with_name("made-by-rostersync"))


def plant_hard_link(place: Path, target: Path) -> None:
    place.hardlink_to(target)


def plant_pipe(place: Path, _target: Path) -> None:
    os.mkfifo(place)


def plant_folder(place: Path, _target: Path) -> None:
    place.mkdir()


def plant_device(place: Path, _target: Path) -> None:
    try:
        os.mknod(place, 0o020600, os.makedev(1, 3))  # /dev/null
    except PermissionError:
        pytest.skip("only root can make a device")


Planter = Callable[[str, Path], None]
PLANTS: dict[str, Callable[[Path, Path], None]] = {
    "a symbolic link": plant_link,
    "a symbolic link to nothing": plant_dangling_link,
    "a hard link": plant_hard_link,
    "a pipe": plant_pipe,
    "a folder": plant_folder,
    "a device": plant_device,
}

each_plant = pytest.mark.parametrize("kind", PLANTS)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "state").mkdir()
    with serve(tmp_path, f"sqlite:///{tmp_path}/state/roster.db") as site:
        yield site


@pytest.fixture
def plant(treasure: Path) -> Iterator[Callable[[str, Path], None]]:
    """What plants something of a kind in the place of a file, which leads to the treasure; taken away at the end."""
    planted: list[Path] = []

    def plant(kind: str, place: Path) -> None:
        PLANTS[kind](place, treasure)
        planted.append(place)

    yield plant
    for place in planted:
        remove(place)


@pytest.fixture
def treasure(tmp_path: Path) -> Iterator[Path]:
    """A file elsewhere that a planted thing leads to, and that must be as it was at the end."""
    path = tmp_path / "treasure"
    path.write_text(TREASURE)
    path.chmod(0o644)
    yield path
    assert path.read_text() == TREASURE
    assert path.stat().st_mode & 0o777 == 0o644
    assert not path.with_name("made-by-rostersync").exists()


def refusal(site: Site, *words: str) -> str:
    """Run the program, which must fail in one line and a hint; return the line."""
    result = site.run(*words)
    assert result.exit_code == 1, result.output
    line, hint = result.stderr.splitlines()
    assert hint.startswith("hint: find out who put it there")
    return line


def remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        place.rmdir()
    else:
        place.unlink(missing_ok=True)


def named(kind: str) -> str:
    return kind.removesuffix(" to nothing")


@each_plant
def test_a_lock_file_that_is_something_else_is_named_and_not_touched(site: Site, plant: Planter, kind: str) -> None:
    site.ok("sync")
    lock = site.folder / "state" / "roster.db-main.lock"
    lock.unlink()
    plant(kind, lock)
    for verb in ("sync", "status"):
        assert f"the lock file {lock} is {named(kind)}" in refusal(site, verb)


@each_plant
def test_a_database_that_is_something_else_is_named_and_not_touched(site: Site, plant: Planter, kind: str) -> None:
    database = site.folder / "state" / "roster.db"
    plant(kind, database)
    for words in (("sync",), ("sync", "--dry-run"), ("status",)):
        assert f"the database {database} is {named(kind)}" in refusal(site, *words)


def test_check_names_a_database_that_is_something_else(site: Site, plant: Planter) -> None:
    database = site.folder / "state" / "roster.db"
    plant("a symbolic link", database)
    assert f"database: the database {database} is a symbolic link" in site.run("check").stdout


@each_plant
def test_a_journal_that_is_something_else_is_named_and_not_touched(site: Site, plant: Planter, kind: str) -> None:
    site.ok("sync")
    for suffix in ("-wal", "-shm", "-journal"):
        journal = site.folder / "state" / f"roster.db{suffix}"
        plant(kind, journal)
        assert f"the database's journal {journal} is {named(kind)}" in refusal(site, "status")
        remove(journal)


@each_plant
def test_a_stage_file_that_is_exchanged_before_sqlite_opens_it_is_not_used(
    site: Site, plant: Planter, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    make = tempfile.mkstemp

    def make_and_exchange(**options: Any) -> tuple[int, str]:
        handle, name = make(**options)
        Path(name).unlink()
        plant(kind, Path(name))
        return handle, name

    site.ok("sync")
    monkeypatch.setattr(engine.tempfile, "mkstemp", make_and_exchange)
    result = site.run("sync")
    assert result.exit_code == 1
    assert "stage" in result.stderr
    assert site.ok("status")


def test_a_stage_file_that_is_exchanged_for_another_file_is_not_used(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = tempfile.mkstemp

    def make_and_exchange(**options: Any) -> tuple[int, str]:
        handle, name = make(**options)
        other, other_name = make(**options)
        os.close(other)
        Path(other_name).rename(name)
        return handle, name

    monkeypatch.setattr(engine.tempfile, "mkstemp", make_and_exchange)
    result = site.run("sync")
    assert result.exit_code == 1
    assert "was replaced while it was opened" in result.stderr


def test_a_stage_file_that_was_taken_away_is_not_made_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    make = tempfile.mkstemp

    def make_and_remove(**options: Any) -> tuple[int, str]:
        handle, name = make(**options)
        Path(name).unlink()
        return handle, name

    monkeypatch.setattr(engine.tempfile, "mkstemp", make_and_remove)
    assert site.run("sync").exit_code == 1
    assert not [path for path in (site.folder / "state").iterdir() if ".rostersync-stage-" in path.name]


def test_a_database_exchanged_while_it_is_in_use_is_not_opened_again(site: Site, plant: Planter) -> None:
    site.ok("sync")
    opened = engine.open_engine(site.database_url)
    database = site.folder / "state" / "roster.db"
    database.rename(database.with_name("away.db"))
    plant("a symbolic link", database)
    with pytest.raises(Exception, match="is a symbolic link"), opened.connect():
        pass


def test_looking_at_a_database_does_not_end_the_locks_that_sqlite_holds_on_it(site: Site) -> None:
    site.ok("sync")
    path = site.folder / "state" / "roster.db"
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    assert is_plain(path)
    script = f"import sqlite3; sqlite3.connect({str(path)!r}, timeout=0).execute('BEGIN IMMEDIATE')"
    process = site.start(program=("-c", script))
    _, told = process.communicate(timeout=30)
    writer.close()
    assert "database is locked" in told


def test_a_new_file_of_ours_is_for_its_owner_only(tmp_path: Path) -> None:
    os.close(open_plain(tmp_path / "new", os.O_RDWR | os.O_CREAT))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_refused_is_closed_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = len([*Path("/dev/fd").iterdir()])
    with suppress(OSError):
        open_plain(tmp_path / "pipe", os.O_RDONLY)
    assert len([*Path("/dev/fd").iterdir()]) == before


@each_plant
def test_a_result_file_that_is_something_else_is_named_and_nothing_is_sent(
    site: Site, plant: Planter, kind: str
) -> None:
    site.configure(allow_writes="true")
    key = min(site.school.truth())
    lines, result = site.folder / "new.csv", site.folder / "new.result.csv"
    lines.write_text(f"id,first_name\n{key},Umbrella\n")
    plant(kind, result)
    done = site.run("students", "update", "--from-csv", str(lines), "--expect", "1", "--yes")
    assert done.exit_code == 2
    assert f"cannot write {result}: it is {named(kind)}" in done.stderr
    assert site.school.truth()[key]["first_name"] != "Umbrella"
