"""No operation shows a patient's data or a secret: not in logs, not in exceptions, not in any `repr`."""

import gc
import json
import logging
import random
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import httpx
import pytest
import trustme
from anyio.streams.tls import TLSListener
from fakes import NOON, NOON_IN_VILNIUS, FakeClock, FakeServer, answer, envelope, failure, row, until

from his_sms_async import (
    AuthenticationError,
    BearerAuth,
    ConfigurationError,
    IncomingPoller,
    MemoryStore,
    MsalAuth,
    ProtocolError,
    SendOutcomeUnknown,
    SmsClient,
    SmsError,
    TokenAuth,
)
from his_sms_async.sandbox import RunningSandbox

pytestmark = pytest.mark.anyio

PATIENT = "37069990001"
HOSPITAL = "37069990002"
TEXT = "Bloodtest7f3aPositive"
KEY = 918273645
TOKEN = "tokenQx81Zk"
SECRET = "secretWv52Rm"
PASSWORD = "passwordLp07"
MARKERS = (PATIENT, HOSPITAL, TEXT, str(KEY), TOKEN, SECRET, PASSWORD)

REMINDER: dict[str, Any] = {"sender": HOSPITAL, "recipient": PATIENT, "text": TEXT, "external_key": KEY}
TESTS = Path(__file__).parent
NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody, which is enough for plain connections, and takes no time to build."""


# --- the checker ----------------------------------------------------------------------------------------


def marked(shown: str) -> bool:
    """Whether a text shows what it must not."""
    return any(marker in shown for marker in MARKERS)


def safe_repr(value: object) -> str:
    """A value as an error tracker shows it."""
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - an object that is half made
        return ""


def family(error: BaseException | None) -> Iterator[BaseException]:
    """An exception with its causes, contexts and members, each once."""
    found: dict[int, BaseException] = {}
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in found:
            continue
        found[id(one)] = one
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
    yield from found.values()


def leaks_of(error: BaseException) -> list[str]:
    """Where an exception, or anything that led to it, shows a marker; frames of tests do not count."""
    leaks: list[str] = []
    for one in family(error):
        name = type(one).__qualname__
        shown = {
            "str": str(one),
            "repr": repr(one),
            "args": repr(one.args),
            "notes": repr(getattr(one, "__notes__", ())),
            "traceback": "".join(traceback.format_exception(one, chain=False)),
        }
        leaks += [f"{what} of {name}" for what, text in shown.items() if marked(text)]
        for frame, line in traceback.walk_tb(one.__traceback__):
            if Path(frame.f_code.co_filename).parent == TESTS:
                continue
            leaks += [
                f"{variable} in {frame.f_code.co_qualname} ({frame.f_code.co_filename}:{line})"
                for variable, value in frame.f_locals.items()
                if marked(safe_repr(value))
            ]
    return leaks


def objects_of_ours() -> list[object]:
    """Every object of this package that is alive."""
    everything = gc.get_objects()
    classes = {one for one in set(map(type, everything)) if str(one.__module__).startswith("his_sms_async")}
    return [one for one in everything if type(one) in classes]


class Watch(logging.Handler):
    """Sees every log record of every logger, and every exception that it is shown."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.leaks: list[str] = []
        self.records = 0
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Look at the message, at what it was made of, and at an exception that goes with it."""
        self.records += 1
        if marked(record.getMessage()) or marked(repr(record.args)) or marked(repr(record.__dict__)):
            self.leaks.append(f"record of {record.name}: {record.msg}")
        if record.exc_info and record.exc_info[1]:
            self.leaks += leaks_of(record.exc_info[1])

    async def sees(self, act: Callable[[], Awaitable[object]]) -> BaseException:
        """Run what must fail, and look at how it failed."""
        with pytest.raises(Exception) as caught:
            await act()
        return self.look_at(caught.value)

    def look_at(self, error: BaseException) -> BaseException:
        """Look at an exception."""
        self.errors.append(error)
        self.leaks += leaks_of(error)
        return error

    def look_at_objects(self) -> int:
        """Look at the `repr` of every object of ours that is alive; returns how many."""
        ours = objects_of_ours()
        self.leaks += [f"repr of {type(one).__qualname__}" for one in ours if marked(safe_repr(one))]
        return len(ours)


@pytest.fixture
def unchecked_watch() -> Iterator[Watch]:
    """Listen to all loggers at the lowest level."""
    gc.freeze()  # what was there before, or is left of another test, is not looked at
    watch = Watch()
    root = logging.getLogger()
    loggers = [root, *(one for one in root.manager.loggerDict.values() if isinstance(one, logging.Logger))]
    before = [(one, one.level, one.propagate, one.disabled) for one in loggers]
    for one in loggers:
        one.setLevel(logging.DEBUG)
        one.propagate, one.disabled = True, False
    root.addHandler(watch)
    try:
        yield watch
    finally:
        gc.unfreeze()
        root.removeHandler(watch)
        for one, level, propagate, disabled in before:
            one.setLevel(level)
            one.propagate, one.disabled = propagate, disabled


@pytest.fixture
def watch(unchecked_watch: Watch) -> Iterator[Watch]:
    """Fail at the end if anything was shown."""
    yield unchecked_watch
    assert not unchecked_watch.leaks


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses before repetitions last no time."""
    monkeypatch.setattr(random, "random", lambda: 0.0)


# --- the checker's own test -----------------------------------------------------------------------------


def plant(where: str) -> None:
    """Fail in a way that shows a number in one place; compiled as if it stood in another file."""
    sources = {
        "str": f"raise ValueError('number {PATIENT}')",
        "local": f"number = {{'To': [b'{PATIENT}']}}\nraise ValueError('x')",
        "cause": f"raise ValueError('x') from KeyError('{PATIENT}')",
        "context": f"try:\n  raise KeyError('{PATIENT}')\nexcept KeyError:\n  raise ValueError('x') from None",
        "frame of a cause": (
            f"def f():\n  text = '{TEXT}'\n  raise KeyError('x')\n"
            "try:\n  f()\nexcept KeyError as e:\n  raise ValueError('y') from e"
        ),
        "note": f"e = ValueError('x')\ne.add_note('{TEXT}')\nraise e",
        "member": f"raise ExceptionGroup('x', [ValueError({KEY})])",
        "args": f"class E(Exception):\n  __str__ = __repr__ = lambda _: ''\nraise E('{TOKEN}')",
        "nothing": "raise ValueError('x')",
    }
    exec(compile(sources[where], "/elsewhere/httpcore.py", "exec"), {})


@pytest.mark.parametrize(
    "where", ["str", "local", "cause", "context", "frame of a cause", "note", "member", "args", "nothing"]
)
def test_checker_finds_what_is_planted(where: str) -> None:
    """Each place where an exception could show something is looked at, and an innocent one passes."""
    with pytest.raises(Exception) as caught:
        plant(where)
    assert bool(leaks_of(caught.value)) is (where != "nothing")


def test_checker_skips_the_frames_of_tests() -> None:
    """A test holds numbers, of course."""
    number = PATIENT
    with pytest.raises(ValueError) as caught:
        int(number[:1] + "x")
    assert not leaks_of(caught.value)


def test_checker_sees_all_loggers(unchecked_watch: Watch) -> None:
    """A record of any logger at any level is looked at, and the exception in it."""
    logging.getLogger("some.library").debug("to %s", PATIENT)
    assert unchecked_watch.leaks == ["record of some.library: to %s"]
    try:
        plant("local")
    except ValueError:
        logging.getLogger("httpx.more").exception("failed")
    assert any(leak.startswith("number in <module>") for leak in unchecked_watch.leaks)


def test_checker_sees_objects(unchecked_watch: Watch) -> None:
    """An object of ours that shows something is found while it lives."""
    from his_sms_async import ProtocolError  # noqa: PLC0415 - for this test alone

    error = ProtocolError(TEXT)
    assert unchecked_watch.look_at_objects()
    assert unchecked_watch.leaks == ["repr of ProtocolError"]
    del error


# --- a server that repeats what it hears ----------------------------------------------------------------


async def read_request(stream: anyio.abc.ByteReceiveStream) -> bytes:
    """A whole request, head and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].split(b":")[1]) if lengths else 0
    while len(body) < length:
        body += await stream.receive()
    return head + b"\r\n\r\n" + body


@asynccontextmanager
async def serving(answers: Callable[[bytes], bytes], tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Answer each connection's first request with bytes, and close it; yields the port."""

    async def handle(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.send(answers(await read_request(stream)))

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port: int = listener.extra(anyio.abc.SocketAttribute.local_port)
    serve = TLSListener(listener, tls, standard_compatible=False) if tls else listener
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(serve.serve, handle)
        yield port
        tasks.cancel_scope.cancel()


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """A response in bytes."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def line_of(request: bytes) -> str:
    """A request in one line, as a header can hold it."""
    return " ".join(request.decode().split())


def echo_in_envelope(request: bytes, status: str = "200 OK", *fields: str) -> bytes:
    """An error whose message, and the fields that are named, repeat the request."""
    said = line_of(request)
    state = {"StatusCode": "OK", "ErrorCode": "Internal", "ErrorMessage": said} | dict.fromkeys(fields, said)
    return http(json.dumps({"Data": None, "Status": state}).encode(), status, "Content-Type: application/json")


ECHOES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda request: b"",
    "status line": lambda request: line_of(request).encode() + b"\r\n\r\n",
    "raw": lambda request: request,
    "body": lambda request: request.partition(b"\r\n\r\n")[2] + b"\r\n\r\n",
    "version": lambda request: f"HTTP/{line_of(request)} 200 OK\r\n\r\n".encode(),
    "reason of 200": lambda request: http(b"", f"200 {line_of(request)}"),
    "reason of 400": lambda request: http(b"", f"400 {line_of(request)}"),
    "reason of 500": lambda request: http(b"", f"500 {line_of(request)}"),
    "header": lambda request: http(b"", "200 OK", f"X-Echo: {line_of(request)}"),
    "header name": lambda request: http(b"", "200 OK", f"{line_of(request)}: x"),
    "header without colon": lambda request: http(b"", "200 OK", line_of(request).replace(":", "")),
    "location": lambda request: http(b"", "302 Found", f"Location: https://[{line_of(request)}"),
    "location port": lambda request: http(b"", "302 Found", f"Location: https://a:{PATIENT}{TOKEN}/"),
    "location with control": lambda request: http(b"", "302 Found", f"Location: https://a/{TOKEN}\x01"),
    "date": lambda request: http(b"", "200 OK", f"Date: {line_of(request)}"),
    "retry-after": lambda request: http(b"", "429 Slow", f"Retry-After: {line_of(request)}"),
    "cookie": lambda request: http(b"", "200 OK", f"Set-Cookie: {line_of(request)}"),
    "content-type": lambda request: http(b"", "200 OK", f"Content-Type: {line_of(request)}"),
    "content-encoding": lambda request: http(b"{}", "200 OK", f"Content-Encoding: {line_of(request)}"),
    "content-length": lambda request: f"HTTP/1.1 200 OK\r\nContent-Length: {line_of(request)}\r\n\r\n".encode(),
    "transfer-encoding": lambda request: (
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {line_of(request)}\r\n\r\n".encode()
    ),
    "chunk": lambda request: (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + line_of(request).encode() + b"\r\n"
    ),
    "broken gzip": lambda request: http(request, "200 OK", "Content-Encoding: gzip"),
    "cut body": lambda request: http(request, "200 OK")[:-3],
    "HTML": lambda request: http(b"<html>" + request, "200 OK", "Content-Type: text/html"),
    "HTML of 500": lambda request: http(b"<html>" + request, "500 Oops", "Content-Type: text/html"),
    "HTML of 401": lambda request: http(b"<html>" + request, "401 No", "Content-Type: text/html"),
    "text": lambda request: http(request, "200 OK"),
    "JSON text": lambda request: http(json.dumps(line_of(request)).encode()),
    "ErrorMessage": echo_in_envelope,
    "ErrorMessage of 400": lambda request: echo_in_envelope(request, "400 Bad Request"),
    "ErrorMessage of 500": lambda request: echo_in_envelope(request, "500 Oops"),
    "StatusCode": lambda request: echo_in_envelope(request, "200 OK", "StatusCode"),
    "ErrorCode": lambda request: echo_in_envelope(request, "200 OK", "ErrorCode"),
    "Data": lambda request: http(json.dumps(envelope() | {"Data": line_of(request)}).encode()),
    "Messages": lambda request: http(json.dumps(envelope(Messages=line_of(request))).encode()),
    "a row": lambda request: http(json.dumps(envelope(Messages=[line_of(request)])).encode()),
    "Id": lambda request: http(json.dumps(envelope(Id=line_of(request), Messages=[{"Id": TEXT}])).encode()),
    "CreatedAt": lambda request: http(json.dumps(envelope(Id=1, CreatedAt=line_of(request))).encode()),
    "problem": lambda request: http(
        json.dumps({"title": line_of(request)}).encode(), "422 No", "Content-Type: application/problem+json"
    ),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
async def test_server_that_repeats_what_it_hears_is_not_repeated_by_us(
    watch: Watch, echo: Callable[[bytes], bytes]
) -> None:
    """Wherever a server quotes the request, token included, neither log nor error shows it."""
    async with (
        serving(echo) as port,
        SmsClient(f"http://127.0.0.1:{port}/", auth=BearerAuth(TOKEN), verify=NOBODY) as client,
    ):
        for act in (
            lambda: client.send(**REMINDER),
            lambda: client.list_messages(date_from=NOON),
            client.list_numbers,
        ):
            if await succeeds(act):
                continue
            assert isinstance(await watch.sees(act), SmsError)
        watch.look_at_objects()


async def succeeds(act: Callable[[], Awaitable[object]]) -> bool:
    """Whether an operation has nothing to complain about."""
    try:
        await act()
    except SmsError:
        return False
    return True


async def test_success_shows_nothing(watch: Watch) -> None:
    """Nor does a log line tell whom an SMS went to, or came from."""
    said = http(json.dumps(envelope(Id=1, CreatedAt="2026-03-10T12:00:00")).encode())
    rows = [row(1, sender=PATIENT, Text=TEXT, To=HOSPITAL)]
    listed = http(json.dumps(envelope(Messages=rows)).encode())
    owned = [{"OperatorNumberId": 1, "Number": HOSPITAL}]
    numbers = http(json.dumps(envelope(ClientOperatorNumbers=owned)).encode())

    def echo(request: bytes) -> bytes:
        return said if request.startswith(b"POST") else numbers if b"type=Numbers" in request else listed

    async with (
        serving(echo) as port,
        SmsClient(f"http://127.0.0.1:{port}/", auth=BearerAuth(TOKEN), verify=NOBODY) as client,
    ):
        results = [
            await client.send(**REMINDER),
            await client.list_messages(date_from=NOON),
            await client.list_numbers(),
            client,
        ]
        watch.look_at_objects()
    assert not any(marked(repr(result)) for result in results)
    assert watch.records


# --- sending and reading, over a transport in memory ----------------------------------------------------

TROUBLES: list[Any] = [
    httpx.ConnectError(f"x {TOKEN}'"),
    httpx.ReadError(f'"{TEXT}"'),
    httpx.ReadTimeout("x"),
    httpx.PoolTimeout("x"),
    httpx.RemoteProtocolError(f"illegal status line: bytearray(b'{PATIENT}')"),
    httpx.LocalProtocolError(f"Illegal header value b'Bearer {TOKEN}'"),
    ConnectionResetError(104, "reset"),
    answer(400, failure("InvalidClientNumber")),
    answer(400, failure("InvalidMessageOwner")),
    answer(401, TEXT.encode()),
    answer(403, TEXT.encode()),
    answer(429, TEXT.encode()),
    answer(500, TEXT.encode()),
    answer(200, TEXT.encode()),
    answer(200, failure(TEXT)),
    answer(200, failure("OK", TEXT)),
    answer(200, {TEXT: PATIENT}),
    answer(200, {"Status": {"StatusCode": [TEXT], "ErrorCode": {TEXT: 1}}}),
    answer(200, envelope(Id=TEXT, CreatedAt=PATIENT, Messages=TEXT, ClientOperatorNumbers=TEXT)),
]


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_failed_send_shows_nothing(watch: Watch, trouble: Any) -> None:
    """Each kind of failure, repeated or not."""
    server = FakeServer(script=[trouble] * 4)
    async with server.client(auth=BearerAuth(TOKEN)) as client:
        assert isinstance(await watch.sees(lambda: client.send(**REMINDER)), SmsError)
        watch.look_at_objects()


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_failed_read_shows_nothing(watch: Watch, trouble: Any) -> None:
    """Each kind of failure, repeated or not."""
    server = FakeServer(script=[trouble] * 4)
    async with server.client(auth=BearerAuth(TOKEN)) as client:
        assert isinstance(await watch.sees(client.list_numbers), SmsError)


@pytest.mark.parametrize(
    "change",
    [
        {"sender": ""},
        {"recipient": int(PATIENT)},
        {"text": TEXT + "\ud83d"},
        {"text": TEXT.encode()},
        {"external_key": str(KEY)},
        {"external_key": float(KEY)},
    ],
)
async def test_refused_arguments_are_not_shown(watch: Watch, change: dict[str, Any]) -> None:
    """A wrong argument is named, and the others are not shown either."""
    async with FakeServer().client() as client:
        error = await watch.sees(lambda: client.send(**(REMINDER | change)))
    assert isinstance(error, ConfigurationError)


async def test_send_outside_the_block_shows_nothing(watch: Watch) -> None:
    """A mistake in the program is reported with its frames, and they show nothing."""
    client = FakeServer().client(auth=BearerAuth(TOKEN))
    assert isinstance(await watch.sees(lambda: client.send(**REMINDER)), RuntimeError)


async def test_timeout_shows_nothing(watch: Watch) -> None:
    """Nor does a call that was cut off by its time limit."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with (
        listener,
        SmsClient(f"http://127.0.0.1:{port}/", auth=BearerAuth(TOKEN), timeout=0.1) as client,
    ):
        assert isinstance(await watch.sees(lambda: client.send(**REMINDER)), SendOutcomeUnknown)


BAD_ROWS: list[Any] = [
    TEXT,
    None,
    [TEXT],
    row(1, sender=PATIENT, Text=TEXT, Id=TEXT),
    row(1, sender=PATIENT, Text=TEXT, Id=None),
    row(1, sender=PATIENT, Text=TEXT, CreatedAt=TEXT),
    row(1, sender=PATIENT, Text=TEXT, UpdatedAt=TEXT),
    row(1, sender=PATIENT, Text=TEXT, Type=TEXT),
    row(1, sender=PATIENT, Text=TEXT, State=[TEXT]),
    row(1, sender=PATIENT, Text=[TEXT]),
    row(1, Text=TEXT, From=int(PATIENT)),
    row(1, Text=TEXT, To={HOSPITAL: TEXT}),
    row(1, sender=PATIENT, Text=TEXT, ReplyToMessageId=TEXT),
]


@pytest.mark.parametrize("bad", BAD_ROWS)
async def test_malformed_row_is_not_shown(watch: Watch, bad: Any) -> None:
    """The error tells index and field, and neither this row nor its neighbours."""
    server = FakeServer(script=[answer(200, envelope(Messages=[row(2, sender=PATIENT, Text=TEXT), bad]))])
    async with server.client() as client:
        assert isinstance(await watch.sees(lambda: client.list_messages(date_from=NOON)), ProtocolError)


@pytest.mark.parametrize("bad", [TEXT, {"OperatorNumberId": TEXT, "Number": HOSPITAL}, {"Number": HOSPITAL}])
async def test_malformed_number_is_not_shown(watch: Watch, bad: Any) -> None:
    """Likewise for the hospital's own numbers."""
    server = FakeServer(script=[answer(200, envelope(ClientOperatorNumbers=[bad]))])
    async with server.client() as client:
        assert isinstance(await watch.sees(client.list_numbers), ProtocolError)


async def test_provider_that_fails_shows_nothing(watch: Watch) -> None:
    """What a provider of tokens raises may hold anything; only its type is told."""

    class Failing:
        async def token(self, *, force: bool) -> str:
            token = TOKEN
            raise LookupError(token)

    class Rubbish:
        async def token(self, *, force: bool) -> str:
            return f"{TOKEN} {SECRET}"

    for provider in (Failing(), Rubbish()):
        async with FakeServer().client(auth=TokenAuth(provider)) as client:
            error = await watch.sees(lambda client=client: client.send(**REMINDER))  # type: ignore[misc]
            assert isinstance(error, AuthenticationError)


# --- constructors and settings --------------------------------------------------------------------------

MSAL: dict[str, Any] = {"client_id": "his", "client_secret": SECRET, "scope": "api://x/.default", "tenant": "t"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: BearerAuth(f"{TOKEN} {TOKEN}"),
        lambda: BearerAuth(f"{TOKEN}\n"),
        lambda: BearerAuth(f"{TOKEN}ą"),
        lambda: BearerAuth(TOKEN.encode()),  # type: ignore[arg-type]
        lambda: MsalAuth(**(MSAL | {"client_secret": [SECRET]})),
        lambda: MsalAuth(**(MSAL | {"client_id": ""})),
        lambda: MsalAuth(**(MSAL | {"tenant": None})),
        lambda: MsalAuth(**(MSAL | {"scope": None})),
        lambda: MsalAuth(**(MSAL | {"timeout": 0})),
        lambda: MsalAuth(**(MSAL | {"aad_instance": "http://localhost/{0}"})),
        lambda: MsalAuth(**(MSAL | {"aad_instance": f"https://user:{PASSWORD}@localhost/{{0}}"})),
        lambda: MsalAuth(**(MSAL | {"timeout": 0, "proxy": f"http://user:{PASSWORD}@proxy:8080"})),
        lambda: SmsClient(f"https://user:{PASSWORD}@sms.test/", auth=BearerAuth(TOKEN)),
        lambda: SmsClient(f"https://{PASSWORD}@sms.test/", auth=BearerAuth(TOKEN)),
        lambda: SmsClient(f"https://sms.test/?token={TOKEN}", auth=BearerAuth(TOKEN)),
        lambda: SmsClient(f"https://sms.test/#{TOKEN}", auth=BearerAuth(TOKEN)),
        lambda: SmsClient(f"https://user:{PASSWORD}@[::1", auth=BearerAuth(TOKEN)),
        lambda: SmsClient(f"http://user:{PASSWORD}@sms.test/", auth=BearerAuth(TOKEN)),
        lambda: SmsClient("https://sms.test/", auth=TOKEN),  # type: ignore[arg-type]
        lambda: SmsClient("https://sms.test/", auth=BearerAuth(TOKEN), timeout=0, proxy=f"http://u:{PASSWORD}@p"),
        lambda: SmsClient("https://sms.test/", auth=BearerAuth(TOKEN), server_timezone="x"),
        lambda: SmsClient("https://sms.test/", auth=BearerAuth(TOKEN), proxy=f"user:{PASSWORD}@proxy:8080"),
    ],
)
def test_refused_constructor_shows_nothing(watch: Watch, make: Callable[[], object]) -> None:
    """A bad value is not quoted, and the good ones are not shown."""
    with pytest.raises(ConfigurationError) as caught:
        make()
    watch.look_at(caught.value)


async def test_proxy_with_a_password_is_not_shown(watch: Watch) -> None:
    """A proxy that cannot be reached is no reason to show its password."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    await listener.aclose()
    proxy = f"http://{SECRET}:{PASSWORD}@127.0.0.1:{port}"
    async with SmsClient("https://sms.test/", auth=BearerAuth(TOKEN), proxy=proxy) as client:
        assert isinstance(await watch.sees(lambda: client.send(**REMINDER)), SmsError)
        watch.look_at_objects()


async def test_proxy_that_repeats_what_it_hears_is_not_repeated_by_us(watch: Watch) -> None:
    """The reason phrase of a proxy's refusal is anybody's text."""
    async with serving(lambda request: http(b"", f"407 {line_of(request)} {TEXT}")) as port:
        proxy = f"http://127.0.0.1:{port}"
        async with SmsClient("https://sms.test/", auth=BearerAuth(TOKEN), proxy=proxy) as client:
            assert isinstance(await watch.sees(lambda: client.send(**REMINDER)), SmsError)


GOOD = {
    "BASE_ADDRESS": "https://sms.test/",
    "AAD_INSTANCE": "https://login.test/{0}",
    "TENANT": "ward",
    "CLIENT_ID": "his",
    "CLIENT_SECRET": SECRET,
    "SCOPE": "api://x/.default",
}


@pytest.mark.parametrize(
    "settings",
    [
        GOOD | {"BASE_ADDRESS": f"https://user:{PASSWORD}@sms.test/"},
        GOOD | {"BASE_ADDRESS": f"https://user:{PASSWORD}@sms.test/", "SCOPE": ""},
        GOOD | {"BASE_ADDRESS": ""},
        GOOD | {"TENANT": ""},
        GOOD | {"CLIENT_ID": ""},
        GOOD | {"TOKEN": TOKEN},
        GOOD | {"SERVER_TIMEZONE": "Nowhere"},
        GOOD | {"AAD_INSTANCE": f"https://user:{PASSWORD}@login.test/{{0}}"},
        GOOD | {"CLIENT_SECRET_FILE": f"/nowhere/{SECRET}"},
        GOOD | {"CLIENT_SECRET": "", "CLIENT_SECRET_FILE": f"/nowhere/{SECRET}"},
        {"BASE_ADDRESS": "https://sms.test/", "TOKEN": f"{TOKEN} {TOKEN}"},
        {"BASE_ADDRESS": "https://sms.test/"},
        {"TOKEN": TOKEN},
    ],
)
def test_refused_environment_shows_nothing(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    """All problems are named by their variables, and no value is shown."""
    for name, value in settings.items():
        monkeypatch.setenv(f"HIS_SMS_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        SmsClient.from_env(proxy=f"http://user:{PASSWORD}@proxy:8080")
    watch.look_at(caught.value)


def test_client_from_the_environment_shows_nothing(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client holds its secrets without showing them."""
    for name, value in GOOD.items():
        monkeypatch.setenv(f"HIS_SMS_{name}", value)
    client = SmsClient.from_env(proxy=f"http://user:{PASSWORD}@proxy:8080")
    assert repr(client) == "<SmsClient https://sms.test/ closed>"
    watch.look_at_objects()


def test_refused_file_shows_nothing(watch: Watch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What stands in a file is as secret as what stands in a variable."""
    path = tmp_path / "token"
    path.write_bytes(TOKEN.encode() + b"\xff")
    monkeypatch.setenv("HIS_SMS_BASE_ADDRESS", "https://sms.test/")
    monkeypatch.setenv("HIS_SMS_TOKEN_FILE", str(path))
    with pytest.raises(ConfigurationError) as caught:
        SmsClient.from_env()
    watch.look_at(caught.value)


# --- Azure AD -------------------------------------------------------------------------------------------


@pytest.mark.sms_sandbox(tls=True, token=None)
async def test_refusal_by_azure_ad_shows_nothing(watch: Watch, sms_sandbox_server: RunningSandbox) -> None:
    """MSAL's logs, and the error that is made of its answer."""
    auth = MsalAuth(
        client_id="his",
        client_secret=SECRET,
        scope="api://sandbox/.default",
        tenant="sandbox",
        aad_instance=sms_sandbox_server.aad_instance,
        verify=sms_sandbox_server.ca_file,
    )
    async with FakeServer().client(auth=auth) as client:
        error = await watch.sees(lambda: client.send(**REMINDER))
        watch.look_at_objects()
    assert isinstance(error, AuthenticationError)
    assert "client_secret" in str(error)
    assert watch.records


TOKEN_ANSWERS: dict[str, Callable[[bytes], bytes]] = {
    "HTML": lambda request: http(b"<html>" + request),
    "HTML of 400": lambda request: http(b"<html>" + request, "400 No"),
    "HTML of 500": lambda request: http(b"<html>" + request, "500 Oops"),
    "JSON list": lambda request: http(json.dumps([line_of(request)]).encode()),
    "error": lambda request: http(json.dumps({"error": line_of(request)}).encode(), "400 No"),
    "description": lambda request: http(
        json.dumps({"error": "x", "error_description": f"AADSTS7000215: {line_of(request)}"}).encode(), "401 No"
    ),
    "lifetime": lambda request: http(json.dumps({"access_token": TOKEN, "expires_in": line_of(request)}).encode()),
    "wrong type": lambda request: http(json.dumps({"access_token": [TOKEN], "expires_in": 1}).encode()),
    "token with a space": lambda request: http(json.dumps({"access_token": f"{TOKEN} {TOKEN}"}).encode()),
    "status line": lambda request: line_of(request).encode(),
    "reason": lambda request: http(b"", f"500 {line_of(request)}"),
    "good": lambda request: http(
        json.dumps({"token_type": "Bearer", "access_token": TOKEN, "expires_in": 3600}).encode()
    ),
}


@pytest.mark.parametrize("answers", TOKEN_ANSWERS.values(), ids=TOKEN_ANSWERS)
async def test_azure_ad_that_repeats_what_it_hears_is_not_repeated_by_us(
    watch: Watch, answers: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    """Wherever an answer quotes the client secret or the token, neither log nor error shows it."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    def respond(request: bytes) -> bytes:
        if request.startswith(b"POST"):
            return answers(request)
        host = f"https://localhost:{port}/t"
        names = ("issuer", "authorization_endpoint", "token_endpoint")
        return http(json.dumps({name: f"{host}/{name}" for name in names}).encode())

    async with serving(respond, context) as port:
        auth = MsalAuth(
            **(MSAL | {"aad_instance": f"https://localhost:{port}/{{0}}"}), verify=tmp_path / "ca.pem", timeout=5
        )
        async with FakeServer(script=[answer(500, b"")]).client(auth=auth) as client:
            assert isinstance(await watch.sees(lambda: client.send(**REMINDER)), SmsError)
            watch.look_at_objects()


# --- the poller -----------------------------------------------------------------------------------------


def hear(server: FakeServer, client: SmsClient, **options: Any) -> IncomingPoller:
    """A poller with a clock that stands."""
    settings: dict[str, Any] = {"start": NOON_IN_VILNIUS, "store": MemoryStore(), "clock": FakeClock()}
    return IncomingPoller(client, **(settings | options))


def replies(count: int = 3) -> list[dict[str, Any]]:
    """Rows that must not be shown."""
    return [row(one, one, sender=f"{PATIENT}{one}", Text=TEXT, To=HOSPITAL) for one in range(1, count + 1)]


async def test_plain_iteration_shows_nothing(watch: Watch) -> None:
    """Nor does what the consumer raises in the middle of it, while messages wait."""
    server = FakeServer(rows=replies())
    async with server.client(auth=BearerAuth(TOKEN)) as client:

        async def consume() -> None:
            async with hear(server, client) as poller:
                async for message in poller:
                    assert not marked(repr(message))
                    assert not marked(repr(poller) + repr(poller.health()))
                    if message.id == 2:
                        watch.look_at_objects()
                        raise LookupError("the booking is gone")

        assert isinstance(await watch.sees(consume), LookupError)
    assert watch.records


async def test_deliveries_show_nothing(watch: Watch) -> None:
    """Whatever is done with them, and when it is done twice."""
    server = FakeServer(rows=replies(5))
    async with server.client(auth=BearerAuth(TOKEN)) as client, hear(server, client, max_attempts=1) as poller:
        deliveries = poller.deliveries()
        acked, rejected, released, left, failed = [await anext(deliveries) for _ in range(5)]
        await acked.ack()
        await rejected.reject("no such booking")
        await released.release(delay=60.0)
        watch.look_at_objects()
        await watch.sees(acked.release)
        await watch.sees(rejected.ack)
        await watch.sees(lambda: left.ack(object()))

        async def fail() -> None:
            async with failed as message:
                raise LookupError(message.id)

        await watch.sees(fail)
        assert not marked(repr([acked, rejected, released, left, failed, deliveries, poller.health()]))
        watch.look_at_objects()
    await watch.sees(left.ack)
    await watch.sees(deliveries.__anext__)


async def test_handler_that_fails_shows_nothing(watch: Watch) -> None:
    """Its message may be in its exception; only the type is logged."""
    server = FakeServer(rows=replies())
    handled: list[int] = []

    async def handle(message: Any) -> None:
        handled.append(message.id)
        raise LookupError(message.text, message.sender)

    async with (
        server.client(auth=BearerAuth(TOKEN)) as client,
        hear(server, client) as poller,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(poller.run, handle)
        await until(lambda: len(handled) == 3)
        await anyio.wait_all_tasks_blocked()
        watch.look_at_objects()
        tasks.cancel_scope.cancel()
    assert watch.records


@pytest.mark.parametrize("bad", BAD_ROWS)
async def test_quarantine_shows_nothing(watch: Watch, bad: Any) -> None:
    """Malformed rows are logged, reported and kept without their content; so is a hook that fails."""
    server = FakeServer(rows=[*replies(1), bad])
    reported: list[ProtocolError] = []

    def report(error: ProtocolError) -> None:
        reported.append(error)
        raise LookupError(TEXT)

    async with (
        server.client(auth=BearerAuth(TOKEN)) as client,
        hear(server, client, on_malformed=report) as poller,
    ):
        async for message in poller:
            assert message.id == 1
            break
        assert not marked(repr(poller.health()))
        watch.look_at_objects()
    (error,) = reported
    watch.look_at(error)


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_poll_that_fails_shows_nothing(watch: Watch, trouble: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first good poll, where some failures are raised, and after it, where none is."""
    monkeypatch.setattr(random, "random", lambda: 1.0)  # the next attempt waits for the clock
    server = FakeServer(rows=replies(), script=[trouble])
    clock = FakeClock()
    async with server.client(auth=BearerAuth(TOKEN)) as client:

        async def consume() -> None:
            async with hear(server, client, clock=clock) as poller:
                deliveries = poller.deliveries()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(deliveries.__anext__)
                    await until(lambda: poller.health().consecutive_failures == 1 or not poller.health().is_live)
                    tasks.cancel_scope.cancel()
                assert not marked(repr(poller.health()))
                watch.look_at_objects()
                if not poller.health().is_live:
                    await anext(deliveries)
                raise LookupError("enough")

        await watch.sees(consume)
        server.script = []

        async with hear(server, client, clock=clock) as poller:
            await until(lambda: poller.health().is_ready)
            server.script = [trouble]
            await clock.advance(10.0)
            await until(lambda: poller.health().consecutive_failures == 1)
            assert not marked(repr(poller.health()))
            watch.look_at_objects()


@pytest.mark.parametrize(
    "options",
    [
        {"start": TEXT},
        {"start": NOON_IN_VILNIUS.date()},
        {"interval": 0},
        {"name": ""},
        {"max_buffered": 0},
    ],
)
def test_refused_poller_shows_nothing(watch: Watch, options: dict[str, Any]) -> None:
    """Nor the client that it was to poll with."""
    server = FakeServer()
    client = server.client(auth=BearerAuth(TOKEN), proxy=f"http://user:{PASSWORD}@proxy:8080")
    with pytest.raises(ConfigurationError) as caught:
        hear(server, client, **options)
    error = caught.value
    if options.get("start") == TEXT:  # the caller's own argument, which is no patient's
        return
    watch.look_at(error)
