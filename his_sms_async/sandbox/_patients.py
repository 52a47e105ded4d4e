"""Patients: what becomes of an SMS to them, and what they answer by themselves."""

import re
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from ._clock import TICKS_PER_SECOND
from ._messages import SandboxMessage, check_unicode

EVERYONE_ELSE = "*"  # the "number" of all patients that have no script of their own

_PHONE_NUMBER: Final = re.compile(r"\+?[0-9]{7,15}")
_NEVER_READ: Final = frozenset({"Undeliverable", "Rejected", "Expired", "Deleted", "Unsent"})
_LONGEST: Final = 1_000_000_000  # seconds, which are decades

Answer = str | Callable[[SandboxMessage], str | None]
"""A text, or a rule that makes one from the reminder; None means that the patient does not answer."""


def demo_answer(reminder: SandboxMessage) -> str | None:
    """Answer questions: "Yes" from numbers that end in an even digit, "No" from the others.

    So the patients of the specification's examples, 37000000002 and 37000000003, answer as they do there.
    """
    if "?" not in reminder.text:
        return None
    return "Yes" if reminder.recipient[-1] in "02468" else "No"


def is_phone_number(text: str) -> bool:
    """Return whether a text is a phone number, with or without plus; names of senders are none."""
    return _PHONE_NUMBER.fullmatch(text) is not None


def key_of(number: str) -> str:
    """Return what is the same for a number with and without plus."""
    return number.lstrip("+")


def is_read(state: str) -> bool:
    """Return whether an SMS whose state stays this one has reached the patient."""
    return state not in _NEVER_READ


def _ticks(seconds: float) -> int:
    if not 0 <= seconds <= _LONGEST:
        raise ValueError(f"after must be a number of seconds from 0 to {_LONGEST}")
    return round(seconds * TICKS_PER_SECOND)


@attrs.frozen
class _Script:
    answer: Answer | None = attrs.field(repr=False)
    delay: int  # ticks


@attrs.frozen
class Delivery:
    """The states that an SMS to a patient goes through; the first at once, each other `after` ticks later."""

    states: Sequence[str]
    after: int = 0

    @property
    def is_read(self) -> bool:
        """Whether the SMS reaches the patient in the end."""
        return is_read(self.states[-1])


AT_ONCE: Final = Delivery(("Delivered",))


@attrs.define(eq=False)
class Patient:
    """One phone number, what becomes of an SMS to it, and what it answers; made by `Sandbox.patient`."""

    number: str = attrs.field(repr=False)
    _answer_waiting: Callable[["Patient"], None] = attrs.field(alias="answer_waiting", repr=False)
    _write: Callable[[str, str | None, int | None], SandboxMessage] = attrs.field(alias="write", repr=False)
    _script: _Script | None = attrs.field(init=False, default=None)
    delivery: Delivery | None = attrs.field(init=False, default=None)
    """None: as with everyone else."""

    def replies(self, answer: Answer, *, after: float = 0.0) -> None:
        """Answer every reminder from now on, and the last one if it has no answer yet.

        The answer takes `after` seconds of the stand-in's clock, from when the reminder was sent, or for the last
        one from now. It goes to the number that the reminder came from, with ReplyToMessageId set. A rule is asked
        when the reminder is sent; an error it raises is the server's HTTP 500, and the reminder has been taken. A
        reminder that does not reach the patient is not answered.

        Raises:
            ValueError: `after` is not from 0 to 1,000,000,000, or the answer is not Unicode.
        """
        if isinstance(answer, str):
            check_unicode(answer, "the answer")
        self._script = _Script(answer, _ticks(after))
        self._answer_waiting(self)

    def stays_silent(self) -> None:
        """Answer nothing from now on, whatever everyone else does."""
        self._script = _Script(None, 0)

    def writes(self, text: str, *, to: str | None = None, reply_to: int | None = None) -> SandboxMessage:
        """Write an SMS now, unprompted, or as the reply to the message with the Id `reply_to`.

        Args:
            text: What the hospital gets.
            to: One of the hospital's phone numbers; None is that of the message replied to, or the first.
            reply_to: The ReplyToMessageId.

        Raises:
            Refused: `to` is not the hospital's, or `text` is not Unicode.
            LookupError: There is no message `reply_to`.
        """
        return self._write(text, to, reply_to)

    def receives(self, *states: str, after: float = 0.0) -> None:
        """Let each SMS to this patient go through these states, the first at once.

        Each other comes `after` seconds of the stand-in's clock later, like ``receives("Enroute", "Delivered",
        after=60)``.

        Raises:
            ValueError: There is no state, one is not Unicode, or `after` is not from 0 to 1,000,000,000.
        """
        if not states:
            raise ValueError("an SMS needs at least one state")
        for state in states:
            check_unicode(state, "a state")
        self.delivery = Delivery(states, _ticks(after))

    def forget(self) -> None:
        """Do as everyone else again."""
        self._script = self.delivery = None

    @property
    def has_script(self) -> bool:
        """Whether this patient was told what to do."""
        return self._script is not None

    @property
    def script(self) -> tuple[Answer | None, int]:
        """What it answers, None for nothing, and after how many ticks."""
        script = self._script
        return (None, 0) if script is None else (script.answer, script.delay)

    def answer_to(self, reminder: SandboxMessage) -> tuple[str, int] | None:
        """Return the text of the answer and its delay in ticks, or None."""
        script = self._script  # read once: another thread may replace it
        if script is None or script.answer is None:
            return None
        text = script.answer if isinstance(script.answer, str) else script.answer(reminder)
        if text is None:
            return None
        check_unicode(text, "the answer")
        return text, script.delay
