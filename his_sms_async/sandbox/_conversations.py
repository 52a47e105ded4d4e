"""What the hospital and each patient wrote to each other, found quickly among a million messages."""

import threading
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

import attrs

from ._messages import SandboxMessage
from ._patients import key_of
from ._state import Sandbox

LISTED: Final = 200
"""How many conversations, and how many messages that a search found, are shown."""
SHOWN: Final = 300
"""How many messages of one conversation are shown."""
_BEFORE: Final = 20  # messages shown before one that was asked for and is not among the newest


@attrs.frozen(kw_only=True)
class Conversation:
    """One patient's last message, and how many there are."""

    number: str = attrs.field(repr=False)
    last: SandboxMessage
    count: int


@attrs.frozen(kw_only=True)
class Found:
    """The newest conversations whose number fits a search, the newest messages that do, and how many of each."""

    conversations: Sequence[Conversation]
    conversations_in_all: int
    messages: Sequence[SandboxMessage] = ()
    messages_in_all: int = 0


@attrs.frozen(kw_only=True)
class Thread:
    """A run of one patient's messages, oldest first, and how many stand before it and behind it."""

    messages: Sequence[SandboxMessage]
    earlier: int = 0
    later: int = 0


@attrs.define(eq=False)
class Conversations:
    """Remembers where each patient's messages stand, so that only new ones are looked at; for any thread."""

    _sandbox: Sandbox = attrs.field(alias="sandbox")
    # By the patient's number without plus, in the order of the last messages.
    _places: dict[str, list[int]] = attrs.field(init=False, factory=dict, repr=False)
    _read: int = attrs.field(init=False, default=0)
    _last_read: SandboxMessage | None = attrs.field(init=False, default=None, repr=False)
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock, repr=False)

    def find(self, search: str = "") -> Found:
        """Return the newest conversations.

        With `search`, those whose number it is part of, and the messages whose text or state it is in.
        """
        with self._lock:
            messages = self._look()
            digits = key_of(search.replace(" ", ""))
            wanted = [key for key in reversed(self._places) if digits in key]
            conversations = [self._conversation(messages, key) for key in wanted[:LISTED]]
        if not search:
            return Found(conversations=conversations, conversations_in_all=len(wanted))
        fitting = _fitting(messages, search.casefold())
        newest = list(islice(fitting, LISTED))
        return Found(
            conversations=conversations,
            conversations_in_all=len(wanted),
            messages=newest,
            messages_in_all=len(newest) + sum(1 for _ in fitting),
        )

    def thread(self, number: str, *, around: int | None = None) -> Thread:
        """Return the newest messages from and to a number, or those around the one with the Id `around`."""
        with self._lock:
            messages = self._look()
            places = self._places.get(key_of(number), [])
            begin = max(0, len(places) - SHOWN)
            for index in range(begin if around is not None else 0):
                if messages[places[index]].id == around:
                    begin = max(0, index - _BEFORE)
            shown = places[begin : begin + SHOWN]
            return Thread(
                messages=[messages[place] for place in shown],
                earlier=begin,
                later=len(places) - begin - len(shown),
            )

    def _look(self) -> tuple[SandboxMessage, ...]:
        """Return all messages, with the places of the new ones remembered."""
        messages = self._sandbox.messages
        if self._read and (len(messages) < self._read or _first(messages[self._read - 1]) is not self._last_read):
            self._places.clear()  # the sandbox was reset
            self._read = 0
        for place in range(self._read, len(messages)):
            key = key_of(messages[place].patient)
            places = self._places.pop(key, [])  # and in again, as the last
            places.append(place)
            self._places[key] = places
        self._read = len(messages)
        self._last_read = _first(messages[-1]) if messages else None
        return messages

    def _conversation(self, messages: Sequence[SandboxMessage], key: str) -> Conversation:
        places = self._places[key]
        last = messages[places[-1]]
        return Conversation(number=last.patient, last=last, count=len(places))


def _fitting(messages: Sequence[SandboxMessage], search: str) -> Iterator[SandboxMessage]:
    return (
        message
        for message in reversed(messages)
        if search in message.text.casefold() or message.state.casefold().startswith(search)
    )


def _first(message: SandboxMessage) -> SandboxMessage:
    """Return the version that a message began with, which stays the same object however often it changes."""
    while message.before is not None:
        message = message.before
    return message
