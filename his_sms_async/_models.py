"""The values that users see: frozen, and silent about numbers, texts and keys in their `repr`."""

from datetime import datetime
from enum import IntEnum, StrEnum
from typing import NamedTuple

import attrs


class MessageType(StrEnum):
    """Direction of an SMS, seen from the hospital (specification, section 4)."""

    OUTGOING = "Outgoing"
    INCOMING = "Incoming"


class MessageState(StrEnum):
    """State of an SMS, in the order of the specification's section 4, where servers count it from 0.

    The list is open: a state that is not in it stays as the text that the server wrote.
    """

    NONE = "None"
    ENROUTE = "Enroute"
    DELIVERED = "Delivered"
    EXPIRED = "Expired"
    DELETED = "Deleted"
    UNDELIVERABLE = "Undeliverable"
    ACCEPTED = "Accepted"
    UNKNOWN = "Unknown"
    REJECTED = "Rejected"
    SEEN = "Seen"
    UNSENT = "Unsent"


class ErrorCode(IntEnum):
    """Error codes of the SMS server (specification, section 3)."""

    OK = 1
    INTERNAL = 500
    INVALID_MESSAGE_OWNER = 600
    INVALID_CLIENT_NUMBER = 700


class Revision(NamedTuple):
    """One version of a message: a later change has a greater UpdatedAt, or the same one and another state."""

    ticks: int
    """UpdatedAt on the server's wall clock, exact, in units of 100 ns since 0001-01-01."""
    state: MessageState | str


@attrs.frozen(kw_only=True)
class Message:
    """An SMS as the server lists it (specification, section 4)."""

    id: int
    """The SMS server's identifier."""
    sender: str = attrs.field(repr=False)
    """The specification's From: the person's number for an incoming SMS."""
    recipient: str = attrs.field(repr=False)
    """The specification's To: the hospital's number for an incoming SMS."""
    type: MessageType
    created_at: datetime
    """Aware if the server writes offsets or its zone is known, else naive: the server's wall clock.

    Cut to microseconds, as is `updated_at`; `revision` is exact.
    """
    updated_at: datetime
    """When the SMS was last changed; like `created_at`."""
    text: str = attrs.field(repr=False)
    state: MessageState | str
    """A `MessageState`, or the server's own text if it is none of them."""
    reply_to_id: int | None
    """Id of the SMS that this one answers, or None if the server does not know."""
    revision: Revision
    """The version of the message, for exact comparison."""


@attrs.frozen(kw_only=True)
class OutgoingMessage:
    """An SMS to be sent (specification, section 3)."""

    sender: str = attrs.field(repr=False)
    """One of the hospital's numbers or sender names; a patient can only answer to a number."""
    recipient: str = attrs.field(repr=False)
    """The person's number."""
    text: str = attrs.field(repr=False)
    external_key: int = attrs.field(repr=False)
    """The HIS's own unique identifier of this SMS."""


@attrs.frozen(kw_only=True)
class SendReceipt:
    """What the server says of an SMS that it took."""

    id: int
    """The SMS server's identifier; a reply carries it as `reply_to_id`."""
    created_at: datetime
    """When the server received the SMS; aware if the server writes offsets or its zone is known."""


@attrs.frozen(kw_only=True)
class OperatorNumber:
    """A phone number or sender name that the hospital may send from (specification, section 5)."""

    id: int
    number: str = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Change:
    """A message was seen before and has changed since."""

    previous: MessageState | str | None
    """The state in which it was delivered last; None if it never was."""


@attrs.frozen(kw_only=True)
class PollerHealth:
    """How a poller is doing; it holds no patient data, so it can be shown and logged."""

    role: str
    """"leading", or "standby" while another replica leads."""
    is_live: bool
    """The background task runs."""
    is_ready: bool
    """There was a good poll, or another replica leads."""
    degraded: bool
    """Something needs a person: malformed rows, a bound that was reached, or polls that fail."""
    last_ok_age: float | None
    """Seconds since the last good poll; None before the first."""
    consecutive_failures: int
    """Polls that failed since the last good one, and failures of the store since it last worked."""
    last_error: str | None
    """Class and code of the last failure, None once all works again."""
    high: str | None
    """The read mark in the server's digits: the newest stamp received."""
    low: str | None
    """The settled mark in the server's digits: everything up to it is settled."""
    buffered: int
    """Messages received and not in hand: waiting, or released."""
    in_hand: int
    """Messages handed out and not settled."""
    oldest_unsettled_age: float | None
    """Seconds since the oldest unsettled message was received; None if there is none."""
    late: int
    """Messages since the start that came behind newer ones."""
    malformed: int
    """Rows in quarantine."""
    rejected: int
    """Messages that were rejected and not requeued."""
    seen: int
    """Messages that are remembered, to recognise them when they come again."""
    warnings: tuple[str, ...]
    """What the server does that the poller has to work around, as words of the README's table."""
    leader: str | None
    """Who leads, as machine and process, where replicas share a store; this one or another."""
    lease_until: datetime | None
    """Until when that one leads unless it renews its lease, by the database's clock (aware, UTC)."""
