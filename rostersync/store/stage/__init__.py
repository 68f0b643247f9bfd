"""The stage contains the rows that a run has read. No other process can see the stage."""

from __future__ import annotations

from rostersync.store.stage.session import StageSession
from rostersync.store.stage.stage import Stage, StagedList
from rostersync.store.stage.tables import attach, clear
from rostersync.store.stage.terms import Reason

__all__ = ["Reason", "Stage", "StageSession", "StagedList", "attach", "clear"]
