"""One HTTP request: its token, its time limit, its answer's size, and what its failures mean.

With `_auth` the only module that knows httpx, which has had no release since 2024: moving to its successor
costs these two files.
"""

import logging
import math
import zlib
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Any, Self, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import attrs
import httpx

from ._errors import (
    ConfigurationError,
    ConnectionFailed,
    ProtocolError,
    ServerTimeout,
    SmsError,
    bare,
    foreign,
)
from ._hidden import Hidden
from ._quiet import quiet
from ._time import parse_http_date
from ._tls import Verify, build_context, is_loopback, is_untrusted

logger = logging.getLogger(__name__)

T = TypeVar("T")

Auth = httpx.Auth
Transport = httpx.AsyncBaseTransport
Decode = Callable[[int, Mapping[str, str], Hidden[bytes]], T]

# Bytes of JSON above which parsing moves to a worker thread.
_PARSE_IN_THREAD = 256 * 1024
# Seconds for connections to say goodbye.
_GRACE = 5.0


@attrs.frozen
class Failure:
    """Why an attempt failed, and whether its request may have reached the server all the same."""

    error: SmsError
    may_have_arrived: bool = attrs.field(kw_only=True)


@attrs.define(eq=False, kw_only=True)
class Exchange:
    """One httpx client, and a limiter in front of it.

    Cancelled at a bad moment, httpx 0.28 loses a slot of its pool for good, and its bookkeeping is quadratic
    in the requests that wait inside: so the pool has no limit, and requests wait here.
    """

    url: httpx.URL
    auth: httpx.Auth
    timeout: float
    """Seconds for an attempt without a deadline: to the first byte, and between bytes."""
    verify: Verify
    proxy: Hidden[str | None]
    transport: httpx.AsyncBaseTransport | None
    max_connections: int
    last_date: datetime | None = attrs.field(init=False, default=None)
    """The server's clock at its last answer (aware, UTC), by the `Date` header."""
    _http: httpx.AsyncClient | None = attrs.field(init=False, default=None)
    _limiter: anyio.CapacityLimiter = attrs.field(init=False)

    async def open(self) -> None:
        """Make the client; it connects when first used."""
        if self._http is not None:
            msg = "this SmsClient is open already"
            raise RuntimeError(msg)
        context: Any = True  # a transport of the user's own makes its own connections
        if self.transport is None:
            context = await anyio.to_thread.run_sync(build_context, self.verify)
        self._limiter = anyio.CapacityLimiter(self.max_connections)
        self._http = httpx.AsyncClient(
            verify=context,
            proxy=self.proxy.reveal(),
            trust_env=not is_loopback(self.url.host),
            transport=self.transport,
            timeout=None,  # noqa: S113 - one deadline for everything stands in `attempt`
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=self.max_connections),
            headers={"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "his_sms_async"},
        )

    async def close(self) -> None:
        """Close the connections; cancelled or not, that takes seconds at most."""
        http, self._http = self._http, None
        if http is not None:
            with anyio.move_on_after(_GRACE, shield=True):
                await http.aclose()

    @property
    def is_open(self) -> bool:
        """Whether requests can be made."""
        return self._http is not None

    async def attempt(
        self,
        method: str,
        query: str,
        decode: Decode[T],
        *,
        max_bytes: int,
        body: Hidden[bytes] | None = None,
        deadline: float | None = None,
    ) -> T | Failure:
        """Make one request and decode its answer; what fails is returned, without frames or values.

        With a `deadline` (the event loop's clock) it ends by then; without one it may take as long as it
        likes, as long as `timeout` seconds do not pass to the first byte, or between bytes.
        """
        http = self._http
        if http is None:
            msg = "use SmsClient inside `async with`"
            raise RuntimeError(msg)
        progress = _Progress()
        scope = anyio.CancelScope()

        def heard() -> None:
            scope.deadline = deadline or anyio.current_time() + self.timeout

        heard()
        try:
            with quiet(), scope:
                async with self._limiter:
                    request = http.build_request(
                        method,
                        self.url.copy_with(query=query.encode() or None),
                        content=None if body is None else body.reveal(),
                        headers={"Content-Type": "application/json"} if body else {"Cache-Control": "no-cache"},
                        extensions={"trace": progress.trace},
                    )
                    if body is not None:
                        request.stream = _Body(body)
                    answer = await self._answer(http, request, progress, heard, max_bytes)
                scope.deadline = math.inf  # the answer is here; to decode it takes no time of the server's
                if len(answer.body.reveal()) > _PARSE_IN_THREAD:
                    return await anyio.to_thread.run_sync(decode, answer.status, answer.headers, answer.body)
                return decode(answer.status, answer.headers, answer.body)
        except SmsError as error:
            failure = bare(error)
        except _TRANSLATED as error:
            progress.may_have_arrived &= not isinstance(error, _NEVER_ARRIVED)
            failure = translate(error, may_have_arrived=progress.may_have_arrived)
        else:
            failure = _timed_out(progress, self.timeout)
        return Failure(failure, may_have_arrived=progress.may_have_arrived)

    async def _answer(
        self,
        http: httpx.AsyncClient,
        request: httpx.Request,
        progress: "_Progress",
        heard: Callable[[], None],
        limit: int,
    ) -> "_Answer":
        """Send a request, and once more if its authorization says so: httpx would read a 401 without limit."""
        flow: AsyncGenerator[httpx.Request, httpx.Response] = self.auth.async_auth_flow(request)
        async with aclosing(flow):
            request = await anext(flow)
            while True:
                progress.may_have_arrived = True
                response = await http.send(request, auth=None, stream=True)
                try:
                    heard()
                    progress.may_have_arrived = response.status_code != 401
                    self.last_date = parse_http_date(response.headers.get("date")) or self.last_date
                    logger.debug("%s answered HTTP %d", request.method, response.status_code)
                    try:
                        request = await flow.asend(response)
                    except StopAsyncIteration:
                        body = await _read_answer(response, limit, heard)
                        return _Answer(response.status_code, response.headers, Hidden(body))
                finally:
                    with anyio.CancelScope(shield=True):
                        await response.aclose()


@attrs.define
class _Body(httpx.AsyncByteStream):
    """A request's body; httpx's own is a generator, which trio complains about if it is left half-way."""

    content: Hidden[bytes]
    _is_sent: bool = attrs.field(init=False, default=False)

    def __aiter__(self) -> Self:
        self._is_sent = False  # after a 401 it is sent again
        return self

    async def __anext__(self) -> bytes:
        if self._is_sent:
            raise StopAsyncIteration
        self._is_sent = True
        return self.content.reveal()


@attrs.frozen
class _Answer:
    status: int
    headers: httpx.Headers = attrs.field(repr=False)
    body: Hidden[bytes]


@attrs.define
class _Progress:
    """How far a request got."""

    may_have_arrived: bool = False

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Listen to httpcore (its trace extension): while it connects, nothing of the request is under way.

        A CONNECT asks a proxy for a tunnel, and is not yet the request either.
        """
        if event.startswith("connection."):
            self.may_have_arrived = False
        elif event.endswith("send_request_headers.started"):
            self.may_have_arrived = info["request"].method != b"CONNECT"


# --- what a failure means -------------------------------------------------------------------------------

_TRANSLATED = (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict, httpx.StreamError, OSError)

_NEVER_ARRIVED = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)

_BROKEN = "the connection to the SMS server broke before its answer was complete"
_UNREACHABLE = "the SMS server cannot be reached; check the base URL (HIS_SMS_BASE_ADDRESS), DNS and the proxy"
_NOT_HTTP = "the SMS server's answer is not HTTP, or was cut"

# Every exception of httpx; the nearest base class decides.
_MEANINGS: Mapping[type[BaseException], tuple[type[SmsError], str]] = {
    httpx.ConnectError: (ConnectionFailed, _UNREACHABLE),
    httpx.ConnectTimeout: (ConnectionFailed, _UNREACHABLE),
    httpx.PoolTimeout: (ConnectionFailed, _UNREACHABLE),
    httpx.ProxyError: (ConnectionFailed, "the proxy refused; check proxy, or the environment's HTTPS_PROXY"),
    httpx.UnsupportedProtocol: (ConnectionFailed, _UNREACHABLE),
    httpx.InvalidURL: (ConnectionFailed, _UNREACHABLE),
    httpx.TimeoutException: (ServerTimeout, "the SMS server did not answer in time"),
    httpx.NetworkError: (ConnectionFailed, _BROKEN),
    OSError: (ConnectionFailed, _BROKEN),
    httpx.ProtocolError: (ProtocolError, _NOT_HTTP),
    httpx.DecodingError: (ProtocolError, _NOT_HTTP),
    httpx.TooManyRedirects: (ProtocolError, _NOT_HTTP),
    httpx.HTTPStatusError: (ProtocolError, _NOT_HTTP),
    httpx.CookieConflict: (ProtocolError, _NOT_HTTP),
    httpx.StreamError: (ProtocolError, _NOT_HTTP),
    httpx.HTTPError: (ConnectionFailed, _BROKEN),
}


def translate(exception: BaseException, *, may_have_arrived: bool = True) -> SmsError:
    """An exception of httpx as one of ours, caused by what it said and without its frames."""
    if is_untrusted(exception):
        error: SmsError = ConnectionFailed(
            "the SMS server's certificate is not trusted; give verify (HIS_SMS_CA_FILE) the CA that signed it",
            retryable=False,
        )
    else:
        kind, message = next(_MEANINGS[cls] for cls in type(exception).__mro__ if cls in _MEANINGS)
        if "disconnected" in str(exception):  # httpx's RemoteProtocolError for a connection closed unanswered
            kind, message = ConnectionFailed, _BROKEN
        if not may_have_arrived and kind is not ConnectionFailed:
            kind, message = ConnectionFailed, _UNREACHABLE
        error = kind(message, retryable=True)
    # what the operating system says of a connection helps; what a server or proxy said may quote anything
    return bare(error, foreign(exception, message=isinstance(exception, httpx.ConnectError)))


def _timed_out(progress: _Progress, timeout: float) -> SmsError:
    if progress.may_have_arrived:
        return ServerTimeout(f"the SMS server did not answer within timeout={timeout:g} s")
    return ConnectionFailed(f"the SMS server was not reached within timeout={timeout:g} s")


# --- bodies ---------------------------------------------------------------------------------------------

_PIECE = 64 * 1024


async def _read_answer(response: httpx.Response, limit: int, heard: Callable[[], None]) -> bytes:
    """Read an answer; of an error that cannot be read, the status says enough."""
    try:
        return await _read_body(response, limit, heard)
    except (*_TRANSLATED, ProtocolError):
        if response.status_code < 400:
            raise
    return b""


async def _read_body(response: httpx.Response, limit: int, heard: Callable[[], None]) -> bytes:
    """Read an answer up to a limit; `heard` is told of every chunk."""
    if response.is_stream_consumed:  # a transport for tests may hand out an answer that was read already
        return await response.aread()
    body = bytearray()
    # httpx's generators do not close the ones inside them: only an exception from their innermost await, like
    # the cancellation of this scope, unwinds them all. So nothing else may leave this loop.
    with anyio.CancelScope() as enough:
        async for chunk in response.aiter_raw():
            heard()
            body += chunk
            if len(body) > limit:
                enough.cancel()
    _check_size(len(body), limit)
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity") or not body:
        return bytes(body)
    return await _inflate(body, encoding, limit)


async def _inflate(body: bytearray, encoding: str, limit: int) -> bytes:
    """Undo gzip or deflate in bounded steps: httpx would make pieces of 67 MB from a hostile body."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        msg = "the answer is compressed in a way that was not asked for"
        raise ProtocolError(msg)
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    inflated = bytearray()
    rest = bytes(body)
    try:
        while rest and not inflater.eof:
            inflated += inflater.decompress(rest, _PIECE)
            _check_size(len(inflated), limit)
            rest = inflater.unconsumed_tail
            await anyio.lowlevel.checkpoint()
        inflated += inflater.flush()
    except zlib.error:
        rest = b""
    _check_size(len(inflated), limit)
    if not inflater.eof:
        msg = "the answer's compression is broken, or it was cut"
        raise ProtocolError(msg, retryable=True)
    return bytes(inflated)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        msg = f"the answer is larger than max_response_bytes={limit}"
        raise ProtocolError(msg)


# --- arguments ------------------------------------------------------------------------------------------


def checked_url(address: Hidden[str], *, allow_insecure: bool) -> httpx.URL:
    """The SMS server's address.

    Raises:
        ConfigurationError: It is none, or is not safe.
    """
    url = Hidden(_parsed(address))
    if url.reveal().scheme not in ("https", "http") or any(
        (not url.reveal().host, url.reveal().userinfo, url.reveal().query, url.reveal().fragment)
    ):
        msg = "base_url (HIS_SMS_BASE_ADDRESS) must be like https://SMSServer/, without user, query or fragment"
        raise ConfigurationError(msg)
    if url.reveal().scheme == "http" and not allow_insecure and not is_loopback(url.reveal().host):
        msg = "base_url (HIS_SMS_BASE_ADDRESS) must be https://; http:// shows tokens and texts to the network"
        raise ConfigurationError(msg)
    return url.reveal()


def _parsed(address: Hidden[str]) -> httpx.URL:
    try:
        return httpx.URL(address.reveal())
    except (httpx.InvalidURL, TypeError):
        return httpx.URL()
