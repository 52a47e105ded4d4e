"""What all parts of the page are made with: its address, icons, times, and texts of patients made visible."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Literal, cast
from urllib.parse import urlencode

import attrs
import htpy as h

from ._clock import utc_datetime
from ._stamps import format_stamp
from ._state import Sandbox

Tab = Literal["journal", "faults", "clock", "numbers"]
TABS: Final[Sequence[Tab]] = ("journal", "faults", "clock", "numbers")

# What would not be seen, or would be no HTML: control characters, and halves of surrogate pairs.
_UNSEEN: Final = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff]")

# 24 by 24, drawn as lines
_ICONS: Final[Mapping[str, str]] = {
    "back": "M15 5l-7 7 7 7",
    "chevron": "M7 10l5 5 5-5",
    "clear": "M5 7h14M10 7V4.5h4V7M7 7l1 12.5h8L17 7M10.5 10.5v6M13.5 10.5v6",
    "clock": "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16zM12 8v4.5l3 2",
    "close": "M6 6l12 12M18 6L6 18",
    "down": "M12 5v14M6 13l6 6 6-6",
    "fault": "M13 3L5 14h6l-1 7 8-11h-6z",
    "phone": "M8 3h8a1 1 0 0 1 1 1v16a1 1 0 0 1-1 1H8a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1zM11 18h2",
    "plus": "M12 5v14M5 12h14",
    "reply": "M9 7l-5 5 5 5M4.5 12H14a6 6 0 0 1 6 6",
    "search": "M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zM15.5 15.5L20 20",
    "send": "M5 12L3.5 4.5 21 12 3.5 19.5zm0 0h8",
    "theme": "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
    "tools": "M4 7h9M19 7h1M4 17h1M11 17h9M16 4.5a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5z"
    "M8 14.5a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5z",
}


@attrs.frozen(kw_only=True)
class View:
    """What the address of the page says: whom it shows, and what beside."""

    patient: str = attrs.field(default="", repr=False)
    message: int | None = None
    """The Id of a message to be shown, however old."""
    search: str = attrs.field(default="", repr=False)
    tab: Tab = "journal"
    is_on_tools: bool = False
    """Whether a narrow screen shows the panel, not the thread or the list."""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "View":
        """Read the query of an address; what does not fit is left out."""
        message = query.get("message", "")
        return cls(
            patient=query.get("patient", "").strip(),
            message=int(message) if re.fullmatch("[0-9]{1,18}", message) else None,
            search=query.get("q", "").strip(),
            tab=cast(Tab, query["tab"]) if query.get("tab") in TABS else "journal",
            is_on_tools=query.get("pane") == "tools",
        )

    def link(self, *, patient: str | None = None, message: int | None = None, tab: Tab | None = None) -> str:
        """Return the address of the page with another patient or message, or with the panel to the fore."""
        parameters = {
            "patient": self.patient if patient is None else patient,
            "message": "" if message is None else str(message),
            "q": self.search,
            "tab": tab or ("" if self.tab == "journal" else self.tab),
            "pane": "" if tab is None else "tools",
        }
        query = urlencode({name: value for name, value in parameters.items() if value}, errors="replace")
        return f"?{query}"

    @property
    def pane(self) -> str:
        """What a narrow screen has room for: list, thread or tools."""
        return "tools" if self.is_on_tools else "thread" if self.patient else "list"


def icon(name: str) -> h.Element:
    """Return a drawing that says nothing to a screen reader."""
    return h.svg(".icon", viewBox="0 0 24 24", aria_hidden="true", focusable="false")[h.path(d=_ICONS[name])]


def shown(text: str) -> str:
    """Return a text with signs in place of what would not be seen."""
    return _UNSEEN.sub(lambda match: chr(0x2400 + ord(match[0])) if match[0] < " " else "\ufffd", text)


def local(ticks: int, sandbox: Sandbox) -> datetime:
    """Return the server's wall clock at `ticks`."""
    return utc_datetime(ticks).astimezone(sandbox.zone)


def day(date: datetime) -> str:
    """Return a day like "Tuesday, 10 March 2026"."""
    return f"{date:%A}, {date.day} {date:%B} {date.year}"


def time_of(ticks: int, sandbox: Sandbox, text: str) -> h.Element:
    """Return `text` as a time that tells all its digits to whoever asks."""
    stamp = format_stamp(ticks, sandbox.zone, offset=True)
    return h.time(datetime=local(ticks, sandbox).isoformat(), title=stamp)[text]


def counted(count: int, one: str, many: str) -> str:
    """Return a number with the noun that fits it, like "1 message" and "1,200 messages"."""
    return f"{count:,} {one if count == 1 else many}"


def alert() -> h.Element:
    """Return the place where a form says what went wrong; the page's script fills it, and nothing else does."""
    return h.p(".alert", role="alert", data_keep=True)
