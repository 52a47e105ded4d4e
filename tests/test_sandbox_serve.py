"""The stand-in as a server: addresses, TLS, start and stop."""

import gc
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from waiting import until

from his_sms_async.sandbox import RunningSandbox, Sandbox
from his_sms_async.sandbox._serve import is_loopback, name_in_url
from his_sms_async.sandbox.faults import Latency, Refuse

AUTHORIZED = {"Authorization": "Bearer sandbox-token"}
SEVERAL_SECONDS = 5.0  # far above what stopping takes, far below what would be called hanging


def ask(server: RunningSandbox) -> int:
    """Return the HTTP status of one good request."""
    verify = ssl.create_default_context(cafile=server.ca_file) if server.ca_file else False
    with httpx.Client(verify=verify, trust_env=False, headers=AUTHORIZED) as client:
        return client.get(f"{server.url}/?type=Numbers").status_code


def test_each_server_gets_a_free_port_of_its_own() -> None:
    """Port 0 is any free one, so tests can run beside each other."""
    with Sandbox().serve() as one, Sandbox().serve() as other:
        assert one.port != other.port
        assert one.url == f"http://127.0.0.1:{one.port}"
        assert one.host == "127.0.0.1"
        assert one.ca_file is None
        assert ask(one) == ask(other) == 200


def test_served_sandbox_is_the_one_in_hand() -> None:
    """What is done in Python is seen over HTTP, and two servers of one sandbox share it."""
    sandbox = Sandbox()
    with sandbox.serve() as one, sandbox.serve() as other, httpx.Client(trust_env=False) as client:
        assert one.sandbox is other.sandbox is sandbox
        sandbox.receive(sender="37000000002", recipient="37000000001", text="Yes")
        for server in (one, other):
            url = f"{server.url}/?type=Incoming&dateFrom=1900-01-01 00:00:00"
            (row,) = client.get(url, headers=AUTHORIZED).json()["Data"]["Messages"]
            assert row["Text"] == "Yes"


def test_port_is_free_again_afterwards() -> None:
    """After the block nobody listens, no thread is left, and the same port can be taken at once."""
    others = set(threading.enumerate())  # one may serve the fixtures of other tests
    with Sandbox().serve() as server:
        assert ask(server) == 200
    with pytest.raises(httpx.ConnectError):
        ask(server)
    assert set(threading.enumerate()) <= others
    with Sandbox().serve(port=server.port) as again:
        assert again.port == server.port
        assert ask(again) == 200


def test_sandbox_can_be_served_again() -> None:
    """A sandbox outlives its servers, with all it remembers."""
    sandbox = Sandbox()
    with sandbox.serve() as first:
        ask(first)
        sandbox.receive(sender="37000000002", recipient="37000000001", text="Yes")
    with sandbox.serve() as second:
        assert ask(second) == 200
    assert len(sandbox.messages) == 1


def test_port_in_use_is_an_error_at_once() -> None:
    """Whoever asks for a taken port gets an OSError on entering the block."""
    with Sandbox().serve() as server, pytest.raises(OSError, match="in use"), Sandbox().serve(port=server.port):
        pytest.fail("two servers cannot have one port")


def test_server_is_stopped_when_the_block_fails() -> None:
    """An exception in the block is passed on, and the server is gone."""
    with pytest.raises(LookupError, match="a test that fails"), Sandbox().serve() as server:
        raise LookupError("a test that fails")
    with pytest.raises(httpx.ConnectError):
        ask(server)


def test_waiting_ends_with_the_server() -> None:
    """`wait` blocks as long as the server runs, and no longer."""
    with Sandbox().serve() as server:
        waiter = threading.Thread(target=server.wait)
        waiter.start()
        assert ask(server) == 200
        assert waiter.is_alive()
    waiter.join(SEVERAL_SECONDS)
    assert not waiter.is_alive()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_server_can_be_started_in_an_event_loop(backend: str) -> None:
    """The server has a loop and a thread of its own, so it serves the very coroutine that started it."""

    async def converse() -> None:
        with Sandbox().serve() as server:
            async with httpx.AsyncClient(trust_env=False, headers=AUTHORIZED) as client:
                assert (await client.get(f"{server.url}/?type=Numbers")).status_code == 200

    anyio.run(converse, backend=backend)


# Addresses


def test_server_can_listen_on_ipv6() -> None:
    """An IPv6 address stands in brackets where an address has to."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this computer has no IPv6 loopback")
    with Sandbox().serve(host="::1") as server:
        assert server.url == f"http://[::1]:{server.port}"
        assert ask(server) == 200
    with Sandbox().serve(host="::1", tls=True) as server:
        assert server.url == f"https://localhost:{server.port}"


@pytest.mark.parametrize(
    ("host", "plain", "with_tls"),
    [
        ("127.0.0.1", "127.0.0.1", "localhost"),
        ("localhost", "localhost", "localhost"),
        ("0.0.0.0", "127.0.0.1", "localhost"),
        ("::", "[::1]", "localhost"),
        ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "[2001:db8::7]", "[2001:db8::7]"),
        ("sms.example", "sms.example", "sms.example"),
    ],
)
def test_url_names_what_can_be_reached(host: str, plain: str, with_tls: str) -> None:
    """A server on all addresses is reached by loopback, and by localhost where a certificate is checked."""
    assert name_in_url(host, tls=False) == plain
    assert name_in_url(host, tls=True) == with_tls


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.7", False),
        ("localhost.example", False),
    ],
)
def test_only_loopback_is_loopback(host: str, loopback: bool) -> None:  # noqa: FBT001
    """Anything else lets other computers in."""
    assert is_loopback(host) is loopback


# TLS


def test_tls_serves_everything_by_https() -> None:
    """With `tls` the API is https on the one port, trusted through `ca_file`, under all loopback names."""
    with Sandbox().serve(tls=True) as server:
        assert server.url == f"https://localhost:{server.port}"
        assert server.aad_instance == f"https://localhost:{server.port}/{{0}}"
        assert server.ca_file is not None
        trusting = ssl.create_default_context(cafile=server.ca_file)
        with httpx.Client(verify=trusting, trust_env=False, headers=AUTHORIZED) as client:
            for name in ("localhost", "127.0.0.1"):
                assert client.get(f"https://{name}:{server.port}/?type=Numbers").status_code == 200


def test_certificate_is_not_trusted_without_the_file() -> None:
    """Each server has a CA of its own that nobody else trusts."""
    with Sandbox().serve(tls=True) as server, Sandbox().serve(tls=True) as other:
        assert other.ca_file is not None
        stranger = ssl.create_default_context(cafile=other.ca_file)
        with (
            httpx.Client(verify=stranger, trust_env=False) as client,
            pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            client.get(server.url)


def test_plain_http_to_a_tls_server_fails(caplog: pytest.LogCaptureFixture) -> None:
    """There is no way to the API of a TLS server but TLS, and trying others is nothing to be logged."""
    with (
        Sandbox().serve(tls=True) as server,
        httpx.Client(trust_env=False) as client,
        pytest.raises(httpx.TransportError),
    ):
        client.get(f"http://127.0.0.1:{server.port}/?type=Numbers")
    assert caplog.records == []


def test_ca_file_is_removed_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No temporary file is left, neither the CA nor a key."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Sandbox().serve(tls=True) as server:
        assert server.ca_file is not None
        left = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert left == [Path(server.ca_file)]
        assert "PRIVATE KEY" not in Path(server.ca_file).read_text(encoding="ascii")
    assert list(tmp_path.iterdir()) == []


# Stopping while somebody is connected


def connect_only(client: socket.socket) -> None:
    """Say nothing."""


def ask_and_stay(client: socket.socket) -> None:
    """Ask once, wait for the answer and keep the connection."""
    client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert client.recv(1)


def ask_by_half(client: socket.socket) -> None:
    """Begin a request."""
    client.sendall(b"GET / HTTP/1.1\r\nHost: loc")


def send_by_half(client: socket.socket) -> None:
    """Begin a body, and know that the handler waits for the rest of it."""
    head = "POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sandbox-token\r\n"
    client.sendall(f"{head}Content-Length: 99\r\nExpect: 100-continue\r\n\r\n".encode())
    assert client.recv(1000).startswith(b"HTTP/1.1 100 ")
    client.sendall(b"{")


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("visit", [connect_only, ask_and_stay, ask_by_half, send_by_half])
def test_open_connection_does_not_delay_the_end(visit: Callable[[socket.socket], None], tls: bool) -> None:  # noqa: FBT001
    """Whatever a client does or leaves undone, the server ends within seconds and frees everything."""
    with Sandbox().serve(tls=tls) as server:
        client = socket.create_connection(("127.0.0.1", server.port))
        client.settimeout(SEVERAL_SECONDS)
        if server.ca_file:
            trusting = ssl.create_default_context(cafile=server.ca_file)
            client = trusting.wrap_socket(client, server_hostname="localhost")
        visit(client)
        begin = time.monotonic()
    assert time.monotonic() - begin < SEVERAL_SECONDS
    with client, suppress(OSError):  # TLS calls it an error that nobody said goodbye
        while client.recv(1000):
            pass
    gc.collect()  # a transport that was left open would be a ResourceWarning now


def test_unfinished_handshake_does_not_delay_the_end() -> None:
    """Also a client that never says its half of TLS is dropped."""
    with Sandbox().serve(tls=True) as server:
        client = socket.create_connection(("127.0.0.1", server.port))
        assert ask(server) == 200  # later than the connection, so that was taken in
        begin = time.monotonic()
    assert time.monotonic() - begin < SEVERAL_SECONDS
    client.close()
    gc.collect()


# Refused connections


def is_refused(server: RunningSandbox) -> bool:
    """Return whether a new connection is refused; True or a good answer, nothing between."""
    try:
        status = ask(server)
    except httpx.ConnectError:
        return True
    assert status == 200
    return False


def until_served(server: RunningSandbox) -> None:
    """Ask again and again until there is an answer; the test's own timeout ends it otherwise."""
    until(lambda: not is_refused(server))


@pytest.mark.parametrize("tls", [False, True])
def test_connections_are_refused_while_the_fault_is_on(tls: bool) -> None:  # noqa: FBT001
    """As soon as it is on nobody is let in, as soon as it is off everybody, at the same address, again."""
    sandbox = Sandbox()
    with sandbox.serve(tls=tls) as server:
        for _ in range(3):
            assert ask(server) == 200
            switch = sandbox.faults.add(Refuse(seconds=None))
            assert switch is not None
            assert is_refused(server)
            sandbox.faults.remove(switch)
        assert ask(server) == 200


def test_connections_are_refused_for_some_seconds() -> None:
    """When the time is over the fault is off by itself."""
    sandbox = Sandbox()
    with sandbox.serve() as server:
        begin = time.monotonic()
        sandbox.faults.add(Refuse(seconds=1))
        assert is_refused(server)
        until_served(server)
        assert time.monotonic() - begin >= 1
        assert len(sandbox.faults) == 0


def test_no_time_at_all_is_no_refusal() -> None:
    """Zero seconds are over at once."""
    sandbox = Sandbox()
    with sandbox.serve() as server:
        sandbox.faults.add(Refuse(seconds=0))
        until_served(server)
        assert len(sandbox.faults) == 0


def test_connections_are_refused_as_long_as_one_fault_says_so() -> None:
    """Of two, the longer one counts; other faults do not open the door."""
    sandbox = Sandbox()
    with sandbox.serve() as server:
        with sandbox.faults.during(Refuse(seconds=None)):
            sandbox.faults.add(Refuse(seconds=0.1))
            with sandbox.faults.during(Latency(0)):  # who were let in would get a good answer
                assert is_refused(server)
            until(lambda: len(sandbox.faults) == 1)
            assert is_refused(server)
        assert ask(server) == 200


def test_each_refusal_has_its_own_time() -> None:
    """One that is switched on while another holds is counted from then on."""
    sandbox = Sandbox()
    with sandbox.serve() as server:
        with sandbox.faults.during(Refuse(seconds=None)):
            begin = time.monotonic()
            until(lambda: time.monotonic() - begin > 0.2)  # which the next one does not count
            begin = time.monotonic()
            sandbox.faults.add(Refuse(seconds=0.3))
        until_served(server)
        assert time.monotonic() - begin >= 0.3


def test_open_connections_end_too() -> None:
    """An idle connection is closed, and one whose answer is late is cut."""
    sandbox = Sandbox()
    with sandbox.serve() as server, socket.create_connection(("127.0.0.1", server.port)) as idle:
        ask_and_stay(idle)
        idle.settimeout(SEVERAL_SECONDS)
        sandbox.faults.add(Latency(seconds=50))
        with socket.create_connection(("127.0.0.1", server.port)) as waiting:
            waiting.settimeout(SEVERAL_SECONDS)
            waiting.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            until(lambda: len(list(sandbox.journal)) == 2)
            sandbox.faults.add(Refuse(seconds=None))
            with suppress(ConnectionResetError):
                assert waiting.recv(1) == b""
        while idle.recv(1000):
            pass


def test_reset_ends_the_refusal() -> None:
    """As new is with an open door."""
    sandbox = Sandbox()
    with sandbox.serve() as server:
        sandbox.faults.add(Refuse(seconds=None))
        sandbox.reset()
        assert ask(server) == 200


@pytest.mark.parametrize("tls", [False, True])
def test_server_can_be_stopped_while_it_refuses(tls: bool) -> None:  # noqa: FBT001
    """The block is left within seconds, and the port is free."""
    sandbox = Sandbox()
    with sandbox.serve(tls=tls) as server:
        sandbox.faults.add(Refuse(seconds=None))
        begin = time.monotonic()
    assert time.monotonic() - begin < SEVERAL_SECONDS
    with Sandbox().serve(port=server.port) as other:
        assert ask(other) == 200


def test_server_that_is_started_while_connections_are_refused_refuses_them() -> None:
    """A fault counts also for a server that comes later, for its full time."""
    sandbox = Sandbox()
    sandbox.faults.add(Refuse(seconds=None))
    with sandbox.serve() as server:
        assert is_refused(server)
        sandbox.faults.clear()
        assert ask(server) == 200


def test_two_servers_of_one_sandbox_refuse_and_accept_together() -> None:
    """Both shut their doors, and both open them when the time is over, though both switch the fault off."""
    sandbox = Sandbox()
    with sandbox.serve() as one, sandbox.serve() as other:
        with sandbox.faults.during(Refuse(seconds=None)):
            assert is_refused(one)
            assert is_refused(other)
        for _ in range(3):
            sandbox.faults.add(Refuse(seconds=0.1))
            sandbox.faults.add(Refuse(seconds=0.1))
            until(lambda: len(sandbox.faults) == 0)
            until_served(one)
            until_served(other)


def test_fault_that_another_server_has_switched_off_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second finds nothing to switch off, and serves on."""
    sandbox = Sandbox()
    with sandbox.serve() as server:
        remove = type(sandbox.faults).remove

        def remove_twice(faults: Any, switch: Any) -> None:
            remove(faults, switch)
            remove(faults, switch)

        monkeypatch.setattr(type(sandbox.faults), "remove", remove_twice)
        sandbox.faults.add(Refuse(seconds=0.05))
        until_served(server)


def test_port_that_somebody_took_is_waited_for() -> None:
    """When another program listens there meanwhile, the server comes back as soon as it has gone."""
    sandbox = Sandbox()
    with sandbox.serve() as server:
        sandbox.faults.add(Refuse(seconds=None))
        with socket.create_server(("127.0.0.1", server.port)):
            opener = threading.Thread(target=sandbox.faults.clear)
            opener.start()
            while len(sandbox.faults):
                opener.join(0.01)
            opener.join(0.1)
            assert opener.is_alive()
        opener.join(SEVERAL_SECONDS)
        assert ask(server) == 200


def test_patience_with_a_taken_port_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who switches the fault off is not kept for ever; and a server that waits for its port can be stopped."""
    monkeypatch.setattr("his_sms_async.sandbox._door._PATIENCE", 0.1)
    sandbox = Sandbox()
    with sandbox.serve() as server:
        sandbox.faults.add(Refuse(seconds=None))
        with socket.create_server(("127.0.0.1", server.port)):
            sandbox.faults.clear()
            begin = time.monotonic()
    assert time.monotonic() - begin < SEVERAL_SECONDS


def test_rule_may_let_connections_be_refused() -> None:
    """In the server's own thread nothing waits for that thread."""
    sandbox = Sandbox()
    sandbox.patient("37000000002").replies(
        lambda reminder: str(sandbox.faults.add(Refuse(seconds=None)) is not None)
    )
    reminder = {"Id": None, "From": "37000000001", "To": "37000000002", "Text": "?", "ExternalKey": 1}
    with sandbox.serve() as server, httpx.Client(verify=False, trust_env=False, headers=AUTHORIZED) as client:
        begin = time.monotonic()
        assert client.post(server.url, json=reminder).status_code == 200
        assert time.monotonic() - begin < SEVERAL_SECONDS
        is_shut = False
        while not is_shut:
            with suppress(httpx.ReadError):  # let in before the door was shut
                is_shut = is_refused(server)


def test_door_of_a_server_that_has_ended_keeps_nobody() -> None:
    """Whoever switches a fault on while the server ends need not wait."""
    sandbox = Sandbox()
    with sandbox.serve():
        (door,) = sandbox.doors
    assert sandbox.doors == []
    begin = time.monotonic()
    with sandbox.faults.during(Refuse(seconds=None)):
        door()
    door()
    assert time.monotonic() - begin < SEVERAL_SECONDS


def test_state_is_usable_without_the_web_stack() -> None:
    """Importing the package and using the state imports neither starlette, uvicorn nor trustme."""
    code = """
import sys
from his_sms_async.sandbox import Sandbox
Sandbox().receive(sender="37000000002", recipient="37000000001", text="Yes")
assert not {"starlette", "uvicorn", "trustme"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)
