"""Where the tables of PostgreSQL live: nobody else can plant anything among them, or in front of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness import World
from roles import Roles, roles_on, set_up
from sqlalchemy import text

from rostersync.errors import LockHeld, StoreError
from rostersync.store.database.engine import open_engine
from rostersync.store.queue.lock import advisory_key, lock_source
from rostersync.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import ManualClock, PostgresServer


@pytest.fixture
def roles(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Roles]:
    with roles_on(postgres_server, tmp_path) as roles:
        yield roles


KINDS = "SELECT nspname, relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
OURS = f"{KINDS} WHERE nspname IN ('public', 'rostersync') AND relkind IN ('r', 'v', 'S') GROUP BY 1, 2 ORDER BY 1, 2"


def test_tables_are_in_the_schema_and_views_which_are_barriers_in_public(roles: Roles) -> None:
    set_up(roles)
    assert roles.ask("", OURS) == [("public", "v"), ("rostersync", "S"), ("rostersync", "r")]
    assert roles.ask("", "SELECT DISTINCT reloptions FROM pg_class WHERE relkind = 'v' AND relowner <> 10") == [
        (["security_barrier=true"],)
    ]


def test_without_the_privileges_the_error_has_the_statements_for_the_administrator(roles: Roles) -> None:
    result = roles.run("db", "upgrade")
    assert result.exit_code == 1
    (hint,) = [line for line in result.stderr.splitlines() if line.startswith("hint: ")]
    statements = [
        f"CREATE SCHEMA rostersync AUTHORIZATION {roles.owner};",
        f"GRANT CREATE ON SCHEMA public TO {roles.owner};",
    ]
    assert hint.endswith(" ".join(statements))
    assert " ".join(statements) in roles.run("check").stdout
    roles.ask("", statements[0])
    assert statements[0] not in roles.run("db", "upgrade").stderr
    assert statements[1] in roles.run("db", "upgrade").stderr
    roles.ask("", statements[1])
    roles.ok("db", "upgrade")


def test_a_role_that_may_create_schemas_needs_no_administrator_for_it(roles: Roles) -> None:
    (name,) = roles.ask("", "SELECT current_database()")[0]
    roles.ask(
        "", f"GRANT CREATE ON DATABASE {name} TO {roles.owner}", f"GRANT CREATE ON SCHEMA public TO {roles.owner}"
    )
    roles.ok("db", "upgrade")


# What a stranger may have planted --------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [("db", "upgrade"), ("sync",), ("status",)], ids=str)
def test_a_schema_of_another_role_is_refused(roles: Roles, verb: tuple[str, ...]) -> None:
    roles.ask("", f"CREATE SCHEMA rostersync AUTHORIZATION {roles.stranger}")
    roles.ask("", f"GRANT CREATE ON SCHEMA public TO {roles.owner}", f"GRANT ALL ON SCHEMA rostersync TO {roles.owner}")
    result = roles.run(*verb)
    assert result.exit_code == 1
    assert f"belongs to the role {roles.stranger}" in result.stderr


def test_a_superuser_does_not_take_the_schema_of_a_stranger_for_its_own(roles: Roles, clock: ManualClock) -> None:
    roles.ask("", f"CREATE SCHEMA rostersync AUTHORIZATION {roles.stranger}")
    with pytest.raises(StoreError, match=f"belongs to the role {roles.stranger}"):
        Store(roles.admin, clock, create=True)


def test_a_schema_of_a_role_that_ours_was_made_a_member_of_will_do(roles: Roles) -> None:
    roles.ask("", f"CREATE SCHEMA rostersync AUTHORIZATION {roles.stranger}")
    roles.ask("", f"GRANT CREATE ON SCHEMA public TO {roles.owner}", f"GRANT {roles.stranger} TO {roles.owner}")
    roles.ok("db", "upgrade")


@pytest.mark.parametrize("who", ["stranger", "PUBLIC"])
def test_a_schema_in_which_others_may_create_is_refused(roles: Roles, who: str) -> None:
    set_up(roles)
    name = getattr(roles, who, who)
    roles.ask("", f"GRANT CREATE ON SCHEMA rostersync TO {name}")
    result = roles.run("status")
    assert result.exit_code == 1
    assert f"REVOKE CREATE ON SCHEMA rostersync FROM {name}" in result.stderr


@pytest.mark.parametrize("what", ["VIEW", "TABLE"])
def test_a_view_that_a_stranger_made_under_the_name_of_ours_is_refused(roles: Roles, what: str) -> None:
    roles.ask("", "GRANT CREATE ON SCHEMA public TO PUBLIC")
    roles.ask(roles.stranger, f"CREATE {what} public.current_student AS SELECT 1 AS id")
    roles.ask("", f"CREATE SCHEMA rostersync AUTHORIZATION {roles.owner}")
    for url in (roles.url(roles.owner), roles.admin):
        result = roles.run("db", "upgrade", url=url)
        assert result.exit_code == 1
        if url != roles.admin:  # to whom the schema is a stranger's
            assert f"current_student (of the role {roles.stranger})" in result.stderr


PLANTED = """
CREATE FUNCTION public.trap(text, character varying) RETURNS boolean LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$;
CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = character varying, FUNCTION = public.trap);
CREATE TABLE public.source (name text); CREATE TABLE public.student (name text);
GRANT ALL ON public.source, public.student TO PUBLIC;
"""


@pytest.mark.parametrize("path", ["public, rostersync", "pg_temp, public, pg_catalog"])
def test_nothing_in_public_stands_in_front_of_ours_whatever_search_path_the_role_has(
    roles: Roles, clock: ManualClock, path: str
) -> None:
    set_up(roles)
    roles.ask("", "GRANT CREATE ON SCHEMA public TO PUBLIC")
    roles.ask(roles.stranger, PLANTED)
    roles.ask("", f"ALTER ROLE {roles.owner} SET search_path = {path}")
    world = World(roles.url(roles.owner), clock)
    world.sync()
    assert world.replica() == world.upstream()
    assert roles.ok("status")
    assert roles.ask("", "SELECT count(*) FROM public.student") == [(0,)]


def test_a_session_that_a_pooler_has_reset_writes_into_ours_all_the_same(roles: Roles, clock: ManualClock) -> None:
    set_up(roles)
    roles.ask("", "CREATE TABLE public.source (LIKE rostersync.source)", "GRANT ALL ON public.source TO PUBLIC")
    with Store(roles.url(roles.owner), clock).writing() as connection:
        connection.exec_driver_sql("RESET search_path")
        lock_source(connection, "main")
    assert roles.ask("", "SELECT count(*) FROM public.source") == [(0,)]


def test_temporary_tables_stand_behind_ours(roles: Roles, clock: ManualClock) -> None:
    set_up(roles)
    with Store(roles.url(roles.owner), clock).reading() as connection, connection.begin():
        connection.exec_driver_sql("CREATE TEMPORARY TABLE source (name text)")
        assert connection.scalar(text("SELECT 'source'::regclass = 'rostersync.source'::regclass"))


def test_a_url_cannot_move_the_search_path(roles: Roles) -> None:
    url = f"{roles.admin}&options=-csearch_path%3Dpublic"
    with open_engine(url).connect() as connection, connection.begin():
        assert connection.scalar(text("SHOW search_path")) == "rostersync, pg_temp"


# The lock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pg_advisory_lock", "pg_advisory_lock_shared"])
def test_a_stranger_who_took_the_lock_of_a_source_is_named_with_role_and_pid(
    roles: Roles, clock: ManualClock, how: str
) -> None:
    set_up(roles)
    store = Store(roles.url(roles.owner), clock)
    with store.lease("main", "rostersync sync"):
        pass
    with roles.connect(roles.stranger) as connection:
        connection.execute(f"SELECT {how}({advisory_key('main')})".encode())
        with pytest.raises(LockHeld) as caught, store.lease("main", "test"):
            pass
        assert f"the database role {roles.stranger} (server pid {connection.info.backend_pid})" in caught.value.message
        assert f"pg_terminate_backend({connection.info.backend_pid})" in caught.value.hint
