"""All that knows the vendor: how to ask ManageBac's API for students, and how to read what it answers."""

from __future__ import annotations
