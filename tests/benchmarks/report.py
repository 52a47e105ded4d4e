"""How benchmarks print: a header that says what was measured on, and tables."""

import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path


def say(text: str = "") -> None:
    """Print a line."""
    print(text, flush=True)  # noqa: T201 - what a benchmark is for


def header(title: str, packages: Sequence[str], *notes: str) -> None:
    """Print what was measured, on which machine and with what; figures of other runs compare as ratios only."""
    say(f"# {title}")
    say()
    say(f"- {_processor()}, {len(os.sched_getaffinity(0))} cores, {platform.platform(terse=True)}")
    say(f"- Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in packages))
    for note in notes:
        say(f"- {note}")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table in Markdown, its first column to the left and the others to the right."""
    lines = [columns, *([_shown(cell) for cell in row] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    say(f"\n## {title}\n")
    for number, line in enumerate(lines):
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        say(f"| {' | '.join([line[0].ljust(widths[0]), *cells[1:]])} |")
        if number == 0:
            say(f"|{'|'.join(['-' * (widths[0] + 2), *('-' * (width + 1) + ':' for width in widths[1:])])}|")


def _shown(cell: object) -> str:
    """A number with as many digits as it is worth."""
    if not isinstance(cell, float):
        return f"{cell:,}" if isinstance(cell, int) else str(cell)
    return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.1f}" if abs(cell) >= 10 else f"{cell:.2f}"


def _processor() -> str:
    """Its name, where Linux tells it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
