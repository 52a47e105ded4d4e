"""Magic numbers: phone numbers that need no set-up, because the number itself says what happens to an SMS."""

from typing import Final

import attrs

from ._clock import TICKS_PER_SECOND
from ._patients import AT_ONCE, Delivery
from .faults import ErrorEnvelope, Fault, Latency, Reset, Status

_SECOND: Final = TICKS_PER_SECOND


@attrs.frozen(kw_only=True)
class MagicNumber:
    """What happens to an SMS to one number; it is Delivered at once if nothing else is said."""

    number: str
    meaning: str
    delivery: Delivery = AT_ONCE
    answer: str | None = None
    answer_after: float = 0.0
    """Seconds of the server's clock."""
    fault: Fault | None = None


_PREFIX: Final = "370000001"

MAGIC_NUMBERS: Final = (
    MagicNumber(
        number=f"{_PREFIX}01",
        meaning="Enroute, and Delivered after a second",
        delivery=Delivery(("Enroute", "Delivered"), _SECOND),
    ),
    MagicNumber(
        number=f"{_PREFIX}02",
        meaning="Enroute, and Delivered after a minute: late",
        delivery=Delivery(("Enroute", "Delivered"), 60 * _SECOND),
    ),
    MagicNumber(
        number=f"{_PREFIX}03",
        meaning="Enroute, and Undeliverable after a second",
        delivery=Delivery(("Enroute", "Undeliverable"), _SECOND),
    ),
    MagicNumber(
        number=f"{_PREFIX}04",
        meaning="Unknown: nobody says what became of it",
        delivery=Delivery(("Unknown",)),
    ),
    MagicNumber(
        number=f"{_PREFIX}05",
        meaning="Accepted, and Rejected after a second",
        delivery=Delivery(("Accepted", "Rejected"), _SECOND),
    ),
    MagicNumber(
        number=f"{_PREFIX}06",
        meaning="The request is answered after five seconds: slow",
        fault=Latency(5.0, request="send", number=f"{_PREFIX}06"),
    ),
    MagicNumber(
        number=f"{_PREFIX}07",
        meaning="The request fails twice, then works: HTTP 503, 503, 200, and again",
        fault=Status(503, times=2, every=3, request="send", number=f"{_PREFIX}07"),
    ),
    MagicNumber(
        number=f"{_PREFIX}08",
        meaning="Delivered, and answered “Yes” after two seconds",
        answer="Yes",
        answer_after=2.0,
    ),
    MagicNumber(
        number=f"{_PREFIX}09",
        meaning="Delivered, and answered “No” after two seconds",
        answer="No",
        answer_after=2.0,
    ),
    MagicNumber(
        number=f"{_PREFIX}10",
        meaning="The request is refused: HTTP 200 with ErrorCode InvalidClientNumber",
        fault=ErrorEnvelope("InvalidClientNumber", request="send", number=f"{_PREFIX}10"),
    ),
    MagicNumber(
        number=f"{_PREFIX}11",
        meaning="The request is carried out, and the connection reset: the client cannot know",
        fault=Reset(taken=True, request="send", number=f"{_PREFIX}11"),
    ),
)
"""In the order of their numbers."""
