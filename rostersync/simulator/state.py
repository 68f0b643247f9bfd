"""The school that the stand-in serves, with its students, their changes, and the times when changes become visible."""

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
_FIRST_LARGE_ID = 10_342_450_460  # above 2**32, like an id in one of ManageBac's samples
_ONE_LARGE_ID_IN = 100
_HOUR = 3_600_000
_OLDEST = 5 * 365 * 24 * _HOUR
_DRAWS = 20  # the number of random tries before all students are searched


class School:
    """A school of invented students. Its state depends only on the seed, the clock and the calls.

    A change usually sets `updated_at` to the server's time. The server's time is the clock's time plus the skews from
    the switches, rounded down to the grain from the switches. A change becomes visible at once, or after the delay in
    the switches. One lock makes every change atomic. Methods that change a student raise `LookupError` if the student
    does not exist or is deleted.
    """

    def __init__(self, seed: int, size: int, clock: Clock, switches: Switches | None = None) -> None:
        """Create a school.

        Args:
            seed: The seed for the random choices. The same seed produces the same students.
            size: The number of students, 0 or more.
            clock: The school's clock.
            switches: How the API behaves. The defaults are the most likely behaviour.

        """
        self._clock = clock
        self._switches = switches or Switches()
        self._rng = Random(seed)  # noqa: S311 - the simulation must be repeatable
        self._population = Population(seed, self.now().date(), self._switches.custom_fields)
        self._rows: dict[int, Version] = {}
        self._drawn: list[int] = []  # the keys of _rows in a list, because random choices from a list are fast
        self._gone: dict[int, None] = {}  # the ids of students in the deleted feed
        self._next_id = _FIRST_ID
        self._next_without_id = 0
        self.lock = threading.RLock()
        self.generation = 0  # increases with every change, so that a cache knows when it is out of date
        self._be_born(size)

    # Reading the school ------------------------------------------------------------------------------------------

    @property
    def switches(self) -> Switches:
        return self._switches

    @switches.setter
    def switches(self, switches: Switches) -> None:
        """Replace the switches. A change of `custom_fields` has no effect."""
        with self.lock:
            self._switches = switches
            self.generation += 1
            for version in self._rows.values():
                _forget_spelling(version)

    @property
    def rng(self) -> Random:
        """The school's random number generator, which also decides about the random parts of responses."""
        return self._rng

    def now(self) -> datetime:
        """Return the server's time, which is the clock's time plus the server's skew."""
        return self._clock.now() + timedelta(seconds=self._switches.clock_skew)

    def elapsed(self) -> int:
        """Return the monotonic time in milliseconds, which decides which changes are visible.

        Setting a clock back has no effect.
        """
        return round(self._clock.monotonic() * 1000)

    def moment_of_reading(self) -> int | None:
        """Return the time (see `elapsed`) of the state that the next response shows. None means the latest state."""
        switches = self._switches
        if switches.timeless:
            return None
        behind = switches.lag_seconds if self._rng.random() < switches.lag_share else 0.0
        return self.elapsed() - round(behind * 1000)

    def versions(self, moment: int | None = None) -> Iterator[Version]:
        """Yield the state at `moment` of every student, including deleted students. None means the latest state."""
        if moment is None:
            yield from self._rows.values()
            return
        for version in self._rows.values():
            if (seen := version.at(moment)) is not None:
                yield seen

    def version(self, student_id: int, moment: int | None = None) -> Version | None:
        """Return the state of a current or deleted student at `moment`, or None if the student did not exist yet."""
        version = self._rows.get(student_id)
        return version if version is None or moment is None else version.at(moment)

    def holder_of(self, email: str) -> int | None:
        """Return the id of the current student with this e-mail address, or None if the address is free.

        Ignore upper and lower case.
        """
        wanted = email.casefold()
        living = (version for version in self._rows.values() if version.living)
        return next((row.id for row in living if str(row.fields.get("email", "")).casefold() == wanted), None)

    # The truth, for tests ---------------------------------------------------------------------------------------

    def truth(self) -> dict[int, dict[str, Any]]:
        """Return a dictionary from the ids of current students to their complete records.

        Injected records are left out.
        """
        with self.lock:
            seen = [version for version in self._now_in_sight() if version.living and version.raw is None]
            return {version.id: msgspec.json.decode(render(version, self._switches)) for version in seen}

    def deleted(self) -> set[int]:
        """Return the ids of all students who are now deleted or purged."""
        with self.lock:
            return {version.id for version in self._now_in_sight() if not version.living and version.id > 0}

    def injected(self) -> set[int]:
        """Return the ids of the injected records. An injected record without an id has a negative number."""
        with self.lock:
            return {version.id for version in self._now_in_sight() if version.living and version.raw is not None}

    def pick(self, rng: Random, fits: Callable[[Version], bool]) -> int | None:
        """Return the id of a random student, chosen among the latest states that fit, or None if no state fits."""
        with self.lock:
            for _ in range(_DRAWS if self._drawn else 0):
                drawn = rng.choice(self._drawn)
                if drawn > 0 and fits(self._rows[drawn]):
                    return drawn
            fitting = [number for number in self._drawn if number > 0 and fits(self._rows[number])]
            return rng.choice(fitting) if fitting else None

    def pick_deleted(self, rng: Random) -> int | None:
        """Return the id of a random student in the deleted feed, or None if the feed is empty."""
        with self.lock:
            return rng.choice(list(self._gone)) if self._gone else None

    # Changes to students. The value None clears a field ---------------------------------------------------------------

    def create(self, **fields: Any) -> int:
        """Enrol an invented student, and return the id. `fields` override the invented fields, and `id=` sets the id.

        Raises `LookupError` if the id is already in use.
        """
        with self.lock:
            number = fields.pop("id", None) or self._take_id()
            if number in self._rows:
                raise LookupError(f"the id {number} is taken")
            self._enrol(number, _with(self._newcomer(number), fields))
            return int(number)

    def admit(self, **fields: Any) -> int:
        """Enrol a student like the API, and return the id. Set only `fields` and a few default fields."""
        with self.lock:
            number = self._take_id()
            self._enrol(number, _with(new_account(), fields))
            return number

    def update(self, student_id: int, /, **fields: Any) -> None:
        """Set these fields. If a record was injected for the student, serve the student's own record again."""
        with self.lock:
            version = self._living(student_id)
            self._follow(version, changed=_with(version.fields, fields), raw=None)

    def clear(self, student_id: int, *names: str) -> None:
        """Clear these fields, so that the student's record no longer has them."""
        self.update(student_id, **dict.fromkeys(names))

    def touch(self, student_id: int) -> None:
        """Change only `updated_at`."""
        self.update(student_id)

    def archive(self, student_id: int, *, withdrawn_on: str | None = None, graduated_on: str | None = None) -> None:
        """Archive a student with one of the two dates, or with none. Clear the student's year group."""
        left = {"withdrawn_on": withdrawn_on, "graduated_on": graduated_on}
        self._set_quietly(student_id, self._switches.archive_bumps, archived=True, year_group_id=None, **left)

    def unarchive(self, student_id: int) -> None:
        """Take a student out of the archive.

        The switch `unarchive_clears_dates` decides whether both dates are cleared.
        """
        dates = dict.fromkeys(("withdrawn_on", "graduated_on")) if self._switches.unarchive_clears_dates else {}
        self._set_quietly(student_id, self._switches.archive_bumps, archived=False, **dates)

    def login(self, student_id: int) -> None:
        """Record a login, which sets `last_accessed_at` to the current time, with the offset -08:00."""
        accessed = spell(to_epoch_ms(self.now()) // 1000 * 1000, "-08:00")
        self._set_quietly(student_id, self._switches.login_bumps, last_accessed_at=accessed)

    def set_photo(self, student_id: int, url: str | None) -> None:
        """Set the URL of the student's photo. None removes the photo."""
        self._set_quietly(student_id, self._switches.avatar_bumps, photo_url=url)

    def change_unnoticed(self, student_id: int, /, **fields: Any) -> None:
        """Set these fields without changing `updated_at`."""
        self._set_quietly(student_id, bump=False, **fields)

    def delete(self, student_id: int) -> None:
        """Delete a student, as an administrator does in the web interface. The deleted feed lists the student."""
        with self.lock:
            self._follow(self._living(student_id), deleted=self._stamp(), bump=self._switches.delete_bumps)

    def purge(self, student_id: int) -> None:
        """Remove a current or deleted student without a trace in the deleted feed.

        This method can also remove an injected record without an id. Raises `LookupError` if the student does not
        exist.
        """
        with self.lock:
            if (version := self._rows.get(student_id)) is None:
                raise LookupError(f"no student {student_id}")
            self._follow(version, traceless=True, bump=False)

    def restore(self, student_id: int, bump: bool | None = None) -> None:
        """Undo a deletion or a purge. `bump` overrides the switch `restore_bumps`.

        Raises `LookupError` if the student does not exist or is not deleted.
        """
        with self.lock:
            version = self._rows.get(student_id)
            if version is None or version.living:
                raise LookupError(f"no deleted student {student_id}")
            bumps = self._switches.restore_bumps if bump is None else bump
            self._follow(version, deleted=None, traceless=False, bump=bumps)

    def inject(self, student_id: int | None, record: Any) -> int:
        """Serve a given record for a student, in lists and by GET, until the student is updated.

        Args:
            student_id: The id of an existing or new student. If None, the record is served only in lists.
            record: A JSON value, or the bytes to serve. The feed of modified students treats the record as changed now,
                even if its `updated_at` has another time.

        Returns:
            The id. If `student_id` is None, this is a negative number, which `purge` accepts.

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

    # Private methods ---------------------------------------------------------------------------------------------

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
        """Add a new state of a student after the latest state."""
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
        """Store a new state. A state becomes visible now or later, but never before the student's previous state."""
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
    """Return a copy of the fields with the changes. The value None removes a key."""
    return {name: value for name, value in {**fields, **changes}.items() if value is not None}


def _forget_spelling(version: Version) -> None:
    state: Version | None = version
    while state is not None:
        state.rendered, state = None, state.previous
