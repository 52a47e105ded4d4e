"""What befalls the stand-in without a fault: interrupts, full disks, wild clocks, wild requests."""

import resource
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from waiting import heeding_interrupts

from his_sms_async.sandbox import RunningSandbox, Sandbox, SandboxMessage
from his_sms_async.sandbox.faults import Backlog, FutureStamp, SkewedNode

HOSPITAL = "37000000001"
PATIENT = "37000000002"
LONG_AGO = "1900-01-01 00:00:00"


def remind(sandbox: Sandbox) -> SandboxMessage:
    """Send the reminder of the specification."""
    return sandbox.send(sender=HOSPITAL, recipient=PATIENT, text="Will You come?", external_key=27342)


def ask(server: RunningSandbox, method: str, path: str, body: object = None) -> httpx.Response:
    """Make one request with the right token."""
    headers = {"Authorization": "Bearer sandbox-token", "Accept": "application/json"}
    with httpx.Client(base_url=server.url, headers=headers, trust_env=False) as client:
        return client.request(method, path, json=body)


@contextmanager
def full_disk(path: Path, room: int) -> Iterator[None]:
    """Let files of this process grow to so many bytes more than one has."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_interrupted_wait_leaves_the_server_running() -> None:
    """Ctrl-C ends the wait for a server and not the server, which ends with its block, in order."""
    with heeding_interrupts(), Sandbox().serve() as server:
        timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            server.wait()
        timer.join()
        assert ask(server, "GET", "/control/ready").status_code == 200
        waiting = threading.Thread(target=server.wait)
        waiting.start()
    waiting.join(10)
    assert not waiting.is_alive()


needs_limits = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of a file's size")


@needs_limits
def test_write_that_fails_leaves_nothing_in_the_file(tmp_path: Path) -> None:
    """With a full disk a message is refused; when there is room again, the file holds what was taken."""
    path = tmp_path / "messages"
    sandbox = Sandbox(file=path)
    first = remind(sandbox)
    with full_disk(path, 50), pytest.raises(OSError, match="too large"):
        remind(sandbox)
    second = remind(sandbox)
    assert sandbox.messages == Sandbox(file=path).messages == (first, second)


@needs_limits
def test_what_is_due_while_the_disk_is_full_happens_later(tmp_path: Path) -> None:
    """An answer that cannot be written stays due."""
    path = tmp_path / "messages"
    sandbox = Sandbox(file=path)
    sandbox.patient(PATIENT).replies("Yes", after=5)
    remind(sandbox)
    sandbox.settable_clock.advance(6)
    with full_disk(path, 50), pytest.raises(OSError, match="too large"):
        assert sandbox.received
    (reply,) = sandbox.received
    assert reply.text == "Yes"
    assert Sandbox(file=path).received == (reply,)


def test_stamps_stay_in_the_calendar(tmp_path: Path) -> None:
    """Whatever clock and faults say, lists, page and file go on."""
    path = tmp_path / "messages"
    sandbox = Sandbox(file=path)
    sandbox.settable_clock.set(datetime(9999, 12, 29, tzinfo=UTC))
    with sandbox.faults.during(FutureStamp(1e9)):
        sandbox.receive(sender=PATIENT, recipient=HOSPITAL, text="Yes")
    sandbox.settable_clock.set(datetime(1, 1, 3, tzinfo=UTC))
    with sandbox.faults.during(SkewedNode(-1e9)):
        sandbox.receive(sender=PATIENT, recipient=HOSPITAL, text="No")
    with pytest.raises(ValueError, match="before the calendar does"):
        sandbox.faults.add(Backlog(10_000_000))
    with sandbox.serve() as server:
        for address in ("/phone/", f"/phone/?patient={PATIENT}", f"/?type=Incoming&dateFrom={LONG_AGO}"):
            assert ask(server, "GET", address).status_code == 200
    assert [message.text for message in Sandbox(file=path).messages] == ["Yes", "No"]


def test_rule_may_reset_the_sandbox() -> None:
    """A reminder that is gone before its answer comes is not answered."""
    sandbox = Sandbox()

    def rule(reminder: SandboxMessage) -> str:
        sandbox.reset()
        return "Yes"

    sandbox.patient(PATIENT).replies(rule, after=1)
    remind(sandbox)
    sandbox.settable_clock.advance(2)
    assert sandbox.messages == ()
    assert sandbox.next_due is None


@pytest.mark.parametrize("seconds", [10**400, 1e308, -1e308, 10**12 + 1])
def test_step_out_of_the_calendar_is_refused(seconds: float) -> None:
    """A clock does not go where no date is, and the answer says so."""
    with Sandbox().serve() as server:
        response = ask(server, "POST", "/control/clock", {"advance": seconds})
        assert ask(server, "GET", "/control/clock").status_code == 200
    assert response.status_code == 400
    assert "error" in response.json()


@pytest.mark.parametrize(("method", "path"), [("POST", "/control/messages/"), ("DELETE", "/control/faults/")])
@pytest.mark.parametrize("number", ["9" * 5000, "x", "-1"])
def test_what_is_no_id_is_not_found(method: str, path: str, number: str) -> None:
    """Ids of thousands of digits, or of none, are addresses that do not exist."""
    with Sandbox().serve() as server:
        response = ask(server, method, path + number, {"state": "Seen"} if method == "POST" else None)
    assert response.status_code == 404
    assert response.json() == {"error": "there is no such address"}


def test_copied_command_asks_this_server_only() -> None:
    """A target that is no path cannot make the copied line send the token to another host."""
    with Sandbox().serve() as server:
        with socket.create_connection((server.host, server.port)) as connection:
            connection.sendall(
                b"GET @evil.example/?type=Incoming HTTP/1.1\r\nHost: localhost\r\n"
                b"Authorization: Bearer x\r\nConnection: close\r\n\r\n"
            )
            while connection.recv(65536):
                pass
        (exchange,) = server.sandbox.journal
        words = shlex.split(exchange.as_curl(server.url))
    assert f"{server.url}/" in words
    assert words[words.index("--request-target") + 1] == "@evil.example/?type=Incoming"
    assert not any("evil" in word and word.startswith("http") for word in words)


@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"client_secret": "hush"}',
        b'{"Client_Secret" : "hush"}',
        b'{"token": 4711, "client_secret": "hush',
        b"PASSWORD=hush&x=1",
        b"refresh_token=hush",
    ],
)
def test_secrets_are_masked_however_they_are_written(body: bytes) -> None:
    """Names of secrets are known in any case, after a byte order mark, and where the body is cut."""
    with Sandbox().serve() as server:
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            client.post("/sandbox/oauth2/v2.0/token", content=body)
        (exchange,) = server.sandbox.journal
    assert "hush" not in exchange.body
    assert "4711" not in exchange.body
    assert "***" in exchange.body
