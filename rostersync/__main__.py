"""`rostersync`, and `python -m rostersync`."""

from __future__ import annotations

from rostersync.cli.program import program


def main() -> None:
    """Do what the command line says, and end the process with its exit status."""
    program.main(prog_name="rostersync")


if __name__ == "__main__":
    main()
