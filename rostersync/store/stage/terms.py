"""The words that the stage stores, or that name its statements."""

from __future__ import annotations

from enum import StrEnum


class Found(StrEnum):
    """What GET answered last about an id. The stage's table `answers` stores it."""

    ALIVE = "alive"
    GONE = "gone"
    UNCLEAR = "unclear"
    """GET proved neither life nor absence."""
    DETAIL = "detail"
    """GET was asked only for a detail, and has it. This proves nothing about the student."""
    UNANSWERED = "unanswered"
    """GET was asked only for a detail or a record in quarantine, and has none. This proves nothing either."""


class Reason(StrEnum):
    """Why a student who is stored as living is a candidate for removal."""

    LISTED = "listed"
    """The deleted feed lists the student."""
    LEFT = "left"
    """The deleted feed lists the student, and either no list has them or GET says that they are gone."""
    MARKED = "marked"
    """The student's list row has a `deleted_at`."""
    PROVED = "proved"
    """GET says that the student is gone."""
    UNSEEN = "unseen"
    """No list has the student."""
