"""A file of many writes beside a site's configuration, and the file of what became of each line."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from school_site import Site


def written(site: Site, *lines: str) -> str:
    """Write the lines into a CSV, and return its path."""
    path = site.folder / "many.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def results(site: Site) -> list[dict[str, str]]:
    """Return the lines of the result file."""
    with (site.folder / "many.result.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
