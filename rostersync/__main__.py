"""Run the command line. Both the command `rostersync` and `python -m rostersync` start here."""

from __future__ import annotations

import gc
import sys

if __name__ == "__main__" and __spec__ is not None and not sys.flags.safe_path:
    del sys.path[0]  # `python -m` would import modules from the current folder, which may belong to another user

from rostersync.cli.sealing import seal

OBJECTS_BETWEEN_COLLECTIONS = 200_000
"""The number of new objects after which Python looks for unreachable cycles.

Imports and full runs create millions of objects, and hardly any of them form cycles. With a threshold of 700, the
default in Python 3.11, a full run spends a sixth of its time in the garbage collector.
"""


def main() -> None:
    """Run the command in the process's arguments, and end the process with the command's exit status."""
    seal()  # before the slow imports, because another process of the same user can read our environment until then
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    from rostersync.cli.program import program  # noqa: PLC0415 - must follow `seal`

    program.main(prog_name="rostersync")


if __name__ == "__main__":
    main()
