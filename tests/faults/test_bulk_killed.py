"""A bulk write that is killed and run again: nobody is missed, and nobody is written twice."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from school_site import Site, serve
from sqlalchemy import make_url

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.long

STUDENTS = 500
KILLS = {"sqlite": 3, "postgresql": 1}
"""What a death leaves behind is the API's and the audit log's: so the other database is killed less often."""


@pytest.mark.timeout(300)
def test_an_archive_of_500_killed_at_any_moments_and_run_again_archives_each_exactly_once(
    migrated_url: str, tmp_path: Path
) -> None:
    rng = random.Random(15)
    with serve(tmp_path, migrated_url, STUDENTS + 20) as site:
        site.configure(allow_writes="true")
        site.ok("sync")
        keys = sorted(site.school.truth())[:STUDENTS]
        file = tmp_path / "graduates.csv"
        file.write_text("id,graduated_on\n" + "".join(f"{key},2026-06-19\n" for key in keys))
        words = ("students", "archive", "--from-csv", str(file), "--expect", str(STUDENTS), "--yes")
        kills = KILLS[make_url(migrated_url).get_backend_name()]
        for kill in range(kills):
            _kill_after(site, words, (kill + rng.random()) * STUDENTS / (kills + 1), rng.uniform(0, 0.02))
        document = site.json(*words)
        assert set(document["counts"]) <= {"done", "unchanged"}
        assert sum(document["counts"].values()) == STUDENTS
        written = Counter(path for method, path, _ in site.app.log if method == "PUT")
        assert written == {f"/v2p1/students/{key}/archive": 1 for key in keys}
        assert all(site.school.truth()[key]["graduated_on"] == "2026-06-19" for key in keys)
        site.ok("sync")
        assert site.json("verify")["sources"][0]["state"] == "equal"
        noted = {str(row.ids) for row in site.rows("SELECT ids FROM audit_log WHERE verb = 'archive'")}
        assert len(noted) == STUDENTS  # some twice: noted, killed before it was sent, and sent by the next process


def _kill_after(site: Site, words: tuple[str, ...], writes: float, seconds: float) -> None:
    """Kill the process some time after the school has got so many writes in all."""
    process, seen, written = site.start(*words), 0, 0
    while process.poll() is None and written < writes:
        time.sleep(0.002)
        new = list(site.app.log)[seen:]  # no more than that: who counts all again keeps the school from answering
        seen, written = seen + len(new), written + sum(method == "PUT" for method, _, _ in new)
    time.sleep(seconds)
    process.kill()
    process.communicate(timeout=20)
