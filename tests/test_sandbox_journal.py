"""The stand-in's request journal: bounded, without secrets, and each request to be repeated with curl."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlencode

import httpx
import pytest
from waiting import in_hand, until

from his_sms_async.sandbox import Exchange, RunningSandbox, Sandbox
from his_sms_async.sandbox._journal import Journal
from his_sms_async.sandbox.faults import Latency, Reset, Status

AUTHORIZED = {"Authorization": "Bearer sandbox-token"}
FORM = {
    "grant_type": "client_credentials",
    "client_id": "his",
    "client_secret": "sandbox-secret",
    "scope": "api://sandbox/.default",
}
TOKEN_PATH = "/sandbox/oauth2/v2.0/token"
REMINDER = {"Id": None, "From": "37000000001", "To": "37000000002", "Text": "Will You come?", "ExternalKey": 1}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningSandbox]:
    """Serve a sandbox."""
    with Sandbox().serve() as server:
        yield server


@pytest.fixture
def sandbox(server: RunningSandbox) -> Sandbox:
    """Return the sandbox that is served, as new."""
    server.sandbox.reset()
    return server.sandbox


@pytest.fixture
def client(server: RunningSandbox, sandbox: Sandbox) -> Iterator[httpx.Client]:
    """Return a client without a token."""
    with httpx.Client(base_url=server.url, verify=False, trust_env=False) as client:
        yield client


def noted(
    body: bytes = b"", *, target: str = "/", method: str = "POST", headers: Mapping[str, str] | None = None
) -> Exchange:
    """Return what a journal notes of a request."""
    journal = Journal(lambda: None)
    return journal.begin(at=0, method=method, target=target, headers=headers or {}, body=body)


def test_request_is_noted_with_its_answer(client: httpx.Client, sandbox: Sandbox) -> None:
    """Method, address as it was sent, body, status, and how long it took."""
    client.post("/", json=REMINDER, headers=AUTHORIZED)
    client.get("/?type=Incoming&dateFrom=2019-11-12%2011:01:51", headers=AUTHORIZED)
    sent, listed = sandbox.journal
    assert (sent.method, sent.target, sent.status, sent.outcome) == ("POST", "/", 200, "")
    assert json.loads(sent.body) == REMINDER
    assert sent.content_type == "application/json"
    assert sent.seconds is not None
    assert 0 <= sent.seconds < 50
    assert (listed.target, listed.body) == ("/?type=Incoming&dateFrom=2019-11-12%2011:01:51", "")
    assert abs(sent.at - sandbox.clock()) < 600 * 10_000_000
    assert sent.id < listed.id


def test_refused_requests_say_why(client: httpx.Client, sandbox: Sandbox) -> None:
    """What the stand-in refuses by itself is marked, with the reason and without what was sent."""
    client.post("/", json=REMINDER)
    client.post("/", json=REMINDER | {"From": "37099999999"}, headers=AUTHORIZED)
    client.get("/nowhere/a%20b?c=d")
    client.put("/")
    client.post(TOKEN_PATH, data=FORM | {"client_secret": "wrong"})
    assert [(one.status, one.outcome, one.is_understood) for one in sandbox.journal] == [
        (401, "the bearer token is missing or not accepted", False),
        (400, "From is not one of the hospital's numbers", False),
        (404, "Not Found", False),
        (405, "Method Not Allowed", False),
        (401, "the fake Azure AD refused it", False),
    ]
    assert [one.target for one in sandbox.journal][2] == "/nowhere/a%20b?c=d"


def test_faults_that_struck_are_named(client: httpx.Client, sandbox: Sandbox) -> None:
    """A request that a fault answered was understood; one that got no HTTP has no status."""
    with sandbox.faults.during(Status(503)):
        client.get("/?type=Numbers", headers=AUTHORIZED)
    with sandbox.faults.during(Reset()), pytest.raises(httpx.TransportError):
        client.get("/?type=Numbers", headers=AUTHORIZED)
    with sandbox.faults.during(Reset(taken=True)), pytest.raises(httpx.TransportError):
        client.get("/?type=Numbers")
    first, second, third = sandbox.journal
    assert (first.status, first.faults, first.is_understood) == (503, ("status",), True)
    assert (second.status, second.faults, second.is_understood) == (None, ("reset",), True)
    assert (third.status, third.is_understood) == (None, False)


def test_request_under_way_has_taken_no_time_yet(server: RunningSandbox, sandbox: Sandbox) -> None:
    """While it is not answered, `seconds` is None, and the entry is there already."""
    with sandbox.faults.during(Latency(seconds=600)), in_hand(server):
        until(lambda: len(list(sandbox.journal)) == 1)
        (under_way,) = sandbox.journal
        assert under_way.seconds is None
    until(lambda: next(iter(sandbox.journal)).seconds is not None)
    (done,) = sandbox.journal
    assert done.id == under_way.id
    assert done.seconds is not None
    assert done.seconds < 600


def test_failure_of_the_stand_in_is_noted(client: httpx.Client, sandbox: Sandbox) -> None:
    """An error in a rule is the stand-in's, and the journal does not repeat it."""

    def rule(reminder: Any) -> str:
        raise RuntimeError("a bug")

    sandbox.patient("37000000002").replies(rule)
    client.post("/", json=REMINDER, headers=AUTHORIZED)
    (one,) = sandbox.journal
    assert (one.status, one.outcome) == (500, "the stand-in failed; its log says how")


def test_only_the_last_five_hundred_are_kept() -> None:
    """A journal does not grow without bound; ids count on, also after it was cleared."""
    changes: list[None] = []
    journal = Journal(lambda: changes.append(None))
    for _ in range(501):
        last = journal.begin(at=0, method="GET", target="/", headers={}, body=b"")
    assert [one.id for one in journal] == list(range(2, 502))
    journal.clear()
    assert list(journal) == []
    journal.end(last)  # of one that is forgotten
    assert list(journal) == []
    assert journal.begin(at=0, method="GET", target="/", headers={}, body=b"").id == 502
    assert len(changes) == 504


def test_each_answer_is_noted_at_its_request() -> None:
    """Answers come in any order."""
    journal = Journal(lambda: None)
    one, other = (journal.begin(at=0, method="GET", target=target, headers={}, body=b"") for target in "ab")
    journal.end(Exchange(id=other.id, at=0, method="GET", target="b", status=200))
    journal.end(Exchange(id=one.id, at=0, method="GET", target="a", status=400))
    assert [(entry.target, entry.status) for entry in journal] == [("a", 400), ("b", 200)]


# Secrets


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ("Bearer abc.def", "Bearer ***"),
        ("bearer abc def", "bearer ***"),
        ("Basic dXNlcjpwYXNz", "Basic ***"),
        ("abc.def", "***"),
        ("my secret", "***"),
        ("Bearer", "***"),
        ("Bearer ", "***"),
        ("", ""),
    ],
)
def test_token_is_never_noted(header: str, shown: str) -> None:
    """Of an Authorization header only the scheme stays, if it is one."""
    assert noted(headers={"authorization": header}).authorization == shown


@pytest.mark.parametrize(
    "content_type",
    ["application/x-www-form-urlencoded", "Application/X-WWW-Form-Urlencoded; charset=UTF-8", "text/plain", None],
)
def test_secrets_of_a_form_are_never_noted(
    client: httpx.Client, sandbox: Sandbox, content_type: str | None
) -> None:
    """Whatever the header says that the body is; the other fields stay as they were sent."""
    body = urlencode(FORM | {"client_assertion": "signed", "note": "a+b &c"})
    client.post(TOKEN_PATH, content=body, headers={"Content-Type": content_type} if content_type else {})
    (one,) = sandbox.journal
    assert one.status == 200
    shown = {"client_secret": ["***"], "client_assertion": ["***"], "note": ["a+b &c"]}
    assert parse_qs(one.body) == {name: [value] for name, value in FORM.items()} | shown


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("client_secret=s3cret", "client_secret=***"),
        ("a=b&client%5Fsecret=s3cret&c", "a=b&client%5Fsecret=***&c"),
        ("client_secret", "client_secret=***"),
        ("=&&a=b=c", "=&&a=b=c"),
        (
            '{"client_secret": "s3\\"cret", "a": "client_secret=b"}',
            '{"client_secret": "***", "a": "client_secret=b"}',
        ),
        ('  {"a": {"access_token":"s3cret"}}', '  {"a": {"access_token":"***"}}'),
        ('[{"client_assertion" :\n"s3cret', '[{"client_assertion" :\n"***"'),
    ],
)
def test_secrets_are_masked_and_nothing_else(body: str, shown: str) -> None:
    """In forms and in JSON, also in one that is cut."""
    assert noted(body.encode()).body == shown


def test_secret_in_an_address_is_never_noted(client: httpx.Client, sandbox: Sandbox) -> None:
    """It does not belong there, and is answered with 405, but people do that."""
    assert client.get(TOKEN_PATH, params=FORM).status_code == 405
    assert "sandbox-secret" not in repr([one.target for one in sandbox.journal])
    assert noted(target="/?access_token=abc&type=1").target == "/?access_token=***&type=1"


def test_long_body_is_cut() -> None:
    """Of a body ten thousand characters are kept, whole ones."""
    assert noted(("ą" * 20_000).encode()).body == "ą" * 10_000
    assert noted(b"\xff\xfe").body == "\ufffd\ufffd"


def test_entry_does_not_show_what_was_sent() -> None:
    """A `repr`, as logs have it, tells no number, text or token."""
    one = noted(
        b'{"Text": "Will You come?"}', target="/?number=37000000002", headers={"authorization": "Bearer x"}
    )
    shown = repr(one)
    assert not [secret for secret in ("Will You", "37000000002", "Bearer") if secret in shown]


# curl


def run(command: str, **environment: str) -> str:
    """Run a line as a shell would, and return what it prints."""
    done = subprocess.run(
        ["bash", "-c", command],
        check=True,
        capture_output=True,
        text=True,
        timeout=50,
        env={"PATH": os.environ["PATH"], "NO_PROXY": "*", **environment},
    )
    return done.stdout


needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None or shutil.which("bash") is None, reason="this computer has no curl or no bash"
)


@needs_curl
@pytest.mark.parametrize(
    "text",
    [
        "Will You come?",
        'it\'s $HOME `id` $(id) "quoted" \\ \\n ! # ; & | < > * ?',
        "'; exit 1; '",
        "@/etc/hostname",
        "Ąž 👍\nsecond line\ttab",
    ],
)
def test_curl_repeats_a_reminder(
    client: httpx.Client, sandbox: Sandbox, server: RunningSandbox, text: str
) -> None:
    """The line sends the very same message again, whatever is in its text, with the token from the environment."""
    client.post("/", json=REMINDER | {"Text": text}, headers=AUTHORIZED)
    (one,) = sandbox.journal
    line = one.as_curl(server.url)
    assert "sandbox-token" not in line
    assert run(line, HIS_SMS_TOKEN="sandbox-token").startswith("HTTP/1.1 200 ")
    first, second = sandbox.sent
    assert (first.text, first.external_key, first.recipient) == (text, second.external_key, second.recipient)
    assert second.text == text


@needs_curl
@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/?type=Incoming&dateFrom=2019-11-12%2011:01:51", 200),
        ("GET", "/?type=Incoming&dateFrom=2019-11-12+11:01:51", 200),
        ("GET", "/a%20b/[1-3]{x,y}'?q=%27;$(id)", 404),
        ("HEAD", "/?type=Numbers", 200),
        ("PUT", "/", 405),
    ],
)
def test_curl_asks_the_same_address(
    client: httpx.Client, sandbox: Sandbox, server: RunningSandbox, method: str, target: str, status: int
) -> None:
    """Method and address are those of the first request, to the letter."""
    client.request(method, target, headers=AUTHORIZED)
    (one,) = sandbox.journal
    assert run(one.as_curl(server.url), HIS_SMS_TOKEN="sandbox-token").startswith(f"HTTP/1.1 {status} ")
    first, second = sandbox.journal
    assert (second.method, second.target, second.status) == (first.method, first.target, status)


@needs_curl
def test_curl_without_a_token_sends_none(client: httpx.Client, sandbox: Sandbox, server: RunningSandbox) -> None:
    """A request that had no Authorization is repeated without."""
    client.get("/?type=Numbers")
    (one,) = sandbox.journal
    assert run(one.as_curl(server.url), HIS_SMS_TOKEN="sandbox-token").startswith("HTTP/1.1 401 ")


@needs_curl
def test_curl_trusts_the_file_of_the_settings() -> None:
    """By https the line takes the CA from the variable that the command prints."""
    with Sandbox().serve(tls=True) as server:
        line = noted(target="/?type=Numbers", method="GET", headers={"authorization": "Bearer x"}).as_curl(
            server.url
        )
        settings = {"HIS_SMS_TOKEN": "sandbox-token", "HIS_SMS_CA_FILE": str(server.ca_file)}
        assert run(line, **settings).startswith("HTTP/1.1 200 ")
