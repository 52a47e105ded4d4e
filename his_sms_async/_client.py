"""The client: one httpx client, its time limits and repetitions, and what its failures mean."""

import ipaddress
import logging
import math
import random
import zlib
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar
from zoneinfo import ZoneInfo

import anyio
import anyio.lowlevel
import anyio.to_thread
import attrs
import httpx

from ._backoff import backoff
from ._errors import (
    ConfigurationError,
    ConnectionFailed,
    ProtocolError,
    RateLimited,
    SendOutcomeUnknown,
    ServerFailure,
    ServerTimeout,
    SmsError,
    bare,
    foreign,
)
from ._hidden import Hidden
from ._models import Message, MessageType, OperatorNumber, OutgoingMessage, SendReceipt
from ._settings import in_event_loop, load_zone, read_settings
from ._time import earliest_wall, parse_http_date
from ._tls import Verify, build_context, is_untrusted
from ._wire import (
    NUMBERS_QUERY,
    MalformedRow,
    Row,
    decode_messages,
    decode_numbers,
    decode_receipt,
    decode_row,
    encode_send,
    is_refusal,
    messages_query,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MIB = 2**20
# A POST that certainly did not arrive, and a read, are tried so often at most, within `timeout`.
_ATTEMPTS = 4
# After 429 a POST is repeated twice at most (contract, 4.1).
_ATTEMPTS_IF_LIMITED = 3
_GATEWAY_FAILURES = (502, 503, 504)
# Rows to decode before the event loop gets its turn: about a millisecond.
_ROWS_AT_ONCE = 200
# Bytes of JSON above which parsing moves to a worker thread.
_PARSE_IN_THREAD = 256 * 1024


class SmsClient:
    """The SMS server's client (specification, sections 3 to 5), for asyncio and trio.

    An async context manager: it connects when first used, and closes what it opened.

    Args:
        base_url: The specification's BaseAddress, like `https://SMSServer/`. Plain `http://` is refused
            except for this machine itself, unless `allow_insecure`.
        auth: `BearerAuth`, `MsalAuth` or `TokenAuth`.
        server_timezone: The zone of the server's wall clock (`ZoneInfo` or its name), needed where its stamps
            have no offset and aware datetimes are wanted.
        timeout: Seconds for a whole call, token and repetitions included.
        max_response_bytes: Limit of an answer, after decompression.
        verify: An `ssl.SSLContext`, or a file with the CA certificates to trust, or None for the system's.
        proxy: URL of a proxy; None for the environment's.
        transport: An httpx transport that takes the place of the network, for tests.
        allow_insecure: Send tokens and patients' data over plain `http://` to other machines.
        max_connections: Requests under way at once; more wait in front of the connection pool.

    Raises:
        ConfigurationError: An argument is wrong; the text names it. Files (a zone by name, CA certificates)
            are read without blocking an event loop, so inside one their errors come on entering.
    """

    def __init__(
        self,
        base_url: str,
        *,
        auth: httpx.Auth,
        server_timezone: ZoneInfo | str | None = None,
        timeout: float = 30.0,
        max_response_bytes: int = 64 * _MIB,
        verify: Verify = None,
        proxy: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        allow_insecure: bool = False,
        max_connections: int = 10,
    ) -> None:
        address, self._proxy = Hidden(base_url), Hidden(proxy)
        del base_url, proxy
        self._url = _checked_url(address, allow_insecure=allow_insecure)
        if not isinstance(auth, httpx.Auth):
            msg = "auth must be a BearerAuth, MsalAuth or TokenAuth"
            raise ConfigurationError(msg)
        self._auth = auth
        self._zone = server_timezone
        if not in_event_loop():
            self._zone = load_zone(server_timezone)
        for name, value in (
            ("timeout", timeout),
            ("max_response_bytes", max_response_bytes),
            ("max_connections", max_connections),
        ):
            if not value > 0:
                msg = f"{name} must be greater than 0"
                raise ConfigurationError(msg)
        self._timeout = timeout
        self._max_response_bytes = max_response_bytes
        self._max_connections = max_connections
        self._verify = verify
        self._transport = transport
        self._http: httpx.AsyncClient | None = None
        self._limiter: anyio.CapacityLimiter | None = None
        self._last_date: datetime | None = None

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """Make a client from the environment's `HIS_SMS_…` variables; arguments win over variables.

        `HIS_SMS_BASE_ADDRESS`; `HIS_SMS_TOKEN`, or `HIS_SMS_AAD_INSTANCE`, `HIS_SMS_TENANT`,
        `HIS_SMS_CLIENT_ID`, `HIS_SMS_CLIENT_SECRET` and `HIS_SMS_SCOPE`; `HIS_SMS_SERVER_TIMEZONE`;
        `HIS_SMS_CA_FILE`. Each can also name a file that holds the value, as `HIS_SMS_TOKEN_FILE` does.

        Raises:
            ConfigurationError: All problems at once, each by its variable's name.
        """
        settings = read_settings(overrides)
        del overrides
        return cls(**settings.reveal())

    @property
    def base_url(self) -> str:
        """The SMS server's address."""
        return str(self._url)

    @property
    def server_timezone(self) -> ZoneInfo | None:
        """The zone of the server's wall clock, if it is known."""
        self._zone = load_zone(self._zone)
        return self._zone

    def __repr__(self) -> str:
        return f"<SmsClient {self._url} {'open' if self._http else 'closed'}>"

    async def __aenter__(self) -> Self:
        if self._http is not None:
            msg = "this SmsClient is open already"
            raise RuntimeError(msg)
        context: Any = True  # a transport of the user's own makes its own connections
        if self._transport is None:
            context = await anyio.to_thread.run_sync(build_context, self._verify)
        if isinstance(self._zone, str):
            self._zone = await anyio.to_thread.run_sync(load_zone, self._zone)
        self._limiter = anyio.CapacityLimiter(self._max_connections)
        self._http = httpx.AsyncClient(
            verify=context,
            proxy=self._proxy.reveal(),
            trust_env=not _is_loopback(self._url.host),
            transport=self._transport,
            timeout=None,  # noqa: S113 - one deadline for the whole call stands in `_attempt`
            # cancelled at a bad moment, httpx 0.28 loses a pool slot for good: so the pool has no limit
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=self._max_connections),
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
                "User-Agent": "his_sms_async",
            },
            event_hooks={"request": [_on_request], "response": [self._on_response]},
        )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        http, self._http = self._http, None
        if http is not None:
            with anyio.move_on_after(5, shield=True):
                await http.aclose()

    async def send(self, *, sender: str, recipient: str, text: str, external_key: int) -> SendReceipt:
        """Send one SMS (specification, section 3).

        It is repeated only if it certainly did not reach the server, after 429, and once after a 401 if the
        token has changed: never if it might be sent twice.

        Args:
            sender: One of the hospital's numbers or sender names (`list_numbers`); the specification's From.
            recipient: The person's number; the specification's To.
            text: The text, not empty.
            external_key: The HIS's own unique identifier of this SMS.

        Raises:
            ConfigurationError: An argument cannot be sent; nothing was.
            RequestRejected: The server refused it for good, `InvalidMessageOwner` because of the sender,
                `InvalidClientNumber` because of the recipient.
            AuthenticationError, PermissionDenied, RateLimited, ConnectionFailed: It was not sent.
            SendOutcomeUnknown: It may have been sent. A call that is cancelled is as unknown, without saying so.
        """
        message = OutgoingMessage(sender=sender, recipient=recipient, text=text, external_key=external_key)
        del sender, recipient, text, external_key  # no frame of ours shows them
        outcome = await self._send(message)
        if isinstance(outcome, SmsError):
            raise outcome
        return outcome

    async def list_messages(
        self,
        type: MessageType = MessageType.INCOMING,  # noqa: A002 - the specification's name
        *,
        date_from: datetime,
    ) -> list[Message]:
        """List the SMS that changed at or after a moment, in the order (UpdatedAt, Id) (specification, section 4).

        Args:
            type: Which SMS.
            date_from: An aware datetime, for which `server_timezone` must be known, or a naive one, which is
                the server's wall clock. In the first pass of the repeated autumn hour the list begins an hour
                earlier, so that the second pass is in it.

        Raises:
            ProtocolError: The answer, or a row of it, breaks the contract; `index` and `field` tell which.
            ServerFailure, ServerTimeout, ConnectionFailed, RateLimited: Try again later.
            AuthenticationError, PermissionDenied, RequestRejected, ConfigurationError: Mend the setting.
        """
        rows = await self._list(MessageType(type), date_from)
        if isinstance(rows, SmsError):
            raise rows
        return [row.message for row in sorted(rows, key=lambda row: (row.updated, row.message.id))]

    async def list_numbers(self) -> list[OperatorNumber]:
        """List the numbers and sender names that the hospital may use (specification, section 5).

        Raises:
            SmsError: As for `list_messages`.
        """
        numbers = await self._read(NUMBERS_QUERY, decode_numbers)
        if isinstance(numbers, SmsError):
            raise numbers
        return numbers

    async def _send(self, message: OutgoingMessage) -> SendReceipt | SmsError:
        try:
            body = Hidden(encode_send(message))
        except ConfigurationError as error:
            return bare(error)
        since = self._last_date or datetime.now(UTC) - timedelta(hours=1)

        def decode(status: int, headers: Mapping[str, str], answer: Hidden[bytes]) -> SendReceipt:
            return decode_receipt(status, headers, answer, self.server_timezone)

        deadline = anyio.current_time() + self._timeout
        for attempt in range(1, _ATTEMPTS + 1):
            outcome = await self._attempt("POST", "", decode, body=body, deadline=deadline)
            if not isinstance(outcome, _Failure):
                return outcome
            failure = outcome.error
            if outcome.may_have_arrived and not is_refusal(failure):
                return _unknown(message.external_key, since, failure)
            attempts = _ATTEMPTS_IF_LIMITED if isinstance(failure, RateLimited) else _ATTEMPTS
            if not failure.retryable or attempt >= attempts or not await _pause(failure, attempt, deadline):
                break
        return failure

    async def _list(self, asked: MessageType, date_from: datetime) -> list[Row] | SmsError:
        try:
            query = messages_query(asked, earliest_wall(date_from, self.server_timezone))
        except (ValueError, OverflowError, AttributeError):
            return ConfigurationError(
                "date_from must be a datetime; an aware one needs server_timezone (HIS_SMS_SERVER_TIMEZONE)"
            )
        raw = await self._read(query, decode_messages)
        if isinstance(raw, SmsError):
            return raw
        rows, malformed = await _decode_rows(raw, asked, self.server_timezone)
        return bare(malformed[0].error) if malformed else rows

    async def _read(self, query: str, decode: "_Decode[T]") -> T | SmsError:
        """Ask, and ask again within `timeout` where that may help: a read does no harm."""
        deadline = anyio.current_time() + self._timeout
        for attempt in range(1, _ATTEMPTS + 1):
            outcome = await self._attempt("GET", query, decode, deadline=deadline)
            if not isinstance(outcome, _Failure):
                return outcome
            error = outcome.error
            passing = isinstance(error, ConnectionFailed | ServerTimeout | RateLimited) and error.retryable
            if isinstance(error, ServerFailure):
                passing = error.http_status in _GATEWAY_FAILURES
            if not passing or attempt == _ATTEMPTS or not await _pause(error, attempt, deadline):
                break
        return error

    async def _attempt(
        self,
        method: str,
        query: str,
        decode: "_Decode[T]",
        *,
        body: Hidden[bytes] | None = None,
        deadline: float | None = None,
        max_bytes: int | None = None,
    ) -> "T | _Failure":
        """Make one request and decode its answer; what fails is returned, without frames or values.

        With a `deadline` (the event loop's clock) it ends by then; without one it may take as long as it
        likes, as long as `timeout` seconds do not pass to the first byte, or between bytes.
        """
        http, limiter = self._http, self._limiter
        if http is None or limiter is None:
            msg = "use SmsClient inside `async with`"
            raise RuntimeError(msg)
        progress = _Progress()
        scope = anyio.CancelScope()

        def heard() -> None:
            scope.deadline = deadline or anyio.current_time() + self._timeout

        quiet = _in_call.set(True)
        try:
            heard()
            with scope:
                async with limiter:
                    request = http.build_request(
                        method,
                        self._url.copy_with(query=query.encode() or None),
                        content=None if body is None else body.reveal(),
                        headers={"Content-Type": "application/json"} if body else {"Cache-Control": "no-cache"},
                        extensions={"trace": progress.trace, _PROGRESS: progress},
                    )
                    response = await http.send(request, auth=self._auth, stream=True)
                    try:
                        heard()
                        limit = max_bytes or self._max_response_bytes
                        answer = Hidden(await _read_body(response, limit, heard))
                    finally:
                        with anyio.CancelScope(shield=True):
                            await response.aclose()
                scope.deadline = math.inf  # the answer is here; to decode it takes no time of the server's
                arguments = (response.status_code, response.headers, answer)
                if len(answer.reveal()) > _PARSE_IN_THREAD:
                    return await anyio.to_thread.run_sync(decode, *arguments)
                return decode(*arguments)
        except SmsError as error:
            failure = bare(error)
        except _TRANSLATED as error:
            failure = translate(error)
        else:
            failure = _timed_out(progress, self._timeout)
        finally:
            _in_call.reset(quiet)
        return _Failure(failure, may_have_arrived=progress.may_have_arrived)

    async def _on_response(self, response: httpx.Response) -> None:
        date = parse_http_date(response.headers.get("date"))
        self._last_date = date or self._last_date
        progress = response.request.extensions[_PROGRESS]
        progress.may_have_arrived = response.status_code != 401
        logger.debug("%s answered HTTP %d", response.request.method, response.status_code)


@attrs.frozen
class Answer:
    """A complete, OK answer to a poll."""

    rows: list[Row]
    malformed: list[MalformedRow]
    date: datetime | None
    """The server's `Date` header (aware, UTC)."""


async def fetch(client: SmsClient, asked: MessageType, date_from: int, *, max_bytes: int) -> Answer | SmsError:
    """Poll once, without repetition: `date_from` in ticks of the server's wall clock."""
    date: datetime | None = None

    def decode(status: int, headers: Mapping[str, str], body: Hidden[bytes]) -> Hidden[list[Any]]:
        nonlocal date
        date = parse_http_date(headers.get("date"))
        return decode_messages(status, headers, body)

    outcome = await client._attempt("GET", messages_query(asked, date_from), decode, max_bytes=max_bytes)  # noqa: SLF001
    if isinstance(outcome, _Failure):
        return outcome.error
    rows, malformed = await _decode_rows(outcome, asked, client.server_timezone)
    return Answer(rows, malformed, date)


_Decode = Callable[[int, Mapping[str, str], Hidden[bytes]], T]


@attrs.frozen
class _Failure:
    """Why an attempt failed, and whether its request may have reached the server all the same."""

    error: SmsError
    may_have_arrived: bool = attrs.field(kw_only=True)


_PROGRESS = "his_sms_async.progress"


@attrs.define
class _Progress:
    """How far a request got."""

    may_have_arrived: bool = False

    async def trace(self, event: str, _: Mapping[str, Any]) -> None:
        """Listen to httpcore (its trace extension): while it connects, nothing of the request is under way."""
        if event.startswith("connection."):
            self.may_have_arrived = False
        elif event.endswith("send_request_headers.started"):
            self.may_have_arrived = True


async def _on_request(request: httpx.Request) -> None:
    """The token is there and the request goes to the transport; one that does not trace may be on the wire."""
    request.extensions[_PROGRESS].may_have_arrived = True


# --- what a failure means -------------------------------------------------------------------------------

_TRANSLATED = (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict, httpx.StreamError, OSError)

_BROKEN = "the connection to the SMS server broke before its answer was complete"
_UNREACHABLE = "the SMS server cannot be reached; check the base URL (HIS_SMS_BASE_ADDRESS), DNS and the proxy"
_NOT_HTTP = "the SMS server's answer is not HTTP, or was cut"

# Every exception of httpx, the nearest base class deciding.
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


def translate(exception: BaseException) -> SmsError:
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
        error = kind(message, retryable=True)
    return bare(error, foreign(exception))


def _timed_out(progress: _Progress, timeout: float) -> SmsError:
    if progress.may_have_arrived:
        return ServerTimeout(f"the SMS server did not answer within timeout={timeout:g} s")
    return ConnectionFailed(f"the SMS server was not reached within timeout={timeout:g} s")


def _unknown(external_key: int, since: datetime, error: SmsError) -> SendOutcomeUnknown:
    unknown = SendOutcomeUnknown(
        f"the SMS may or may not have been sent ({error}); look for it before sending it again",
        external_key=external_key,
        since=since,
        http_status=error.http_status,
        status_code=error.status_code,
        error_code=error.error_code,
    )
    unknown.__cause__ = error.__cause__
    return unknown


async def _pause(error: SmsError, attempt: int, deadline: float) -> bool:
    """Wait before the next attempt; False if that would not be over before the deadline."""
    pause = backoff(attempt, base=0.5, maximum=5.0, random=random.random)
    if isinstance(error, RateLimited) and error.retry_after is not None:
        pause = error.retry_after
    if anyio.current_time() + pause >= deadline:
        return False
    await anyio.sleep(pause)
    return True


# --- bodies ---------------------------------------------------------------------------------------------

_PIECE = 64 * 1024


async def _read_body(response: httpx.Response, limit: int, heard: Callable[[], None]) -> bytes:
    """Read an answer up to a limit; `heard` is told of every chunk."""
    if response.is_stream_consumed:  # a transport for tests may hand out an answer that was read already
        return await response.aread()
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
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
    return bytes(body) if encoding == "identity" else await _inflate(body, encoding, limit)


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
        _check_size(len(inflated), limit)
    except zlib.error:
        rest = b""
    if not inflater.eof:
        msg = "the answer's compression is broken, or it was cut"
        raise ProtocolError(msg, retryable=True)
    return bytes(inflated)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        msg = f"the answer is larger than max_response_bytes={limit}"
        raise ProtocolError(msg)


async def _decode_rows(
    raw: Hidden[list[Any]], asked: MessageType, zone: ZoneInfo | None
) -> tuple[list[Row], list[MalformedRow]]:
    """Decode each row on its own, and give the event loop its turn in between."""
    rows: list[Row] = []
    malformed: list[MalformedRow] = []
    for index in range(len(raw.reveal())):
        if index % _ROWS_AT_ONCE == 0:
            await anyio.lowlevel.checkpoint()
        row = decode_row(Hidden(raw.reveal()[index]), index, asked, zone)
        if isinstance(row, Row):
            rows.append(row)
        else:
            malformed.append(row)
    return rows, malformed


# --- arguments ------------------------------------------------------------------------------------------


def _checked_url(address: Hidden[str], *, allow_insecure: bool) -> httpx.URL:
    try:
        url = httpx.URL(address.reveal())
    except (httpx.InvalidURL, TypeError):
        url = httpx.URL()
    if url.scheme not in ("https", "http") or not url.host or url.userinfo or url.query or url.fragment:
        msg = "base_url (HIS_SMS_BASE_ADDRESS) must be like https://SMSServer/, without user, query or fragment"
        raise ConfigurationError(msg)
    if url.scheme == "http" and not allow_insecure and not _is_loopback(url.host):
        msg = "base_url (HIS_SMS_BASE_ADDRESS) must be https://; http:// shows tokens and texts to the network"
        raise ConfigurationError(msg)
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --- the loggers of others ------------------------------------------------------------------------------

_in_call: ContextVar[bool] = ContextVar("his_sms_async.in_call", default=False)


def _not_in_call(_: logging.LogRecord) -> bool:
    return not _in_call.get()


# httpcore logs headers and, of a broken answer, its raw bytes; httpx logs the server's reason phrase. During
# our calls, and only then, these records are dropped; `his_sms_async._client` logs method and status instead.
for _name in (
    "httpx",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore.proxy",
    "httpcore.socks",
):
    logging.getLogger(_name).addFilter(_not_in_call)
