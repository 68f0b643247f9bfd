"""Define the possible results of a GET request, and the possible reasons for removing a student."""

from __future__ import annotations

from enum import StrEnum


class Found(StrEnum):
    """The result of the last GET request for a student. The stage's table `answers` stores this result."""

    ALIVE = "alive"
    GONE = "gone"
    UNCLEAR = "unclear"
    """The response proves neither that the student exists nor that the student is gone."""
    DETAIL = "detail"
    """The request was made only for a detail, and the response has the detail. This result is not used as proof."""
    UNANSWERED = "unanswered"
    """The request was made only for a detail or a record in quarantine, but the response does not have it.

    This result is not used as proof.
    """


class Reason(StrEnum):
    """Why a current student in the replica is a candidate for removal."""

    LISTED = "listed"
    """The deleted feed contains the student."""
    LEFT = "left"
    """The deleted feed contains the student, and either no other list does or GET has reported the student as gone."""
    MARKED = "marked"
    """The student's list row has a `deleted_at`."""
    PROVED = "proved"
    """GET has reported that the student is gone."""
    UNSEEN = "unseen"
    """No list contains the student."""
