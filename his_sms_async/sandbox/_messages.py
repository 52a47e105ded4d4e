"""The messages that the stand-in keeps."""

from typing import Literal

import attrs

MessageType = Literal["Incoming", "Outgoing"]


@attrs.frozen(kw_only=True)
class SandboxMessage:
    """One SMS as the stand-in keeps it; a change makes a new value.

    `created_ticks` and `updated_ticks` are UTC ticks of 100 ns since 0001-01-01. For an outgoing message
    the sender is the hospital, for an incoming one the patient.
    """

    id: int
    type: MessageType
    sender: str = attrs.field(repr=False)
    recipient: str = attrs.field(repr=False)
    text: str = attrs.field(repr=False)
    state: str
    created_ticks: int
    updated_ticks: int
    reply_to_id: int | None = None
    external_key: int | None = attrs.field(default=None, repr=False)
