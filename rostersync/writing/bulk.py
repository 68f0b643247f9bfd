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

    from rostersync.cancel import CancelScope
    from rostersync.managebac.students import Students
    from rostersync.records import Student
    from rostersync.report import ProgressCallback
    from rostersync.writing.bulk_tasks import Task
    from rostersync.writing.single import Sender, WriteResult

NOT_SENT = "not_sent"
"""The outcome of a line that could not be sent, or that was not sent because the command stopped before it."""

GAVE_UP = "the previous lines failed, and the others would fail too"
"""The reason for each `not_sent` line if the command stopped because further lines would fail, too."""

_MOST_DOUBTS = 3  # writes without a response in a row: the network or the server is broken, so the command stops


class LineResult(msgspec.Struct, frozen=True):
    """The result of a line. `outcome` is one of the audit log's outcomes, `unchanged` or `not_sent`."""

    task: Task
    outcome: str
    reason: str = ""
    write_result: WriteResult | None = None

    @property
    def key(self) -> int:
        """The student's id, also after a create; 0 if it is not known."""
        return (self.write_result.key if self.write_result else 0) or self.task.key

    @property
    def good(self) -> bool:
        """Whether the student's record is now as the line asks."""
        return self.outcome in {UNCHANGED, str(Outcome.DONE)}

    @property
    def accepted(self) -> bool:
        """Whether ManageBac has accepted the write, even if it did not take every field."""
        return self.write_result is not None and self.outcome in {Outcome.DONE, Outcome.NOT_TAKEN}

    @property
    def may_be_done(self) -> bool:
        """Whether ManageBac has, or may have, carried out the write."""
        return self.accepted or self.outcome == Outcome.UNKNOWN

    @property
    def sent(self) -> bool:
        """Whether ManageBac has responded to the write, or may have received it."""
        refused = (
            self.write_result is not None
            and self.write_result.error is not None
            and self.write_result.error.status is not None
        )
        return self.may_be_done or (self.outcome == Outcome.REFUSED and refused)


class Bulk:
    """Carries out the tasks of one file for one source."""

    def __init__(self, students: Students, sender: Sender, scope: CancelScope, progress: ProgressCallback) -> None:
        """Prepare to carry out tasks.

        Args:
            students: Reads the students back. Its own scope should end some seconds later than `scope`, so that the
                line in progress can be finished.
            sender: Sends the writes. Its own scope should also end some seconds later.
            scope: If it is cancelled, no further line is sent.
            progress: Is called after each line.

        """
        self._students = students
        self._sender = sender
        self._scope = scope
        self._progress = progress
        self.stopped: Stopped | None = None
        """Set if the process was asked to stop during the tasks."""

    def carry_out(self, tasks: Sequence[Task], note: Callable[[LineResult], None]) -> list[LineResult]:
        """Carry out the tasks in order, and return their results.

        `note` is called with each result as soon as it is known. Sending stops if `note` raises `OSError`, if the
        process is asked to stop, or if the audit log fails. It also stops if further lines would fail like the last
        ones: without access, without a network, or after three writes in a row without a response. Each line after that
        is `not_sent`.
        """
        results: list[LineResult] = []
        ended_by: str | None = None  # why no more writes are sent
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
        """Return why the next line must not be sent, or None if it may be."""
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
        """Read all written students back by list requests, several times if a write is not shown: lists may lag."""
        for look in range(single.LOOKS):
            done = [result.key for result in results if result.accepted]
            if not done:
                break
            try:
                self._scope.sleep(look)
                after = shown_by_id(self._students, done)
                last = look == single.LOOKS - 1
                results = [_confirm(result, after.get(result.key), self._sender, last=last) for result in results]
            except ApiError:  # it remains known that ManageBac has accepted the writes
                break
            except Stopped as stopped:  # as above
                self.stopped = stopped
                break
            if all(result.outcome != Outcome.NOT_TAKEN for result in results):
                break
        return results


def _confirm(result: LineResult, listed: Student | None, sender: Sender, *, last: bool) -> LineResult:
    write, write_result = result.task.write, result.write_result
    if write is None or write_result is None or listed is None or not result.accepted:
        return result
    return _result(result.task, sender.confirm(write, write_result, listed, last=last))


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
    """Return whether the next line would fail like the last ones."""
    sent = [result for result in results if result.write_result is not None]
    if not sent:
        return False
    last, latest = sent[-1], [result.outcome for result in sent[-_MOST_DOUBTS:]]
    if latest == [Outcome.UNKNOWN] * _MOST_DOUBTS:
        return True
    # An error about one student says nothing about the next.
    about_one = last.write_result is not None and isinstance(last.write_result.error, (NotFound, Refused))
    return last.outcome == Outcome.REFUSED and not about_one
