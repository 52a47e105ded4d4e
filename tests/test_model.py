"""The poller's decisions against a model of the world: whatever happens, nothing is lost and nothing doubled."""

from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import attrs
import pytest
from fakes import VILNIUS
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from his_sms_async import MemoryStore, Message, MessageState, MessageType
from his_sms_async._handout import Handout
from his_sms_async._known import Entry
from his_sms_async._models import Revision
from his_sms_async._position import EVERYTHING, Position
from his_sms_async._store import Delta, Outcome, Saved, Settlement
from his_sms_async._time import earliest_wall, ticks, wall_of_date
from his_sms_async._wire import Row

T = TypeVar("T")

HOUR = 3600.0
NODES = (0.0, -40.0, 15.0)
"""Clock errors of the server's nodes, in seconds."""
STATES = list(MessageState)[1:]


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits, as those of the memory store do."""
    try:
        coroutine.send(None)
    except StopIteration as result:
        return result.value  # type: ignore[no-any-return]
    raise AssertionError


@attrs.define(eq=False)
class Sms:
    """A message in the server's database."""

    serial: int
    id: int
    sender: str
    created: int
    updated: int
    state: MessageState
    visible_at: float
    must_arrive: bool
    """It was created after the start."""
    is_listed: bool = True
    """Its last change moved its stamp; else nobody who asks for changes need hear of it."""

    def row(self) -> Row:
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        message = Message(
            id=self.id,
            sender=self.sender,
            recipient="",
            type=MessageType.INCOMING,
            created_at=moment,
            updated_at=moment,
            text=str(self.serial),
            state=self.state,
            reply_to_id=None,
            revision=Revision(self.updated, self.state),
        )
        return Row(message=message, created=self.created, updated=self.updated, has_offset=False)


class World(RuleBasedStateMachine):
    """A server, a consumer that crashes, and in between the poller's decisions with a store."""

    changes = False

    def __init__(self) -> None:
        super().__init__()
        self.database: list[Sms] = []
        self.serial = 0
        self.guaranteed_from = 0
        """Stamps before a start that is a datetime are not asked for."""
        self.stepped = 0.0
        self.times: dict[int, int] = {}
        """How often each message was delivered."""
        self.may_return: set[int] = set()
        """Messages that were in hand at a crash, or released."""
        self.settled: set[int] = set()
        self.versions: dict[int, list[tuple[int, str]]] = {}
        self.in_hand: list[Entry] = []
        self.lives = 0
        self.transactions: list[tuple[Settlement, int]] = []
        """Those of the consumer that are not committed, and whose message they settle."""
        self.requeued: set[int] = set()

    @initialize(
        begin=st.sampled_from(
            ["2026-10-24T23:10:00+00:00", "2026-03-29T00:20:00+00:00", "2026-06-01T12:00:00+00:00"]
        ),
        zone=st.sampled_from([VILNIUS, None]),
        start=st.sampled_from(["now", "everything", "datetime"]),
        sends_date=st.booleans(),
    )
    def begin(self, *, begin: str, zone: ZoneInfo | None, start: str, sends_date: bool) -> None:
        """A server with a history, in a night with or without a clock change."""
        self.epoch = datetime.fromisoformat(begin)
        self.now = 0.0
        self.zone = zone
        self.sends_date = sends_date or start == "now"
        for hours in (100, 71, 47, 1):
            self.add(node=0, sender=0, hidden=0.0, tie=False, ago=hours * HOUR, must_arrive=start == "everything")
        if start == "datetime":
            moment = self.epoch if zone else self.epoch.astimezone(VILNIUS).replace(tzinfo=None)
            self.start: int | None = earliest_wall(moment, zone)
            self.guaranteed_from = self.start
            self.add(node=0, sender=1, hidden=0.0, tie=False, must_arrive=True)
        else:
            self.start = EVERYTHING if start == "everything" else None
        self.store = MemoryStore()
        self.open()
        if not self.position.has_begun:
            self.poll()

    def open(self) -> None:
        """Start the poller, or start it again."""
        self.position = Position(self.start, type=MessageType.INCOMING, changes=self.changes, zone=self.zone)
        self.handout = Handout()
        self.in_hand = []
        saved = run(self.store.open("model", "server"))
        assert isinstance(saved, Saved)
        if saved.marks is not None:
            self.position.resume(saved.marks, now=self.now, wall_time=self.wall_time)
        self.position.recall([*saved.settlements, *saved.attempts, *saved.quarantine])

    # --- time ---

    @property
    def wall_time(self) -> float:
        return self.epoch.timestamp() + self.now

    @property
    def server_time(self) -> datetime:
        return self.epoch + timedelta(seconds=self.now + self.stepped)

    def stamp(self, *, node: int = 0, ago: float = 0.0) -> int:
        """What the server writes: its wall clock, without offset."""
        return wall_of_date(self.server_time - timedelta(seconds=ago - NODES[node]), VILNIUS)

    # --- the server ---

    def add(
        self, *, node: int, sender: int, hidden: float, tie: bool, ago: float = 0.0, must_arrive: bool = True
    ) -> Sms:
        stamp = self.stamp(node=node, ago=ago)
        if tie and self.database:
            stamp = max(stamp - ticks(minutes=1), self.database[-1].updated)
        self.serial += 1
        sms = Sms(
            serial=self.serial,
            id=self.serial,
            sender=f"sender {sender}",
            created=stamp,
            updated=stamp,
            state=STATES[0],
            visible_at=self.now + hidden,
            must_arrive=must_arrive and stamp >= self.guaranteed_from,
        )
        self.database.append(sms)
        return sms

    @rule(
        node=st.integers(0, 2),
        sender=st.integers(0, 2),
        hidden=st.sampled_from([0.0, 0.0, 0.0, 30.0, 100.0, 400.0, 2 * HOUR, 40 * HOUR]),
        tie=st.booleans(),
    )
    def reply(self, *, node: int, sender: int, hidden: float, tie: bool) -> None:
        """A patient answers; the row is committed late, on a node whose clock is wrong, or on a tie."""
        self.add(node=node, sender=sender, hidden=hidden, tie=tie)

    @rule(pick=st.integers(0, 50), state=st.sampled_from(STATES), moves=st.booleans())
    def change_state(self, *, pick: int, state: MessageState, moves: bool) -> None:
        """A state changes, usually with the stamp."""
        sms = self.database[pick % len(self.database)]
        seen_here = {version[1] for version in self.versions.get(sms.serial, []) if version[0] == sms.updated}
        sms.is_listed = moves
        if moves:
            sms.updated = max(self.stamp(), sms.updated + 1)
            sms.state = state
        elif state not in seen_here:
            sms.state = state

    @rule()
    def bulk_update(self) -> None:
        """An operator touches all rows: they have one stamp."""
        stamp = max(self.stamp(), *(sms.updated + 1 for sms in self.database))
        for sms in self.database:
            sms.updated = stamp
            sms.is_listed = True

    @rule()
    def archive(self) -> None:
        """A job changes what is old."""
        for sms in self.database[:4]:
            sms.updated = max(self.stamp(), sms.updated + 1)
            sms.state = MessageState.DELETED

    @rule(pick=st.integers(0, 50))
    def reuse_id(self, pick: int) -> None:
        """After a restore the server counts on from an old Id."""
        sms = self.add(node=0, sender=3, hidden=0.0, tie=False)
        other = self.database[pick % len(self.database)]
        quarter = ticks(minutes=15)
        if sms.created % quarter not in {row.created % quarter for row in self.database if row.id == other.id}:
            sms.id = other.id

    @precondition(lambda self: self.stepped > -4 * HOUR)
    @rule(seconds=st.sampled_from([-3 * HOUR, -HOUR, -90.0, 90.0]))
    def step_clock(self, seconds: float) -> None:
        """The server's clock is set."""
        self.stepped += seconds

    @precondition(lambda self: self.zone is not None and self.sends_date)
    @rule(hours=st.sampled_from([1, 24, 24 * 365]))
    def future_stamp(self, hours: int) -> None:
        """A node stamps a row in the future."""
        self.add(node=0, sender=4, hidden=0.0, tie=False, ago=-hours * HOUR)

    # --- the poller ---

    @rule(seconds=st.sampled_from([1.0, 10.0, 60.0, 130.0, 301.0, HOUR, 5 * HOUR]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @rule(times=st.integers(1, 4))
    def poll(self, times: int = 1) -> None:
        """The server answers."""
        for _ in range(times):
            self.position.requeue(run(self.store.requeued("model")))
            ask = self.position.ask(now=self.now, wall_time=self.wall_time)
            rows = [
                sms.row() for sms in self.database if sms.visible_at <= self.now and sms.updated >= ask.date_from
            ]
            first = not self.position.has_begun
            receipt = self.position.receive(
                ask,
                rows,
                date=self.server_time.replace(microsecond=0) if self.sends_date else None,
                now=self.now,
                wall_time=self.wall_time,
            )
            if first and self.position.has_begun:
                self.settled.update(int(row.message.text) for row in rows)
            for entry in receipt.entries:
                self.handout.add(entry)
            for entry in receipt.moved:
                self.handout.move(entry)
            if self.position.must_save():
                self.write([], 0)
            self.now += 10.0

    @rule()
    def failing_poll(self) -> None:
        """The server does not answer, or what it answers is not OK."""
        self.position.ask(now=self.now, wall_time=self.wall_time)
        self.position.failed()
        self.now += 10.0

    def write(
        self,
        settled: list[Entry],
        wanted: int,
        crash: str | None = None,
        outcome: Outcome = Outcome.SETTLED,
    ) -> None:
        """What the poller's writer does; a crash comes before or after the store's write."""
        wanted_now = [entry for _ in range(wanted) if (entry := self.handout.take(self.now))]
        for entry in settled:
            self.position.settle(entry, entry.settlement(outcome, None, f"life {self.lives}"))
            self.in_hand.remove(entry)
        for entry in wanted_now:
            self.position.attempt(entry)
        delta = self.position.delta()
        if crash == "before":
            self.may_return.update(int(entry.row.message.text) for entry in settled)
            self.crash()
            return
        taken = run(self.store.save("model", delta)) if delta is not None else {}
        self.settled.update(int(entry.row.message.text) for entry in settled)
        for entry in settled:
            self.handout.done(entry)
        if crash == "after":
            self.crash()
            return
        for entry in wanted_now:
            if entry.key in taken:
                assert int(entry.row.message.text) in self.settled, "what nobody settled was taken for settled"
                later = self.position.heard(entry, taken[entry.key])
                self.handout.done(entry)
                if later is not None:
                    self.handout.add(later)
            else:
                self.deliver(entry)

    def deliver(self, entry: Entry) -> None:
        serial = int(entry.row.message.text)
        self.in_hand.append(entry)
        version = (entry.row.updated, str(entry.row.message.state))
        versions = self.versions.setdefault(serial, [])
        if serial in self.requeued and entry.known.requeued:
            pass
        elif serial in self.may_return:
            self.may_return.discard(serial)
        elif self.changes:
            assert version not in versions, "a version came twice"
            assert not versions or version[0] >= versions[-1][0], "an older revision followed a newer one"
            is_change = serial in self.settled or (not versions and self.is_old(entry))
            assert (entry.change is not None) == is_change or serial in self.requeued
        else:
            assert serial > 2 or self.start == EVERYTHING, "a job changed an old message, and it came as new"
            assert serial not in self.settled, "a settled message came again"
            assert serial not in self.times, "a message came twice"
        versions.append(version)
        self.times[serial] = self.times.get(serial, 0) + 1

    def is_old(self, entry: Entry) -> bool:
        return entry.change is not None and entry.change.previous is None

    @rule(wanted=st.integers(1, 5))
    def take(self, wanted: int) -> None:
        """The consumer takes messages in hand."""
        self.write([], wanted)

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data(), wanted=st.integers(0, 3), crash=st.sampled_from([None, None, "before", "after"]))
    def settle(self, data: st.DataObject, wanted: int, crash: str | None) -> None:
        """The consumer settles some of what it has, in any order; sometimes the process dies at the write."""
        settled = data.draw(st.lists(st.sampled_from(self.in_hand), min_size=1, unique=True))
        self.write(settled, wanted, crash)

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data(), end=st.sampled_from(["seen", "crash", "late"]))
    def settle_in_transaction(self, data: st.DataObject, end: str) -> None:
        """The consumer's own transaction is committed, and seen so; or the process dies before or after that."""
        entry = data.draw(st.sampled_from(self.in_hand))
        settlement = entry.settlement(Outcome.SETTLED, None, f"life {self.lives}")
        self.transactions.append((settlement, int(entry.row.message.text)))
        if end == "late":
            self.crash()
            return
        self.commit()
        if end == "crash":
            self.crash()
        elif entry.key in run(self.store.settled("model", [entry.key])):
            self.position.settle(entry, settlement, is_stored=True)
            self.in_hand.remove(entry)
            self.handout.done(entry)

    @precondition(lambda self: self.transactions)
    @rule()
    def commit(self) -> None:
        """The database commits a transaction, maybe of a process that is dead; its settlement is a fence."""
        settlement, serial = self.transactions.pop()
        if not run(self.store.save("model", Delta(settlements=(settlement,)))):
            self.settled.add(serial)

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data())
    def reject(self, data: st.DataObject) -> None:
        """The consumer gives up; sometimes somebody has it requeued later."""
        self.write([data.draw(st.sampled_from(self.in_hand))], 0, outcome=Outcome.REJECTED)

    @rule()
    def requeue(self) -> None:
        """Somebody wants the rejected ones again."""
        rejected = {
            kept.key[:2]: kept
            for kept in self.store._positions["model"].settlements.values()
            if kept.outcome is Outcome.REJECTED
        }
        assert run(self.store.requeue("model")) >= len(rejected)
        for sms in self.database:
            kept = rejected.get((sms.id, sms.created % ticks(minutes=15)))
            if kept is not None:
                self.requeued.add(sms.serial)
                if kept.key[2] == "":
                    self.settled.discard(sms.serial)

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data(), delay=st.sampled_from([0.0, 5.0, 300.0]))
    def release(self, data: st.DataObject, delay: float) -> None:
        """The consumer fails."""
        entry = data.draw(st.sampled_from(self.in_hand))
        self.in_hand.remove(entry)
        self.may_return.add(int(entry.row.message.text))
        dropped = self.position.release(entry, not_before=self.now + delay)
        if dropped is not None:
            self.handout.drop(dropped)
        self.handout.done(entry)
        self.handout.add(entry)

    @rule()
    def crash(self) -> None:
        """The process dies, and is started again."""
        self.may_return.update(int(entry.row.message.text) for entry in self.in_hand)
        run(self.store.close("model"))
        self.lives += 1
        self.open()

    # --- what must be true ---

    @invariant()
    def one_at_a_time_for_each_sender(self) -> None:
        """Two messages of one sender are never in hand at the same time."""
        senders = [entry.row.message.sender for entry in self.in_hand]
        assert len(senders) == len(set(senders))

    @invariant()
    def what_is_in_hand_is_asked_for_again(self) -> None:
        """The stored settled mark lies below everything in hand: a crash now loses nothing."""
        stored = self.store._positions.get("model")
        if stored is None or stored.marks is None:
            return
        for entry in self.in_hand:
            assert stored.marks.low is None or stored.marks.low < entry.row.updated

    def teardown(self) -> None:
        """In the end everything has arrived."""
        if not hasattr(self, "position"):
            return
        latest = max((sms.visible_at for sms in self.database), default=0.0)
        self.now = max(self.now, latest) + 10.0
        for _ in range(3):
            self.now += HOUR
            for _ in range(3):
                self.poll()
            self.now += 301.0
            while self.in_hand or self.handout.buffered:
                self.write(list(self.in_hand), 10)
                self.now += 60.0
        lost = [sms.serial for sms in self.database if sms.must_arrive and sms.serial not in self.settled]
        assert not lost, f"lost: {lost}"
        if self.changes:
            for sms in self.database:
                if sms.serial in self.versions and sms.is_listed:
                    assert self.versions[sms.serial][-1] == (sms.updated, str(sms.state)), "a state was lost"


class WorldWithChanges(World):
    """The same with `changes=True`."""

    changes = True


def explore(world: type[World], examples: int) -> None:
    """Look for a history that breaks a promise."""
    run_state_machine_as_test(
        world,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("world", [World, WorldWithChanges])
def test_nothing_is_lost_and_nothing_comes_twice(world: type[World]) -> None:
    """300 histories of ties, late rows, clock steps, restores, bulk updates and crashes."""
    explore(world, 300)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world", [World, WorldWithChanges])
def test_nothing_is_lost_and_nothing_comes_twice_in_thousands_of_histories(world: type[World]) -> None:
    """The same, 5,000 times."""
    explore(world, 5000)
