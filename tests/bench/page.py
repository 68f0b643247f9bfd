"""Writes docs/performance.md, the page of figures, and its picture docs/performance.svg."""

from __future__ import annotations

import math
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True)
class Cost:
    """What one run took: seconds by the clock and of the processor, MiB, requests, MB of answers; and what failed."""

    wall: float
    cpu: float
    memory: float
    requests: float = 0.0
    megabytes: float = 0.0
    failed: int = 0
    """How many of its programs failed."""


@dataclass(frozen=True)
class Row:
    """A line of the result: the work, its size, the database, the program, the median cost, and the first's seconds."""

    work: str
    size: int
    database: str
    program: str
    cost: Cost
    first: float

    @property
    def ratio(self) -> float:
        """How many times the seconds of the work's first program it took."""
        return self.cost.wall / self.first

    @property
    def program_and_failures(self) -> str:
        return f"{self.program} ({self.cost.failed} FAILED)" if self.cost.failed else self.program


INTRODUCTION = """# Performance

This page compares the time and memory that rostersync needs with two baselines: the theoretical minimum ("bare limit"),
and the script that most people would write ("ORM script"). `./dev bench --write` generated this page and its chart.
Each figure is the median of {repeat} runs. Each run is a separate process, and the programs that are compared run
alternately. The seconds depend on the machine and on the day of the measurement ({machine}), so compare only the
ratios. The [glossary](glossary.md) explains the terms.

Every program requests {per_page} students per page, which is the default of `sync.per_page`. For comparison, the test
server can serve {pages:,.0f} pages of {per_page} students per second to a program that only fetches them.

In a daemon, a run without changes takes {daemon}. These times also include all other work that the daemon does.

The table compares these programs:

- **bare limit**: a program that uses a raw socket, a JSON parser, and `executemany` or `COPY`. The program has no
  retries, no [history](glossary.md#history) and no [guard](glossary.md#guard), and reads the list only once.
- **ORM script**: a program that uses the `requests` library and calls `Session.merge` for each record. The script does
  not notice deletions, and reads the list only once.
- **bare script**: a program that uses the same libraries, sends the same requests and reads the same database rows as a
  small run of rostersync, but does nothing with the data.
- **requests alone**: a program that fetches every page twice over four connections, and does nothing with the
  responses.
- **rostersync**: the command `rostersync sync`. If a list has more than one page, rostersync reads the list twice.

The column *seconds* is the elapsed time, and *processor* is the processor time in seconds. *ratio* is the elapsed time
divided by the elapsed time of the first program for the same work. *MiB* is the program's peak memory in MiB. *MB* is
the size of all responses.

Some entries in the column *work* need an explanation:

- **no change, over HTTPS**: the requests use TLS on loopback. Both rostersync and the bare script load certifi's
  certificates and the server's certificate.
- **start**: the program `python` starts Python and does nothing. The programs `status` and `--help` are the commands
  `rostersync status` and `rostersync --help`.
- **full load at 50 ms**: the server delays every response by 50 ms.
- **status**: the command `rostersync status` shows {sources} [sources](glossary.md#source) that have few runs, and then
  the same sources with millions of old runs.
- **first loads**: several sources are loaded into one PostgreSQL database, and each source is loaded by a `rostersync
  sync` process of its own. The processes run one after the other, all at once, or all at once while another session
  holds the locks of an `ANALYZE`. *MiB* is the memory of the largest process. If any processes fail or take more than
  {limit} seconds, the table shows how many.

![Seconds of a full load by the number of students](performance.svg)

| work | students | database | program | seconds | ratio | processor | MiB | requests | MB |
| --- | --: | --- | --- | --: | --: | --: | --: | --: | --: |
"""


def write_page(rows: list[Row], daemon: dict[str, float], **facts: float) -> None:
    """Write both files. `daemon` has milliseconds of processor by database; `facts` has the other figures."""
    machine = f"{platform.machine()}, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}"
    told = " and ".join(f"{milliseconds:.0f} ms of processor time on {kind}" for kind, milliseconds in daemon.items())
    text = INTRODUCTION.format(machine=machine, daemon=told, **facts)
    (DOCS / "performance.md").write_text(text + "".join(map(_line, rows)), encoding="utf-8")
    (DOCS / "performance.svg").write_text(picture(rows), encoding="utf-8")


def _line(row: Row) -> str:
    cost = row.cost
    figures = f"{cost.wall:.2f} | {row.ratio:.2f} | {cost.cpu:.2f} | {cost.memory:.0f}"
    told = f"{figures} | {cost.requests:,.0f} | {cost.megabytes:,.1f}"
    return f"| {row.work} | {row.size:,} | {row.database} | {row.program_and_failures} | {told} |\n"


# The picture -----------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _LEFT, _TOP = 340, 260, 60, 40
_COLOURS = {"bare limit": "#8a8f98", "rostersync": "#0b6e4f", "ORM script": "#c2571a"}


def picture(rows: list[Row]) -> str:
    """Return an SVG with a panel for each database: seconds of a full load over students, both on logarithmic axes."""
    loads = [row for row in rows if row.work == "full load" and row.program in _COLOURS]
    databases = sorted({row.database for row in loads}, reverse=True)
    panels = "".join(
        _panel([row for row in loads if row.database == database], loads, database, place)
        for place, database in enumerate(databases)
    )
    width, height = (_WIDTH + _LEFT) * len(databases) + 40, _HEIGHT + _TOP + 60
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="#fff"/>{panels}</svg>\n'
    )


def _panel(rows: list[Row], loads: list[Row], title: str, place: int) -> str:
    sizes, walls = [row.size for row in loads], [row.cost.wall for row in loads]
    low, high = 10 ** math.floor(math.log10(min(walls))), 10 ** math.ceil(math.log10(max(walls)))
    left = _LEFT + place * (_WIDTH + _LEFT)

    def x(size: float) -> float:
        return left + _WIDTH * _share(size, min(sizes), max(sizes))

    def y(wall: float) -> float:
        return _TOP + _HEIGHT * (1 - _share(wall, low, high))

    drawn = [f'<text x="{left}" y="{_TOP - 16}" font-weight="bold">{title}: seconds of a full load</text>']
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = y(10.0**power)
        drawn.append(f'<path d="M{left} {at:.1f}h{_WIDTH}" stroke="#ddd"/>')
        drawn.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    drawn += [
        f'<text x="{x(size):.1f}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle">{size:,}</text>'
        for size in sorted(set(sizes))
    ]
    for program, colour in _COLOURS.items():
        points = sorted((row.size, row.cost.wall) for row in rows if row.program == program)
        if points:
            line = " ".join(f"{x(size):.1f},{y(wall):.1f}" for size, wall in points)
            drawn.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
            size, wall = points[-1]
            at = f'x="{x(size) - 4:.1f}" y="{y(wall) - 8:.1f}"'
            drawn.append(f'<text {at} text-anchor="end" fill="{colour}">{program}</text>')
    return "".join(drawn)


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low) if high > low else 0.5
