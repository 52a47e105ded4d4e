"""Leading, standing by and what happens when a lease is lost, with a store whose lease tests take away."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import attrs
import pytest
from fakes import FakeClock, FakeServer, all_blocked, row, until

from his_sms_async import (
    AlreadySettled,
    Change,
    Delivery,
    IncomingPoller,
    LeaseLost,
    MemoryStore,
    Message,
    MessageState,
    StoreError,
)
from his_sms_async._patience import Patience
from his_sms_async._store import Delta, Key, Outcome, Saved, Settlement, Standby

pytestmark = pytest.mark.anyio

NOBODY = "nobody"
UNTIL = datetime(2026, 3, 10, 12, 0, 30, tzinfo=UTC)


@attrs.define(eq=False)
class LeaseOnPaper:
    """Held until a test writes another name on the paper."""

    paper: "Paper"
    holder: str
    seconds: float
    until: datetime = UNTIL

    async def renew(self) -> None:
        self.paper.renewals += 1
        if self.paper.renewals_hang:
            await anyio.sleep_forever()
        if self.paper.is_away:
            raise StoreError("away", retryable=True)
        if self.paper.leader != self.holder:
            raise LeaseLost("another leads")


@attrs.define(eq=False)
class Paper(MemoryStore):
    """A store that several pollers share, and on which stands who leads."""

    leader: str = NOBODY
    me: str = "me"
    seconds: float = 30.0
    is_away: bool = False
    renewals: int = 0
    renewals_hang: bool = False
    hangs_alone: bool = False
    hangs: bool = False
    may_open: anyio.Event | None = None
    saved_alone: list[Delta] = attrs.field(factory=list)

    async def open(self, name: str, server: str) -> Saved | Standby:
        if self.may_open is not None:
            await self.may_open.wait()
        if self.leader not in (NOBODY, self.me):
            return Standby(lease=LeaseOnPaper(self, self.leader, self.seconds), retry_after=10)
        self.leader = self.me
        saved = await super().open(name, server)
        assert isinstance(saved, Saved)
        return attrs.evolve(saved, lease=LeaseOnPaper(self, self.me, self.seconds))

    async def save(self, name: str, delta: Delta) -> Mapping[Key, Settlement]:
        if self.is_away:
            raise StoreError("away", retryable=True)
        if self.hangs:
            await anyio.sleep_forever()
        if delta == Delta(settlements=delta.settlements):
            self.saved_alone.append(delta)
            if self.hangs_alone:
                await anyio.sleep_forever()
        elif self.leader != self.me:
            raise LeaseLost("another leads")
        return await super().save(name, delta)

    async def close(self, name: str) -> None:
        if self.leader == self.me:
            self.leader = NOBODY
        await super().close(name)


class Ward:
    """One replica, with a clock that stands until it is turned."""

    def __init__(self) -> None:
        self.server = FakeServer(rows=[row(1, 0), row(2, 1)])
        self.clock = FakeClock()
        self.paper = Paper()
        self.stack = AsyncExitStack()

    async def poller(self, **options: Any) -> IncomingPoller:
        settings: dict[str, Any] = {"start": "everything", "store": self.paper, "clock": self.clock} | options
        client = await self.stack.enter_async_context(self.server.client())
        poller = await self.stack.enter_async_context(IncomingPoller(client, **settings))
        await all_blocked()
        return poller

    async def turn(self, *seconds: float) -> None:
        for one in seconds:
            await self.clock.advance(one)


async def test_a_leader_renews_its_lease_and_tells_who_leads() -> None:
    """Every third of it; health names leader and end of the lease."""
    ward = Ward()
    async with ward.stack:
        poller = await ward.poller()
        await ward.turn(*[5.0] * 12)
        assert ward.paper.renewals == 6
        health = poller.health()
        assert (health.role, health.leader, health.lease_until, health.is_ready) == ("leading", "me", UNTIL, True)
    assert ward.paper.leader == NOBODY


async def test_a_standby_is_ready_and_takes_over_when_the_lease_is_free() -> None:
    """It asks the server for nothing, hands out nothing, and leads at its next try."""
    ward = Ward()
    ward.paper.leader = "another"
    async with ward.stack:
        poller = await ward.poller()
        await ward.turn(10.0, 10.0)
        health = poller.health()
        assert (health.role, health.leader, health.is_ready, health.lease_until) == (
            "standby",
            "another",
            True,
            UNTIL,
        )
        assert not ward.server.requests
        ward.paper.leader = NOBODY
        await ward.turn(10.0)
        assert (await anext(poller.deliveries())).message.id == 1
        assert poller.health().role == "leading"


async def test_a_leader_that_may_have_lost_its_lease_hands_out_nothing() -> None:
    """Counted from when the last renewal was asked for; once it is renewed, it goes on."""
    ward = Ward()
    async with ward.stack:
        poller = await ward.poller()
        deliveries = poller.deliveries()
        first = await anext(deliveries)
        async with anyio.create_task_group() as tasks:
            found: list[int] = []

            async def take() -> None:
                found.append((await anext(deliveries)).message.id)

            ward.paper.is_away = True
            await ward.turn(*[5.0] * 7)
            tasks.start_soon(take)
            await all_blocked()
            assert (found, poller.health().role, poller.health().degraded) == ([], "standby", True)
            ward.paper.is_away = False
            await ward.turn(*[5.0] * 13)
            assert (found, poller.health().role) == ([2], "leading")
        await first.ack()


async def test_a_lease_ends_while_the_machine_sleeps() -> None:
    """The monotonic clock may stand still meanwhile; the wall clock does not."""
    ward = Ward()
    async with ward.stack:
        poller = await ward.poller()
        ward.clock.epoch += 31
        assert poller.health().role == "standby"
        await ward.turn(10.0)
        assert poller.health().role == "leading"


async def test_a_renewal_that_hangs_is_tried_again() -> None:
    """A third of the lease is its time limit."""
    ward = Ward()
    ward.paper.seconds = 0.3
    async with ward.stack:
        poller = await ward.poller()
        ward.paper.renewals_hang = True
        await ward.turn(0.2)
        await until(lambda: poller.health().consecutive_failures == 1)
        ward.paper.renewals_hang = False
        await ward.turn(0.2)
        health = poller.health()
        assert (ward.paper.renewals, health.consecutive_failures, health.role) == (2, 0, "leading")


async def test_who_has_lost_the_lease_stands_by_and_handlers_run_on() -> None:
    """What they settle then is written without marks; what waits is left to the new leader."""
    ward = Ward()
    async with ward.stack:
        poller = await ward.poller()
        deliveries = poller.deliveries()
        first, second = await anext(deliveries), await anext(deliveries)
        ward.paper.leader = "another"
        await ward.turn(10.0)
        health = poller.health()
        assert (health.role, health.leader, health.in_hand) == ("standby", "another", 0)
        await first.ack()
        await second.release()  # the new leader has it from the store
        assert [one.key[0] for delta in ward.paper.saved_alone for one in delta.settlements] == [1]
        ward.paper.leader = NOBODY
        await ward.turn(10.0)
        again = await anext(deliveries)
        assert (again.message.id, again.attempt) == (2, 2)


async def test_a_settlement_that_finds_the_lease_lost_is_written_all_the_same() -> None:
    """The write that fails by the fence is repeated without marks, and the handler hears of success."""
    ward = Ward()
    async with ward.stack:
        poller = await ward.poller()
        delivery = await anext(poller.deliveries())
        ward.paper.leader = "another"
        await delivery.ack()
        assert poller.health().role == "standby"
        assert len(ward.paper.saved_alone) == 1


async def test_a_settlement_that_hangs_is_tried_again_when_the_block_is_left() -> None:
    """A message that was handed out before is settled apart, for it may have to wait for another's transaction."""
    ward = Ward()
    async with ward.stack:
        poller = await ward.poller()
        deliveries = poller.deliveries()
        await (await anext(deliveries)).release(delay=0)
        again = await anext(deliveries)
        assert again.attempt == 2
        ward.paper.hangs_alone = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(again.ack)
            await all_blocked()
            await (await anext(deliveries)).ack()  # nobody else waits for it
            tasks.cancel_scope.cancel()
        ward.paper.hangs_alone = False
    assert [one.key[0] for delta in ward.paper.saved_alone for one in delta.settlements] == [1, 1]


async def test_only_a_real_conflict_is_an_error() -> None:
    """The new leader has settled the same message: the old one's handler is told."""
    ward = Ward()
    async with ward.stack:
        poller = await ward.poller()
        deliveries = poller.deliveries()
        first, second = await anext(deliveries), await anext(deliveries)
        ward.paper.leader = "another"
        await ward.turn(10.0)
        for delivery in (first, second):
            other = attrs.evolve(delivery._entry.settlement(Outcome.SETTLED, None, "another"))
            await MemoryStore.save(ward.paper, "incoming", Delta(settlements=(other,)))
        with pytest.raises(AlreadySettled):
            await first.ack()
        with pytest.raises(AlreadySettled):
            await second.reject("why")


async def test_a_store_that_hangs_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Health says so, as for one that fails, and the call is tried again."""
    monkeypatch.setattr("his_sms_async._term.LIMIT", 0.05)
    ward = Ward()
    async with ward.stack:
        poller = await ward.poller()
        delivery = await anext(poller.deliveries())
        ward.paper.hangs = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(delivery.ack)
            await until(lambda: poller.health().consecutive_failures > 0)
            assert poller.health().degraded
            ward.paper.hangs = False
            await ward.turn(2.0)


async def test_a_store_that_takes_long_to_open_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million settlements may have to be read: what limits other calls does not limit this one."""
    monkeypatch.setattr(Patience.with_store, "__kwdefaults__", {"limit": 0.01, "longest": 1.0})
    ward = Ward()
    may_open = ward.paper.may_open = anyio.Event()
    async with ward.stack:
        poller = await ward.poller()
        begun = anyio.current_time()
        await until(lambda: anyio.current_time() > begun + 0.1)
        assert poller.health().consecutive_failures == 0
        may_open.set()
        monkeypatch.undo()
        assert (await anext(poller.deliveries())).message.id == 1


async def test_a_rejection_by_another_can_be_requeued_here() -> None:
    """The leader that finds it settled knows that it was rejected."""
    ward = Ward()
    ward.server.rows = [row(1, 0)]
    async with ward.stack:
        poller = await ward.poller()
        deliveries = poller.deliveries()
        first = await anext(deliveries)
        ward.paper.leader = "another"
        await ward.turn(10.0)
        ward.paper.leader = NOBODY
        await ward.turn(10.0)
        await first.reject("unreadable \ud83d \0")
        async with anyio.create_task_group() as tasks:
            found: list[Delivery] = []

            async def take() -> None:
                found.append(await anext(deliveries))

            tasks.start_soon(take)
            await all_blocked()
            assert (found, poller.health().rejected) == ([], 1)
            (kept,) = ward.paper._positions["incoming"].settlements.values()
            assert kept.reason == "unreadable ?  "
            assert await ward.paper.requeue("incoming") == 1
            await ward.turn(10.0)
        assert found[0].message.id == 1


async def test_run_tells_of_a_conflict_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """It is no failure of the handler."""
    ward = Ward()
    handled: list[int] = []

    async def handle(message: Message) -> None:
        handled.append(message.id)
        if message.id == 1:
            other = Settlement(
                key=(1, *next(iter(ward.paper._positions["incoming"].attempts))[1:]),
                created=0,
                updated=0,
                states=(),
                by="another",
            )
            await MemoryStore.save(ward.paper, "incoming", Delta(settlements=(other,)))

    async with ward.stack:
        poller = await ward.poller()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(poller.run, handle, concurrency=1))
            await all_blocked()
            tasks.cancel_scope.cancel()
    assert handled == [1, 2]
    assert "another replica handled a message as well" in caplog.text


async def test_a_later_revision_than_the_one_that_another_settled_is_a_change() -> None:
    """With `changes=True`: what waited as the message itself is delivered as what became of it."""
    ward = Ward()
    ward.server.rows = [row(1, 0)]
    async with ward.stack:
        poller = await ward.poller(changes=True)
        deliveries = poller.deliveries()
        first = await anext(deliveries)
        settlement = attrs.evolve(first._entry.settlement(Outcome.SETTLED, None, "another"))
        ward.server.rows = [row(1, 20, created=0, State="Seen")]
        ward.paper.leader = "another"
        await ward.turn(10.0)
        ward.paper.leader = NOBODY
        await ward.turn(10.0)
        await MemoryStore.save(ward.paper, "incoming", Delta(settlements=(settlement,)))

        change = await anext(deliveries)
        assert change.change == Change(previous=MessageState.DELIVERED)
        assert change.message.state is MessageState.SEEN
