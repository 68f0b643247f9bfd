"""The single steps of an installation: each says what it does, knows whether it is needed, and can be carried out.

Files are replaced as a whole, by renaming, and nothing is written or removed through a link.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - evaluated when the fields are made
from typing import ClassVar

from rostersync.errors import ServiceError
from rostersync.store.files import NotPlain, is_plain, open_plain


@dataclass(frozen=True, slots=True)
class Step(ABC):
    """Something that is done to the machine."""

    verb: ClassVar[tuple[str, str]]
    """In the infinitive and in the past: `write`, `wrote`."""

    @property
    @abstractmethod
    def what(self) -> str:
        """What the verb is about, for people."""

    @property
    def text(self) -> str:
        """The text that is written, unless it is secret."""
        return ""

    @abstractmethod
    def needed(self) -> bool:
        """Tell whether the machine is not yet as the step leaves it. Raises `ServiceError`."""

    @abstractmethod
    def carry_out(self) -> None:
        """Do it. Raises `ServiceError`, and `OSError` where the machine does not let us."""


@dataclass(frozen=True, slots=True)
class Folder(Step):
    """A folder that everybody may read, and that only its owner may change."""

    path: Path
    owner: int
    verb = ("make", "made")

    @property
    def what(self) -> str:
        return f"the folder {self.path} (0755)"

    def needed(self) -> bool:
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return True
        if not stat.S_ISDIR(found.st_mode):
            raise ServiceError(f"{self.path} is not a folder", NotPlain.HINT)
        return found.st_uid != self.owner or bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))

    def carry_out(self) -> None:
        with suppress(FileExistsError):
            self.path.mkdir()
        os.chown(self.path, self.owner, -1, follow_symlinks=False)
        self.path.chmod(0o755)


@dataclass(frozen=True, slots=True)
class File(Step):
    """A file with this content, which everybody may read."""

    path: Path
    content: bytes
    owner: int
    mode: ClassVar[int] = 0o644
    verb = ("write", "wrote")

    @property
    def what(self) -> str:
        return f"{self.path} ({self.mode:04o})"

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def needed(self) -> bool:
        return read_plain(self.path) != self.content or _differs(self.path, self.owner, self.mode)

    def carry_out(self) -> None:
        _replace(self.path, self.content, self.mode)


@dataclass(frozen=True, slots=True)
class SecretFile(File):
    """A file for root's eyes only; its content is never shown. `origin` tells where it comes from."""

    origin: str = ""
    mode = 0o600

    @property
    def what(self) -> str:
        return f"{self.path} ({self.mode:04o}): {self.origin}"

    @property
    def text(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Private(Step):
    """A file that exists, and that only its owner may read."""

    path: Path
    owner: int
    verb = ("make", "made")

    @property
    def what(self) -> str:
        return f"{self.path} root's alone (0600)"

    def needed(self) -> bool:
        return _differs(self.path, self.owner, SecretFile.mode)

    def carry_out(self) -> None:
        handle = open_plain(self.path, os.O_RDONLY)
        try:
            os.fchown(handle, self.owner, -1)
            os.fchmod(handle, SecretFile.mode)
        finally:
            os.close(handle)


@dataclass(frozen=True, slots=True)
class Removal(Step):
    """A file that goes."""

    path: Path
    verb = ("remove", "removed")

    @property
    def what(self) -> str:
        return str(self.path)

    def needed(self) -> bool:
        return os.path.lexists(self.path)

    def carry_out(self) -> None:
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Call(Step):
    """A program that is run; it counts as not done yet. After `patience` seconds it is no longer waited for."""

    words: tuple[str, ...]
    patience: float | None = None
    verb = ("run", "ran")

    @property
    def what(self) -> str:
        return " ".join(self.words)

    def needed(self) -> bool:
        return True

    def carry_out(self) -> None:
        call(*self.words, patience=self.patience)


# Programs --------------------------------------------------------------------------------------------------------


def call(*words: str, patience: float | None = None) -> str:
    """Run a program, the one door to all of them, and return what it printed.

    One that takes longer than `patience` seconds is not waited for any longer: what it asked systemd for goes on.
    Raises `ServiceError` where there is no such program, or where it fails.
    """
    try:
        done = subprocess.run(  # noqa: S603 - words of our own
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=patience
        )
    except subprocess.TimeoutExpired:
        return ""
    except OSError as error:
        message = f"cannot run {words[0]}: {error.strerror}"
        raise ServiceError(message, "a service needs a machine that systemd runs") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        reason = said[0] if said else f"exit status {done.returncode}"
        raise ServiceError(f"{' '.join(words)} failed: {reason}", "see: journalctl -u rostersync -n 20")
    return done.stdout


# Files -----------------------------------------------------------------------------------------------------------


def read_plain(path: Path) -> bytes | None:
    """Return the content of a plain file; None where there is none, or where this user may not read it.

    Raises `ServiceError` where something else is in its place.
    """
    try:
        handle = open_plain(path, os.O_RDONLY)
    except NotPlain as error:
        raise ServiceError(f"{path} is {error.strerror}", NotPlain.HINT) from None
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    with os.fdopen(handle, "rb") as file:
        return file.read()


def exists(path: Path) -> bool:
    """Tell whether there is a plain file at `path`. Raises `ServiceError` where something else is in its place."""
    try:
        return is_plain(path)
    except NotPlain as error:
        raise ServiceError(f"{path} is {error.strerror}", NotPlain.HINT) from None


def _differs(path: Path, owner: int, mode: int) -> bool:
    found = path.lstat()
    return found.st_uid != owner or stat.S_IMODE(found.st_mode) != mode


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Put a new file in the place of whatever has this name: at no time is there a part of it, nor a wider mode."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)  # noqa: PTH105 - both are names in one folder
    except BaseException:
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108 - the same
        raise
