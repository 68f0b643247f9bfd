"""`rostersync`, and `python -m rostersync`."""

from __future__ import annotations

import gc
import sys

if __name__ == "__main__" and __spec__ is not None and not sys.flags.safe_path:
    del sys.path[0]  # `python -m` looks for modules in the current folder first, which may be another user's

from rostersync.cli.sealing import seal

OBJECTS_BETWEEN_COLLECTIONS = 200_000
"""Imports and full runs make objects by the million, hardly any in cycles.

To look after each 700, as Python does by itself, takes a sixth of a full run.
"""


def main() -> None:
    """Do what the command line says, and end the process with its exit status."""
    seal()  # first: the imports take most of the time in which another process could open our environment
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    from rostersync.cli.program import program  # noqa: PLC0415 - not before

    program.main(prog_name="rostersync")


if __name__ == "__main__":
    main()
