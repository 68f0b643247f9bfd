"""Databases of PostgreSQL with roles as a school has them: an owner who is no superuser, a reader, and a stranger."""

from __future__ import annotations

import json
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from canary import heard
from click.testing import CliRunner
from sqlalchemy import URL, make_url

from rostersync.cli.program import program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result
    from conftest import PostgresServer


class Roles:
    """A database, the urls of three roles in it, and the commands as its owner runs them."""

    def __init__(self, admin: str, folder: Path) -> None:
        suffix = uuid.uuid4().hex[:8]
        self.admin, self._folder = admin, folder
        self.owner, self.reader, self.stranger = (f"{who}_{suffix}" for who in ("owner", "reader", "stranger"))

    def url(self, role: str) -> str:
        return make_url(self.admin).set(username=role).render_as_string(hide_password=False)

    def ask(self, role: str, *statements: str, notices: list[str] | None = None) -> list[tuple[Any, ...]]:
        """Run statements as a role, `""` for the administrator, with its own search path; the last one's rows."""
        with self.connect(role) as connection:
            if notices is not None:
                connection.add_notice_handler(lambda said: notices.append(said.message_primary or ""))
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def connect(self, role: str) -> psycopg.Connection[Any]:
        url: URL = make_url(self.url(role) if role else self.admin)
        conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
        return psycopg.connect(conninfo, autocommit=True)

    def run(self, *words: str, url: str = "") -> Result:
        """Run a command on the database, by default as its owner."""
        path = self._folder / "config.toml"
        database = f"[database]\nurl = {json.dumps(url or self.url(self.owner))}\n"
        path.write_text(f'{database}[[sources]]\nname = "main"\nbase_url = "http://127.0.0.1:1"\n', encoding="utf-8")
        result = CliRunner().invoke(program, [*words, "-c", str(path)], env={"ROSTERSYNC_TOKEN": "0" * 32})
        return heard(words, result)

    def ok(self, *words: str) -> str:
        result = self.run(*words)
        assert result.exit_code == 0, result.output
        return result.stdout


@contextmanager
def roles_on(server: PostgresServer, folder: Path) -> Iterator[Roles]:
    """Lend an empty database, whose owner may not yet create anything in it."""
    roles = Roles(server.create(), folder)
    names = (roles.owner, roles.reader, roles.stranger)
    # Since PostgreSQL 15 this is how a new database is; servers of before are often upgraded as they were.
    roles.ask("", "REVOKE CREATE ON SCHEMA public FROM PUBLIC", *(f"CREATE ROLE {name} LOGIN" for name in names))
    try:
        yield roles
    finally:
        server.drop(roles.admin)
        server.execute(f"DROP ROLE {', '.join(names)}")


def set_up(roles: Roles) -> None:
    """Have the administrator grant what is needed, and the tables made."""
    roles.ask("", f"CREATE SCHEMA rostersync AUTHORIZATION {roles.owner}")
    roles.ask("", f"GRANT CREATE ON SCHEMA public TO {roles.owner}")
    roles.ok("db", "upgrade")
