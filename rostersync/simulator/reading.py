"""The two endpoints that return students: the list, and the GET request for one student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from rostersync.simulator.listing import BadTimestamp, Filters, cut, read_filters, select, shows_deleted
from rostersync.simulator.messages import JSON_TYPE, Response, json_response
from rostersync.simulator.refusals import no_record
from rostersync.simulator.versions import Version, render, render_deleted, render_id, render_stub, render_without, spell

if TYPE_CHECKING:
    from rostersync.simulator.listing import Cut
    from rostersync.simulator.messages import Call
    from rostersync.simulator.state import School

_REMEMBERED_LISTS = 16


class Reading:
    """Answers read requests. The responses show the visible states, which may lag behind the writes."""

    def __init__(self, school: School) -> None:
        self.school = school
        self._lists: dict[Filters, list[Version]] = {}
        self._generation = -1

    def get_student(self, call: Call) -> Response:
        """Answer `GET /students/{id}`."""
        school = self.school
        student = call.student_id
        version = None if student is None else school.version(student, school.moment_of_reading())
        if version is None or version.traceless:
            return no_record()
        if version.living:
            return _student(render_without(version, school.switches, school.switches.get_omits))
        if school.switches.deleted_get == "record":
            return _student(render_deleted(version, school.switches))
        return no_record()

    def list_students(self, call: Call) -> Response:
        """Answer `GET /students` with one page of the students that match the filters."""
        switches = self.school.switches
        try:
            filters = read_filters(call.request, call.version, switches)
        except BadTimestamp as error:
            return json_response(400, {"error": str(error)})
        page = cut(self._rows(filters), call.request, switches)
        if page.missing:
            return no_record()
        records = b",".join([self._spelling(row, filters) for row in page.rows])
        meta = msgspec.json.encode(self._meta(page, filters))
        return Response(200, {"Content-Type": JSON_TYPE}, b'{"students":[' + records + b'],"meta":' + meta + b"}")

    def _rows(self, filters: Filters) -> list[Version]:
        school = self.school
        moment = school.moment_of_reading()
        if moment is not None:  # the visible states change with time, so the rows cannot be cached
            rows = select(school.versions(moment), filters, school.switches)
        else:
            rows = self._remembered(filters)
        if school.switches.order == "random":
            return school.rng.sample(rows, len(rows))
        return rows

    def _remembered(self, filters: Filters) -> list[Version]:
        """Return the rows for these filters. The rows are cached until the school changes."""
        school = self.school
        if self._generation != school.generation or len(self._lists) >= _REMEMBERED_LISTS:
            self._lists.clear()
            self._generation = school.generation
        if filters not in self._lists:
            self._lists[filters] = select(school.versions(), filters, school.switches)
        return self._lists[filters]

    def _spelling(self, version: Version, filters: Filters) -> bytes:
        switches = self.school.switches
        if version.living:
            return render_without(version, switches, switches.lists_omit)
        if not shows_deleted(filters, switches) or switches.deleted_feed == "full_deleted_at":
            return render_deleted(version, switches)
        if switches.deleted_feed == "ids":
            return render_id(version, switches)
        return render_stub(version, switches) if switches.deleted_feed == "stub" else render(version, switches)

    def _meta(self, page: Cut, filters: Filters) -> dict[str, Any]:
        switches = self.school.switches
        meta: dict[str, Any] = {
            "current_page": page.number,
            "total_pages": page.total_pages,
            "total_count": page.total_count,
            "per_page": page.per_page,
        }
        asked = {"per_page": page.asked, "total_pages": -(-page.total_count // page.asked)}
        meta |= {name: asked[name] for name in switches.meta_asked}
        if switches.meta_extra:
            meta["next_page"] = page.number + 1 if page.number < page.total_pages else None
            meta["prev_page"] = page.number - 1 if page.number > 1 else None
            since = {"modified_since": filters.modified_since, "deleted_since": filters.deleted_since}
            meta |= {name: spell(stamp) for name, stamp in since.items() if stamp is not None}
        return {name: value for name, value in meta.items() if name not in switches.meta_without}


def _student(record: bytes) -> Response:
    return Response(200, {"Content-Type": JSON_TYPE}, b'{"student":' + record + b"}")
