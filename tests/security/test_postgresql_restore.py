"""A restore by the role that owns the tables, which is no superuser, beside a reader and an analyst."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from backups import dumped_by_hand
from roles import Roles, roles_on, set_up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import PostgresServer


@pytest.fixture
def roles(postgres_server: PostgresServer, tmp_path: Path, client_programs: Path) -> Iterator[Roles]:
    with roles_on(postgres_server, tmp_path) as roles:
        set_up(roles)
        add_source(roles, "first")
        roles.ok("grant-reader", roles.reader, "--view", "sync_health")
        yield roles


def add_source(roles: Roles, name: str) -> None:
    columns = "name, fence, deleted_feed_ignored, unknown_keys"
    roles.ask(roles.owner, f"INSERT INTO rostersync.source ({columns}) VALUES ('{name}', 1, FALSE, '[]')")


def sources_seen(roles: Roles, role: str, view: str = "public.sync_health") -> list[str]:
    return [str(name) for (name,) in roles.ask(role, f"SELECT source FROM {view} ORDER BY 1")]


def test_the_owner_restores_and_a_reader_and_an_analyst_go_on(roles: Roles, tmp_path: Path) -> None:
    analyst = roles.stranger
    roles.ask("", f"GRANT SELECT ON public.sync_health TO {analyst}", f"CREATE SCHEMA analyst AUTHORIZATION {analyst}")
    roles.ask(analyst, "CREATE VIEW analyst.names AS SELECT source FROM public.sync_health")
    roles.ok("db", "backup", str(tmp_path / "roster.backup"))
    add_source(roles, "second")
    assert sources_seen(roles, analyst, "analyst.names") == ["first", "second"]
    roles.ok("db", "restore", "--yes", str(tmp_path / "roster.backup"))
    assert sources_seen(roles, roles.reader) == ["first"]
    assert sources_seen(roles, analyst, "analyst.names") == ["first"]
    roles.ok("db", "check")
    result = roles.run("grant-reader", roles.reader)
    assert result.exit_code == 0, result.output


def test_the_tables_of_an_administrators_dump_belong_to_the_role_that_restores_it(roles: Roles, tmp_path: Path) -> None:
    file = dumped_by_hand(roles.admin, tmp_path / "roster.dump")
    roles.ok("db", "restore", "--yes", str(file))
    owners = "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'rostersync'::regnamespace"
    assert roles.ask("", owners) == [(roles.owner,)]
    assert sources_seen(roles, roles.reader) == ["first"]
