"""A reader of the views can read these and nothing else, by no function of its own either, before and after an upgrade.

It runs on the PostgreSQL of the development dependencies and on the one of this machine, and prints what the role can
and cannot read: `./dev test tests/security/test_postgresql_reader.py -rP`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from conftest import ManualClock, PostgresServer, postgres_of_this_machine, running_postgres
from earlier import back_to
from harness import World
from roles import Roles, roles_on, set_up

from rostersync.store.schema.column_statistics import KEPT
from rostersync.store.schema.readers import NAMES
from rostersync.store.schema.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=["wheel", "machine"])
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    if request.param == "wheel":
        yield request.getfixturevalue("postgres_server")
        return
    programs = postgres_of_this_machine()
    if programs is None:
        pytest.skip("no PostgreSQL is installed on this machine")
    temporary = tempfile.TemporaryDirectory(prefix="rs-pg-", ignore_cleanup_errors=True)
    with temporary as folder, running_postgres(Path(folder), programs=programs) as admin:
        yield PostgresServer(admin)


@pytest.fixture
def empty(server: PostgresServer, tmp_path: Path) -> Iterator[Roles]:
    with roles_on(server, tmp_path) as roles:
        set_up(roles)
        yield roles


@pytest.fixture
def roles(empty: Roles, clock: ManualClock) -> Roles:
    """A replica in which one student is withdrawn and one deleted."""
    World(empty.url(empty.owner), clock).sync()
    first, second = (row[0] for row in empty.ask("", "SELECT id FROM public.enrolled_student ORDER BY id LIMIT 2"))
    empty.ask("", f"UPDATE rostersync.student SET status = 'withdrawn' WHERE id = {first}")
    empty.ask("", f"UPDATE rostersync.student SET deleted_at = now(), deletion_source = 'sweep' WHERE id = {second}")
    empty.ask("", "ANALYZE")
    return empty


# What it can and cannot ------------------------------------------------------------------------------------------

PEEK = """
CREATE FUNCTION pg_temp.peek(id bigint) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
  $$ BEGIN RAISE NOTICE '%', id; RETURN true; END $$
"""
TABLES = (*metadata.tables, "alembic_version")
ATTEMPTS = {
    "COPY rostersync.student TO STDOUT": "read a table by COPY",
    "TABLE rostersync.run_run_id_seq": "read a sequence",
    "TABLE pg_statistic": "read the statistics",
    "SELECT pg_read_file('PG_VERSION')": "read a file of the server",
    "SELECT query_to_xml('TABLE rostersync.student', true, false, '')": "read a table by a function of the server",
    "INSERT INTO public.current_student (source, id) VALUES ('main', 1)": "insert by a view",
    "UPDATE public.current_student SET last_name = ''": "update by a view",
    "DELETE FROM public.current_student": "delete by a view",
    "TRUNCATE rostersync.student": "empty a table",
    "ALTER VIEW public.enrolled_student SET (security_barrier = false)": "take a view's barrier away",
    "CREATE OR REPLACE VIEW public.sync_run AS SELECT 1 AS run_id": "replace a view",
    "CREATE TABLE rostersync.planted (id bigint)": "create something among the tables",
    "SET ROLE {owner}": "become the owner",
}


def outcome(roles: Roles, query: str) -> str:
    try:
        roles.ask(roles.reader, query)
    except psycopg.errors.InsufficientPrivilege:
        return "no"
    return "yes"


def access(roles: Roles) -> dict[str, str]:
    """Return what the reader can do, each thing tried."""
    found = {f"read the view {view}": outcome(roles, f"SELECT count(*) FROM public.{view}") for view in NAMES}
    found |= {f"read the table {table}": outcome(roles, f"SELECT count(*) FROM rostersync.{table}") for table in TABLES}
    found |= {what: outcome(roles, attempt.format(owner=roles.owner)) for attempt, what in ATTEMPTS.items()}
    stats = roles.ask(roles.reader, "SELECT count(*) FROM pg_stats WHERE schemaname = 'rostersync'")
    found["see the tables' rows in pg_stats"] = "yes" if stats != [(0,)] else "no"
    for view in ("enrolled_student", "current_student"):
        what = f"see rows that are not in {view} by a function of its own"
        found[what] = "yes" if peeked(roles, view) else "no"
    return found


def peeked(roles: Roles, view: str) -> set[str]:
    """Return the students of whom a function of the reader's, cheaper than the view's own condition, hears too much."""
    notices: list[str] = []
    query = f"SELECT id FROM public.{view} WHERE pg_temp.peek(id)"
    try:
        shown = {str(row[0]) for row in roles.ask(roles.reader, PEEK, query, notices=notices)}
    except psycopg.errors.InsufficientPrivilege:
        return set()
    assert shown
    return {*notices} - shown


def expected(*views: str) -> dict[str, str]:
    return {
        **{f"read the view {view}": "yes" if view in views else "no" for view in NAMES},
        **{f"read the table {table}": "no" for table in TABLES},
        **dict.fromkeys(ATTEMPTS.values(), "no"),
        "see the tables' rows in pg_stats": "no",
        "see rows that are not in enrolled_student by a function of its own": "no",
        "see rows that are not in current_student by a function of its own": "no",
    }


def test_a_reader_can_read_the_views_and_nothing_else(roles: Roles) -> None:
    assert access(roles) == expected()
    assert roles.ok("grant-reader", roles.reader).startswith(f"role {roles.reader} can read current_student, enrolled")
    found = access(roles)
    ((version,),) = roles.ask("", "SHOW server_version")
    lines = [f"PostgreSQL {version}: what a reader can do", *(f"{can:4}{what}" for what, can in found.items())]
    print("\n".join(lines))  # noqa: T201 - shown by -rP
    assert found == expected(*NAMES)


def test_a_reader_of_some_views_can_read_these_only(roles: Roles) -> None:
    roles.ok("grant-reader", roles.reader, "--view", "enrolled_student", "--view", "sync_health")
    assert access(roles) == expected("enrolled_student", "sync_health")


def test_a_function_of_the_readers_own_would_see_too_much_without_the_barrier(roles: Roles) -> None:
    """It shows that the attack is one."""
    roles.ok("grant-reader", roles.reader)
    roles.ask("", "ALTER VIEW public.enrolled_student SET (security_barrier = false)")
    assert peeked(roles, "enrolled_student")


# Statistics, from which EXPLAIN estimates ---------------------------------------------------------------------------

NAMED = "SELECT count(*) FROM pg_stats WHERE tablename ~ '^student' AND attname IN ('last_name', 'record', 'extra')"
GATHERED = """
SELECT DISTINCT attname FROM pg_stats WHERE schemaname = 'rostersync' AND tablename ~ '^student' ORDER BY 1
"""
AS_BEFORE = "".join(
    f"ALTER TABLE rostersync.{table} ALTER COLUMN {column.name} SET STATISTICS -1;"
    for table in ("student", "student_version", "student_detail")
    for column in metadata.tables[table].columns
)


def estimate(roles: Roles, last_name: str) -> str:
    query = f"EXPLAIN SELECT FROM public.enrolled_student WHERE last_name = '{last_name}'"
    return roles.ask(roles.reader, query)[0][0]


def let_a_withdrawn_name_be_common(roles: Roles) -> None:
    """Add 2,000 students; every other one is withdrawn, and these have one last name."""
    given = {"id", "last_name", "status"}
    copied = ", ".join(c.name for c in metadata.tables["student"].columns if c.name not in given)
    odd = "'Of-' || i, 'enrolled' FROM one, generate_series(1, 2000, 2) i"
    even = "'Commonplace', 'withdrawn' FROM one, generate_series(2, 2000, 2) i"
    roles.ask(
        "",
        "CREATE TEMPORARY TABLE one AS SELECT * FROM rostersync.student LIMIT 1",
        *(
            f"INSERT INTO rostersync.student (id, {copied}, last_name, status) SELECT 900000 + i, {copied}, {rest}"
            for rest in (odd, even)
        ),
    )


def test_explain_does_not_tell_a_reader_which_names_are_common(roles: Roles) -> None:
    roles.ok("grant-reader", roles.reader, "--view", "enrolled_student")
    let_a_withdrawn_name_be_common(roles)
    roles.ask("", "ANALYZE")
    assert estimate(roles, "Commonplace") == estimate(roles, "Nobody-has-this")


def test_statistics_are_gathered_of_columns_that_plans_need_only(roles: Roles) -> None:
    roles.ask("", "UPDATE rostersync.student SET last_name = 'Commonplace'", "ANALYZE")
    assert {name for (name,) in roles.ask("", GATHERED)} <= KEPT
    assert {"id", "deleted_at"} <= KEPT


def test_the_number_of_enrolled_students_is_estimated_well_so_that_reports_have_good_plans(roles: Roles) -> None:
    let_a_withdrawn_name_be_common(roles)
    roles.ask("", "ANALYZE")
    ((plan,),) = roles.ask("", "EXPLAIN (FORMAT JSON) SELECT FROM public.enrolled_student")
    assert 900 < plan[0]["Plan"]["Plan Rows"] < 1100


def test_an_upgrade_removes_the_statistics_that_were_gathered_and_leaves_the_views_in_their_place(roles: Roles) -> None:
    roles.ok("grant-reader", roles.reader, "--view", "enrolled_student")
    roles.ask("", AS_BEFORE, "SET search_path = rostersync; " + "; ".join(back_to("0007", "postgresql")))
    let_a_withdrawn_name_be_common(roles)
    roles.ask("", "ANALYZE")
    roles.ask("", "CREATE VIEW public.of_an_analyst AS SELECT last_name FROM public.current_student")
    assert roles.ask("", NAMED) != [(0,)]
    assert estimate(roles, "Commonplace") != estimate(roles, "Nobody-has-this")  # the attack
    content = "SELECT * FROM public.student_history ORDER BY id, valid_from"
    dependent = "SELECT count(*), min(last_name) FROM public.of_an_analyst"
    before = roles.ask("", content), roles.ask("", dependent)
    ours = "relnamespace = 'rostersync'::regnamespace AND relkind = 'r'"
    files = f"SELECT relname, relfilenode FROM pg_class WHERE {ours} ORDER BY 1"
    where = roles.ask("", files)

    roles.ok("db", "upgrade")

    assert roles.ask("", files) == where  # no table was written anew
    assert (roles.ask("", content), roles.ask("", dependent)) == before
    assert {name for (name,) in roles.ask("", GATHERED)} <= KEPT
    roles.ask("", "ANALYZE")
    assert roles.ask("", NAMED) == [(0,)]
    assert estimate(roles, "Commonplace") == estimate(roles, "Nobody-has-this")
    assert access(roles) == expected("enrolled_student")


# Over upgrades ---------------------------------------------------------------------------------------------------

# As 0005 left it: what comes behind leaves the views alone.
OLDER = "; ".join(["SET search_path = rostersync", *back_to("0005", "postgresql")])


@pytest.mark.parametrize("views", [(), ("enrolled_student", "sync_run")], ids=["all", "two"])
def test_an_upgrade_keeps_what_a_reader_can_read_also_of_views_that_it_creates_again(
    roles: Roles, views: tuple[str, ...]
) -> None:
    roles.ok("grant-reader", roles.reader, *(word for view in views for word in ("--view", view)))
    roles.ask(
        "",
        "ALTER VIEW public.sync_run RENAME run_id TO number",  # it has to be dropped
        "ALTER VIEW public.enrolled_student SET (security_barrier = false)",
        f"GRANT USAGE, CREATE ON SCHEMA public TO {roles.owner}",
        OLDER,
    )
    roles.ok("db", "upgrade")
    assert access(roles) == expected(*(views or NAMES))


def test_a_view_that_a_later_version_adds_is_not_read_until_it_is_granted(roles: Roles) -> None:
    roles.ok("grant-reader", roles.reader)
    roles.ask("", "DROP VIEW public.audit_log", OLDER)
    roles.ok("db", "upgrade")
    assert access(roles) == expected(*(name for name in NAMES if name != "audit_log"))
    roles.ok("grant-reader", roles.reader)
    assert access(roles) == expected(*NAMES)


# The commands ----------------------------------------------------------------------------------------------------

PRIVILEGES = """
SELECT n.nspname, relname, relacl::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
 WHERE nspname IN ('public', 'rostersync') ORDER BY 1, 2
"""


def test_granting_and_revoking_twice_changes_nothing_more(empty: Roles) -> None:
    for verb in ("grant-reader", "revoke-reader"):
        said = empty.ok(verb, empty.reader)
        before = empty.ask("", PRIVILEGES)
        assert empty.ok(verb, empty.reader) == said
        assert empty.ask("", PRIVILEGES) == before


def test_granting_less_takes_the_rest_away(empty: Roles) -> None:
    empty.ok("grant-reader", empty.reader)
    empty.ask("", f"GRANT ALL ON rostersync.student, public.sync_run TO {empty.reader}")
    empty.ask("", f"GRANT USAGE ON SCHEMA rostersync TO {empty.reader}")
    said = empty.ok("grant-reader", empty.reader, "--view", "sync_run")
    assert said == f"role {empty.reader} can read sync_run\n"
    assert outcome(empty, "SELECT 1 FROM public.current_student") == "no"
    assert outcome(empty, "SELECT 1 FROM rostersync.student") == "no"
    assert outcome(empty, "DELETE FROM public.sync_run") == "no"


def test_revoking_leaves_a_reader_with_nothing(empty: Roles) -> None:
    empty.ok("grant-reader", empty.reader)
    assert empty.ok("revoke-reader", empty.reader) == f"role {empty.reader} can read no view\n"
    assert {outcome(empty, f"SELECT 1 FROM public.{view}") for view in NAMES} == {"no"}


def test_revoking_tells_what_is_read_by_other_ways(empty: Roles) -> None:
    empty.ask("", "GRANT SELECT ON public.sync_run TO PUBLIC")
    result = empty.run("revoke-reader", empty.reader)
    assert result.exit_code == 1
    assert "can still read sync_run" in result.stdout


@pytest.mark.parametrize("verb", ["grant-reader", "revoke-reader"])
def test_a_role_that_is_not_there_is_told_with_those_that_are(empty: Roles, verb: str) -> None:
    result = empty.run(verb, 'nobody\'s "role"')
    assert result.exit_code == 2
    assert "no such role" in result.stderr
    assert empty.reader in result.stderr
    assert "CREATE ROLE" in result.stderr


def test_a_view_that_is_not_there_is_told_with_those_that_are(empty: Roles) -> None:
    result = empty.run("grant-reader", empty.reader, "--view", "student")
    assert result.exit_code == 2
    assert "current_student" in result.stderr


@pytest.mark.parametrize("verb", ["grant-reader", "revoke-reader"])
def test_the_owner_its_members_and_superusers_are_no_readers(empty: Roles, verb: str) -> None:
    empty.ask("", f"GRANT {empty.owner} TO {empty.stranger}")
    before = empty.ask("", PRIVILEGES)
    for role in (empty.owner, empty.stranger, "postgres"):
        result = empty.run(verb, role)
        assert result.exit_code == 2
        assert "can do everything that rostersync can do" in result.stderr
    assert empty.ask("", PRIVILEGES) == before


READS = "GRANT USAGE ON SCHEMA rostersync TO {other}; GRANT SELECT ON rostersync.student TO {other}"
WAYS = {
    "member of a role that reads the tables": f"{READS}; GRANT {{other}} TO {{reader}}",
    "noinherit member of one": f"ALTER ROLE {{reader}} NOINHERIT; {READS}; GRANT {{other}} TO {{reader}}",
    "reads pg_stats of a table": "GRANT SELECT (last_name) ON rostersync.student TO {other}; GRANT {other} TO {reader}",
    "the schema is open to all": "GRANT USAGE ON SCHEMA rostersync TO PUBLIC",
    "noinherit member of a superuser": "ALTER ROLE {reader} NOINHERIT; ALTER ROLE {other} SUPERUSER;"
    " GRANT {other} TO {reader}",
    "replication": "ALTER ROLE {reader} REPLICATION",
    "member of a role with replication": "ALTER ROLE {other} REPLICATION; GRANT {other} TO {reader}",
    **{
        name: f"ALTER ROLE {{reader}} NOINHERIT; GRANT {name} TO {{reader}}"
        for name in ("pg_read_all_data", "pg_read_server_files", "pg_write_server_files", "pg_execute_server_program")
    },
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_role_that_reaches_the_tables_by_another_way_is_no_reader_and_gets_nothing(empty: Roles, way: str) -> None:
    empty.ask("", way.format(other=empty.stranger, reader=empty.reader))
    before = empty.ask("", PRIVILEGES)
    result = empty.run("grant-reader", empty.reader)
    assert result.exit_code == 2
    assert f"role {empty.reader}: can reach the tables" in result.stderr
    assert empty.ask("", PRIVILEGES) == before


def test_a_role_that_may_grant_itself_any_other_is_no_reader(empty: Roles) -> None:
    ((version,),) = empty.ask("", "SHOW server_version_num")
    empty.ask("", f"ALTER ROLE {empty.stranger} CREATEROLE; GRANT {empty.stranger} TO {empty.reader}")
    result = empty.run("grant-reader", empty.reader)
    if int(version) >= 160000:  # where it may grant only what it was made the administrator of
        assert result.exit_code == 0
        empty.ask("", f"GRANT pg_read_all_data TO {empty.reader} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
        result = empty.run("grant-reader", empty.reader)
    assert result.exit_code == 2
    assert "can reach the tables" in result.stderr


def test_the_error_names_each_role_and_how_it_reaches_the_tables(empty: Roles) -> None:
    empty.ask("", f"ALTER ROLE {empty.reader} REPLICATION NOINHERIT", f"GRANT pg_read_all_data TO {empty.reader}")
    said = empty.run("grant-reader", empty.reader).stderr
    assert "pg_read_all_data (reads all tables)" in said
    assert f"{empty.reader} (REPLICATION)" in said


def test_what_a_reader_can_read_as_another_role_is_told(empty: Roles) -> None:
    empty.ask("", f"GRANT SELECT ON public.sync_run TO {empty.stranger}", f"ALTER ROLE {empty.reader} NOINHERIT")
    empty.ask("", f"GRANT {empty.stranger} TO {empty.reader}")
    said = empty.ok("grant-reader", empty.reader, "--view", "sync_health")
    assert said == f"role {empty.reader} can read sync_run, sync_health\n"
    assert "can still read sync_run" in empty.run("revoke-reader", empty.reader).stdout


def test_who_cannot_be_let_in_by_rostersync_is_told_with_the_statements(empty: Roles) -> None:
    ((database,),) = empty.ask("", "SELECT current_database()")
    empty.ask("", "REVOKE USAGE ON SCHEMA public FROM PUBLIC", f"GRANT USAGE ON SCHEMA public TO {empty.owner}")
    empty.ask(
        "",
        f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {database} TO {empty.owner}",
    )
    result = empty.run("grant-reader", empty.reader)
    assert result.exit_code == 1
    statements = [
        f"GRANT CONNECT ON DATABASE {database} TO {empty.reader};",
        f"GRANT USAGE ON SCHEMA public TO {empty.reader};",
    ]
    assert " ".join(statements) in result.stderr
    empty.ask("", *statements[:1], f"GRANT USAGE ON SCHEMA public TO {empty.owner} WITH GRANT OPTION")
    empty.ok("grant-reader", empty.reader)
    assert outcome(empty, "SELECT 1 FROM public.current_student") == "yes"


@pytest.mark.parametrize("verb", ["grant-reader", "revoke-reader"])
def test_an_sqlite_file_has_no_readers(empty: Roles, tmp_path: Path, verb: str) -> None:
    result = empty.run(verb, "analyst", url=f"sqlite:///{tmp_path}/roster.db")
    assert result.exit_code == 2
    assert "SQLite" in result.stderr
    assert "PostgreSQL" in result.stderr
