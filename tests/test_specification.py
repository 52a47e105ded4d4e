"""The specification: its examples, and whether a test names each of its sentences."""

import ast
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from zoneinfo import ZoneInfo

import httpx
import pytest
from fakes import FakeServer, answer
from specification import SENTENCES

from his_sms_async import (
    BearerAuth,
    ErrorCode,
    InvalidClientNumber,
    InvalidMessageOwner,
    Message,
    MessageState,
    MessageType,
    OperatorNumber,
    Revision,
    SendOutcomeUnknown,
    SendReceipt,
    SmsClient,
)
from his_sms_async._time import parse_stamp
from his_sms_async._wire import messages_query
from his_sms_async.sandbox import RunningSandbox

VILNIUS = ZoneInfo("Europe/Vilnius")
DATE_FROM = "2019-11-12 11:01:26.8912252"


# --- each sentence has a test ---------------------------------------------------------------------------


@cache
def named() -> tuple[tuple[str, str], ...]:
    """Each number in a `spec` marker of a test, and where it stands; the files are read, not imported."""
    return tuple(markers())


def markers() -> Iterator[tuple[str, str]]:
    """Find the markers of all tests, whichever of them run."""
    for path in sorted(Path(__file__).parent.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for decorator in node.decorator_list:
                    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.spec":
                        for number in decorator.args:
                            yield ast.literal_eval(number), f"{path.name}: {node.name}"


@pytest.mark.parametrize("number", SENTENCES)
def test_each_sentence_is_named_by_a_test(number: str) -> None:
    """A sentence of the specification that no test names is a promise that nobody checks."""
    assert number in {name for name, _ in named()}, SENTENCES[number]


def test_each_marker_names_a_sentence() -> None:
    """A number that is not in the list is a slip."""
    assert [(number, place) for number, place in named() if number not in SENTENCES] == []


# --- section 1 ------------------------------------------------------------------------------------------


@pytest.mark.spec("1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "1.7")
@pytest.mark.anyio
async def test_the_three_requests() -> None:
    """Send, get and numbers are the three requests over HTTP, and what is sent and accepted is JSON."""
    server = FakeServer()
    async with server.client() as client:
        await client.send(sender="37000000001", recipient="37000000002", text="Will you come?", external_key=1)
        await client.list_messages(date_from=datetime(2019, 11, 12, tzinfo=UTC))
        await client.list_numbers()
    assert [(request.method, request.url.params.get("type")) for request in server.requests] == [
        ("POST", None),
        ("GET", "Incoming"),
        ("GET", "Numbers"),
    ]
    assert server.requests[0].headers["Content-Type"] == "application/json"
    assert {request.headers["Accept"] for request in server.requests} == {"application/json"}


# --- section 2 ------------------------------------------------------------------------------------------


@pytest.fixture
def azure_ad(sms_sandbox_server: RunningSandbox, monkeypatch: pytest.MonkeyPatch) -> RunningSandbox:
    """A stand-in for SMS server and Azure AD, and an environment with the specification's keys."""
    for name in list(os.environ):
        if name.startswith("HIS_SMS_"):
            monkeypatch.delenv(name)
    for name, value in {
        "AAD_INSTANCE": sms_sandbox_server.aad_instance,
        "TENANT": "sandbox",
        "CLIENT_ID": "his",
        "CLIENT_SECRET": "sandbox-secret",
        "SCOPE": "api://sandbox/.default",
        "BASE_ADDRESS": f"{sms_sandbox_server.url}/",
        "CA_FILE": str(sms_sandbox_server.ca_file),
    }.items():
        monkeypatch.setenv(f"HIS_SMS_{name}", value)
    return sms_sandbox_server


@pytest.mark.spec("2.0.1", "2.1.1", "2.1.2", "2.1.3", "2.1.4", "2.1.5", "2.1.6", "2.1.7", "2.1.8")
@pytest.mark.sms_sandbox(tls=True, token=None)
@pytest.mark.anyio
async def test_azure_ad_with_the_specifications_keys(azure_ad: RunningSandbox) -> None:
    """A client with the five keys gets a token from (the stand-in's) Azure AD, and is let in with it."""
    assert "{0}" in azure_ad.aad_instance
    async with SmsClient.from_env() as client:
        assert await client.list_numbers()
        assert await client.list_numbers()
    assert azure_ad.sandbox.token_requests == 1


@pytest.mark.spec("2.1.8", "2.1.9", "2.1.10")
@pytest.mark.sms_sandbox(tls=True, token=None)
@pytest.mark.anyio
async def test_an_access_token_is_sent_as_a_header(azure_ad: RunningSandbox) -> None:
    """The token that Azure AD gave goes behind the word Bearer."""
    server = FakeServer()
    async with SmsClient.from_env(transport=httpx.MockTransport(server)) as client:
        await client.list_numbers()
    assert azure_ad.sandbox.token_requests == 1
    scheme, token = server.requests[0].headers["Authorization"].split(" ")
    assert scheme == "Bearer"
    assert len(token) > 20


# --- section 3 ------------------------------------------------------------------------------------------

TEXT = "Reminding, that N. SURNAME is registered on 2019-11-12 (Tu) 07:00, in 321 cab. Will You come?"
REQUEST = {
    "Id": None,
    "From": "37000000001",
    "To": "37000000002",
    "Text": TEXT,
    "ExternalKey": 27342,
}
STATUS_OK = {"StatusCode": "OK", "ErrorCode": "OK", "ErrorMessage": None}
SENT = {"Data": {"Id": 623178, "CreatedAt": "2019-11-11T08:08:21.8072824+02:00"}, "Status": STATUS_OK}


async def send(server: FakeServer) -> SendReceipt:
    """Send the SMS of the specification's example."""
    client = SmsClient("https://SMSServer/", auth=BearerAuth("SomeToken"), transport=httpx.MockTransport(server))
    async with client:
        return await client.send(sender="37000000001", recipient="37000000002", text=TEXT, external_key=27342)


@pytest.mark.spec("2.2.1", "2.2.2", "2.2.3", "3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "3.7")
@pytest.mark.anyio
async def test_the_request_of_section_3() -> None:
    """It comes out as it is written there."""
    server = FakeServer(script=[answer(200, SENT)])
    await send(server)
    (request,) = server.requests
    assert request.method == "POST"
    assert request.url == httpx.URL("https://SMSServer/")
    assert request.url.query == b""
    assert request.headers["Authorization"] == "Bearer SomeToken"
    assert request.headers["Content-Type"] == "application/json"
    assert json.loads(request.content) == REQUEST


@pytest.mark.spec("3.8", "3.9", "3.10", "3.11", "3.12", "3.14")
@pytest.mark.anyio
async def test_the_response_of_section_3() -> None:
    """It is read field for field."""
    created_at = datetime(2019, 11, 11, 8, 8, 21, 807282, tzinfo=timezone(timedelta(hours=2)))
    receipt = await send(FakeServer(script=[answer(200, SENT)]))
    assert receipt == SendReceipt(id=623178, created_at=created_at)
    assert receipt.created_at.utcoffset() == timedelta(hours=2)


@pytest.mark.spec("3.11", "3.12", "3.13", "3.15", "3.16", "3.17")
@pytest.mark.anyio
@pytest.mark.parametrize("number", [False, True], ids=["name", "number"])
@pytest.mark.parametrize(
    ("name", "code", "cls"),
    [
        ("Internal", 500, SendOutcomeUnknown),
        ("InvalidMessageOwner", 600, InvalidMessageOwner),
        ("InvalidClientNumber", 700, InvalidClientNumber),
    ],
)
async def test_the_error_codes_of_section_3(
    name: str,
    code: int,
    cls: type[Exception],
    number: bool,  # noqa: FBT001
) -> None:
    """Each has its exception with the code; the server's error text is not shown, for it may quote the SMS."""
    status = {
        "StatusCode": "Bad Request",
        "ErrorCode": code if number else name,
        "ErrorMessage": "37000000002 is no number",
    }
    with pytest.raises(cls) as caught:
        await send(FakeServer(script=[answer(400, {"Data": None, "Status": status})]))
    assert vars(caught.value)["error_code"] is ErrorCode(code)
    assert vars(caught.value)["status_code"] == "Bad Request"
    assert "37000000002" not in f"{caught.value!r} {caught.value}"


@pytest.mark.spec("3.14", "3.15", "3.16", "3.17")
def test_the_numbers_of_the_error_codes() -> None:
    """The enumeration has the specification's numbers."""
    assert {code.name.replace("_", "").lower(): code.value for code in ErrorCode} == {
        "ok": 1,
        "internal": 500,
        "invalidmessageowner": 600,
        "invalidclientnumber": 700,
    }


# --- section 4 ------------------------------------------------------------------------------------------

MESSAGES = {
    "Data": {
        "Messages": [
            {
                "Id": 531977,
                "From": "37000000002",
                "To": "37000000001",
                "Type": "Incoming",
                "CreatedAt": "2019-11-12T11:01:51.2143795",
                "UpdatedAt": "2019-11-12T11:01:51.2143907",
                "Text": "Yes",
                "State": "Delivered",
                "ReplyToMessageId": 123,
            },
            {
                "Id": 531978,
                "From": "37000000003",
                "To": "37000000001",
                "Type": "Incoming",
                "CreatedAt": "2019-11-12T11:01:55.0139225",
                "UpdatedAt": "2019-11-12T11:01:55.0139335",
                "Text": "No",
                "State": "Delivered",
                "ReplyToMessageId": None,
            },
        ]
    },
    "Status": STATUS_OK,
}


@pytest.mark.spec("4.3", "4.4", "4.5")
def test_the_query_of_section_4() -> None:
    """Decoded it is what is written there, to the last digit."""
    query = messages_query(MessageType.INCOMING, parse_stamp(DATE_FROM).digits)
    assert unquote(query) == f"type=Incoming&dateFrom={DATE_FROM}"


@pytest.mark.spec("4.1", "4.2", "4.3", "4.4", "4.5")
@pytest.mark.anyio
async def test_the_request_of_section_4() -> None:
    """A datetime asks to the microsecond, naive as the server's wall clock or aware; Incoming is the default."""
    server = FakeServer()
    naive = datetime.fromisoformat("2019-11-12 11:01:26.891225")
    async with server.client() as client:
        await client.list_messages(date_from=naive)
        await client.list_messages(date_from=naive.replace(tzinfo=VILNIUS).astimezone(UTC))
        await client.list_messages(MessageType.OUTGOING, date_from=naive)
    assert {request.method for request in server.requests} == {"GET"}
    assert [unquote(request.url.query.decode()) for request in server.requests] == [
        "type=Incoming&dateFrom=2019-11-12 11:01:26.8912250",
        "type=Incoming&dateFrom=2019-11-12 11:01:26.8912250",
        "type=Outgoing&dateFrom=2019-11-12 11:01:26.8912250",
    ]
    assert {request.content for request in server.requests} == {b""}


@pytest.mark.spec(
    "4.1", "4.6", "4.7", "4.8", "4.9", "4.10", "4.11", "4.12", "4.13", "4.14", "4.15", "4.16", "4.17", "4.18"
)
@pytest.mark.anyio
async def test_the_response_of_section_4() -> None:
    """It is read field for field, with the digits that a datetime has, and all of them in the revision."""
    async with FakeServer(script=[answer(200, MESSAGES)]).client() as client:
        messages = await client.list_messages(date_from=datetime(2019, 11, 12, tzinfo=VILNIUS))
    assert messages == [
        Message(
            id=531977,
            sender="37000000002",
            recipient="37000000001",
            type=MessageType.INCOMING,
            created_at=datetime(2019, 11, 12, 11, 1, 51, 214379, tzinfo=VILNIUS),
            updated_at=datetime(2019, 11, 12, 11, 1, 51, 214390, tzinfo=VILNIUS),
            text="Yes",
            state=MessageState.DELIVERED,
            reply_to_id=123,
            revision=Revision(637_091_533_112_143_907, MessageState.DELIVERED),
        ),
        Message(
            id=531978,
            sender="37000000003",
            recipient="37000000001",
            type=MessageType.INCOMING,
            created_at=datetime(2019, 11, 12, 11, 1, 55, 13922, tzinfo=VILNIUS),
            updated_at=datetime(2019, 11, 12, 11, 1, 55, 13933, tzinfo=VILNIUS),
            text="No",
            state=MessageState.DELIVERED,
            reply_to_id=None,
            revision=Revision(637_091_533_150_139_335, MessageState.DELIVERED),
        ),
    ]


@pytest.mark.spec("4.14")
def test_the_states_of_section_4() -> None:
    """All of them, in the specification's order."""
    names = "None, Enroute, Delivered, Expired, Deleted, Undeliverable, Accepted, Unknown, Rejected, Seen, Unsent"
    assert [state.value for state in MessageState] == names.split(", ")
    assert names in SENTENCES["4.14"]


# --- section 5 ------------------------------------------------------------------------------------------

NUMBERS = {
    "Data": {
        "ClientOperatorNumbers": [
            {"OperatorNumberId": 4, "Number": "37000000000"},
            {"OperatorNumberId": 7, "Number": "RSL_HOSP"},
        ]
    },
    "Status": STATUS_OK,
}


@pytest.mark.spec("5.1", "5.2", "5.3", "5.4", "5.5", "5.6", "5.7", "5.8", "5.9")
@pytest.mark.anyio
async def test_the_request_and_response_of_section_5() -> None:
    """Phone numbers and sender names come as the provider assigned them."""
    server = FakeServer(script=[answer(200, NUMBERS)])
    client = SmsClient("https://SMSServer/", auth=BearerAuth("SomeToken"), transport=httpx.MockTransport(server))
    async with client:
        assert await client.list_numbers() == [
            OperatorNumber(id=4, number="37000000000"),
            OperatorNumber(id=7, number="RSL_HOSP"),
        ]
    (request,) = server.requests
    assert (request.method, request.url) == ("GET", httpx.URL("https://SMSServer/?type=Numbers"))
    assert request.headers["Authorization"] == "Bearer SomeToken"


@pytest.mark.spec("1.4")
@pytest.mark.anyio
async def test_content_type_belongs_to_a_body() -> None:
    """A GET has no body, and says nothing of one."""
    server = FakeServer()
    async with server.client() as client:
        await client.list_numbers()
    assert "Content-Type" not in server.requests[0].headers


def test_examples_are_the_specifications() -> None:
    """The examples of this file are those of the list of sentences, so that neither can drift."""

    def shown(number: str) -> Any:
        return json.loads(SENTENCES[number].split("```")[1].strip().removesuffix(","))

    assert shown("3.2") == REQUEST
    assert shown("3.8") == SENT
    assert shown("4.6") == MESSAGES
    assert shown("5.4") == NUMBERS
    assert DATE_FROM in SENTENCES["4.3"]
