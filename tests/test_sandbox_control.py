"""The stand-in's control API, over real HTTP."""

import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from waiting import until, waits

from his_sms_async.sandbox import RunningSandbox, Sandbox, SandboxClock
from his_sms_async.sandbox.faults import Status

HOSPITAL = "37000000001"
PATIENT = "37000000002"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningSandbox]:
    """Serve a sandbox whose clock the tests move."""
    with Sandbox(magic_numbers=False).serve() as server:
        yield server


@pytest.fixture
def sandbox(server: RunningSandbox) -> Sandbox:
    """Return the sandbox that is served, as new, at the real time."""
    server.sandbox.settable_clock.reset()
    server.sandbox.reset()
    return server.sandbox


@pytest.fixture
def control(server: RunningSandbox, sandbox: Sandbox) -> Iterator[httpx.Client]:
    """Return a client of the control API, which needs no token."""
    with httpx.Client(base_url=f"{server.url}/control", verify=False, trust_env=False) as client:
        yield client


def remind(sandbox: Sandbox, recipient: str = PATIENT, text: str = "Will You come?", key: int = 27342) -> int:
    """Send a reminder and return its Id."""
    return sandbox.send(sender=HOSPITAL, recipient=recipient, text=text, external_key=key).id


def answer(response: httpx.Response) -> Any:
    """Return the JSON of a good answer."""
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "application/json"
    return response.json()


def complaint(response: httpx.Response, status: int = 400) -> str:
    """Return the text of a refusal, which is all that there is in it."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"error"}
    return str(body["error"])


def test_server_is_ready_as_soon_as_it_answers(control: httpx.Client) -> None:
    """What waits for a container to come up asks this."""
    assert answer(control.get("/ready")) == {"status": "ready"}


# Messages


def test_messages_are_listed_with_all_their_fields(control: httpx.Client, sandbox: Sandbox) -> None:
    """Oldest first, whatever type, with the fields that a seed takes."""
    reminder = remind(sandbox)
    sandbox.receive(sender=PATIENT, recipient=HOSPITAL, text="Yes", reply_to=reminder)
    first, second = answer(control.get("/messages"))
    assert first == {
        "id": 1,
        "type": "Outgoing",
        "sender": HOSPITAL,
        "recipient": PATIENT,
        "text": "Will You come?",
        "state": "Delivered",
        "created_ticks": sandbox.sent[0].created_ticks,
        "updated_ticks": sandbox.sent[0].updated_ticks,
        "reply_to_id": None,
        "external_key": 27342,
    }
    assert (second["type"], second["text"], second["reply_to_id"]) == ("Incoming", "Yes", 1)
    assert Sandbox(seed=[first, second]).messages == sandbox.messages


@pytest.mark.parametrize("number", [PATIENT, f"+{PATIENT}", f"%2B{PATIENT}"])
def test_messages_of_one_number_can_be_listed(control: httpx.Client, sandbox: Sandbox, number: str) -> None:
    """`number` picks what it sent and got, with or without plus."""
    remind(sandbox)
    remind(sandbox, recipient=f"+{PATIENT}")
    remind(sandbox, recipient="37000000003")
    sandbox.receive(sender=PATIENT, recipient=HOSPITAL, text="Yes")
    assert [message["id"] for message in answer(control.get(f"/messages?number={number}"))] == [1, 2, 4]


def test_patient_writes(control: httpx.Client, sandbox: Sandbox) -> None:
    """A patient writes to the hospital, unprompted or as a reply, to the number given or the fitting one."""
    reminder = sandbox.send(sender="37000000000", recipient=PATIENT, text="?", external_key=1)
    written = answer(control.post("/messages", json={"from": PATIENT, "text": "Hello"}))
    reply = answer(control.post("/messages", json={"from": PATIENT, "text": "Yes", "reply_to": reminder.id}))
    chosen = answer(control.post("/messages", json={"from": PATIENT, "text": "Yes", "to": HOSPITAL}))
    assert (written["sender"], written["recipient"], written["reply_to_id"]) == (PATIENT, "37000000000", None)
    assert (reply["recipient"], reply["reply_to_id"]) == (reminder.sender, reminder.id)
    assert (chosen["recipient"], chosen["text"]) == (HOSPITAL, "Yes")
    assert [message.text for message in sandbox.received] == ["Hello", "Yes", "Yes"]


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({}, 400, "from is missing"),
        ({"from": PATIENT}, 400, "text is missing"),
        ({"from": 37000000002, "text": "Yes"}, 400, "from must be a text"),
        ({"from": PATIENT, "text": None}, 400, "text must be a text"),
        ({"from": PATIENT, "text": "Yes", "reply_to": "1"}, 400, "reply_to must be an integer"),
        ({"from": PATIENT, "text": "Yes", "reply_to": True}, 400, "reply_to must be an integer"),
        ({"from": PATIENT, "text": "Yes", "reply_to": 1.0}, 400, "reply_to must be an integer"),
        ({"from": PATIENT, "text": "Yes", "reply_to": 7}, 404, "there is no message 7"),
        (
            {"from": PATIENT, "text": "Yes", "too": "x"},
            400,
            "there is no 'too' here, but from, text, to, reply_to",
        ),
        (
            {"from": "the ward", "text": "Yes"},
            400,
            "a patient has a phone number: 7 to 15 digits, with or without a plus; * is everyone else",
        ),
        ({"from": "*", "text": "Yes"}, 400, "the sender is not a phone number"),
        (
            {"from": PATIENT, "text": "Yes", "to": PATIENT},
            400,
            "the recipient is not one of the hospital's numbers",
        ),
    ],
)
def test_what_no_patient_can_write_is_refused(
    control: httpx.Client, sandbox: Sandbox, body: dict[str, Any], status: int, error: str
) -> None:
    """The answer says which field is wrong, and no message is made."""
    assert complaint(control.post("/messages", json=body), status) == error
    assert sandbox.messages == ()


@pytest.mark.parametrize(
    ("headers", "content", "error"),
    [
        ({}, "{}", "the Content-Type must be application/json"),
        ({"Content-Type": "text/plain"}, "{}", "the Content-Type must be application/json"),
        (
            {"Content-Type": "application/x-www-form-urlencoded"},
            "a=b",
            "the Content-Type must be application/json",
        ),
        (JSON, "{", "the body is not JSON"),
        (JSON, "\xff", "the body is not JSON"),
        (JSON, "[" * 100_000, "the body is not JSON"),
        (JSON, '{"advance": NaN}', "the body is not JSON"),
        (JSON, '{"advance": -Infinity}', "the body is not JSON"),
        (JSON, '{"advance": 1e999}', "the body is not JSON"),
        (JSON, "[]", "the body must be an object"),
        (JSON, "null", "the body must be an object"),
        (JSON, r'{"\ud800": 1}', "the body has half a surrogate pair, which no encoding can write"),
        (JSON, r'{"state": "\ud800"}', "the body has half a surrogate pair, which no encoding can write"),
    ],
)
def test_body_that_is_no_json_object_is_refused(
    control: httpx.Client, headers: dict[str, str], content: str, error: str
) -> None:
    """JSON only is read, and only if the header says so: a form of another page cannot say that."""
    response = control.post("/clock", headers=headers, content=content.encode("latin-1"))
    assert complaint(response) == error


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/messages"),
        ("POST", "/messages/1"),
        ("POST", f"/patients/{PATIENT}"),
        ("POST", "/faults"),
        ("DELETE", "/faults"),
        ("POST", "/reset"),
        ("DELETE", "/journal"),
        ("GET", "/messages"),
    ],
)
def test_no_route_reads_what_is_not_said_to_be_json(control: httpx.Client, method: str, path: str) -> None:
    """Also those that need no body."""
    response = control.request(method, path, content=b"{}")
    assert complaint(response) == "the Content-Type must be application/json"


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_content_type_may_have_parameters(control: httpx.Client, kind: str) -> None:
    """What other languages' clients add is borne."""
    assert answer(control.post("/reset", headers={"Content-Type": kind}, content=b"{}")) == {}


def test_state_can_be_changed_to_any_word(control: httpx.Client, sandbox: Sandbox) -> None:
    """The new state moves the message's UpdatedAt."""
    reminder = remind(sandbox)
    before = sandbox.sent[0]
    changed = answer(control.post(f"/messages/{reminder}", json={"state": "Teleported"}))
    assert changed["state"] == "Teleported"
    assert changed["updated_ticks"] > before.updated_ticks


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/messages/7", {"state": "Seen"}, 404, "there is no message 7"),
        ("/messages/1", {}, 400, "state is missing"),
        ("/messages/1", {"state": 5}, 400, "state must be a text"),
        ("/messages/one", {"state": "Seen"}, 404, "there is no such address"),
    ],
)
def test_state_that_cannot_be_changed_is_explained(
    control: httpx.Client, sandbox: Sandbox, path: str, body: dict[str, Any], status: int, error: str
) -> None:
    """A wrong Id is 404, a wrong field 400."""
    remind(sandbox)
    assert complaint(control.post(path, json=body), status) == error
    assert sandbox.sent[0].state == "Delivered"


# Waiting


def test_waiting_returns_what_was_sent_once(control: httpx.Client, sandbox: Sandbox) -> None:
    """Each SMS is returned to one who waits, oldest first."""
    first, second = remind(sandbox), remind(sandbox)
    assert answer(control.get("/messages/wait"))["id"] == first
    assert answer(control.get("/messages/wait", params={"timeout": 0}))["id"] == second
    assert "(returned before)" in complaint(control.get("/messages/wait", params={"timeout": "0"}), 404)


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"to": "37000000003"}, 2),
        ({"to": "+37000000003"}, 2),
        ({"text": "third"}, 3),
        ({"external_key": "3"}, 3),
        ({"to": "37000000003", "text": "second", "external_key": "2"}, 2),
    ],
)
def test_waiting_can_be_for_one_message(
    control: httpx.Client, sandbox: Sandbox, params: dict[str, str], found: int
) -> None:
    """By recipient, a part of the text, ExternalKey, or all of them."""
    for key, (recipient, text) in enumerate(
        [(PATIENT, "first"), ("37000000003", "second"), (PATIENT, "third")], 1
    ):
        remind(sandbox, recipient, text, key)
    assert answer(control.get("/messages/wait", params=params))["id"] == found


def test_waiting_ends_when_the_message_is_sent(control: httpx.Client, sandbox: Sandbox) -> None:
    """A request that waits is answered as soon as the hospital sends."""
    answers: list[Any] = []
    waiter = threading.Thread(target=lambda: answers.append(answer(control.get("/messages/wait?timeout=50"))))
    waiter.start()
    until(lambda: waits(sandbox) == 1)
    assert answers == []
    reminder = remind(sandbox)
    waiter.join(20)
    assert [message["id"] for message in answers] == [reminder]


def test_many_can_wait_and_the_server_still_answers(server: RunningSandbox, sandbox: Sandbox) -> None:
    """Waiting takes no worker thread: with sixty that wait, other calls are answered."""
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=f"{server.url}/control", verify=False, trust_env=False, limits=limits) as control:
        waiters = [
            threading.Thread(target=control.get, args=("/messages/wait",), kwargs={"params": {"timeout": 50}})
            for _ in range(60)
        ]
        for waiter in waiters:
            waiter.start()
        until(lambda: waits(sandbox) == 60)
        assert answer(control.get("/messages")) == []
        for _ in waiters:
            remind(sandbox)
        for waiter in waiters:
            waiter.join(20)
    assert not any(waiter.is_alive() for waiter in waiters)


def test_client_that_hangs_up_does_not_take_the_message_along(
    control: httpx.Client, sandbox: Sandbox, server: RunningSandbox
) -> None:
    """What arrives after a client gave up is for its next attempt."""
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /control/messages/wait?timeout=50 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: waits(sandbox) == 1)
    until(lambda: waits(sandbox) == 0)
    reminder = remind(sandbox)
    assert answer(control.get("/messages/wait"))["id"] == reminder


def test_waiting_in_vain_lists_what_did_arrive(control: httpx.Client, sandbox: Sandbox) -> None:
    """404 shows what was wanted and all that came, so the reason can be seen."""
    remind(sandbox, text="Will You\ncome?")
    params: dict[str, str | int] = {"to": "37000000003", "text": "Will", "external_key": 5, "timeout": 0}
    assert complaint(control.get("/messages/wait", params=params), 404).splitlines() == [
        "no SMS to '37000000003', text 'Will', external_key 5 arrived within 0 s; what did arrive:",
        f"  message 1 to {PATIENT}, external_key 27342: 'Will You\\ncome?'",
    ]


def test_waiting_in_vain_takes_as_long_as_it_should(control: httpx.Client) -> None:
    """The timeout is real seconds, and in the text."""
    text = complaint(control.get("/messages/wait?timeout=0.01"), 404)
    assert text == "no SMS at all arrived within 0.01 s; what did arrive: nothing"


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("timeout=soon", "timeout must be a number"),
        ("timeout=", "timeout must be a number"),
        ("timeout=nan", "timeout must be a number"),
        ("timeout=1e999", "timeout must be a number"),
        ("external_key=x", "external_key must be an integer"),
        ("external_key=27342.5", "external_key must be an integer"),
        (f"external_key={'9' * 5000}", "external_key must be an integer"),
    ],
)
def test_waiting_for_nonsense_is_refused_at_once(control: httpx.Client, query: str, error: str) -> None:
    """Numbers must be such."""
    assert complaint(control.get(f"/messages/wait?{query}")) == error


def test_waiting_has_a_longest_time(control: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request waits longer than the limit, whatever it asks for."""
    monkeypatch.setattr("his_sms_async.sandbox._control._LONGEST_WAIT", 0.01)
    assert "within 0.01 s" in complaint(control.get("/messages/wait?timeout=3600"), 404)


# Patients


def test_patient_is_told_what_to_do(control: httpx.Client, sandbox: Sandbox) -> None:
    """`replies` and `receives` hold for the SMS that come, with `after` seconds of the server's clock for both."""
    sandbox.settable_clock.freeze()
    told = {"replies": "Yes", "receives": ["Enroute", "Delivered"], "after": 60}
    assert answer(control.post(f"/patients/{PATIENT}", json=told)) == {}
    remind(sandbox)
    assert (sandbox.sent[0].state, sandbox.received) == ("Enroute", ())
    assert answer(control.post("/clock", json={"advance": 60}))["is_frozen"]
    assert sandbox.sent[0].state == "Delivered"
    assert [message.text for message in sandbox.received] == ["Yes"]


def test_everyone_else_and_silence(control: httpx.Client, sandbox: Sandbox) -> None:
    """``*`` is whoever was told nothing; `silent` is an order of its own, and false is none."""
    assert answer(control.post("/patients/*", json={"replies": "No"})) == {}
    assert answer(control.post(f"/patients/{PATIENT}", json={"silent": True})) == {}
    assert answer(control.post("/patients/37000000003", json={"silent": False, "replies": "Yes"})) == {}
    for recipient in (PATIENT, "37000000003", "37000000004"):
        remind(sandbox, recipient)
    assert [message.text for message in sandbox.received] == ["Yes", "No"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"reply": "Yes"}, "there is no 'reply' here, but replies, after, silent, receives"),
        ({"replies": None}, "replies must be a text"),
        ({"replies": "No", "after": "soon"}, "after must be a number"),
        ({"replies": "No", "after": True}, "after must be a number"),
        ({"replies": "No", "after": -1}, "after must be a number of seconds from 0 to 1000000000"),
        ({"replies": "No", "after": 10**400}, "after must be a number of seconds from 0 to 1000000000"),
        ({"replies": "No", "silent": 1}, "silent must be true or false"),
        ({"replies": "No", "silent": True}, "a patient either replies or is silent"),
        ({"replies": "No", "receives": "Delivered"}, "receives must be a list"),
        ({"replies": "No", "receives": ["Enroute", 5]}, "receives must be a list of states"),
        ({"replies": "No", "receives": []}, "an SMS needs at least one state"),
    ],
)
def test_order_that_is_wrong_changes_nothing(
    control: httpx.Client, sandbox: Sandbox, body: dict[str, Any], error: str
) -> None:
    """A refused order is refused as a whole."""
    assert complaint(control.post(f"/patients/{PATIENT}", json=body)) == error
    remind(sandbox)
    assert sandbox.received == ()
    assert sandbox.sent[0].state == "Delivered"


# Faults


def test_faults_are_switched_on_listed_and_off(control: httpx.Client, sandbox: Sandbox) -> None:
    """What is on is listed with how often it struck, and goes by its id or with all others."""
    first = answer(control.post("/faults", json={"kind": "status", "status": 429, "times": 3}))["id"]
    second = answer(control.post("/faults", json={"kind": "unsorted"}))["id"]
    listed = {fault["id"]: fault for fault in answer(control.get("/faults"))}
    assert list(listed) == [first, second]
    assert (listed[first]["kind"], listed[first]["status"], listed[first]["times"]) == ("status", 429, 3)
    assert (listed[first]["struck"], listed[first]["left"], listed[second]["left"]) == (0, 3, None)
    assert answer(control.delete(f"/faults/{first}")) == {}
    assert [switch.id for switch in sandbox.faults] == [second]
    assert answer(control.delete("/faults")) == {}
    assert len(sandbox.faults) == 0


def test_what_happens_once_has_no_id(control: httpx.Client, sandbox: Sandbox) -> None:
    """A happening has happened when the answer comes, and there is nothing to switch off."""
    assert answer(control.post("/faults", json={"kind": "backlog", "count": 5})) == {"id": None}
    assert len(sandbox.received) == 5


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "kind must be one of "),
        ({"kind": "mistake"}, "kind must be one of "),
        ({"kind": "status", "code": 503}, "status has no option 'code', but "),
        ({"kind": "status", "status": "503"}, "status of status must be "),
    ],
)
def test_unknown_fault_is_explained(control: httpx.Client, body: dict[str, Any], error: str) -> None:
    """The answer tells the kinds and options that there are."""
    assert complaint(control.post("/faults", json=body)).startswith(error)


def test_fault_that_is_not_on_cannot_be_switched_off(control: httpx.Client) -> None:
    """A wrong id is 404."""
    assert complaint(control.delete("/faults/7"), 404) == "there is no fault 7"


def test_refuse_is_answered_before_the_door_is_shut(control: httpx.Client, sandbox: Sandbox) -> None:
    """Who has connections refused hears that it is so; afterwards, nobody is let in until the time is over."""
    assert answer(control.post("/faults", json={"kind": "refuse", "seconds": None}))["id"]
    with pytest.raises(httpx.TransportError):
        control.get("/ready")  # perhaps by the old connection, which is being closed
    with pytest.raises(httpx.ConnectError):
        control.get("/ready")
    sandbox.faults.clear()
    assert answer(control.get("/ready"))


# The clock


def test_clock_is_told_and_moved(control: httpx.Client, sandbox: Sandbox) -> None:
    """It can be frozen, set to an instant with any offset, advanced, and let go, each answered with the time."""
    told = answer(control.get("/clock"))
    assert (told["timezone"], told["is_frozen"]) == ("Europe/Vilnius", False)
    assert abs(datetime.fromisoformat(told["now"]) - datetime.now(UTC)).total_seconds() < 60
    night = "2026-10-25T02:50:00+02:00"
    assert answer(control.post("/clock", json={"freeze": True, "set": night})) == {
        "now": "2026-10-25T00:50:00Z",
        "timezone": "Europe/Vilnius",
        "is_frozen": True,
    }
    assert answer(control.post("/clock", json={"advance": -0.5}))["now"] == "2026-10-25T00:49:59.500000Z"
    assert answer(control.post("/clock", json={"advance": 3600}))["now"] == "2026-10-25T01:49:59.500000Z"
    assert not answer(control.post("/clock", json={"freeze": False}))["is_frozen"]
    reset = answer(control.post("/clock", json={"reset": True}))
    assert abs(datetime.fromisoformat(reset["now"]) - datetime.now(UTC)).total_seconds() < 60
    assert answer(control.post("/clock", json={"reset": False}))


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"set": "noon"}, "set must be an instant like 2026-10-25T00:50:00Z"),
        ({"set": "2026-10-25T00:50:00"}, "set must have an offset from UTC, like 2026-10-25T00:50:00Z"),
        ({"set": "0001-01-01T00:00:00Z"}, "the clock must stay in the years from 1 to 9999"),
        ({"set": 0}, "set must be a text"),
        ({"advance": "1"}, "advance must be a number"),
        ({"advance": 1e300}, "the clock must stay in the years from 1 to 9999"),
        ({"advance": -1e11}, "the clock must stay in the years from 1 to 9999"),
        ({"freeze": 1}, "freeze must be true or false"),
        ({"reset": "yes"}, "reset must be true or false"),
        ({"forward": 1}, "there is no 'forward' here, but set, advance, freeze, reset"),
        ({"reset": True, "set": "noon"}, "set must be an instant like 2026-10-25T00:50:00Z"),
    ],
)
def test_clock_cannot_be_set_to_nonsense(
    control: httpx.Client, sandbox: Sandbox, body: dict[str, Any], error: str
) -> None:
    """The clock stays as it was, in the years that have a date, and the server goes on answering."""
    sandbox.settable_clock.freeze()
    before = sandbox.clock()
    assert complaint(control.post("/clock", json=body)) == error
    assert sandbox.clock() == before


def test_clock_of_the_caller_is_told_and_not_moved() -> None:
    """A sandbox that was given another clock says so."""
    fixed = SandboxClock()
    fixed.set(datetime(2026, 10, 25, tzinfo=UTC))
    now = fixed()
    with Sandbox(clock=lambda: now).serve() as server, httpx.Client(verify=False, trust_env=False) as client:
        url = f"{server.url}/control/clock"
        assert answer(client.get(url))["now"].startswith("2026-10-25T00:00:00")
        refused = complaint(client.post(url, json={"advance": 1}))
        assert refused == "this sandbox was given a clock that cannot be set from here"
        assert complaint(client.post(f"{server.url}/control/faults", json={"kind": "clock-step"})) == refused


def test_moved_clock_is_a_change(control: httpx.Client, sandbox: Sandbox) -> None:
    """Open pages hear of it."""
    before = sandbox.changes.count
    control.post("/clock", json={"advance": 1})
    assert sandbox.changes.count > before


# Journal and reset


def test_journal_is_listed_and_cleared(control: httpx.Client, sandbox: Sandbox, server: RunningSandbox) -> None:
    """The requests to the API are there, those to the control API are not."""
    token = {"Authorization": "Bearer sandbox-token"}
    with httpx.Client(base_url=server.url, verify=False, trust_env=False) as client:
        client.get("/?type=Numbers", headers=token)
        client.get("/?type=Numbers")
    first, second = answer(control.get("/journal"))
    assert datetime.fromisoformat(first.pop("at")).tzinfo is not None
    assert first.pop("seconds") >= 0
    assert first == {
        "id": first["id"],
        "method": "GET",
        "target": "/?type=Numbers",
        "authorization": "Bearer ***",
        "content_type": "",
        "body": "",
        "status": 200,
        "outcome": "",
        "faults": [],
        "is_understood": True,
    }
    assert (second["status"], second["is_understood"]) == (401, False)
    assert answer(control.delete("/journal")) == {}
    assert answer(control.get("/journal")) == []


def test_reset_makes_all_as_new(control: httpx.Client, sandbox: Sandbox) -> None:
    """Messages, orders, faults and journal are gone."""
    sandbox.patient(PATIENT).replies("Yes")
    sandbox.faults.add(Status(503))
    remind(sandbox)
    assert answer(control.post("/reset")) == {}
    assert (sandbox.messages, len(sandbox.faults), list(sandbox.journal)) == ((), 0, [])
    remind(sandbox)
    assert sandbox.received == ()


# HTTP


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/nowhere", 404, "Not Found"),
        ("GET", "/", 404, "Not Found"),
        ("PUT", "/messages", 405, "Method Not Allowed"),
        ("DELETE", "/clock", 405, "Method Not Allowed"),
        ("POST", "/ready", 405, "Method Not Allowed"),
    ],
)
def test_other_addresses_and_methods_are_explained(
    control: httpx.Client, sandbox: Sandbox, method: str, path: str, status: int, error: str
) -> None:
    """In the form of the control API, and no strict test hears of it."""
    assert complaint(control.request(method, path), status) == error
    assert sandbox.unexpected() == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/reset"), ("DELETE", "/faults"), ("GET", "/messages"), ("GET", "/messages/wait")],
)
def test_page_of_another_site_cannot_control(
    control: httpx.Client, sandbox: Sandbox, method: str, path: str
) -> None:
    """A browser says whose page sends a request: with another Origin nothing is done."""
    remind(sandbox)
    response = control.request(method, path, headers={"Origin": "https://evil.example"})
    assert response.status_code == 403
    assert "Origin" in response.text
    assert len(sandbox.sent) == 1
    assert answer(control.get("/messages/wait?timeout=0"))["id"] == 1


def test_texts_of_any_kind_come_through(control: httpx.Client) -> None:
    """JSON of the answer is JSON, whatever was written."""
    text = 'Ąž 👍 "\\ </script> \0\n'
    assert answer(control.post("/messages", json={"from": PATIENT, "text": text}))["text"] == text
    assert json.loads(control.get("/messages").content)[0]["text"] == text
