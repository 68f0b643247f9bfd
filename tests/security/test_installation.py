"""What is installed is pinned: nothing is fetched to build it, and a server needs no checkout and no network."""

from __future__ import annotations

import hashlib
import importlib.metadata as installed
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from school_site import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCKS = ("requirements.txt", "requirements-build.txt", "requirements-dev.txt")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean checkout of this tree: a build writes its version into the checkout, which other tests are running."""
    folder = tmp_path_factory.mktemp("source") / "checkout"
    ignored = shutil.ignore_patterns(".git", ".venv*", "mutants", "dist", "__pycache__", ".*_cache", "_version.py")
    shutil.copytree(ROOT, folder, ignore=ignored)
    run("git", "init", "--quiet", folder)
    (folder / ".git" / "info" / "exclude").write_text("/.venv\n")
    (folder / ".venv").symlink_to(sys.prefix)
    commit(folder)
    return folder


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `./dev build` makes."""
    folder = tmp_path_factory.mktemp("built")
    build(checkout, folder)
    return folder


def commit(checkout: Path) -> str:
    """Commit all files. Return the beginning of the commit's name."""
    person = ("-c", "user.name=Nobody", "-c", "user.email=nobody@school.invalid", "-c", "commit.gpgsign=false")
    run("git", "-C", checkout, "add", "--all")
    run("git", "-C", checkout, *person, "commit", "--quiet", "--allow-empty", "--message", "A change")
    return run("git", "-C", checkout, "rev-parse", "--short", "HEAD").strip()


def build(checkout: Path, folder: Path) -> None:
    (checkout / "rostersync" / "_version.py").touch()  # as in a checkout that is in use: its .venv is not made again
    run(checkout / "dev", "build", folder)


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload] # as run has them
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", text, re.MULTILINE))


def wheel(folder: Path) -> Path:
    (found,) = folder.glob("rostersync-*.whl")
    return found


# The locks -------------------------------------------------------------------------------------------------------


def test_what_builds_the_wheel_is_pinned_with_all_that_it_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["dependency-groups"]["build"] == project["build-system"]["requires"]
    pinned = pins((ROOT / "requirements-build.txt").read_text(encoding="utf-8"))
    for name in pinned:
        needed = [re.split(r"[^\w.-]", text)[0] for text in installed.requires(name) or () if ";" not in text]
        assert {need.lower() for need in needed} <= set(pinned)


def test_no_two_locks_pin_a_package_differently() -> None:
    found: dict[str, set[str]] = {}
    for lock in LOCKS:
        for name, version in pins((ROOT / lock).read_text(encoding="utf-8")).items():
            found.setdefault(name, set()).add(version)
    assert {name: versions for name, versions in found.items() if len(versions) > 1} == {}


def test_no_document_and_no_hint_installs_what_is_not_pinned() -> None:
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("rostersync/**/*.py"), *ROOT.glob("systemd/*")]
    lines = [line for path in files for line in path.read_text(encoding="utf-8").split("\n") if "pip install " in line]
    checked = [line for line in lines if "--require-hashes" in line or re.search(r"--no-deps.* --no-build-isol", line)]
    assert len(lines) >= 5
    assert [line for line in lines if line not in checked] == []


# The wheel -------------------------------------------------------------------------------------------------------


def test_the_requirements_beside_the_wheel_pin_it_by_its_hash_and_all_else_as_the_lock_does(built: Path) -> None:
    text = (built / "requirements.txt").read_text(encoding="utf-8")
    digest = hashlib.sha256(wheel(built).read_bytes()).hexdigest()
    version = wheel(built).name.split("-")[1]
    assert text == (ROOT / "requirements.txt").read_text(encoding="utf-8") + (
        f"rostersync=={version} \\\n    --hash=sha256:{digest}\n"
    )


def test_the_wheel_has_what_a_server_needs_and_no_more(built: Path) -> None:
    with zipfile.ZipFile(wheel(built)) as content:
        names = set(content.namelist())
    beside = [path.relative_to(ROOT) for folder in ("migrations", "systemd") for path in (ROOT / folder).rglob("*")]
    wanted = {f"rostersync/{path}" for path in beside if (ROOT / path).is_file() and path.suffix != ".pyc"}
    assert wanted | {"rostersync/config.example.toml"} <= names
    assert {name.split("/")[0] for name in names} == {"rostersync", wheel(built).name.split("-py3")[0] + ".dist-info"}
    assert not [name for name in names if name.endswith((".pyc", ".db", ".pem"))]


def test_the_same_source_makes_the_same_wheel(
    checkout: Path, built: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    again = tmp_path_factory.mktemp("again")
    build(checkout, again)
    assert wheel(again).read_bytes() == wheel(built).read_bytes()


def test_a_later_build_replaces_an_earlier_one(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("versions")
    copy, server = shutil.copytree(checkout, folder / "checkout", symlinks=True), folder / "server"
    run(sys.executable, "-m", "venv", server)
    (packages,) = server.glob("lib/python3*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))  # the libraries of this environment
    for count in (2, 3):
        name = commit(copy)
        build(copy, folder / name)
        pip = (server / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")
        run(*pip, wheel(folder / name))
        told = run(server / "bin" / "rostersync", "--version", cwd=server)
        assert f".post{count}+g{name}" in told
        assert [path.name for path in packages.glob("rostersync-*")] == [
            f"{told.split()[0]}-{told.split()[1]}.dist-info"
        ]


# A server --------------------------------------------------------------------------------------------------------


def test_a_server_installs_from_a_folder_of_wheels_alone(built: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """By uv where it is there, which is quicker; by pip elsewhere."""
    wheels, server = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("folder") / "server"
    shutil.copy(wheel(built), wheels)
    for name in pins((ROOT / "requirements.txt").read_text(encoding="utf-8")):
        if found := _distribution(name):
            _as_wheel(found, wheels)
    _install(server, "--no-index", "--find-links", str(wheels), "rostersync[postgresql]")
    program = server / "bin" / "rostersync"
    run(program, "init", "config.toml", cwd=server)
    config = server / "config.toml"
    config.write_text(config.read_text().replace('# base_url = ""', 'base_url = "https://api.school.invalid"'))
    assert run(program, "db", "upgrade", "-c", "config.toml", cwd=server).endswith("up to date\n")
    (package,) = server.glob("lib/python3*/site-packages/rostersync")
    assert (package / "systemd" / "rostersync.service").read_bytes() == (
        ROOT / "systemd" / "rostersync.service"
    ).read_bytes()


def _install(server: Path, *words: str) -> None:
    if uv := shutil.which("uv"):
        run(uv, "venv", "--quiet", "--offline", "--python", sys.executable, server)
        environ = os.environ | {"VIRTUAL_ENV": str(server)}
        run(uv, "pip", "install", "--quiet", "--offline", "--no-cache", *words, env=environ)
        return
    run(sys.executable, "-m", "venv", server)
    run(server / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *words)


def _distribution(name: str) -> installed.Distribution | None:
    """Return an installed package; None where this platform needs none of it."""
    try:
        return installed.distribution(name)
    except installed.PackageNotFoundError:
        return None


def _as_wheel(package: installed.Distribution, folder: Path) -> None:
    """Make a wheel again of what was installed from one: so a test needs no network."""
    tags = re.findall(r"^Tag: (\S+)$", package.read_text("WHEEL") or "", re.MULTILINE)
    name = re.sub(r"[-_.]+", "_", package.name)
    with zipfile.ZipFile(folder / f"{name}-{package.version}-{tags[0]}.whl", "w") as content:
        for file, path in _contents(package):
            content.write(path, file)


def _contents(package: installed.Distribution) -> Iterator[tuple[str, Path]]:
    for file in package.files or ():
        path = Path(str(package.locate_file(file)))
        if not str(file).startswith("..") and file.suffix != ".pyc" and path.exists():
            yield str(file), path
