"""Patients that answer by themselves."""

from collections.abc import Callable

import attrs

from ._clock import TICKS_PER_SECOND
from ._messages import SandboxMessage

EVERYONE_ELSE = "*"  # the "number" of all patients that have no script of their own


Answer = str | Callable[[SandboxMessage], str | None]
"""A text, or a rule that makes one from the reminder; None means that the patient does not answer."""


def demo_answer(reminder: SandboxMessage) -> str | None:
    """Answer questions: "Yes" from numbers that end in an even digit, "No" from the others.

    So the patients of the specification's examples, 37000000002 and 37000000003, answer as they do there.
    """
    if "?" not in reminder.text:
        return None
    return "Yes" if reminder.recipient[-1] in "02468" else "No"


@attrs.frozen
class _Script:
    answer: Answer | None = attrs.field(repr=False)
    delay: int  # ticks


@attrs.define(eq=False)
class Patient:
    """One phone number and what it answers to every reminder; made by `Sandbox.patient`."""

    number: str = attrs.field(repr=False)
    _script: _Script | None = attrs.field(init=False, default=None)

    def replies(self, answer: Answer, *, after: float = 0.0) -> None:
        """Answer every reminder from now on, `after` seconds of the stand-in's clock.

        The answer goes to the number that the reminder came from, with ReplyToMessageId set. A rule is
        asked when the reminder is sent; an error it raises is the server's HTTP 500.
        """
        self._script = _Script(answer, round(after * TICKS_PER_SECOND))

    def stays_silent(self) -> None:
        """Answer nothing from now on, whatever everyone else does."""
        self._script = _Script(None, 0)

    @property
    def has_script(self) -> bool:
        """Whether this patient was told what to do."""
        return self._script is not None

    def answer_to(self, reminder: SandboxMessage) -> tuple[str, int] | None:
        """Return the text of the answer and its delay in ticks, or None."""
        script = self._script  # read once: another thread may replace it
        if script is None or script.answer is None:
            return None
        text = script.answer if isinstance(script.answer, str) else script.answer(reminder)
        return None if text is None else (text, script.delay)
