"""What makes this installation of rostersync a service of systemd, and what takes the service away again.

First a plan is made, which changes nothing and raises whatever speaks against it; then its steps are carried out, or
only shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rostersync.config.token import credential_file
from rostersync.daemon import unit
from rostersync.daemon.steps import Call, File, Folder, Private, Removal, SecretFile, Step, call, exists, read_plain
from rostersync.errors import ServiceError
from rostersync.store.failures import STATE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rostersync.daemon.places import Machine, Program
    from rostersync.daemon.settings import Settings
    from rostersync.secret import Secret

_RESET = Call(("systemctl", "reset-failed", "rostersync"))
"""After five failed starts systemd refuses another; and a failed service leaves a trace when its unit has gone."""

_PATIENCE_S = 30
"""How long a start is waited for: systemd goes on with it, for instance until there is a database."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps that are needed, in their order, and what a person should know besides."""

    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Token:
    """A token to be written; without `value` in a plan that is only shown. `origin` tells where it comes from."""

    value: Secret | None
    origin: str


@dataclass(frozen=True, slots=True)
class State:
    """What systemd says of the service; all of it is empty where systemd does not answer, with `reason`."""

    properties: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""

    @property
    def runs(self) -> bool:
        return self.properties.get("ActiveState") in {"active", "activating", "reloading"} and not self.failed

    @property
    def failed(self) -> bool:
        """Whether the last start failed: systemd may be waiting to try again, or have given up."""
        return self.properties.get("ActiveState") == "failed" or self.properties.get("SubState") == "auto-restart"

    @property
    def enabled(self) -> bool:
        return self.properties.get("UnitFileState") == "enabled"

    @property
    def knows_unit(self) -> bool:
        return self.properties.get("LoadState") == "loaded" and self.properties.get("NeedDaemonReload") == "no"

    @property
    def line(self) -> str:
        status = self.properties.get("StatusText")
        word = "failed" if self.failed else self.properties.get("ActiveState", "unknown")
        return f"state of the service: {word}" + (f" ({status})" if status else "")


def state() -> State:
    """Ask systemd about the service."""
    asked = "LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,StatusText"
    try:
        lines = call("systemctl", "show", "rostersync", f"--property={asked}").splitlines()
    except ServiceError as error:
        return State(reason=error.message)
    return State(dict(line.split("=", 1) for line in lines if "=" in line))


# Installing ------------------------------------------------------------------------------------------------------


def require_possible(machine: Machine, program: Program) -> None:
    """Raise `ServiceError` where the service could not see the program, or where a file is in the way."""
    program.require_visible()
    for path in (machine.unit, machine.sysusers):
        if is_edited(path):
            message = f"{path} was edited, or written by somebody else; nothing was changed"
            hint = f"change it with `systemctl edit rostersync`; move {path} away to have it written again"
            raise ServiceError(message, hint)


def plan_install(
    machine: Machine, program: Program, settings: Settings, tokens: Mapping[str, Token], now: State
) -> Plan:
    """Return what is to be done until the service runs. `tokens` are those that are to be written, by their source.

    `require_possible` must have passed. Raises `ServiceError` where something else is in the place of a file.
    """
    written = [step for step in _files(machine, program, settings, tokens) if step.needed()]
    reload = not now.knows_unit or any(isinstance(step, File) and step.path == machine.unit for step in written)
    steps: list[Step] = [*written]
    if reload:
        steps.append(Call(("systemctl", "daemon-reload")))
    if not now.enabled:
        steps.append(Call(("systemctl", "enable", "rostersync")))
    if now.failed:
        steps.append(_RESET)
    if steps or not now.runs:
        steps.append(Call(("systemctl", "restart", "rostersync"), _PATIENCE_S))
    return Plan(tuple(steps), tuple(settings.notes))


def _files(machine: Machine, program: Program, settings: Settings, tokens: Mapping[str, Token]) -> list[Step]:
    owner = machine.owner
    user = File(machine.sysusers, unit.marked(unit.shipped("rostersync.sysusers")).encode(), owner)
    steps: list[Step] = [Folder(path.parent, owner) for path in (machine.sysusers, machine.config, machine.unit)]
    steps.append(user)
    if user.needed() or not machine.has_user:
        steps.append(Call(("systemd-sysusers", str(machine.sysusers))))
    if settings.content is not None:
        steps.append(File(machine.config, settings.content, owner))
    names = [source.name for source in settings.config.sources]
    steps += [_credential(machine.at(credential_file(name)), tokens.get(name), owner) for name in names]
    steps.append(File(machine.unit, _unit(program, settings).encode(), owner))
    return steps


def _unit(program: Program, settings: Settings) -> str:
    names = [source.name for source in settings.config.sources]
    credentials = [f"{name}-token:{credential_file(name)}" for name in names]
    return unit.unit(program.words, credentials, ["postgresql.service"] if settings.local_postgresql else [])


def _credential(path: Path, token: Token | None, owner: int) -> Step:
    if token is None:
        return Private(path, owner)
    value = token.value.reveal() if token.value else ""
    return SecretFile(path, f"{value}\n".encode(), owner, token.origin)


def is_edited(path: Path) -> bool:
    """Tell whether there is something at `path` that is not as `service install` wrote it."""
    if not path.is_symlink() and not path.exists():
        return False
    return path.is_symlink() or not unit.is_unedited((read_plain(path) or b"").decode(errors="replace"))


# Taking away -----------------------------------------------------------------------------------------------------


def plan_uninstall(machine: Machine, now: State) -> Plan:
    """Return what is to be done until nothing of the service is left but configuration, data, user, and edited files.

    The unit goes last: as long as it is there, another attempt knows that there is something to take away.
    """
    ours = [path for path in (machine.sysusers, machine.unit) if not is_edited(path)]
    edited = [path for path in (machine.sysusers, machine.unit) if path not in ours]
    folder = machine.config.parent
    tokens = [path for path in sorted(folder.glob("*-token")) if not path.is_symlink() and exists(path)]
    removals = [step for path in (*tokens, *ours) if (step := Removal(path)).needed()]
    steps: list[Step] = [*removals]
    if machine.unit.is_symlink() or machine.unit.exists():
        disable = Call(("systemctl", "disable", "--now", "rostersync"))
        steps = [*([_RESET] if now.failed else []), disable, *removals]
        steps.append(Call(("systemctl", "daemon-reload")))
    return Plan(tuple(steps), (*_left(edited), *_staying(machine)))


def _left(edited: Sequence[Path]) -> list[str]:
    return [f"left: {path}, which was edited, or written by somebody else" for path in edited]


def _staying(machine: Machine) -> list[str]:
    kept = {
        "the configuration": machine.config,
        "the data": machine.at(str(STATE)),
        "what `systemctl edit` wrote": machine.overrides,
    }
    lines = [f"{what} stays: {path}" for what, path in kept.items() if path.exists()]
    return [*lines, *(["the user rostersync stays"] if machine.has_user else [])]
