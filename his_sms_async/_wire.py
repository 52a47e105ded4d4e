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
from cattrs import AttributeValidationNote, ClassValidationError, Converter
from cattrs.gen import make_dict_structure_fn, override

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
    MessageState,
    MessageType,
    OperatorNumber,
    OutgoingMessage,
    Revision,
    SendReceipt,
)
from ._time import Stamp, format_ticks, parse_http_date, parse_stamp, ticks

E = TypeVar("E", MessageType, MessageState, ErrorCode)
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
    data = _open(status, headers, body).reveal()
    receipt = _structure(_WireReceipt, Hidden(data), what="Data")
    return SendReceipt(id=receipt.id, created_at=receipt.created_at.to_datetime(zone))


def decode_numbers(status: int, headers: Mapping[str, str], body: Hidden[bytes]) -> list[OperatorNumber]:
    """The answer to `type=Numbers` (specification, section 5), in the server's order."""
    rows = _list_of(_open(status, headers, body), "ClientOperatorNumbers").reveal()
    numbers = [
        _structure(_WireNumber, Hidden(row), what=f"ClientOperatorNumbers[{index}]", index=index)
        for index, row in enumerate(rows)
    ]
    return [OperatorNumber(id=number.id, number=number.number) for number in numbers]


def decode_messages(status: int, headers: Mapping[str, str], body: Hidden[bytes]) -> Hidden[list[Any]]:
    """The undecoded rows of an answer to `type=Incoming` or `Outgoing` (specification, section 4).

    Each is then decoded on its own by `decode_row`, so that one bad row harms no other, and so that the
    caller can let the event loop breathe in between.
    """
    return _list_of(_open(status, headers, body), "Messages")


def decode_row(row: Hidden[Any], index: int, asked: MessageType, zone: ZoneInfo | None) -> Row | MalformedRow:
    """One message; `asked` is its type if it names none."""
    try:
        wire = _structure(_WireMessage, row, what=f"Messages[{index}]", index=index)
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
    """Whether the answer to a POST says for certain that the SMS was not taken (contract, 4.1)."""
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
    envelope = _parse(body)
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
    data = _folded(envelope).get("data")
    if not isinstance(data, dict):
        msg = "the answer has no Data" if data is None else "the answer's Data is not an object"
        raise ProtocolError(msg, retryable=True, field="Data", **facts)
    return Hidden(data)


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
    state: "_WireStatus | None",
    facts: dict[str, Any],
) -> NoReturn:
    """Raise the error that the status and the envelope's error code stand for."""
    code = None if state is None else state.error_code
    error, message = _BY_STATUS.get(status) or _BY_ERROR_CODE.get(code) or _by_class(status)
    message = f"{message} (HTTP {facts['http_status']})"
    if state is None and _is_html(headers, body):
        message = f"{message}: an HTML page, not the SMS server's JSON; {_IN_BETWEEN}"
    if error is RateLimited:
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
    headers: Mapping[str, str], body: Hidden[bytes], envelope: Any, facts: dict[str, Any]
) -> ProtocolError:
    """A success by HTTP status whose body is no envelope."""
    if _is_html(headers, body):
        msg = f"the answer is an HTML page, not the SMS server's JSON; {_IN_BETWEEN}"
        return ProtocolError(msg, **facts)
    if not body.reveal().strip():
        msg = "the answer is empty"
    elif envelope is None:
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


def _status_of(envelope: Any) -> "_WireStatus | None":
    status = _folded(envelope).get("status") if isinstance(envelope, dict) else None
    if not isinstance(status, dict):
        return None
    try:
        return _structure(_WireStatus, Hidden(status), what="Status")
    except ProtocolError:
        return _WireStatus(status_code="unreadable")


def _http_status_of(code: int | str | None) -> int | None:
    """The number of a StatusCode; missing counts as 200, for then ErrorCode decides alone."""
    return 200 if code is None else code if isinstance(code, int) else _STATUS_BY_NAME.get(_plain(code))


def _list_of(data: Hidden[Any], name: str) -> Hidden[list[Any]]:
    rows = _folded(data.reveal()).get(name.lower(), [])
    if not isinstance(rows, list):
        msg = f"the answer's {name} is not a list"
        raise ProtocolError(msg, retryable=True, field=name)
    return Hidden(rows)


def _malformed(row: Hidden[Any], error: ProtocolError, zone: ZoneInfo | None) -> MalformedRow:
    fields = _folded(row.reveal()) if isinstance(row.reveal(), dict) else {}

    def read(field: str, convert: Callable[[Any, Any], M]) -> M | None:
        try:
            return convert(fields.get(field), None)
        except _WrongValueError:
            return None

    created, updated, identifier = read("createdat", _stamp), read("updatedat", _stamp), read("id", _integer)
    return MalformedRow(
        key=_digest(row) if identifier is None else identifier,
        created=None if created is None else created.wall(zone),
        updated=None if updated is None else updated.wall(zone),
        error=error,
    )


def _digest(row: Hidden[Any]) -> str:
    """Tell one row from another without keeping it."""
    return hashlib.sha256(json.dumps(row.reveal(), sort_keys=True).encode()).hexdigest()


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


# --- the strict converter -------------------------------------------------------------------------------


class _WrongValueError(ValueError):
    """A value is not what the field must hold; the text never quotes it."""


def _integer(value: Any, _: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        msg = "is not an integer of 64 bits"
        raise _WrongValueError(msg)
    return value


def _text(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        msg = "is not a text"
        raise _WrongValueError(msg)
    return value


def _stamp(value: Any, _: Any) -> Stamp:
    try:
        return parse_stamp(_text(value, None))
    except ValueError as error:
        msg = f"is {error}".replace("is is", "is")
        raise _WrongValueError(msg) from None


def _plain(name: str) -> str:
    """`Bad Request` and `BadRequest` are the same name, in any case."""
    return name.replace(" ", "").replace("-", "").replace("'", "").lower()


def _word(names: Mapping[str, E], numbers: Mapping[int, E]) -> Callable[[Any, Any], E | int | str]:
    """Read an enumeration by name or number; what it does not know stays as it was written."""

    def read(value: Any, _: Any) -> E | int | str:
        if isinstance(value, str):
            return names.get(_plain(value), value)
        number = _integer(value, None)
        return numbers.get(number, number)

    return read


_TYPES = {_plain(member): member for member in MessageType}
_STATES = {_plain(member): member for member in MessageState}
_ERROR_CODES = {_plain(member.name.replace("_", "")): member for member in ErrorCode}
_STATUS_BY_NAME = {_plain(member.phrase): int(member) for member in HTTPStatus}

_any_type = _word(_TYPES, dict(enumerate(MessageType, start=1)))
_any_state = _word(_STATES, dict(enumerate(MessageState)))
_error_code = _word(_ERROR_CODES, {int(member): member for member in ErrorCode})


def _type(value: Any, _: Any) -> MessageType:
    known = _any_type(value, None)
    if not isinstance(known, MessageType):
        msg = "is neither Outgoing nor Incoming"
        raise _WrongValueError(msg)
    return known


def _state(value: Any, _: Any) -> MessageState | str:
    known = _any_state(value, None)
    return known if isinstance(known, str) else str(known)


def _status_code(value: Any, _: Any) -> int | str:
    return value if isinstance(value, str) else _integer(value, None)


@attrs.frozen(kw_only=True)
class _WireStatus:
    status_code: int | str | None = None
    error_code: int | str | None = None


@attrs.frozen(kw_only=True)
class _WireReceipt:
    id: int
    created_at: Stamp


@attrs.frozen(kw_only=True)
class _WireNumber:
    id: int
    number: str = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class _WireMessage:
    id: int
    sender: str = attrs.field(default="", repr=False)
    recipient: str = attrs.field(default="", repr=False)
    type: MessageType | None = None
    created_at: Stamp
    updated_at: Stamp | None = None
    text: str = attrs.field(default="", repr=False)
    state: MessageState | str = MessageState.NONE
    reply_to_id: int | None = None


# Attribute, the specification's name, and how its value is read.
_FIELDS: Mapping[type[Any], Mapping[str, tuple[str, Callable[[Any, Any], Any]]]] = {
    _WireStatus: {"status_code": ("StatusCode", _status_code), "error_code": ("ErrorCode", _error_code)},
    _WireReceipt: {"id": ("Id", _integer), "created_at": ("CreatedAt", _stamp)},
    _WireNumber: {"id": ("OperatorNumberId", _integer), "number": ("Number", _text)},
    _WireMessage: {
        "id": ("Id", _integer),
        "sender": ("From", _text),
        "recipient": ("To", _text),
        "type": ("Type", _type),
        "created_at": ("CreatedAt", _stamp),
        "updated_at": ("UpdatedAt", _stamp),
        "text": ("Text", _text),
        "state": ("State", _state),
        "reply_to_id": ("ReplyToMessageId", _integer),
    },
}

# A converter of our own: cattrs' defaults turn null into "None", 1.9 into 1 and "false" into True.
_converter = Converter(detailed_validation=True)
for _class, _fields in _FIELDS.items():
    _overrides = {
        attribute: override(rename=name.lower(), struct_hook=hook) for attribute, (name, hook) in _fields.items()
    }
    _converter.register_structure_hook(_class, make_dict_structure_fn(_class, _converter, **_overrides))  # type: ignore[arg-type]


def _structure(cls: type[M], value: Hidden[Any], *, what: str, index: int | None = None) -> M:
    """Structure a JSON object strictly; the first field that is wrong is named, without its value."""
    if not isinstance(value.reveal(), dict):
        msg = f"{what} is not an object"
        raise ProtocolError(msg, retryable=True, index=index)
    try:
        return _converter.structure(_folded(value.reveal()), cls)
    except ClassValidationError as group:
        attribute, reason = _first_problem(group)
    field = _FIELDS[cls][attribute][0]
    msg = f"{what}.{field} {reason}"
    raise ProtocolError(msg, retryable=True, index=index, field=field)


def _first_problem(group: ClassValidationError) -> tuple[str, str]:
    error = group.exceptions[0]
    name = next(note.name for note in error.__notes__ if isinstance(note, AttributeValidationNote))
    return name, str(error) if isinstance(error, _WrongValueError) else "is missing"


def _folded(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An object's fields in lower case and without nulls, which count as missing."""
    folded = {name.lower(): value for name, value in fields.items() if value is not None}
    if "updated" in folded:  # the specification's list of fields calls it Updated, its example UpdatedAt
        folded.setdefault("updatedat", folded["updated"])
    return folded
