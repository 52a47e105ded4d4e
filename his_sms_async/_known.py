"""What a poller knows of each message: enough to recognise it when it comes again, and what is under way."""

import hashlib
import math
from collections.abc import Iterable

import attrs

from ._models import Change, MessageState
from ._store import Attempt, Identity, Key, Outcome, Settlement
from ._wire import Row

Place = tuple[bool, int, int, int]
_NONE: frozenset[str] = frozenset()


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

    @property
    def version(self) -> str:
        """The message itself, or which change of it."""
        return "" if self.change is None else _revision(self.row)

    @property
    def key(self) -> Key:
        """Under which it is settled."""
        return (*self.known.identity, self.version)

    def attempted(self) -> Attempt:
        """That it is handed out, as a store is told."""
        return Attempt(
            key=self.key,
            created=self.known.created,
            updated=self.row.updated,
            number=self.known.attempt,
            requeued=self.known.requeued,
        )

    def settlement(self, outcome: Outcome, reason: str | None, life: str) -> Settlement:
        """That it is settled, as a store is told; `life` is one use of a poller."""
        return Settlement(
            key=self.key,
            created=self.known.created,
            updated=self.row.updated,
            states=tuple(str(state) for state in self.known.states_with(self.row)),
            outcome=outcome,
            reason=reason,
            by=f"{life}:{self.known.attempt}",
        )


@attrs.define(eq=False, kw_only=True)
class Known:
    """One message."""

    identity: Identity
    created: int
    is_owed: bool = True
    """The message itself, not a change of it, is to be delivered."""
    updated: int = -1
    """UpdatedAt of the revision that was settled last; of the one that was handed out, if it is owed."""
    states: tuple[MessageState | str, ...] = ()
    """The states that were settled with that stamp, in order."""
    attempt: int = 0
    requeued: bool = False
    """A version of it was rejected, and is to be delivered again."""
    rejected: frozenset[str] = _NONE
    """The versions that were rejected."""
    newest: int = -1
    """UpdatedAt of the newest revision received: an older one never follows it."""
    newest_states: tuple[MessageState | str, ...] = ()
    """The states received with that stamp; servers can change a state without moving the stamp."""
    waiting: Entry | None = None
    in_hand: Entry | None = None

    def recall_settlement(self, settlement: Settlement) -> None:
        """Take up what a store kept, in any order; attempts come after it."""
        if settlement.outcome is Outcome.REJECTED:
            self.rejected |= {settlement.key[2]}
        if (settlement.updated, len(settlement.states)) > (self.updated, len(self.states)):
            self.updated = self.newest = settlement.updated
            self.states = self.newest_states = _known_states(settlement.states)

    def recall_attempt(self, attempt: Attempt) -> None:
        """Likewise; what is owed is delivered in whatever revision it comes."""
        self.attempt = max(self.attempt, attempt.number)
        version = attempt.key[2]
        if attempt.requeued:
            self.requeue(version)
        if not version:
            self.is_owed = True
            self.updated = max(self.updated, attempt.updated)
            self.newest, self.newest_states = -1, ()

    @property
    def is_idle(self) -> bool:
        """No version of it is under way."""
        return self.waiting is None and self.in_hand is None

    @property
    def is_forgettable(self) -> bool:
        """Nobody may ask for it again by its identity."""
        return not self.rejected and not self.requeued

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

    def states_with(self, row: Row) -> tuple[MessageState | str, ...]:
        """The states that are settled with a revision's stamp, once this one is."""
        state = row.message.state
        return (*self.states, state) if not self.is_owed and row.updated == self.updated else (state,)

    def settle(self, row: Row, version: str, outcome: Outcome) -> None:
        """The version in hand is settled; a change that is settled does not hide that the message was rejected."""
        self.states = self.states_with(row)
        self.updated = row.updated
        self.in_hand = None
        self.attempt = 0
        self.is_owed = self.requeued = False
        if outcome is Outcome.REJECTED:
            self.rejected |= {version}

    def heard(self, settlement: Settlement) -> None:
        """The version in hand was settled by another, maybe in an earlier revision."""
        self.in_hand = None
        self.attempt = 0
        if settlement.outcome is Outcome.REJECTED:
            self.rejected |= {settlement.key[2]}
        if self.is_owed:
            self.is_owed = self.requeued = False
            self.updated, self.states = settlement.updated, _known_states(settlement.states)
            self.newest, self.newest_states = self.updated, self.states
            if self.waiting is not None:
                self.accept(self.waiting.row)

    def requeue(self, version: str) -> None:
        """A rejected version is owed again; the message itself in whatever revision it comes."""
        self.rejected -= {version}
        self.requeued = True
        self.is_owed |= not version
        self.newest, self.newest_states = -1, ()


def newest_of_each(rows: Iterable[Row]) -> list[Row]:
    """One row for each message, its newest, in the order (UpdatedAt, Id)."""
    newest: dict[Identity, Row] = {}
    for row in rows:
        other = newest.get(row.identity)
        if other is None or row.updated >= other.updated:
            newest[row.identity] = row
    return sorted(newest.values(), key=lambda row: (row.updated, row.message.id))


_STATES = {str(state): state for state in MessageState}


def _revision(row: Row) -> str:
    """A revision as a key: short, whatever the server calls its states."""
    state = str(row.message.state)
    return f"{row.updated} {state if state in _STATES else hashlib.sha256(state.encode()).hexdigest()[:32]}"


def _known_states(states: Iterable[str]) -> tuple[MessageState | str, ...]:
    return tuple(_STATES.get(state, state) for state in states)
