"""Compute the version of a build. Hatchling runs this file, as `[tool.hatch.version]` in pyproject.toml defines.

A version consists of the last release, `.post` with the number of commits since that release's tag, and `+g` with the
commit. If the tree has uncommitted changes, or is not a git checkout, the version ends with the time of the build.
"""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

_ROOT = Path(__file__).parent
_RELEASE = "0.1.0"  # used if git finds no tag. 0.1.0 has no tag, and a shallow clone or an archive may have none.


def version() -> str:
    """Return a version in the format of PEP 440, such as 0.1.0.post390+g1a2b3c4d5e6f."""
    time = f".d{datetime.now(UTC):%Y%m%d%H%M%S}"
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return f"{_RELEASE}+nogit{time}"
    try:
        tag, count, _ = _git("describe", "--tags", "--long", "--match=v[0-9]*").rsplit("-", 2)
    except subprocess.CalledProcessError:
        tag, count = _RELEASE, _git("rev-list", "--count", "HEAD")
    since = "" if count == "0" else f".post{count}"
    return f"{tag.removeprefix('v')}{since}+g{commit}{time if _git('status', '--porcelain') else ''}"


def _git(*words: str) -> str:
    # We pass --git-dir, so that git never uses another repository, inside which the tree may have been unpacked as an
    # archive.
    command = ["git", "-C", str(_ROOT), f"--git-dir={_ROOT / '.git'}", "--no-optional-locks", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603 - our words
