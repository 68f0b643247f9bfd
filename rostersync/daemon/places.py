"""Where things are on the machine that a service is installed on, and which program it is to start."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from rostersync.errors import ServiceError

CONFIG = "/etc/rostersync/config.toml"

_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - not used, but told from others
"""What the unit hides from the service: ProtectHome and PrivateTmp."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A file system, below `root`. What is written belongs to whoever that folder belongs to: to the user root."""

    root: Path = Path("/")

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    @property
    def owner(self) -> int:
        return self.root.stat().st_uid

    @property
    def config(self) -> Path:
        return self.at(CONFIG)

    @property
    def unit(self) -> Path:
        return self.at("/etc/systemd/system/rostersync.service")

    @property
    def overrides(self) -> Path:
        """What `systemctl edit` writes to."""
        return self.at("/etc/systemd/system/rostersync.service.d")

    @property
    def sysusers(self) -> Path:
        return self.at("/etc/sysusers.d/rostersync.conf")

    @property
    def has_user(self) -> bool:
        passwd = self.at("/etc/passwd")
        return passwd.exists() and "\nrostersync:" in f"\n{passwd.read_text(errors='replace')}"


@dataclass(frozen=True, slots=True)
class Program:
    """How an installation of rostersync is started, and the places that it needs for it."""

    words: tuple[str, ...]
    needs: tuple[Path, ...]

    def require_visible(self) -> None:
        """Raise `ServiceError` where the service would not see one of these places."""
        for place in self.needs:
            for path in (Path(os.path.abspath(place)), place.resolve()):  # noqa: PTH100 - the links stay in the first
                if any(path.is_relative_to(hidden) for hidden in _HIDDEN):
                    message = f"the service cannot see {path}: homes and temporary folders are hidden from it"
                    hint = "install rostersync in a virtual environment in /opt/rostersync, with a Python of the system"
                    raise ServiceError(message, hint)


def this_program() -> Program:
    """Return the installation that is running: its console script beside Python, else Python and the module."""
    script = Path(sys.executable).with_name("rostersync")
    words = (str(script),) if script.exists() else (sys.executable, "-P", "-m", "rostersync")
    package = Path(__file__).parents[1]
    return Program(words, (Path(words[0]), Path(sys.executable), Path(sys.prefix), Path(sys.base_prefix), package))
