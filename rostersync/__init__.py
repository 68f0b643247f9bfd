"""An exact local replica of a school's ManageBac students."""

__version__ = "0.1.0"
