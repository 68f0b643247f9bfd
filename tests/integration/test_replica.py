"""A whole school over real HTTP, into both databases, compared with the truth in every field."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from harness import GUARD_OFF, SOURCE, TOKEN, World, replica, upstream
from reports import reading
from sqlalchemy import func, select

from rostersync.cancel import CancelScope
from rostersync.clock import SystemClock
from rostersync.managebac import ManageBac
from rostersync.managebac.reader import StudentReader
from rostersync.managebac.wire.limits import HostLimiters
from rostersync.models import (
    CurrentStudent,
    EnrolledStudent,
    Model,
    StudentLanguage,
    StudentNationality,
    StudentParent,
    SyncHealth,
)
from rostersync.report import RunKind, RunReport, RunRequest, RunState
from rostersync.runs.executor import Executor
from rostersync.simulator import churn
from rostersync.simulator.app import App
from rostersync.simulator.server import Server
from rostersync.simulator.state import School
from rostersync.simulator.switches import Switches
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import ManualClock

STUDENTS = 1_200


class Replicated:
    """A school of 1,200 behind a socket, and its replica."""

    def __init__(self, url: str, server: Server, app: App) -> None:
        self.url, self.clock = url, SystemClock()
        self.scope = CancelScope(self.clock)
        self.app, self.server = app, server
        self.store = Store(url, self.clock, create=True)
        self.limiters = HostLimiters(4, self.clock)

    @contextmanager
    def connect(self, _source: str, scope: CancelScope) -> Iterator[StudentReader]:
        url = self.server.base_url
        with ManageBac(url, TOKEN, scope=scope, limiter=self.limiters.of(url)) as api:
            yield StudentReader(api)

    def sync(self, kind: RunKind = RunKind.INCREMENTAL) -> RunReport:
        executor = Executor(self.store, GUARD_OFF, self.connect, "test")
        return executor.run(RunRequest(SOURCE, kind), lambda *_: None, self.scope)

    def agrees(self) -> bool:
        with self.store.reading() as connection:
            return replica(connection) == upstream(self.app.school)


@pytest.fixture
def replicated(database_url: str) -> Iterator[Replicated]:
    # A login bumps here: every change is one that an incremental run can see.
    school = School(7, STUDENTS, SystemClock(), Switches(login_bumps=True))
    app = App(school, TOKEN)
    with Server(app) as server:
        yield Replicated(database_url, server, app)


def test_1200_students_equal_the_truth_in_every_field_after_the_first_run_and_after_churn(
    replicated: Replicated,
) -> None:
    first = replicated.sync()
    assert (first.kind, first.state, first.counts.inserted) == (RunKind.FULL, RunState.SUCCEEDED, STUDENTS)
    assert replicated.agrees()

    done = churn(replicated.app.school, random.Random(1), 250)
    assert {"create", "update", "clear", "archive", "delete", "restore"} <= set(done)
    replicated.app.log.clear()
    second = replicated.sync()
    assert (second.kind, second.state) == (RunKind.INCREMENTAL, RunState.SUCCEEDED)
    assert replicated.agrees()
    filters = {"ids[]", "modified_since", "deleted_since"}
    lists = [{name for name, _ in query} for _, path, query in replicated.app.log if path.endswith("/students")]
    assert all(names & filters for names in lists)

    full = replicated.sync(RunKind.FULL)
    assert full.state is RunState.SUCCEEDED
    assert full.counts.unchanged == full.counts.fetched
    assert replicated.agrees()


def test_the_views_say_the_same_on_both_databases(replicated: Replicated) -> None:
    replicated.sync()
    truth = upstream(replicated.app.school).values()
    with reading(replicated.url) as session:

        def count(rows: type[Model]) -> int | None:
            return session.scalar(select(func.count()).select_from(rows))

        assert count(CurrentStudent) == STUDENTS
        assert count(EnrolledStudent) == sum(s.status == "enrolled" for s in truth)
        assert count(StudentParent) == sum(len(s.parent_ids or ()) for s in truth)
        assert count(StudentNationality) == sum(len(s.nationalities or ()) for s in truth)
        assert count(StudentLanguage) == sum(len(s.languages or ()) for s in truth)
        health = session.scalars(select(SyncHealth)).one()
        assert health.live_students == STUDENTS
        assert health.age_seconds is not None
        assert health.age_seconds < 60


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
def test_after_a_first_load_postgresql_knows_how_many_students_there_are(migrated_url: str, clock: ManualClock) -> None:
    """Else it would pass over all of them to find a few, until it has counted them by itself."""
    world = World(migrated_url, clock, size=600, per_page=200)
    world.full()
    (row,) = world.rows("SELECT reltuples FROM pg_class WHERE oid = 'rostersync.student'::regclass")
    assert row["reltuples"] == 600
