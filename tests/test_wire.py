"""The wire: what is sent, and what an answer of (status, headers, body) means."""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from fakes import NOON, OK, VILNIUS, FakeServer, answer, envelope, failure, row
from hypothesis import HealthCheck, example, given, settings, strategies as st

from his_sms_async import (
    AuthenticationError,
    ConfigurationError,
    ConnectionFailed,
    ErrorCode,
    InvalidClientNumber,
    InvalidMessageOwner,
    MessageState,
    MessageType,
    OperatorNumber,
    OutgoingMessage,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    RequestRejected,
    SendReceipt,
    ServerFailure,
    ServerTimeout,
    SmsError,
)
from his_sms_async._hidden import Hidden
from his_sms_async._time import parse_stamp
from his_sms_async._wire import (
    NUMBERS_QUERY,
    MalformedRow,
    Row,
    decode_messages,
    decode_numbers,
    decode_receipt,
    decode_row,
    encode_send,
    is_refusal,
    is_wrong_setting,
    messages_query,
)

PHONE, TEXT, KEY = "37061234567", "Her test was positive", 271828182
"""Markers: what nobody may see."""

REMINDER = OutgoingMessage(
    sender="37000000001", recipient="37000000002", text="Will you come?", external_key=27342
)
RECEIPT = {"Id": 623178, "CreatedAt": "2019-11-11T08:08:21.8072824+02:00"}
NUMBER = {"OperatorNumberId": 4, "Number": "37000000000"}
DAY = 86_400 * 10_000_000


def body_of(content: Any) -> Hidden[bytes]:
    """A body; what is not bytes is written as JSON."""
    return Hidden(content if isinstance(content, bytes) else json.dumps(content).encode())


def decode(
    content: Any, status: int = 200, *, zone: ZoneInfo | None = VILNIUS, headers: Mapping[str, str] | None = None
) -> list[Row | MalformedRow]:
    """The rows of an answer to `type=Incoming`."""
    rows = decode_messages(status, headers or {}, body_of(content)).reveal()
    return [decode_row(Hidden(item), index, MessageType.INCOMING, zone) for index, item in enumerate(rows)]


def good(item: Any, zone: ZoneInfo | None = VILNIUS) -> Row:
    """The one row of an answer, which is good."""
    (only,) = decode(envelope(Messages=[item]), zone=zone)
    assert isinstance(only, Row)
    return only


def bad(item: Any) -> MalformedRow:
    """The one row of an answer, which is malformed."""
    (only,) = decode(envelope(Messages=[item]))
    assert isinstance(only, MalformedRow)
    return only


def refused(content: Any, status: int = 200, **headers: str) -> SmsError:
    """The error that a whole answer is."""
    with pytest.raises(SmsError) as caught:
        decode(content, status, headers={name.replace("_", "-"): value for name, value in headers.items()})
    return caught.value


def receipt_of(content: Any, status: int = 200, zone: ZoneInfo | None = VILNIUS) -> SendReceipt:
    """What an answer to a POST means."""
    return decode_receipt(status, {}, body_of(content), zone)


def without(item: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The same fields without some."""
    return {name: value for name, value in item.items() if name not in names}


# --- requests -------------------------------------------------------------------------------------------


@pytest.mark.spec("3.2", "3.3", "3.4", "3.5", "3.6", "3.7")
def test_a_post_has_exactly_the_five_fields() -> None:
    """Id is null, and nothing else is sent."""
    assert json.loads(encode_send(REMINDER)) == {
        "Id": None,
        "From": "37000000001",
        "To": "37000000002",
        "Text": "Will you come?",
        "ExternalKey": 27342,
    }


@given(
    st.text(min_size=1).filter(str.strip),
    st.text(min_size=1).filter(str.strip),
    st.text(min_size=1).filter(str.strip),
    st.integers(),
)
def test_what_is_sent_is_what_was_given(sender: str, recipient: str, text: str, key: int) -> None:
    """No text is changed on its way, whatever its script, and the body is valid UTF-8."""
    message = OutgoingMessage(sender=sender, recipient=recipient, text=text, external_key=key)
    assert json.loads(encode_send(message).decode("utf-8")) == {
        "Id": None,
        "From": sender,
        "To": recipient,
        "Text": text,
        "ExternalKey": key,
    }


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(
            (name, value)
            for name in ("sender", "recipient", "text")
            for value in ("", " \n", None, 37061234567, b"x")
        ),
        ("text", f"{TEXT} \ud83d"),
        ("text", f"\udc00{TEXT}"),
        *(("external_key", value) for value in (None, str(KEY), 1.5, True, float(KEY))),
    ],
)
def test_what_cannot_be_sent_is_refused(argument: str, value: Any) -> None:
    """An empty or wrong argument is named before any I/O, without its value."""
    fields: dict[str, Any] = {"sender": PHONE, "recipient": PHONE, "text": TEXT, "external_key": KEY}
    with pytest.raises(ConfigurationError, match=argument) as caught:
        encode_send(OutgoingMessage(**fields | {argument: value}))
    assert_nothing_shown(caught.value)


@pytest.mark.spec("4.3", "4.4", "5.3")
def test_queries() -> None:
    """The queries of sections 4 and 5; a space is written as %20."""
    moment = parse_stamp("2019-11-12T11:01:26.8912252").digits
    assert messages_query(MessageType.INCOMING, moment) == "type=Incoming&dateFrom=2019-11-12%2011:01:26.8912252"
    assert messages_query(MessageType.OUTGOING, moment) == "type=Outgoing&dateFrom=2019-11-12%2011:01:26.8912252"
    assert NUMBERS_QUERY == "type=Numbers"


# --- successes ------------------------------------------------------------------------------------------


@pytest.mark.spec("3.8", "3.9", "3.10")
@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_a_receipt(status: int) -> None:
    """Any 2xx with an OK envelope is a success."""
    receipt = receipt_of(envelope(**RECEIPT), status)
    assert receipt.id == 623178
    assert receipt.created_at == datetime.fromisoformat("2019-11-11T08:08:21.807282+02:00")


def test_a_receipt_without_offset() -> None:
    """CreatedAt without an offset is in the server's zone, or naive if that is unknown."""
    content = envelope(Id=1, CreatedAt="2026-03-10T12:00:00")
    assert receipt_of(content).created_at == NOON.replace(tzinfo=VILNIUS)
    assert receipt_of(content, zone=None).created_at == NOON


@pytest.mark.spec("5.4", "5.5", "5.6")
def test_numbers() -> None:
    """Numbers and sender names, in the server's order."""
    content = envelope(ClientOperatorNumbers=[{"OperatorNumberId": 7, "Number": "RSL_HOSP"}, NUMBER])
    assert decode_numbers(200, {}, body_of(content)) == [
        OperatorNumber(id=7, number="RSL_HOSP"),
        OperatorNumber(id=4, number="37000000000"),
    ]


@pytest.mark.spec("4.6", "4.7", "4.8", "4.9", "4.10", "4.11", "4.12", "4.13", "4.15")
def test_a_message() -> None:
    """Each field has its place, stamps are exact, and datetimes are cut to microseconds."""
    item = row(5, 1.5, created=0.5, ReplyToMessageId=123, UpdatedAt="2026-03-10T12:00:01.5000009")
    found = good(item)
    message = found.message
    assert (message.id, message.sender, message.recipient) == (5, "37060000005", "37000000001")
    assert (message.type, message.text) == (MessageType.INCOMING, "Yes")
    assert (message.state, message.reply_to_id) == (MessageState.DELIVERED, 123)
    assert message.created_at == (NOON + timedelta(seconds=0.5)).replace(tzinfo=VILNIUS)
    assert message.updated_at == (NOON + timedelta(seconds=1.5)).replace(tzinfo=VILNIUS)
    assert found.created == parse_stamp(item["CreatedAt"]).digits
    assert found.updated == found.message.revision.ticks == parse_stamp(item["UpdatedAt"]).digits
    assert message.revision.state is MessageState.DELIVERED
    assert not found.has_offset


def test_a_message_of_a_server_with_offsets() -> None:
    """With an offset a datetime is aware by it, and ticks are the server's wall clock."""
    item = row(5, CreatedAt="2026-03-10T09:00:00Z", UpdatedAt="2026-03-10T10:00:00.0000001Z")
    found = good(item)
    assert found.has_offset
    assert found.message.updated_at == datetime(2026, 3, 10, 10, tzinfo=UTC)
    assert found.updated == parse_stamp("2026-03-10T12:00:00.0000001").digits
    assert good(item, zone=None).updated == parse_stamp("2026-03-10T10:00:00.0000001").digits
    assert good(item | {"CreatedAt": "2026-03-10T09:00:00"}).has_offset
    assert not good(item | {"UpdatedAt": "2026-03-10T10:00:00"}).has_offset


def test_an_unknown_zone_makes_naive_datetimes() -> None:
    """Without offset and zone the server's wall clock is all that is known."""
    assert good(row(5), zone=None).message.created_at == NOON


def test_identity() -> None:
    """A message stays itself when the server changes its zone; with a reused Id it is another."""
    here = good(row(5, CreatedAt="2026-03-10T12:00:00.1234567"))
    assert good(row(5, CreatedAt="2026-03-10T10:00:00.1234567", UpdatedAt=None)).identity == here.identity
    assert good(row(5, CreatedAt="2026-03-10T06:15:00.1234567", State="Seen")).identity == here.identity
    assert good(row(5, CreatedAt="2026-03-10T12:00:00.1234568")).identity != here.identity
    assert good(row(6, CreatedAt="2026-03-10T12:00:00.1234567")).identity != here.identity


# --- tolerance ------------------------------------------------------------------------------------------


def renamed(content: Any, change: Callable[[str], str]) -> Any:
    """The same JSON with all names changed."""
    if isinstance(content, dict):
        return {change(name): renamed(value, change) for name, value in content.items()}
    return [renamed(value, change) for value in content] if isinstance(content, list) else content


@pytest.mark.parametrize("change", [str.lower, str.upper, str.swapcase, lambda name: name[0].lower() + name[1:]])
def test_names_are_read_without_regard_to_case(change: Callable[[str], str]) -> None:
    """ASP.NET writes camelCase unless it is told otherwise."""
    assert receipt_of(renamed(envelope(**RECEIPT), change)) == receipt_of(envelope(**RECEIPT))
    messages = envelope(Messages=[row(1, ReplyToMessageId=5), row(2)])
    assert decode(renamed(messages, change)) == decode(messages)
    numbers = body_of(renamed(envelope(ClientOperatorNumbers=[NUMBER]), change))
    assert decode_numbers(200, {}, numbers) == [OperatorNumber(id=4, number="37000000000")]
    error = refused(renamed(failure("InvalidMessageOwner"), change))
    assert (type(error), error.status_code) == (InvalidMessageOwner, "Internal Server Error")


@pytest.mark.spec("4.12")
def test_updated_is_an_alias() -> None:
    """The specification's list of fields says Updated, its example UpdatedAt; the latter wins."""
    item = without(row(1), "UpdatedAt") | {"Updated": "2026-03-10T12:34:56"}
    expected = parse_stamp("2026-03-10T12:34:56").digits
    assert good(item).updated == expected
    assert good(renamed(item, str.lower)).updated == expected
    assert good(item | {"UpdatedAt": None}).updated == expected
    assert good(item | {"UpdatedAt": "2026-03-10T12:34:57"}).updated == expected + 10_000_000
    error = bad(item | {"Updated": "soon"}).error
    assert error.field == "UpdatedAt"


@pytest.mark.spec("4.10")
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Outgoing", MessageType.OUTGOING),
        ("outgoing", MessageType.OUTGOING),
        ("INCOMING", MessageType.INCOMING),
        (1, MessageType.OUTGOING),
        (2, MessageType.INCOMING),
    ],
)
def test_types(value: Any, expected: MessageType) -> None:
    """Type comes as a name in any case, or as the specification's number."""
    assert good(row(1, Type=value)).message.type is expected


@pytest.mark.parametrize("asked", MessageType)
@pytest.mark.parametrize("item", [without(row(1), "Type"), row(1, Type=None)])
def test_a_missing_type_is_the_one_asked_for(asked: MessageType, item: Any) -> None:
    """A server that leaves Type out is asked for one type at a time."""
    found = decode_row(Hidden(item), 0, asked, VILNIUS)
    assert isinstance(found, Row)
    assert found.message.type is asked


def test_a_type_that_is_written_wins() -> None:
    """A row says itself which type it is."""
    found = decode_row(Hidden(row(1, Type="Incoming")), 0, MessageType.OUTGOING, VILNIUS)
    assert isinstance(found, Row)
    assert found.message.type is MessageType.INCOMING


@pytest.mark.spec("4.14")
@pytest.mark.parametrize(
    ("number", "name"),
    list(
        enumerate(
            "None Enroute Delivered Expired Deleted Undeliverable Accepted Unknown Rejected Seen Unsent".split()  # noqa: SIM905
        )
    ),
)
def test_states(number: int, name: str) -> None:
    """State comes as a name in any case, or as its number in the specification's order from 0."""
    state = MessageState(name)
    for value in (name, name.lower(), name.upper(), number):
        assert good(row(1, State=value)).message.state is state


@pytest.mark.parametrize(
    ("value", "text"), [("Parked", "Parked"), ("in transit", "in transit"), (11, "11"), (-1, "-1")]
)
def test_an_unknown_state_stays_as_its_text(value: Any, text: str) -> None:
    """The list of states is open."""
    message = good(row(1, State=value)).message
    assert message.state == message.revision.state == text
    assert not isinstance(message.state, MessageState)


@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("From", "sender", ""),
        ("To", "recipient", ""),
        ("Text", "text", ""),
        ("State", "state", MessageState.NONE),
        ("ReplyToMessageId", "reply_to_id", None),
        ("UpdatedAt", "updated_at", NOON.replace(tzinfo=VILNIUS)),
    ],
)
def test_null_is_like_missing(name: str, attribute: str, value: Any) -> None:
    """A field that may be empty can be null or missing."""
    item = row(1, 60, created=0)
    for lacking in (without(item, name), item | {name: None}):
        assert getattr(good(lacking).message, attribute) == value


def test_a_missing_updated_at_is_created_at() -> None:
    """A message that never changed was last changed when it was created, offset and all."""
    found = good(row(1, CreatedAt="2026-03-10T12:00:00.0000007Z", UpdatedAt=None))
    assert found.updated == found.created
    assert found.has_offset


@pytest.mark.spec("4.15")
def test_a_reply_to_zero_answers_nothing() -> None:
    """A server may write 0 where the specification writes null."""
    assert good(row(1, ReplyToMessageId=0)).message.reply_to_id is None


def test_unknown_fields_are_ignored() -> None:
    """A newer server may say more, at every level."""
    content = envelope(Messages=[row(1, Cost={"Cents": 4}, extra=[1])], Total=1)
    content["TraceId"] = "x"
    content["Status"] = OK | {"Hint": None}
    assert decode(content) == decode(envelope(Messages=[row(1)]))


def test_missing_or_null_lists_are_empty() -> None:
    """Where the server has nothing to list, it may write null or leave the list out."""
    assert decode(envelope(Messages=None)) == decode(envelope()) == decode(envelope(Messages=[])) == []
    for content in (envelope(), envelope(ClientOperatorNumbers=None), envelope(ClientOperatorNumbers=[])):
        assert decode_numbers(200, {}, body_of(content)) == []


def test_bodies_in_other_encodings() -> None:
    """A byte order mark and UTF-16 are read as JSON allows."""
    text = json.dumps(envelope(Messages=[row(1, Text="Ačiū")]), ensure_ascii=False)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (found,) = decode(text.encode(encoding))
        assert isinstance(found, Row)
        assert found.message.text == "Ačiū"


# --- strictness -----------------------------------------------------------------------------------------

NO_INTEGERS: list[Any] = ["5", "", 1.9, 5.0, True, False, [5], {"Id": 5}, 2**63, -(2**63) - 1]
NO_STAMPS: list[Any] = [
    *("", "soon", "2026-02-30T12:00:00", "2026-03-10", "0001-01-01T00:00:00"),
    *(1773144000, 1.5, True, [], {}),
]
WRONG: list[Any] = [5, 1.5, True, [], {}]


@pytest.mark.parametrize("value", [None, *NO_INTEGERS])
def test_ids_are_strict(value: Any) -> None:
    """An Id is an integer of 64 bits, and nothing is made into one."""
    found = bad(row(1, Id=value))
    assert (found.error.field, found.error.index) == ("Id", 0)
    with pytest.raises(ProtocolError) as caught:
        receipt_of(envelope(Id=value, CreatedAt="2026-03-10T12:00:00"))
    assert (caught.value.field, caught.value.http_status) == ("Id", 200)
    with pytest.raises(ProtocolError) as caught:
        decode_numbers(
            200, {}, body_of(envelope(ClientOperatorNumbers=[NUMBER, NUMBER | {"OperatorNumberId": value}]))
        )
    assert (caught.value.field, caught.value.index, caught.value.http_status) == ("OperatorNumberId", 1, 200)


@pytest.mark.parametrize("value", [0, -1, 2**63 - 1, -(2**63)])
def test_any_integer_of_64_bits_is_an_id(value: int) -> None:
    """Whatever the server counts with."""
    assert good(row(1, Id=value)).message.id == value


@pytest.mark.parametrize("value", [None, *NO_STAMPS])
def test_created_at_is_strict(value: Any) -> None:
    """CreatedAt is a stamp; it is never guessed."""
    assert bad(row(1, CreatedAt=value)).error.field == "CreatedAt"
    with pytest.raises(ProtocolError) as caught:
        receipt_of(envelope(Id=1, CreatedAt=value))
    assert caught.value.field == "CreatedAt"


@pytest.mark.parametrize("name", ["Id", "CreatedAt"])
def test_what_is_needed_cannot_be_missing(name: str) -> None:
    """The text says which field, and that it is missing."""
    error = bad(without(row(1), name)).error
    assert str(error) == f"Messages[0].{name} is missing"
    with pytest.raises(ProtocolError, match=f"Data.{name} is missing"):
        receipt_of(envelope(**without(RECEIPT, name)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *product(["UpdatedAt"], NO_STAMPS),
        *product(["From", "To", "Text"], WRONG),
        *product(["Type"], [*WRONG[1:], "Numbers", "", 0, 3]),
        *product(["State"], [*WRONG[1:], 2**63]),
        *product(["ReplyToMessageId"], NO_INTEGERS),
    ],
)
def test_nothing_is_coerced(name: str, value: Any) -> None:
    """A value of the wrong type makes the row malformed, and the error names the field."""
    found = bad(row(7, **{name: value}))
    assert (found.error.field, found.error.index, found.key) == (name, 0, 7)
    assert str(found.error).startswith(f"Messages[0].{name} is ")
    assert "is is" not in str(found.error)
    assert found.error.retryable


@pytest.mark.parametrize("value", [None, 37000000000, ["37000000000"], True])
def test_a_number_is_a_text(value: Any) -> None:
    """A number without its text is of no use."""
    with pytest.raises(ProtocolError) as caught:
        decode_numbers(200, {}, body_of(envelope(ClientOperatorNumbers=[NUMBER | {"Number": value}])))
    assert (caught.value.field, caught.value.index) == ("Number", 0)


def test_numbers_that_are_no_objects() -> None:
    """A row that is no object is told by its index."""
    with pytest.raises(ProtocolError, match=r"ClientOperatorNumbers\[1\] is not an object"):
        decode_numbers(200, {}, body_of(envelope(ClientOperatorNumbers=[NUMBER, "37000000000"])))


# --- malformed rows -------------------------------------------------------------------------------------


def test_a_malformed_row_harms_no_other() -> None:
    """Rows before and behind it are read; it has its Id as key, and no content."""
    first, middle, last = decode(envelope(Messages=[row(1), row(2, 5, Text=[TEXT]), row(3)]))
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert [first.message.id, last.message.id] == [1, 3]
    assert isinstance(middle, MalformedRow)
    assert (middle.key, middle.error.index, middle.error.field) == (2, 1, "Text")
    assert middle.created == middle.updated == parse_stamp("2026-03-10T12:00:05").digits
    assert str(middle.error) == "Messages[1].Text is not a text"
    assert TEXT not in repr(middle)


def test_what_of_a_malformed_row_can_be_read() -> None:
    """Stamps that can be read are on the server's wall clock; the others are None."""
    found = bad(row(2, CreatedAt="2026-03-10T10:00:00Z", UpdatedAt="soon"))
    assert (found.created, found.updated) == (parse_stamp("2026-03-10T12:00:00").digits, None)
    found = bad(row(2, CreatedAt=None, UpdatedAt="2026-03-10T10:00:00Z"))
    assert (found.created, found.updated) == (None, parse_stamp("2026-03-10T12:00:00").digits)
    found = bad(without(row(2, Updated="2026-03-10T10:00:00Z", Text=5), "UpdatedAt"))
    assert found.updated == parse_stamp("2026-03-10T12:00:00").digits


@pytest.mark.parametrize("item", [None, [], TEXT, 5, 1.5, True, [[PHONE]]])
def test_a_row_that_is_no_object(item: Any) -> None:
    """It is malformed as a whole."""
    found = bad(item)
    assert (found.created, found.updated, found.error.field, found.error.index) == (None, None, None, 0)
    assert str(found.error) == "Messages[0] is not an object"
    assert_nothing_shown(found.error)


def test_a_row_without_an_id_has_a_digest_as_key() -> None:
    """The key is the same when the row comes again, and another for another row."""
    item = row(1, Id=None, Text=TEXT)
    key = bad(item).key
    assert isinstance(key, str)
    assert len(key) == 64
    assert bad(dict(reversed(item.items()))).key == key
    assert bad(item | {"Text": "No"}).key != key
    assert bad(item | {"Id": "1"}).key != key


@pytest.mark.parametrize("name", ["Id", "CreatedAt", "UpdatedAt"])
@pytest.mark.parametrize("stamp", ["9999-12-30T23:59:59-23:59", "9999-12-30T23:00:00-10:01"])
def test_stamps_at_the_end_of_time(name: str, stamp: str) -> None:
    """A stamp that the server's zone cannot show makes its row malformed, and harms no other."""
    items = [row(1, CreatedAt=stamp, UpdatedAt=stamp) | {name: stamp}, row(2)]
    first, second = decode(envelope(Messages=items), zone=ZoneInfo("Pacific/Kiritimati"))
    assert isinstance(first, MalformedRow)
    assert isinstance(second, Row)


def test_a_row_that_is_nested_deeply() -> None:
    """What could be parsed in one thread can be refused in another, whose stack is deeper."""

    def deeper(levels: int) -> Row | MalformedRow:
        return deeper(levels - 1) if levels else decode_row(item, 0, MessageType.INCOMING, VILNIUS)

    nested = b"[" * 800 + b"]" * 800
    content = b'{"Data":{"Messages":[' + nested + b']},"Status":{"StatusCode":"OK","ErrorCode":"OK"}}'
    item = Hidden(decode_messages(200, {}, body_of(content)).reveal()[0])
    assert isinstance(deeper(400), MalformedRow)


# --- envelopes ------------------------------------------------------------------------------------------


@pytest.mark.spec("3.11", "4.16", "5.7")
@pytest.mark.parametrize(
    "code", ["OK", "ok", "Created", "Accepted", "No Content", "NonAuthoritativeInformation", 200, 201, None]
)
def test_status_codes_that_are_no_errors(code: Any) -> None:
    """A StatusCode below 400, as name or number, is no error; a missing one leaves it to ErrorCode."""
    content = envelope(Messages=[row(1)])
    content["Status"] = {"StatusCode": code, "ErrorCode": "OK"}
    assert len(decode(content)) == 1


@pytest.mark.spec("3.12", "3.14", "4.17", "5.8")
@pytest.mark.parametrize("code", ["OK", "Ok", "ok", 1, ErrorCode.OK.value])
def test_error_code_ok(code: Any) -> None:
    """ErrorCode OK comes as a name in any case, or as 1."""
    content = envelope(Messages=[row(1)])
    content["Status"] = {"StatusCode": "OK", "ErrorCode": code}
    assert len(decode(content)) == 1


@pytest.mark.spec("3.12", "3.15", "3.16", "3.17")
@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("status_code", ["OK", "Bad Request", "BadRequest", 400, "Internal Server Error", None])
@pytest.mark.parametrize(
    ("code", "cls", "known"),
    [
        ("Internal", ServerFailure, ErrorCode.INTERNAL),
        ("internal", ServerFailure, ErrorCode.INTERNAL),
        (500, ServerFailure, ErrorCode.INTERNAL),
        ("InvalidMessageOwner", InvalidMessageOwner, ErrorCode.INVALID_MESSAGE_OWNER),
        ("INVALIDMESSAGEOWNER", InvalidMessageOwner, ErrorCode.INVALID_MESSAGE_OWNER),
        (600, InvalidMessageOwner, ErrorCode.INVALID_MESSAGE_OWNER),
        ("InvalidClientNumber", InvalidClientNumber, ErrorCode.INVALID_CLIENT_NUMBER),
        (700, InvalidClientNumber, ErrorCode.INVALID_CLIENT_NUMBER),
    ],
)
def test_an_error_in_an_envelope(
    code: Any, cls: type[SmsError], known: ErrorCode, status_code: Any, status: int
) -> None:
    """The envelope's error code decides, under an HTTP error and under HTTP 200 alike, with Data or without."""
    for data in (None, RECEIPT):
        error = refused({"Data": data, "Status": {"StatusCode": status_code, "ErrorCode": code}}, status)
        assert type(error) is cls
        assert error.error_code is known
        assert (error.http_status, error.status_code) == (status, status_code)


@pytest.mark.spec("3.11", "4.16", "5.7")
@pytest.mark.parametrize(
    ("status_code", "cls"),
    [
        ("Bad Request", RequestRejected),
        ("BadRequest", RequestRejected),
        ("bad request", RequestRejected),
        (400, RequestRejected),
        ("Not Found", RequestRejected),
        ("Unauthorized", AuthenticationError),
        (401, AuthenticationError),
        ("Forbidden", PermissionDenied),
        ("TooManyRequests", RateLimited),
        ("Internal Server Error", ServerFailure),
        ("InternalServerError", ServerFailure),
        (500, ServerFailure),
        ("Service Unavailable", ServerFailure),
        # names of .NET and ASP.NET that differ from those of one version of Python or another
        ("RequestEntityTooLarge", RequestRejected),
        ("RequestUriTooLong", RequestRejected),
        ("RequestedRangeNotSatisfiable", RequestRejected),
        ("UnprocessableEntity", RequestRejected),
        ("UnprocessableContent", RequestRejected),
        ("Payload Too Large", RequestRejected),
        ("URI Too Long", RequestRejected),
        ("Range Not Satisfiable", RequestRejected),
        ("HttpVersionNotSupported", ServerFailure),
    ],
)
@pytest.mark.parametrize("error_code", ["OK", None, "Odd"])
def test_a_status_code_that_is_an_error(status_code: Any, cls: type[SmsError], error_code: Any) -> None:
    """Under HTTP 200 a StatusCode of 400 and more is the error that it would be as HTTP status."""
    error = refused({"Data": {}, "Status": {"StatusCode": status_code, "ErrorCode": error_code}})
    assert type(error) is cls
    assert (error.http_status, error.status_code) == (200, status_code)


@pytest.mark.parametrize("code", ["Odd", "", 0, 2, 800])
def test_an_unknown_error_code_is_a_failure(code: Any) -> None:
    """It is not OK, and nobody knows whose fault it is; the code stays as it was written."""
    error = refused({"Data": {"Messages": []}, "Status": {"StatusCode": "OK", "ErrorCode": code}})
    assert type(error) is ServerFailure
    assert error.error_code == code


@pytest.mark.parametrize(
    ("status", "field"),
    [
        ({"StatusCode": "OK"}, "ErrorCode"),
        ({"StatusCode": "OK", "ErrorCode": None}, "ErrorCode"),
        ({}, "ErrorCode"),
        ({"StatusCode": "Fine", "ErrorCode": "OK"}, "StatusCode"),
        ({"StatusCode": "200", "ErrorCode": "OK"}, "StatusCode"),
        ({"StatusCode": True, "ErrorCode": "OK"}, "StatusCode"),
        ({"StatusCode": 200.0, "ErrorCode": "OK"}, "StatusCode"),
    ],
)
def test_a_status_that_says_nothing(status: Any, field: str) -> None:
    """Without an OK that can be read there is no success."""
    error = refused({"Data": {"Messages": []}, "Status": status})
    assert isinstance(error, ProtocolError)
    assert (error.field, error.retryable) == (field, True)


@pytest.mark.parametrize("code", [True, 1.0, [1], {"Code": 1}])
def test_an_error_code_that_is_no_code(code: Any) -> None:
    """Nothing is made into an OK."""
    assert type(refused({"Data": {}, "Status": {"StatusCode": "OK", "ErrorCode": code}})) is ProtocolError


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"Status": OK}, "Data"),
        ({"Data": None, "Status": OK}, "Data"),
        ({"Data": [], "Status": OK}, "Data"),
        ({"Data": TEXT, "Status": OK}, "Data"),
        ({"Data": {"Messages": {}}, "Status": OK}, "Messages"),
        ({"Data": {"Messages": TEXT}, "Status": OK}, "Messages"),
        ({"Data": {"Messages": []}}, "Status"),
        ({"Data": {"Messages": []}, "Status": None}, "Status"),
        ({"Data": {"Messages": []}, "Status": "OK"}, "Status"),
        ({}, "Status"),
        ([], "Status"),
        (None, "Status"),
        ("OK", "Status"),
        (200, "Status"),
    ],
)
def test_a_success_that_is_no_envelope(content: Any, field: str) -> None:
    """Missing Data or Status is a protocol error, which names the field."""
    error = refused(content)
    assert type(error) is ProtocolError
    assert (error.field, error.http_status, error.retryable) == (field, 200, True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b" \r\n", "empty"),
        (b"OK", "not JSON, or was cut"),
        (json.dumps(envelope(Messages=[row(1)])).encode()[:-1], "not JSON, or was cut"),
        (b'{"Data": {"Messages": [], "X": NaN}, "Status": {"StatusCode": "OK", "ErrorCode": "OK"}}', "not JSON"),
        (b"\xff\xfe\xfa", "not JSON"),
        pytest.param(b"[" * 200_000, "not JSON", id="deep"),
        pytest.param(b'{"Data": {"Id": ' + b"1" * 5000 + b"}}", "not JSON", id="a huge number"),
        (b"null", "not JSON"),
        (b"{}", "no Status"),
    ],
)
def test_a_success_that_is_no_json(content: bytes, words: str) -> None:
    """An empty, cut or foreign body under HTTP 200 is a protocol error that may pass."""
    error = refused(content)
    assert type(error) is ProtocolError
    assert words in str(error)
    assert error.retryable


HTML = b"<!DOCTYPE html><title>Proxy</title>"
PROBLEM = json.dumps({"type": "about:blank", "title": "Oops", "status": 500, "detail": TEXT}).encode()


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (HTML, "text/html"),
        (HTML, "text/html; charset=utf-8"),
        (HTML, "application/json"),
        (b"Please log in", "text/html"),
        (PROBLEM, "application/problem+json"),
        (b"", "application/json"),
        (b"nonsense", "text/plain"),
        (b"[1]", "application/json"),
    ],
)
@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (200, ProtocolError),
        (302, ProtocolError),
        (400, RequestRejected),
        (401, AuthenticationError),
        (403, PermissionDenied),
        (404, RequestRejected),
        (405, RequestRejected),
        (413, RequestRejected),
        (429, RateLimited),
        (499, RequestRejected),
        (500, ServerFailure),
        (502, ServerFailure),
        (503, ServerFailure),
        (504, ServerFailure),
        (599, ServerFailure),
    ],
)
def test_answers_of_others(content: bytes, content_type: str, status: int, cls: type[SmsError]) -> None:
    """What no SMS server wrote is judged by its HTTP status; an HTML page is called one."""
    error = refused(content, status, content_type=content_type)
    assert type(error) is cls
    assert (error.http_status, error.status_code, error.error_code) == (status, None, None)
    assert ("an HTML page" in str(error)) is (content.startswith(b"<") or "html" in content_type)
    if status != 200:
        assert f"HTTP {status}" in str(error)


@pytest.mark.parametrize("status", [100, 199, 300, 301, 302, 303, 304, 307, 308, 399])
def test_redirects_are_not_followed(status: int) -> None:
    """An answer that is neither success nor error is a protocol error, whatever its body says."""
    for content in (b"", envelope(Messages=[row(1)])):
        error = refused(content, status, location="https://elsewhere.test/")
        assert type(error) is ProtocolError
        assert "redirects are not followed" in str(error)
        assert "elsewhere" not in str(error)
        assert not error.retryable


@pytest.mark.parametrize(("status", "cls"), [(400, RequestRejected), (500, ServerFailure), (503, ServerFailure)])
def test_an_error_status_with_an_ok_envelope(status: int, cls: type[SmsError]) -> None:
    """Both must say OK."""
    error = refused(envelope(Messages=[row(1)]), status)
    assert type(error) is cls
    assert error.error_code is ErrorCode.OK


@pytest.mark.parametrize("status", [200, 401, 403, 429])
def test_the_facts_of_an_error_are_kept(status: int) -> None:
    """HTTP status, StatusCode and ErrorCode can be asked for."""
    error = refused({"Data": None, "Status": {"StatusCode": "Odd Name", "ErrorCode": 800}}, status)
    assert (error.http_status, error.status_code, error.error_code) == (status, "Odd Name", 800)


# --- Retry-After ----------------------------------------------------------------------------------------

NOW = "Tue, 10 Mar 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "120"}, 120.0),
        ({"retry-after": " 120 "}, 120.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "١٢"}, None),
        ({"retry-after": "Tue, 10 Mar 2026 10:02:00 GMT", "date": NOW}, 120.0),
        ({"retry-after": "Tue, 10 Mar 2026 09:02:00 GMT", "date": NOW}, 0.0),
        ({"retry-after": "Tue, 10 Mar 2026 10:02:00 GMT"}, None),
        ({"retry-after": "Tue, 10 Mar 2026 10:02:00 GMT", "date": "today"}, None),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 -0100", "date": NOW}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, or a date that is read against the server's own clock; what cannot be read is None."""
    for content in (b"", json.dumps(failure("Internal")).encode()):
        with pytest.raises(RateLimited) as caught:
            decode_messages(429, headers, Hidden(content))
        assert caught.value.retry_after == seconds
        assert caught.value.retryable


# --- what errors mean for the caller --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (AuthenticationError("x"), True),
        (PermissionDenied("x"), True),
        (RateLimited("x"), True),
        (RequestRejected("x"), True),
        (InvalidMessageOwner("x"), True),
        (InvalidClientNumber("x"), True),
        (ServerFailure("x"), False),
        (ServerTimeout("x"), False),
        (ConnectionFailed("x"), False),
        (ProtocolError("x"), False),
    ],
)
def test_what_says_for_certain_that_nothing_was_sent(error: SmsError, refusal: bool) -> None:  # noqa: FBT001
    """Only 4xx and the error codes 600 and 700 are clear refusals."""
    assert is_refusal(error) is refusal


@pytest.mark.parametrize(
    ("error", "wrong"),
    [
        (AuthenticationError("x"), True),
        (PermissionDenied("x"), True),
        (ConfigurationError("x"), True),
        (ConnectionFailed("certificate", retryable=False), True),
        (ConnectionFailed("x"), False),
        (ServerTimeout("x"), False),
        (ServerFailure("x"), False),
        (RateLimited("x"), False),
    ],
)
def test_what_is_a_wrong_setting(error: SmsError, wrong: bool) -> None:  # noqa: FBT001
    """What will not go away by itself is a wrong setting, if nothing ever worked."""
    assert is_wrong_setting(error) is wrong


@pytest.mark.parametrize(
    ("content", "status", "wrong"),
    [
        (HTML, 200, True),
        (HTML, 404, True),
        (HTML, 502, False),
        (b"", 302, True),
        (b"", 200, False),
        (b"", 404, True),
        (failure("Odd", "Bad Request"), 400, False),
        (failure("Internal"), 500, False),
    ],
)
def test_which_answers_speak_of_a_wrong_setting(content: Any, status: int, wrong: bool) -> None:  # noqa: FBT001
    """An HTML page or an unknown path does; an envelope, even of an error, is the SMS server speaking."""
    assert is_wrong_setting(refused(content, status)) is wrong


# --- properties -----------------------------------------------------------------------------------------


def written(moment: int) -> str:
    """A stamp of the server's, by arithmetic of the test's own."""
    days, rest = divmod(moment, DAY)
    seconds, fraction = divmod(rest, 10_000_000)
    minutes, second = divmod(seconds, 60)
    return f"{date.fromordinal(days + 1)}T{minutes // 60:02}:{minutes % 60:02}:{second:02}.{fraction:07}"


moments = st.integers(4 * DAY, (date.max.toordinal() - 4) * DAY)  # the calendar's ends are refused
ids = st.integers(-(2**63), 2**63 - 1)


@given(
    st.fixed_dictionaries(
        {
            "id": ids,
            "sender": st.text(),
            "recipient": st.text(),
            "type": st.sampled_from(MessageType),
            "text": st.text(),
            "state": st.sampled_from(MessageState),
            "reply_to_id": st.none() | ids.filter(bool),
        }
    ),
    moments,
    moments,
    st.booleans(),
)
@settings(deadline=None)
def test_what_is_encoded_is_decoded(fields: dict[str, Any], created: int, updated: int, numbers: bool) -> None:  # noqa: FBT001
    """Whatever a server lists comes out as it went in, to the last tick, with enumerations as names or numbers."""
    item = {
        "Id": fields["id"],
        "From": fields["sender"],
        "To": fields["recipient"],
        "Type": list(MessageType).index(fields["type"]) + 1 if numbers else fields["type"],
        "CreatedAt": written(created),
        "UpdatedAt": written(updated),
        "Text": fields["text"],
        "State": list(MessageState).index(fields["state"]) if numbers else fields["state"],
        "ReplyToMessageId": fields["reply_to_id"],
    }
    found = good(item, zone=None)
    assert {name: getattr(found.message, name) for name in fields} == fields
    assert (found.created, found.updated) == (created, updated)
    assert found.message.revision == (updated, fields["state"])
    assert found.message.created_at.isoformat(timespec="microseconds") == written(created)[:-1]
    assert found.identity == (fields["id"], created % (DAY // 96))


NAMES = "Data Status Messages ClientOperatorNumbers StatusCode ErrorCode Id From To Text CreatedAt Updated".split()  # noqa: SIM905
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(
        ["OK", "Internal", "Bad Request", "Incoming", "2026-03-10T12:00:00", "0001-01-02T00:00:00+14:00"]
    )
    | st.from_regex(
        r"\d{4}-1[0-2]-[0-2]\d[T ][01]\d:[0-5]\d:\d\d(\.\d{1,8})?(Z|[+-][0-2]\d:[0-5]\d)?", fullmatch=True
    )
)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner),
    max_leaves=12,
)
rows = st.fixed_dictionaries({}, optional=dict.fromkeys((*row(1), "Updated"), leaves))
statuses = st.sampled_from([OK, {}]) | st.fixed_dictionaries(
    {}, optional={"StatusCode": leaves, "ErrorCode": leaves, "ErrorMessage": leaves}
)
envelopes = st.fixed_dictionaries(
    {
        "Status": statuses,
        "Data": trees
        | rows
        | st.fixed_dictionaries({"Messages": st.lists(rows | trees), "ClientOperatorNumbers": st.lists(trees)}),
    }
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "content-type": st.text(),
        "retry-after": st.text() | st.sampled_from([NOW, "1" * 400, "Fri, 31 Dec 9999 23:59:59 -0100"]),
        "date": st.text() | st.just(NOW),
    },
)


@given(
    st.sampled_from([200, 200, 200, 204, 302, 400, 401, 403, 429, 500, 503]) | st.integers(100, 599),
    headers,
    st.binary() | (envelopes | trees).map(lambda tree: json.dumps(tree).encode()),
    st.sampled_from([None, VILNIUS]),
)
@example(200, {}, b'{"Data":{"Messages":[{"Id":1e999}]},"Status":{"StatusCode":"OK","ErrorCode":"OK"}}', None)
@example(200, {}, b'{"Data":{"Messages":["\\ud800"]},"Status":{"StatusCode":"OK","ErrorCode":"OK"}}', None)
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_no_answer_raises_anything_else(
    status: int, headers: dict[str, str], content: bytes, zone: ZoneInfo | None
) -> None:
    """Whatever comes, it is a success or one of our errors."""
    body = Hidden(content)
    for read in (
        lambda: decode_receipt(status, headers, body, zone),
        lambda: decode_numbers(status, headers, body),
        lambda: [
            decode_row(Hidden(item), index, MessageType.OUTGOING, zone)
            for index, item in enumerate(decode_messages(status, headers, body).reveal())
        ],
    ):
        try:
            read()
        except SmsError as error:
            assert error.http_status in (status, None)  # noqa: PT017


# --- nothing is shown -----------------------------------------------------------------------------------


def shown(error: BaseException) -> Iterator[str]:
    """All that a log or an error tracker would show of an exception, but for the frames of this test."""
    seen: BaseException | None = error
    while seen is not None:
        yield from (str(seen), repr(seen), repr(seen.args))
        trace = seen.__traceback__
        while trace is not None:
            if trace.tb_frame.f_globals["__name__"] != __name__:
                for name, value in trace.tb_frame.f_locals.items():
                    yield f"{trace.tb_frame.f_code.co_qualname}: {name} = {value!r}"
            trace = trace.tb_next
        seen = seen.__cause__ or seen.__context__


def assert_nothing_shown(error: BaseException) -> None:
    """Check that no marker can be seen."""
    for text in shown(error):
        assert not any(marker in text for marker in (PHONE, TEXT, str(KEY))), text


SECRETS = {"From": PHONE, "To": PHONE, "Text": TEXT, "Number": PHONE, "ExternalKey": KEY, "Messages": [TEXT]}
LEAKS = [
    HTML + TEXT.encode(),
    f"Sent to {PHONE}: {TEXT}".encode(),
    json.dumps(envelope(Messages=[row(1, From=PHONE, Text=TEXT)])).encode()[:-5],
    json.dumps({"detail": f"{PHONE} {TEXT}"}).encode(),
    [PHONE, TEXT],
    {"Data": SECRETS},
    {"Data": SECRETS, "Status": [TEXT]},
    {"Data": SECRETS, "Status": {}},
    {"Data": SECRETS, "Status": {"StatusCode": [PHONE], "ErrorCode": {"Text": TEXT}}},
    {"Data": SECRETS, "Status": {"StatusCode": "Bad Request", "ErrorCode": "OK", "ErrorMessage": PHONE}},
    {"Data": SECRETS, "Status": {"StatusCode": "OK", "ErrorCode": "Odd", "ErrorMessage": TEXT}},
    *(
        {"Data": SECRETS, "Status": {"StatusCode": "Bad Request", "ErrorCode": code, "ErrorMessage": PHONE}}
        for code in (500, 600, 700)
    ),
    {"Data": [SECRETS], "Status": OK},
    {"Data": {"Messages": SECRETS, "ClientOperatorNumbers": SECRETS}, "Status": OK},
    {"Data": {"Messages": [TEXT], "ClientOperatorNumbers": [PHONE], "Id": PHONE}, "Status": OK},
    {"Data": {"ClientOperatorNumbers": [{"Number": PHONE}], "Text": TEXT}, "Status": OK},
    {
        "Data": {"ClientOperatorNumbers": [{"OperatorNumberId": PHONE, "Number": [PHONE]}], "Id": TEXT},
        "Status": OK,
    },
    *(
        envelope(Messages=[row(1, From=PHONE, To=PHONE, Text=TEXT), row(2, From=PHONE, Text=TEXT) | {name: value}])
        for name, value in {
            "Id": PHONE,
            "From": [PHONE],
            "To": {"Number": PHONE},
            "Text": [TEXT],
            "Type": TEXT,
            "State": [TEXT],
            "CreatedAt": PHONE,
            "UpdatedAt": TEXT,
            "ReplyToMessageId": PHONE,
        }.items()
    ),
]


@pytest.mark.spec("3.13", "4.18", "5.9")
@pytest.mark.parametrize("content", LEAKS, ids=[str(n) for n in range(len(LEAKS))])
def test_no_error_shows_what_was_answered(content: Any) -> None:
    """Neither text, repr and args of an error nor the locals of its frames show a number or a text."""
    body = body_of(content)
    for status in (200, 302, 400, 401, 429, 500):
        for read in (partial(decode_receipt, zone=VILNIUS), decode_numbers, decode_messages):
            try:
                found: Any = read(status, {}, body)
            except SmsError as error:
                assert_nothing_shown(error)
            else:
                for index, item in enumerate(found.reveal() if isinstance(found, Hidden) else []):
                    decoded = decode_row(Hidden(item), index, MessageType.INCOMING, VILNIUS)
                    if isinstance(decoded, MalformedRow):
                        assert_nothing_shown(decoded.error)
                        assert not any(marker in repr(decoded) for marker in (PHONE, TEXT))


@pytest.mark.anyio
@pytest.mark.parametrize("content", LEAKS, ids=[str(n) for n in range(len(LEAKS))])
async def test_no_error_of_the_client_shows_what_was_answered(content: Any) -> None:
    """Nor does an error that a user of the client sees, whatever was asked and sent."""
    for status in (200, 400, 401, 500):
        server = FakeServer(script=[answer(status, content) for _ in range(3)])
        async with server.client() as client:
            with pytest.raises(SmsError) as caught:
                await client.send(sender=PHONE, recipient=PHONE, text=TEXT, external_key=KEY)
            assert_nothing_shown(caught.value)
            for call in (client.list_messages(date_from=NOON), client.list_numbers()):
                try:
                    await call
                except SmsError as error:
                    assert_nothing_shown(error)


def test_values_show_no_number_text_or_key() -> None:
    """The `repr` of what users hold hides it as well."""
    message = OutgoingMessage(sender=PHONE, recipient=PHONE, text=TEXT, external_key=KEY)
    number = OperatorNumber(id=4, number=PHONE)
    listed = good(row(1, From=PHONE, To=PHONE, Text=TEXT))
    for value in (message, number, listed, listed.message, Hidden(TEXT)):
        assert not any(marker in repr(value) for marker in (PHONE, TEXT, str(KEY)))
