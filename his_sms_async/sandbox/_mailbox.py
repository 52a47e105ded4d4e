"""The messages of the stand-in, in memory and if wanted in a file, and what is due to happen to them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Any, Final
from zoneinfo import ZoneInfo

import attrs

from ._clock import TICKS_PER_SECOND, is_a_time, nearest_time
from ._file import MessageFile, message_from_json
from ._messages import MessageType, SandboxMessage
from ._patients import Delivery, key_of
from ._stamps import wall_ticks
from .faults import Fault

_A_DAY: Final = 24 * 3600 * TICKS_PER_SECOND
_PATIENTS_OF_A_BACKLOG: Final = 1000
_SEED_DEFAULTS: Final[Mapping[str, Any]] = {
    "type": "Incoming",
    "state": "Delivered",
    "reply_to_id": None,
    "external_key": None,
}


@attrs.frozen
class _Reply:
    """A patient's answer that is on its way."""

    text: str = attrs.field(repr=False)


@attrs.frozen
class _State:
    """A state that a message will have."""

    state: str


@attrs.define(eq=False, kw_only=True)
class Mailbox:
    """All messages. Not safe for threads by itself: `Sandbox` calls it under its lock."""

    clock: Callable[[], int]
    zone: ZoneInfo
    file: MessageFile | None
    seed: Iterable[Mapping[str, Any]]
    strike: Callable[[MessageType, frozenset[str]], Sequence[Fault]]
    """Returns the faults that act on a message that is made or changed, by its type and numbers."""
    messages: dict[int, SandboxMessage] = attrs.field(init=False, factory=dict, repr=False)
    """By Id, in the order they were made."""
    # Answers and states on their way, as a heap by the ticks that the server will have run, which no step of its
    # clock changes. Nothing waits for them: who looks next finds them done, stamped with the time they were due.
    _due: list[tuple[int, int, int, _Reply | _State]] = attrs.field(init=False, factory=list, repr=False)
    _order: Iterator[int] = attrs.field(init=False, factory=count, repr=False)
    _last_id: int = attrs.field(init=False, default=0)
    _last_sent: dict[str, int] = attrs.field(init=False, factory=dict, repr=False)  # Id, by the patient's number
    _answered: set[int] = attrs.field(init=False, factory=set, repr=False)
    _running: int = attrs.field(init=False, default=0)  # ticks, up to the last look
    _last_look: int = attrs.field(init=False, default=0)  # by the clock; 0 is never

    def open(self) -> None:
        """Begin with what the file holds, or with the seed.

        Raises:
            UnusableFile: The file is not one of the stand-in's.
            ValueError: A message of the seed is none.
        """
        versions = self.file.read() if self.file is not None else []
        self._keep(versions)
        if not versions:
            self._plant()

    def clear(self) -> None:
        """Begin anew with the seed."""
        for kept in (self.messages, self._due, self._last_sent, self._answered):
            kept.clear()
        self._last_id = 0
        if self.file is not None:
            self.file.clear()
        self._plant()

    def look(self) -> int:
        """Look at the clock, and count how long the server has run; a step back does not take that back."""
        now = self.clock()
        if self._last_look:
            self._running += max(0, now - self._last_look)
        self._last_look = now
        return now

    def catch_up(self) -> bool:
        """Do what is due by now, and return whether that was anything."""
        now, was_due = self.look(), False
        while self._due and self._due[0][0] <= self._running:
            due, _, message_id, event = self._due[0]
            message, at, was_due = self.messages.get(message_id), max(0, now - (self._running - due)), True
            if message is None:
                pass  # a rule reset the sandbox before it answered
            elif isinstance(event, _State):
                self._save([self._changed(message, event.state, at)])
            else:
                self.add("Incoming", message.recipient, message.sender, event.text, reply_to_id=message.id, at=at)
            heappop(self._due)  # only now: if the file cannot be written, it is done when it can
        return was_due

    @property
    def next_due(self) -> int | None:
        """In how many ticks something happens next, 0 if it is due, None if nothing will."""
        self.look()
        return max(0, self._due[0][0] - self._running) if self._due else None

    def add(
        self,
        kind: MessageType,
        sender: str,
        recipient: str,
        text: str,
        *,
        state: str = "Delivered",
        reply_to_id: int | None = None,
        external_key: int | None = None,
        at: int | None = None,
    ) -> SandboxMessage:
        """Make a message, stamped with now or with `at`."""
        faults = self.strike(kind, frozenset((sender, recipient)))
        message = SandboxMessage(
            id=self._next_id(),
            type=kind,
            sender=sender,
            recipient=recipient,
            text=text,
            state=state,
            # The clock is looked at twice: the server's two stamps of a new message differ as well.
            created_ticks=_stamped(faults, self.clock() if at is None else at),
            updated_ticks=_stamped(faults, self.clock() if at is None else at),
            reply_to_id=reply_to_id,
            external_key=external_key,
            visible_from=self._running + _hidden(faults),
        )
        self._save([message])
        return message

    def deliver(self, message: SandboxMessage, delivery: Delivery) -> None:
        """Plan the states of a message after its first one."""
        for place, state in enumerate(delivery.states[1:], start=1):
            self._plan(message, message.updated_ticks + place * delivery.after, _State(state))

    def answer(self, reminder: SandboxMessage, text: str, *, since: int, delay: int) -> None:
        """Let the patient answer `delay` ticks after `since`; without delay, at once."""
        if delay > 0:
            self._plan(reminder, since + delay, _Reply(text))
        else:
            self.add("Incoming", reminder.recipient, reminder.sender, text, reply_to_id=reminder.id)

    def waiting(self, number: str) -> SandboxMessage | None:
        """Return the last SMS to a patient unless it was answered, or an answer is on its way."""
        last = self._last_sent.get(key_of(number), 0)
        planned = (message_id for _, _, message_id, event in self._due if isinstance(event, _Reply))
        return None if last in self._answered or last in planned else self.messages.get(last)

    def last_state(self, message: SandboxMessage) -> str:
        """Return the state that a message will have when all has happened that is planned."""
        planned = [place for place in self._due if place[2] == message.id]
        states = [event.state for *_, event in sorted(planned) if isinstance(event, _State)]
        return [message.state, *states][-1]

    def change(self, messages: Iterable[SandboxMessage], *, state: str | None) -> None:
        """Give messages one new stamp, and a state unless that is None."""
        stamp = self.clock()
        self._save(
            [self._changed(message, message.state if state is None else state, stamp) for message in messages]
        )

    def pile_up(self, number: int, hospital: str) -> None:
        """Make a backlog of answers, a tenth of a second apart, the last one now."""
        step, first = TICKS_PER_SECOND // 10, self._next_id()
        begin = self.clock() - (number - 1) * step
        if not is_a_time(begin):
            raise ValueError("so many messages began before the calendar does")
        patients = [f"370{60_000_000 + index}" for index in range(_PATIENTS_OF_A_BACKLOG)]
        self._save(
            SandboxMessage(
                id=first + index,
                type="Incoming",
                sender=patients[index % len(patients)],
                recipient=hospital,
                text="Yes" if index % 3 else "No",
                state="Delivered",
                created_ticks=begin + index * step,
                updated_ticks=begin + index * step,
                visible_from=self._running,
            )
            for index in range(number)
        )

    def listed(self, kind: MessageType, wall: int, faults: Iterable[Fault] = ()) -> list[SandboxMessage]:
        """Return the messages of a type whose change date is not less than `wall`, sorted by it.

        `wall` is ticks of the server's wall clock, and it is the wall clock that is compared and sorted,
        because that is what a server that stores no offset can do. `faults` may show an older state of things.
        """
        running = self._running - round(sum(fault.behind for fault in faults) * TICKS_PER_SECOND)
        dated: list[tuple[int, int, SandboxMessage]] = []
        for message in self.messages.values():
            if message.type != kind:
                continue
            version = message if message.visible_from <= running else message.visible_at(running)
            # No zone is a day from UTC, so the calendar need not be asked for what is older than that.
            if version is None or version.updated_ticks <= wall - _A_DAY:
                continue
            updated = wall_ticks(version.updated_ticks, self.zone)
            if updated >= wall:
                dated.append((updated, version.id, version))
        dated.sort()
        return [message for _, _, message in dated]

    def _changed(self, message: SandboxMessage, state: str, stamp: int) -> SandboxMessage:
        faults = self.strike(message.type, frozenset((message.sender, message.recipient)))
        return attrs.evolve(
            message,
            state=state,
            updated_ticks=_stamped(faults, stamp),
            visible_from=self._running + _hidden(faults),
            before=message,
        )

    def _plan(self, message: SandboxMessage, at: int, event: _Reply | _State) -> None:
        """Let something happen at a time that is told by the clock as it goes now."""
        heappush(self._due, (self._running + at - self._last_look, next(self._order), message.id, event))

    def _save(self, versions: Iterable[SandboxMessage]) -> None:
        versions = list(versions)
        if self.file is not None:
            self.file.append(versions)
        self._keep(versions)

    def _keep(self, versions: Iterable[SandboxMessage]) -> None:
        for version in versions:
            self.messages[version.id] = version
            self._last_id = max(self._last_id, version.id)
            if version.type == "Outgoing":
                key = key_of(version.recipient)
                self._last_sent[key] = max(self._last_sent.get(key, 0), version.id)
            elif version.reply_to_id is not None:
                self._answered.add(version.reply_to_id)

    def _plant(self) -> None:
        planted, last_id = dict[int, SandboxMessage](), 0
        for place, fields in enumerate(self.seed, start=1):
            now = self.clock()
            defaults = {
                **_SEED_DEFAULTS,
                "id": last_id + 1,
                "created_ticks": now,
                "updated_ticks": fields.get("created_ticks", now),
            }
            try:
                message = message_from_json({**defaults, **fields})
            except ValueError as error:
                raise ValueError(f"message {place} of the seed: {error}") from None
            if message.id in planted:
                raise ValueError(f"message {place} of the seed: there is another one with the id {message.id}")
            planted[message.id], last_id = message, max(last_id, message.id)
        self._save(planted.values())

    def _next_id(self) -> int:
        return self._last_id + 1


def _stamped(faults: Iterable[Fault], ticks: int) -> int:
    stamped = ticks
    for fault in faults:
        stamped = fault.stamp(stamped)
    return ticks if stamped == ticks else nearest_time(stamped)


def _hidden(faults: Iterable[Fault]) -> int:
    return round(sum(fault.hidden for fault in faults) * TICKS_PER_SECOND)
