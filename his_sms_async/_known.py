"""What a poller knows of each message: enough to recognise it when it comes again, and what is under way."""

import math
from collections.abc import Iterable

import attrs

from ._models import Change, MessageState
from ._store import Identity, Record, Status
from ._wire import Row

Place = tuple[bool, int, int, int]


@attrs.define(eq=False, kw_only=True)
class Entry:
    """A message on its way to the consumer: received and not settled."""

    row: Row
    known: "Known" = attrs.field(repr=False)
    change: Change | None
    late: bool
    received_at: float
    """Elapsed seconds."""
    line: str = attrs.field(repr=False)
    """Of one line, here one sender, never two are in hand at the same time."""
    not_before: float = -math.inf
    """It was released, and waits until then; elapsed seconds."""
    place: Place | None = None
    """Where it stands among those that wait; None while it is in hand."""
    settled: bool = False
    order: tuple[int, int] = attrs.field(init=False)
    """UpdatedAt and Id when it came: a later change of it does not put it behind its sender's next message."""

    def __attrs_post_init__(self) -> None:
        self.order = (self.row.updated, self.row.message.id)


@attrs.define(eq=False, kw_only=True)
class Known:
    """One message."""

    identity: Identity
    created: int
    updated: int = -1
    states: tuple[MessageState | str, ...] = ()
    attempt: int = 0
    status: Status = Status.OPEN
    reason: str | None = None
    newest: int = -1
    """UpdatedAt of the newest revision received: an older one never follows it."""
    newest_states: tuple[MessageState | str, ...] = ()
    """The states received with that stamp; servers can change a state without moving the stamp."""
    waiting: Entry | None = None
    in_hand: Entry | None = None

    @classmethod
    def from_record(cls, record: Record) -> "Known":
        """Take up what a store kept; what is owed is delivered in whatever revision it comes."""
        known = cls(
            identity=record.identity,
            created=record.created,
            updated=record.updated,
            states=tuple(_as_state(state) for state in record.states),
            attempt=record.attempt,
            status=record.status,
            reason=record.reason,
        )
        if not known.is_owed:
            known.newest, known.newest_states = known.updated, known.states
        return known

    @property
    def is_owed(self) -> bool:
        """The message itself, not a change of it, is to be delivered."""
        return self.status in (Status.OPEN, Status.REQUEUED)

    @property
    def is_idle(self) -> bool:
        """No version of it is under way."""
        return self.waiting is None and self.in_hand is None

    @property
    def is_forgettable(self) -> bool:
        """Nobody may ask for it again by its identity."""
        return self.status in (Status.OPEN, Status.SETTLED)

    @property
    def last_sign(self) -> int:
        """The latest of its stamps."""
        return max(self.created, self.updated, self.newest)

    @property
    def delivered_state(self) -> MessageState | str | None:
        """The state in which the consumer saw it last."""
        if self.in_hand is not None:
            return self.in_hand.row.message.state
        return self.states[-1] if self.states else None

    def accept(self, row: Row) -> bool:
        """Note a revision; False if it is not newer than what was received."""
        state = row.message.state
        if row.updated < self.newest or (row.updated == self.newest and state in self.newest_states):
            return False
        self.newest_states = (*self.newest_states, state) if row.updated == self.newest else (state,)
        self.newest = row.updated
        return True

    def attempted(self, entry: Entry) -> None:
        """A version of it is handed out."""
        self.waiting, self.in_hand = None, entry
        self.attempt += 1
        if self.is_owed:
            self.updated = entry.row.updated

    def released(self, entry: Entry) -> Entry | None:
        """The version in hand comes again, as the later one if one waits; that one is returned, to be dropped."""
        later, self.waiting, self.in_hand = self.waiting, entry, None
        if later is not None:
            entry.row = later.row
            later.settled = True
        return later

    def settle(self, row: Row, status: Status, reason: str | None) -> None:
        """The version in hand is settled; a change that is settled does not hide that the message was rejected."""
        again = not self.is_owed and row.updated == self.updated
        self.states = (*self.states, row.message.state) if again else (row.message.state,)
        self.updated = row.updated
        self.in_hand = None
        self.attempt = 0
        if self.status is not Status.REJECTED or status is Status.REJECTED:
            self.status, self.reason = status, reason

    def requeue(self) -> None:
        """It is owed again, in whatever revision it comes."""
        self.status, self.reason = Status.REQUEUED, None
        self.newest, self.newest_states = -1, ()

    def record(self) -> Record:
        """As a store keeps it."""
        return Record(
            identity=self.identity,
            created=self.created,
            updated=self.updated,
            states=tuple(str(state) for state in self.states),
            attempt=self.attempt,
            status=self.status,
            reason=self.reason,
        )


def newest_of_each(rows: Iterable[Row]) -> list[Row]:
    """One row for each message, its newest, in the order (UpdatedAt, Id)."""
    newest: dict[Identity, Row] = {}
    for row in rows:
        other = newest.get(row.identity)
        if other is None or row.updated >= other.updated:
            newest[row.identity] = row
    return sorted(newest.values(), key=lambda row: (row.updated, row.message.id))


_STATES = {str(state): state for state in MessageState}


def _as_state(state: str) -> MessageState | str:
    return _STATES.get(state, state)
