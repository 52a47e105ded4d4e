"""What happens to an SMS to each magic number, seen on the wire."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from waiting import in_hand, is_silent

from his_sms_async.sandbox import MAGIC_NUMBERS, MagicNumber, RunningSandbox, Sandbox
from his_sms_async.sandbox._readme import magic_table
from his_sms_async.sandbox.faults import Status

HOSPITAL = "37000000001"
AUTHORIZED = {"Authorization": "Bearer sandbox-token"}
DELIVERED, LATE, UNDELIVERABLE, UNKNOWN, REJECTED, SLOW, FLAKY, YES, NO, REFUSED, RESET = (
    magic.number for magic in MAGIC_NUMBERS
)

TESTED = {DELIVERED, LATE, UNDELIVERABLE, UNKNOWN, REJECTED, SLOW, FLAKY, YES, NO, REFUSED, RESET}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningSandbox]:
    """Serve one sandbox to all tests."""
    with Sandbox().serve() as server:
        yield server


@pytest.fixture
def sandbox(server: RunningSandbox) -> Sandbox:
    """Give the sandbox that is served, as new, with a clock that stands until a test moves it."""
    server.sandbox.settable_clock.reset()
    server.sandbox.settable_clock.freeze()
    server.sandbox.reset()
    return server.sandbox


@pytest.fixture(scope="module")
def session(server: RunningSandbox) -> Iterator[httpx.Client]:
    """Connect once for all tests."""
    with httpx.Client(base_url=server.url, headers=AUTHORIZED, trust_env=False, timeout=10) as client:
        yield client


@pytest.fixture
def client(session: httpx.Client, sandbox: Sandbox) -> httpx.Client:
    """Give a plain HTTP client of the sandbox, which is as new."""
    return session


def sms(to: str) -> dict[str, Any]:
    """Return the body of a request that sends an SMS."""
    return {"Id": None, "From": HOSPITAL, "To": to, "Text": "Will you come?", "ExternalKey": 1}


def send(client: httpx.Client, to: str, **options: Any) -> httpx.Response:
    """Send an SMS."""
    return client.post("/", json=sms(to), **options)


def listed(client: httpx.Client, kind: str) -> list[dict[str, Any]]:
    """Return the rows that list everything of a type."""
    answer = client.get(f"/?type={kind}&dateFrom=1900-01-01%2000:00:00").raise_for_status()
    messages: list[dict[str, Any]] = answer.json()["Data"]["Messages"]
    return messages


def states(client: httpx.Client, sandbox: Sandbox, seconds: float) -> tuple[str, str, str]:
    """Return the state of the only SMS now, just before so many seconds are over, and then."""
    seen = []
    for step in (0, seconds - 0.001, 0.001):
        sandbox.settable_clock.advance(step)
        (row,) = listed(client, "Outgoing")
        seen.append(row["State"])
    return seen[0], seen[1], seen[2]


@pytest.mark.parametrize("plus", ["", "+"])
@pytest.mark.parametrize(
    ("number", "seconds", "first", "last"),
    [
        (DELIVERED, 1, "Enroute", "Delivered"),
        (LATE, 60, "Enroute", "Delivered"),
        (UNDELIVERABLE, 1, "Enroute", "Undeliverable"),
        (REJECTED, 1, "Accepted", "Rejected"),
    ],
)
def test_state_changes_after_a_time(
    client: httpx.Client, sandbox: Sandbox, plus: str, number: str, seconds: float, first: str, last: str
) -> None:
    """The SMS has the first state until the time is over, then the last, with a new UpdatedAt and no answer."""
    assert send(client, plus + number).status_code == 200
    assert states(client, sandbox, seconds) == (first, first, last)
    (row,) = listed(client, "Outgoing")
    assert row["UpdatedAt"] > row["CreatedAt"]
    assert listed(client, "Incoming") == []


def test_nobody_knows_what_became_of_it(client: httpx.Client, sandbox: Sandbox) -> None:
    """The state is Unknown, now and a day later."""
    send(client, UNKNOWN)
    assert states(client, sandbox, 86400) == ("Unknown",) * 3


@pytest.mark.parametrize(("number", "text"), [(YES, "Yes"), (NO, "No")])
def test_answers_by_itself(client: httpx.Client, sandbox: Sandbox, number: str, text: str) -> None:
    """The SMS is Delivered at once, and answered after two seconds."""
    sent = send(client, number).json()["Data"]["Id"]
    assert [row["State"] for row in listed(client, "Outgoing")] == ["Delivered"]
    sandbox.settable_clock.advance(1.999)
    assert listed(client, "Incoming") == []
    sandbox.settable_clock.advance(0.001)
    (row,) = listed(client, "Incoming")
    assert (row["From"], row["To"], row["Text"], row["ReplyToMessageId"]) == (number, HOSPITAL, text, sent)


@pytest.mark.parametrize("plus", ["", "+"])
def test_slow_request(server: RunningSandbox, client: httpx.Client, sandbox: Sandbox, plus: str) -> None:
    """The client gives up before the five seconds are over, and the SMS was sent; others are quick."""
    with in_hand(server, "POST", "/", sms(plus + SLOW)) as connection:
        assert sandbox.wait_for(to=plus + SLOW, timeout=50).state == "Delivered"
        assert send(client, "37000000002").status_code == 200
        assert is_silent(connection)
    (slow,) = (magic.fault for magic in MAGIC_NUMBERS if magic.number == SLOW and magic.fault)
    assert slow.delay == 5.0


def test_fails_twice_then_works(client: httpx.Client, sandbox: Sandbox) -> None:
    """Two requests get HTTP 503 and send nothing, the third works, and so on; a reset counts anew."""
    statuses = [send(client, FLAKY).status_code for _ in range(7)]
    assert statuses == [503, 503, 200, 503, 503, 200, 503]
    assert len(sandbox.sent) == 2
    sandbox.reset()
    assert [send(client, FLAKY).status_code for _ in range(3)] == [503, 503, 200]


def test_number_is_refused(client: httpx.Client, sandbox: Sandbox) -> None:
    """HTTP 200, but the Status says that it is no number of a client, and nothing is sent."""
    answer = send(client, REFUSED)
    assert answer.status_code == 200
    assert answer.json()["Data"] is None
    assert answer.json()["Status"]["ErrorCode"] == "InvalidClientNumber"
    assert not sandbox.sent


def test_connection_is_reset_after_the_sms_was_sent(client: httpx.Client, sandbox: Sandbox) -> None:
    """The client sees a reset connection, and the SMS is there."""
    with pytest.raises(httpx.ReadError, match="reset"):
        send(client, RESET)
    assert [row["To"] for row in listed(client, "Outgoing")] == [RESET]
    assert [message.recipient for message in sandbox.sent] == [RESET]


def test_magic_numbers_strike_only_what_is_sent_to_them(client: httpx.Client, sandbox: Sandbox) -> None:
    """Lists, numbers and SMS to others are as ever, and no fault is shown as switched on."""
    sandbox.patient(FLAKY).writes("I write by myself")
    assert [row["From"] for row in listed(client, "Incoming")] == [FLAKY]
    assert client.get("/?type=Numbers").status_code == 200
    assert send(client, "37000000002").status_code == 200
    assert client.get("/control/faults").json() == []
    assert {name for exchange in sandbox.journal for name in exchange.faults} == set()


def test_faults_can_be_cleared_without_the_magic(client: httpx.Client, sandbox: Sandbox) -> None:
    """Switching off all faults leaves the magic numbers as they are."""
    sandbox.faults.add(Status(500))
    sandbox.faults.clear()
    assert send(client, FLAKY).status_code == 503
    assert send(client, REFUSED).json()["Status"]["ErrorCode"] == "InvalidClientNumber"


def test_patient_with_a_magic_number_can_be_told_otherwise(client: httpx.Client, sandbox: Sandbox) -> None:
    """A test may give such a patient a script of its own."""
    sandbox.patient(YES).replies("Maybe")
    send(client, YES)
    assert [row["Text"] for row in listed(client, "Incoming")] == ["Maybe"]


@pytest.fixture(scope="module")
def plain() -> Iterator[RunningSandbox]:
    """Serve a sandbox without magic numbers."""
    with Sandbox(magic_numbers=False).serve() as server:
        yield server


@pytest.mark.parametrize("magic", MAGIC_NUMBERS, ids=[magic.number for magic in MAGIC_NUMBERS])
def test_magic_numbers_can_be_switched_off(plain: RunningSandbox, magic: MagicNumber) -> None:
    """Without them each is a number like any other: the SMS is Delivered at once, and nobody answers."""
    plain.sandbox.reset()
    with httpx.Client(base_url=plain.url, headers=AUTHORIZED, trust_env=False, timeout=4) as client:
        answer = send(client, magic.number)
        assert answer.json()["Status"]["ErrorCode"] == "OK"
        plain.sandbox.settable_clock.advance(3600)
        (row,) = listed(client, "Outgoing")
        assert (row["State"], row["CreatedAt"][:19]) == ("Delivered", row["UpdatedAt"][:19])
        assert listed(client, "Incoming") == []


def test_readme_table_has_a_row_for_each_number() -> None:
    """The table names every number once, in their order, and what happens; the tests above are for all of them."""
    lines = magic_table().splitlines()
    assert lines[:2] == ["| Number | What happens to an SMS to it |", "| --- | --- |"]
    rows = [re.fullmatch(r"\| `([0-9]+)` \| (.+) \|", line) for line in lines[2:]]
    told = [(row[1], row[2]) for row in rows if row is not None]
    assert told == [(magic.number, magic.meaning) for magic in MAGIC_NUMBERS]
    assert {number for number, _ in told} == TESTED
    assert len(told) == len(rows) == 11
