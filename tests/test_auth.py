"""Authorization: static tokens, tokens of a provider, and Azure AD's by the real MSAL."""

import json
import logging
import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import attrs
import httpx
import pytest
import trustme
from anyio.streams.tls import TLSListener
from fakes import FakeServer, answer, envelope, until

from his_sms_async import (
    AuthenticationError,
    BearerAuth,
    ConfigurationError,
    ConnectionFailed,
    MsalAuth,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    SmsClient,
    SmsError,
    TokenAuth,
    TokenProvider,
)
from his_sms_async.sandbox import RunningSandbox

pytestmark = [pytest.mark.anyio, pytest.mark.sms_sandbox(tls=True, token=None)]  # no static token is good there

NUMBERS = envelope(ClientOperatorNumbers=[])
SCOPE = "api://sandbox/.default"


@attrs.define
class Gate:
    """An SMS server that takes some tokens only; it counts what it refused."""

    good: set[str] = attrs.field(factory=set)
    seen: list[str] = attrs.field(factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        token = request.headers["authorization"].removeprefix("Bearer ")
        self.seen.append(token)
        return answer(200, NUMBERS) if token in self.good else answer(401, b"")


class SlowGate(httpx.AsyncBaseTransport):
    """A gate that lets a crowd gather before it judges anybody."""

    def __init__(self, gate: Gate, crowd: int) -> None:
        self.gate = gate
        self.crowd = crowd
        self.open = anyio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = self.gate(request)
        if len(self.gate.seen) >= self.crowd:
            self.open.set()
        await self.open.wait()
        return response


@attrs.define
class Tokens:
    """A provider of numbered tokens, or of what it is told."""

    forced: int = 0
    asked: int = 0
    make: Callable[[int], Any] = attrs.field(default=lambda forced: f"token-{forced}")

    async def token(self, *, force: bool) -> str:
        self.asked += 1
        self.forced += force
        await anyio.lowlevel.checkpoint()
        made: str = self.make(self.forced)
        return made


def client_of(gate: Callable[[httpx.Request], httpx.Response], auth: httpx.Auth) -> SmsClient:
    """A client in front of a gate."""
    return SmsClient("https://sms.test/", auth=auth, transport=httpx.MockTransport(gate))


async def crowd(size: int, act: Callable[[], Awaitable[object]]) -> list[object]:
    """Do something many times at once; returns results and errors."""
    results: list[object] = []

    async def one() -> None:
        try:
            results.append(await act())
        except SmsError as error:
            results.append(error)

    async with anyio.create_task_group() as tasks:
        for _ in range(size):
            tasks.start_soon(one)
    return results


def test_protocol_is_what_the_examples_implement() -> None:
    """A class with one method is a provider; it need not inherit."""
    provider: TokenProvider = Tokens()
    assert repr(TokenAuth(provider)) == "TokenAuth()"


# --- static tokens --------------------------------------------------------------------------------------


@pytest.mark.spec("2.2.2", "2.2.3")
async def test_bearer_token_stands_in_the_header() -> None:
    """`Authorization: Bearer SomeToken`, in every request."""
    gate = Gate({"SomeToken"})
    async with client_of(gate, BearerAuth("SomeToken")) as client:
        await client.list_numbers()
        await client.list_numbers()
    assert gate.seen == ["SomeToken", "SomeToken"]


async def test_refused_bearer_token_is_not_tried_again() -> None:
    """It cannot change."""
    gate = Gate()
    async with client_of(gate, BearerAuth("old")) as client:
        with pytest.raises(AuthenticationError, match="did not accept the token") as caught:
            await client.list_numbers()
    assert caught.value.http_status == 401
    assert gate.seen == ["old"]


@pytest.mark.parametrize("token", ["", " ", "a b", "a\n", "\ta", "ą", "a\x7f", None, 5, b"a"])
def test_token_that_no_header_can_hold_is_refused(token: Any) -> None:
    """h11 would quote it in its complaint; a file's last line end is such a character."""
    with pytest.raises(ConfigurationError, match="HIS_SMS_TOKEN"):
        BearerAuth(token)


def test_bearer_token_is_not_shown() -> None:
    """Not even its length."""
    assert repr(BearerAuth("SomeToken")) == "BearerAuth()"


# --- tokens of a provider -------------------------------------------------------------------------------


async def test_provider_is_asked_before_each_request() -> None:
    """It keeps its tokens as it sees fit."""
    provider, gate = Tokens(), Gate({"token-0"})
    async with client_of(gate, TokenAuth(provider)) as client:
        await client.list_numbers()
        await client.list_numbers()
    assert (provider.asked, provider.forced) == (2, 0)


async def test_after_a_401_a_fresh_token_is_forced_once() -> None:
    """And the request is repeated with it."""
    provider, gate = Tokens(), Gate({"token-1"})
    async with client_of(gate, TokenAuth(provider)) as client:
        await client.list_numbers()
    assert gate.seen == ["token-0", "token-1"]
    assert provider.forced == 1


async def test_fresh_token_that_is_refused_too_ends_it() -> None:
    """One repetition, not a loop."""
    provider, gate = Tokens(), Gate()
    async with client_of(gate, TokenAuth(provider)) as client:
        with pytest.raises(AuthenticationError):
            await client.list_numbers()
    assert gate.seen == ["token-0", "token-1"]


async def test_fresh_token_that_is_the_same_is_not_tried() -> None:
    """It would be refused again."""
    provider, gate = Tokens(make=lambda forced: "same"), Gate()
    async with client_of(gate, TokenAuth(provider)) as client:
        with pytest.raises(AuthenticationError):
            await client.list_numbers()
    assert gate.seen == ["same"]
    assert provider.forced == 1


@pytest.mark.parametrize("status", [400, 403, 429, 500])
async def test_no_other_status_forces_a_token(status: int) -> None:
    """Only a 401 speaks about the token."""
    provider = Tokens()
    server = FakeServer(script=[answer(status, b"", **{"retry-after": "60"})])
    async with server.client(auth=TokenAuth(provider)) as client:
        with pytest.raises(SmsError):
            await client.list_numbers()
    assert provider.forced == 0


async def refused_crowd(provider: TokenProvider, good: str) -> tuple[Gate, list[object]]:
    """Twenty requests that meet a 401 at the same time."""
    gate = Gate({good})
    transport = SlowGate(gate, 20)
    async with SmsClient(
        "https://sms.test/", auth=TokenAuth(provider), transport=transport, max_connections=20
    ) as client:
        return gate, await crowd(20, client.list_numbers)


async def test_requests_that_meet_a_401_together_share_one_fresh_token() -> None:
    """The provider is forced once, and all are repeated."""
    provider = Tokens()
    gate, results = await refused_crowd(provider, "token-1")
    assert results == [[]] * 20
    assert provider.forced == 1
    assert len(gate.seen) == 40


async def test_requests_that_meet_a_401_together_share_a_token_that_did_not_change() -> None:
    """The provider is forced once, and none is repeated."""
    provider = Tokens(make=lambda forced: "same")
    gate, results = await refused_crowd(provider, "another")
    assert {type(result) for result in results} == {AuthenticationError}
    assert provider.forced == 1
    assert len(gate.seen) == 20


async def test_requests_that_meet_a_401_together_share_a_failure() -> None:
    """A provider that fails is not asked by each of them again."""

    def make(forced: int) -> str:
        if forced:
            raise LookupError
        return "old"

    provider = Tokens(make=make)
    _, results = await refused_crowd(provider, "another")
    assert [str(result) for result in results] == ["the token provider failed"] * 20
    assert len({id(result) for result in results}) == 20
    assert provider.forced == 1


async def test_cancelled_renewal_is_taken_over() -> None:
    """If the request that forces a token is cancelled, another one that waits forces it."""
    begun: list[anyio.Event] = []

    class Held:
        async def token(self, *, force: bool) -> str:
            if not force:
                return "old"
            begun.append(anyio.Event())
            if len(begun) == 1:
                await anyio.sleep_forever()
            return "new"

    gate = Gate({"new"})
    results: list[object] = []
    async with client_of(gate, TokenAuth(Held())) as client, anyio.create_task_group() as tasks:

        async def one(scope: anyio.CancelScope) -> None:
            with scope:
                results.append(await client.list_numbers())

        first = anyio.CancelScope()
        tasks.start_soon(one, first)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(one, anyio.CancelScope())
        await anyio.wait_all_tasks_blocked()
        first.cancel()
    assert results == [[]]
    assert len(begun) == 2


async def test_what_a_provider_raises_is_told_by_its_type() -> None:
    """Its text may hold the secret."""

    def fail(_: int) -> str:
        raise LookupError("client secret hunter2")

    gate = Gate()
    async with client_of(gate, TokenAuth(Tokens(make=fail))) as client:
        with pytest.raises(AuthenticationError, match=r"^the token provider failed$") as caught:
            await client.list_numbers()
    assert str(caught.value.__cause__) == "LookupError"
    assert not gate.seen


async def test_errors_of_ours_pass_a_provider() -> None:
    """A provider can say better what went wrong."""

    def fail(_: int) -> str:
        raise PermissionDenied("ask the hospital's IT")

    async with client_of(Gate(), TokenAuth(Tokens(make=fail))) as client:
        with pytest.raises(PermissionDenied, match=r"^ask the hospital's IT$"):
            await client.list_numbers()


@pytest.mark.parametrize("rubbish", ["", "a b", "a\n", "ą", None, 5, b"bytes", ["list"]])
async def test_provider_that_returns_no_token_is_an_authentication_error(rubbish: Any) -> None:
    """And nothing is sent."""
    gate = Gate()
    async with client_of(gate, TokenAuth(Tokens(make=lambda forced: rubbish))) as client:
        with pytest.raises(AuthenticationError, match="returned no text of visible ASCII"):
            await client.list_numbers()
    assert not gate.seen


def test_sync_client_is_refused() -> None:
    """A token cannot be fetched there; `BearerAuth` needs none."""
    gate = Gate({"token"})
    with httpx.Client(transport=httpx.MockTransport(gate)) as client:
        with pytest.raises(RuntimeError, match=r"TokenAuth works with httpx\.AsyncClient only"):
            client.get("https://sms.test/", auth=TokenAuth(Tokens()))
        assert client.get("https://sms.test/", auth=BearerAuth("token")).status_code == 200


# --- MSAL against the stand-in's Azure AD ---------------------------------------------------------------


@pytest.fixture
def server(sms_sandbox_server: RunningSandbox) -> RunningSandbox:
    """The stand-in, by https."""
    return sms_sandbox_server


def msal_auth(server: RunningSandbox, **options: Any) -> MsalAuth:
    """What the specification configures."""
    settings: dict[str, Any] = {
        "client_id": "his",
        "client_secret": "sandbox-secret",
        "scope": SCOPE,
        "tenant": "sandbox",
        "aad_instance": server.aad_instance,
        "verify": server.ca_file,
    }
    return MsalAuth(**(settings | options))


@pytest.mark.spec("2.1.7", "2.1.8")
async def test_thirty_callers_make_one_token_request(server: RunningSandbox) -> None:
    """However many requests wait for the first token; all are answered by the SMS server that checks it."""
    async with SmsClient(server.url, auth=msal_auth(server), verify=server.ca_file, max_connections=30) as client:
        results = await crowd(30, client.list_numbers)
    assert [isinstance(result, list) and len(result) for result in results] == [3] * 30
    assert server.sandbox.token_requests == 1


async def test_token_that_was_revoked_is_renewed_once(server: RunningSandbox) -> None:
    """A 401 forces one token past MSAL's own cache."""
    async with SmsClient(server.url, auth=msal_auth(server), verify=server.ca_file) as client:
        await client.list_numbers()
        server.sandbox.revoke_tokens()
        results = await crowd(10, client.list_numbers)
    assert {len(result) if isinstance(result, list) else result for result in results} == {3}
    assert server.sandbox.token_requests == 2


async def test_authority_without_a_place_for_the_tenant_needs_none(server: RunningSandbox) -> None:
    """The specification's AADInstance may name the tenant itself."""
    auth = msal_auth(server, aad_instance=server.aad_instance.replace("{0}", "sandbox"), tenant=None)
    async with SmsClient(server.url, auth=auth, verify=server.ca_file) as client:
        assert len(await client.list_numbers()) == 3


async def test_environments_ca_bundle_plays_no_part(
    server: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests lets these variables override `verify`; our way to the network does not."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, "/nowhere/nonsense.pem")
    async with SmsClient(server.url, auth=msal_auth(server), verify=server.ca_file) as client:
        assert len(await client.list_numbers()) == 3


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"client_secret": "wrong-value"}, "client_secret"),
        ({"client_id": "wrong-value"}, "client_id"),
        ({"tenant": "wrong-value"}, "tenant"),
        ({"scope": "api://wrong-value/.default"}, "scope"),
        ({"scope": "api://wrong-value/read"}, "scope"),
    ],
)
async def test_refusal_names_the_setting_to_change(
    server: RunningSandbox, options: dict[str, Any], cure: str
) -> None:
    """By parameter and variable, without showing its value; nothing goes to the SMS server."""
    gate = Gate()
    async with client_of(gate, msal_auth(server, **options)) as client:
        with pytest.raises(AuthenticationError, match=rf"{cure} \(HIS_SMS_{cure.upper()}\)") as caught:
            await client.list_numbers()
    assert "wrong-value" not in str(caught.value)
    assert "AADSTS" in str(caught.value)
    assert not caught.value.retryable
    assert not gate.seen


async def test_cached_token_costs_no_thread_and_no_turn_of_the_loop(server: RunningSandbox) -> None:
    """While a token is good, asking for it does not wait for anything."""
    auth = msal_auth(server)
    first = await auth._provider.token(force=False)
    asking = auth._provider.token(force=False)
    with pytest.raises(StopIteration) as done:
        asking.send(None)
    assert done.value.value == first


async def test_busy_worker_threads_do_not_delay_a_token(server: RunningSandbox) -> None:
    """A host that has used up its threads still gets one."""
    limiter = anyio.to_thread.current_default_thread_limiter()
    holders = [object() for _ in range(int(limiter.available_tokens))]
    for holder in holders:
        limiter.acquire_on_behalf_of_nowait(holder)
    try:
        assert await msal_auth(server)._provider.token(force=False)
    finally:
        for holder in holders:
            limiter.release_on_behalf_of(holder)


async def test_untrusted_certificate_of_azure_ad_is_named(server: RunningSandbox) -> None:
    """It needs a setting, not another attempt, and the secret is not sent."""
    async with client_of(Gate(), msal_auth(server, verify=None)) as client:
        with pytest.raises(ConnectionFailed, match=r"verify \(HIS_SMS_CA_FILE\)") as caught:
            await client.list_numbers()
    assert not caught.value.retryable
    assert server.sandbox.token_requests == 0
    assert isinstance(caught.value.__cause__, Exception)


async def test_ca_file_that_cannot_be_read_is_a_wrong_setting(server: RunningSandbox, tmp_path: Path) -> None:
    """As for the SMS server's."""
    async with client_of(Gate(), msal_auth(server, verify=tmp_path / "missing.pem")) as client:
        with pytest.raises(ConfigurationError, match="HIS_SMS_CA_FILE"):
            await client.list_numbers()


# --- MSAL against an Azure AD that misbehaves -----------------------------------------------------------


@attrs.define(eq=False)
class FakeAzureAD:
    """Discovery and a token endpoint; the script answers token requests first, then they succeed."""

    script: list[bytes | Callable[[], Awaitable[bytes]]] = attrs.field(factory=list)
    discovery: list[bytes] = attrs.field(factory=list)
    lifetime: Any = 3600
    more: dict[str, Any] = attrs.field(factory=dict)
    requests: int = 0
    discoveries: int = 0
    port: int = 0

    async def handle(self, stream: anyio.abc.ByteStream) -> None:
        """Answer one request."""
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await self.answer(stream)

    async def answer(self, stream: anyio.abc.ByteStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive()
        if head.startswith(b"GET"):
            self.discoveries += 1
            authority = f"https://localhost:{self.port}/t"
            names = ("issuer", "authorization_endpoint", "token_endpoint")
            good = reply(200, {name: f"{authority}/{name}" for name in names})
            await stream.send(self.discovery.pop(0) if self.discovery else good)
            return
        while b"grant_type" not in head:
            head += await stream.receive()
        self.requests += 1
        token = {"token_type": "Bearer", "access_token": f"token-{self.requests}", "expires_in": self.lifetime}
        scripted = self.script.pop(0) if self.script else reply(200, token | self.more)
        await stream.send(scripted if isinstance(scripted, bytes) else await scripted())


def reply(status: int, body: Any, *headers: str) -> bytes:
    """A response; what is not bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A CA of the tests' own."""
    return trustme.CA()


@pytest.fixture(scope="module")
def trust(authority: trustme.CA) -> ssl.SSLContext:
    """What trusts it, and is built once."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    """What the fake Azure AD presents."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


Start = Callable[..., Any]


@pytest.fixture
def start(tls: ssl.SSLContext, trust: ssl.SSLContext) -> Start:
    """Serve a fake Azure AD in a block, which yields a `MsalAuth` for it."""

    @asynccontextmanager
    async def start(azure_ad: FakeAzureAD, **options: Any) -> AsyncIterator[MsalAuth]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        azure_ad.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        settings: dict[str, Any] = {
            "client_id": "his",
            "client_secret": "secret",
            "scope": SCOPE,
            "aad_instance": f"https://localhost:{azure_ad.port}/t",
            "verify": trust,
        }
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(TLSListener(listener, tls, standard_compatible=False).serve, azure_ad.handle)
            yield MsalAuth(**(settings | options))
            tasks.cancel_scope.cancel()

    return start


@attrs.define
class Clock:
    """Seconds that a test turns."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


FAILING = reply(500, b"oops")


@pytest.mark.parametrize(
    ("lifetime", "more", "renewed_after"),
    [
        (3600, {}, 3300.0),
        (400, {}, 200.0),
        (86400, {"refresh_in": 43200}, 43200.0),
        (3600, {"refresh_in": 86400}, 3300.0),
    ],
)
async def test_token_is_renewed_ahead_of_its_end(
    start: Start, lifetime: int, more: dict[str, Any], renewed_after: float
) -> None:
    """Five minutes before, or after half of a short life, or when Azure AD says; not a second earlier."""
    clock, azure_ad = Clock(), FakeAzureAD(lifetime=lifetime, more=more)
    async with start(azure_ad, clock=clock) as auth:
        assert await auth._provider.token(force=False) == "token-1"
        clock.now += renewed_after - 1
        assert await auth._provider.token(force=False) == "token-1"
        clock.now += 1
        assert await auth._provider.token(force=False) == "token-2"
        assert await auth._provider.token(force=False) == "token-2"
    assert (azure_ad.requests, azure_ad.discoveries) == (2, 1)


async def test_token_in_hand_is_used_while_it_is_valid_and_its_renewal_fails(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """The failure is a warning, and the renewal is tried again after half a minute."""
    clock, azure_ad = Clock(), FakeAzureAD()
    with caplog.at_level(logging.WARNING, "his_sms_async._auth"):
        async with start(azure_ad, clock=clock) as auth:
            await auth._provider.token(force=False)
            azure_ad.script = [FAILING]
            clock.now += 3300
            assert await auth._provider.token(force=False) == "token-1"
            clock.now += 29
            assert await auth._provider.token(force=False) == "token-1"
            assert azure_ad.requests == 2
            clock.now += 1
            assert await auth._provider.token(force=False) == "token-3"
    assert "(ConnectionFailed); the last one is used while it is valid" in caplog.text


async def test_others_use_the_token_in_hand_while_it_is_renewed(start: Start) -> None:
    """A renewal makes nobody wait but the one who makes it."""
    clock, azure_ad, let_go = Clock(), FakeAzureAD(), anyio.Event()

    async def wait() -> bytes:
        await let_go.wait()
        return FAILING

    async with start(azure_ad, clock=clock) as auth, anyio.create_task_group() as tasks:
        await auth._provider.token(force=False)
        azure_ad.script = [wait]
        clock.now += 3300
        tasks.start_soon(crowd, 1, lambda: auth._provider.token(force=False))
        await until(lambda: azure_ad.requests == 2)
        assert await crowd(10, lambda: auth._provider.token(force=False)) == ["token-1"] * 10
        let_go.set()
    assert azure_ad.requests == 2


async def test_expired_token_is_not_used_when_its_renewal_fails(start: Start) -> None:
    """It would be refused; the failure tells that nothing was sent and may pass."""
    clock, azure_ad = Clock(), FakeAzureAD()
    async with start(azure_ad, clock=clock) as auth:
        await auth._provider.token(force=False)
        azure_ad.script = [FAILING, FAILING]
        clock.now += 3600
        for _ in range(2):
            with pytest.raises(ConnectionFailed, match=r"Azure AD failed \(HTTP 500\)") as caught:
                await auth._provider.token(force=False)
        assert caught.value.retryable
        assert await auth._provider.token(force=False) == "token-4"


async def test_refused_token_is_not_used_when_its_renewal_fails(start: Start) -> None:
    """A forced renewal does not fall back to what the SMS server has just refused."""
    azure_ad = FakeAzureAD()
    async with start(azure_ad) as auth:
        await auth._provider.token(force=False)
        azure_ad.script = [FAILING]
        with pytest.raises(ConnectionFailed):
            await auth._provider.token(force=True)


async def test_one_flight_shares_its_failure(start: Start) -> None:
    """Whoever waits is told at once, each by an error of his own, and nobody asks again."""
    azure_ad, let_go = FakeAzureAD(), anyio.Event()

    async def fail() -> bytes:
        await let_go.wait()
        return FAILING

    azure_ad.script = [fail]
    results: list[object] = []
    async with start(azure_ad) as auth:

        async def gather() -> None:
            results.extend(await crowd(10, lambda: auth._provider.token(force=False)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gather)
            await until(lambda: azure_ad.requests == 1)
            let_go.set()
    assert {type(result) for result in results} == {ConnectionFailed}
    assert len({id(result) for result in results}) == 10
    assert azure_ad.requests == 1


async def test_requests_refused_together_share_the_failure_of_one_renewal(start: Start) -> None:
    """When Azure AD is down too, twenty requests that met a 401 do not ask it twenty times."""
    azure_ad = FakeAzureAD()
    transport = SlowGate(Gate(), 20)
    async with (
        start(azure_ad) as auth,
        SmsClient("https://sms.test/", auth=auth, transport=transport, max_connections=20, timeout=1.0) as client,
    ):
        await auth._provider.token(force=False)
        azure_ad.script = [reply(401, {"error": "invalid_client"}) for _ in range(30)]
        results = await crowd(20, client.list_numbers)
    assert {type(result) for result in results} == {AuthenticationError}
    assert azure_ad.requests == 2


async def test_cancelled_leader_hands_over(start: Start) -> None:
    """The flight of a caller that is cancelled is made again by one that waits."""
    azure_ad, held = FakeAzureAD(), anyio.Event()

    async def hold() -> bytes:
        await held.wait()
        return reply(200, {"access_token": "of a flight that nobody waits for", "expires_in": 3600})

    azure_ad.script = [hold]
    results: list[object] = []
    async with start(azure_ad) as auth, anyio.create_task_group() as tasks:
        leader = anyio.CancelScope()

        async def lead() -> None:
            with leader:
                results.append(await auth._provider.token(force=False))

        async def follow() -> None:
            results.append(await auth._provider.token(force=False))

        tasks.start_soon(lead)
        await until(lambda: azure_ad.requests == 1)
        tasks.start_soon(follow)
        tasks.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        leader.cancel()
        await until(lambda: len(results) == 2)
        held.set()
    assert results == ["token-2", "token-2"]
    assert leader.cancelled_caught


async def test_azure_ad_that_does_not_answer_is_given_up(start: Start) -> None:
    """`timeout` is for a token request all in all; the caller learns that nothing was sent."""

    async def never() -> bytes:
        await anyio.sleep_forever()
        return b""

    async with start(FakeAzureAD(script=[never]), timeout=0.5) as auth:
        with pytest.raises(ConnectionFailed) as caught:
            await auth._provider.token(force=False)
    assert caught.value.retryable
    assert "Azure AD" in str(caught.value)


async def test_azure_ad_that_drips_is_given_up(start: Start) -> None:
    """Also one that answers a byte at a time."""

    class Dripping(FakeAzureAD):
        async def answer(self, stream: anyio.abc.ByteStream) -> None:
            for byte in reply(200, {}) * 10:
                await stream.send(bytes([byte]))
                await anyio.sleep(0.05)

    async with start(Dripping(), timeout=0.5) as auth:
        with pytest.raises(ConnectionFailed, match=r"within 0\.5 s"):
            await auth._provider.token(force=False)


ANSWERS: list[tuple[bytes, type[SmsError], str]] = [
    (reply(200, b"<html>Log in", "Content-Type: text/html"), ProtocolError, "not JSON"),
    (reply(200, b""), ProtocolError, "not JSON"),
    (reply(200, ["token"]), ProtocolError, "not JSON"),
    (reply(200, b"[" * 100_000), ProtocolError, "not JSON"),
    (reply(404, b"<html>"), ProtocolError, "not JSON"),
    (reply(302, b"", "Location: https://elsewhere.test/"), ProtocolError, "not JSON"),
    (reply(500, b"<html>"), ConnectionFailed, "HTTP 500"),
    (reply(503, {"error": "temporarily_unavailable"}), ConnectionFailed, "HTTP 503"),
    (reply(429, {"error": "throttled"}, "Retry-After: 30"), RateLimited, "slow down"),
    (b"", ConnectionFailed, "cannot be reached"),
    (b"SSH-2.0-OpenSSH\r\n\r\n", ConnectionFailed, "cannot be reached"),
]


@pytest.mark.parametrize(("response", "expected", "text"), ANSWERS)
@pytest.mark.parametrize("where", ["discovery", "script"])
async def test_answer_that_is_no_token_has_its_error(
    start: Start, response: bytes, expected: type[SmsError], text: str, where: str
) -> None:
    """At discovery and at the token endpoint alike; the next attempt asks again, and finds a token."""
    azure_ad = FakeAzureAD()
    getattr(azure_ad, where).append(response)
    async with start(azure_ad) as auth:
        with pytest.raises(SmsError, match=text) as caught:
            await auth._provider.token(force=False)
        assert await auth._provider.token(force=False)
    assert type(caught.value) is expected
    assert caught.value.retryable is not (expected is ProtocolError)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "no reason given"),
        ({"error": 5}, "no reason given"),
        ({"access_token": None}, "."),
        ({"error": "invalid_grant", "error_description": "AADSTS7000222: expired"}, "has expired"),
        ({"error": "Odd Words!", "error_description": ["list"]}, "no reason given"),
        ({"error": "invalid_client", "error_description": "something"}, r"\(invalid_client\): check aad_instance"),
        ({"access_token": "a token", "expires_in": 3600}, "no text of visible ASCII"),
        ({"access_token": ["token"], "expires_in": 3600}, "."),
        ({"access_token": "token", "expires_in": "soon"}, "."),
        ({"access_token": "token", "expires_in": None}, "."),
    ],
)
@pytest.mark.parametrize("status", [200, 400])
async def test_refusal_is_an_authentication_error(
    start: Start, body: dict[str, Any], text: str, status: int
) -> None:
    """Whatever shape it has; what Azure AD says is told by its codes alone."""
    if status == 400 and "expires_in" in body:
        return
    azure_ad = FakeAzureAD(script=[reply(status, body)])
    async with start(azure_ad) as auth, client_of(Gate(), auth) as client:
        with pytest.raises(AuthenticationError, match=text):
            await client.list_numbers()


async def test_rubbish_token_is_not_kept(start: Start) -> None:
    """The next request asks Azure AD again, not the memory of what it said."""
    azure_ad = FakeAzureAD(script=[reply(200, {"access_token": "a token", "expires_in": 3600})])
    async with start(azure_ad) as auth, client_of(Gate({"token-2"}), auth) as client:
        with pytest.raises(AuthenticationError):
            await client.list_numbers()
        assert await client.list_numbers() == []


async def test_wait_that_azure_ad_asks_for_is_told(start: Start) -> None:
    """`retry_after` is in seconds, or None."""
    for header, expected in (("Retry-After: 30", 30.0), ("Retry-After: soon", None)):
        azure_ad = FakeAzureAD(script=[reply(429, {"error": "throttled"}, header)])
        async with start(azure_ad) as auth:
            with pytest.raises(RateLimited) as caught:
                await auth._provider.token(force=False)
        assert caught.value.retry_after == expected
        assert caught.value.http_status == 429


async def closed_port() -> int:
    """A port where nobody listens."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port: int = listener.extra(anyio.abc.SocketAttribute.local_port)
    await listener.aclose()
    return port


@pytest.mark.parametrize("option", ["aad_instance", "proxy"])
async def test_azure_ad_that_cannot_be_reached_is_a_failed_connection(start: Start, option: str) -> None:
    """Directly or through a proxy; the cause keeps what the network said."""
    port = await closed_port()
    url = {"aad_instance": f"https://localhost:{port}/t", "proxy": f"http://127.0.0.1:{port}"}[option]
    async with start(FakeAzureAD(), **{option: url}) as auth:
        with pytest.raises(ConnectionFailed, match="cannot be reached") as caught:
            await auth._provider.token(force=False)
    assert caught.value.retryable
    assert "ConnectError" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"client_id": ""}, "HIS_SMS_CLIENT_ID"),
        ({"client_secret": " "}, "HIS_SMS_CLIENT_SECRET"),
        ({"client_secret": None}, "HIS_SMS_CLIENT_SECRET"),
        ({"scope": ["api://x/.default"]}, "HIS_SMS_SCOPE"),
        ({"tenant": None}, "HIS_SMS_TENANT"),
        ({"tenant": ""}, "HIS_SMS_TENANT"),
        ({"aad_instance": "http://login.test/{0}"}, "HIS_SMS_AAD_INSTANCE"),
        ({"aad_instance": "https://login.test"}, "HIS_SMS_AAD_INSTANCE"),
        ({"aad_instance": "https://login.test/"}, "HIS_SMS_AAD_INSTANCE"),
        ({"aad_instance": "https://user:password@login.test/{0}"}, "HIS_SMS_AAD_INSTANCE"),
        ({"aad_instance": ""}, "HIS_SMS_AAD_INSTANCE"),
        ({"aad_instance": None}, "HIS_SMS_AAD_INSTANCE"),
        ({"tenant": 5}, "HIS_SMS_TENANT"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": math.nan}, "timeout"),
        ({"proxy": "user:password@proxy:8080"}, "proxy"),
    ],
)
def test_option_that_cannot_be_right_is_refused(options: dict[str, Any], name: str) -> None:
    """The error comes from the constructor, and names parameter or variable."""
    good: dict[str, Any] = {"client_id": "his", "client_secret": "s", "scope": SCOPE, "tenant": "t"}
    assert repr(MsalAuth(**good)) == "MsalAuth()"
    with pytest.raises(ConfigurationError, match=name) as caught:
        MsalAuth(**(good | options))
    assert "password" not in str(caught.value)
