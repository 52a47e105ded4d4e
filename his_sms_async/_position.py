"""The poller's decisions: what to ask, what is new, and where the marks go. No I/O and no clock.

Positions go by UpdatedAt, newness goes by CreatedAt. There are two marks, as Kafka has them: the read mark
`high` says what to ask next; the settled mark `low`, below which everything received is settled, is what is
stored, and where a restart resumes. Both are ticks of the server's wall clock.
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from zoneinfo import ZoneInfo

import attrs

from ._errors import ConfigurationError
from ._known import Entry, Known, newest_of_each
from ._lookback import DEEP, FAR, Ask, Ladder
from ._models import Change, MessageType
from ._quarantine import Quarantine
from ._store import Attempt, Delta, Identity, Key, Marks, Outcome, Quarantined, Settlement
from ._time import TICKS_PER_SECOND, ticks, wall_of_date
from ._wire import MalformedRow, Row

# What was created so long before the point up to which the poller had caught up is not new.
_KEPT = ticks(hours=48)
# Where the server's zone is unknown, its wall clock may be so far ahead of UTC, or behind.
_EASTERNMOST, _WESTERNMOST = ticks(hours=14), ticks(hours=13)
# This machine's clock may be so far ahead of the server's without costing `start="now"` a second request.
_CLOCKS_DIFFER = ticks(hours=1)
# A `Date` header this far behind the last one is a clock set back, not two nodes that differ.
_STEP = ticks(minutes=2)
_PRUNE_EVERY = ticks(minutes=30)
# What is forgotten is told to the store in portions, for others may want to write meanwhile.
_FORGOTTEN_AT_ONCE = 5000

EVERYTHING = wall_of_date(datetime(1900, 1, 1, tzinfo=UTC), None)
"""Where `start="everything"` asks from."""


@attrs.frozen
class Receipt:
    """What an answer brought."""

    entries: list[Entry]
    """Messages that have to wait for their turn."""
    moved: list[Entry]
    """Messages that wait already, and got a later revision."""
    malformed: list[MalformedRow]
    """Malformed rows that were not known."""


@attrs.define(eq=False)
class Position:
    """The position of one poller, in memory; `delta()` tells what its store must be told.

    Args:
        start: In ticks of the server's wall clock; None for "now", when the first answer is taken as seen.
        type: Which SMS are polled.
        changes: Whether later revisions of a message are wanted.
        zone: The server's zone, if it is known.
        max_seen: How many messages are remembered at most.

    Its methods are told the time: `now` is elapsed seconds of any monotonic clock, `wall_time` seconds since
    1970 of this machine's, which dates the deep sweeps, and nothing else.
    """

    _start: int | None
    _type: MessageType = attrs.field(kw_only=True, alias="type")
    _changes: bool = attrs.field(kw_only=True, alias="changes")
    _zone: ZoneInfo | None = attrs.field(kw_only=True, alias="zone")
    _max_seen: int = attrs.field(kw_only=True, alias="max_seen", default=1_000_000)

    high: int | None = attrs.field(init=False, default=None)
    """The read mark: the greatest stamp received, clamped to the server's clock."""
    late: int = attrs.field(init=False, default=0)
    rejected: int = attrs.field(init=False, default=0)
    warnings: set[str] = attrs.field(init=False, factory=set)
    quarantine: Quarantine = attrs.field(init=False, factory=Quarantine)
    _caught_up: int = attrs.field(init=False)
    _resumed_at: int | None = attrs.field(init=False, default=None)
    """The settled mark that the store held: what had been received above it, nobody knows any more."""
    _ladder: Ladder = attrs.field(init=False)
    _answered: bool = attrs.field(init=False, default=False)
    _swept_at: float | None = attrs.field(init=False, default=None)
    _wanted: int | None = attrs.field(init=False, default=None)
    """A row that far back must be asked for: it was requeued, say."""
    _known: dict[Identity, Known] = attrs.field(init=False, factory=dict, repr=False)
    _unsettled: list[tuple[int, int, Entry]] = attrs.field(init=False, factory=list, repr=False)
    """A heap by UpdatedAt; entries that were settled or moved leave it when they come to its top."""
    _count: int = attrs.field(init=False, default=0)
    _server_now: int | None = attrs.field(init=False, default=None)
    _has_offsets: set[bool] = attrs.field(init=False, factory=set)
    _pruned_to: int = attrs.field(init=False, default=0)
    _told: Marks | None = attrs.field(init=False, default=None)
    """The marks that the store has."""
    _attempts: dict[Key, Attempt] = attrs.field(init=False, factory=dict, repr=False)
    """What the store has not been told; likewise the next three."""
    _settlements: dict[Key, Settlement] = attrs.field(init=False, factory=dict, repr=False)
    _done: list[Key] = attrs.field(init=False, factory=list, repr=False)
    _forgotten: dict[Identity, None] = attrs.field(init=False, factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        self._caught_up = self._start or 0
        self._ladder = Ladder(-math.inf)
        if self._zone is None:
            self.warnings.add("no-server-timezone")

    def resume(self, marks: Marks, *, now: float, wall_time: float) -> None:
        """Go on from what a store holds, which wins over `start`; the rest of it follows by `recall`."""
        self._told = marks
        self._start, self.high, self._caught_up = marks.start, marks.low, marks.caught_up
        self._resumed_at = marks.low
        self._swept_at = marks.swept_at
        age = -1.0 if marks.swept_at is None else wall_time - marks.swept_at
        self._ladder = Ladder(now - age if age >= 0 else -math.inf)

    def recall(self, kept: Iterable[Settlement | Attempt | Quarantined]) -> None:
        """Take up what a store holds: settlements, then attempts, then malformed rows."""
        for one in kept:
            if isinstance(one, Quarantined):
                self.quarantine.rows[one.key] = one
                if one.updated is not None:
                    self._want(one.updated)
                continue
            identity = one.key[:2]
            known = self._known.get(identity)
            if known is None:
                known = Known(identity=identity, created=one.created, is_owed=False)
                self._known[identity] = known
            if isinstance(one, Settlement):
                known.recall_settlement(one)
                self.rejected += one.outcome is Outcome.REJECTED
            else:
                known.recall_attempt(one)
                if one.requeued:
                    self._want(one.updated)

    @property
    def low(self) -> int | None:
        """The settled mark: one tick below the earliest message that is not settled, else the read mark."""
        while self._unsettled:
            updated, _, entry = self._unsettled[0]
            if not entry.settled and entry.row.updated == updated:
                break
            heapq.heappop(self._unsettled)
        if self.high is None or not self._unsettled:
            return self.high
        return min(self.high, self._unsettled[0][0] - 1)

    @property
    def has_begun(self) -> bool:
        """The start is fixed; with "now", that takes an answer."""
        return self._start is not None

    @property
    def seen(self) -> int:
        """How many messages are remembered."""
        return len(self._known)

    def unsettled(self) -> Iterator[Entry]:
        """The messages received and not settled, in no order; one that moved stands in it twice."""
        return (entry for _, _, entry in self._unsettled if not entry.settled)

    # --- what to ask ---

    def ask(self, *, now: float, wall_time: float) -> Ask:
        """What to ask next."""
        if self._start is None:
            begin = wall_of_date(datetime.fromtimestamp(wall_time, UTC), None) - _CLOCKS_DIFFER
            return Ask(begin - _KEPT - _WESTERNMOST if self._wanted is None else self._wanted, rung=2)
        if self.high is None:
            return Ask(self._start, rung=2)
        if self._answered:
            ask = self._ladder.ask(now, self.high)
        else:  # behind the settled mark, for what became visible late before the restart
            deep = self._ladder.deep_is_due(now)
            ask = Ask(self.high - (DEEP if deep else FAR), rung=2 if deep else 1)
        begin = ask.date_from if self._wanted is None else min(ask.date_from, self._wanted)
        return attrs.evolve(ask, date_from=max(begin, self._start))

    def failed(self) -> None:
        """The poll failed, or its answer was not complete and OK: no mark moves."""
        self._ladder.failed()

    def _want(self, updated: int) -> None:
        self._wanted = updated if self._wanted is None else min(self._wanted, updated)

    # --- what came ---

    def receive(
        self,
        ask: Ask,
        rows: Sequence[Row],
        malformed: Sequence[MalformedRow] = (),
        *,
        date: datetime | None,
        now: float,
        wall_time: float,
    ) -> Receipt:
        """Take in a complete, OK answer and its `Date` header.

        Raises:
            ConfigurationError: `start="now"` needs a `Date` header, and there is none.
        """
        starts_now = self._start is None
        if starts_now and not self._begin_now(ask, date):
            return Receipt([], [], [])  # it began too late; `ask()` begins earlier from now on
        runs_backwards, limit = self._watch_clock(date)
        rows = self._relevant(rows)
        cured = self.quarantine.release(rows, malformed, ask.date_from)
        found = self.quarantine.add(malformed, ask.date_from, new_since=self._caught_up - _KEPT)
        before = self.high
        entries: list[Entry] = []
        moved: list[Entry] = []
        for row in newest_of_each(rows):
            if starts_now:
                self._take_as_seen(row)
                continue
            entry = self._sort_in(row, now, is_late=before is not None and row.updated < before, cured=cured)
            if entry is not None:
                (moved if entry.place else entries).append(entry)
                # a new row that the next shorter look-back would have missed
                runs_backwards |= entry.change is None and ask.shorter is not None and row.updated < ask.shorter
        self._move_high(rows, limit)
        self._answered = True
        self._ladder.answered(ask, now, self.high)
        if runs_backwards:
            self._ladder.sweep()
        if ask.rung == 2:
            self._swept_at = wall_time
        if self._wanted is not None and ask.date_from <= max(self._wanted, self._start or 0):
            self._wanted = None
        self._catch_up()
        self._prune()
        return Receipt(entries, moved, found)

    def _begin_now(self, ask: Ask, date: datetime | None) -> bool:
        """Fix the start: 48 h, and the westernmost zone, before the server's clock."""
        if date is None:
            msg = 'start="now" needs the Date header, which the server does not send; give start a datetime'
            raise ConfigurationError(msg)
        utc = wall_of_date(date, None)
        begin = utc - _KEPT - _WESTERNMOST
        if ask.date_from > begin:
            self._wanted = begin
            return False
        self._start, self._wanted = begin, None
        self._caught_up = utc - _WESTERNMOST if self._zone is None else wall_of_date(date, self._zone)
        return True

    def _watch_clock(self, date: datetime | None) -> tuple[bool, int | None]:
        """Tell whether the server's clock was set back, and how far `high` may go.

        That is to the end of the second that the `Date` header names.
        """
        if date is None:
            self.warnings.add("no-date-header")
            return False, None
        utc = wall_of_date(date, None)
        is_set_back = self._server_now is not None and utc < self._server_now - _STEP
        if is_set_back:
            self.warnings.add("clock-step")
        self._server_now = utc
        wall = utc + _EASTERNMOST if self._zone is None else wall_of_date(date, self._zone)
        return is_set_back, wall + TICKS_PER_SECOND - 1

    def _relevant(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that were asked for; servers may list more."""
        if any(row.message.type is not self._type for row in rows):
            self.warnings.add("other-type")
        self._has_offsets.update(row.has_offset for row in rows)
        if self._zone is None and len(self._has_offsets) > 1:
            self.warnings.add("mixed-offsets")
        start = self._start or 0
        return [row for row in rows if row.updated >= start and row.message.type is self._type]

    def _take_as_seen(self, row: Row) -> None:
        known = self._known[row.identity] = Known(identity=row.identity, created=row.created)
        known.accept(row)
        known.settle(row, "", Outcome.SETTLED)
        key = (*row.identity, "")
        self._settlements[key] = Settlement(
            key=key, created=row.created, updated=row.updated, states=(str(row.message.state),)
        )

    def _sort_in(self, row: Row, now: float, *, is_late: bool, cured: set[int | None]) -> Entry | None:
        """Decide what a row is: nothing new, a later revision of a message that waits, or an entry."""
        known = self._known.get(row.identity)
        if known is None:
            is_mended = row.message.id in cured or row.created in cured
            is_old = row.created < self._caught_up - _KEPT and not is_mended
            if is_old and not self._changes:
                return None
            known = Known(identity=row.identity, created=row.created, is_owed=not is_old)
            self._known[row.identity] = known
            self._forgotten.pop(row.identity, None)  # what the store has of it, it may keep
            if is_mended:  # else nobody knew after a restart that it is new
                key = (*row.identity, "")
                self._attempts[key] = Attempt(key=key, created=row.created, updated=row.updated, number=0)
        if not known.accept(row):
            return None
        entry = known.waiting
        if entry is not None:
            entry.row = row
        elif known.is_owed and known.in_hand is None:
            entry = self._enter(known, row, None, now, is_late=is_late)
        elif self._changes:
            change = Change(previous=known.delivered_state)
            entry = self._enter(known, row, change, now, is_late=is_late)
        else:
            return None
        self._owe(entry)
        return entry

    def _enter(self, known: Known, row: Row, change: Change | None, now: float, *, is_late: bool = False) -> Entry:
        self.late += is_late
        known.waiting = Entry(
            row=row,
            known=known,
            change=change,
            late=is_late,
            received_at=now,
            line=row.message.sender,
        )
        return known.waiting

    def _owe(self, entry: Entry) -> None:
        self._count += 1
        heapq.heappush(self._unsettled, (entry.row.updated, self._count, entry))

    def _move_high(self, rows: Sequence[Row], limit: int | None) -> None:
        if not rows:
            return
        greatest = max(row.updated for row in rows)
        if limit is not None and greatest > limit:
            self.warnings.add("future-stamp")
            greatest = limit
        self.high = greatest if self.high is None else max(self.high, greatest)

    def _catch_up(self) -> None:
        """The settled mark reached the read mark, and nothing stamped in the future is left either.

        After a restart the marks meet at once, where the store left them. That says nothing: an old row that
        was received above them and not settled may be missing in the next answer, if a stale node gives it.
        """
        if self.low is not None and not self._unsettled and self.low != self._resumed_at:
            self._caught_up = max(self._caught_up, self.low)

    def _prune(self) -> None:
        """Forget what no poll can bring as new any more, and the oldest if there is too much."""
        cutoff = min(self._caught_up, self._caught_up if self.low is None else self.low) - _KEPT
        crowded = len(self._known) > self._max_seen
        if cutoff - self._pruned_to < _PRUNE_EVERY and not crowded:
            return
        self._pruned_to = cutoff
        idle = [known for known in self._known.values() if known.is_idle and known.is_forgettable]
        for known in idle:
            if known.last_sign < cutoff:
                self._forget(known)
        if len(self._known) > self._max_seen:
            self.warnings.add("seen-bound")
            surplus = len(self._known) - self._max_seen * 9 // 10
            rest = [known for known in idle if known.identity in self._known]
            for known in heapq.nsmallest(surplus, rest, key=lambda known: known.last_sign):
                self._forget(known)

    def _forget(self, known: Known) -> None:
        del self._known[known.identity]
        self._settlements.pop((*known.identity, ""), None)  # taken as seen, and not told yet
        self._forgotten[known.identity] = None

    # --- what the consumer does ---

    def attempt(self, entry: Entry) -> None:
        """It is about to be handed out; the store must know before that."""
        entry.known.attempted(entry)
        self._attempts[entry.key] = entry.attempted()

    def release(self, entry: Entry, *, not_before: float) -> Entry | None:
        """It is to come again; a later revision that waited is merged into it, and returned to be dropped."""
        key = entry.key
        dropped = entry.known.released(entry)
        entry.not_before = not_before
        if entry.key != key:  # as a later revision it is another version, whose attempts count anew
            self._attempts.pop(key, None)
            self._done.append(key)
        if dropped is not None:
            self._owe(entry)
        return dropped

    def settle(self, entry: Entry, settlement: Settlement, *, is_stored: bool = False) -> None:
        """It is settled, and never comes again; the store is told, unless that is where we know it from."""
        if not is_stored:
            self._settlements[settlement.key] = settlement
        self._attempts.pop(settlement.key, None)
        self._done.append(settlement.key)
        entry.settled = True
        entry.known.settle(entry.row, entry.version, settlement.outcome)
        self.rejected += settlement.outcome is Outcome.REJECTED
        self._catch_up()

    def heard(self, entry: Entry, settlement: Settlement) -> Entry | None:
        """It was to be handed out, and another has settled it: in a transaction that ended late, say.

        Return what waits now: a later revision than the settled one is a change of it.
        """
        known = entry.known
        self._attempts.pop(entry.key, None)
        self._done.append(entry.key)
        entry.settled = True
        known.heard(settlement)
        self.rejected += settlement.outcome is Outcome.REJECTED
        if known.waiting is None and self._changes and known.accept(entry.row):
            later = self._enter(known, entry.row, Change(previous=known.delivered_state), entry.received_at)
            self._owe(later)
            return later
        self._catch_up()
        return None

    def requeue(self, attempts: Sequence[Attempt]) -> None:
        """Somebody asked the store to have these rejected messages delivered again."""
        for attempt in attempts:
            known = self._known.get(attempt.key[:2])
            if known is not None and attempt.key[2] in known.rejected and known.is_idle:
                known.requeue(attempt.key[2])
                self.rejected -= 1
                self._want(attempt.updated)

    # --- what the store must be told ---

    def must_save(self) -> bool:
        """Whether a write is due though nothing is handed out or settled, which write the marks anyway."""
        if self._attempts or self._settlements or self._done or self._forgotten:
            return True
        if self.quarantine.added or self.quarantine.cured:
            return True
        marks = self._marks()
        if self._told is None:
            return True
        is_lowered = marks.low is not None and self._told.low is not None and marks.low < self._told.low
        return (
            is_lowered or marks.swept_at != self._told.swept_at or (marks != self._told and marks.low == self.high)
        )

    def delta(self) -> Delta | None:
        """What changed since the last call; the caller writes it before it goes on, however long that takes."""
        marks = self._marks()
        forgotten = tuple(islice(self._forgotten, _FORGOTTEN_AT_ONCE))
        delta = Delta(
            marks=None if marks == self._told else marks,
            forgotten=forgotten,
            settlements=tuple(self._settlements.values()),
            done=tuple(self._done),
            attempts=tuple(self._attempts.values()),
            quarantined=tuple(self.quarantine.added),
            cured=tuple(self.quarantine.cured),
        )
        self._told = marks
        for pending in (self._settlements, self._done, self._attempts):
            pending.clear()
        for identity in forgotten:
            del self._forgotten[identity]
        self.quarantine.added.clear()
        self.quarantine.cured.clear()
        return None if delta == Delta() else delta

    def _marks(self) -> Marks:
        return Marks(start=self._start or 0, low=self.low, caught_up=self._caught_up, swept_at=self._swept_at)
