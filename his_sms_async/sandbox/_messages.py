"""The messages that the stand-in keeps."""

import re
from typing import Final, Literal

import attrs

MessageType = Literal["Incoming", "Outgoing"]

STATES: Final = (
    "None",
    "Enroute",
    "Delivered",
    "Expired",
    "Deleted",
    "Undeliverable",
    "Accepted",
    "Unknown",
    "Rejected",
    "Seen",
    "Unsent",
)
"""The states of the specification (section 4), in its order."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


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
    visible_from: int = attrs.field(default=0, eq=False, repr=False)
    """When lists begin to show this version, in ticks that the server has run."""
    before: "SandboxMessage | None" = attrs.field(default=None, eq=False, repr=False)
    """The version that this one replaced."""

    def visible_at(self, running: int) -> "SandboxMessage | None":
        """Return the newest version that lists showed when the server had run so many ticks."""
        version: SandboxMessage | None = self
        while version is not None and version.visible_from > running:
            version = version.before
        return version

    @property
    def patient(self) -> str:
        """The number of the patient, whoever wrote."""
        return self.sender if self.type == "Incoming" else self.recipient

    @property
    def hospital(self) -> str:
        """The number or name of the hospital, whoever wrote."""
        return self.recipient if self.type == "Incoming" else self.sender


def is_unicode(text: str) -> bool:
    """Return whether an encoding can write `text`: JSON can escape half a surrogate pair, which none can."""
    return _SURROGATE.search(text) is None


def check_unicode(text: str, what: str) -> None:
    """Check that an encoding can write `text`; `what` names it, and is said instead of it.

    Raises:
        ValueError: None can.
    """
    if not is_unicode(text):
        raise ValueError(f"{what} has half a surrogate pair, which no encoding can write")
