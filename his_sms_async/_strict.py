"""JSON objects as typed values, strictly: cattrs with hooks of our own.

cattrs' defaults turn null into "None", 1.9 into 1 and "false" into True; here nothing is coerced, and no error
quotes a value.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs
from cattrs import AttributeValidationNote, ClassValidationError, Converter
from cattrs.gen import make_dict_structure_fn, override

from ._errors import ProtocolError
from ._hidden import Hidden
from ._models import ErrorCode, MessageState, MessageType
from ._time import Stamp, parse_stamp

E = TypeVar("E", MessageType, MessageState, ErrorCode)
M = TypeVar("M")


class WrongValueError(ValueError):
    """A value is not what the field must hold; the text never quotes it."""


def integer(value: Any, _: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        msg = "is not an integer of 64 bits"
        raise WrongValueError(msg)
    return value


def _text(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        msg = "is not a text"
        raise WrongValueError(msg)
    return value


def stamp(value: Any, _: Any) -> Stamp:
    try:
        return parse_stamp(_text(value, None))
    except ValueError as error:
        msg = f"is {error}".replace("is is", "is")
        raise WrongValueError(msg) from None


def plain(name: str) -> str:
    """`Bad Request` and `BadRequest` are the same name, in any case."""
    return name.replace(" ", "").replace("-", "").replace("'", "").lower()


def _word(names: Mapping[str, E], numbers: Mapping[int, E]) -> Callable[[Any, Any], E | int | str]:
    """Read an enumeration by name or number; what it does not know stays as it was written."""

    def read(value: Any, _: Any) -> E | int | str:
        if isinstance(value, str):
            return names.get(plain(value), value)
        number = integer(value, None)
        return numbers.get(number, number)

    return read


_TYPES = {plain(member): member for member in MessageType}
_STATES = {plain(member): member for member in MessageState}
_ERROR_CODES = {plain(member.name.replace("_", "")): member for member in ErrorCode}

_any_type = _word(_TYPES, dict(enumerate(MessageType, start=1)))
_any_state = _word(_STATES, dict(enumerate(MessageState)))
_error_code = _word(_ERROR_CODES, {int(member): member for member in ErrorCode})


def _type(value: Any, _: Any) -> MessageType:
    known = _any_type(value, None)
    if not isinstance(known, MessageType):
        msg = "is neither Outgoing nor Incoming"
        raise WrongValueError(msg)
    return known


def _state(value: Any, _: Any) -> MessageState | str:
    known = _any_state(value, None)
    return known if isinstance(known, str) else str(known)


def _status_code(value: Any, _: Any) -> int | str:
    return value if isinstance(value, str) else integer(value, None)


@attrs.frozen(kw_only=True)
class WireStatus:
    status_code: int | str | None = None
    error_code: int | str | None = None


@attrs.frozen(kw_only=True)
class WireReceipt:
    id: int
    created_at: Stamp


@attrs.frozen(kw_only=True)
class WireNumber:
    id: int
    number: str = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class WireMessage:
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
    WireStatus: {"status_code": ("StatusCode", _status_code), "error_code": ("ErrorCode", _error_code)},
    WireReceipt: {"id": ("Id", integer), "created_at": ("CreatedAt", stamp)},
    WireNumber: {"id": ("OperatorNumberId", integer), "number": ("Number", _text)},
    WireMessage: {
        "id": ("Id", integer),
        "sender": ("From", _text),
        "recipient": ("To", _text),
        "type": ("Type", _type),
        "created_at": ("CreatedAt", stamp),
        "updated_at": ("UpdatedAt", stamp),
        "text": ("Text", _text),
        "state": ("State", _state),
        "reply_to_id": ("ReplyToMessageId", integer),
    },
}

_converter = Converter(detailed_validation=True)
for _class, _fields in _FIELDS.items():
    _overrides = {
        attribute: override(rename=name.lower(), struct_hook=hook) for attribute, (name, hook) in _fields.items()
    }
    _converter.register_structure_hook(_class, make_dict_structure_fn(_class, _converter, **_overrides))  # type: ignore[arg-type]


def structure(
    cls: type[M], value: Hidden[Any], *, what: str, index: int | None = None, http_status: int | None = None
) -> M:
    """Structure a JSON object strictly.

    Raises:
        ProtocolError: The first field that is wrong is named, without its value.
    """
    if not isinstance(value.reveal(), dict):
        msg = f"{what} is not an object"
        raise ProtocolError(msg, retryable=True, index=index, http_status=http_status)
    try:
        return _converter.structure(folded(value.reveal()), cls)
    except ClassValidationError as group:
        attribute, reason = _first_problem(group)
    field = _FIELDS[cls][attribute][0]
    msg = f"{what}.{field} {reason}"
    raise ProtocolError(msg, retryable=True, index=index, field=field, http_status=http_status)


def _first_problem(group: ClassValidationError) -> tuple[str, str]:
    error = group.exceptions[0]
    name = next(note.name for note in error.__notes__ if isinstance(note, AttributeValidationNote))
    return name, str(error) if isinstance(error, WrongValueError) else "is missing"


def folded(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An object's fields in lower case and without nulls, which count as missing."""
    folded = {name.lower(): value for name, value in fields.items() if value is not None}
    if "updated" in folded:  # the specification's list of fields calls it Updated, its example UpdatedAt
        folded.setdefault("updatedat", folded["updated"])
    return folded
