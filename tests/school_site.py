"""A school on loopback, a configuration for it, and the command line: for tests of the program as a whole."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canary import TOKEN, Process, heard
from click.testing import CliRunner
from conftest import see_views
from sqlalchemy import make_url, text

from rostersync.cli.program import program
from rostersync.clock import SystemClock
from rostersync.simulator import App, School, Server
from rostersync.store.database.engine import open_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

    from rostersync.simulator import Switches

ROOT = Path(__file__).parents[1]


class Site:
    """A folder with a configuration in it, for the simulated school `main` at `base_url`."""

    def __init__(self, folder: Path, database_url: str, base_url: str, app: App) -> None:
        self.folder, self.database_url, self.base_url = folder, database_url, base_url
        self.app, self.faults, self.school = app, app.faults, app.school
        self.path = folder / "config.toml"
        self.environ: dict[str, str] = {"ROSTERSYNC_TOKEN": TOKEN}
        self.configure()

    def configure(self, more: str = "", *, sources: tuple[str, ...] = ("main",), **changes: str) -> None:
        """Write the configuration anew, with `more` tables, these sources, and other values for their keys."""
        url = changes.pop("url", self.database_url)
        keys = {"base_url": self.base_url} | changes
        lines = "\n".join(
            f"{key} = {value if value in {'true', 'false'} else json.dumps(value)}" for key, value in keys.items()
        )
        tables = "\n".join(f'[[sources]]\nname = "{name}"\n{lines}' for name in sources)
        quick = '[sync]\nretries = 0\ntimeout = "5s"\n' if "[sync]" not in more else ""
        self.path.write_text(f'[database]\nurl = "{url}"\n{tables}\n{quick}{more}', encoding="utf-8")

    def run(self, *words: str) -> Result:
        """Run the program in this process, with this configuration."""
        return self.run_bare(*words, "-c", str(self.path))

    def run_bare(self, *words: str) -> Result:
        """Run the program in this process, with these words only."""
        return heard(words, CliRunner().invoke(program, list(words), env=self.environ))

    def ok(self, *words: str) -> str:
        """Run the program, which must succeed; return what it printed."""
        result = self.run(*words)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)

    def start(self, *words: str, program: tuple[str, ...] = ("-m", "rostersync")) -> Process:
        """Start the program, or Python on another one, as a process of its own; the caller ends it."""
        command = [sys.executable, *program, *words, "-c", str(self.path)]
        return Process(words, command, cwd=ROOT, env=os.environ | self.environ)

    def rows(self, query: str) -> list[Any]:
        with open_engine(self.database_url).connect() as connection, connection.begin():
            see_views(connection)
            return list(connection.execute(text(query)))

    def has_database(self) -> bool:
        """Tell whether there is a file, or anything in the PostgreSQL database."""
        url = make_url(self.database_url)
        if url.get_backend_name() == "sqlite":
            return Path(url.database or "").exists()
        return bool(self.rows("SELECT 1 FROM information_schema.tables WHERE table_schema = 'rostersync'"))


@contextmanager
def serve(folder: Path, database_url: str, size: int = 30, switches: Switches | None = None) -> Iterator[Site]:
    app = App(School(1, size, SystemClock(), switches), TOKEN)
    with Server(app) as server:
        yield Site(folder, database_url, server.base_url, app)
