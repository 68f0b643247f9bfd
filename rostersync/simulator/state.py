"""The school behind the stand-in: its students, what is done to them, and who sees it when."""

from __future__ import annotations

import threading
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from rostersync.clock import to_epoch_ms
from rostersync.simulator.people import Population, new_account
from rostersync.simulator.switches import Switches
from rostersync.simulator.versions import Version, render, spell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from rostersync.clock import Clock
    from rostersync.simulator.people import Fields

_FIRST_ID = 20_540_000
_FIRST_LARGE_ID = 10_342_450_460  # above 2**32, as one of the vendor's samples
_ONE_LARGE_ID_IN = 100
_HOUR = 3_600_000
_OLDEST = 5 * 365 * 24 * _HOUR
_DRAWS = 20  # before the students who fit are looked for one by one


class School:
    """A school of invented students. All that happens follows from the seed, the clock and the calls.

    Each change stamps `updated_at` with the server's time (the clock's and the switches' skews, cut to the grain) and
    comes to sight at once, or as late as the switches say. One lock makes every call atomic.
    """

    def __init__(self, seed: int, size: int, clock: Clock, switches: Switches | None = None) -> None:
        self._clock = clock
        self._switches = switches or Switches()
        self._rng = Random(seed)  # noqa: S311 - a simulation that must repeat
        self._population = Population(seed, self.now().date(), self._switches.custom_fields)
        self._rows: dict[int, Version] = {}
        self._drawn: list[int] = []  # the keys of _rows, and those of the softly deleted: for quick draws
        self._gone: dict[int, None] = {}
        self._next_id = _FIRST_ID
        self._next_without_id = 0
        self.lock = threading.RLock()
        self.generation = 0  # moves with every change, so that what was computed for the last one can be dropped
        self._be_born(size)

    # What the answers are made of --------------------------------------------------------------------------------

    @property
    def switches(self) -> Switches:
        return self._switches

    @switches.setter
    def switches(self, switches: Switches) -> None:
        """Let the school behave differently from now on. Custom fields stay as they were at birth."""
        with self.lock:
            self._switches = switches
            self.generation += 1
            for version in self._rows.values():
                _forget_spelling(version)

    @property
    def rng(self) -> Random:
        """The school's own randomness, for what is random in an answer."""
        return self._rng

    def now(self) -> datetime:
        """Return the server's time: the clock's, with the server's skew."""
        return self._clock.now() + timedelta(seconds=self._switches.clock_skew)

    def elapsed(self) -> int:
        """Return the milliseconds that have passed: what is in sight stays so where the server's clock is set back."""
        return round(self._clock.monotonic() * 1000)

    def moment_of_reading(self) -> int | None:
        """Return as of when the next answer is made, in ms that have passed; None: of now, and now is all there is."""
        switches = self._switches
        if switches.timeless:
            return None
        behind = switches.lag_seconds if self._rng.random() < switches.lag_share else 0.0
        return self.elapsed() - round(behind * 1000)

    def versions(self, moment: int | None = None) -> Iterator[Version]:
        """Yield the state of everybody, the deleted included, as seen at `moment`."""
        if moment is None:
            yield from self._rows.values()
            return
        for version in self._rows.values():
            if (seen := version.at(moment)) is not None:
                yield seen

    def version(self, student_id: int, moment: int | None = None) -> Version | None:
        """Return the state of one student, dead or alive, as seen at `moment`; None: nobody of this id yet."""
        version = self._rows.get(student_id)
        return version if version is None or moment is None else version.at(moment)

    def holder_of(self, email: str) -> int | None:
        """Return the id of the living student with this e-mail address, whatever its case; None: it is free."""
        wanted = email.casefold()
        living = (version for version in self._rows.values() if version.living)
        return next((row.id for row in living if str(row.fields.get("email", "")).casefold() == wanted), None)

    # What a test compares with -----------------------------------------------------------------------------------

    def truth(self) -> dict[int, dict[str, Any]]:
        """Return each living student's whole record as it is now, by id; without the injected ones."""
        with self.lock:
            seen = [version for version in self._now_in_sight() if version.living and version.raw is None]
            return {version.id: msgspec.json.decode(render(version, self._switches)) for version in seen}

    def deleted(self) -> set[int]:
        """Return the ids of those who are gone now, with a trace or without."""
        with self.lock:
            return {version.id for version in self._now_in_sight() if not version.living and version.id > 0}

    def injected(self) -> set[int]:
        """Return the ids under which a record is served that was injected; negative for one without an id."""
        with self.lock:
            return {version.id for version in self._now_in_sight() if version.living and version.raw is not None}

    def pick(self, rng: Random, fits: Callable[[Version], bool]) -> int | None:
        """Return the id of a random student who fits, as they are now; None when nobody does."""
        with self.lock:
            for _ in range(_DRAWS if self._drawn else 0):
                drawn = rng.choice(self._drawn)
                if drawn > 0 and fits(self._rows[drawn]):
                    return drawn
            fitting = [number for number in self._drawn if number > 0 and fits(self._rows[number])]
            return rng.choice(fitting) if fitting else None

    def pick_deleted(self, rng: Random) -> int | None:
        """Return the id of a random student whose deletion left a trace; None when there is nobody."""
        with self.lock:
            return rng.choice(list(self._gone)) if self._gone else None

    # What happens to students. None as a field's value clears it; LookupError when there is no such living student ---

    def create(self, **fields: Any) -> int:
        """Enrol somebody invented, with these fields instead of their own; returns their id, which `id=` may choose."""
        with self.lock:
            number = fields.pop("id", None) or self._take_id()
            if number in self._rows:
                raise LookupError(f"the id {number} is taken")
            self._enrol(number, _with(self._newcomer(number), fields))
            return int(number)

    def admit(self, **fields: Any) -> int:
        """Enrol a student of whom nothing is known but these fields, as the API does; returns their id."""
        with self.lock:
            number = self._take_id()
            self._enrol(number, _with(new_account(), fields))
            return number

    def update(self, student_id: int, /, **fields: Any) -> None:
        """Set these fields; mends a record that was injected."""
        with self.lock:
            version = self._living(student_id)
            self._follow(version, changed=_with(version.fields, fields), raw=None)

    def clear(self, student_id: int, *names: str) -> None:
        """Take these fields away: they are no longer rendered."""
        self.update(student_id, **dict.fromkeys(names))

    def touch(self, student_id: int) -> None:
        """Change nothing but `updated_at`."""
        self.update(student_id)

    def archive(self, student_id: int, *, withdrawn_on: str | None = None, graduated_on: str | None = None) -> None:
        """Archive with one of the dates or, as happens with a whole year group, with neither; leaves the year group."""
        left = {"withdrawn_on": withdrawn_on, "graduated_on": graduated_on}
        self._set_quietly(student_id, self._switches.archive_bumps, archived=True, year_group_id=None, **left)

    def unarchive(self, student_id: int) -> None:
        """Take back an archiving; both dates are cleared, or stay, as the switch says."""
        dates = dict.fromkeys(("withdrawn_on", "graduated_on")) if self._switches.unarchive_clears_dates else {}
        self._set_quietly(student_id, self._switches.archive_bumps, archived=False, **dates)

    def login(self, student_id: int) -> None:
        """Let the student log in: `last_accessed_at` is now, spelled with the offset -08:00."""
        accessed = spell(to_epoch_ms(self.now()) // 1000 * 1000, "-08:00")
        self._set_quietly(student_id, self._switches.login_bumps, last_accessed_at=accessed)

    def set_photo(self, student_id: int, url: str | None) -> None:
        """Give the student this photo; None takes theirs away."""
        self._set_quietly(student_id, self._switches.avatar_bumps, photo_url=url)

    def change_unnoticed(self, student_id: int, /, **fields: Any) -> None:
        """Set these fields without bumping `updated_at`."""
        self._set_quietly(student_id, bump=False, **fields)

    def delete(self, student_id: int) -> None:
        """Delete softly, as an admin does in the web interface: the deleted feed tells."""
        with self.lock:
            self._follow(self._living(student_id), deleted=self._stamp(), bump=self._switches.delete_bumps)

    def purge(self, student_id: int) -> None:
        """Remove without a trace in the deleted feed; of a deleted student, the trace. Also a record without an id."""
        with self.lock:
            if (version := self._rows.get(student_id)) is None:
                raise LookupError(f"no student {student_id}")
            self._follow(version, traceless=True, bump=False)

    def restore(self, student_id: int, bump: bool | None = None) -> None:
        """Take back a deletion or a purge; `bump` overrides the switch."""
        with self.lock:
            version = self._rows.get(student_id)
            if version is None or version.living:
                raise LookupError(f"no deleted student {student_id}")
            bumps = self._switches.restore_bumps if bump is None else bump
            self._follow(version, deleted=None, traceless=False, bump=bumps)

    def inject(self, student_id: int | None, record: Any) -> int:
        """Serve `record` (a JSON value, or the very bytes) for this student, new or not, in lists and by GET.

        Its stamp is now, whatever it says itself. Without an id it is served in lists only. Returns the id, or the
        negative number under which `purge` removes a record without one. `update` mends a student's record.
        """
        raw = record if isinstance(record, bytes) else msgspec.json.encode(record)
        with self.lock:
            if student_id is not None and student_id in self._rows:
                self._follow(self._living(student_id), raw=raw)
                return student_id
            if student_id is None:
                self._next_without_id -= 1
                student_id = self._next_without_id
            self._enrol(student_id, self._newcomer(student_id) if student_id > 0 else {}, raw)
            return student_id

    # Inside ------------------------------------------------------------------------------------------------------

    def _be_born(self, size: int) -> None:
        born = to_epoch_ms(self.now())
        large = (size + _ONE_LARGE_ID_IN - 1) // _ONE_LARGE_ID_IN
        numbers = [self._take_id() for _ in range(size - large)]
        numbers += [_FIRST_LARGE_ID + 7 * turn for turn in range(large)]
        for number in numbers:
            created = self._grained(born - 2 * _HOUR - int(self._rng.random() * _OLDEST))
            updated = self._grained(created + int(self._rng.random() * (born - _HOUR - created)))
            self._rows[number] = Version(id=number, population=self._population, created=created, updated=updated)
        self._drawn = numbers

    def _newcomer(self, number: int) -> Fields:
        return self._population.newcomer(number, self.now())

    def _take_id(self) -> int:
        self._next_id += 1 + int(self._rng.random() * 3)
        while self._next_id in self._rows:
            self._next_id += 1
        return self._next_id

    def _enrol(self, number: int, fields: Fields, raw: bytes | None = None) -> None:
        stamp = self._stamp()
        new = Version(id=number, population=self._population, created=stamp, updated=stamp, changed=fields, raw=raw)
        self._put(new)

    def _living(self, student_id: int) -> Version:
        version = self._rows.get(student_id)
        if version is None or not version.living:
            raise LookupError(f"no living student {student_id}")
        return version

    def _set_quietly(self, student_id: int, /, bump: bool, **fields: Any) -> None:
        with self.lock:
            version = self._living(student_id)
            self._follow(version, changed=_with(version.fields, fields), bump=bump)

    def _follow(self, version: Version, *, bump: bool = True, **changes: Any) -> None:
        """Put a new state in front of the last one."""
        state = {
            "created": version.created,
            "updated": self._stamp() if bump else version.updated,
            "deleted": version.deleted,
            "traceless": version.traceless,
            "raw": version.raw,
            "changed": version.fields,
        }
        new = Version(id=version.id, population=version.population, previous=version, **(state | changes))
        self._put(new)

    def _put(self, version: Version) -> None:
        """Let a state come to sight: now, or later; never before the one that it follows, whose lock it waited for."""
        switches, now = self._switches, self.elapsed()
        version.since = now
        if switches.late_commit_seconds and self._rng.random() < switches.late_commit_share:
            version.since += round(switches.late_commit_seconds * 1000)
        if switches.timeless:
            version.previous = None
        elif version.previous is not None:
            version.since = max(version.since, version.previous.since)
            version.previous.forget_before(now - round(switches.lag_seconds * 1000))
        if version.id not in self._rows:
            self._drawn.append(version.id)
        self._rows[version.id] = version
        self._gone.pop(version.id, None)
        if version.deleted is not None and not version.traceless:
            self._gone[version.id] = None
        self.generation += 1

    def _stamp(self) -> int:
        skews = self._switches.stamp_skews
        skew = skews[0] if len(skews) == 1 else self._rng.choice(skews)
        return self._grained(to_epoch_ms(self.now()) + round(skew * 1000))

    def _grained(self, stamp: int) -> int:
        return stamp - stamp % self._switches.grain_ms

    def _now_in_sight(self) -> Iterator[Version]:
        return self.versions(None if self._switches.timeless else self.elapsed())


def _with(fields: Fields, changes: Fields) -> Fields:
    """Return a copy with the changes made; None takes a key away."""
    return {name: value for name, value in {**fields, **changes}.items() if value is not None}


def _forget_spelling(version: Version) -> None:
    state: Version | None = version
    while state is not None:
        state.rendered, state = None, state.previous
