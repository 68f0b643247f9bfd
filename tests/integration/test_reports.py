"""Reports in Python: the mapped classes on both databases, read-only, and checked by mypy."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import pytest
from harness import World, upstream
from reports import ask, reading
from sqlalchemy import NullPool, create_engine, inspect, select, text
from sqlalchemy.orm import Mapped, Session, selectinload
from steps import settled

from rostersync import models
from rostersync.errors import ReadOnly
from rostersync.models import (
    CurrentStudent,
    DeletedStudent,
    EnrolledStudent,
    Run,
    Source,
    Student,
    StudentNationality,
    StudentParent,
    SyncHealth,
    SyncRun,
)
from rostersync.records import FIELD_NAMES
from rostersync.store.schema.views import VIEWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import ManualClock

CLASSES = sorted((mapper.class_ for mapper in models.Model.registry.mappers), key=lambda mapped: mapped.__name__)
OF_VIEWS = {mapped.__table__.name: mapped for mapped in CLASSES if issubclass(mapped, models._OfView)}
KEYLESS = {"audit_log"}
"""Views without a key: two rows may be equal in each column, and a mapper would take them for one."""


@pytest.fixture
def world(migrated_url: str, clock: ManualClock) -> World:
    """A school with a student who has changed, one who has left, and one with two parents and two nationalities."""
    world = settled(migrated_url, clock)
    changed, gone, *_ = sorted(world.living_ids())
    world.school.update(changed, nickname="Fizz", city="Ljubljana")
    world.school.delete(gone)
    world.school.create(nationalities=["SI", "NP"], parent_ids=[7, 30540042], birthday="2011-02-03", vaccinated=True)
    world.pass_time(minutes=5)
    world.sync()
    return world


@pytest.fixture
def session(world: World) -> Iterator[Session]:
    """A session on an engine of the user's own."""
    with Session(create_engine(world.url, poolclass=NullPool)) as session:
        yield session


def of_type(value: object, hint: Any) -> bool:
    """Return whether a value has the type that a class declares."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return type(value) in {get_origin(kind) or kind for kind in kinds}


# The columns -----------------------------------------------------------------------------------------------------


def test_every_view_with_a_key_has_a_class_with_its_columns(migrated_url: str) -> None:
    found = inspect(create_engine(migrated_url, poolclass=NullPool))
    assert set(OF_VIEWS) == {view.name for view in VIEWS} - KEYLESS
    for name, mapped in OF_VIEWS.items():
        assert {column["name"] for column in found.get_columns(name)} == set(mapped.__table__.columns.keys()), name


@pytest.mark.parametrize("mapped", CLASSES, ids=lambda mapped: mapped.__name__)
def test_each_value_is_of_the_type_that_its_class_declares(world: World, mapped: type[models.Model]) -> None:
    hints = {name: get_args(hint)[0] for name, hint in get_type_hints(mapped).items() if get_origin(hint) is Mapped}
    found = ask(world.url, select(mapped))
    assert found
    wrong = [
        (name, type(getattr(row, name)))
        for row in found
        for name in inspect(mapped).columns.keys()  # noqa: SIM118 - by itself it yields columns
        if not of_type(getattr(row, name), hints[name])
    ]
    assert not wrong


def test_a_current_student_is_what_the_api_served_in_every_field(world: World, session: Session) -> None:
    truth = upstream(world.school)
    found = {row.id: row for row in session.scalars(select(CurrentStudent))}
    assert found.keys() == truth.keys()
    for key, row in found.items():
        assert all(getattr(row, name) == getattr(truth[key], name) for name in (*FIELD_NAMES, "extra"))


def test_times_are_utc_whatever_the_zone_of_the_session(world: World, session: Session) -> None:
    if world.url.startswith("postgresql"):
        session.execute(text("SET TIME ZONE 'Asia/Kathmandu'"))
    (run,) = session.scalars(select(SyncRun).where(SyncRun.kind == "incremental"))
    assert run.started_at.utcoffset() == timedelta(0)
    assert run.started_at < world.clock.now() <= run.finished_at + timedelta(seconds=1)
    assert session.scalars(select(SyncRun).where(SyncRun.started_at >= run.started_at)).all() == [run]


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
def test_on_postgresql_the_views_are_found_whatever_the_search_path(world: World) -> None:
    engine = create_engine(world.url, poolclass=NullPool, connect_args={"options": "-c search_path=pg_catalog"})
    with Session(engine) as session:
        assert len(session.scalars(select(CurrentStudent).join(CurrentStudent.history)).unique().all()) == 12


# The relationships -----------------------------------------------------------------------------------------------


def test_a_student_has_their_history_from_the_oldest_version_on_and_each_version_its_run(session: Session) -> None:
    query = select(CurrentStudent).where(CurrentStudent.nickname == "Fizz")
    student = session.scalars(query).one()
    assert [(version.op, version.nickname == "Fizz") for version in student.history] == [
        ("insert", False),
        ("update", True),
    ]
    assert student.history[-1].changed_fields == ("nickname", "city")
    assert [version.run and version.run.kind for version in student.history] == ["full", "incremental"]
    assert student.history[0].valid_to == student.history[1].valid_from == student.changed_at


def test_a_tombstone_has_its_history(session: Session) -> None:
    (gone,) = session.scalars(select(DeletedStudent))
    assert [version.op for version in gone.history] == ["insert", "delete"]


def test_students_are_found_by_a_parent_and_by_a_nationality(session: Session) -> None:
    by_parent = select(EnrolledStudent).join(EnrolledStudent.parent_rows).where(StudentParent.parent_id == 30540042)
    by_nationality = (
        select(EnrolledStudent)
        .join(EnrolledStudent.nationality_rows)
        .where(StudentNationality.nationality == "NP", EnrolledStudent.birthday == date(2011, 2, 3))
    )
    (child,) = session.scalars(by_parent)
    assert session.scalars(by_nationality).all() == [child]
    assert child.parent_ids == (7, 30540042)
    assert {row.parent_id for row in child.parent_rows} == {7, 30540042}


def test_a_value_that_a_list_has_twice_is_one_row_of_the_relationship(world: World, session: Session) -> None:
    key = world.school.create(nationalities=["SI", "SI"])
    world.pass_time(minutes=5)
    world.sync()
    query = (
        select(CurrentStudent).where(CurrentStudent.id == key).options(selectinload(CurrentStudent.nationality_rows))
    )
    student = session.scalars(query).one()
    assert [row.nationality for row in student.nationality_rows] == ["SI"]  # it is a set
    assert student.nationalities == ("SI", "SI")


def test_the_health_of_a_source_leads_to_its_last_run(session: Session) -> None:
    health = session.scalars(select(SyncHealth)).one()
    assert health.last_run is not None
    assert (health.last_run.kind, health.last_run.deleted, health.live_students) == ("incremental", 1, 12)


def test_the_tables_are_read_by_rostersyncs_own_engine_beside_the_views(world: World) -> None:
    with reading(world.url) as session:
        student = session.scalars(select(Student).where(Student.nickname == "Fizz")).one()
        assert [version.op for version in student.versions] == ["insert"]
        assert session.scalars(select(CurrentStudent.id).where(CurrentStudent.id == student.id)).one() == student.id
        source = session.scalars(select(Source)).one()
        assert (
            source.modified_watermark == session.scalars(select(Run).order_by(Run.run_id)).all()[-1].modified_watermark
        )


# Read-only -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapped", CLASSES, ids=lambda mapped: mapped.__name__)
def test_a_flush_of_any_class_is_refused_with_advice_and_changes_nothing(
    world: World, mapped: type[models.Model]
) -> None:
    before = world.snapshot()
    advice = rf"^{mapped.__name__} is read-only: .*rostersync\.managebac\.ManageBac"
    last = inspect(mapped).columns.keys()[-1]
    with reading(world.url) as session:
        session.add(mapped())
        with pytest.raises(ReadOnly, match=advice):
            session.flush()
        session.rollback()

        row = session.scalars(select(mapped)).first()
        setattr(row, last, None)
        with pytest.raises(ReadOnly, match=advice):
            session.commit()
        session.rollback()

        session.delete(session.scalars(select(mapped)).first())
        with pytest.raises(ReadOnly, match=advice):
            session.commit()
    assert world.snapshot() == before


# docs/python.md --------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_examples_of_the_page_run_one_after_the_other(world: World) -> None:
    script = "".join(BLOCKS).replace("sqlite:////var/lib/rostersync/roster.db", world.url)
    assert script.count(world.url) == 2
    command = [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # it prints names: not to be shown
    assert (ended.returncode, ended.stderr) == (0, "")
    said = ended.stdout.splitlines()
    truth = upstream(world.school).values()
    (fizz,) = (s for s in truth if s.nickname == "Fizz")
    (child,) = (s.id for s in truth if s.parent_ids and 30540042 in s.parent_ids)
    (gone,) = world.school.deleted()
    assert said[0] == f"{fizz.last_name} {fizz.birthday} {fizz.nationalities}"
    assert {str(sum(s.status == "enrolled" for s in truth)), f"[{child}]"} <= set(said)
    assert any(re.fullmatch(r"main \d+ None", line) for line in said)
    assert said[-1] == f"{gone} delete ['insert']"


def test_every_class_of_a_view_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [mapped.__name__ for mapped in OF_VIEWS.values() if f"`{mapped.__name__}`" not in page] == []


WRONG = """
from sqlalchemy import select
from rostersync.models import CurrentStudent, Student, StudentHistory

def wrong(student: CurrentStudent, row: Student) -> int:
    select(CurrentStudent.frist_name)
    select(StudentHistory).where(StudentHistory.valid_form < 3)
    row.nickname.upper()
    student.history[0].run.kind
    return student.birthday
"""


def test_mypy_accepts_the_examples_and_finds_misspelt_attributes_and_wrong_types(tmp_path: Path) -> None:
    typed = (block for block in BLOCKS if "pandas" not in block)  # pandas has no types of its own
    (tmp_path / "right.py").write_text("".join(typed), encoding="utf-8")
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file=", "right.py", "wrong.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.split(": ")[0] for line in checked.stdout.splitlines() if ": error: " in line]
    assert lines == [f"wrong.py:{line}" for line in (6, 7, 8, 9, 10)], checked.stdout
