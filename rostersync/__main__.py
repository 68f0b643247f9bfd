"""Run the command line: the command `rostersync` and `python -m rostersync` both start here."""

from __future__ import annotations

import gc
import sys

if __name__ == "__main__" and __spec__ is not None and not sys.flags.safe_path:
    del sys.path[0]  # the current folder: `python -m` would import modules from it, and it may belong to another user

from rostersync.cli.sealing import seal

OBJECTS_BETWEEN_COLLECTIONS = 200_000
"""The number of new objects after which Python looks for unreachable cycles.

Imports and full runs create millions of objects, and hardly any of them form cycles. With a threshold of 700, which is
the default of Python 3.11, the collector takes a sixth of the time of a full run.
"""


def main() -> None:
    """Run the command that the command line names, and end the process with its exit status."""
    seal()  # before the slow imports: until then, another process of the same user can read our environment
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    from rostersync.cli.program import program  # noqa: PLC0415 - must follow `seal`

    program.main(prog_name="rostersync")


if __name__ == "__main__":
    main()
