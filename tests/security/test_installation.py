"""What is installed is pinned: nothing is fetched to build it, and a server needs no checkout and no network."""

from __future__ import annotations

import gzip
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

from rostersync.config import load_new

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


# The Debian package ----------------------------------------------------------------------------------------------


def _debian_python() -> bool:
    found = subprocess.run(["/usr/bin/python3", "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], check=False)
    return found.returncode == 0


needs_debian = pytest.mark.skipif(
    not shutil.which("dpkg-deb") or not Path("/usr/bin/python3").exists() or not _debian_python(),
    reason="needs Debian's dpkg-deb, and its Python 3.11 or later",
)


@pytest.fixture(scope="module")
def lone_wheel(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `./dev build` writes it, but without the libraries: fetching them takes a network."""
    folder = tmp_path_factory.mktemp("lone")
    shutil.copy(wheel(built), folder)
    ours = (built / "requirements.txt").read_text(encoding="utf-8").splitlines(keepends=True)[-2:]
    (folder / "requirements.txt").write_text("".join(ours))
    return folder


@pytest.fixture(scope="module")
def package(checkout: Path, lone_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(checkout, lone_wheel, tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="module")
def unpacked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked") / "tree"
    run("dpkg-deb", "--raw-extract", package, folder)
    return folder


def make_package(checkout: Path, parts: Path, folder: Path) -> Path:
    environ = os.environ | {"PIP_NO_INDEX": "1", "UV_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    script = checkout / "packaging" / "deb" / "build"
    run("sh", script, folder, parts, checkout / ".venv" / "bin" / "python", cwd=checkout, env=environ)
    (found,) = folder.glob("*.deb")
    return found


@needs_debian
def test_the_package_says_what_it_is_and_which_python_it_needs(package: Path, lone_wheel: Path) -> None:
    fields = dict(re.findall(r"^(\S+): (.*)$", run("dpkg-deb", "--field", package), re.MULTILINE))
    minor = int(run("/usr/bin/python3", "-c", "import sys; print(sys.version_info.minor)"))
    assert fields["Version"] == wheel(lone_wheel).name.split("-")[1]
    assert fields["Architecture"] == run("dpkg", "--print-architecture").strip()
    assert f"python3 (>= 3.{minor}), python3 (<< 3.{minor + 1})" in fields["Depends"]
    assert package.name == f"rostersync_{fields['Version']}_{fields['Architecture']}.deb"


@needs_debian
def test_the_package_has_what_the_system_needs_as_roots(package: Path) -> None:
    listed = re.findall(
        r"^(\S+) (\S+) .* \.(/\S*)(?: -> (\S+))?$", run("dpkg-deb", "--contents", package), re.MULTILINE
    )
    assert {owner for _, owner, _, _ in listed} == {"root/root"}
    modes = {path: mode for mode, _, path, _ in listed}
    for path in (
        *("/usr/lib/systemd/system/rostersync.service", "/usr/lib/sysusers.d/rostersync.conf"),
        *("/usr/lib/tmpfiles.d/rostersync.conf", "/usr/share/rostersync/config.toml"),
        *("/usr/share/man/man1/rostersync.1.gz", "/usr/share/doc/rostersync/copyright"),
        *("/usr/share/doc/rostersync/changelog.gz", "/usr/share/doc/rostersync/docs/operations.md"),
        *("/usr/share/bash-completion/completions/rostersync", "/usr/share/zsh/vendor-completions/_rostersync"),
        "/usr/share/fish/vendor_completions.d/rostersync.fish",
    ):
        assert modes[path] == "-rw-r--r--", path
    assert (modes["/usr/bin/rostersync"], modes["/etc/rostersync/"]) == ("-rwxr-xr-x", "drwxr-xr-x")
    assert ("lrwxrwxrwx", "/usr/lib/rostersync/bin/python3", "../../../bin/python3") in [
        (mode, path, target) for mode, _, path, target in listed
    ]
    assert not [path for path in modes if path.startswith("/etc/rostersync/") and path != "/etc/rostersync/"]
    assert not [path for path in modes if "__pycache__" in path]
    assert {path.split("/")[-1] for path in modes if path.startswith("/usr/lib/rostersync/bin/")} == {"", "python3"}


@needs_debian
def test_the_packages_configuration_lacks_only_an_address_and_a_token(unpacked: Path) -> None:
    path = unpacked / "usr" / "share" / "rostersync" / "config.toml"
    config, missing = load_new(path)
    assert missing == [f"source main: base_url is missing: set it in {path}"]
    assert config.tokens_dir == Path("/etc/rostersync/tokens")
    assert config.database.url == "sqlite:////var/lib/rostersync/roster.db"


@needs_debian
def test_no_file_of_the_package_names_the_folder_in_which_it_was_built(unpacked: Path, lone_wheel: Path) -> None:
    for path in unpacked.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            assert b"/tmp/tmp." not in content, path
            assert str(lone_wheel).encode() not in content, path
    for script in ("preinst", "postinst", "prerm", "postrm"):
        run("sh", "-n", unpacked / "DEBIAN" / script)


@needs_debian
def test_the_same_commit_makes_the_same_package(
    checkout: Path, package: Path, lone_wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    again = make_package(checkout, lone_wheel, tmp_path_factory.mktemp("again"))
    assert again.read_bytes() == package.read_bytes()


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
