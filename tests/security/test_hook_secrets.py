"""The hook gets no secret from the process that calls it, neither by inheriting it nor by looking for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from canary import SEARCH, TOKEN
from school_site import Site, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICE = 64_242
"""The uid and gid of the service, which no user of this machine has."""

AS_ANY_USER = """\
import ctypes
from rostersync.cli import ownership
from rostersync.__main__ import main
become = ownership._become
def become_like_a_login(user):
    become(user)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
ownership._become = become_like_a_login
main()"""
"""The program with the rights of a user who is not root, on a system that lets processes of one user see each other.

Linux by itself hides a process that has just ceased to be root's, and not one that a user has started.
"""


@pytest.fixture
def site() -> Iterator[Site]:
    """A school in a folder of the service's user."""
    folder = Path(tempfile.mkdtemp(prefix="rostersync-hook-"))
    if os.geteuid() == 0:
        os.chown(folder, SERVICE, SERVICE)
    with serve(folder, f"sqlite:///{folder}/roster.db", 3) as site:
        yield site
    SEARCH.folder(folder)
    shutil.rmtree(folder)


def sync(site: Site, script: str) -> str:
    """Sync with this shell script as the hook; return what it has written to `seen` in the current folder."""
    command = ["sh", "-c", f"cd {site.folder}; {script}"]
    site.configure(f"\n[hooks]\nafter_run = {json.dumps(command)}\n")
    process = site.start("sync", program=("-c", AS_ANY_USER))
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    seen = site.folder / "seen"
    text = seen.read_text(encoding="utf-8", errors="replace")
    seen.unlink()  # the hook may have found the token
    return text


def test_a_hook_finds_the_token_in_no_process_that_is_above_it(site: Site) -> None:
    parent = "$(sed 's/.*) //' /proc/$p/stat | cut -d' ' -f2)"
    seen = sync(site, f"p=$$; while test $p -gt 1; do cat /proc/$p/environ; p={parent}; done >seen 2>/dev/null; true")
    assert "PATH=" in seen
    assert TOKEN not in seen


def test_a_hook_inherits_no_password(site: Site) -> None:
    site.environ |= {"DB_PASSWORD": "hunter2", "PGPASSWORD": "hunter2", "ROSTERSYNC_CONFIG": "/invented"}
    site.environ |= {"ROSTERSYNC_ROSTER": f"{site.folder}/roster.db"}
    site.database_url = "sqlite:///${ROSTERSYNC_ROSTER}"  # a part of the url may be its password
    seen = sync(site, "env >seen")
    assert "roster.db" not in seen
    assert "ROSTERSYNC_CONFIG=/invented" in seen
    assert "hunter2" not in seen
    assert TOKEN not in seen


def test_the_process_and_its_hook_dump_no_core(site: Site) -> None:
    assert sync(site, "ulimit -c >seen") == "0\n"


def test_every_command_hides_its_memory_and_dumps_no_core() -> None:
    """PR_GET_DUMPABLE is 3."""
    script = """\
import ctypes, resource
from rostersync.__main__ import main
try:
    main()
finally:
    print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))"""
    done = subprocess.run([sys.executable, "-c", script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["0 (0, 0)"]
