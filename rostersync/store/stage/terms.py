"""Define the possible results of a GET request, and the possible reasons for removing a student."""

from __future__ import annotations

from enum import StrEnum


class Found(StrEnum):
    """The result of the last GET request for a student, which is stored in the stage's table `answers`."""

    ALIVE = "alive"
    GONE = "gone"
    UNCLEAR = "unclear"
    """The response proves neither that the student exists nor that the student is gone."""
    DETAIL = "detail"
    """The student was requested only for a detail, and the response contains the detail.

    The response does not count as proof that the student exists.
    """
    UNANSWERED = "unanswered"
    """The student was requested only for a detail or to clear the quarantine, but the response was not usable.

    An unusable response proves neither that the student exists nor that the student is gone.
    """


class Reason(StrEnum):
    """Why a current student in the replica is a candidate for removal."""

    LISTED = "listed"
    """The deleted feed contains the student."""
    LEFT = "left"
    """The student is in the deleted feed, and is either in no other list or reported as gone by GET."""
    MARKED = "marked"
    """The student's list row has a `deleted_at`."""
    PROVED = "proved"
    """GET has reported that the student is gone."""
    UNSEEN = "unseen"
    """No list contains the student."""
