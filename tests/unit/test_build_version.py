"""Each build has its own version, and the versions of later commits are later ones."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[2]
RELEASE = re.findall(r"^## \[(\d\S*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[0]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree that is not under version control."""
    folder = tmp_path / "tree"
    folder.mkdir()
    shutil.copy(ROOT / "build_version.py", folder)
    return folder


def git(folder: Path, *words: str) -> str:
    person = ["-c", "user.name=Nobody", "-c", "user.email=nobody@school.invalid", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *person, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path) -> str:
    """Commit all files. Return the beginning of the commit's name."""
    if not (folder / ".git").exists():
        git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "A change")
    return git(folder, "rev-parse", "--short=12", "HEAD")


def version(folder: Path) -> str:
    found: str = runpy.run_path(str(folder / "build_version.py"))["version"]()
    assert Version(found)
    return found


def test_without_a_tag_the_version_counts_all_commits(tree: Path) -> None:
    first = commit(tree)
    assert version(tree) == f"{RELEASE}.post1+g{first}"
    second = commit(tree)
    assert version(tree) == f"{RELEASE}.post2+g{second}"


def test_with_a_tag_the_version_counts_the_commits_since_the_tag(tree: Path) -> None:
    tagged = commit(tree)
    git(tree, "tag", "v99.0.0")
    git(tree, "tag", "an-experiment")
    assert version(tree) == f"99.0.0+g{tagged}"
    after = commit(tree)
    assert version(tree) == f"99.0.0.post1+g{after}"


def test_versions_grow_with_each_commit_and_each_release(tree: Path) -> None:
    found = [RELEASE]
    for release in ("99.0.0", "99.1.0rc1", "99.1.0"):
        for _ in range(11):
            commit(tree)
            found.append(version(tree))
        git(tree, "tag", f"v{release}")
        found.append(version(tree))
    assert sorted(found, key=Version) == found


@pytest.mark.parametrize("name", ["build_version.py", "new.py"])
def test_the_version_of_a_changed_tree_has_the_time(tree: Path, name: str) -> None:
    head = commit(tree)
    with (tree / name).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert re.fullmatch(rf"{re.escape(RELEASE)}\.post1\+g{head}\.d20\d{{12}}", version(tree))


def test_a_shallow_clone_has_a_version_with_its_commit(tree: Path, tmp_path: Path) -> None:
    commit(tree)
    head = commit(tree)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth=1", tree.as_uri(), str(clone))
    assert version(clone) == f"{RELEASE}.post1+g{head}"


def test_a_worktree_has_the_version_of_its_commit(tree: Path, tmp_path: Path) -> None:
    head = commit(tree)
    git(tree, "worktree", "add", "--quiet", str(tmp_path / "other"))
    commit(tree)
    assert version(tmp_path / "other") == f"{RELEASE}.post1+g{head}"


def test_without_git_the_version_says_so(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nogit = rf"{re.escape(RELEASE)}\+nogit\.d20\d{{12}}"
    assert re.fullmatch(nogit, version(tree))
    commit(tree.parent)  # the commits of a repository around the tree say nothing about the tree
    assert re.fullmatch(nogit, version(tree))
    commit(tree)
    monkeypatch.setenv("PATH", "")
    assert re.fullmatch(nogit, version(tree))
