"""What can go wrong on purpose: each fault is a value that says what happens and whom it strikes.

    sandbox.faults.add(Status(503, times=3))
    sandbox.faults.add(Reset(taken=True, number="37000000002"))
    with sandbox.faults.during(Unsorted(), Duplicates()):
        ...

A `Fault` stays switched on until it has struck `times` requests, or is switched off. A `Happening` happens once,
when it is added. Several at a time act in the order they were added; the first that answers instead of the server
decides what is answered. In the control API and on the page each has the name of its class, in lower case with
hyphens.
"""
# ruff: noqa: D102 -- what the methods of a fault mean stands in `Fault`

import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from itertools import chain, islice
from math import ceil
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, get_args
from zoneinfo import ZoneInfo

import attrs

from ._answers import Answer, Call, Envelope, ErrorCode, Request, error, outcome, token_error
from ._clock import TICKS_PER_SECOND, utc_datetime
from ._fault import (
    ANY,
    API,
    LONGEST,
    NONE,
    TOKEN,
    Fault,
    Happening,
    Instead,
    OfLists,
    OfNew,
    OfRows,
    http_status,
    integer,
    number,
    one_of,
    text,
)
from ._messages import STATES, SandboxMessage

if TYPE_CHECKING:  # it is what faults happen to, and imports them
    from ._state import Sandbox

__all__ = [
    "ArchiveJob",
    "AutumnNight",
    "Backlog",
    "BulkUpdate",
    "CamelCase",
    "ClockStep",
    "CutBody",
    "Duplicates",
    "EmptyAnswer",
    "ErrorEnvelope",
    "ExpiredTokens",
    "Fault",
    "FutureStamp",
    "Garbage",
    "Gzip",
    "Hang",
    "Happening",
    "HtmlPage",
    "LateRows",
    "Latency",
    "MalformedRow",
    "MissingStatus",
    "Nulls",
    "NumericEnums",
    "Offsets",
    "RateLimit",
    "Refuse",
    "Reset",
    "RevokedTokens",
    "SkewedNode",
    "StaleAnswer",
    "Status",
    "Ties",
    "TrimmedZeros",
    "UnknownState",
    "Unsorted",
]

_SAID: Final = "a fault that is switched on"
_LOGIN_PAGE: Final = b"<!DOCTYPE html>\n<title>Sign in</title>\n<h1>Sign in to the hospital's network</h1>\n"
_TYPES: Final = {"Outgoing": 1, "Incoming": 2}
_STATE_NUMBERS: Final = {state: place for place, state in enumerate(STATES)}
_STATUS_CODES: Final = {status.phrase: status.value for status in HTTPStatus}
_ERROR_CODES: Final = {"OK": 1, "Internal": 500, "InvalidMessageOwner": 600, "InvalidClientNumber": 700}
_NULLS: Final[dict[str, None]] = dict.fromkeys(("From", "To", "Type", "UpdatedAt", "Text", "ReplyToMessageId"))


# Instead of the answer


@attrs.frozen
class Status(Instead):
    """The answer is HTTP 503 or another status, with an error in the Status.

    `retry_after` is in seconds; rounded up, it becomes the header Retry-After.
    """

    status: int = attrs.field(default=503, validator=http_status(least=300))
    retry_after: float | None = attrs.field(default=None, validator=number(least=0, optional=True), kw_only=True)

    def instead(self, call: Call) -> Answer | Envelope:
        headers = {} if self.retry_after is None else {"Retry-After": f"{ceil(self.retry_after)}"}
        return _refusal(call, self.status, _SAID, headers)


@attrs.frozen
class ErrorEnvelope(Instead):
    """The answer is HTTP 200 with an error in the Status: Internal, InvalidMessageOwner or InvalidClientNumber."""

    acts_on: ClassVar[frozenset[Request]] = API

    error_code: ErrorCode = attrs.field(default="Internal", validator=one_of(*get_args(ErrorCode)))

    def instead(self, call: Call) -> Envelope:
        status = 500 if self.error_code == "Internal" else 400
        return Envelope(status=outcome(status, self.error_code, _SAID))


@attrs.frozen
class HtmlPage(Instead):
    """The answer is the login page of a proxy, with HTTP 200 or another status."""

    status: int = attrs.field(default=200, validator=http_status(least=200))

    def instead(self, call: Call) -> Answer:
        headers = {"Content-Type": "text/html; charset=utf-8"}
        return Answer(status=self.status, headers=headers, pieces=[_LOGIN_PAGE])


@attrs.frozen
class EmptyAnswer(Instead):
    """The connection is closed without a byte of an answer."""

    def instead(self, call: Call) -> Answer:
        return Answer(is_raw=True)


@attrs.frozen
class Garbage(Instead):
    """The answer is bytes that are no HTTP, and the connection is closed."""

    def instead(self, call: Call) -> Answer:
        return Answer(pieces=[b"\x16\x03\x01garbage \xff\xfe\r\n\r\n"], is_raw=True)


@attrs.frozen
class Reset(Instead):
    """The connection is reset (TCP RST), before the request is carried out or, if `taken`, after that."""

    def instead(self, call: Call) -> Answer:
        return Answer(ending="reset")


@attrs.frozen
class Hang(Instead):
    """There is no answer, however long the client waits."""

    def instead(self, call: Call) -> Answer:
        return Answer(ending="silence")


@attrs.frozen
class RateLimit(Fault):
    """More than `requests` in any `seconds` of real time get HTTP 429, with a Retry-After that is true."""

    acts_on: ClassVar[frozenset[Request]] = ANY

    requests: int = attrs.field(default=5, validator=integer(least=1))
    seconds: float = attrs.field(default=10.0, validator=number(least=0.001))
    # When the last requests were let through, by the monotonic clock.
    _passed: deque[float] = attrs.field(init=False, eq=False, repr=False, factory=deque)
    _lock: threading.Lock = attrs.field(init=False, eq=False, repr=False, factory=threading.Lock)

    def fits(self, call: Call) -> bool:
        return super().fits(call) and not self._lets_through()

    def instead(self, call: Call) -> Answer | Envelope:
        with self._lock:
            # None is left if other requests came meanwhile, and found that the time is over.
            wait = self._passed[0] + self.seconds - time.monotonic() if self._passed else 0.0
        return _refusal(call, 429, "too many requests", {"Retry-After": f"{max(1, ceil(wait))}"})

    def _lets_through(self) -> bool:
        with self._lock:
            now = time.monotonic()
            while self._passed and self._passed[0] <= now - self.seconds:
                self._passed.popleft()
            if len(self._passed) >= self.requests:
                return False
            self._passed.append(now)
            return True


@attrs.frozen
class Refuse(Fault):
    """No connection is accepted, and open ones are closed, for `seconds` of real time.

    With None, that lasts until it is switched off.
    """

    acts_on: ClassVar[frozenset[Request]] = NONE
    options: ClassVar[frozenset[str]] = frozenset[str]()

    seconds: float | None = attrs.field(default=5.0, validator=number(least=0, optional=True))

    def fits(self, call: Call) -> bool:
        return True  # it came before the door was shut, or by no connection at all

    def instead(self, call: Call) -> Answer:
        return Answer(ending="reset")


# What becomes of the answer


@attrs.frozen
class Latency(Fault):
    """The answer is late by `seconds` of real time; the request is carried out at once."""

    acts_on: ClassVar[frozenset[Request]] = ANY

    seconds: float = attrs.field(default=2.0, validator=number(least=0))

    @property
    def delay(self) -> float:
        return self.seconds


@attrs.frozen
class CutBody(Fault):
    """The connection is closed in the middle of the body; the request was carried out."""

    acts_on: ClassVar[frozenset[Request]] = ANY

    def answer(self, answer: Answer) -> Answer:
        return answer.cut()


@attrs.frozen
class MissingStatus(Fault):
    """The answer has no Status."""

    def envelope(self, envelope: Envelope) -> Envelope:
        return attrs.evolve(envelope, status=None)


@attrs.frozen
class NumericEnums(OfRows):
    """Type, State, StatusCode and ErrorCode are numbers instead of names."""

    acts_on: ClassVar[frozenset[Request]] = API

    def changed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return _numbered(row, Type=_TYPES, State=_STATE_NUMBERS)

    def envelope(self, envelope: Envelope) -> Envelope:
        if envelope.status is None:
            return envelope
        numbered = _numbered(envelope.status, StatusCode=_STATUS_CODES, ErrorCode=_ERROR_CODES)
        return attrs.evolve(envelope, status={**envelope.status, **numbered})


@attrs.frozen
class CamelCase(Fault):
    """The names of all fields begin with a small letter."""

    def envelope(self, envelope: Envelope) -> Envelope:
        return attrs.evolve(envelope, rename=lambda name: name[0].lower() + name[1:])


@attrs.frozen
class Gzip(Fault):
    """The body is compressed with gzip, whether the client accepts that or not."""

    acts_on: ClassVar[frozenset[Request]] = ANY

    def answer(self, answer: Answer) -> Answer:
        return answer.compressed()


# Lists


@attrs.frozen
class MalformedRow(OfLists):
    """One more row, after the first good one, breaks the contract: its Id is a text, its CreatedAt no date."""

    def rows(self, rows: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
        good = iter(rows)
        malformed = {"Id": "?", "From": "37000000199", "To": None, "CreatedAt": "yesterday", "UpdatedAt": None}
        return chain(islice(good, 1), [malformed], good)


@attrs.frozen
class UnknownState(OfRows):
    """Listed messages have a State that the specification does not know."""

    state: str = attrs.field(default="Teleported", validator=text())

    def changed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {"State": self.state}


@attrs.frozen
class Nulls(OfRows):
    """What may be null in listed messages is null: From, To, Type, UpdatedAt, Text and ReplyToMessageId."""

    def changed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return _NULLS


@attrs.frozen
class Offsets(OfLists):
    """Stamps in lists have an offset from UTC in `all` rows, in `none`, or in every second one (`mixed`)."""

    which: Literal["all", "none", "mixed"] = attrs.field(default="all", validator=one_of("all", "none", "mixed"))

    def has_offset(self, index: int) -> bool:
        """Return whether the stamps of a row have an offset; the first row is 0."""
        return self.which == "all" or (self.which == "mixed" and index % 2 == 0)


@attrs.frozen
class TrimmedZeros(OfRows):
    """Zeros at the end of a stamp's fraction are left out in lists, and the point too if nothing is left."""

    def changed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _trimmed(row[name]) for name in ("CreatedAt", "UpdatedAt") if row[name] is not None}


@attrs.frozen
class Unsorted(OfLists):
    """Lists are in a wrong order, another one each time."""

    _random: Random = attrs.field(init=False, eq=False, repr=False, factory=lambda: Random(0))

    def order(self, messages: list[SandboxMessage]) -> list[SandboxMessage]:
        wrong = messages
        while wrong == messages and len(messages) > 1:
            wrong = self._random.sample(messages, len(messages))
        return wrong


@attrs.frozen
class Duplicates(OfRows):
    """Every listed message is in the answer twice."""

    def rows(self, rows: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
        return chain.from_iterable([row, row] if self.fits_row(row) else [row] for row in rows)


@attrs.frozen
class StaleAnswer(OfLists):
    """Lists show everything as it was `seconds` of the server's time ago, like a replica that is behind."""

    seconds: float = attrs.field(default=60.0, validator=number(least=0))

    @property
    def behind(self) -> float:
        return self.seconds


# What patients write, and changes of it


@attrs.frozen
class LateRows(OfNew):
    """What patients write is listed only `seconds` of the server's time after its stamp, as if committed late."""

    seconds: float = attrs.field(default=60.0, validator=number(least=0))

    @property
    def hidden(self) -> float:
        return self.seconds


@attrs.frozen
class Ties(OfNew):
    """What patients write gets one and the same stamp, that of the first."""

    _stamps: list[int] = attrs.field(init=False, eq=False, repr=False, factory=list)

    def stamp(self, ticks: int) -> int:
        self._stamps.append(ticks)
        return self._stamps[0]


@attrs.frozen
class FutureStamp(OfNew):
    """What patients write is stamped `seconds` in the future."""

    seconds: float = attrs.field(default=86400.0, validator=number(least=0))

    def stamp(self, ticks: int) -> int:
        return ticks + round(self.seconds * TICKS_PER_SECOND)


@attrs.frozen
class SkewedNode(OfNew):
    """Every second message that patients write is stamped by a node whose clock is `seconds` ahead, or behind."""

    seconds: float = attrs.field(default=-40.0, validator=number())
    every: int | None = attrs.field(default=2, validator=integer(least=1, optional=True), kw_only=True)

    def stamp(self, ticks: int) -> int:
        return ticks + round(self.seconds * TICKS_PER_SECOND)


# Tokens; what answers something else, Latency, CutBody and Gzip strike their requests too


@attrs.frozen
class ExpiredTokens(Fault):
    """The tokens that Azure AD issues are said to be good for an hour, but are not accepted."""

    acts_on: ClassVar[frozenset[Request]] = TOKEN
    options: ClassVar[frozenset[str]] = frozenset({"times", "every", "probability", "request"})


@attrs.frozen
class RevokedTokens(Happening):
    """The tokens that Azure AD has issued so far are no longer accepted; the static one is."""

    def happen(self, sandbox: "Sandbox") -> None:
        sandbox.revoke_tokens()


# What else happens once


@attrs.frozen
class ClockStep(Happening):
    """The server's clock jumps `seconds` ahead, or back if that is negative."""

    seconds: float = attrs.field(default=-3600.0, validator=number())

    def happen(self, sandbox: "Sandbox") -> None:
        sandbox.settable_clock.advance(self.seconds)


@attrs.frozen
class AutumnNight(Happening):
    """The server's clock goes to the last autumn, `minutes` before the hour that its wall clock repeats."""

    minutes: float = attrs.field(default=10.0, validator=number(least=-1440, most=1440))

    def happen(self, sandbox: "Sandbox") -> None:
        clock = sandbox.settable_clock
        repeated = last_repeated_hour(sandbox.zone, utc_datetime(clock()))
        if repeated is None:
            raise ValueError(f"no hour came twice in {sandbox.timezone} in the last two years")
        clock.set(repeated - timedelta(minutes=self.minutes))


@attrs.frozen
class BulkUpdate(Happening):
    """All messages are changed in one statement: they get one and the same UpdatedAt, and `state` if given."""

    state: str | None = attrs.field(default=None, validator=text(optional=True))

    def happen(self, sandbox: "Sandbox") -> None:
        sandbox.change_many(lambda _: True, state=self.state)


@attrs.frozen
class ArchiveJob(Happening):
    """Messages that were created more than `hours` ago get one and the same UpdatedAt, and `state`."""

    hours: float = attrs.field(default=48.0, validator=number(least=0, most=LONGEST // 3600))
    state: str = attrs.field(default="Deleted", validator=text())

    def happen(self, sandbox: "Sandbox") -> None:
        limit = sandbox.clock() - round(self.hours * 3600 * TICKS_PER_SECOND)
        sandbox.change_many(lambda message: message.created_ticks < limit, state=self.state)


@attrs.frozen
class Backlog(Happening):
    """A backlog of `count` answers arrives at once, stamped a tenth of a second apart, the last one with now."""

    count: int = attrs.field(default=1_000_000, validator=integer(least=1, most=10_000_000))

    def happen(self, sandbox: "Sandbox") -> None:
        sandbox.pile_up(self.count)


def last_repeated_hour(zone: ZoneInfo, now: datetime) -> datetime | None:
    """Return when, before `now` (aware), the wall clock of a zone last began a time that came twice."""
    day, minute = timedelta(days=1), timedelta(minutes=1)
    for days in range(2 * 366):
        end = now.astimezone(UTC) - days * day
        if (back := _offset(zone, end - day) - _offset(zone, end)) > timedelta():
            while _offset(zone, end - minute) == _offset(zone, end):
                end -= minute
            return end.replace(second=0, microsecond=0) - back
    return None


def _offset(zone: ZoneInfo, instant: datetime) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta()


def _refusal(call: Call, status: int, reason: str, headers: Mapping[str, str]) -> Answer | Envelope:
    if call.request == "token":
        return token_error(status, reason, headers)
    return error(status, "Internal", reason, headers)


def _numbered(fields: Mapping[str, Any], **enums: Mapping[str, int]) -> dict[str, Any]:
    """Return the fields that hold names of these enums, with their numbers instead."""
    return {name: numbers[fields[name]] for name, numbers in enums.items() if fields.get(name) in numbers}


def _trimmed(stamp: str) -> str:
    return re.sub(r"\.([0-9]*?)0*(?![0-9])", lambda match: f".{match[1]}" if match[1] else "", stamp)
