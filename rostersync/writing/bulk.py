"""Send the writes in a CSV file one after the other, and report each result at once.

The module `bulk_file` reads the file, and the module `bulk_tasks` decides what to write for each line. If the process
is asked to stop, it first finishes the line in progress.
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

    from rostersync.cancel import CancelScope
    from rostersync.managebac.students import Students
    from rostersync.records import Student
    from rostersync.report import ProgressCallback
    from rostersync.writing.bulk_tasks import Task
    from rostersync.writing.single import Sender, WriteResult

NOT_SENT = "not_sent"
"""The outcome of a line if its write could not be sent, or if the command stopped before this line."""

GAVE_UP = "the previous lines failed, and the remaining lines would fail as well"
"""The reason given for a `not_sent` line if the command stopped because further lines would fail as well."""

_MOST_DOUBTS = 3
"""After this many consecutive writes with the outcome `unknown`, the command stops.

The network or the server is probably broken.
"""


class LineResult(msgspec.Struct, frozen=True):
    """The result of a line. `outcome` is an outcome in the audit log, or `unchanged`, or `not_sent`."""

    task: Task
    outcome: str
    reason: str = ""
    write_result: WriteResult | None = None

    @property
    def key(self) -> int:
        """The id of the student, or 0 if the id is not known. If the line has created a student, this is the new id."""
        return (self.write_result.key if self.write_result else 0) or self.task.key

    @property
    def good(self) -> bool:
        """Whether the student's record now has the values that are in the line."""
        return self.outcome in {UNCHANGED, str(Outcome.DONE)}

    @property
    def accepted(self) -> bool:
        """Whether ManageBac has accepted the write, even if some fields did not change."""
        return self.write_result is not None and self.outcome in {Outcome.DONE, Outcome.NOT_TAKEN}

    @property
    def may_be_done(self) -> bool:
        """Whether ManageBac has carried out the write, or may have done so."""
        return self.accepted or self.outcome == Outcome.UNKNOWN

    @property
    def sent(self) -> bool:
        """Whether ManageBac has responded to the write, or may have received the write."""
        refused = (
            self.write_result is not None
            and self.write_result.error is not None
            and self.write_result.error.status is not None
        )
        return self.may_be_done or (self.outcome == Outcome.REFUSED and refused)


class Bulk:
    """Sends the writes in one file to one source."""

    def __init__(self, students: Students, sender: Sender, scope: CancelScope, progress: ProgressCallback) -> None:
        """Prepare to carry out tasks.

        Args:
            students: The client that reads the students after the writes. This client's scope should end some seconds
                later than `scope`, so that the line in progress can be finished.
            sender: The object that sends the writes. The sender's scope should also end some seconds later than
                `scope`.
            scope: The scope of the command. If the scope is cancelled, no further line is sent.
            progress: A function that is called after each line.

        """
        self._students = students
        self._sender = sender
        self._scope = scope
        self._progress = progress
        self.stopped: Stopped | None = None
        """The request to stop, if the process was asked to stop during the tasks. Otherwise None."""

    def carry_out(self, tasks: Sequence[Task], note: Callable[[LineResult], None]) -> list[LineResult]:
        """Carry out the tasks in order, and return their results.

        Sending stops if `note` raises `OSError`, if the process is asked to stop, or if a write cannot be recorded in
        the audit log. Sending also stops if further lines would fail as well, for example because the token has no
        access, or because three consecutive writes got no response. Once sending has stopped, each remaining line that
        has a write gets the outcome `not_sent`.

        Args:
            tasks: The tasks, in the order of the lines.
            note: A function that is called with each result as soon as the result is known.

        Returns:
            The results, in the order of the tasks.

        """
        results: list[LineResult] = []
        ended_by: str | None = None  # the reason why no more writes are sent
        for task in tasks:
            if ended_by is None:
                ended_by = self._why_end(results)
            if ended_by is not None and task.write:
                result = LineResult(task, NOT_SENT, ended_by)
            else:
                result = self._carry_out(task)
                if ended_by is None and result.outcome == NOT_SENT:
                    ended_by = result.reason
            results.append(result)
            try:
                note(result)
            except OSError as error:
                if ended_by is None:
                    ended_by = f"the result file cannot be written: {error.strerror}"
            self._progress("students", len(results), len(tasks))
        return self._confirmed(results)

    def _why_end(self, results: Sequence[LineResult]) -> str | None:
        """Return the reason why the next line must not be sent, or None if it may be sent."""
        try:
            self._scope.check()
        except Stopped as stopped:
            self.stopped = stopped
            return "stopped"
        return GAVE_UP if _gave_up(results) else None

    def _carry_out(self, task: Task) -> LineResult:
        if task.write is None:
            return LineResult(task, task.outcome, task.reason)
        try:
            write_result = self._sender.write(task.write, read_back=False)
        except StoreError as error:
            return LineResult(task, NOT_SENT, error.message)
        if write_result.stopped is not None:
            self.stopped = write_result.stopped
            if write_result.outcome is Outcome.REFUSED:
                return LineResult(task, NOT_SENT, "stopped", write_result)
        return _result(task, write_result)

    def _confirmed(self, results: list[LineResult]) -> list[LineResult]:
        """Read all written students back by list requests, and return the updated results.

        If a written value is not in the list yet, all these students are read again, because a list may be slightly
        out of date.
        """
        for look in range(single.LOOKS):
            done = [result.key for result in results if result.accepted]
            if not done:
                break
            try:
                self._scope.sleep(look)
                after = shown_by_id(self._students, done)
                last = look == single.LOOKS - 1
                results = [_confirm(result, after.get(result.key), self._sender, last=last) for result in results]
            except ApiError:  # the results still say that ManageBac has accepted the writes
                break
            except Stopped as stopped:  # the results still say that ManageBac has accepted the writes
                self.stopped = stopped
                break
            if all(result.outcome != Outcome.NOT_TAKEN for result in results):
                break
        return results


def _confirm(result: LineResult, listed: Student | None, sender: Sender, *, last: bool) -> LineResult:
    write, write_result = result.task.write, result.write_result
    if write is None or write_result is None or listed is None or not result.accepted:
        return result
    try:
        return _result(result.task, sender.confirm(write, write_result, listed, last=last))
    except ApiError:  # this says nothing about the other students
        return result


def _result(task: Task, write_result: WriteResult) -> LineResult:
    return LineResult(task, str(write_result.outcome), _reason(write_result), write_result)


def _reason(write_result: WriteResult) -> str:
    if write_result.log_error is not None:
        return f"the audit log could not be completed: {write_result.log_error.message}"
    if write_result.outcome is Outcome.NOT_TAKEN:
        return ", ".join(write_result.not_taken)
    if isinstance(write_result.error, Invalid):
        pairs = [(name, text) for name, texts in write_result.error.fields.items() for text in texts]
        return "; ".join(f"{name}: {text}" for name, text in pairs) or write_result.error.message
    return write_result.error.message if write_result.error else ""


def _gave_up(results: Sequence[LineResult]) -> bool:
    """Return whether the next line would fail for the same reason as the previous lines."""
    sent = [result for result in results if result.write_result is not None]
    if not sent:
        return False
    last, latest = sent[-1], [result.outcome for result in sent[-_MOST_DOUBTS:]]
    if latest == [Outcome.UNKNOWN] * _MOST_DOUBTS:
        return True
    # If an error concerns only one student, the write of the next student may still succeed.
    about_one = last.write_result is not None and isinstance(last.write_result.error, (NotFound, Refused))
    return last.outcome == Outcome.REFUSED and not about_one
