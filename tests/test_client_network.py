"""The client over real sockets: what breaks on the way, and that a POST arrives once at most."""

import gzip
import json
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import attrs
import pytest
import trustme
from anyio.streams.tls import TLSListener
from fakes import NOON, envelope, until

from his_sms_async import (
    BearerAuth,
    ConnectionFailed,
    MessageType,
    ProtocolError,
    RequestRejected,
    SendOutcomeUnknown,
    ServerTimeout,
    SmsClient,
    SmsError,
    TokenAuth,
)
from his_sms_async.sandbox import Sandbox
from his_sms_async.sandbox.faults import CutBody, EmptyAnswer, Fault, Garbage, HtmlPage, Refuse, Reset, Status

pytestmark = pytest.mark.anyio

REMINDER: dict[str, Any] = {"sender": "37000000001", "recipient": "37000000002", "text": "Yes?", "external_key": 5}
NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody, which is enough for plain connections, and takes no time to build."""
RECEIPT = json.dumps(envelope(Id=1, CreatedAt="2026-03-10T12:00:00")).encode()
EMPTY = json.dumps(envelope(Messages=[], ClientOperatorNumbers=[])).encode()


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses before repetitions last no time."""
    monkeypatch.setattr(random, "random", lambda: 0.0)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A CA of the tests' own."""
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its certificate."""
    path: Path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="module")
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    """What a server with a certificate of it presents."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


Behaviour = Callable[["Peer"], Awaitable[None]]


@attrs.define(eq=False)
class Peer:
    """A server's end of one connection."""

    server: "Server"
    stream: anyio.abc.ByteStream

    async def read(self) -> bytes:
        """Read a request, which counts from its first byte."""
        data = await self.stream.receive()
        self.server.requests.append(data.split(b" ")[0].decode())
        while b"\r\n\r\n" not in data:
            data += await self.stream.receive()
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        length = int(lengths[0].split(b":")[1]) if lengths else 0
        while len(body) < length:
            body += await self.stream.receive()
        return data

    async def say(self, data: bytes) -> None:
        """Write."""
        await self.stream.send(data)

    async def serve(self) -> None:
        """Answer requests as they should be, until the client goes."""
        while True:
            request = await self.read()
            await self.say(http(RECEIPT if request.startswith(b"POST") else EMPTY))

    def reset(self) -> None:
        """Have the connection end with a reset."""
        raw: socket.socket = self.stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@attrs.define(eq=False)
class Server:
    """A server that behaves as a test wants; it counts the requests of which a byte arrived."""

    port: int
    requests: list[str] = attrs.field(factory=list)
    connections: int = 0

    @property
    def posts(self) -> int:
        return self.requests.count("POST")


@asynccontextmanager
async def serving(behave: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Listen on a free port; each connection is closed when `behave` returns."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    server = Server(listener.extra(anyio.abc.SocketAttribute.local_port))

    async def handle(stream: anyio.abc.ByteStream) -> None:
        server.connections += 1
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
                await behave(Peer(server, stream))

    async with listener, anyio.create_task_group() as tasks:
        secured = TLSListener(listener, tls, standard_compatible=False) if tls else listener
        tasks.start_soon(secured.serve, handle)
        yield server
        tasks.cancel_scope.cancel()


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """A response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def client_of(server: Server, **options: Any) -> SmsClient:
    """A client of a server on this machine."""
    settings: dict[str, Any] = {"auth": BearerAuth("token"), "verify": NOBODY} | options
    return SmsClient(f"http://127.0.0.1:{server.port}/", **settings)


async def closed_port() -> int:
    """A port where nobody listens."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port: int = listener.extra(anyio.abc.SocketAttribute.local_port)
    await listener.aclose()
    return port


# --- what breaks ----------------------------------------------------------------------------------------


async def close(peer: Peer) -> None:
    """Read the request and close."""
    await peer.read()


async def close_at_once(peer: Peer) -> None:
    """Close without reading."""
    peer.server.requests.append("")


async def reset(peer: Peer) -> None:
    """Read the request and reset."""
    await peer.read()
    peer.reset()


async def reset_in_the_head(peer: Peer) -> None:
    """Reset in the middle of the head."""
    await peer.read()
    await peer.say(b"HTTP/1.1 200 OK\r\nContent-Le")
    peer.reset()


async def cut_body(peer: Peer) -> None:
    """Say more than follows."""
    await peer.read()
    await peer.say(http(RECEIPT)[:-5])


async def cut_chunks(peer: Peer) -> None:
    """Break off between chunks."""
    await peer.read()
    await peer.say(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"Dat\r\n')


async def cut_without_length(peer: Peer) -> None:
    """Break off where only the end tells the length."""
    await peer.read()
    await peer.say(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + RECEIPT[:-5])


async def garbage(peer: Peer) -> None:
    """Speak another protocol."""
    await peer.read()
    await peer.say(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


async def no_answer(peer: Peer) -> None:
    """Say nothing."""
    await peer.read()
    await peer.read()


async def head_only(peer: Peer) -> None:
    """Stop in the middle of the head."""
    await peer.read()
    await peer.say(http(RECEIPT)[:40])
    await peer.read()


async def slow_drip(peer: Peer) -> None:
    """Say a byte at a time."""
    await peer.read()
    for at in range(len(http(RECEIPT))):
        await peer.say(http(RECEIPT)[at : at + 1])
        await anyio.sleep(0.02)


async def login_page(peer: Peer) -> None:
    """Show the page of a proxy."""
    await peer.read()
    await peer.say(http(b"<!DOCTYPE html><title>Log in", "200 OK", "Content-Type: text/html; charset=utf-8"))


async def endless_head(peer: Peer) -> None:
    """Never come to the body."""
    await peer.read()
    await peer.say(b"HTTP/1.1 200 OK\r\n")
    while True:
        await peer.say(b"X-Header: " + b"x" * 1000 + b"\r\n")


async def two_lengths(peer: Peer) -> None:
    """Contradict itself."""
    await peer.read()
    await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}")


BROKEN: list[tuple[Behaviour, type[SmsError]]] = [
    (close, ConnectionFailed),
    (reset, ConnectionFailed),
    (reset_in_the_head, ConnectionFailed),
    (cut_body, ProtocolError),
    (cut_chunks, ProtocolError),
    (cut_without_length, ProtocolError),
    (garbage, ProtocolError),
    (no_answer, ServerTimeout),
    (head_only, ServerTimeout),
    (slow_drip, ServerTimeout),
    (login_page, ProtocolError),
    (endless_head, ProtocolError),
    (two_lengths, ProtocolError),
]


SHORT: dict[Behaviour, float] = dict.fromkeys((no_answer, head_only, slow_drip), 0.3)


@pytest.mark.parametrize(("behave", "read_error"), BROKEN)
async def test_broken_send_is_unknown_and_arrives_once(behave: Behaviour, read_error: type[SmsError]) -> None:
    """The server saw the request, so nobody can say whether the SMS was sent, and it is not sent again."""
    async with serving(behave) as server, client_of(server, timeout=SHORT.get(behave, 10.0)) as client:
        with pytest.raises(SendOutcomeUnknown) as caught:
            await client.send(**REMINDER)
        await anyio.wait_all_tasks_blocked()
        assert server.posts == 1
    assert caught.value.external_key == 5
    assert not caught.value.retryable


@pytest.mark.parametrize(("behave", "read_error"), BROKEN)
async def test_broken_read_has_its_error(behave: Behaviour, read_error: type[SmsError]) -> None:
    """What broke is told by the class of the error."""
    async with serving(behave) as server, client_of(server, timeout=SHORT.get(behave, 10.0)) as client:
        with pytest.raises(SmsError) as caught:
            await client.list_messages(date_from=NOON)
    assert type(caught.value) is read_error


async def test_connection_closed_before_the_request_was_read_is_unknown_too() -> None:
    """Whether bytes were read cannot be seen from here."""
    async with serving(close_at_once) as server, client_of(server) as client:
        with pytest.raises(SendOutcomeUnknown):
            await client.send(**REMINDER)
        assert server.connections == 1


async def test_refused_connection_means_not_sent() -> None:
    """Nothing listens: the send was repeated in vain, and may be repeated later."""
    async with SmsClient(f"http://127.0.0.1:{await closed_port()}/", auth=BearerAuth("token")) as client:
        for act in (lambda: client.send(**REMINDER), lambda: client.list_messages(date_from=NOON)):
            with pytest.raises(ConnectionFailed) as caught:
                await act()
            assert caught.value.retryable
            assert "httpx.ConnectError" in str(caught.value.__cause__)


async def test_send_is_repeated_until_the_server_listens(sms_sandbox: Sandbox, sms_sandbox_url: str) -> None:
    """A refused connection is tried again, and the SMS arrives once."""
    await anyio.to_thread.run_sync(sms_sandbox.faults.add, Refuse(None))
    calls: list[bool] = []

    class Opening:
        """Lets the server listen when the client is about to try again."""

        async def token(self, *, force: bool) -> str:
            calls.append(force)
            if len(calls) == 2:
                await anyio.to_thread.run_sync(sms_sandbox.faults.clear)
            return "sandbox-token"

    async with SmsClient(sms_sandbox_url, auth=TokenAuth(Opening()), verify=NOBODY) as client:
        assert (await client.send(**REMINDER)).id == 1
    assert (len(calls), len(sms_sandbox.sent)) == (2, 1)


@pytest.mark.parametrize(
    "fault",
    [
        CutBody(times=1),
        EmptyAnswer(taken=True, times=1),
        Garbage(taken=True, times=1),
        HtmlPage(taken=True, times=1),
        Reset(taken=True, times=1),
        Status(503, taken=True, times=1),
    ],
    ids=lambda fault: type(fault).__name__,
)
async def test_send_whose_answer_is_lost_is_found_on_the_server(
    sms_sandbox: Sandbox, sms_client: SmsClient, fault: Fault
) -> None:
    """The server took the SMS and could not say so: its outcome is unknown, and it was sent once."""
    sms_sandbox.faults.add(fault)
    async with sms_client as client:
        with pytest.raises(SendOutcomeUnknown) as caught:
            await client.send(**REMINDER)
        (listed,) = await client.list_messages(MessageType.OUTGOING, date_from=caught.value.since)
    assert (listed.recipient, listed.text) == (REMINDER["recipient"], REMINDER["text"])
    assert [message.external_key for message in sms_sandbox.sent] == [caught.value.external_key] == [5]


async def test_page_with_an_error_status_is_judged_by_the_status(
    sms_sandbox: Sandbox, sms_client: SmsClient
) -> None:
    """HTML with a 500 is a failure of the server, whoever wrote the page."""
    sms_sandbox.faults.add(HtmlPage(500))
    async with sms_client as client:
        with pytest.raises(SendOutcomeUnknown) as caught:
            await client.send(**REMINDER)
    assert caught.value.http_status == 500
    assert len([*sms_sandbox.journal]) == 1


# --- certificates and proxies ---------------------------------------------------------------------------


async def test_server_with_a_trusted_certificate_is_taken(
    server_context: ssl.SSLContext, authority: trustme.CA, ca_file: Path
) -> None:
    """`verify` is a file or a context of the user's own."""
    own = ssl.create_default_context()
    authority.configure_trust(own)
    async with serving(Peer.serve, server_context) as server:
        for verify in (ca_file, str(ca_file), own):
            url = f"https://localhost:{server.port}/"
            async with SmsClient(url, auth=BearerAuth("token"), verify=verify) as client:
                assert (await client.send(**REMINDER)).id == 1
                assert await client.list_messages(date_from=NOON) == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_server_with_an_untrusted_certificate_gets_nothing(
    server_context: ssl.SSLContext, ca_file: Path, host: str
) -> None:
    """An unknown CA, or another name: no byte of the request goes out, and repeating cannot mend it."""
    verify = None if host == "localhost" else ca_file
    async with serving(Peer.serve, server_context) as server:
        async with SmsClient(f"https://{host}:{server.port}/", auth=BearerAuth("token"), verify=verify) as client:
            for act in (lambda: client.send(**REMINDER), lambda: client.list_messages(date_from=NOON)):
                with pytest.raises(ConnectionFailed, match="HIS_SMS_CA_FILE") as caught:
                    await act()
                assert not caught.value.retryable
        assert not server.requests


async def test_server_that_speaks_no_tls_gets_nothing() -> None:
    """A plain server behind an https address is a connection that failed."""

    async def plain(peer: Peer) -> None:
        await peer.stream.receive()
        await peer.say(http(b"", "400 Bad Request"))

    async with (
        serving(plain) as server,
        SmsClient(f"https://127.0.0.1:{server.port}/", auth=BearerAuth("token")) as client,
    ):
        with pytest.raises(ConnectionFailed) as caught:
            await client.send(**REMINDER)
        assert caught.value.retryable


async def refuse_tunnel(peer: Peer) -> None:
    """Want a password."""
    await peer.read()
    await peer.say(http(b"", "407 Proxy Authentication Required"))


async def close_tunnel(peer: Peer) -> None:
    """Close instead of answering."""
    await peer.read()


async def garble_tunnel(peer: Peer) -> None:
    """Speak another protocol."""
    await peer.read()
    await peer.say(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


async def break_tunnel(peer: Peer) -> None:
    """Break the tunnel when TLS begins."""
    await peer.read()
    await peer.say(b"HTTP/1.1 200 Connected\r\n\r\n")
    await peer.stream.receive()


async def ignore_tunnel(peer: Peer) -> None:
    """Say nothing."""
    await peer.read()
    await peer.read()


@pytest.mark.parametrize("behave", [refuse_tunnel, close_tunnel, garble_tunnel, break_tunnel, ignore_tunnel])
async def test_send_that_does_not_get_through_the_proxy_was_not_sent(behave: Behaviour) -> None:
    """While a proxy opens the tunnel, or TLS begins in it, nothing of the request is under way."""
    async with serving(behave) as server:
        proxy = f"http://127.0.0.1:{server.port}"
        async with SmsClient("https://sms.test/", auth=BearerAuth("token"), proxy=proxy, timeout=0.3) as client:
            with pytest.raises(ConnectionFailed):
                await client.send(**REMINDER)
        assert set(server.requests) == {"CONNECT"}


@asynccontextmanager
async def tunnel_to(target: Server) -> AsyncIterator[Server]:
    """A proxy that lets everything through, to one server."""

    async def forward(peer: Peer) -> None:
        await peer.read()
        await peer.say(b"HTTP/1.1 200 Connected\r\n\r\n")
        async with await anyio.connect_tcp("127.0.0.1", target.port) as onward, anyio.create_task_group() as tasks:
            tasks.start_soon(pump, peer.stream, onward, tasks.cancel_scope)
            tasks.start_soon(pump, onward, peer.stream, tasks.cancel_scope)

    async def pump(source: anyio.abc.ByteStream, sink: anyio.abc.ByteStream, scope: anyio.CancelScope) -> None:
        try:
            while True:
                await sink.send(await source.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            scope.cancel()

    async with serving(forward) as proxy:
        yield proxy


async def test_send_through_a_tunnel_is_judged_as_any(server_context: ssl.SSLContext, ca_file: Path) -> None:
    """Success is one, a broken answer is unknown, and an untrusted certificate means not sent."""
    behaviours: list[Behaviour] = [Peer.serve, close, Peer.serve]

    async def behave(peer: Peer) -> None:
        await behaviours.pop(0)(peer)

    async with serving(behave, server_context) as server, tunnel_to(server) as proxy:
        options: dict[str, Any] = {
            "auth": BearerAuth("token"),
            "proxy": f"http://127.0.0.1:{proxy.port}",
            "allow_insecure": True,
        }
        for verify, expected in ((ca_file, None), (ca_file, SendOutcomeUnknown), (None, ConnectionFailed)):
            async with SmsClient(f"https://localhost:{server.port}/", verify=verify, **options) as client:
                if expected is None:
                    assert (await client.send(**REMINDER)).id == 1
                    continue
                with pytest.raises(SmsError) as caught:
                    await client.send(**REMINDER)
                assert type(caught.value) is expected
        assert server.posts == 2


async def test_environments_proxy_is_not_used_for_this_machine(
    sms_client: SmsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on this machine is reached directly, whatever the environment says."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{await closed_port()}")
    async with sms_client as client:
        assert (await client.send(**REMINDER)).id == 1


# --- connections ----------------------------------------------------------------------------------------


async def test_connection_is_kept_and_used_again() -> None:
    """One after the other, requests share a connection."""
    async with serving(Peer.serve) as server, client_of(server) as client:
        for _ in range(5):
            await client.send(**REMINDER)
            await client.list_messages(date_from=NOON)
        assert (server.connections, server.posts) == (1, 5)


async def test_connection_that_was_closed_while_idle_is_not_used_for_a_send() -> None:
    """A server may close what it likes between two requests; no outcome becomes unknown by that."""
    gone = anyio.Event()

    async def once(peer: Peer) -> None:
        await peer.read()
        await peer.say(http(RECEIPT))
        await peer.stream.aclose()
        gone.set()

    async with serving(once) as server, client_of(server) as client:
        await client.send(**REMINDER)
        await gone.wait()
        await client.send(**REMINDER)
        assert server.posts == 2


async def test_answer_above_the_limit_leaves_a_client_that_works() -> None:
    """What is left of a long answer is dropped with its connection, at once and without a warning."""
    long = iter([gzip.compress(bytes(2**20)), random.randbytes(2**20)])

    async def behave(peer: Peer) -> None:
        body = next(long, None)
        if body is None:
            await peer.serve()
        await peer.read()
        is_short = len(body or b"") < 10_000
        await peer.say(http(body or b"", "200 OK", *(["Content-Encoding: gzip"] if is_short else [])))
        await peer.read()

    async with serving(behave) as server, client_of(server, max_response_bytes=10_000) as client:
        for _ in range(2):
            with pytest.raises(ProtocolError, match="max_response_bytes"):
                await client.list_messages(date_from=NOON)
        assert (await client.send(**REMINDER)).id == 1
        assert server.connections == 3


async def test_cancelled_calls_leave_no_connection_and_keep_no_slot() -> None:
    """Cancelled at any tick, calls close what they opened, and the next ones work."""
    open_connections = 0

    async def count(peer: Peer) -> None:
        nonlocal open_connections
        open_connections += 1
        try:
            await peer.serve()
        finally:
            open_connections -= 1

    async with serving(count) as server:
        async with client_of(server, max_connections=3) as client:
            for ticks in range(30):
                async with anyio.create_task_group() as tasks:
                    for _ in range(6):
                        tasks.start_soon(client.list_numbers)
                    for _ in range(ticks):
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
            async with anyio.create_task_group() as tasks:
                for _ in range(12):
                    tasks.start_soon(client.list_numbers)
            await until(lambda: open_connections <= 3)
        await until(lambda: open_connections == 0)


async def test_client_that_is_left_closes_its_connections() -> None:
    """Leaving the block ends kept connections."""
    ended = anyio.Event()

    async def behave(peer: Peer) -> None:
        try:
            await peer.serve()
        finally:
            ended.set()

    async with serving(behave) as server:
        async with client_of(server) as client:
            await client.list_numbers()
            assert not ended.is_set()
        await ended.wait()


async def test_client_can_be_opened_again() -> None:
    """With new connections."""
    async with serving(Peer.serve) as server:
        client = client_of(server)
        for _ in range(2):
            async with client:
                await client.list_numbers()
        assert server.connections == 2


async def test_wrong_path_is_a_refusal() -> None:
    """A 404 says that the address is wrong, and that nothing was sent."""

    async def lost(peer: Peer) -> None:
        await peer.read()
        await peer.say(http(b"<html>Not Found", "404 Not Found", "Content-Type: text/html"))

    async with serving(lost) as server, client_of(server) as client:
        with pytest.raises(RequestRejected, match="check the base URL"):
            await client.send(**REMINDER)
