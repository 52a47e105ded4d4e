"""The wire: what is sent as bytes, and what (status, headers, body) mean as models or errors.

Pure functions, and the only place that looks at a status code or an envelope. Strict where it decides,
tolerant where real servers differ from the specification: names without regard to case, enumerations as
names or numbers, null like missing. Nothing is coerced: `"5"` is no Id, nor is `1.9` or `true`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote
from zoneinfo import ZoneInfo

import attrs

from ._errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidClientNumber,
    InvalidMessageOwner,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    RequestRejected,
    ServerFailure,
    SmsError,
)
from ._hidden import Hidden
from ._models import (
    ErrorCode,
    Message,
    MessageType,
    OperatorNumber,
    OutgoingMessage,
    Revision,
    SendReceipt,
)
from ._strict import (
    WireMessage,
    WireNumber,
    WireReceipt,
    WireStatus,
    WrongValueError,
    folded,
    integer,
    plain,
    stamp,
    structure,
)
from ._time import format_ticks, parse_http_date, ticks

M = TypeVar("M")

NUMBERS_QUERY = "type=Numbers"

# A server that starts to write its stamps in another zone moves them by whole quarter hours.
_QUARTER_HOUR = ticks(minutes=15)


@attrs.frozen(kw_only=True)
class Row:
    """A message as the poller's decisions see it: with its stamps as exact ticks of the server's wall clock."""

    message: Message
    created: int
    updated: int
    has_offset: bool
    """The server wrote UpdatedAt with an offset from UTC."""

    @property
    def identity(self) -> tuple[int, int]:
        """What makes it the same message when it comes again: Id, and CreatedAt modulo 15 minutes.

        An Id that is used again, by a server restored from a backup, is another message.
        """
        return self.message.id, self.created % _QUARTER_HOUR


@attrs.frozen(kw_only=True)
class MalformedRow:
    """A row that breaks the contract, without its content."""

    key: int | str
    """Its Id if that can be read, else a digest of the row."""
    created: int | None
    """CreatedAt in ticks of the server's wall clock, if it can be read."""
    updated: int | None
    """UpdatedAt likewise."""
    error: ProtocolError


def encode_send(message: OutgoingMessage) -> bytes:
    """The body of a POST (specification, section 3): exactly its five fields, Id null.

    Raises:
        ConfigurationError: A field is empty or of the wrong type, and cannot be sent.
    """
    problem = _problem_of(message)
    if problem:
        raise ConfigurationError(problem)
    fields = {
        "Id": None,
        "From": message.sender,
        "To": message.recipient,
        "Text": message.text,
        "ExternalKey": message.external_key,
    }
    return json.dumps(fields).encode()


def messages_query(message_type: MessageType, date_from: int) -> str:
    """The query of a GET (specification, section 4), with `dateFrom` in the server's wall clock."""
    return f"type={message_type}&dateFrom={quote(format_ticks(date_from), safe=':')}"


def decode_receipt(
    status: int, headers: Mapping[str, str], body: Hidden[bytes], zone: ZoneInfo | None
) -> SendReceipt:
    """The answer to a POST (specification, section 3).

    Raises:
        SmsError: As for any answer. Only a clear refusal means that the SMS was not taken: `is_refusal`.
    """
    receipt = structure(WireReceipt, _open(status, headers, body), what="Data", http_status=status)
    return SendReceipt(id=receipt.id, created_at=receipt.created_at.to_datetime(zone))


def decode_numbers(status: int, headers: Mapping[str, str], body: Hidden[bytes]) -> list[OperatorNumber]:
    """The answer to `type=Numbers` (specification, section 5), in the server's order."""
    rows = _list_of(_open(status, headers, body), "ClientOperatorNumbers", status)
    numbers = [
        structure(
            WireNumber,
            Hidden(rows.reveal()[index]),
            what=f"ClientOperatorNumbers[{index}]",
            index=index,
            http_status=status,
        )
        for index in range(len(rows.reveal()))
    ]
    return [OperatorNumber(id=number.id, number=number.number) for number in numbers]


def decode_messages(status: int, headers: Mapping[str, str], body: Hidden[bytes]) -> Hidden[list[Any]]:
    """The undecoded rows of an answer to `type=Incoming` or `Outgoing` (specification, section 4).

    Each is then decoded on its own by `decode_row`, so that one bad row harms no other, and so that the
    caller can let the event loop breathe in between.
    """
    return _list_of(_open(status, headers, body), "Messages", status)


def decode_row(row: Hidden[Any], index: int, asked: MessageType, zone: ZoneInfo | None) -> Row | MalformedRow:
    """One message; `asked` is its type if it names none."""
    try:
        wire = structure(WireMessage, row, what=f"Messages[{index}]", index=index)
    except ProtocolError as error:
        return _malformed(row, error, zone)
    updated = wire.created_at if wire.updated_at is None else wire.updated_at
    message = Message(
        id=wire.id,
        sender=wire.sender,
        recipient=wire.recipient,
        type=wire.type or asked,
        created_at=wire.created_at.to_datetime(zone),
        updated_at=updated.to_datetime(zone),
        text=wire.text,
        state=wire.state,
        reply_to_id=wire.reply_to_id or None,
        revision=Revision(updated.wall(zone), wire.state),
    )
    return Row(
        message=message,
        created=wire.created_at.wall(zone),
        updated=message.revision.ticks,
        has_offset=updated.offset is not None,
    )


def is_refusal(error: SmsError) -> bool:
    """Whether the answer to a POST says for certain that the SMS was not taken."""
    return isinstance(error, AuthenticationError | PermissionDenied | RateLimited | RequestRejected)


def is_wrong_setting(error: SmsError) -> bool:
    """Whether an error that comes before anything ever worked will not go away by itself.

    Refused credentials, a certificate that is not trusted, an HTML page or a path that the server does not
    know; an envelope, even of an error, is the SMS server speaking.
    """
    if isinstance(error, RequestRejected):
        return error.error_code is None
    return isinstance(error, AuthenticationError | PermissionDenied | ConfigurationError) or not error.retryable


# --- the envelope ---------------------------------------------------------------------------------------


def _open(status: int, headers: Mapping[str, str], body: Hidden[bytes]) -> Hidden[Any]:
    """Return the Data of an answer that is a success by HTTP status, StatusCode and ErrorCode alike."""
    envelope = Hidden(_parse(body))
    state = _status_of(envelope)
    facts: dict[str, Any] = {"http_status": status}
    if state is not None:
        facts |= {"status_code": state.status_code, "error_code": state.error_code}
    if status in _BY_STATUS or not 200 <= status < 300:
        _raise_for(status, headers, body, state, facts)
    if state is None:
        raise _unreadable(headers, body, envelope, facts)
    if state.error_code in _BY_ERROR_CODE:
        _raise_for(status, headers, body, state, facts)
    code = _http_status_of(state.status_code)
    if code is None:
        msg = "the answer's StatusCode is no HTTP status"
        raise ProtocolError(msg, retryable=True, field="StatusCode", **facts)
    if code >= 400:
        _raise_for(code, headers, body, state, facts)
    if state.error_code is None:
        msg = "the answer's Status has no ErrorCode"
        raise ProtocolError(msg, retryable=True, field="ErrorCode", **facts)
    if state.error_code != ErrorCode.OK:
        msg = "the SMS server reported an error code that the specification does not know"
        raise ServerFailure(msg, **facts)
    data = Hidden(folded(envelope.reveal()).get("data"))
    if not isinstance(data.reveal(), dict):
        msg = "the answer has no Data" if data.reveal() is None else "the answer's Data is not an object"
        raise ProtocolError(msg, retryable=True, field="Data", **facts)
    return data


_BY_STATUS: Mapping[int, tuple[type[SmsError], str]] = {
    401: (
        AuthenticationError,
        "the SMS server did not accept the token; check the token or the client secret",
    ),
    403: (
        PermissionDenied,
        "the SMS server does not allow this; check the scope and the rights of the client",
    ),
    429: (RateLimited, "the SMS server asks to slow down"),
}
_BY_ERROR_CODE: Mapping[int | str | None, tuple[type[SmsError], str]] = {
    ErrorCode.INTERNAL: (ServerFailure, "the SMS server reported ErrorCode Internal"),
    ErrorCode.INVALID_MESSAGE_OWNER: (
        InvalidMessageOwner,
        "the SMS server refused the sender (InvalidMessageOwner); use one of list_numbers()",
    ),
    ErrorCode.INVALID_CLIENT_NUMBER: (
        InvalidClientNumber,
        "the SMS server refused the recipient (InvalidClientNumber); check the person's number",
    ),
}


def _raise_for(
    status: int,
    headers: Mapping[str, str],
    body: Hidden[bytes],
    state: "WireStatus | None",
    facts: dict[str, Any],
) -> NoReturn:
    """Raise the error that the status and the envelope's error code stand for."""
    code = None if state is None else state.error_code
    by_code = _BY_ERROR_CODE.get(code)
    if code == ErrorCode.INTERNAL and status in _BY_STATUS:
        by_code = None  # it says less than 401, 403 and 429 do
    error, message = by_code or _BY_STATUS.get(status) or _by_class(status)
    message = f"{message} (HTTP {facts['http_status']})"
    if state is None and _is_html(headers, body):
        message = f"{message}: an HTML page, not the SMS server's JSON; {_IN_BETWEEN}"
    if error in (RateLimited, ServerFailure):
        facts["retry_after"] = _retry_after(headers)
    raise error(message, **facts)


def _by_class(status: int) -> tuple[type[SmsError], str]:
    if status >= 500:
        return ServerFailure, "the SMS server failed"
    if status >= 400:
        return RequestRejected, "the SMS server refused the request; check the base URL"
    return ProtocolError, f"the answer is no success and no error; redirects are not followed, {_IN_BETWEEN}"


_IN_BETWEEN = "check the base URL, and whether a proxy or a login page stands in between"


def _unreadable(
    headers: Mapping[str, str], body: Hidden[bytes], envelope: Hidden[Any], facts: dict[str, Any]
) -> ProtocolError:
    """A success by HTTP status whose body is no envelope."""
    if _is_html(headers, body):
        msg = f"the answer is an HTML page, not the SMS server's JSON; {_IN_BETWEEN}"
        return ProtocolError(msg, **facts)
    if not body.reveal().strip():
        msg = "the answer is empty"
    elif envelope.reveal() is None:
        msg = "the answer is not JSON, or was cut"
    else:
        msg = "the answer has no Status"
    return ProtocolError(msg, retryable=True, field="Status", **facts)


def _is_html(headers: Mapping[str, str], body: Hidden[bytes]) -> bool:
    return "html" in headers.get("content-type", "").lower() or body.reveal().lstrip().startswith(b"<")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait (RFC 9110, 10.2.3): a number, or a date that is read against the server's own."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    until, now = parse_http_date(value), parse_http_date(headers.get("date"))
    return None if until is None or now is None else max(0.0, (until - now).total_seconds())


def _parse(body: Hidden[bytes]) -> Any:
    """The JSON of a body, or None if it is none; errors would quote the body, so there are none."""
    try:
        return json.loads(body.reveal(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None


def _refuse_constant(name: str) -> NoReturn:
    """NaN and Infinity are no JSON (RFC 8259, 6)."""
    raise ValueError(name)


def _status_of(envelope: Hidden[Any]) -> "WireStatus | None":
    if not isinstance(envelope.reveal(), dict):
        return None
    status = Hidden(folded(envelope.reveal()).get("status"))
    if not isinstance(status.reveal(), dict):
        return None
    try:
        return structure(WireStatus, status, what="Status")
    except ProtocolError:
        return WireStatus(status_code="unreadable")


# .NET's HttpStatusCode and Python's HTTPStatus have each renamed some.
_STATUS_BY_NAME = {
    **{plain(name.replace("_", "")): int(member) for name, member in HTTPStatus.__members__.items()},
    **{plain(member.phrase): int(member) for member in HTTPStatus},
    **dict.fromkeys(("requestentitytoolarge", "payloadtoolarge", "contenttoolarge"), 413),
    **dict.fromkeys(("requesturitoolong", "uritoolong"), 414),
    **dict.fromkeys(("requestedrangenotsatisfiable", "rangenotsatisfiable"), 416),
    **dict.fromkeys(("unprocessableentity", "unprocessablecontent"), 422),
}


def _http_status_of(code: int | str | None) -> int | None:
    """The number of a StatusCode; missing counts as 200, for then ErrorCode decides alone."""
    return 200 if code is None else code if isinstance(code, int) else _STATUS_BY_NAME.get(plain(code))


def _list_of(data: Hidden[Any], name: str, status: int) -> Hidden[list[Any]]:
    rows = Hidden(folded(data.reveal()).get(name.lower(), []))
    if not isinstance(rows.reveal(), list):
        msg = f"the answer's {name} is not a list"
        raise ProtocolError(msg, retryable=True, field=name, http_status=status)
    return rows


def _malformed(row: Hidden[Any], error: ProtocolError, zone: ZoneInfo | None) -> MalformedRow:
    fields = folded(row.reveal()) if isinstance(row.reveal(), dict) else {}

    def read(field: str, convert: Callable[[Any, Any], M]) -> M | None:
        try:
            return convert(fields.get(field), None)
        except WrongValueError:
            return None

    created, updated, identifier = read("createdat", stamp), read("updatedat", stamp), read("id", integer)
    return MalformedRow(
        key=_digest(row) if identifier is None else identifier,
        created=None if created is None else created.wall(zone),
        updated=None if updated is None else updated.wall(zone),
        error=error,
    )


def _digest(row: Hidden[Any]) -> str:
    """Tell one row from another without keeping it."""
    digest = hashlib.sha256()
    todo = Hidden([row.reveal()])
    while todo.reveal():  # without recursion: a row may be nested more deeply than this thread's stack allows
        item = Hidden(todo.reveal().pop())
        if isinstance(item.reveal(), dict):
            digest.update(b"{%d," % len(item.reveal()))
            todo.reveal().extend(part for name in sorted(item.reveal()) for part in (item.reveal()[name], name))
        elif isinstance(item.reveal(), list):
            digest.update(b"[%d," % len(item.reveal()))
            todo.reveal().extend(item.reveal())
        else:
            digest.update(json.dumps(item.reveal()).encode() + b",")
    return digest.hexdigest()


def _problem_of(message: OutgoingMessage) -> str | None:
    """What keeps a message from being sent, in words that name the argument and hold no value."""
    for name in ("sender", "recipient", "text"):
        value: Hidden[Any] = Hidden(getattr(message, name))
        if not isinstance(value.reveal(), str) or not value.reveal().strip():
            return f"{name} must be a text that is not empty"
    if any("\ud800" <= character <= "\udfff" for character in message.text):
        return "text holds half of a surrogate pair, which is no character"
    key: Hidden[Any] = Hidden(message.external_key)
    if not isinstance(key.reveal(), int) or isinstance(key.reveal(), bool):
        return "external_key must be an int"
    return None
