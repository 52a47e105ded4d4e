"""What all faults share: whom they strike, what they can change, and how their options are checked."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import attrs

from ._answers import Answer, Call, Envelope, Request
from ._messages import MessageType, SandboxMessage, is_unicode
from ._patients import key_of

if TYPE_CHECKING:  # it is what faults happen to, and imports them
    from ._state import Sandbox

API: Final = frozenset[Request]({"send", "list", "numbers"})
ANY: Final = frozenset[Request]({"send", "list", "numbers", "token"})
LIST: Final = frozenset[Request]({"list"})
TOKEN: Final = frozenset[Request]({"token"})
NONE: Final = frozenset[Request]()

LONGEST: Final = 1_000_000_000
"""Seconds, some thirty years: the most of any option, so that no date gets out of range."""

_OPTIONS: Final = frozenset({"times", "every", "probability", "number", "request"})
_NO_BODY: Final = frozenset({204, 205, 304})

W = TypeVar("W", bound=str)

Check = Callable[[Any, Any, Any], None]
"""A validator of attrs."""


def fault_name(kind: type) -> str:
    """Return the name of a kind in the control API, like ``rate-limit``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()


def first_sentence(kind: type) -> str:
    """Return what the docstring of a class says first."""
    words = " ".join((inspect.getdoc(kind) or "").split())
    return words.partition(". ")[0].rstrip(".") + "."


def integer(*, least: int, most: int | None = None, optional: bool = False) -> Check:
    """Return a validator; true and false are no numbers."""
    limits = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"

    def fits(value: Any) -> bool:
        return _is_number(value, int) and value >= least and (most is None or value <= most)

    return _check(fits, limits, optional=optional)


def number(*, least: float = -LONGEST, most: float = LONGEST, optional: bool = False) -> Check:
    """Return a validator; true and false are no numbers, nor are infinity and NaN."""

    def fits(value: Any) -> bool:
        return _is_number(value, int, float) and least <= value <= most and isfinite(value)

    return _check(fits, f"a number from {least} to {most}", optional=optional)


def text(*, optional: bool = False) -> Check:
    """Return a validator of texts that can be written as UTF-8."""

    def fits(value: Any) -> bool:
        return isinstance(value, str) and is_unicode(value)

    return _check(fits, "a text", optional=optional)


def one_of(*values: W, optional: bool = False) -> Callable[[Any, Any, W | None], None]:
    """Return a validator."""

    def fits(value: Any) -> bool:
        return isinstance(value, str) and value in values

    return _check(fits, f"one of {', '.join(values)}", optional=optional)


def boolean() -> Check:
    """Return a validator."""
    return _check(lambda value: isinstance(value, bool), "true or false")


def http_status(*, least: int) -> Check:
    """Return a validator of HTTP statuses that have a name, for the StatusCode, and a body."""
    statuses = frozenset(status.value for status in HTTPStatus if status.value >= least) - _NO_BODY

    def fits(value: Any) -> bool:
        return _is_number(value, int) and value in statuses

    return _check(fits, f"a known HTTP status from {least} to 599 whose answer has a body")


def _is_number(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _check(fits: Callable[[Any], bool], must_be: str, *, optional: bool = False) -> Check:
    def check(fault: Any, field: Any, value: Any) -> None:
        if not fits(value) and not (optional and value is None):
            raise _wrong(fault, field.name, f"{must_be}{' or null' if optional else ''}")

    return check


def _wrong(fault: "Fault | Happening", option: str, must_be: str) -> ValueError:
    return ValueError(f"{option} of {fault_name(type(fault))} must be {must_be}")


@attrs.frozen(kw_only=True)
class Fault:
    """Something that goes wrong with requests or messages while it is switched on.

    A kind may not have all of these options; then anything but their default is refused.

    Args:
        times: How many requests or messages it strikes before it switches itself off; None is all. With
            `every` it never does, and `times` is how many of them it strikes, None being one.
        every: Strike only the first of every so many.
        probability: Strike with this probability, from 0 to 1.
        number: Strike only what is from or to this phone number: a request to send, a row of a list, a message.
        request: Strike only this kind of request: send, list, numbers or token.

    Raises:
        ValueError: An option has a wrong value, or this kind of fault does not have it; the text says which
            option, and what it must be.
    """

    acts_on: ClassVar[frozenset[Request]] = API
    """The requests that it can strike."""
    acts_on_new: ClassVar[bool] = False
    """Whether it strikes what patients write, when that is made or changed, instead of requests."""
    by_row: ClassVar[bool] = False
    """Whether it tells the rows of a list apart by their numbers."""
    options: ClassVar[frozenset[str]] = _OPTIONS
    """Which of the options it has."""

    times: int | None = attrs.field(default=None, validator=integer(least=1, optional=True))
    every: int | None = attrs.field(default=None, validator=integer(least=1, optional=True))
    probability: float = attrs.field(default=1.0, validator=number(least=0, most=1))
    number: str | None = attrs.field(default=None, validator=text(optional=True), repr=False)
    request: Request | None = attrs.field(
        default=None, validator=one_of("send", "list", "numbers", "token", optional=True)
    )

    def __attrs_post_init__(self) -> None:
        defaults = {field.name: field.default for field in attrs.fields(type(self))}
        for option in sorted(_OPTIONS - self.options):
            if getattr(self, option) != defaults[option]:
                raise _wrong(self, option, "left out")
        if self.request is not None and self.request not in self.acts_on:
            raise _wrong(self, "request", f"one of {', '.join(sorted(self.acts_on))} or null")
        if self.number is not None and self.request is not None and not self._tells_numbers(self.request):
            raise _wrong(self, "number", f"left out, for the request {self.request}")
        if None not in (self.times, self.every) and (self.times or 0) > (self.every or 0):
            raise _wrong(self, "times", f"at most {self.every}, which is its every")

    @classmethod
    def option_names(cls) -> Sequence[str]:
        """Return the options that this kind has, in common with others and of its own."""
        names = [field.name for field in attrs.fields(cls) if field.init]
        return [name for name in names if name not in _OPTIONS or name in cls.options]

    def fits(self, call: Call) -> bool:
        """Return whether it is meant for a request."""
        if call.request not in self.acts_on or self.request not in (None, call.request):
            return False
        if call.request == "list" and self.by_row:
            return True  # its rows are told apart when they are written
        return self._is_for(call.numbers)

    def fits_new(self, kind: MessageType, numbers: Iterable[str]) -> bool:
        """Return whether it is meant for a message that is made or changed."""
        return self.acts_on_new and kind == "Incoming" and self._is_for(numbers)

    def fits_row(self, row: Mapping[str, Any]) -> bool:
        """Return whether it is meant for a row of a list."""
        return self._is_for(number for name in ("From", "To") if (number := row[name]) is not None)

    def _is_for(self, numbers: Iterable[str]) -> bool:
        # A phone number is the same with and without a plus.
        return self.number is None or key_of(self.number) in map(key_of, numbers)

    def _tells_numbers(self, request: Request) -> bool:
        return request == "send" or (request == "list" and self.by_row)

    # What a fault does: each kind does one or two of these, and leaves the others as they are.

    def instead(self, call: Call) -> Answer | Envelope | None:
        """Return what is answered instead."""
        return None

    @property
    def is_after(self) -> bool:
        """Whether the request is carried out before it is answered by `instead`."""
        return False

    @property
    def delay(self) -> float:
        """Seconds of real time by which the answer is late."""
        return 0.0

    @property
    def behind(self) -> float:
        """Seconds of the server's time by which a list shows an older state of things."""
        return 0.0

    def order(self, messages: list[SandboxMessage]) -> list[SandboxMessage]:
        """Change the order in which messages are listed."""
        return messages

    def rows(self, rows: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
        """Change rows while they are listed."""
        return rows

    def envelope(self, envelope: Envelope) -> Envelope:
        """Change an answer before it is written as JSON."""
        return envelope

    def answer(self, answer: Answer) -> Answer:
        """Change what goes to the connection."""
        return answer

    def stamp(self, ticks: int) -> int:
        """Change the stamp that a message gets."""
        return ticks

    @property
    def hidden(self) -> float:
        """Seconds of the server's time for which a new version of a message is not listed."""
        return 0.0


@attrs.frozen
class Happening:
    """Something that goes wrong once, at the moment it is added."""

    def happen(self, sandbox: "Sandbox") -> None:
        """Do it."""
        raise NotImplementedError

    @classmethod
    def option_names(cls) -> Sequence[str]:
        """Return the options that this kind has."""
        return [field.name for field in attrs.fields(cls) if field.init]


AnyFault = Fault | Happening


# Base classes of kinds that are alike


@attrs.frozen(kw_only=True)
class Instead(Fault):
    """Answers something else. `taken`: only after the request was carried out, which the client cannot know."""

    acts_on: ClassVar[frozenset[Request]] = ANY

    taken: bool = attrs.field(default=False, validator=boolean())

    @property
    def is_after(self) -> bool:
        """Whether the request is carried out all the same."""
        return self.taken


@attrs.frozen(kw_only=True)
class OfLists(Fault):
    """Changes whole lists."""

    acts_on: ClassVar[frozenset[Request]] = LIST
    options: ClassVar[frozenset[str]] = _OPTIONS - {"number"}


@attrs.frozen(kw_only=True)
class OfRows(Fault):
    """Changes rows of lists one by one."""

    acts_on: ClassVar[frozenset[Request]] = LIST
    by_row: ClassVar[bool] = True

    def rows(self, rows: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
        """Change the rows that it is meant for."""
        return (row | self.changed(row) if self.fits_row(row) else row for row in rows)

    def changed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a row that are changed; another fault may have left some out."""
        raise NotImplementedError


@attrs.frozen(kw_only=True)
class OfNew(Fault):
    """Changes what patients write when it is made, and again when it is changed."""

    acts_on: ClassVar[frozenset[Request]] = NONE
    acts_on_new: ClassVar[bool] = True
    options: ClassVar[frozenset[str]] = _OPTIONS - {"request"}
