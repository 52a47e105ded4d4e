"""The tables of magic numbers, faults and options in the README, as Markdown."""

from collections.abc import Iterable, Mapping
from typing import Final

from ._fault import first_sentence
from ._fault_json import fault_kinds
from ._magic import MAGIC_NUMBERS
from ._options import OPTIONS

FAULT_EXAMPLES: Final[Mapping[str, str]] = {
    "status": "Status(status=503, retry_after=30, times=3)",
    "error-envelope": 'ErrorEnvelope(error_code="InvalidClientNumber", number="37000000002")',
    "html-page": "HtmlPage(status=200)",
    "empty-answer": "EmptyAnswer(times=1)",
    "garbage": "Garbage(times=1)",
    "reset": 'Reset(taken=True, request="send", times=1)',
    "hang": "Hang(times=1)",
    "rate-limit": "RateLimit(requests=5, seconds=10)",
    "refuse": "Refuse(seconds=5)",
    "latency": "Latency(seconds=2)",
    "cut-body": "CutBody(every=3)",
    "missing-status": "MissingStatus()",
    "numeric-enums": "NumericEnums()",
    "camel-case": "CamelCase()",
    "gzip": "Gzip()",
    "malformed-row": "MalformedRow()",
    "unknown-state": 'UnknownState(state="Teleported", number="37000000002")',
    "nulls": "Nulls(probability=0.1)",
    "offsets": 'Offsets(which="mixed")',
    "trimmed-zeros": "TrimmedZeros()",
    "unsorted": "Unsorted()",
    "duplicates": "Duplicates()",
    "stale-answer": "StaleAnswer(seconds=60, every=2)",
    "late-rows": "LateRows(seconds=60, times=1)",
    "ties": "Ties()",
    "future-stamp": "FutureStamp(seconds=86400, times=1)",
    "skewed-node": "SkewedNode(seconds=-40)",
    "expired-tokens": "ExpiredTokens(times=1)",
    "revoked-tokens": "RevokedTokens()",
    "clock-step": "ClockStep(seconds=-3600)",
    "autumn-night": "AutumnNight(minutes=10)",
    "bulk-update": 'BulkUpdate(state="Seen")',
    "archive-job": 'ArchiveJob(hours=48, state="Deleted")',
    "backlog": "Backlog(count=1_000_000)",
}
"""A line of Python that makes one of each kind, with the options of its own, by its name in the control API."""


def magic_table() -> str:
    """Return what happens to an SMS to each magic number."""
    rows = [(f"`{magic.number}`", magic.meaning) for magic in MAGIC_NUMBERS]
    return _table(("Number", "What happens to an SMS to it"), rows)


def fault_table() -> str:
    """Return what happens with each kind of fault, and how to switch it on."""
    rows = [
        (f"`{name}`", f"`sandbox.faults.add({FAULT_EXAMPLES[name]})`", first_sentence(kind))
        for name, kind in fault_kinds().items()
    ]
    return _table(("In the control API", "In Python", "What happens"), rows)


def option_table() -> str:
    """Return where each option of the command can be said, its default and what it means."""
    rows = [
        (
            f"`{option.flag}`",
            f"`{option.variable}`",
            f"`{option.python}`",
            f"`{option.default_text}`" if option.default_text else "",
            option.meaning,
        )
        for option in OPTIONS
    ]
    return _table(("Flag", "Variable", "Python", "Default", "Meaning"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
