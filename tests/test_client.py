"""The client over a transport in memory: what it asks, when it repeats, and what failures mean."""

import gzip
import json
import math
import random
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import anyio.lowlevel
import attrs
import httpx
import pytest
from fakes import NOON, NOON_IN_VILNIUS, FakeServer, answer, envelope, failure, row, until

from his_sms_async import (
    AuthenticationError,
    BearerAuth,
    ConfigurationError,
    ConnectionFailed,
    ErrorCode,
    InvalidClientNumber,
    InvalidMessageOwner,
    MessageType,
    OperatorNumber,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    RequestRejected,
    SendOutcomeUnknown,
    SendReceipt,
    ServerFailure,
    ServerTimeout,
    SmsClient,
    SmsError,
    TokenAuth,
)
from his_sms_async._client import Answer, fetch
from his_sms_async._http import _MEANINGS, translate
from his_sms_async._time import earliest_wall

pytestmark = pytest.mark.anyio

REMINDER: dict[str, Any] = {
    "sender": "37000000001",
    "recipient": "37000000002",
    "text": "Will You come?",
    "external_key": 27342,
}
RECEIPT = envelope(Id=623178, CreatedAt="2019-11-11T08:08:21.8072824+02:00")
SPECIFICATION_RECEIPT = SendReceipt(
    id=623178, created_at=datetime.fromisoformat("2019-11-11T08:08:21.807282+02:00")
)
NOON_TICKS = earliest_wall(NOON, None)


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses before repetitions last no time."""
    monkeypatch.setattr(random, "random", lambda: 0.0)


class Chunks(httpx.AsyncByteStream):
    """A body that arrives in chunks, and counts how many were taken; an exception among them is raised."""

    def __init__(self, *chunks: bytes | Exception, pause: float = 0.0) -> None:
        self.chunks = chunks
        self.pause = pause
        self.taken = 0
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            self.taken += 1
            await anyio.sleep(self.pause)
            yield chunk

    async def aclose(self) -> None:
        self.closed = True


class Endless(httpx.AsyncByteStream):
    """A body that says nothing more, and never ends."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"{"
        await anyio.sleep_forever()


def streamed(*chunks: bytes | Exception, status: int = 200, **headers: str) -> httpx.Response:
    """A response whose body arrives in chunks, as from a network; headers by name with `_` for `-`."""
    return httpx.Response(
        status, stream=Chunks(*chunks), headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


class Hanging(httpx.AsyncBaseTransport):
    """A server that takes requests and answers only when it is let go."""

    def __init__(self) -> None:
        self.let_go = anyio.Event()
        self.under_way = 0
        self.most = 0
        self.requests = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.let_go.wait()
        finally:
            self.under_way -= 1
        body = RECEIPT if request.method == "POST" else envelope(ClientOperatorNumbers=[])
        return answer(200, body)


def client_of(transport: httpx.AsyncBaseTransport, **options: Any) -> SmsClient:
    """A client over a transport."""
    settings: dict[str, Any] = {"auth": BearerAuth("token"), "transport": transport} | options
    return SmsClient("https://sms.test/", **settings)


@attrs.define
class Tokens:
    """A provider of numbered tokens."""

    forced: int = 0

    async def token(self, *, force: bool) -> str:
        self.forced += force
        return f"token-{self.forced}"


@contextmanager
def peak_below(limit: int) -> Iterator[None]:
    """Fail if more bytes of memory than that are in use at once."""
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < limit


# --- sending --------------------------------------------------------------------------------------------


@pytest.mark.spec("3.1", "3.2")
async def test_send_posts_the_five_fields_and_returns_the_receipt() -> None:
    """A POST has exactly the specification's body and headers, and its answer becomes a receipt."""
    server = FakeServer()
    async with server.client() as client:
        receipt = await client.send(**REMINDER)
    assert receipt == SPECIFICATION_RECEIPT
    (request,) = server.requests
    assert (request.method, str(request.url)) == ("POST", "https://sms.test/")
    assert json.loads(request.content) == {
        "Id": None,
        "From": "37000000001",
        "To": "37000000002",
        "Text": "Will You come?",
        "ExternalKey": 27342,
    }
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == "Bearer token"
    assert request.headers["accept"] == "application/json"
    assert request.headers["accept-encoding"] == "gzip"
    assert request.headers["user-agent"] == "his_sms_async"
    assert "cache-control" not in request.headers


async def test_base_url_keeps_its_path() -> None:
    """A server may live under a path, and every request goes there."""
    server = FakeServer()
    transport = httpx.MockTransport(server)
    async with SmsClient("https://sms.test:8443/v1/sms", auth=BearerAuth("t"), transport=transport) as client:
        await client.send(**REMINDER)
        await client.list_numbers()
    assert [str(request.url) for request in server.requests] == [
        "https://sms.test:8443/v1/sms",
        "https://sms.test:8443/v1/sms?type=Numbers",
    ]
    assert client.base_url == "https://sms.test:8443/v1/sms"


@pytest.mark.parametrize(
    ("response", "expected", "error_code"),
    [
        (answer(200, failure("InvalidMessageOwner", "Bad Request")), InvalidMessageOwner, 600),
        (answer(400, failure("InvalidMessageOwner", "Bad Request")), InvalidMessageOwner, 600),
        (answer(500, failure("InvalidMessageOwner")), InvalidMessageOwner, 600),
        (answer(200, failure("InvalidClientNumber", "Bad Request")), InvalidClientNumber, 700),
        (answer(400, failure("InvalidClientNumber", "Bad Request")), InvalidClientNumber, 700),
        (answer(200, failure("OK", "Bad Request")), RequestRejected, 1),
        (answer(400, b""), RequestRejected, None),
        (answer(404, b"<html>"), RequestRejected, None),
        (answer(413, {"title": "x"}, **{"content-type": "application/problem+json"}), RequestRejected, None),
        (answer(401, b""), AuthenticationError, None),
        (answer(403, b""), PermissionDenied, None),
    ],
)
async def test_clear_refusal_of_a_send_is_its_own_error(
    response: httpx.Response, expected: type[SmsError], error_code: int | None
) -> None:
    """4xx and the codes 600 and 700 say that the SMS was not sent; nothing is repeated."""
    server = FakeServer(script=[response])
    async with server.client() as client:
        with pytest.raises(SmsError) as caught:
            await client.send(**REMINDER)
    assert type(caught.value) is expected
    assert caught.value.error_code == error_code
    assert caught.value.http_status == response.status_code
    assert not caught.value.retryable
    assert len(server.requests) == 1


UNCLEAR_ANSWERS: list[tuple[Callable[[], httpx.Response], int, int | str | None]] = [
    (lambda: answer(500, b""), 500, None),
    (lambda: answer(501, b"<html>"), 501, None),
    (lambda: answer(502, b"<html>"), 502, None),
    (lambda: answer(503, b"", **{"retry-after": "0"}), 503, None),
    (lambda: answer(504, b""), 504, None),
    (lambda: answer(500, failure("Internal")), 500, ErrorCode.INTERNAL),
    (lambda: answer(200, failure("Internal")), 200, ErrorCode.INTERNAL),
    (lambda: answer(200, failure("Queued", "OK")), 200, "Queued"),
    (lambda: answer(200, failure("OK", "Odd")), 200, ErrorCode.OK),
    (lambda: answer(200, b"<html>login</html>", **{"content-type": "text/html"}), 200, None),
    (lambda: answer(200, b""), 200, None),
    (lambda: answer(204, b""), 204, None),
    (lambda: answer(200, json.dumps(RECEIPT).encode()[:-30]), 200, None),
    (lambda: answer(200, {"Data": RECEIPT["Data"]}), 200, None),
    (lambda: answer(200, envelope(Id="623178", CreatedAt="2019-11-11T08:08:21")), 200, None),
    (lambda: answer(200, envelope(Id=623178)), 200, None),
    (lambda: answer(302, b"", location="https://elsewhere.test/"), 302, None),
    (lambda: answer(307, b"", location="/"), 307, None),
]


@pytest.mark.parametrize(("response", "http_status", "error_code"), UNCLEAR_ANSWERS)
async def test_unclear_answer_to_a_send_is_an_unknown_outcome(
    response: Callable[[], httpx.Response], http_status: int, error_code: int | str | None
) -> None:
    """After any 5xx, Internal, a redirect or an answer that cannot be read, the SMS may have been sent."""
    server = FakeServer(script=[response()])
    async with server.client() as client:
        with pytest.raises(SendOutcomeUnknown) as caught:
            await client.send(**REMINDER)
    assert len(server.requests) == 1
    assert caught.value.external_key == 27342
    assert caught.value.http_status == http_status
    assert caught.value.error_code == error_code
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "exception",
    [
        httpx.ReadTimeout("x"),
        httpx.WriteTimeout("x"),
        httpx.ReadError("x"),
        httpx.WriteError("x"),
        httpx.CloseError("x"),
        httpx.RemoteProtocolError("x"),
        httpx.RemoteProtocolError("Server disconnected without sending a response."),
        httpx.LocalProtocolError("x"),
        httpx.DecodingError("x"),
        ConnectionResetError(104, "reset"),
        BrokenPipeError(32, "broken"),
    ],
)
async def test_broken_exchange_of_a_send_is_an_unknown_outcome(exception: Exception) -> None:
    """A time-out, a reset or garbage after the request went out is never repeated."""
    server = FakeServer(script=[exception])
    async with server.client() as client:
        with pytest.raises(SendOutcomeUnknown) as caught:
            await client.send(**REMINDER)
    assert len(server.requests) == 1
    assert caught.value.external_key == 27342
    assert (caught.value.http_status, caught.value.error_code) == (None, None)
    assert type(exception).__name__ in str(caught.value.__cause__)


@pytest.mark.parametrize(
    "chunks",
    [
        (b'{"Data"', httpx.ReadError("x")),
        (b'{"Data"', httpx.RemoteProtocolError("peer closed connection without sending complete message body")),
        (b'{"Data"', ConnectionResetError(104, "reset")),
    ],
)
async def test_answer_to_a_send_that_breaks_off_is_an_unknown_outcome(chunks: Sequence[bytes | Exception]) -> None:
    """A success whose body is cut may have been one; its connection is given back."""
    response = streamed(*chunks)
    server = FakeServer(script=[response])
    async with server.client() as client:
        with pytest.raises(SendOutcomeUnknown):
            await client.send(**REMINDER)
    assert len(server.requests) == 1
    assert response.is_closed


async def test_unknown_outcome_begins_at_the_servers_last_date() -> None:
    """`since` is the last Date header from before the attempt, and not the one of the attempt itself."""
    server = FakeServer()
    async with server.client() as client:
        await client.list_numbers()
        server.now += timedelta(minutes=5)
        server.script = [answer(500, b"")]
        with pytest.raises(SendOutcomeUnknown) as caught:
            await client.send(**REMINDER)
    assert caught.value.since == NOON_IN_VILNIUS
    assert caught.value.since.tzinfo is UTC


async def test_unknown_outcome_without_a_date_begins_an_hour_ago() -> None:
    """Without a Date header `since` is our clock less an hour, aware."""
    server = FakeServer(script=[answer(500, b"")], sends_date=False)
    begun = datetime.now(UTC)
    async with server.client() as client:
        with pytest.raises(SendOutcomeUnknown) as caught:
            await client.send(**REMINDER)
    assert begun - timedelta(hours=1) <= caught.value.since <= datetime.now(UTC) - timedelta(hours=1)


async def test_date_that_cannot_be_read_is_as_if_there_were_none() -> None:
    """A Date header beyond the calendar does not turn a sent SMS into an accident."""
    server = FakeServer(script=[answer(200, RECEIPT, date="Mon, 01 Jan 0001 00:00:00 +2300")])
    async with server.client() as client:
        assert await client.send(**REMINDER) == SPECIFICATION_RECEIPT


async def test_send_that_is_limited_is_repeated_twice_at_most() -> None:
    """429 says that the SMS was not taken: two more attempts, then the error."""
    server = FakeServer(script=[answer(429, b"", **{"retry-after": "0"}) for _ in range(4)])
    async with server.client() as client:
        with pytest.raises(RateLimited) as caught:
            await client.send(**REMINDER)
    assert len(server.requests) == 3
    assert caught.value.retry_after == 0
    assert caught.value.retryable
    assert caught.value.http_status == 429


async def test_send_succeeds_after_being_limited() -> None:
    """The second repetition after 429 counts as any success."""
    server = FakeServer(script=[answer(429, b""), answer(429, failure("Internal"))])
    async with server.client() as client:
        assert await client.send(**REMINDER) == SPECIFICATION_RECEIPT
    assert len(server.requests) == 3


async def test_repetition_of_a_limited_send_can_have_an_unknown_outcome() -> None:
    """What follows a 429 is judged by itself."""
    server = FakeServer(script=[answer(429, b""), answer(500, b"")])
    async with server.client() as client:
        with pytest.raises(SendOutcomeUnknown):
            await client.send(**REMINDER)
    assert len(server.requests) == 2


@pytest.mark.parametrize("after", ["31", "100000000000", "9" * 400])
async def test_pause_that_ends_after_the_timeout_is_not_begun(after: str) -> None:
    """If the server asks for a longer pause than `timeout` allows, the error comes at once and names it."""
    server = FakeServer(script=[answer(429, b"", **{"retry-after": after})])
    async with server.client() as client:
        with pytest.raises(RateLimited) as caught:
            await client.send(**REMINDER)
    assert caught.value.retry_after == float(after)
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout])
async def test_send_that_certainly_did_not_arrive_is_repeated(kind: type[httpx.TransportError]) -> None:
    """No connection, no SMS: another attempt can do no harm, whatever transport says so."""
    server = FakeServer(script=[kind("x")])
    async with server.client() as client:
        assert await client.send(**REMINDER) == SPECIFICATION_RECEIPT
    assert len(server.requests) == 2


@pytest.mark.parametrize("kind", [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError])
async def test_send_that_never_arrives_ends_as_connection_failed(kind: type[httpx.TransportError]) -> None:
    """After a few attempts the failure is told, and tells that nothing was sent."""
    server = FakeServer(script=[kind("x") for _ in range(10)])
    async with server.client() as client:
        with pytest.raises(ConnectionFailed) as caught:
            await client.send(**REMINDER)
    assert caught.value.retryable
    assert len(server.requests) == 4


async def test_send_that_is_unauthorized_is_not_repeated_with_the_same_token() -> None:
    """A static token that was refused is refused again."""
    server = FakeServer(script=[answer(401, b"")])
    async with server.client() as client:
        with pytest.raises(AuthenticationError):
            await client.send(**REMINDER)
    assert len(server.requests) == 1


async def test_send_that_is_unauthorized_is_repeated_once_with_another_token() -> None:
    """A 401 says that the SMS was not taken; with a fresh token it is sent."""
    seen: list[tuple[str, bytes]] = []

    def look(request: httpx.Request) -> httpx.Response:
        seen.append((request.headers["authorization"], request.content))
        return answer(200, RECEIPT) if len(seen) == 2 else answer(401, b"")

    async with client_of(httpx.MockTransport(look), auth=TokenAuth(Tokens())) as client:
        assert await client.send(**REMINDER) == SPECIFICATION_RECEIPT
    assert [token for token, _ in seen] == ["Bearer token-0", "Bearer token-1"]
    assert seen[0][1] == seen[1][1]


@pytest.mark.parametrize("second", [answer(500, b""), httpx.ReadError("x"), httpx.ReadTimeout("x")])
async def test_repetition_after_a_401_can_have_an_unknown_outcome(second: httpx.Response | Exception) -> None:
    """What follows a 401 is judged by itself."""
    server = FakeServer(script=[answer(401, b""), second])
    async with server.client(auth=TokenAuth(Tokens())) as client:
        with pytest.raises(SendOutcomeUnknown):
            await client.send(**REMINDER)
    assert len(server.requests) == 2


async def test_send_that_gets_no_answer_in_time_is_an_unknown_outcome() -> None:
    """`timeout` ends the call; the SMS may have been sent all the same."""
    transport = Hanging()
    async with client_of(transport, timeout=0.05) as client:
        with pytest.raises(SendOutcomeUnknown, match=r"within timeout=0\.05 s"):
            await client.send(**REMINDER)
    assert (transport.requests, transport.under_way) == (1, 0)


async def test_send_whose_answer_stops_halfway_is_an_unknown_outcome() -> None:
    """`timeout` holds for the whole answer, not for its beginning."""
    server = FakeServer(script=[httpx.Response(200, stream=Endless())])
    async with server.client(timeout=0.05) as client:
        with pytest.raises(SendOutcomeUnknown):
            await client.send(**REMINDER)


async def test_timeout_holds_for_token_and_repetitions_together() -> None:
    """While there is no token nothing is sent, and the call ends in time as a connection that failed."""

    class Never:
        async def token(self, *, force: bool) -> str:
            await anyio.sleep_forever()
            return ""

    server = FakeServer()
    async with server.client(auth=TokenAuth(Never()), timeout=0.05) as client:
        with pytest.raises(ConnectionFailed, match=r"not reached within timeout=0\.05 s"):
            await client.send(**REMINDER)
    assert not server.requests


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"sender": ""}, "sender"),
        ({"recipient": " "}, "recipient"),
        ({"text": ""}, "text"),
        ({"text": "\ud83d"}, "text"),
        ({"recipient": 37000000002}, "recipient"),
        ({"external_key": "27342"}, "external_key"),
        ({"external_key": True}, "external_key"),
    ],
)
async def test_arguments_that_cannot_be_sent_are_refused_before_any_request(
    change: dict[str, Any], name: str
) -> None:
    """The error names the argument, shows no value, and nothing was sent."""
    server = FakeServer()
    async with server.client() as client:
        with pytest.raises(ConfigurationError, match=f"^{name} ") as caught:
            await client.send(**(REMINDER | change))
    assert isinstance(caught.value, ValueError)
    assert not server.requests


# --- reading --------------------------------------------------------------------------------------------


@pytest.mark.spec("4.3", "4.5")
async def test_list_messages_asks_as_specified_and_sorts_the_answer() -> None:
    """The query is the specification's, and the order is (UpdatedAt, Id) to the last digit."""
    server = FakeServer(
        rows=[row(3, 1), row(1, 2), row(2, 1), row(4, 1, UpdatedAt="2026-03-10T12:00:00.9999999")],
    )
    async with server.client() as client:
        messages = await client.list_messages(date_from=NOON)
    assert [message.id for message in messages] == [4, 2, 3, 1]
    (request,) = server.requests
    assert request.method == "GET"
    assert request.url.query == b"type=Incoming&dateFrom=2026-03-10%2012:00:00.0000000"
    assert request.headers["cache-control"] == "no-cache"
    assert "content-type" not in request.headers
    assert messages[0].created_at.tzinfo is not None


@pytest.mark.spec("4.3", "4.5")
async def test_list_messages_can_ask_for_outgoing_ones() -> None:
    """The type is asked for by its name, and an aware date goes out as the server's wall clock."""
    server = FakeServer()
    async with server.client() as client:
        await client.list_messages(MessageType.OUTGOING, date_from=datetime(2026, 3, 10, 10, tzinfo=UTC))
    assert server.requests[0].url.query == b"type=Outgoing&dateFrom=2026-03-10%2012:00:00.0000000"


async def test_unknown_type_of_messages_is_refused_before_any_request() -> None:
    """A type that the specification does not have is the caller's mistake."""
    server = FakeServer()
    async with server.client() as client:
        with pytest.raises(ConfigurationError):
            await client.list_messages("Numbers", date_from=NOON)  # type: ignore[arg-type]
    assert not server.requests


@pytest.mark.parametrize(
    "date_from", [NOON_IN_VILNIUS, date(2026, 3, 10), "2026-03-10", None, datetime.min.replace(tzinfo=UTC)]
)
async def test_date_that_cannot_be_asked_for_is_refused_before_any_request(date_from: Any) -> None:
    """An aware date needs the server's zone, and nothing but a datetime will do."""
    server = FakeServer()
    async with server.client(server_timezone=None) as client:
        with pytest.raises(ConfigurationError, match="date_from"):
            await client.list_messages(date_from=date_from)
    assert not server.requests


async def test_malformed_row_is_an_error_that_names_index_and_field() -> None:
    """One bad row spoils the list, and the error tells which."""
    server = FakeServer(rows=[row(1), row(2, Id="2"), row(3, CreatedAt="x")])
    async with server.client() as client:
        with pytest.raises(ProtocolError, match=r"Messages\[1\]\.Id is not an integer") as caught:
            await client.list_messages(date_from=NOON)
    assert (caught.value.index, caught.value.field) == (1, "Id")


@pytest.mark.spec("5.3", "5.4")
async def test_list_numbers_asks_as_specified() -> None:
    """Numbers come in the server's order."""
    numbers = [{"OperatorNumberId": 7, "Number": "RSL_HOSP"}, {"OperatorNumberId": 4, "Number": "37000000000"}]
    server = FakeServer(script=[answer(200, envelope(ClientOperatorNumbers=numbers))])
    async with server.client() as client:
        assert await client.list_numbers() == [
            OperatorNumber(id=7, number="RSL_HOSP"),
            OperatorNumber(id=4, number="37000000000"),
        ]
    assert server.requests[0].url.query == b"type=Numbers"


PASSING: list[tuple[Any, type[SmsError]]] = [
    (answer(429, b""), RateLimited),
    (answer(502, b"<html>"), ServerFailure),
    (answer(503, b""), ServerFailure),
    (answer(504, b""), ServerFailure),
    (httpx.ConnectError("x"), ConnectionFailed),
    (httpx.ConnectTimeout("x"), ConnectionFailed),
    (httpx.PoolTimeout("x"), ConnectionFailed),
    (httpx.ReadError("x"), ConnectionFailed),
    (httpx.WriteError("x"), ConnectionFailed),
    (httpx.RemoteProtocolError("Server disconnected without sending a response."), ConnectionFailed),
    (ConnectionResetError(104, "reset"), ConnectionFailed),
    (httpx.ReadTimeout("x"), ServerTimeout),
    (httpx.WriteTimeout("x"), ServerTimeout),
]


@pytest.mark.parametrize(("trouble", "expected"), PASSING)
async def test_read_is_repeated_where_that_may_help(trouble: Any, expected: type[SmsError]) -> None:
    """Connection errors, time-outs, 429 and what gateways say pass, and reading again does no harm."""
    server = FakeServer(script=[trouble, trouble])
    async with server.client() as client:
        assert [number.id for number in await client.list_numbers()] == [4]
    assert len(server.requests) == 3


@pytest.mark.parametrize(("trouble", "expected"), PASSING)
async def test_read_that_keeps_failing_ends_with_its_error(trouble: Any, expected: type[SmsError]) -> None:
    """A few attempts, then the last failure, which may be retried later."""
    server = FakeServer(script=[trouble] * 10)
    async with server.client() as client:
        with pytest.raises(expected) as caught:
            await client.list_numbers()
    assert type(caught.value) is expected
    assert caught.value.retryable
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("trouble", "expected", "retryable"),
    [
        (answer(500, b""), ServerFailure, True),
        (answer(200, failure("Internal")), ServerFailure, True),
        (answer(400, b""), RequestRejected, False),
        (answer(401, b""), AuthenticationError, False),
        (answer(403, b""), PermissionDenied, False),
        (answer(302, b"", location="https://elsewhere.test/"), ProtocolError, False),
        (answer(200, b"<html>"), ProtocolError, False),
        (answer(200, b""), ProtocolError, True),
        (answer(200, b'{"Data": '), ProtocolError, True),
        (httpx.RemoteProtocolError("x"), ProtocolError, True),
    ],
)
async def test_read_is_not_repeated_where_that_does_not_help(
    *, trouble: Any, expected: type[SmsError], retryable: bool
) -> None:
    """Answers that mean something are believed at once."""
    server = FakeServer(script=[trouble])
    async with server.client() as client:
        with pytest.raises(SmsError) as caught:
            await client.list_numbers()
    assert type(caught.value) is expected
    assert caught.value.retryable is retryable
    assert len(server.requests) == 1


async def test_read_is_repeated_within_the_timeout_only() -> None:
    """A pause that would end after the deadline is not begun."""
    server = FakeServer(script=[answer(429, b"", **{"retry-after": "30"})])
    async with server.client() as client:
        with pytest.raises(RateLimited):
            await client.list_numbers()
    assert len(server.requests) == 1


async def test_read_that_gets_no_answer_in_time_is_a_timeout() -> None:
    """`timeout` ends the call."""
    transport = Hanging()
    async with client_of(transport, timeout=0.05) as client:
        with pytest.raises(ServerTimeout, match=r"within timeout=0\.05 s") as caught:
            await client.list_numbers()
    assert caught.value.retryable
    assert transport.under_way == 0


async def test_redirect_is_not_followed() -> None:
    """Another address could be anybody's, and would get the token; its text is not quoted either."""
    for location in ("https://elsewhere.test/", "/login", "https://[::1", "http://a:b"):
        server = FakeServer(script=[answer(302, b"", location=location)])
        async with server.client() as client:
            with pytest.raises(ProtocolError):
                await client.list_numbers()
        assert len(server.requests) == 1


async def test_long_answer_is_complete() -> None:
    """Thousands of rows, parsed in a thread and decoded in steps, all arrive."""
    server = FakeServer(rows=[row(number, number) for number in range(3000)])
    async with server.client() as client:
        messages = await client.list_messages(date_from=NOON)
    assert [message.id for message in messages] == list(range(3000))


# --- polls ----------------------------------------------------------------------------------------------


async def test_poll_returns_good_and_malformed_rows_and_the_date() -> None:
    """`fetch` is for the poller: one bad row harms no other."""
    server = FakeServer(rows=[row(1), row(2, Id=None)])
    async with server.client() as client:
        polled = await fetch(client, MessageType.INCOMING, NOON_TICKS, max_bytes=10_000)
    assert isinstance(polled, Answer)
    assert [item.message.id for item in polled.rows] == [1]
    assert [item.error.index for item in polled.malformed] == [1]
    assert polled.date == NOON_IN_VILNIUS


async def test_poll_is_not_repeated_and_returns_its_error() -> None:
    """The poller has a backoff of its own."""
    server = FakeServer(script=[answer(503, b"")])
    async with server.client() as client:
        polled = await fetch(client, MessageType.INCOMING, NOON_TICKS, max_bytes=10_000)
    assert isinstance(polled, ServerFailure)
    assert len(server.requests) == 1


async def test_poll_has_a_limit_of_its_own() -> None:
    """`max_bytes` stands in for the client's `max_response_bytes`."""
    body = json.dumps(envelope(Messages=[])).encode()
    server = FakeServer(script=[streamed(body), streamed(body)])
    async with server.client(max_response_bytes=1) as client:
        assert isinstance(await fetch(client, MessageType.INCOMING, 0, max_bytes=len(body)), Answer)
        polled = await fetch(client, MessageType.INCOMING, 0, max_bytes=len(body) - 1)
    assert isinstance(polled, ProtocolError)


async def test_timeout_of_a_poll_counts_between_bytes() -> None:
    """A large backlog takes as long as it takes, as long as something arrives."""
    body = json.dumps(envelope(Messages=[])).encode()
    chunks = Chunks(*(body[at : at + 10] for at in range(0, len(body), 10)), pause=0.05)
    server = FakeServer(script=[httpx.Response(200, stream=chunks)])
    async with server.client(timeout=0.25) as client:
        assert isinstance(await fetch(client, MessageType.INCOMING, 0, max_bytes=10_000), Answer)
    assert chunks.taken * chunks.pause > 0.25


async def test_poll_that_stops_halfway_is_a_timeout() -> None:
    """Nothing for `timeout` seconds ends a poll."""
    server = FakeServer(script=[httpx.Response(200, stream=Endless())])
    async with server.client(timeout=0.05) as client:
        polled = await fetch(client, MessageType.INCOMING, 0, max_bytes=10_000)
    assert isinstance(polled, ServerTimeout)


# --- the size of answers --------------------------------------------------------------------------------

NUMBERS = json.dumps(envelope(ClientOperatorNumbers=[{"OperatorNumberId": 4, "Number": "37000000000"}])).encode()
GZIPPED = gzip.compress(NUMBERS, mtime=0)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("", NUMBERS),
        ("identity", NUMBERS),
        ("gzip", GZIPPED),
        ("GZip", GZIPPED),
        ("x-gzip", GZIPPED),
        ("deflate", zlib.compress(NUMBERS)),
    ],
)
async def test_encodings_are_undone(encoding: str, body: bytes) -> None:
    """Plain, gzip and deflate are read, in chunks of any size, up to the very limit."""
    chunks = [body[at : at + 7] for at in range(0, len(body), 7)]
    server = FakeServer(script=[streamed(*chunks, content_encoding=encoding)])
    async with server.client(max_response_bytes=len(NUMBERS)) as client:
        assert [number.id for number in await client.list_numbers()] == [4]


@pytest.mark.parametrize(
    ("encoding", "body"), [("", NUMBERS), ("gzip", GZIPPED), ("deflate", zlib.compress(NUMBERS))]
)
async def test_answer_above_the_limit_is_an_error_that_names_it(encoding: str, body: bytes) -> None:
    """The limit holds after decompression."""
    response = streamed(body, content_encoding=encoding)
    server = FakeServer(script=[response])
    async with server.client(max_response_bytes=len(NUMBERS) - 1) as client:
        with pytest.raises(ProtocolError, match=f"max_response_bytes={len(NUMBERS) - 1}") as caught:
            await client.list_numbers()
    assert not caught.value.retryable
    assert response.is_closed


async def test_endless_answer_is_left_at_the_limit() -> None:
    """What lies beyond the limit is not read."""
    chunks = Chunks(*[b" " * 1000] * 1000)
    server = FakeServer(script=[httpx.Response(200, stream=chunks)])
    async with server.client(max_response_bytes=10_000) as client:
        with pytest.raises(ProtocolError, match="max_response_bytes"):
            await client.list_numbers()
    assert chunks.taken <= 12


async def test_gzip_bomb_is_inflated_in_bounded_steps() -> None:
    """24 MiB in one small chunk never stand in memory, for they are inflated piece by piece."""
    bomb = gzip.compress(bytes(24 * 2**20))
    server = FakeServer(script=[streamed(bomb, content_encoding="gzip")])
    async with server.client(max_response_bytes=2**20) as client:
        with peak_below(8 * 2**20), pytest.raises(ProtocolError, match="max_response_bytes"):
            await client.list_numbers()


async def test_gzip_bomb_in_a_refusal_is_inflated_in_bounded_steps() -> None:
    """The body of a 401 is within the limit too when the request is repeated with a fresh token."""
    bomb = gzip.compress(bytes(24 * 2**20))
    server = FakeServer(script=[streamed(bomb, status=401, content_encoding="gzip")])
    async with server.client(auth=TokenAuth(Tokens()), max_response_bytes=2**20) as client:
        with peak_below(8 * 2**20):
            assert [number.id for number in await client.list_numbers()] == [4]


async def test_broken_body_of_a_401_does_not_keep_the_fresh_token_away() -> None:
    """Nobody needs to read the body of a 401 that is followed by another attempt."""
    server = FakeServer(script=[streamed(b"no gzip", status=401, content_encoding="gzip")])
    async with server.client(auth=TokenAuth(Tokens())) as client:
        assert await client.send(**REMINDER) == SPECIFICATION_RECEIPT
    assert len(server.requests) == 2


async def test_bytes_after_the_end_of_a_compressed_body_count_too() -> None:
    """A server cannot fill the memory with what follows the end of a compressed body."""
    chunks = Chunks(GZIPPED, *[bytes(1000)] * 1000)
    server = FakeServer(script=[httpx.Response(200, stream=chunks, headers={"content-encoding": "gzip"})])
    async with server.client(max_response_bytes=10_000) as client:
        with pytest.raises(ProtocolError):
            await client.list_numbers()
    assert chunks.taken < 20


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"no gzip at all"),
        ("deflate", b"no deflate at all"),
        ("gzip", GZIPPED[:-4]),
        ("gzip", GZIPPED[:40]),
        ("gzip", GZIPPED[:-8] + bytes(8)),
    ],
)
async def test_broken_or_cut_compression_is_a_protocol_error(encoding: str, body: bytes) -> None:
    """A body that was cut is never taken for a shorter one."""
    server = FakeServer(script=[streamed(body, content_encoding=encoding)] * 1)
    async with server.client() as client:
        with pytest.raises(ProtocolError, match="compression is broken") as caught:
            await client.list_numbers()
    assert caught.value.retryable


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress"])
async def test_compression_that_was_not_asked_for_is_a_protocol_error(encoding: str) -> None:
    """Only gzip is asked for."""
    server = FakeServer(script=[streamed(NUMBERS, content_encoding=encoding)])
    async with server.client() as client:
        with pytest.raises(ProtocolError, match="not asked for"):
            await client.list_numbers()


@pytest.mark.parametrize(
    ("status", "expected"), [(403, PermissionDenied), (404, RequestRejected), (429, RateLimited)]
)
async def test_empty_body_that_claims_to_be_compressed_is_an_empty_body(
    status: int, expected: type[SmsError]
) -> None:
    """Proxies put Content-Encoding on answers without a body; the status decides then, as without it."""
    server = FakeServer(script=[streamed(status=status, content_encoding="gzip", retry_after="60")])
    async with server.client() as client:
        with pytest.raises(expected):
            await client.send(**REMINDER)


@pytest.mark.parametrize(("status", "expected"), [(403, PermissionDenied), (404, RequestRejected)])
async def test_broken_body_of_a_refusal_leaves_it_a_refusal(status: int, expected: type[SmsError]) -> None:
    """A 4xx says enough: the SMS was not sent, whatever the body would add."""
    server = FakeServer(script=[streamed(b"no gzip", status=status, content_encoding="gzip")])
    async with server.client() as client:
        with pytest.raises(expected):
            await client.send(**REMINDER)


@pytest.mark.parametrize(
    ("status", "expected"), [(401, AuthenticationError), (403, PermissionDenied), (404, RequestRejected)]
)
@pytest.mark.parametrize("body", [(b'{"Da', httpx.ReadError("x")), (b" " * 2000,)])
async def test_body_of_a_refusal_that_cannot_be_read_leaves_it_a_refusal(
    status: int, expected: type[SmsError], body: Sequence[bytes | Exception]
) -> None:
    """Cut, or longer than the limit: the status has said that the SMS was not sent, and it is not sent again."""
    server = FakeServer(script=[streamed(*body, status=status)])
    async with server.client(max_response_bytes=1000) as client:
        with pytest.raises(SmsError) as caught:
            await client.send(**REMINDER)
    assert type(caught.value) is expected
    assert len(server.requests) == 1


# --- every exception of httpx ---------------------------------------------------------------------------

HTTPX_EXCEPTIONS = sorted(
    {value for value in vars(httpx).values() if isinstance(value, type) and issubclass(value, Exception)},
    key=lambda kind: kind.__name__,
)
LAST_RESORT = {httpx.HTTPError, OSError}
ABSTRACT = {httpx.HTTPError, httpx.RequestError, httpx.TransportError}


def make(kind: type[Exception]) -> Exception:
    """An instance, whatever its constructor asks for."""
    request = httpx.Request("GET", "https://sms.test/")
    if issubclass(kind, httpx.HTTPStatusError):
        return kind("quoted", request=request, response=httpx.Response(500, request=request))
    try:
        return kind("quoted")
    except TypeError:
        return kind()


def test_there_are_exceptions_to_check() -> None:
    """The enumeration finds what httpx 0.28 has."""
    assert len(HTTPX_EXCEPTIONS) >= 28
    assert httpx.StreamClosed in HTTPX_EXCEPTIONS


@pytest.mark.parametrize("kind", HTTPX_EXCEPTIONS)
def test_every_exception_of_httpx_has_a_meaning(kind: type[Exception]) -> None:
    """Each class has an entry for itself or a base that says more than "something of httpx's"."""
    nearest = next(cls for cls in kind.__mro__ if cls in _MEANINGS)
    assert kind in ABSTRACT or nearest not in LAST_RESORT


@pytest.mark.parametrize("kind", [*HTTPX_EXCEPTIONS, OSError, TimeoutError, ConnectionResetError])
def test_every_exception_of_httpx_is_translated(kind: type[Exception]) -> None:
    """The cause keeps the type, and no frame; every failure of the transport may pass."""
    error = translate(make(kind))
    assert isinstance(error, SmsError)
    assert error.retryable
    assert kind.__name__ in str(error.__cause__)
    assert error.__cause__ is not None
    assert error.__cause__.__traceback__ is None
    assert error.__context__ is None
    assert error.__traceback__ is None


@pytest.mark.parametrize("kind", HTTPX_EXCEPTIONS)
async def test_no_exception_of_httpx_passes_the_client(kind: type[Exception]) -> None:
    """Whatever the transport raises, the caller sees an error of ours."""
    server = FakeServer(script=[make(kind)] * 4)
    async with server.client() as client:
        with pytest.raises(SmsError):
            await client.send(**REMINDER)
        server.script = [make(kind)] * 4
        with pytest.raises(SmsError):
            await client.list_numbers()


def test_untrusted_certificate_is_no_passing_failure() -> None:
    """It names the parameter to change, and is not worth a repetition."""
    error = httpx.ConnectError("x")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed")
    failed = translate(error)
    assert isinstance(failed, ConnectionFailed)
    assert not failed.retryable
    assert "HIS_SMS_CA_FILE" in str(failed)


# --- concurrency and cancellation -----------------------------------------------------------------------


async def test_no_more_requests_than_connections_are_under_way() -> None:
    """The others wait in front of the pool, and all are answered."""
    transport = Hanging()
    receipts: list[SendReceipt] = []
    async with client_of(transport, max_connections=3) as client:

        async def send() -> None:
            receipts.append(await client.send(**REMINDER))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            assert transport.under_way == 3
            transport.let_go.set()
    assert (transport.most, len(receipts)) == (3, 20)


async def test_send_that_waits_too_long_for_a_connection_was_not_sent() -> None:
    """Waiting in front of the pool counts to `timeout`, and nothing left the house."""
    drip = httpx.Response(200, stream=Chunks(*[b" "] * 1000, pause=0.01))
    server = FakeServer(script=[drip])
    async with server.client(max_connections=1, timeout=0.1) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(fetch, client, MessageType.INCOMING, 0, max_bytes=10_000))
        await until(lambda: len(server.requests) == 1)
        with pytest.raises(ConnectionFailed, match="not reached within"):
            await client.send(**REMINDER)
        tasks.cancel_scope.cancel()
    assert [request.method for request in server.requests] == ["GET"]


async def test_cancellation_of_a_send_propagates_as_cancellation() -> None:
    """Whoever cancels is not told an error instead."""
    transport = Hanging()
    ended: list[BaseException] = []

    async def send() -> None:
        try:
            await client.send(**REMINDER)
        except BaseException as error:
            ended.append(error)
            raise

    async with client_of(transport) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert [type(error) for error in ended] == [anyio.get_cancelled_exc_class()]
        assert transport.under_way == 0


async def test_cancellation_in_a_pause_propagates_as_cancellation() -> None:
    """A repetition that waits can be cancelled."""
    server = FakeServer(script=[answer(429, b"", **{"retry-after": "20"})])
    async with server.client() as client:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.list_numbers)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
    assert scope.cancelled_caught


async def test_slots_are_usable_after_many_cancellations() -> None:
    """Whenever a call is cancelled, it does not keep its place."""
    transport = Hanging()
    async with client_of(transport, max_connections=2) as client:
        for ticks in range(50):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(client.list_numbers)
                for _ in range(ticks):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        assert transport.under_way == 0
        transport.let_go.set()
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(client.list_numbers)


# --- arguments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "SMSServer",
        "//SMSServer/",
        "ftp://SMSServer/",
        "https://",
        "https:///path",
        "https://user:password@SMSServer/",
        "https://user@SMSServer/",
        "https://SMSServer/?type=Numbers",
        "https://SMSServer/#top",
        "https://[::1",
        "https://SMSServer:port/",
        "https://SMSServer/\n",
        None,
        5,
        b"https://SMSServer/",
    ],
)
def test_base_url_that_cannot_be_right_is_refused(url: Any) -> None:
    """The error names the parameter and the variable, and shows nothing of the value."""
    with pytest.raises(ConfigurationError, match=r"^base_url \(HIS_SMS_BASE_ADDRESS\)") as caught:
        SmsClient(url, auth=BearerAuth("token"))
    assert "password" not in str(caught.value)


@pytest.mark.parametrize("host", ["SMSServer", "10.0.0.1", "localhost.test", "128.0.0.1", "[fe80::1]"])
def test_plain_http_is_refused(host: str) -> None:
    """Tokens and texts do not go over the network for all to read."""
    with pytest.raises(ConfigurationError, match=r"must be https://"):
        SmsClient(f"http://{host}/", auth=BearerAuth("token"))
    assert SmsClient(f"http://{host}/", auth=BearerAuth("token"), allow_insecure=True).base_url


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.1", "[::1]"])
def test_plain_http_to_this_machine_is_taken(host: str) -> None:
    """What does not leave the machine needs no TLS."""
    assert SmsClient(f"http://{host}:8025/", auth=BearerAuth("token")).base_url


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"auth": "token"}, "auth"),
        ({"auth": None}, "auth"),
        ({"server_timezone": "Europe/Nowhere"}, "server_timezone"),
        ({"server_timezone": ""}, "server_timezone"),
        ({"server_timezone": "../../etc/passwd"}, "server_timezone"),
        ({"server_timezone": "Europe"}, "server_timezone"),
        ({"server_timezone": 2}, "server_timezone"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1.0}, "timeout"),
        ({"timeout": math.nan}, "timeout"),
        ({"max_response_bytes": 0}, "max_response_bytes"),
        ({"max_connections": 0}, "max_connections"),
        ({"proxy": "user:password@proxy:8080"}, "proxy"),
        ({"proxy": "ftp://user:password@proxy:8080"}, "proxy"),
        ({"proxy": "http://user:password@[::1"}, "proxy"),
    ],
)
def test_option_that_cannot_be_right_is_refused(options: dict[str, Any], name: str) -> None:
    """The error comes from the constructor, before any I/O, and names the option."""
    with pytest.raises(ConfigurationError, match=f"^{name} ") as caught:
        SmsClient("https://sms.test/", **({"auth": BearerAuth("token")} | options))
    assert "password" not in str(caught.value)


def test_zone_is_given_as_object_or_by_name() -> None:
    """Both are the same zone; none is none."""
    zone = ZoneInfo("Europe/Vilnius")
    given: tuple[Any, ...] = (zone, "Europe/Vilnius", None)
    zones = [
        SmsClient("https://sms.test/", auth=BearerAuth("t"), server_timezone=value).server_timezone
        for value in given
    ]
    assert zones == [zone, zone, None]


async def test_zone_named_on_the_event_loop_is_loaded_off_it() -> None:
    """Reading zone files blocks, so a client made in async code loads its zone when its block is entered."""
    server = FakeServer(rows=[row(1)])
    async with server.client(server_timezone="Europe/Vilnius") as client:
        (message,) = await client.list_messages(date_from=NOON_IN_VILNIUS)
    assert client.server_timezone == ZoneInfo("Europe/Vilnius")
    assert message.created_at == NOON_IN_VILNIUS


async def test_zone_that_does_not_exist_is_refused_on_the_event_loop_too() -> None:
    """At the latest when the block is entered, before any request."""
    server = FakeServer()
    with pytest.raises(ConfigurationError, match="HIS_SMS_SERVER_TIMEZONE"):
        async with server.client(server_timezone="Europe/Nowhere"):
            pass
    assert not server.requests


# --- the life of a client -------------------------------------------------------------------------------


async def test_client_works_inside_its_block_only() -> None:
    """Before and after, every operation is a RuntimeError that says what to do, and nothing is sent."""
    server = FakeServer()
    client = server.client()

    async def check() -> None:
        for act in (
            lambda: client.send(**REMINDER),
            client.list_numbers,
            lambda: client.list_messages(date_from=NOON),
        ):
            with pytest.raises(RuntimeError, match="inside `async with`"):
                await act()

    await check()
    async with client:
        await client.list_numbers()
    await check()
    assert len(server.requests) == 1


async def test_client_is_open_once_at_a_time() -> None:
    """Opening it again is an error while it is open, and fine afterwards."""
    server = FakeServer()
    client = server.client()
    async with client:
        with pytest.raises(RuntimeError, match="open already"):
            await client.__aenter__()
        await client.list_numbers()
    async with client:
        await client.list_numbers()
    await client.__aexit__(None, None, None)


async def test_repr_tells_address_and_state() -> None:
    """And nothing else."""
    client = FakeServer().client()
    assert repr(client) == "<SmsClient https://sms.test/ closed>"
    async with client:
        assert repr(client) == "<SmsClient https://sms.test/ open>"


async def test_leaving_the_block_is_bounded_in_time_and_closes_the_transport() -> None:
    """What the client opened or was given to own is closed, also when the block is cancelled."""
    closed: list[bool] = []

    class Closing(httpx.MockTransport):
        async def aclose(self) -> None:
            await anyio.lowlevel.checkpoint()
            closed.append(True)

    with anyio.CancelScope() as scope:
        async with client_of(Closing(FakeServer())):
            scope.cancel()
    assert closed == [True]


async def test_file_that_holds_no_certificates_is_refused(tmp_path: Path) -> None:
    """`verify` is read when the block is entered, in a thread, and the client stays closed."""
    client = SmsClient("https://sms.test/", auth=BearerAuth("token"), verify=tmp_path / "missing.pem")
    with pytest.raises(ConfigurationError, match="HIS_SMS_CA_FILE"):
        await client.__aenter__()
    assert repr(client).endswith("closed>")
