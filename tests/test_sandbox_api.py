"""The stand-in's REST API on the wire, byte for byte what the specification shows."""

import http.client
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import anyio
import httpx
import pytest

from his_sms_async.sandbox import RunningSandbox, Sandbox, SandboxClock, SandboxMessage
from his_sms_async.sandbox._app import create_app
from his_sms_async.sandbox.faults import Duplicates, Offsets, Unsorted

# 2019-11-11T08:08:21.8072824+02:00 of the specification
EXAMPLE_TICKS = 637_090_493_018_072_824
REMINDER = {
    "Id": None,
    "From": "37000000001",
    "To": "37000000002",
    "Text": "Reminding, that N. SURNAME is registered on 2019-11-12 (Tu) 07:00, in 321 cab. Will You come?",
    "ExternalKey": 27342,
}
OK = {"StatusCode": "OK", "ErrorCode": "OK", "ErrorMessage": None}
LONG_AGO = "1900-01-01 00:00:00"


def connect(url: str, token: str | None = "sandbox-token") -> httpx.Client:
    """Return a plain HTTP client of the API that takes nothing from the environment."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=url, headers=headers, verify=False, trust_env=False)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningSandbox]:
    """Serve a sandbox whose clock stands at the time of the specification's example."""
    with Sandbox(clock=lambda: EXAMPLE_TICKS).serve() as server:
        yield server


@pytest.fixture
def sandbox(server: RunningSandbox) -> Sandbox:
    """Return the sandbox that is served, as new."""
    server.sandbox.reset()
    return server.sandbox


@pytest.fixture
def api(server: RunningSandbox, sandbox: Sandbox) -> Iterator[httpx.Client]:
    """Return a client of the served sandbox with the right token."""
    with connect(server.url) as client:
        yield client


def assert_refused(response: httpx.Response, status: int, phrase: str, error_code: str) -> str:
    """Check that this is an error envelope and nothing else, and return its message."""
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/json"
    envelope = response.json()
    message = envelope["Status"].pop("ErrorMessage")
    assert envelope == {"Data": None, "Status": {"StatusCode": phrase, "ErrorCode": error_code}}
    assert isinstance(message, str)
    return message


# Sending


def test_sending_answers_as_the_specification_does(api: httpx.Client, sandbox: Sandbox) -> None:
    """POST takes the example and returns its Id and CreatedAt, with offset and seven digits."""
    response = api.post("/", json=REMINDER)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.json() == {
        "Data": {"Id": 1, "CreatedAt": "2019-11-11T08:08:21.8072824+02:00"},
        "Status": OK,
    }
    (message,) = sandbox.sent
    assert (message.sender, message.recipient) == (REMINDER["From"], REMINDER["To"])
    assert (message.text, message.external_key) == (REMINDER["Text"], REMINDER["ExternalKey"])


def test_sender_name_may_send(api: httpx.Client) -> None:
    """From can be one of the hospital's sender names."""
    assert api.post("/", json=REMINDER | {"From": "RSL_HOSP"}).json()["Status"] == OK


def test_foreign_sender_is_an_invalid_message_owner(api: httpx.Client) -> None:
    """From that is not the hospital's gets ErrorCode InvalidMessageOwner, and is not repeated."""
    message = assert_refused(
        api.post("/", json=REMINDER | {"From": "37099999999"}), 400, "Bad Request", "InvalidMessageOwner"
    )
    assert "37099999999" not in message


def test_wrong_recipient_is_an_invalid_client_number(api: httpx.Client, sandbox: Sandbox) -> None:
    """To that is no phone number gets ErrorCode InvalidClientNumber, and is not repeated."""
    response = api.post("/", json=REMINDER | {"To": "the ward"})
    assert "the ward" not in assert_refused(response, 400, "Bad Request", "InvalidClientNumber")
    assert sandbox.messages == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"1" * 5_000,
        json.dumps(REMINDER).encode() + b",",  # as printed in the specification
    ],
)
def test_body_that_is_no_json_is_refused(api: httpx.Client, body: bytes) -> None:
    """Whatever comes in the place of JSON is answered with an envelope, not with a crash."""
    response = api.post("/", content=body)
    assert assert_refused(response, 400, "Bad Request", "Internal") == "the body is not JSON"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([REMINDER], "the body must be an object of Id, From, To, Text, ExternalKey"),
        (REMINDER | {"Urgent": True}, "the body must be an object of Id, From, To, Text, ExternalKey"),
        ({**REMINDER, "Id": 5}, "Id must be null"),
        ({**REMINDER, "From": 37000000001}, "From must be a string"),
        ({**REMINDER, "To": None}, "To must be a string"),
        ({**REMINDER, "Text": ["Will", "You", "come?"]}, "Text must be a string"),
        ({**REMINDER, "ExternalKey": "27342"}, "ExternalKey must be an integer"),
        ({**REMINDER, "ExternalKey": True}, "ExternalKey must be an integer"),
        ({**REMINDER, "ExternalKey": 27342.0}, "ExternalKey must be an integer"),
    ],
)
def test_field_of_the_wrong_kind_is_named(api: httpx.Client, body: Any, reason: str) -> None:
    """The five fields are there, each of its kind, and no other."""
    response = api.post("/", json=body)
    assert assert_refused(response, 400, "Bad Request", "Internal") == reason


@pytest.mark.parametrize("field", REMINDER)
def test_every_field_is_needed(api: httpx.Client, field: str) -> None:
    """A message without one of the five fields is refused, also without Id, which is null."""
    body = {name: value for name, value in REMINDER.items() if name != field}
    assert_refused(api.post("/", json=body), 400, "Bad Request", "Internal")


def test_half_a_surrogate_pair_is_refused(api: httpx.Client) -> None:
    """JSON can escape half a character; such a text could not be listed again."""
    body = json.dumps(REMINDER | {"Text": "\ud83d"})
    assert "surrogate" in assert_refused(api.post("/", content=body), 400, "Bad Request", "Internal")


@pytest.mark.parametrize("text", ["", "Ąžuolas 👍 مرحبا", "<b>&amp;</b>\r\n\0", "x" * 10_000])
def test_text_comes_back_as_it_was_sent(api: httpx.Client, text: str) -> None:
    """A text is text: nothing in it is changed, whatever it is."""
    assert api.post("/", json=REMINDER | {"Text": text}).status_code == 200
    listed = api.get("/", params={"type": "Outgoing", "dateFrom": LONG_AGO}).json()
    assert listed["Data"]["Messages"][0]["Text"] == text


# Listing


def test_reply_is_listed_as_in_the_specification() -> None:
    """A row has nine fields in the order of the specification, naive stamps of seven digits."""
    clock = iter([0, 637_091_461_112_143_795, 637_091_461_112_143_907])
    sandbox = Sandbox(clock=lambda: next(clock, EXAMPLE_TICKS), magic_numbers=False)
    sandbox.receive(sender="37000000002", recipient="37000000001", text="Yes", reply_to=123)
    with sandbox.serve() as server, connect(server.url) as client:
        response = client.get("/?type=Incoming&dateFrom=2019-11-12 11:01:51.2143907")
    assert response.status_code == 200
    assert response.text == (
        '{"Data":{"Messages":[{"Id":1,"From":"37000000002","To":"37000000001","Type":"Incoming",'
        '"CreatedAt":"2019-11-12T11:01:51.2143795","UpdatedAt":"2019-11-12T11:01:51.2143907",'
        '"Text":"Yes","State":"Delivered","ReplyToMessageId":123}]},'
        '"Status":{"StatusCode":"OK","ErrorCode":"OK","ErrorMessage":null}}'
    )


def test_stamps_can_carry_offsets() -> None:
    """With `stamp_offsets="all"` listed stamps end in the zone's offset."""
    sandbox = Sandbox(stamp_offsets="all", clock=lambda: EXAMPLE_TICKS)
    sandbox.receive(sender="37000000002", recipient="37000000001", text="Yes")
    with sandbox.serve() as server, connect(server.url) as client:
        (row,) = client.get("/", params={"type": 2, "dateFrom": LONG_AGO}).json()["Data"]["Messages"]
    assert row["CreatedAt"] == row["UpdatedAt"] == "2019-11-11T08:08:21.8072824+02:00"
    assert row["ReplyToMessageId"] is None


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("Incoming", ["Yes"]),
        ("2", ["Yes"]),
        ("Outgoing", [REMINDER["Text"]]),
        ("1", [REMINDER["Text"]]),
    ],
)
def test_type_is_a_name_or_a_number(api: httpx.Client, sandbox: Sandbox, kind: str, texts: list[str]) -> None:
    """Outgoing = 1, Incoming = 2; only messages of that type are listed, and none shows its ExternalKey."""
    api.post("/", json=REMINDER)
    sandbox.receive(sender="37000000002", recipient="37000000001", text="Yes")
    rows = api.get("/", params={"type": kind, "dateFrom": LONG_AGO}).json()["Data"]["Messages"]
    assert [row["Text"] for row in rows] == texts
    assert all("ExternalKey" not in row for row in rows)


@pytest.mark.parametrize("separator", ["%20", "+", "T"])
@pytest.mark.parametrize(
    ("date_from", "found"),
    [
        ("2019-11-11{}08:08:21.8072824", 1),
        ("2019-11-11{}08:08:21.8072825", 0),
        ("2019-11-11{}08:08:21.80728", 1),
        ("2019-11-11{}08:08:22", 0),
    ],
)
def test_date_from_is_inclusive_to_the_tick(
    api: httpx.Client, sandbox: Sandbox, date_from: str, found: int, separator: str
) -> None:
    """A message changed at dateFrom, in the server's wall clock, is listed, one tick earlier is not."""
    sandbox.receive(sender="37000000002", recipient="37000000001", text="Yes")
    response = api.get(f"/?type=Incoming&dateFrom={date_from.format(separator)}")
    assert len(response.json()["Data"]["Messages"]) == found


def test_faults_change_how_rows_are_listed(api: httpx.Client, sandbox: Sandbox) -> None:
    """Their order, their stamps, and each row for itself; the last one that says how stamps are written counts."""
    for text in "ABCDEFGH":
        sandbox.receive(sender="37000000002", recipient="37000000001", text=text)
    with sandbox.faults.during(Offsets("none"), Offsets("all"), Unsorted(), Duplicates()):
        rows = list_incoming(api)
    texts = [row["Text"] for row in rows]
    assert texts[::2] == texts[1::2] != sorted(texts[::2])
    assert sorted(texts[::2]) == list("ABCDEFGH")
    assert {row["CreatedAt"][-6:] for row in rows} == {"+02:00"}


def test_changed_message_comes_again_with_its_new_state() -> None:
    """A change moves UpdatedAt, by which messages are found and sorted, and leaves CreatedAt."""
    sandbox = Sandbox()
    first, second = (
        sandbox.receive(sender="37000000002", recipient="37000000001", text=text) for text in ("Yes", "No")
    )
    with sandbox.serve() as server, connect(server.url) as client:
        before = list_incoming(client)
        sandbox.set_state(first.id, "Seen")
        after = list_incoming(client)
        newest = list_incoming(client, after[1]["UpdatedAt"])
    assert [row["Id"] for row in before] == [first.id, second.id]
    assert [row["Id"] for row in after] == [second.id, first.id]
    assert newest == [after[1]]
    assert after[1] == before[0] | {"State": "Seen", "UpdatedAt": after[1]["UpdatedAt"]}
    assert after[1]["UpdatedAt"] > before[1]["UpdatedAt"]


def list_incoming(client: httpx.Client, date_from: str = LONG_AGO) -> list[dict[str, Any]]:
    """Return the incoming messages from `date_from` on."""
    rows: list[dict[str, Any]] = client.get("/", params={"type": "Incoming", "dateFrom": date_from}).json()[
        "Data"
    ]["Messages"]
    return rows


@pytest.mark.parametrize("query", ["", "type=", "type=incoming", "type=3", "type=Both&dateFrom=2019-11-12"])
def test_unknown_type_is_refused(api: httpx.Client, query: str) -> None:
    """Only the words and numbers of the specification are types."""
    message = assert_refused(api.get(f"/?{query}"), 400, "Bad Request", "Internal")
    assert message.startswith("type must be")


@pytest.mark.parametrize("query", ["", "&dateFrom=", "&dateFrom=yesterday", "&datefrom=2019-11-12 11:01:26"])
def test_date_that_cannot_be_read_is_refused(api: httpx.Client, query: str) -> None:
    """Without a date in the form of the specification nothing is listed."""
    message = assert_refused(api.get(f"/?type=Incoming{query}"), 400, "Bad Request", "Internal")
    assert message == "dateFrom must be yyyy-MM-dd HH:mm:ss.fffffff"


def test_hospital_numbers_are_listed(api: httpx.Client) -> None:
    """Numbers and sender names come with their ids, first those of the specification."""
    assert api.get("/?type=Numbers").json() == {
        "Data": {
            "ClientOperatorNumbers": [
                {"OperatorNumberId": 4, "Number": "37000000000"},
                {"OperatorNumberId": 7, "Number": "RSL_HOSP"},
                {"OperatorNumberId": 9, "Number": "37000000001"},
            ]
        },
        "Status": OK,
    }


def test_hospital_can_have_other_numbers() -> None:
    """`numbers` replaces the built-in ones, also for sending."""
    sandbox = Sandbox(numbers={"37000000009": 1})
    with sandbox.serve() as server, connect(server.url) as client:
        listed = client.get("/?type=Numbers").json()["Data"]["ClientOperatorNumbers"]
        assert client.post("/", json=REMINDER | {"From": "37000000009"}).status_code == 200
        assert client.post("/", json=REMINDER).status_code == 400
    assert listed == [{"OperatorNumberId": 1, "Number": "37000000009"}]


# Who may ask


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        "Bearer sandbox-token2",
        "sandbox-token",
        "Basic sandbox-token",
        "Bearer ąž".encode().decode("latin-1"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_wrong_token_is_unauthorized(
    api: httpx.Client, sandbox: Sandbox, method: str, authorization: str | None
) -> None:
    """Without the right bearer token nothing is done, and the answer asks for one."""
    del api.headers["Authorization"]
    headers = {} if authorization is None else {b"Authorization": authorization.encode("latin-1")}
    response = api.request(method, "/", headers=headers, json=REMINDER)
    assert_refused(response, 401, "Unauthorized", "Internal")
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert sandbox.messages == ()


def test_scheme_is_read_without_regard_to_case(api: httpx.Client) -> None:
    """HTTP names schemes without regard to case."""
    assert api.get("/?type=Numbers", headers={"Authorization": "bearer sandbox-token"}).status_code == 200


def test_static_token_can_be_another_or_none() -> None:
    """`token` sets the static token, and None leaves only those of the fake Azure AD."""
    with Sandbox(token="other").serve() as server:
        with connect(server.url, "other") as client:
            assert client.get("/?type=Numbers").status_code == 200
        with connect(server.url) as client:
            assert client.get("/?type=Numbers").status_code == 401
    with Sandbox(token=None).serve() as server, connect(server.url, "None") as client:
        assert client.get("/?type=Numbers").status_code == 401


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:8025"])
def test_loopback_names_are_served(api: httpx.Client, host: str) -> None:
    """The server answers to the names of loopback, whatever the port says."""
    assert api.get("/?type=Numbers", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.2",
        "::1",
        "[::1",
        "localhost:80:1",
    ],
)
@pytest.mark.parametrize("path", ["/?type=Numbers", "/sandbox/v2.0/.well-known/openid-configuration", "/nowhere"])
def test_other_names_are_forbidden(api: httpx.Client, path: str, host: str) -> None:
    """Under a name that is not its own the server does nothing, against DNS rebinding."""
    response = api.get(path, headers={"Host": host})
    assert_refused(response, 403, "Forbidden", "Internal")
    assert response.headers["Date"]


def test_request_without_host_is_forbidden(api: httpx.Client) -> None:
    """HTTP/1.0 knows requests without Host; they name nobody."""
    connection = http.client.HTTPConnection(api.base_url.host, api.base_url.port or 0)
    connection._http_vsn, connection._http_vsn_str = 10, "HTTP/1.0"  # type: ignore[attr-defined]
    try:
        connection.putrequest("GET", "/?type=Numbers", skip_host=True)
        connection.endheaders()
        assert connection.getresponse().status == 403
    finally:
        connection.close()


def test_further_names_can_be_allowed() -> None:
    """`allowed_hosts` lets clients in that know the server by another name."""
    with Sandbox().serve(allowed_hosts=["SMSServer"]) as server, connect(server.url) as client:
        assert client.get("/?type=Numbers", headers={"Host": "smsserver:8025"}).status_code == 200
        assert client.get("/?type=Numbers", headers={"Host": "smsserver2"}).status_code == 403


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ["localhost:8025", "127.0.0.1", "[::1]:8025", "LocalHost:8025"])
def test_own_pages_may_talk_to_the_server(api: httpx.Client, host: str, scheme: str) -> None:
    """An Origin that is the name the request came under passes, in any case, by http and https."""
    headers = {"Host": host, "Origin": f"{scheme}://{host.upper()}"}
    assert api.get("/?type=Numbers", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://localhost",
        "http://localhost:8026",
        "http://127.0.0.1:8025",
        "http://localhost:8025.evil.example",
        "http://localhost:8025/",
        "ftp://localhost:8025",
        "https://evil.example",
        "localhost:8025",
    ],
)
@pytest.mark.parametrize("path", ["/?type=Numbers", "/control/ready", "/phone/", "/nowhere"])
def test_pages_of_other_sites_are_forbidden(api: httpx.Client, path: str, origin: str) -> None:
    """An Origin of another host, port or scheme, or none that can be told, is refused everywhere."""
    response = api.get(path, headers={"Host": "localhost:8025", "Origin": origin})
    assert "Origin" in assert_refused(response, 403, "Forbidden", "Internal")


def test_one_good_origin_does_not_excuse_another(api: httpx.Client) -> None:
    """Each Origin header must be this server's."""
    headers = [("Host", "localhost"), ("Origin", "http://localhost"), ("Origin", "http://evil.example")]
    assert api.get("/?type=Numbers", headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("site", "mode", "status"),
    [
        ("cross-site", "no-cors", 403),
        ("same-site", "no-cors", 403),
        ("cross-site", "cors", 403),
        ("cross-site", "navigate", 200),
        ("same-origin", "cors", 200),
        ("none", "navigate", 200),
    ],
)
def test_other_sites_cannot_name_an_address_as_their_picture(
    api: httpx.Client, site: str, mode: str, status: int
) -> None:
    """Browsers send no Origin for pictures and scripts, but say that it is for another site; links may."""
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
    assert api.get("/control/ready", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/?type=Numbers"),
        ("GET", "/"),
        ("GET", "/nowhere"),
        ("PUT", "/"),
        ("GET", "/sandbox/v2.0/.well-known/openid-configuration"),
        ("POST", "/sandbox/oauth2/v2.0/token"),
        ("GET", "/control/ready"),
        ("GET", "/control/nowhere"),
        ("GET", "/phone/"),
        ("GET", "/phone/nowhere"),
    ],
)
@pytest.mark.parametrize("origin", [None, "https://evil.example"])
def test_every_answer_has_the_security_headers(
    api: httpx.Client, method: str, path: str, origin: str | None
) -> None:
    """Whatever is answered: no inline script, no frame, no guessing of types, nothing for other sites."""
    headers = api.request(method, path, headers={} if origin is None else {"Origin": origin}).headers
    (policy,) = headers.get_list("Content-Security-Policy")
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    assert parts["default-src"] == parts["frame-ancestors"] == parts["base-uri"] == "'none'"
    assert parts["script-src"] == parts["style-src"] == parts["connect-src"] == "'self'"
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in headers


BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def test_browser_is_led_to_the_page(api: httpx.Client, sandbox: Sandbox) -> None:
    """Whoever opens the server's address in a browser gets the phone, and the journal nothing."""
    response = api.get("/", headers=BROWSER)
    assert (response.status_code, response.headers["Location"]) == (303, "/phone/")
    assert api.get(response.headers["Location"], headers=BROWSER).headers["Content-Type"].startswith("text/html")
    assert list(sandbox.journal) == []


@pytest.mark.parametrize(
    ("method", "query", "headers"),
    [
        ("GET", "", {"Accept": "application/json"}),
        ("GET", "", {"Accept": "*/*"}),
        ("GET", "?type=Numbers", BROWSER),
        ("GET", "?type=", BROWSER),
        ("POST", "", BROWSER),
        ("HEAD", "", BROWSER),
    ],
)
def test_requests_of_the_api_are_never_led_elsewhere(
    api: httpx.Client, method: str, query: str, headers: dict[str, str]
) -> None:
    """A request that does not ask for HTML, or has a type, or is no GET, is the API's."""
    response = api.request(method, f"/{query}", headers=headers)
    assert response.status_code in (200, 400)
    assert response.headers["Content-Type"] == "application/json"


# The rest of HTTP


def test_other_addresses_and_methods_get_an_envelope(api: httpx.Client) -> None:
    """Also what does not exist is answered in the form of the specification."""
    assert_refused(api.get("/nowhere"), 404, "Not Found", "Internal")
    response = api.put("/", json=REMINDER)
    assert_refused(response, 405, "Method Not Allowed", "Internal")
    assert "POST" in response.headers["Allow"]


def test_what_the_page_lacks_is_no_business_of_the_journal(api: httpx.Client, sandbox: Sandbox) -> None:
    """Below the page an unknown address is a plain 404, which no strict test hears of."""
    response = api.get("/phone/nowhere")
    assert (response.status_code, response.text) == (404, "Not Found")
    assert sandbox.unexpected() == []


def test_date_header_follows_the_clock() -> None:
    """There is one Date header, and it tells the sandbox's time, also after the clock was moved."""
    clock = SandboxClock()
    clock.freeze()
    clock.set(datetime(2019, 10, 27, 0, 59, 59, 999_999, tzinfo=UTC))
    with Sandbox(clock=clock).serve() as server, connect(server.url) as client:
        before = client.get("/?type=Numbers")
        clock.advance(3600)
        after = client.get("/nowhere")
    assert before.headers.get_list("Date") == ["Sun, 27 Oct 2019 00:59:59 GMT"]
    assert after.headers.get_list("Date") == ["Sun, 27 Oct 2019 01:59:59 GMT"]


def test_server_does_not_say_what_it_is_made_of(api: httpx.Client) -> None:
    """There is no Server header."""
    assert "Server" not in api.get("/?type=Numbers").headers


def test_patient_answers_over_the_wire() -> None:
    """A reminder that was posted is answered by the scripted patient when its time has come."""
    clock = SandboxClock()
    sandbox = Sandbox(patients={"37000000002": "Yes"}, answer_after=2, clock=clock)
    with sandbox.serve() as server, connect(server.url) as client:
        reminder = client.post("/", json=REMINDER).json()["Data"]["Id"]
        assert list_incoming(client) == []
        clock.advance(2)
        (reply,) = list_incoming(client)
    assert (reply["From"], reply["To"], reply["Text"]) == ("37000000002", "37000000001", "Yes")
    assert reply["ReplyToMessageId"] == reminder


def test_rule_with_a_bug_is_an_internal_server_error(caplog: pytest.LogCaptureFixture) -> None:
    """An error in a patient's rule is HTTP 500 with an envelope, and the log has the traceback."""

    def rule(reminder: SandboxMessage) -> str:
        raise RuntimeError("a bug")

    sandbox = Sandbox(patients={"37000000002": rule})
    with sandbox.serve() as server, connect(server.url) as client:
        response = client.post("/", json=REMINDER)
        assert_refused(response, 500, "Internal Server Error", "Internal")
        assert client.get("/?type=Numbers").status_code == 200
    assert "RuntimeError: a bug" in caplog.text


def test_client_that_hangs_up_is_no_bug(
    api: httpx.Client, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """A request that is cut in the middle of its body does nothing, and is no error in the log."""
    connection = http.client.HTTPConnection(api.base_url.host, api.base_url.port or 0)
    connection.putrequest("POST", "/")
    connection.putheader("Authorization", "Bearer sandbox-token")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b'{"Id": null,')
    connection.close()
    assert api.get("/?type=Numbers").status_code == 200
    assert sandbox.messages == ()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_nothing_is_logged_about_messages(caplog: pytest.LogCaptureFixture) -> None:
    """At no level does a log record of the server hold a number, a text, a key or a token."""
    with caplog.at_level(logging.DEBUG), Sandbox().serve() as server:
        caplog.set_level(logging.CRITICAL, "httpx")
        caplog.set_level(logging.CRITICAL, "httpcore")
        with connect(server.url) as client:
            client.post("/", json=REMINDER)
            client.get(f"/?type=Incoming&dateFrom={quote(LONG_AGO)}")
            client.post("/", json=REMINDER | {"To": "nobody"}, headers={"Authorization": "Bearer secret"})
    assert not re.search("3700000|SURNAME|27342|sandbox-token|secret|nobody|GET|POST", caplog.text)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_app_answers_without_a_server(backend: str) -> None:
    """`sandbox.app` is an ASGI application for httpx, on either event loop; the Host check holds."""
    sandbox = Sandbox(clock=lambda: EXAMPLE_TICKS)

    async def converse() -> None:
        transport = httpx.ASGITransport(sandbox.app)
        headers = {"Authorization": "Bearer sandbox-token"}
        async with httpx.AsyncClient(transport=transport, headers=headers) as client:
            response = await client.post("http://localhost/", json=REMINDER)
            assert response.json()["Data"]["CreatedAt"] == "2019-11-11T08:08:21.8072824+02:00"
            assert response.headers["Date"] == "Mon, 11 Nov 2019 06:08:21 GMT"
            assert (await client.get("http://smsserver/?type=Numbers")).status_code == 403

    anyio.run(converse, backend=backend)
    assert len(sandbox.sent) == 1


def test_app_passes_on_what_is_not_http() -> None:
    """An ASGI server that announces its start and end finds the application ready for that."""
    sent: list[Any] = []
    events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Any:
        return next(events)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    anyio.run(create_app(Sandbox()), {"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
