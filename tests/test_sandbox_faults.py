"""What each fault does, seen on the wire: by a raw socket or a plain HTTP client, never by the library's own."""

import gzip
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import anyio
import httpx
import pytest
from waiting import in_hand, is_silent, until

from his_sms_async.sandbox import RunningSandbox, Sandbox, faults
from his_sms_async.sandbox._answers import Answer, Call, ErrorCode
from his_sms_async.sandbox._connections import Reply
from his_sms_async.sandbox._fault import AnyFault, OfRows, fault_name, first_sentence
from his_sms_async.sandbox._fault_json import fault_from, fault_kinds, fault_to_json
from his_sms_async.sandbox._readme import FAULT_EXAMPLES, fault_table
from his_sms_async.sandbox._switchboard import Switch
from his_sms_async.sandbox.faults import (
    ArchiveJob,
    AutumnNight,
    Backlog,
    BulkUpdate,
    CamelCase,
    ClockStep,
    CutBody,
    Duplicates,
    EmptyAnswer,
    ErrorEnvelope,
    ExpiredTokens,
    Fault,
    FutureStamp,
    Garbage,
    Gzip,
    Hang,
    Happening,
    HtmlPage,
    Latency,
    LateRows,
    MalformedRow,
    MissingStatus,
    Nulls,
    NumericEnums,
    Offsets,
    RateLimit,
    Refuse,
    Reset,
    RevokedTokens,
    SkewedNode,
    StaleAnswer,
    Status,
    Ties,
    TrimmedZeros,
    UnknownState,
    Unsorted,
    last_repeated_hour,
)

HOSPITAL, PATIENT, OTHER = "37000000001", "37000000002", "37000000003"
AUTHORIZED = {"Authorization": "Bearer sandbox-token"}
EVERYTHING = "/?type=Incoming&dateFrom=1900-01-01%2000:00:00"
NUMBERS = "/?type=Numbers"
TOKENS = "/sandbox/oauth2/v2.0/token"
FORM = {
    "grant_type": "client_credentials",
    "client_id": "his",
    "client_secret": "sandbox-secret",
    "scope": "api://sandbox/.default",
}
GOOD = {"StatusCode": "OK", "ErrorCode": "OK", "ErrorMessage": None}

SHOWN: set[str] = set()
"""The kinds that a test shows on the wire."""

F = TypeVar("F", bound=Callable[..., Any])


def shows(*kinds: type[AnyFault]) -> Callable[[F], F]:
    """Say that a test shows on the wire what these kinds do."""

    def mark(test: F) -> F:
        SHOWN.update(fault_name(kind) for kind in kinds)
        return test

    return mark


@pytest.fixture(scope="module")
def server() -> Iterator[RunningSandbox]:
    """Serve one sandbox to all tests."""
    with Sandbox(random_seed=4).serve() as server:
        yield server


@pytest.fixture
def sandbox(server: RunningSandbox) -> Iterator[Sandbox]:
    """Give the sandbox that is served, as new."""
    server.sandbox.settable_clock.reset()
    server.sandbox.reset()
    yield server.sandbox
    server.sandbox.faults.clear()


@pytest.fixture(scope="module")
def session(server: RunningSandbox) -> Iterator[httpx.Client]:
    """Connect once for all tests."""
    with httpx.Client(base_url=server.url, headers=AUTHORIZED, trust_env=False, timeout=10) as client:
        yield client


@pytest.fixture
def client(session: httpx.Client, sandbox: Sandbox) -> httpx.Client:
    """Give a plain HTTP client of the sandbox, which is as new."""
    return session


def switch_on(client: httpx.Client, *wanted: AnyFault) -> None:
    """Add faults as a test in another language would, each by one call of the control API."""
    for fault in wanted:
        answer = client.post("/control/faults", json=fault_to_json(fault))
        assert answer.status_code == 200, answer.text


def sms(to: str = PATIENT) -> dict[str, Any]:
    """Return the body of a request that sends an SMS."""
    return {"Id": None, "From": HOSPITAL, "To": to, "Text": "Will you come?", "ExternalKey": 1}


def send(client: httpx.Client, to: str = PATIENT, **options: Any) -> httpx.Response:
    """Send an SMS."""
    return client.post("/", json=sms(to), **options)


def get_token(client: httpx.Client, **options: Any) -> httpx.Response:
    """Ask the fake Azure AD for a token."""
    return client.post(TOKENS, data=FORM, **options)


def ask(client: httpx.Client, request: str) -> int:
    """Make one of the four requests, and return the HTTP status of the answer."""
    asked = {
        "send": lambda: send(client),
        "list": lambda: client.get(EVERYTHING),
        "numbers": lambda: client.get(NUMBERS),
        "token": lambda: get_token(client),
    }
    return asked[request]().status_code


def rows(client: httpx.Client) -> list[dict[str, Any]]:
    """Return the rows that list everything from patients."""
    listed: list[dict[str, Any]] = client.get(EVERYTHING).raise_for_status().json()["Data"]["Messages"]
    return listed


def write(sandbox: Sandbox, count: int) -> list[int]:
    """Let a patient write so many messages, and return their Ids."""
    return [sandbox.patient(PATIENT).writes(f"text {index}").id for index in range(count)]


def elapsed(began: float) -> float:
    """Return the seconds since then."""
    return time.monotonic() - began


def raw_request(path: str = EVERYTHING) -> bytes:
    """Return a GET request as bytes."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sandbox-token\r\n\r\n".encode()


def connect(server: RunningSandbox) -> socket.socket:
    """Open a connection."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def raw_answer(connection: socket.socket, request: bytes | None = None) -> bytes:
    """Send a request by a socket, and return all bytes until the server closes the connection."""
    connection.sendall(raw_request() if request is None else request)
    return b"".join(iter(lambda: connection.recv(65536), b""))


def wall(stamp: str) -> datetime:
    """Read a stamp without offset, to the microsecond."""
    return datetime.fromisoformat(stamp[:26])


# Whom they strike, and how often


@shows(Status)
def test_status_answers_the_next_requests(client: httpx.Client, sandbox: Sandbox) -> None:
    """`times` requests get the status with an error in the envelope, then the fault is off."""
    switch_on(client, Status(503, times=2))
    answers = [send(client) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].json() == {
        "Data": None,
        "Status": {
            "StatusCode": "Service Unavailable",
            "ErrorCode": "Internal",
            "ErrorMessage": "a fault that is switched on",
        },
    }
    assert "retry-after" not in answers[0].headers
    assert len(sandbox.sent) == 1
    assert client.get("/control/faults").json() == []


def test_status_can_say_when_to_come_again(client: httpx.Client) -> None:
    """`retry_after` is the header Retry-After, in whole seconds, rounded up."""
    switch_on(client, Status(429, retry_after=2.1))
    answer = client.get(NUMBERS)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")


def test_status_after_the_request_was_taken(client: httpx.Client, sandbox: Sandbox) -> None:
    """With `taken` the SMS is sent, and yet the answer is an error."""
    switch_on(client, Status(502, taken=True))
    assert send(client).status_code == 502
    assert len(sandbox.sent) == 1


def test_probability_is_repeatable(client: httpx.Client, sandbox: Sandbox) -> None:
    """With a `random_seed` the same requests are struck after each reset, whatever other faults are on."""

    def struck() -> list[int]:
        switch_on(client, Status(probability=0.5, request="list"))
        return [ask(client, "list") for _ in range(20)]

    first = struck()
    sandbox.reset()
    switch_on(client, Latency(0))
    assert struck() == first
    assert set(first) == {200, 503}


def test_probability_0_never_strikes(client: httpx.Client) -> None:
    """A fault with probability 0 stays on, and does nothing."""
    switch_on(client, Status(probability=0, times=1))
    assert {ask(client, "list") for _ in range(20)} == {200}
    assert [fault["struck"] for fault in client.get("/control/faults").json()] == [0]


def test_times_counts_what_was_struck(client: httpx.Client) -> None:
    """With a probability, `times` requests are struck in the end, however many were spared before."""
    switch_on(client, Status(probability=0.2, times=3))
    statuses = [ask(client, "list") for _ in range(60)]
    struck = [index for index, status in enumerate(statuses) if status == 503]
    assert len(struck) == 3
    assert struck[-1] > 2
    assert client.get("/control/faults").json() == []


def test_every_strikes_the_first_of_so_many(client: httpx.Client) -> None:
    """`every` strikes the first of so many requests for ever, or with `times` the first few of them."""
    switch_on(client, Status(503, every=3))
    assert [ask(client, "list") for _ in range(7)] == [503, 200, 200, 503, 200, 200, 503]
    client.delete("/control/faults")
    switch_on(client, Status(503, every=3, times=2))
    assert [ask(client, "list") for _ in range(7)] == [503, 503, 200, 503, 503, 200, 503]
    assert client.get("/control/faults").json()[0]["left"] is None


def test_number_strikes_what_is_sent_to_it(client: httpx.Client) -> None:
    """Only messages from or to the number are struck, written with a plus or without."""
    switch_on(client, Status(503, number=PATIENT))
    assert [send(client, to).status_code for to in (PATIENT, f"+{PATIENT}", OTHER)] == [503, 503, 200]
    assert ask(client, "list") == 200
    client.delete("/control/faults")
    switch_on(client, Status(503, number=f"+{HOSPITAL}"))
    assert send(client, OTHER).status_code == 503


def test_number_strikes_no_request_that_is_none(client: httpx.Client) -> None:
    """A body that is no message has no number, so it is refused as ever."""
    switch_on(client, Status(503, number=PATIENT))
    assert client.post("/", json={"To": PATIENT}).status_code == 400


def test_number_strikes_its_rows_of_a_list(client: httpx.Client, sandbox: Sandbox) -> None:
    """A fault of rows with a number changes the rows of that number, and lets the others be."""
    sandbox.patient(PATIENT).writes("Yes")
    sandbox.patient(OTHER).writes("No")
    for fault in (UnknownState(number=PATIENT), Duplicates(number=PATIENT), Nulls(number=OTHER)):
        switch_on(client, fault)
    assert [(row["From"], row["State"]) for row in rows(client)] == [
        (PATIENT, "Teleported"),
        (PATIENT, "Teleported"),
        (None, "Delivered"),
    ]


@pytest.mark.parametrize("struck", ["send", "list", "numbers", "token"])
def test_request_strikes_one_kind(client: httpx.Client, struck: Any) -> None:
    """With `request` only that kind of request is struck."""
    switch_on(client, Status(503, request=struck))
    statuses = {request: ask(client, request) for request in ("send", "list", "numbers", "token")}
    assert statuses == {request: 503 if request == struck else 200 for request in statuses}


# Limits, time, connections


@shows(RateLimit)
def test_rate_limit_lets_so_many_through(client: httpx.Client) -> None:
    """More than the limit get 429 until the time has passed, which asking again does not prolong."""
    switch_on(client, RateLimit(requests=2, seconds=2))
    began = time.monotonic()
    assert [ask(client, "list") for _ in range(3)] == [200, 200, 429]
    until(lambda: ask(client, "list") == 200)
    assert elapsed(began) >= 2


def test_rate_limit_tells_the_true_time(client: httpx.Client) -> None:
    """Retry-After is what is left until then, in whole seconds rounded up."""
    began = time.monotonic()
    switch_on(client, RateLimit(requests=1, seconds=30))
    assert ask(client, "list") == 200
    for _ in range(3):
        refused = client.get(EVERYTHING)
        assert refused.status_code == 429
        assert 30 - elapsed(began) <= int(refused.headers["retry-after"]) <= 30


def test_rate_limit_can_be_for_one_kind_of_request(client: httpx.Client) -> None:
    """With `request` only those are counted and refused."""
    switch_on(client, RateLimit(requests=1, seconds=60, request="send"))
    assert [ask(client, request) for request in ("list", "send", "list", "send", "list")] == [
        200,
        200,
        200,
        429,
        200,
    ]


def test_rate_limit_whose_time_is_over_meanwhile() -> None:
    """A request that is refused while others find that the time is over gets the shortest Retry-After."""
    answer = RateLimit(1, 0.001).instead(Call(request="list"))
    assert answer.headers == {"Retry-After": "1"}


def test_rate_limit_counts_right_in_many_threads(server: RunningSandbox, sandbox: Sandbox) -> None:
    """Requests at the same moment are counted one by one, and none fails."""
    sandbox.faults.add(RateLimit(requests=5, seconds=60))
    struck = [0] * 4
    started = threading.Barrier(4)

    def hammer(place: int) -> None:
        started.wait()
        for _ in range(50):
            struck[place] += len(sandbox.faults.strike(Call(request="list")))

    threads = [threading.Thread(target=hammer, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(struck) == 4 * 50 - 5


@shows(Latency)
def test_latency_delays_the_answer(client: httpx.Client) -> None:
    """The answer is as ever, but comes so many seconds late."""
    switch_on(client, Latency(0.25))
    began = time.monotonic()
    assert send(client).status_code == 200
    assert elapsed(began) >= 0.25


def test_latency_does_not_delay_the_sms(server: RunningSandbox, client: httpx.Client, sandbox: Sandbox) -> None:
    """A client that gives up long before the answer has sent its SMS."""
    switch_on(client, Latency(600))
    with in_hand(server, "POST", "/", sms()) as connection:
        assert sandbox.wait_for(to=PATIENT, timeout=50).text == "Will you come?"
        assert is_silent(connection)


def test_latencies_add_up(client: httpx.Client) -> None:
    """Two faults that delay an answer delay it by the sum."""
    switch_on(client, Latency(0.1), Latency(0.15))
    began = time.monotonic()
    assert ask(client, "numbers") == 200
    assert elapsed(began) >= 0.25


@shows(Hang)
@pytest.mark.parametrize(("taken", "sent"), [(False, 0), (True, 1)])
def test_hang_gives_no_answer(
    server: RunningSandbox, client: httpx.Client, sandbox: Sandbox, *, taken: bool, sent: int
) -> None:
    """The client waits for nothing; the SMS was sent only if the request was taken before."""
    switch_on(client, Hang(taken=taken))
    with in_hand(server, "POST", "/", sms()) as connection:
        until(lambda: [one.faults for one in sandbox.journal] == [("hang",)])
        if taken:
            sandbox.wait_for(to=PATIENT, timeout=50)
        assert is_silent(connection)
    assert len(sandbox.sent) == sent


def test_client_that_gives_up_is_let_go(server: RunningSandbox, client: httpx.Client, sandbox: Sandbox) -> None:
    """When the client hangs up on a late answer, the server is done with the request."""
    switch_on(client, Latency(600))
    with in_hand(server):
        until(lambda: [one.status for one in sandbox.journal] == [200])
        assert client.get("/control/journal").json()[-1]["seconds"] is None
    until(lambda: client.get("/control/journal").json()[-1]["seconds"] is not None)
    assert [exchange.status for exchange in sandbox.journal] == [200]


@shows(Refuse)
def test_refuse_closes_the_door_for_a_time(server: RunningSandbox, client: httpx.Client) -> None:
    """Open connections are closed and new ones refused, until the time is over."""
    with closing(connect(server)) as connection:
        began = time.monotonic()
        switch_on(client, Refuse(0.8))
        with pytest.raises(ConnectionRefusedError):
            connect(server)
        assert connection.recv(1) == b""
    while True:
        try:
            connect(server).close()
        except ConnectionRefusedError:
            continue
        break
    assert elapsed(began) >= 0.8
    assert ask(client, "list") == 200
    assert client.get("/control/faults").json() == []


def test_refuse_until_switched_off(server: RunningSandbox, client: httpx.Client, sandbox: Sandbox) -> None:
    """Without a time, connections are refused as long as the block lasts."""
    with sandbox.faults.during(Refuse(None)), pytest.raises(ConnectionRefusedError):
        connect(server)
    assert ask(client, "list") == 200


@shows(Reset)
@pytest.mark.parametrize(("taken", "sent"), [(False, 0), (True, 1)])
def test_reset_is_a_tcp_reset(
    server: RunningSandbox, client: httpx.Client, sandbox: Sandbox, *, taken: bool, sent: int
) -> None:
    """The connection ends with RST, before the SMS was sent or after that."""
    switch_on(client, Reset(taken=taken))
    body = json.dumps({"Id": None, "From": HOSPITAL, "To": PATIENT, "Text": "Will you?", "ExternalKey": 1})
    head = raw_request("/").replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\n")
    request = head + f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    with closing(connect(server)) as connection, pytest.raises(ConnectionResetError):
        raw_answer(connection, request)
    assert len(sandbox.sent) == sent
    assert [exchange.status for exchange in sandbox.journal] == [None]


@shows(EmptyAnswer)
def test_empty_answer_closes_without_a_byte(server: RunningSandbox, client: httpx.Client) -> None:
    """The connection is closed properly, and nothing was written to it."""
    switch_on(client, EmptyAnswer())
    with closing(connect(server)) as connection:
        assert raw_answer(connection) == b""


@shows(Garbage)
def test_garbage_is_no_http(server: RunningSandbox, client: httpx.Client) -> None:
    """The first bytes are not those of HTTP, and then the connection is closed."""
    switch_on(client, Garbage())
    with closing(connect(server)) as connection:
        answer = raw_answer(connection)
    assert answer.startswith(b"\x16\x03\x01garbage")
    assert b"HTTP" not in answer


@shows(CutBody)
def test_cut_body_promises_more(server: RunningSandbox, client: httpx.Client, sandbox: Sandbox) -> None:
    """The headers promise the whole body, half of it comes, and what was asked for has been done."""
    switch_on(client, CutBody())
    with closing(connect(server)) as connection:
        head, _, body = raw_answer(connection, raw_request(NUMBERS)).partition(b"\r\n\r\n")
    (promised,) = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    assert len(body) == promised // 2
    assert body.startswith(b'{"Data":{"ClientOperatorNumbers":')
    with pytest.raises(httpx.RemoteProtocolError):
        send(client)
    assert len(sandbox.sent) == 1


def test_cut_body_of_a_long_list(server: RunningSandbox, client: httpx.Client) -> None:
    """A list that is sent in chunks is cut before the last one."""
    switch_on(client, Backlog(2000))
    with closing(connect(server)) as connection:
        connection.sendall(raw_request().replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        whole = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"chunked" in whole
    assert whole.endswith(b"\r\n0\r\n\r\n")
    switch_on(client, CutBody())
    with closing(connect(server)) as connection:
        cut = raw_answer(connection)
    assert 0 < len(cut) < len(whole)
    assert not cut.endswith(b"\r\n0\r\n\r\n")


# What is answered


@shows(HtmlPage)
def test_html_page_is_the_login_of_a_proxy(client: httpx.Client, sandbox: Sandbox) -> None:
    """HTML with HTTP 200, or with another status, and nothing was sent."""
    switch_on(client, HtmlPage(times=1), HtmlPage(403))
    first, second = send(client), send(client)
    assert (first.status_code, second.status_code) == (200, 403)
    assert first.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1>Sign in" in first.text
    assert not sandbox.sent


@shows(ErrorEnvelope)
@pytest.mark.parametrize(
    ("error_code", "status_code"),
    [
        ("Internal", "Internal Server Error"),
        ("InvalidMessageOwner", "Bad Request"),
        ("InvalidClientNumber", "Bad Request"),
    ],
)
def test_error_envelope_comes_with_http_200(client: httpx.Client, error_code: ErrorCode, status_code: str) -> None:
    """HTTP says that all is well, the Status says that it is not."""
    switch_on(client, ErrorEnvelope(error_code))
    answer = send(client)
    told = {"StatusCode": status_code, "ErrorCode": error_code, "ErrorMessage": "a fault that is switched on"}
    assert (answer.status_code, answer.json()) == (200, {"Data": None, "Status": told})


@shows(MissingStatus)
def test_missing_status_leaves_the_data(client: httpx.Client, sandbox: Sandbox) -> None:
    """All three answers have their Data and nothing else."""
    write(sandbox, 1)
    switch_on(client, MissingStatus())
    for answer in (send(client), client.get(EVERYTHING), client.get(NUMBERS)):
        assert list(answer.json()) == ["Data"]
    assert len(rows(client)) == 1


@shows(NumericEnums)
def test_numeric_enums_in_good_answers(client: httpx.Client, sandbox: Sandbox) -> None:
    """Type, State, StatusCode and ErrorCode are the numbers of the specification and of HTTP."""
    write(sandbox, 2)
    sandbox.set_state(2, "Unsent")
    switch_on(client, NumericEnums())
    answer = client.get(EVERYTHING).json()
    assert [(row["Type"], row["State"]) for row in answer["Data"]["Messages"]] == [(2, 2), (2, 10)]
    assert answer["Status"] == {"StatusCode": 200, "ErrorCode": 1, "ErrorMessage": None}


@pytest.mark.parametrize(
    ("to", "fault", "numbers"),
    [
        ("nobody", None, (400, 700)),
        (PATIENT, ErrorEnvelope("InvalidMessageOwner"), (400, 600)),
        (PATIENT, ErrorEnvelope("Internal"), (500, 500)),
        (PATIENT, Status(503), (503, 500)),
    ],
)
def test_numeric_enums_in_errors(
    client: httpx.Client, to: str, fault: Fault | None, numbers: tuple[int, int]
) -> None:
    """The number of the StatusCode is that of its phrase, whatever the HTTP status is."""
    switch_on(client, NumericEnums(), *([fault] if fault else []))
    status = send(client, to).json()["Status"]
    assert (status["StatusCode"], status["ErrorCode"]) == numbers


@shows(CamelCase)
def test_camel_case_names_every_field(client: httpx.Client, sandbox: Sandbox) -> None:
    """No name in any answer begins with a capital letter, and the values are the same."""
    write(sandbox, 1)
    plain = client.get(EVERYTHING).json()
    switch_on(client, CamelCase())
    answer = client.get(EVERYTHING).json()
    assert answer["status"] == {"statusCode": "OK", "errorCode": "OK", "errorMessage": None}
    (row,) = answer["data"]["messages"]
    assert {name[0].upper() + name[1:]: value for name, value in row.items()} == plain["Data"]["Messages"][0]
    assert row["replyToMessageId"] is None
    assert list(send(client).json()["data"]) == ["id", "createdAt"]
    numbers = client.get(NUMBERS).json()["data"]["clientOperatorNumbers"]
    assert list(numbers[0]) == ["operatorNumberId", "number"]


@shows(Gzip)
@pytest.mark.parametrize("count", [1, 2000])
def test_gzip_is_not_asked_for(client: httpx.Client, sandbox: Sandbox, count: int) -> None:
    """Short and long bodies are compressed, though the client accepts no compression."""
    sandbox.pile_up(count)
    plain = client.get(EVERYTHING).content
    switch_on(client, Gzip())
    with client.stream("GET", EVERYTHING, headers={"Accept-Encoding": "identity"}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert len(raw) < len(plain)
    assert gzip.decompress(raw) == plain


# Lists


@shows(MalformedRow)
def test_malformed_row_stands_among_good_ones(client: httpx.Client, sandbox: Sandbox) -> None:
    """One row more, the second, has an Id and a CreatedAt that are none; the good rows are all there."""
    first, second = write(sandbox, 2)
    switch_on(client, MalformedRow())
    listed = rows(client)
    assert [row["Id"] for row in listed] == [first, "?", second]
    assert listed[1]["CreatedAt"] == "yesterday"


def test_malformed_row_alone(client: httpx.Client) -> None:
    """Without any good row the malformed one is still there."""
    switch_on(client, MalformedRow())
    assert [row["Id"] for row in rows(client)] == ["?"]


@shows(UnknownState)
def test_unknown_state(client: httpx.Client, sandbox: Sandbox) -> None:
    """Each row has a State that is none of the specification."""
    write(sandbox, 2)
    switch_on(client, UnknownState("Vanished"))
    assert [row["State"] for row in rows(client)] == ["Vanished", "Vanished"]


@shows(Nulls)
def test_nulls(client: httpx.Client, sandbox: Sandbox) -> None:
    """All that may be null is, and only that."""
    write(sandbox, 1)
    switch_on(client, Nulls())
    (row,) = rows(client)
    assert {name for name, value in row.items() if value is None} == {
        "From",
        "To",
        "Type",
        "UpdatedAt",
        "Text",
        "ReplyToMessageId",
    }


@shows(Offsets)
@pytest.mark.parametrize(
    ("which", "offsets"),
    [
        ("all", ["+02:00", "+02:00", "+02:00"]),
        ("none", ["", "", ""]),
        ("mixed", ["+02:00", "", "+02:00"]),
    ],
)
def test_offsets(client: httpx.Client, sandbox: Sandbox, which: Any, offsets: list[str]) -> None:
    """All stamps have the zone's offset, none has, or those of every second row."""
    sandbox.settable_clock.set(datetime(2026, 1, 10, 12, tzinfo=UTC))
    write(sandbox, 3)
    switch_on(client, Offsets(which))
    assert [(row["CreatedAt"][27:], row["UpdatedAt"][27:]) for row in rows(client)] == [
        (offset, offset) for offset in offsets
    ]


@shows(TrimmedZeros)
def test_trimmed_zeros(client: httpx.Client, sandbox: Sandbox) -> None:
    """Zeros at the end of the fraction are left out, with an offset after them or not, and so is a bare point."""
    sandbox.settable_clock.freeze()
    for microsecond in (120_000, 0):
        sandbox.settable_clock.set(datetime(2026, 1, 10, 12, 0, 10, microsecond, tzinfo=UTC))
        write(sandbox, 1)
    switch_on(client, TrimmedZeros())
    assert [row["UpdatedAt"] for row in rows(client)] == ["2026-01-10T14:00:10", "2026-01-10T14:00:10.12"]
    switch_on(client, Offsets("all"))
    assert [row["CreatedAt"] for row in rows(client)] == [
        "2026-01-10T14:00:10+02:00",
        "2026-01-10T14:00:10.12+02:00",
    ]


@shows(Unsorted)
def test_unsorted_is_never_sorted(client: httpx.Client, sandbox: Sandbox) -> None:
    """The rows are all there in a wrong order, and in another one each time; two are turned round."""
    written = write(sandbox, 2)
    switch_on(client, Unsorted())
    assert [[row["Id"] for row in rows(client)] for _ in range(10)] == [written[::-1]] * 10
    written += write(sandbox, 6)
    listed = [[row["Id"] for row in rows(client)] for _ in range(3)]
    assert all(sorted(ids) == written != ids for ids in listed)
    assert listed[0] != listed[1] != listed[2]


def test_unsorted_list_of_one_row(client: httpx.Client, sandbox: Sandbox) -> None:
    """One row cannot be in a wrong order."""
    written = write(sandbox, 1)
    switch_on(client, Unsorted())
    assert [row["Id"] for row in rows(client)] == written


@shows(Duplicates)
def test_duplicates(client: httpx.Client, sandbox: Sandbox) -> None:
    """Every row comes twice, the second time right after the first."""
    first, second = write(sandbox, 2)
    switch_on(client, Duplicates())
    assert [row["Id"] for row in rows(client)] == [first, first, second, second]


@shows(StaleAnswer)
def test_stale_answer_shows_an_older_state(client: httpx.Client, sandbox: Sandbox) -> None:
    """For so many seconds a new state and a new message are not in the list, and the old state is."""
    old, *_ = write(sandbox, 1)
    sandbox.settable_clock.advance(100)
    sandbox.set_state(old, "Seen")
    new, *_ = write(sandbox, 1)
    switch_on(client, StaleAnswer(60))
    assert [(row["Id"], row["State"]) for row in rows(client)] == [(old, "Delivered")]
    sandbox.settable_clock.advance(59)
    assert [(row["Id"], row["State"]) for row in rows(client)] == [(old, "Delivered")]
    sandbox.settable_clock.advance(2)
    assert [(row["Id"], row["State"]) for row in rows(client)] == [(old, "Seen"), (new, "Delivered")]


# What patients write


@shows(LateRows)
def test_late_rows_are_listed_later_with_their_stamp(client: httpx.Client, sandbox: Sandbox) -> None:
    """A message is listed only after so many seconds, and has the stamp of when it was written."""
    switch_on(client, LateRows(60, times=1))
    late, prompt = write(sandbox, 2)
    assert [row["Id"] for row in rows(client)] == [prompt]
    sandbox.settable_clock.advance(59)
    assert [row["Id"] for row in rows(client)] == [prompt]
    sandbox.settable_clock.advance(2)
    assert [row["Id"] for row in rows(client)] == [late, prompt]


def test_late_change_of_a_message(client: httpx.Client, sandbox: Sandbox) -> None:
    """A new state is late too: until then the list shows the old one."""
    written, *_ = write(sandbox, 1)
    switch_on(client, LateRows(60))
    sandbox.set_state(written, "Seen")
    assert [row["State"] for row in rows(client)] == ["Delivered"]
    sandbox.settable_clock.advance(61)
    assert [row["State"] for row in rows(client)] == ["Seen"]


@shows(Ties)
def test_ties(client: httpx.Client, sandbox: Sandbox) -> None:
    """All messages have the stamp of the first, however much later they are written."""
    switch_on(client, Ties())
    write(sandbox, 2)
    sandbox.settable_clock.advance(60)
    write(sandbox, 1)
    assert len({(row["CreatedAt"], row["UpdatedAt"]) for row in rows(client)}) == 1


@shows(FutureStamp)
def test_future_stamp(client: httpx.Client, sandbox: Sandbox) -> None:
    """A message is stamped a day ahead, the next one is not, and the hospital's are not struck."""
    sandbox.settable_clock.freeze()
    switch_on(client, FutureStamp(86400, times=1))
    sent = send(client).json()["Data"]["CreatedAt"]
    write(sandbox, 2)
    now, tomorrow = (wall(row["UpdatedAt"]) for row in rows(client))
    assert tomorrow - now == timedelta(days=1)
    assert wall(sent) == now


@shows(SkewedNode)
def test_skewed_node_stamps_every_second_message(client: httpx.Client, sandbox: Sandbox) -> None:
    """The first, third and fifth message have the stamps of a clock that is 40 s behind."""
    sandbox.settable_clock.freeze()
    switch_on(client, SkewedNode(-40))
    written = write(sandbox, 5)
    stamps = {row["Id"]: wall(row["UpdatedAt"]) for row in rows(client)}
    behind = [(stamps[written[1]] - stamps[number]).total_seconds() for number in written]
    assert behind == [40, 0, 40, 0, 40]


# The token endpoint


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, "invalid_request"), (401, "invalid_client"), (429, "temporarily_unavailable")],
)
def test_token_endpoint_refuses(client: httpx.Client, sandbox: Sandbox, status: int, error: str) -> None:
    """A status for tokens has an error in the form of OAuth, and no token is issued."""
    switch_on(client, Status(status, request="token", retry_after=7))
    answer = get_token(client)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["content-type"] == "application/json"
    assert sandbox.token_requests == 0
    assert ask(client, "list") == 200


def test_token_endpoint_has_a_rate_limit(client: httpx.Client) -> None:
    """The second token within the time gets 429 with a Retry-After."""
    switch_on(client, RateLimit(requests=1, seconds=30, request="token"))
    first, second = get_token(client), get_token(client)
    assert (first.status_code, second.status_code) == (200, 429)
    assert second.headers["retry-after"] == "30"


def test_token_endpoint_is_slow(client: httpx.Client) -> None:
    """A token comes late, and it is good."""
    switch_on(client, Latency(0.15, request="token"))
    began = time.monotonic()
    token = get_token(client).json()["access_token"]
    assert elapsed(began) >= 0.15
    assert client.get(NUMBERS, headers={"Authorization": f"Bearer {token}"}).status_code == 200


@pytest.mark.parametrize("fault", [Garbage(request="token"), CutBody(request="token"), Reset(request="token")])
def test_token_endpoint_breaks_the_connection(client: httpx.Client, fault: Fault) -> None:
    """Faults of connections strike the token endpoint too."""
    switch_on(client, fault)
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        get_token(client)
    assert ask(client, "list") == 200


def test_token_endpoint_answers_html(client: httpx.Client) -> None:
    """A proxy's login page instead of a token."""
    switch_on(client, HtmlPage(request="token"))
    answer = get_token(client)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")


@shows(ExpiredTokens)
def test_expired_tokens_look_good(client: httpx.Client) -> None:
    """The token is said to be good for an hour, and the API does not accept it; the next one is good."""
    switch_on(client, ExpiredTokens(times=1))
    statuses = []
    for _ in range(2):
        token = get_token(client).json()
        assert token["expires_in"] == 3600
        headers = {"Authorization": f"Bearer {token['access_token']}"}
        statuses.append(client.get(NUMBERS, headers=headers).status_code)
    assert statuses == [401, 200]


@shows(RevokedTokens)
def test_revoked_tokens(client: httpx.Client) -> None:
    """An issued token stops being accepted, a new one is good, and so is the static one."""
    old = {"Authorization": f"Bearer {get_token(client).json()['access_token']}"}
    assert client.get(NUMBERS, headers=old).status_code == 200
    switch_on(client, RevokedTokens())
    assert client.get(NUMBERS, headers=old).status_code == 401
    new = {"Authorization": f"Bearer {get_token(client).json()['access_token']}"}
    assert [client.get(NUMBERS, headers=headers).status_code for headers in (new, AUTHORIZED)] == [200, 200]


# What happens once


@shows(ClockStep)
def test_clock_step(client: httpx.Client, sandbox: Sandbox) -> None:
    """A later message has a stamp an hour before that of an earlier one, and whoever watches is told."""
    sandbox.settable_clock.freeze()
    write(sandbox, 1)
    told = sandbox.changes.count
    switch_on(client, ClockStep(-3600))
    assert sandbox.changes.count > told
    write(sandbox, 1)
    later, earlier = rows(client)
    assert (later["Text"], earlier["Text"]) == ("text 0", "text 0")
    assert later["Id"] > earlier["Id"]
    assert wall(earlier["UpdatedAt"]) - wall(later["UpdatedAt"]) == timedelta(hours=1)


@shows(AutumnNight)
def test_autumn_night_repeats_the_wall_clock(client: httpx.Client, sandbox: Sandbox) -> None:
    """An hour later the wall clock shows the same time again, and only the offset tells which is which."""
    sandbox.settable_clock.set(datetime(2026, 11, 20, tzinfo=UTC))
    sandbox.settable_clock.freeze()
    switch_on(client, AutumnNight(10), Offsets("all"))
    written = {}
    for minutes in (0, 20, 60):
        sandbox.settable_clock.advance(minutes * 60)
        written[write(sandbox, 1)[0]] = minutes
    stamps = {written[row["Id"]]: row["UpdatedAt"] for row in rows(client)}
    assert stamps == {
        0: "2026-10-25T02:50:00.0000000+03:00",
        20: "2026-10-25T03:10:00.0000000+03:00",
        60: "2026-10-25T03:10:00.0000000+02:00",
    }


def test_autumn_night_that_never_was() -> None:
    """In a zone without summer time there is no such night, and the error says so."""
    sandbox = Sandbox(timezone="UTC")
    with pytest.raises(ValueError, match="no hour came twice in UTC in the last two years"):
        sandbox.faults.add(AutumnNight())


@pytest.mark.parametrize(
    ("zone", "now", "repeated"),
    [
        ("Europe/Vilnius", "2026-10-25T00:59:59Z", "2025-10-26T00:00:00Z"),  # the first of the two hours
        ("Europe/Vilnius", "2026-10-25T01:00:00Z", "2026-10-25T00:00:00Z"),
        ("Australia/Lord_Howe", "2026-05-01T12:34:56Z", "2026-04-04T14:30:00Z"),  # half an hour comes twice
        ("America/St_Johns", "2026-12-01T00:00:00Z", "2026-11-01T03:30:00Z"),
    ],
)
def test_last_repeated_hour(zone: str, now: str, repeated: str) -> None:
    """The moment when the wall clock first began what it repeats, in zones with whole hours and without."""
    found = last_repeated_hour(ZoneInfo(zone), datetime.fromisoformat(now))
    assert found == datetime.fromisoformat(repeated)


@shows(BulkUpdate)
@pytest.mark.parametrize(("state", "states"), [(None, ["Delivered", "Seen"]), ("Deleted", ["Deleted"] * 2)])
def test_bulk_update(client: httpx.Client, sandbox: Sandbox, state: str | None, states: list[str]) -> None:
    """All messages get one new UpdatedAt, and a state only if one is given; CreatedAt is as it was."""
    first, second = write(sandbox, 2)
    sandbox.set_state(second, "Seen")
    before = {row["Id"]: row for row in rows(client)}
    switch_on(client, BulkUpdate(state))
    after = {row["Id"]: row for row in rows(client)}
    assert [after[number]["State"] for number in (first, second)] == states
    (stamp,) = {row["UpdatedAt"] for row in after.values()}
    assert stamp > max(row["UpdatedAt"] for row in before.values())
    assert all(after[number]["CreatedAt"] == before[number]["CreatedAt"] for number in (first, second))


@shows(ArchiveJob)
def test_archive_job(client: httpx.Client, sandbox: Sandbox) -> None:
    """Only messages older than so many hours get the state, and one new UpdatedAt."""
    old = write(sandbox, 2)
    sandbox.settable_clock.advance(3600)
    young = write(sandbox, 1)
    sandbox.settable_clock.advance(47.5 * 3600)
    switch_on(client, ArchiveJob(hours=48))
    listed = {row["Id"]: row for row in rows(client)}
    assert [listed[number]["State"] for number in (*old, *young)] == ["Deleted", "Deleted", "Delivered"]
    assert listed[old[0]]["UpdatedAt"] == listed[old[1]]["UpdatedAt"] > listed[young[0]]["UpdatedAt"]


@shows(Backlog)
def test_backlog(client: httpx.Client, sandbox: Sandbox) -> None:
    """So many answers are there at once, a tenth of a second apart, the last one with the server's time."""
    sandbox.settable_clock.freeze()
    sandbox.settable_clock.set(datetime(2026, 1, 10, 12, tzinfo=UTC))
    switch_on(client, Backlog(25))
    listed = rows(client)
    assert len({row["Id"] for row in listed}) == len(listed) == 25
    stamps = [wall(row["UpdatedAt"]) for row in listed]
    assert {later - earlier for earlier, later in pairwise(stamps)} == {timedelta(milliseconds=100)}
    assert stamps[-1] == datetime.fromisoformat("2026-01-10T14:00:00")
    assert {row["Text"] for row in listed} == {"Yes", "No"}


def test_backlog_of_a_million(client: httpx.Client, sandbox: Sandbox) -> None:
    """A million answers can be there within seconds, and the last minute of them is listed."""
    sandbox.settable_clock.freeze()
    sandbox.settable_clock.set(datetime(2026, 1, 10, 12, tzinfo=UTC))
    answer = client.post("/control/faults", json={"kind": "backlog"}, timeout=50)
    assert answer.json() == {"id": None}
    assert len(sandbox.messages) == 1_000_000
    listed = client.get("/?type=Incoming&dateFrom=2026-01-10%2013:59:00", timeout=50).json()["Data"]["Messages"]
    assert len(listed) == 601


def test_happening_that_is_no_kind_does_nothing_by_itself(sandbox: Sandbox) -> None:
    """The base class of what happens once is no fault."""
    with pytest.raises(NotImplementedError):
        sandbox.faults.add(Happening())


# Several at a time


def test_faults_work_together(client: httpx.Client, sandbox: Sandbox) -> None:
    """Every fault of lists and answers does its part when all are on, in any order."""
    sandbox.settable_clock.set(datetime(2026, 1, 10, 12, tzinfo=UTC))
    write(sandbox, 3)
    together: list[Fault] = [
        Nulls(number=PATIENT),
        MalformedRow(),
        NumericEnums(),
        TrimmedZeros(),
        UnknownState(),
        Offsets("all"),
        Unsorted(),
        Duplicates(),
        CamelCase(),
        NumericEnums(),
        Gzip(),
        Latency(0.01),
    ]
    listed = []
    for order in (together, together[::-1]):
        sandbox.faults.clear()
        switch_on(client, *order)
        answer = client.get(EVERYTHING)
        assert (answer.status_code, answer.headers["content-encoding"]) == (200, "gzip")
        assert answer.json()["status"] == {"statusCode": 200, "errorCode": 1, "errorMessage": None}
        listed.append(answer.json()["data"]["messages"])
    assert [sum(row["id"] == "?" for row in messages) for messages in listed] == [2, 1]
    assert all({row["state"] for row in messages if row["id"] != "?"} == {"Teleported"} for messages in listed)


def test_first_answer_counts(client: httpx.Client, sandbox: Sandbox) -> None:
    """Of two faults that answer, that which was added first does; one that prevents the request goes before."""
    switch_on(client, Status(500, taken=True), Status(502), Status(503))
    assert send(client).status_code == 502
    assert not sandbox.sent


def test_missing_status_leaves_nothing_to_number(client: httpx.Client) -> None:
    """Numbers instead of names, and no Status to have them in."""
    switch_on(client, MissingStatus(), NumericEnums())
    assert list(client.get(NUMBERS).json()) == ["Data"]


@pytest.mark.parametrize("change", [CutBody(), Gzip()])
def test_broken_connection_stays_broken(client: httpx.Client, server: RunningSandbox, change: Fault) -> None:
    """What changes bodies does not mend a connection that is broken in another way."""
    switch_on(client, EmptyAnswer(times=1), Reset(), change)
    with closing(connect(server)) as connection:
        assert raw_answer(connection) == b""
    with closing(connect(server)) as connection, pytest.raises(ConnectionResetError):
        raw_answer(connection)


@pytest.mark.parametrize("order", [(Gzip(), CutBody()), (CutBody(), Gzip())])
def test_compressed_body_is_cut(client: httpx.Client, server: RunningSandbox, order: tuple[Fault, ...]) -> None:
    """A body that is compressed and cut ends in the middle of the compressed one, whichever was added first."""
    switch_on(client, *order)
    with closing(connect(server)) as connection:
        head, _, body = raw_answer(connection, raw_request(NUMBERS)).partition(b"\r\n\r\n")
    (promised,) = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    assert body.startswith(b"\x1f\x8b")
    assert len(body) == promised // 2


@pytest.mark.parametrize("added", [False, True])
def test_request_in_flight_is_not_struck(client: httpx.Client, sandbox: Sandbox, *, added: bool) -> None:
    """A request meets the faults that are on when it comes, whatever is added or removed while it is answered."""
    late = sandbox.faults.add(Latency(0.2))
    assert late is not None
    answered: list[tuple[int, float]] = []

    def fly() -> None:
        began = time.monotonic()
        answered.append((send(client).status_code, elapsed(began)))

    flying = threading.Thread(target=fly)
    flying.start()
    sandbox.wait_for(to=PATIENT)
    if added:
        sandbox.faults.add(Status(503))
    else:
        sandbox.faults.remove(late)
    flying.join()
    ((status, seconds),) = answered
    assert status == 200
    assert seconds >= 0.2
    assert ask(client, "numbers") == (503 if added else 200)


# With TLS, and without any connection


@pytest.fixture(scope="module")
def tls_server() -> Iterator[RunningSandbox]:
    """Serve another sandbox by https."""
    with Sandbox().serve(tls=True) as server:
        yield server


@pytest.fixture(scope="module")
def tls_client(tls_server: RunningSandbox) -> Iterator[httpx.Client]:
    """Give a plain HTTPS client."""
    trusted = ssl.create_default_context(cafile=tls_server.ca_file)
    with httpx.Client(
        base_url=tls_server.url, headers=AUTHORIZED, trust_env=False, verify=trusted, timeout=10
    ) as client:
        yield client


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        (Reset(times=1), httpx.TransportError),  # Python's ssl hides what exactly
        (EmptyAnswer(times=1), httpx.RemoteProtocolError),
        (Garbage(times=1), httpx.RemoteProtocolError),
        (CutBody(times=1), httpx.RemoteProtocolError),
        (Hang(times=1), httpx.ReadTimeout),
    ],
)
def test_faults_of_connections_with_tls(
    tls_server: RunningSandbox, tls_client: httpx.Client, fault: Fault, failure: type[Exception]
) -> None:
    """The same faults strike within TLS, and the next connection is good."""
    tls_server.sandbox.faults.clear()
    assert ask(tls_client, "list") == 200
    switch_on(tls_client, fault)
    with pytest.raises(failure):
        tls_client.get(EVERYTHING, timeout=0.3 if isinstance(fault, Hang) else 10)
    tls_server.sandbox.faults.clear()
    assert ask(tls_client, "list") == 200


def test_refuse_with_tls(tls_server: RunningSandbox, tls_client: httpx.Client) -> None:
    """An https server, too, accepts no connection until the fault is off."""
    switch_on(tls_client, Refuse(None))
    with pytest.raises(ConnectionRefusedError):
        connect(tls_server)
    tls_server.sandbox.faults.clear()
    assert ask(tls_client, "list") == 200


def test_reset_with_tls_is_a_tcp_reset(tls_server: RunningSandbox) -> None:
    """Below TLS, too, the connection ends with RST."""
    client_side, server_side = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusted = ssl.create_default_context(cafile=tls_server.ca_file)
    session = trusted.wrap_bio(server_side, client_side, server_hostname="localhost")

    def shake_hands() -> bool:
        try:
            session.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    with tls_server.sandbox.faults.during(Reset()), closing(connect(tls_server)) as connection:
        while not shake_hands():
            connection.sendall(client_side.read())
            server_side.write(connection.recv(65536))
        session.write(raw_request())
        with pytest.raises(ConnectionResetError):
            raw_answer(connection, client_side.read())


@pytest.fixture
def direct(request: pytest.FixtureRequest) -> httpx.AsyncClient:
    """Give a client of a sandbox without a server, with the fault that the test names."""
    sandbox = Sandbox()
    sandbox.faults.add(request.param)
    transport = httpx.ASGITransport(sandbox.app)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=AUTHORIZED)


@pytest.mark.parametrize(
    "direct",
    [Reset(), EmptyAnswer(), Garbage(), CutBody(), Refuse()],
    indirect=True,
    ids=["reset", "empty-answer", "garbage", "cut-body", "refuse"],
)
@pytest.mark.anyio
async def test_faults_of_connections_need_one(direct: httpx.AsyncClient) -> None:
    """Where the application is called without a server, the error says what to do."""
    async with direct:
        with pytest.raises(RuntimeError, match=r"use Sandbox\.serve\(\), not Sandbox\.app"):
            await direct.get(NUMBERS)


@pytest.mark.parametrize("direct", [Hang()], indirect=True, ids=["hang"])
@pytest.mark.anyio
async def test_hang_needs_no_connection(direct: httpx.AsyncClient) -> None:
    """Without a server, too, there is no answer until the client gives up."""
    async with direct:
        with anyio.move_on_after(0.1) as scope:
            await direct.get(NUMBERS)
    assert scope.cancelled_caught


def test_silence_lasts_until_the_client_hangs_up() -> None:
    """What is left of the request's body does not end it."""
    events: list[dict[str, Any]] = [
        {"type": "http.request", "more_body": True},
        {"type": "http.request"},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        return events.pop(0)

    async def send(message: Any) -> None:
        pytest.fail("nothing is answered")

    anyio.run(Reply(Answer(ending="silence")), {"type": "http"}, receive, send)
    assert events == []


# Adding and removing


def example(kind: str) -> AnyFault:
    """Return the fault that the README shows for a kind."""
    fault = eval(FAULT_EXAMPLES[kind], dict(vars(faults)))
    assert isinstance(fault, AnyFault)
    return fault


@pytest.mark.parametrize("kind", list(fault_kinds()))
def test_every_kind_can_be_added_by_control_and_read_back(
    client: httpx.Client, sandbox: Sandbox, kind: str
) -> None:
    """One call with the name of the kind adds it with its defaults, and the list shows it, if it lasts."""
    fault = fault_kinds()[kind]() if kind != "backlog" else Backlog(1)
    answer = client.post("/control/faults", json=fault_to_json(fault))
    assert answer.status_code == 200, answer.text
    if isinstance(fault, Happening):
        assert answer.json() == {"id": None}
        assert list(sandbox.faults) == []
    elif not isinstance(fault, Refuse):
        (read,) = client.get("/control/faults").json()
        assert read == {"id": answer.json()["id"], "struck": 0, "left": fault.times, **fault_to_json(fault)}
        assert fault_from({name: read[name] for name in fault_to_json(fault)}) == fault
        assert client.delete(f"/control/faults/{read['id']}").status_code == 200
        assert client.get("/control/faults").json() == []
    else:
        (switch,) = sandbox.faults
        assert switch.fault == fault


def test_every_kind_is_shown_on_the_wire() -> None:
    """Nobody adds a kind without a test that shows what it does to a client."""
    assert set(fault_kinds()) == SHOWN


def test_every_kind_is_exported_and_told() -> None:
    """All kinds are in `__all__`, have a sentence for the README, and only classes that are none are left out."""
    names = {kind.__name__ for kind in fault_kinds().values()}
    assert names | {"Fault", "Happening"} == {name for name in faults.__all__ if name[0].isupper()}
    for kind in fault_kinds().values():
        assert kind.__dict__["__doc__"]
        assert len(first_sentence(kind)) > 20
        assert list(fault_to_json(kind()))[1:] == kind.option_names()


@pytest.mark.parametrize("kind", list(fault_kinds()))
def test_readme_lines_of_python_add(kind: str) -> None:
    """The line of Python in the table of the README is valid, and adds a fault of that kind."""
    sandbox = Sandbox()
    (line,) = [row for row in fault_table().splitlines() if row.startswith(f"| `{kind}` |")]
    _, name, python, sentence, _ = (cell.strip() for cell in line.split("|"))
    python = python.strip("`").replace("1_000_000", "3")
    switch = eval(python, {"sandbox": sandbox, **vars(faults)})
    assert isinstance(example(kind), fault_kinds()[name.strip("`")])
    if issubclass(fault_kinds()[kind], Happening):
        assert switch is None
    else:
        assert [entry.fault for entry in sandbox.faults] == [switch.fault] == [example(kind)]
    assert sentence.endswith(".")


def test_readme_table_has_a_row_for_each_kind() -> None:
    """The table has a head, a line and one row for each kind, in the order of the module."""
    lines = fault_table().splitlines()
    assert lines[:2] == ["| In the control API | In Python | What happens |", "| --- | --- | --- |"]
    assert [line.split("`")[1] for line in lines[2:]] == list(fault_kinds()) == list(FAULT_EXAMPLES)
    assert "With None" not in fault_table()  # which is the second sentence


@pytest.mark.parametrize(
    ("description", "text"),
    [
        ({}, "kind must be one of status, error-envelope, "),
        ({"kind": "Status"}, "kind must be one of status, "),
        ({"kind": 5}, "kind must be one of status, "),
        ({"kind": "status", "code": 5}, "status has no option 'code', but times, every, probability, "),
        ({"kind": "revoked-tokens", "times": 1}, "revoked-tokens has no option 'times', but none"),
        ({"kind": "status", "status": "503"}, "status of status must be a known HTTP status from 300 to 599"),
        ({"kind": "status", "status": 200}, "status of status must be a known HTTP status from 300 to 599"),
        ({"kind": "status", "status": 599}, "status of status must be a known HTTP status from 300 to 599"),
        ({"kind": "status", "status": 304}, "status of status must be a known HTTP status from 300 to 599 whose"),
        ({"kind": "status", "retry_after": -1}, "retry_after of status must be a number from 0 to 1000000000 or"),
        ({"kind": "html-page", "status": 204}, "status of html-page must be a known HTTP status from 200 to 599"),
        ({"kind": "html-page", "status": True}, "status of html-page must be a known HTTP status from 200 to 599"),
        ({"kind": "error-envelope", "error_code": "No"}, "error_code of error-envelope must be one of Internal, "),
        ({"kind": "error-envelope", "error_code": ["OK"]}, "error_code of error-envelope must be one of Internal"),
        ({"kind": "reset", "taken": 1}, "taken of reset must be true or false"),
        ({"kind": "hang", "times": 0}, "times of hang must be an integer of at least 1 or null"),
        ({"kind": "hang", "times": True}, "times of hang must be an integer of at least 1 or null"),
        ({"kind": "hang", "times": 1.5}, "times of hang must be an integer of at least 1 or null"),
        ({"kind": "hang", "every": 0}, "every of hang must be an integer of at least 1 or null"),
        ({"kind": "hang", "every": 2, "times": 3}, "times of hang must be at most 2, which is its every"),
        ({"kind": "hang", "probability": 1.1}, "probability of hang must be a number from 0 to 1"),
        ({"kind": "hang", "probability": None}, "probability of hang must be a number from 0 to 1"),
        ({"kind": "hang", "number": 37000000002}, "number of hang must be a text or null"),
        ({"kind": "hang", "number": PATIENT, "request": "token"}, "number of hang must be left out, for the req"),
        ({"kind": "hang", "number": PATIENT, "request": "list"}, "number of hang must be left out, for the req"),
        ({"kind": "hang", "request": "poll"}, "request of hang must be one of send, list, numbers, token or null"),
        ({"kind": "camel-case", "request": "token"}, "request of camel-case must be one of list, numbers, send"),
        ({"kind": "unsorted", "request": "send"}, "request of unsorted must be one of list or null"),
        ({"kind": "unsorted", "number": PATIENT}, "unsorted has no option 'number', but times"),
        ({"kind": "expired-tokens", "number": PATIENT}, "expired-tokens has no option 'number', but times"),
        ({"kind": "ties", "request": "list"}, "ties has no option 'request', but times"),
        ({"kind": "refuse", "times": 3}, "refuse has no option 'times', but seconds"),
        ({"kind": "refuse", "probability": 0.5}, "refuse has no option 'probability', but seconds"),
        ({"kind": "refuse", "seconds": "5"}, "seconds of refuse must be a number from 0 to 1000000000 or null"),
        ({"kind": "rate-limit", "requests": 0}, "requests of rate-limit must be an integer of at least 1"),
        ({"kind": "rate-limit", "seconds": 0}, "seconds of rate-limit must be a number from 0.001 to 1000000000"),
        ({"kind": "latency", "seconds": True}, "seconds of latency must be a number from 0 to 1000000000"),
        ({"kind": "latency", "seconds": None}, "seconds of latency must be a number from 0 to 1000000000"),
        ({"kind": "unknown-state", "state": None}, "state of unknown-state must be a text"),
        ({"kind": "offsets", "which": "some"}, "which of offsets must be one of all, none, mixed"),
        ({"kind": "stale-answer", "seconds": -1}, "seconds of stale-answer must be a number from 0 to 1000000000"),
        ({"kind": "late-rows", "seconds": -1}, "seconds of late-rows must be a number from 0 to 1000000000"),
        (
            {"kind": "future-stamp", "seconds": 1e10},
            "seconds of future-stamp must be a number from 0 to 100000000",
        ),
        (
            {"kind": "skewed-node", "seconds": ""},
            "seconds of skewed-node must be a number from -1000000000 to 1000",
        ),
        ({"kind": "skewed-node", "every": 0}, "every of skewed-node must be an integer of at least 1 or null"),
        ({"kind": "skewed-node", "times": 3}, "times of skewed-node must be at most 2, which is its every"),
        (
            {"kind": "clock-step", "seconds": 10**400},
            "seconds of clock-step must be a number from -1000000000 to ",
        ),
        ({"kind": "autumn-night", "minutes": 2000}, "minutes of autumn-night must be a number from -1440 to 1440"),
        ({"kind": "bulk-update", "state": 7}, "state of bulk-update must be a text or null"),
        ({"kind": "archive-job", "state": None}, "state of archive-job must be a text"),
        ({"kind": "archive-job", "hours": -1}, "hours of archive-job must be a number from 0 to 277777"),
        ({"kind": "backlog", "count": 10_000_001}, "count of backlog must be an integer from 1 to 10000000"),
        ({"kind": "backlog", "count": 1e3}, "count of backlog must be an integer from 1 to 10000000"),
    ],
)
def test_wrong_options_are_refused(client: httpx.Client, description: Mapping[str, Any], text: str) -> None:
    """An option that is wrong is HTTP 400 with a text that names the kind, the option and what it must be."""
    answer = client.post(
        "/control/faults", content=json.dumps(description), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(text)
    assert client.get("/control/faults").json() == []


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        ("hang", "number", "\ud800"),
        ("unknown-state", "state", "\udfff"),
        ("latency", "seconds", float("inf")),
        ("latency", "seconds", float("nan")),
        ("clock-step", "seconds", float("-inf")),
        ("rate-limit", "seconds", float("nan")),
    ],
)
def test_values_that_json_cannot_have_are_refused(kind: str, option: str, value: Any) -> None:
    """Half a surrogate pair, infinity and NaN are refused in Python too: the control API could not list them."""
    with pytest.raises(ValueError, match=f"{option} of {kind} must be a "):
        fault_from({"kind": kind, option: value})


def test_every_option_is_checked() -> None:
    """No kind takes an option of a kind that JSON has and the option does not mean."""
    for kind in fault_kinds().values():
        for option in kind.option_names():
            with pytest.raises(ValueError, match=f"{option} of {fault_name(kind)} must be "):
                fault_from({"kind": fault_name(kind), option: {}})


def test_class_instead_of_a_fault_is_refused(sandbox: Sandbox) -> None:
    """Forgetting the parentheses is told at once, and leaves nothing on."""
    with pytest.raises(TypeError, match=r"must be one like Status\(503, times=3\), not <class .*Unsorted'>"):
        sandbox.faults.add(Unsorted)  # type: ignore[arg-type]
    with (
        pytest.raises(TypeError, match="must be one like"),
        sandbox.faults.during(Status(), Unsorted),  # type: ignore[arg-type]
    ):
        pytest.fail("the block is not entered")
    assert list(sandbox.faults) == []


def test_what_moves_the_clock_needs_one_that_can_be_set() -> None:
    """With a clock of the caller's own, the error says that it cannot be set."""
    sandbox = Sandbox(clock=lambda: 639_000_000_000_000_000)
    for happening in (ClockStep(), AutumnNight()):
        with pytest.raises(ValueError, match="a clock that cannot be set"):
            sandbox.faults.add(happening)


def test_fault_remembers_nothing_from_an_earlier_time(client: httpx.Client, sandbox: Sandbox) -> None:
    """The same value can be added again, here or elsewhere, and begins anew."""
    ties, limit = Ties(), RateLimit(requests=1, seconds=60)
    stamps = set[int]()
    for _ in range(2):
        with sandbox.faults.during(ties, limit):
            write(sandbox, 1)
            assert [ask(client, "list") for _ in range(2)] == [200, 429]
        stamps.update(message.updated_ticks for message in sandbox.messages)
    assert len(stamps) == 2


def test_faults_are_on_during_a_block(client: httpx.Client, sandbox: Sandbox) -> None:
    """`during` removes its own faults at the end, also if they are off already, and no others."""
    stays = sandbox.faults.add(Latency(0))
    with sandbox.faults.during(Status(503, times=1), Gzip()):
        assert len(sandbox.faults) == 3
        assert [ask(client, "list") for _ in range(2)] == [503, 200]
        assert [switch.struck for switch in sandbox.faults] == [2, 2]
    assert list(sandbox.faults) == [stays]


def test_fault_that_is_not_on_cannot_be_removed(client: httpx.Client, sandbox: Sandbox) -> None:
    """Removing by switch or by id works once, and then the error names the id."""
    for by_id in (False, True):
        switch = sandbox.faults.add(Gzip())
        assert switch is not None
        sandbox.faults.remove(switch.id if by_id else switch)
        with pytest.raises(LookupError, match=f"there is no fault {switch.id}"):
            sandbox.faults.remove(switch)
        assert client.delete(f"/control/faults/{switch.id}").status_code == 404


def test_switch_strikes_no_more_than_it_should() -> None:
    """A switch that nobody removes, as those of magic numbers, still stops after so many times."""
    switch = Switch(1, Status(times=2))
    random: Any = SimpleNamespace(random=lambda: 0.0)
    assert [switch.strikes(random) for _ in range(4)] == [True, True, False, False]
    assert (switch.struck, switch.left) == (2, 0)


def test_number_of_a_fault_is_not_shown() -> None:
    """A phone number does not get into logs by way of a fault's repr."""
    assert PATIENT not in repr(Reset(number=PATIENT))


def test_fault_of_rows_must_say_what_it_changes() -> None:
    """The base class of faults of rows is no fault."""
    with pytest.raises(NotImplementedError):
        OfRows().changed({})
