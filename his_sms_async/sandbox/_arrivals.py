"""What the hospital has sent, and the tests that wait for it."""

from collections.abc import Callable
from typing import Final

import attrs

from ._messages import SandboxMessage
from ._patients import key_of

_TOLD: Final = 100  # messages that the failure of a test lists


@attrs.frozen(kw_only=True)
class Wanted:
    """What an SMS must be like; None is anything."""

    to: str | None = attrs.field(repr=False)
    text: str | None = attrs.field(repr=False)
    """What must occur in it."""
    external_key: int | None = attrs.field(repr=False)

    def fits(self, message: SandboxMessage) -> bool:
        """Return whether it is one of these."""
        return (
            (self.to is None or key_of(self.to) == key_of(message.recipient))
            and (self.text is None or self.text in message.text)
            and self.external_key in (None, message.external_key)
        )

    def __str__(self) -> str:
        fields = attrs.asdict(self)
        return ", ".join(f"{name} {value!r}" for name, value in fields.items() if value is not None) or "at all"


@attrs.define(eq=False)
class Wait:
    """Somebody who waits; `tell` is called when something was found."""

    wanted: Wanted
    tell: Callable[[], object] = attrs.field(repr=False)
    found: SandboxMessage | None = None


@attrs.define(eq=False)
class Arrivals:
    """What was sent since the start or the last reset. Not safe for threads by itself: `Sandbox` has a lock.

    Each message is given to one who waits, the first whom it fits, and only once.
    """

    sent: dict[int, SandboxMessage] = attrs.field(init=False, factory=dict, repr=False)
    """As it was when it was sent, by Id."""
    _unclaimed: dict[int, SandboxMessage] = attrs.field(init=False, factory=dict, repr=False)
    _waits: list[Wait] = attrs.field(init=False, factory=list, repr=False)

    def add(self, message: SandboxMessage) -> None:
        """Note a message that was sent."""
        self.sent[message.id] = message
        for wait in self._waits:
            if wait.wanted.fits(message):
                self._waits.remove(wait)
                wait.found = message
                wait.tell()
                return
        self._unclaimed[message.id] = message

    def begin(self, wait: Wait) -> None:
        """Begin to wait, unless it is there already."""
        wait.found = next(filter(wait.wanted.fits, self._unclaimed.values()), None)
        if wait.found is None:
            self._waits.append(wait)
        else:
            del self._unclaimed[wait.found.id]

    def take(self, wait: Wait) -> SandboxMessage | None:
        """End to wait, and return what was found."""
        if wait in self._waits:
            self._waits.remove(wait)
        found, wait.found = wait.found, None
        return found

    def give_up(self, wait: Wait) -> None:
        """End to wait; what was found and not taken is there for others."""
        if (found := self.take(wait)) is not None:
            self._unclaimed = dict(sorted({**self._unclaimed, found.id: found}.items()))

    def clear(self) -> None:
        """Forget what was sent; who waits, waits on."""
        self.sent.clear()
        self._unclaimed.clear()

    def told(self, wanted: Wanted, timeout: float) -> str:
        """Describe what was sent, for the failure of the test that wanted something else."""
        head = f"no SMS {wanted} arrived within {timeout:g} s; what did arrive"
        if not self.sent:
            return f"{head}: nothing"
        newest = list(self.sent.values())[-_TOLD:]
        earlier = len(self.sent) - len(newest)
        lines = [
            f"  {describe(message)}{'' if message.id in self._unclaimed else ' (returned before)'}"
            for message in newest
        ]
        return "\n".join([f"{head}:", *([f"  {earlier} earlier ones"] if earlier else []), *lines])


def describe(message: SandboxMessage) -> str:
    """Describe what a test sent, for the failure of that test."""
    return f"message {message.id} to {message.recipient}, external_key {message.external_key}: {message.text!r}"
