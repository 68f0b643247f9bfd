"""The demo, as somebody sees it who has just fetched the project."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from school_site import ROOT


def test_the_demo_needs_nothing_takes_seconds_and_leaves_a_database_to_look_at(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "rostersync", "demo"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - begun < 20  # 2 s on a quiet machine
    said = done.stdout
    assert "\x1b" not in said  # piped: no colours
    assert "full run 1 succeeded" in said
    assert "incremental run 2 succeeded" in said
    assert "1 deleted" in said
    database = Path(re.search(r"sqlite3 (\S+)", said)[1])
    assert database.is_relative_to(tmp_path)
    with closing(sqlite3.connect(database)) as connection:
        (enrolled,) = connection.execute("SELECT count(*) FROM enrolled_student").fetchone()
        (gone,) = connection.execute("SELECT count(*) FROM deleted_student").fetchone()
    assert enrolled > 500
    assert gone >= 1
    shutil.rmtree(database.parent)
