"""Send the writes of a CSV file one after the other, and report each result at once.

`bulk_file` reads the file, and `bulk_tasks` decides what each line writes. If the process is asked to stop, the line in
progress is finished first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from rostersync.errors import ApiError, Invalid, NotFound, Refused, Stopped, StoreError
from rostersync.store.audit import Outcome
from rostersync.writing import single
from rostersync.writing.bulk_tasks import UNCHANGED, shown_by_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rostersync.clock import Clock
    from rostersync.managebac.students import Students
    from rostersync.records import Student
    from rostersync.report import ProgressCallback
    from rostersync.writing.bulk_tasks import Task
    from rostersync.writing.single import Writer, Written

NOT_SENT = "not_sent"
"""The outcome of a line that could not be sent, or that was not sent because the command stopped before it."""

GAVE_UP = "the previous lines failed, and the others would fail too"
"""The reason for each `not_sent` line if the command stopped because further lines would fail, too."""

_MOST_DOUBTS = 3  # writes without a response in a row: the network or the server is broken, so the command stops


class Result(msgspec.Struct, frozen=True):
    """The result of a line. `outcome` is one of the audit log's outcomes, `unchanged` or `not_sent`."""

    task: Task
    outcome: str
    reason: str = ""
    written: Written | None = None

    @property
    def key(self) -> int:
        """The student's id, also after a create; 0 if it is not known."""
        return (self.written.key if self.written else 0) or self.task.key

    @property
    def good(self) -> bool:
        """Whether the student's record is now as the line asks."""
        return self.outcome in {UNCHANGED, str(Outcome.DONE)}

    @property
    def accepted(self) -> bool:
        """Whether ManageBac has accepted the write, even if it did not take every field."""
        return self.written is not None and self.outcome in {Outcome.DONE, Outcome.NOT_TAKEN}

    @property
    def may_be_done(self) -> bool:
        """Whether ManageBac has, or may have, carried out the write."""
        return self.accepted or self.outcome == Outcome.UNKNOWN

    @property
    def sent(self) -> bool:
        """Whether ManageBac has responded to the write, or may have received it."""
        refused = self.written is not None and self.written.error is not None and self.written.error.status is not None
        return self.may_be_done or (self.outcome == Outcome.REFUSED and refused)


class Bulk:
    """Carries out the tasks of one file for one source."""

    def __init__(self, students: Students, writer: Writer, clock: Clock, progress: ProgressCallback) -> None:
        """Prepare to carry out tasks.

        Args:
            students: Reads the students back. After the process was asked to stop, its own clock should leave it some
                seconds to finish.
            writer: Sends the writes. The same holds for its clock.
            clock: Says before each line whether the process was asked to stop.
            progress: Is called after each line.

        """
        self._students = students
        self._writer = writer
        self._clock = clock
        self._progress = progress
        self.stopped: Stopped | None = None
        """Set if the process was asked to stop during the tasks."""

    def carry_out(self, tasks: Sequence[Task], note: Callable[[Result], None]) -> list[Result]:
        """Carry out the tasks in order, and return their results.

        `note` is called with each result as soon as it is known. Sending stops if `note` raises `OSError`, if the
        process is asked to stop, or if the audit log fails. It also stops if further lines would fail like the last
        ones: without access, without a network, or after three writes in a row without a response. Each line after that
        is `not_sent`.
        """
        results: list[Result] = []
        enough = ""
        for task in tasks:
            enough = enough or self._why_not_go_on(results)
            result = Result(task, NOT_SENT, enough) if enough and task.write else self._carry_out(task)
            enough = enough or (result.reason if result.outcome == NOT_SENT else "")
            results.append(result)
            try:
                note(result)
            except OSError as error:
                enough = enough or f"the result file cannot be written: {error.strerror}"
            self._progress("students", len(results), len(tasks))
        return self._confirmed(results)

    def _why_not_go_on(self, results: Sequence[Result]) -> str:
        """Return why the next line must not be sent, or "" if it may be."""
        try:
            self._clock.check()
        except Stopped as stopped:
            self.stopped = stopped
            return "stopped"
        return GAVE_UP if _gave_up(results) else ""

    def _carry_out(self, task: Task) -> Result:
        if task.write is None:
            return Result(task, task.outcome, task.reason)
        try:
            written = self._writer.write(task.write, read_back=False)
        except StoreError as error:
            return Result(task, NOT_SENT, error.message)
        if written.stopped is not None:
            self.stopped = written.stopped
            if written.outcome is Outcome.REFUSED:
                return Result(task, NOT_SENT, "stopped", written)
        return _result(task, written)

    def _confirmed(self, results: list[Result]) -> list[Result]:
        """Read all written students back by list requests, several times if a write is not shown: lists may lag."""
        for look in range(single.LOOKS):
            done = [result.key for result in results if result.accepted]
            if not done:
                break
            try:
                self._clock.sleep(look)
                after = shown_by_id(self._students, done)
                last = look == single.LOOKS - 1
                results = [_confirm(result, after.get(result.key), self._writer, last=last) for result in results]
            except ApiError:  # it remains known that ManageBac has accepted the writes
                break
            except Stopped as stopped:  # as above
                self.stopped = stopped
                break
            if all(result.outcome != Outcome.NOT_TAKEN for result in results):
                break
        return results


def _confirm(result: Result, listed: Student | None, writer: Writer, *, last: bool) -> Result:
    write, written = result.task.write, result.written
    if write is None or written is None or listed is None or not result.accepted:
        return result
    return _result(result.task, writer.confirm(write, written, listed, last=last))


def _result(task: Task, written: Written) -> Result:
    return Result(task, str(written.outcome), _reason(written), written)


def _reason(written: Written) -> str:
    if written.log_error is not None:
        return f"the audit log could not be completed: {written.log_error.message}"
    if written.outcome is Outcome.NOT_TAKEN:
        return ", ".join(written.not_taken)
    if isinstance(written.error, Invalid):
        pairs = [(name, text) for name, texts in written.error.fields.items() for text in texts]
        return "; ".join(f"{name}: {text}" for name, text in pairs) or written.error.message
    return written.error.message if written.error else ""


def _gave_up(results: Sequence[Result]) -> bool:
    """Return whether the next line would fail like the last ones."""
    sent = [result for result in results if result.written is not None]
    if not sent:
        return False
    last, latest = sent[-1], [result.outcome for result in sent[-_MOST_DOUBTS:]]
    if latest == [Outcome.UNKNOWN] * _MOST_DOUBTS:
        return True
    # An error about one student says nothing about the next.
    about_one = last.written is not None and isinstance(last.written.error, (NotFound, Refused))
    return last.outcome == Outcome.REFUSED and not about_one
