"""Stand-ins that tests share: an SMS server in memory behind an httpx transport, and a clock that tests turn."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import anyio.lowlevel
import attrs
import httpx

from his_sms_async import BearerAuth, SmsClient

VILNIUS = ZoneInfo("Europe/Vilnius")
OK = {"StatusCode": "OK", "ErrorCode": "OK", "ErrorMessage": None}
NOON = datetime(2026, 3, 10, 12, 0, 0)  # noqa: DTZ001 - the server's wall clock
NOON_IN_VILNIUS = NOON.replace(tzinfo=VILNIUS)


def envelope(**data: Any) -> dict[str, Any]:
    """An OK answer."""
    return {"Data": data, "Status": OK}


def failure(error_code: str, status_code: str = "Internal Server Error") -> dict[str, Any]:
    """An error inside an envelope."""
    return {"Data": None, "Status": {"StatusCode": status_code, "ErrorCode": error_code, "ErrorMessage": None}}


def stamp(seconds: float = 0, ticks: int = 0) -> str:
    """A stamp so many seconds after noon, and so many ticks after its second's tenth of a microsecond."""
    moment = NOON + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond * 10 + ticks:07}"


def row(
    id_: int, seconds: float = 0, *, sender: str | None = None, created: float | None = None, **fields: Any
) -> dict[str, Any]:
    """A message as the server lists it; `seconds` after noon is its UpdatedAt, and CreatedAt unless given."""
    return {
        "Id": id_,
        "From": sender or f"3706{id_:07}",
        "To": "37000000001",
        "Type": "Incoming",
        "CreatedAt": stamp(seconds if created is None else created),
        "UpdatedAt": stamp(seconds),
        "Text": "Yes",
        "State": "Delivered",
        "ReplyToMessageId": None,
    } | fields


@attrs.define
class FakeServer:
    """An SMS server: what it lists, what it was asked, and how it answers the next requests.

    `script` answers first: each item is a response, an exception to raise, or a function of the request.
    """

    rows: list[Any] = attrs.field(factory=list)
    now: datetime = NOON_IN_VILNIUS
    """The server's clock, which its Date header shows."""
    sends_date: bool = True
    script: list[Any] = attrs.field(factory=list)
    requests: list[httpx.Request] = attrs.field(factory=list)

    @property
    def asked(self) -> list[str]:
        """The `dateFrom` of each poll."""
        return [request.url.params["dateFrom"] for request in self.requests if request.url.params.get("dateFrom")]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.script:
            answer = self.script.pop(0)
            answer = answer(request) if callable(answer) else answer
            if isinstance(answer, BaseException):
                raise answer
            return self.dated(answer)
        if request.method == "POST":
            return self.dated(
                httpx.Response(200, json=envelope(Id=623178, CreatedAt="2019-11-11T08:08:21.8072824+02:00"))
            )
        if request.url.params["type"] == "Numbers":
            return self.dated(
                httpx.Response(
                    200, json=envelope(ClientOperatorNumbers=[{"OperatorNumberId": 4, "Number": "37000000000"}])
                )
            )
        return self.dated(
            httpx.Response(200, json=envelope(Messages=self.visible(request.url.params["dateFrom"])))
        )

    def visible(self, date_from: str) -> list[Any]:
        """The rows that changed at or after a moment, in no order; malformed ones are always among them."""
        begin = date_from.replace(" ", "T")
        return [
            item
            for item in self.rows
            if not isinstance(item, dict)
            or not isinstance(item.get("UpdatedAt"), str)
            or item["UpdatedAt"] >= begin
        ]

    def dated(self, response: httpx.Response) -> httpx.Response:
        if self.sends_date:
            response.headers.setdefault("Date", format_datetime(self.now.astimezone(UTC), usegmt=True))
        return response

    def client(self, **options: Any) -> SmsClient:
        """A client of this server."""
        settings: dict[str, Any] = {"auth": BearerAuth("token"), "server_timezone": VILNIUS} | options
        return SmsClient("https://sms.test/", transport=httpx.MockTransport(self), **settings)


def answer(status: int = 200, body: Any = None, **headers: str) -> httpx.Response:
    """A response; `body` is sent as JSON unless it is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.Response(status, content=content, headers=headers)


@attrs.define(eq=False)
class FakeClock:
    """A clock that stands until a test turns it."""

    now: float = 1000.0
    epoch: float = NOON_IN_VILNIUS.timestamp()
    _turned: anyio.Event = attrs.field(init=False, factory=anyio.Event)

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.epoch + self.now - 1000.0

    async def wait(self, event: anyio.Event, until: float | None) -> None:
        while not event.is_set() and (until is None or self.now < until):
            turned = self._turned
            async with anyio.create_task_group() as tasks:
                for other in (event, turned):
                    tasks.start_soon(_either, other, tasks.cancel_scope)

    async def advance(self, seconds: float) -> None:
        """Turn the clock, and wait until everybody has done what was due."""
        await all_blocked()
        self.now += seconds
        turned, self._turned = self._turned, anyio.Event()
        turned.set()
        await all_blocked()


async def _either(event: anyio.Event, done: anyio.CancelScope) -> None:
    await event.wait()
    done.cancel()


async def all_blocked() -> None:
    """Wait until nobody has anything to do; on asyncio anyio looks every 0.1 s only, so give them turns first."""
    for _ in range(60):
        await anyio.lowlevel.checkpoint()
    await anyio.wait_all_tasks_blocked()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so; the test's time limit ends it if it never is."""
    while not condition():  # noqa: ASYNC110 - the condition has no event of its own
        await anyio.sleep(0.001)
