"""Many writes from one CSV: checked whole before the first is sent, and safe to be run again after an interruption.

Who is already as asked is found through the list, and left alone: so a second run sends what the first did not.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rostersync.errors import ApiError, ConfigError, Invalid, NotFound, Refused
from rostersync.managebac.fields import WRITABLE, typed
from rostersync.runs import writing
from rostersync.runs.formulas import unguarded
from rostersync.store.audit import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from rostersync.clock import Clock
    from rostersync.managebac.students import Students
    from rostersync.records import Student
    from rostersync.report import ProgressCallback
    from rostersync.runs.writing import Write, Writer, Written

MOST_MISTAKES = 50
"""So many mistakes of a file are told; of more, how many there are."""

_AT_ONCE = 100  # students asked for in one request of the list
_MOST_DOUBTS = 3  # in a row: then the network or the server is out of order, and the rest can wait

Make = Callable[[int, Mapping[str, str]], "Write"]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the file, by its number, and the write that it asks for."""

    number: int
    write: Write


@dataclass(frozen=True, slots=True)
class Result:
    """What has become of a line. `outcome` is one of the audit log's, `unchanged` (it was so already) or `not_sent`."""

    line: Line
    outcome: str
    reason: str = ""
    written: Written | None = None

    @property
    def good(self) -> bool:
        """Whether the student is as asked."""
        return self.outcome in {"unchanged", str(Outcome.DONE)}

    @property
    def accepted(self) -> bool:
        """Whether ManageBac has accepted the write, whether or not it took every field."""
        return self.outcome in {Outcome.DONE, Outcome.NOT_TAKEN}


# Reading the file ------------------------------------------------------------------------------------------------


def to_update(key: int, cells: Mapping[str, str]) -> Write:
    """Return the write of a line of `id` and fields; an empty cell leaves its field as it is."""
    return writing.update(key, {name: typed(name, text) for name, text in cells.items() if text.strip()})


def to_archive(key: int, cells: Mapping[str, str]) -> Write:
    """Return the write of a line of `id`, and `withdrawn_on` or `graduated_on`."""
    return writing.archive(key, {name: text.strip() or None for name, text in cells.items()})


COLUMNS: Mapping[Make, Sequence[str]] = {
    to_update: tuple(WRITABLE),
    to_archive: ("withdrawn_on", "graduated_on"),
}
"""The columns that a file may have beside `id`."""


def read(path: Path, make: Make) -> list[Line]:
    """Return the lines of a CSV (UTF-8; commas or semicolons) as writes.

    Raises `ConfigError` with a line for each mistake in the file, by line: nothing of it is to be sent then.
    """
    rows = _rows(path)
    if not rows:
        raise ConfigError([f"{path}: the file is empty"], "its first line names the columns: id, and what to change")
    header = _header(rows[0][1])
    if wrong := _wrong_columns(header, COLUMNS[make]):
        raise ConfigError([f"{path}: {text}" for text in wrong], "nothing was sent")
    lines, mistakes = _lines(rows[1:], header, make)
    if not (lines or mistakes):
        mistakes = ["the file has a header, and no line below it"]
    if mistakes:
        more = [f"and {len(mistakes) - MOST_MISTAKES} more"] if len(mistakes) > MOST_MISTAKES else []
        told = [f"{path}: {text}" for text in mistakes[:MOST_MISTAKES]]
        raise ConfigError([*told, *more], "nothing was sent")
    return lines


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows that are not blank, each with the number of its (last) line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError([f"{path}: {(error.strerror or 'cannot be read').lower()}"]) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        hint = "save the file as UTF-8; in Excel: Save as > CSV UTF-8"
        raise ConfigError([f"{path}: line {line}: not UTF-8"], hint) from None
    if text.startswith("sep="):  # how Excel is told which character separates the columns
        text = "\n" + text.partition("\n")[2]
    first = text.lstrip("\r\n").partition("\n")[0]
    delimiter = next((character for character in ",;\t" if character in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ConfigError([f"{path}: line {reader.line_num}: not CSV ({error})"], "nothing was sent") from None


def _header(cells: Sequence[str]) -> list[str]:
    """Return the names of the columns, without the nameless ones that a spreadsheet leaves behind the last."""
    names = [cell.strip().lower() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names


def _wrong_columns(header: Sequence[str], allowed: Sequence[str]) -> list[str]:
    wrong = [f"the column {name} stands there twice" for name in dict.fromkeys(header) if header.count(name) > 1]
    if "id" not in header:
        wrong.append("there is no column id")
    unknown = [name for name in header if name not in {"id", *allowed}]
    return wrong + [f"column {name[:40] or '(empty)'}: {_expected(name, allowed)}" for name in unknown]


def _expected(name: str, allowed: Sequence[str]) -> str:
    if set(allowed) != set(WRITABLE):
        return f"expected id, {' or '.join(allowed)}"
    try:
        writing.update(1, {name: ""})
    except Invalid as error:
        return error.fields[name][0]
    return "not expected"


def _lines(rows: Sequence[tuple[int, list[str]]], header: Sequence[str], make: Make) -> tuple[list[Line], list[str]]:
    lines: list[Line] = []
    mistakes: list[str] = []
    seen: dict[int, int] = {}
    for number, cells in rows:
        others: Mapping[str, str] = {}
        try:
            key, others = _cells(cells, header)
            if key in seen:
                raise ValueError(f"student {key} is in line {seen[key]} already")  # noqa: TRY301 - one way out of a line
            seen[key] = number
            lines.append(Line(number, make(key, others)))
        except ValueError as error:
            mistakes.append(f"line {number}: {error}")
        except Invalid as error:
            mistakes.append(f"line {number}: {error.message}{_found(error, others)}")
    return lines, mistakes


def _found(error: Invalid, cells: Mapping[str, str]) -> str:
    """Return what stands in the first cell that is wrong, for whoever made the file."""
    found = [cells[name] for name in error.fields if cells.get(name)]
    return f", found {found[0][:40]!r}" if found else ""


def _cells(cells: Sequence[str], header: Sequence[str]) -> tuple[int, dict[str, str]]:
    """Return the id and the other cells of a line. Raises `ValueError`."""
    if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
        raise ValueError(f"{len(cells)} cells, and the header has {len(header)}")
    named = dict(zip(header, map(unguarded, cells[: len(header)]), strict=True))
    text = named.pop("id").strip()
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"id must be a whole number from 1, found {text[:20]!r}")
    return int(text), named


# Carrying it out -------------------------------------------------------------------------------------------------


class Bulk:
    """Carries out the lines of a file for one source."""

    def __init__(self, students: Students, clock: Clock, progress: ProgressCallback) -> None:
        self._students = students
        self._clock = clock
        self._progress = progress
        self._before: dict[int, Student] = {}

    def look_up(self, lines: Sequence[Line]) -> None:
        """Find out who is already as asked. Raises `ApiError` where the list cannot be read, and `Stopped`."""
        self._before = self._records([line.write.key for line in lines])

    def carry_out(self, lines: Sequence[Line], writer: Writer, note: Callable[[Result], None]) -> list[Result]:
        """Send what is not yet as asked, in order, and return what has become of each line.

        `note` is called with each result as soon as it is known, so that an interruption loses none.
        Where going on makes no sense (no access, no network, three writes in a row without an answer) the rest is
        `not_sent`. Raises `Stopped`, when the line under way has been noted.
        """
        results: list[Result] = []
        for line in lines:
            if _gave_up(results):
                result = Result(line, "not_sent", "the lines before could not be sent")
            elif (student := self._before.get(line.write.key)) is not None and _is_as_asked(line.write, student):
                result = Result(line, "unchanged")
            else:
                result = _result(line, writer.write(line.write, read_back=False))
            results.append(result)
            note(result)
            self._progress("students", len(results), len(lines))
            if result.written and result.written.stopped:
                raise result.written.stopped
        return self._confirmed(results, writer)

    def _confirmed(self, results: list[Result], writer: Writer) -> list[Result]:
        """Look at everybody who was written, through the list; what answers reads may lag behind what takes writes."""
        for look in range(writing.LOOKS):
            done = [result.line.write.key for result in results if result.accepted]
            if not done:
                break
            self._clock.sleep(look)
            try:
                after = self._records(done)
            except ApiError:  # they are done by what was answered; that is what is known
                break
            results = [_confirm(result, after.get(result.line.write.key), writer) for result in results]
            if all(result.outcome != Outcome.NOT_TAKEN for result in results):
                break
        return results

    def _records(self, keys: Sequence[int]) -> dict[int, Student]:
        """Return the records of these students that the list shows, whether or not it honours the filter by ids."""
        wanted = set(keys)
        found: dict[int, Student] = {}
        for start in range(0, len(keys), _AT_ONCE):
            listed = self._students.list(ids=keys[start : start + _AT_ONCE], per_page=_AT_ONCE)
            ignored = listed.total_count > len(keys[start : start + _AT_ONCE])  # then this is everybody
            found |= {student.id: student for student in listed if student.id in wanted}
            if ignored:
                break
        return found


def _confirm(result: Result, student: Student | None, writer: Writer) -> Result:
    if result.written is None or student is None or not result.accepted:
        return result
    return _result(result.line, writer.confirm(result.line.write, result.written, student))


def _is_as_asked(write: Write, student: Student) -> bool:
    return write.shows and not write.missing(student)


def _result(line: Line, written: Written) -> Result:
    return Result(line, str(written.outcome), _reason(written), written)


def _reason(written: Written) -> str:
    if written.log_error is not None:
        return f"the audit log could not be completed: {written.log_error.message}"
    if written.outcome is Outcome.NOT_TAKEN:
        return f"not taken: {', '.join(written.not_taken)}"
    if isinstance(written.error, Invalid):
        pairs = [(name, text) for name, texts in written.error.fields.items() for text in texts]
        return "; ".join(f"{name}: {text}" for name, text in pairs) or written.error.message
    return written.error.message if written.error else ""


def _gave_up(results: Sequence[Result]) -> bool:
    """Tell whether the next line would fare no better than the last ones."""
    if not results:
        return False
    last, latest = results[-1], [result.outcome for result in results[-_MOST_DOUBTS:]]
    if last.outcome == "not_sent" or latest == [Outcome.UNKNOWN] * _MOST_DOUBTS:
        return True
    # What is wrong with one student says nothing of the next.
    about_one = last.written is not None and isinstance(last.written.error, (NotFound, Refused))
    return last.outcome == Outcome.REFUSED and not about_one
