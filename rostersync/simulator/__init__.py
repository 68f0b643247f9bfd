"""A stand-in for ManageBac that serves its API with invented students, inside the process or on loopback."""

from __future__ import annotations

from rostersync.simulator import faults
from rostersync.simulator.activity import churn
from rostersync.simulator.app import App
from rostersync.simulator.faults import Faults
from rostersync.simulator.messages import Delivery, Manner, Request, Response
from rostersync.simulator.rate_limit import RateLimit
from rostersync.simulator.server import Server
from rostersync.simulator.state import School
from rostersync.simulator.switches import Switches

__all__ = [
    "App",
    "Delivery",
    "Faults",
    "Manner",
    "RateLimit",
    "Request",
    "Response",
    "School",
    "Server",
    "Switches",
    "churn",
    "faults",
]
