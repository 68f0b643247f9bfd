"""The files around the package: they must agree with it, and with each other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from rostersync.config import TEMPLATE, load, warnings

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "rostersync.service"
LOCKS = ("requirements.txt", "requirements-build.txt", "requirements-dev.txt")

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")


def files() -> list[Path]:
    """All that is, or would be, committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git checkout")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


# The example -----------------------------------------------------------------------------------------------------


def test_the_example_is_what_init_writes() -> None:
    assert (ROOT / "config.example.toml").read_text(encoding="utf-8") == TEMPLATE


def with_an_address(text: str) -> str:
    """Return what `init` writes as its reader completes it: no address is the default."""
    return text.replace('# base_url = ""', 'base_url = "https://api.managebac.com"')


def test_the_example_loads_without_a_warning_and_finds_its_token_in_the_environment(tmp_path: Path) -> None:
    (tmp_path / "example.toml").write_text(with_an_address(TEMPLATE), encoding="utf-8")
    config = load(tmp_path / "example.toml", {})
    assert warnings(config) == []
    (source,) = config.sources
    assert source.token({"ROSTERSYNC_TOKEN": "abc"}).reveal() == "abc"


def test_every_default_that_the_example_shows_is_the_real_one(tmp_path: Path) -> None:
    alternatives = {"token_env", "token_file"}  # ways to name the token, of which one can be chosen
    example = with_an_address(TEMPLATE)
    shown = re.sub(r"^# (\w+) = ", lambda m: m[0] if m[1] in alternatives else m[0][2:], example, flags=re.MULTILINE)
    (tmp_path / "shown.toml").write_text(shown, encoding="utf-8")
    (tmp_path / "example.toml").write_text(example, encoding="utf-8")
    assert shown.count("\n# ") <= TEMPLATE.count("\n# ") - 20
    assert load(tmp_path / "shown.toml", {}) == load(tmp_path / "example.toml", {})


# The locks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_names_versions_and_hashes_only(name: str) -> None:
    line = re.compile(r"[a-z0-9.-]+==\S+( ; [^\\]+)?( \\)?|    --hash=sha256:[0-9a-f]{64}( \\)?")
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert [other for other in lines if not line.fullmatch(other)] == []


def test_the_locks_hold_every_dependency_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    asked = {"requirements.txt": [*project["project"]["dependencies"], *(item for extra in extras for item in extra)]}
    asked["requirements-build.txt"] = project["dependency-groups"]["build"]
    dev = [item for item in project["dependency-groups"]["dev"] if item != {"include-group": "build"}]
    asked["requirements-dev.txt"] = [*asked["requirements.txt"], *asked["requirements-build.txt"], *dev]
    for name, dependencies in asked.items():
        held = set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))
        missing = {re.split(r"[\[<>=~!; ]", dependency)[0].lower() for dependency in dependencies} - held
        assert not missing, f"{name} lacks {missing}: run ./dev lock"


# The service -----------------------------------------------------------------------------------------------------


@needs_systemd
def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name  # systemd wants the program to exist
    program = "/usr/bin/rostersync "
    assert UNIT.read_text().count(program) == 3
    copy.write_text(UNIT.read_text().replace(program, f"{shutil.which('true')} "))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_the_units_sandbox_leaves_little_exposed() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=11", str(UNIT)]  # ten times the figure
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:]


# The scripts -----------------------------------------------------------------------------------------------------


def test_dev_without_a_known_command_says_how_to_use_it() -> None:
    for arguments in ([], ["nonsense"]):
        done = subprocess.run([ROOT / "dev", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "usage: ./dev COMMAND" in done.stderr


AUDITED = {"name": "certifi", "version": "1", "vulns": []}
SKIPPED = {"name": "requests", "skip_reason": "not found"}
VULNERABLE = {"name": "urllib3", "version": "2", "vulns": [{"id": "X-1", "fix_versions": ["3"], "aliases": []}]}


@pytest.mark.parametrize(
    ("packages", "status", "out", "told"),
    [
        ([AUDITED], 0, "1 of 1 packages were audited; known vulnerabilities: 0\n", ""),
        ([SKIPPED], 2, "0 of 1 packages were audited; known vulnerabilities: 0\n", "not found"),
        ([AUDITED, SKIPPED], 2, "1 of 2 packages were audited; known vulnerabilities: 0\n", "not found"),
        ([AUDITED, VULNERABLE], 1, "urllib3 2: X-1, fixed in 3\n2 of 2 packages were audited", ""),
        ([SKIPPED, VULNERABLE], 1, "urllib3 2: X-1, fixed in 3\n1 of 2 packages were audited", "not found"),
        ([], 2, "0 of 0 packages were audited", "the report is empty"),
        (None, 2, "", "dev: nothing was audited: no route"),
    ],
)
def test_an_audit_that_could_not_look_up_a_package_does_not_look_green(
    tmp_path: Path, packages: list[object] | None, status: int, out: str, told: str
) -> None:
    report = "" if packages is None else json.dumps({"dependencies": packages, "fixes": []})
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!/bin/sh\necho 'no route' >&2\ncat <<'END'\n{report}\nEND\n", encoding="utf-8")
    tool.chmod(0o755)
    environ = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([ROOT / "dev", "audit"], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stdout.startswith(out)
    assert told in done.stderr
    assert bool(done.stderr) == bool(told)


def test_the_scripts_are_sound_shell() -> None:
    for script in (ROOT / "dev", *sorted((ROOT / "tests" / "systemd").glob("*.sh"))):
        subprocess.run(["sh", "-n", script], check=True)
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)


def test_ci_runs_the_long_tests_and_all_others() -> None:
    ci, dev = ((ROOT / name).read_text(encoding="utf-8") for name in (".ci/run", "dev"))
    assert re.findall(r"^\./dev (test.*)$", ci, re.MULTILINE) == ["test", "test-long"]
    assert sorted(re.findall(r' -m ("not long"|long)', dev)) == ['"not long"', "long"]


def test_the_workflow_calls_ci_with_two_actions_and_may_only_read() -> None:
    (workflow,) = (ROOT / ".github" / "workflows").iterdir()
    text = workflow.read_text(encoding="utf-8")
    actions = re.findall(r"uses: (.*)", text)
    assert all(re.fullmatch(r"actions/(checkout|setup-python)@v\d+", action) for action in actions), actions
    assert re.findall(r"^permissions:\n((?: .*\n)+)", text, re.MULTILINE) == ["  contents: read\n"]
    assert text.count("permissions:") == 1
    assert "- run: .ci/run\n" in text
    assert "secrets" not in text


# The documents ---------------------------------------------------------------------------------------------------

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "tests" / "README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


@each_document
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not _leads_somewhere(document, link)] == []


def _leads_somewhere(document: Path, link: str) -> bool:
    target, _, anchor = link.partition("#")
    path = document.parent / target if target else document
    return path.exists() and (not anchor or anchor in _anchors(path))


def _anchors(document: Path) -> set[str]:
    """Return what the headings of a document can be linked by."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@each_document
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    """A file may be named by the end of its path, such as `sync/lists.py`."""
    name = re.compile(r"`(?:\./)?([\w.-]+(?:/[\w.-]+)*(?:/|\.(?:py|toml|txt|md|service)))`")
    known = [path.relative_to(ROOT) for path in files()]
    places = {f"/{place}/" for path in known for place in (path, *path.parents)}
    named = name.findall(document.read_text(encoding="utf-8"))
    assert [path for path in named if not any(place.endswith(f"/{path.rstrip('/')}/") for place in places)] == []


def test_a_student_is_they_and_a_process_is_it() -> None:
    folders = {"rostersync", "docs", "systemd"}
    texts = [path for path in files() if path.parent == ROOT or path.relative_to(ROOT).parts[0] in folders]
    word = re.compile(r"\b(?:he|him|his|himself|she|hers)\b", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), 1)
        if word.search(line)
    ]
    assert not found, "\n" + "\n".join(found)


# Everything ------------------------------------------------------------------------------------------------------

# Written so that this file does not hold them itself.
FORBIDDEN = ("/work" + "/", "/root" + "/", "py" + "pi.org", "python" + "hosted.org", "index" + "-url")


def test_no_file_names_a_machine_or_a_registry() -> None:
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in files()}
    found = [f"{path.relative_to(ROOT)}: {word}" for path, text in texts.items() for word in FORBIDDEN if word in text]
    assert not found


def test_no_file_holds_an_address_of_a_real_person() -> None:
    address = re.compile(r"\b[\w.+-]+@[\w-]+\.(?!invalid\b)(?:com|org|net|edu|cn|us|de|uk)\b")
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in files()}
    found = [f"{path.relative_to(ROOT)}: {hit}" for path, text in texts.items() for hit in address.findall(text)]
    assert not found
