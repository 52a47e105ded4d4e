"""The client: what can be asked of the SMS server, and what may be asked twice."""

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar
from zoneinfo import ZoneInfo

import anyio
import anyio.lowlevel
import anyio.to_thread
import attrs

from ._backoff import backoff
from ._errors import (
    ConfigurationError,
    ConnectionFailed,
    RateLimited,
    SendOutcomeUnknown,
    ServerFailure,
    ServerTimeout,
    SmsError,
    bare,
)
from ._hidden import Hidden
from ._http import Auth, Decode, Exchange, Failure, Transport, checked_url
from ._models import Message, MessageType, OperatorNumber, OutgoingMessage, SendReceipt
from ._settings import in_event_loop, load_zone, read_settings
from ._time import earliest_wall, parse_http_date
from ._tls import Verify, checked_proxy
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

T = TypeVar("T")

# A POST that certainly did not arrive, and a read, are tried so often at most, within `timeout`.
_ATTEMPTS = 4
# After 429 a POST is repeated twice at most.
_ATTEMPTS_IF_LIMITED = 3
_GATEWAY_FAILURES = (502, 503, 504)
# Rows to decode before the event loop gets its turn: about a millisecond.
_ROWS_AT_ONCE = 200


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
        auth: Auth,
        server_timezone: ZoneInfo | str | None = None,
        timeout: float = 30.0,
        max_response_bytes: int = 64 * 2**20,
        verify: Verify = None,
        proxy: str | None = None,
        transport: Transport | None = None,
        allow_insecure: bool = False,
        max_connections: int = 10,
    ) -> None:
        address, route, given = Hidden(base_url), Hidden(proxy), Hidden(auth)
        del base_url, proxy, auth
        url = checked_url(address, allow_insecure=allow_insecure)
        if not isinstance(given.reveal(), Auth):
            msg = "auth must be a BearerAuth, MsalAuth or TokenAuth"
            raise ConfigurationError(msg)
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
        self._exchange = Exchange(
            url=url,
            auth=given.reveal(),
            timeout=timeout,
            verify=verify,
            proxy=checked_proxy(route),
            transport=transport,
            max_connections=max_connections,
        )

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """Make a client from the environment's `HIS_SMS_…` variables; arguments win over variables.

        `HIS_SMS_BASE_ADDRESS`; `HIS_SMS_TOKEN`, or `HIS_SMS_AAD_INSTANCE`, `HIS_SMS_TENANT`,
        `HIS_SMS_CLIENT_ID`, `HIS_SMS_CLIENT_SECRET` and `HIS_SMS_SCOPE`; `HIS_SMS_SERVER_TIMEZONE`;
        `HIS_SMS_CA_FILE`. Each can also name a file that holds the value, as `HIS_SMS_TOKEN_FILE` does.

        Raises:
            ConfigurationError: All problems at once, each by its variable's name.
        """
        given = Hidden(overrides)
        del overrides
        settings, problems = read_settings(given)
        client = None
        try:
            client = cls(**settings.reveal())
        except ConfigurationError as error:
            problems.append(str(error))
        if problems or client is None:
            raise ConfigurationError("; ".join(dict.fromkeys(problems)))
        return client

    @property
    def base_url(self) -> str:
        """The SMS server's address."""
        return str(self._exchange.url)

    @property
    def server_timezone(self) -> ZoneInfo | None:
        """The zone of the server's wall clock, if it is known."""
        self._zone = load_zone(self._zone)
        return self._zone

    def __repr__(self) -> str:
        exchange: Exchange | None = getattr(self, "_exchange", None)  # None while the constructor runs
        if exchange is None:
            return "<SmsClient>"
        return f"<SmsClient {exchange.url} {'open' if exchange.is_open else 'closed'}>"

    async def __aenter__(self) -> Self:
        if isinstance(self._zone, str):
            self._zone = await anyio.to_thread.run_sync(load_zone, self._zone)
        await self._exchange.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._exchange.close()

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
        """List the SMS that changed at or after a moment, in the order (UpdatedAt, Id) (section 4).

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
        rows = await self._list(type, date_from)
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
        since = self._exchange.last_date or datetime.now(UTC) - timedelta(hours=1)

        def decode(status: int, headers: Mapping[str, str], answer: Hidden[bytes]) -> SendReceipt:
            return decode_receipt(status, headers, answer, self.server_timezone)

        deadline = anyio.current_time() + self._timeout
        attempt = 0
        while True:
            attempt += 1
            outcome = await self._exchange.attempt(
                "POST", "", decode, body=body, deadline=deadline, max_bytes=self._max_response_bytes
            )
            if not isinstance(outcome, Failure):
                return outcome
            failure = outcome.error
            if outcome.may_have_arrived and not is_refusal(failure):
                return _unknown(message.external_key, since, failure)
            attempts = _ATTEMPTS_IF_LIMITED if isinstance(failure, RateLimited) else _ATTEMPTS
            if not failure.retryable or attempt >= attempts or not await _pause(failure, attempt, deadline):
                return failure

    async def _list(self, asked: MessageType, date_from: datetime) -> list[Row] | SmsError:
        if asked not in tuple(MessageType):
            return ConfigurationError("type must be a MessageType")
        try:
            query = messages_query(MessageType(asked), earliest_wall(date_from, self.server_timezone))
        except (ValueError, OverflowError, AttributeError):
            return ConfigurationError(
                "date_from must be a datetime; an aware one needs server_timezone (HIS_SMS_SERVER_TIMEZONE)"
            )
        raw = await self._read(query, decode_messages)
        if isinstance(raw, SmsError):
            return raw
        rows, malformed = await _decode_rows(raw, asked, self.server_timezone)
        return bare(malformed[0].error) if malformed else rows

    async def _read(self, query: str, decode: Decode[T]) -> T | SmsError:
        """Ask, and ask again within `timeout` where that may help: a read does no harm."""
        deadline = anyio.current_time() + self._timeout
        attempt = 0
        while True:
            attempt += 1
            outcome = await self._exchange.attempt(
                "GET", query, decode, deadline=deadline, max_bytes=self._max_response_bytes
            )
            if not isinstance(outcome, Failure):
                return outcome
            failure = outcome.error
            passing = isinstance(failure, ConnectionFailed | ServerTimeout | RateLimited) and failure.retryable
            if isinstance(failure, ServerFailure):
                passing = failure.http_status in _GATEWAY_FAILURES
            if not passing or attempt == _ATTEMPTS or not await _pause(failure, attempt, deadline):
                return failure


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

    outcome = await client._exchange.attempt("GET", messages_query(asked, date_from), decode, max_bytes=max_bytes)  # noqa: SLF001
    if isinstance(outcome, Failure):
        return outcome.error
    rows, malformed = await _decode_rows(outcome, asked, client.server_timezone)
    return Answer(rows, malformed, date)


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
