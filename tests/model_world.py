"""A world for the poller's state machine: the stand-in over real HTTP, a clock that is turned, a mortal process.

Nothing here waits for real time: what the poller has to do is done when both of its tasks, the one that polls and
the one that writes, wait for the clock.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import anyio
import attrs
from fakes import VILNIUS, FakeClock, until

from his_sms_async import Delivery, IncomingPoller, SmsClient, SmsError, StoreError
from his_sms_async._delivery import DeliveryIterator
from his_sms_async._engine import Engine
from his_sms_async._store import Attempt, Delta, Key, Saved, Settlement, Standby, Store
from his_sms_async.sandbox import Exchange, Sandbox, Switch, faults
from his_sms_async.sandbox._clock import TICKS_PER_SECOND, ticks_of, utc_datetime
from his_sms_async.sandbox._stamps import parse_date_from, wall_ticks

MINUTE, HOUR = 60.0, 3600.0
INTERVAL = 10.0
"""Seconds from poll to poll."""
LONGEST_PAUSE = 301.0
"""Seconds after which a poll is due, whatever came before: a Retry-After is honoured up to five minutes."""

Start = Literal["now", "everything", "datetime"]
Dying = Literal["before", "after"]

# 48 h are promised. Off go the hour between two deep sweeps, the 5 h by which the clock is stepped, 2 h of a stale
# replica and the autumn hour: by so much the read mark can be ahead of a message when that becomes visible.
_VISIBLE_WITHIN = 37 * HOUR
# Where the zone is not known, the read mark may follow a stamp from the future as far as 14 h east of UTC.
_VISIBLE_WITHIN_IF_NO_ZONE = 24 * HOUR
_STEPPED_BACK, _STEPPED_AHEAD = -3 * HOUR, 2 * HOUR
_AUTUMN = datetime(2026, 10, 25, 0, 0, tzinfo=UTC)  # the hour that comes twice in Vilnius, for the first time
_MAX_IN_FLIGHT = 4

_JUDGED = ("role", "is_live", "is_ready", "degraded", "last_ok_age", "consecutive_failures", "in_hand")
_RATE_LIMITED = 300.0  # seconds at least, if its window is an hour of real time
_SILENCE = faults.Hang(times=1)
_BAD = (
    faults.CutBody,
    faults.EmptyAnswer,
    faults.ErrorEnvelope,
    faults.Garbage,
    faults.Hang,
    faults.HtmlPage,
    faults.MissingStatus,
    faults.RateLimit,
    faults.Reset,
    faults.Status,
)
"""After these an answer is not complete and OK."""


@attrs.define(eq=False)
class SteppedClock(FakeClock):
    """A clock that is turned, and knows who waits for it."""

    _waiting: list[tuple[anyio.Event, float | None]] = attrs.field(init=False, factory=list)
    _stirred: anyio.Event = attrs.field(init=False, factory=anyio.Event)

    async def wait(self, event: anyio.Event, until: float | None) -> None:
        waiter = (event, until)
        self._waiting.append(waiter)
        self.stir()
        try:
            await super().wait(event, until)
        finally:
            self._waiting.remove(waiter)
            self.stir()

    def turn(self, seconds: float) -> None:
        """Go on, and wake those whose time has come."""
        self.now += seconds
        turned, self._turned = self._turned, anyio.Event()
        turned.set()

    @property
    def is_at_rest(self) -> bool:
        """Whether the task that polls and the one that writes both wait, and not for what is there already."""
        return len(self._waiting) == 2 and all(
            not event.is_set() and (until is None or self.now < until) for event, until in self._waiting
        )

    def stir(self) -> None:
        """Have those look who wait for something to happen."""
        self._stirred.set()
        self._stirred = anyio.Event()

    async def stirred(self) -> None:
        """Wait until something happens."""
        await self._stirred.wait()


@attrs.define(eq=False)
class MortalStore:
    """A store as one process sees it; when that is dead, it writes no more."""

    _store: Store
    dies: Dying | None = None
    """The process dies at its next write, just before that or just after."""
    is_dead: bool = False
    has_written: bool = False

    async def open(self, name: str, server: str) -> Saved | Standby:
        return await self._store.open(name, server)

    async def save(self, name: str, delta: Delta) -> Mapping[Key, Settlement]:
        self.is_dead |= self.dies == "before"
        if not self.is_dead:
            taken = await self._store.save(name, delta)
            self.has_written = True
            self.is_dead = self.dies == "after"
            if not self.is_dead:
                return taken
        msg = "the process is dead"
        raise StoreError(msg, retryable=False)

    async def settled(self, name: str, keys: Collection[Key]) -> Mapping[Key, Settlement]:
        return await self._store.settled(name, keys)

    async def settle_in(self, tx: Any, name: str, settlement: Settlement, *, again: bool) -> Callable[[], bool]:
        return await self._store.settle_in(tx, name, settlement, again=again)

    async def requeued(self, name: str) -> tuple[Attempt, ...]:
        return await self._store.requeued(name)

    async def close(self, name: str) -> None:
        await self._store.close(name)


@attrs.define(eq=False)
class Process:
    """One life of the poller and its consumer, and what a bystander knows of it."""

    poller: IncomingPoller
    engine: Engine
    deliveries: DeliveryIterator
    store: MortalStore
    in_hand: list[Delivery] = attrs.field(factory=list)
    arrived: dict[int, tuple[int, int]] = attrs.field(factory=dict)
    """What good answers brought to it, by Id: UpdatedAt by the wall clock, and Id, when it came first."""
    failures: int = 0
    """Polls in succession that brought no good answer."""
    last_ok: float | None = None
    """When the last good answer came."""
    is_asked_to_wait_until: float = 0.0
    """By a Retry-After."""
    saw_malformed: bool = False
    """There was a malformed row in the last good answer."""

    @property
    def is_over(self) -> bool:
        """The poller has failed, or its process has died."""
        return self.engine.failure is not None

    @property
    def marks(self) -> tuple[str | None, str | None]:
        """The read mark and the settled mark."""
        health = self.poller.health()
        return health.high, health.low


@attrs.define(eq=False, kw_only=True)
class World:
    """The SMS server, its patients and its faults, and the process that polls it.

    It judges by what the stand-in did, not by what the poller says: an answer is good if no fault struck that
    spoils one, and it brought what the stand-in lists from the `dateFrom` in its journal on.
    """

    sandbox: Sandbox
    client: SmsClient
    store: Store
    start: Start
    begin: datetime
    """When the history begins (aware)."""
    process: Process | None = attrs.field(init=False, default=None)
    settled: set[int] = attrs.field(init=False, factory=set)
    _clock: SteppedClock = attrs.field(init=False)
    _stepped: float = attrs.field(init=False, default=0.0)
    """Seconds by which the server's clock is ahead."""
    _switches: dict[type[faults.Fault], Switch] = attrs.field(init=False, factory=dict)
    _struck: dict[int, int] = attrs.field(init=False, factory=dict)
    """How often each switch has struck, at the last look."""
    _last_exchange: int = attrs.field(init=False, default=0)
    _visible_at: float = attrs.field(init=False, default=0.0)
    """When everything is listed, in elapsed seconds."""
    _senders: dict[int, str] = attrs.field(init=False, factory=dict)
    _optional: set[int] = attrs.field(init=False, factory=set)
    """Messages whose arrival nobody promises."""
    _taken_as_seen: set[int] = attrs.field(init=False, factory=set)
    """With `start="now"`, what was in the first answer."""
    _has_begun: bool = attrs.field(init=False, default=False)
    _received: set[int] = attrs.field(init=False, factory=set)
    """What was in a good answer, whoever polled."""
    _times: dict[int, int] = attrs.field(init=False, factory=dict)
    """How often each message was handed out."""
    _may_return: set[int] = attrs.field(init=False, factory=set)
    """What was in hand at a crash, or released."""
    _half_settled: set[int] = attrs.field(init=False, factory=set)
    """What was settled by the last write of a process; the next one may think it is owed until it asks."""
    _deaths_at_a_write: int = attrs.field(init=False, default=0)
    _was_malformed: bool = attrs.field(init=False, default=False)
    _had_no_sender: bool = attrs.field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        self._clock = SteppedClock(epoch=self.begin.timestamp())
        self.sandbox.reset()
        self.sandbox.settable_clock.freeze()
        for hours in (100, 71, 47, 1):
            self.sandbox.settable_clock.set(self.begin - timedelta(hours=hours))
            self._write(0)
            self._optional.clear()  # `_is_before_start` tells, not the age
        self.sandbox.settable_clock.set(self.begin)
        self._optional.update(
            message.id for message in self.sandbox.received if self._is_before_start(message.created_ticks)
        )

    # --- time ---

    @property
    def _elapsed(self) -> float:
        """Seconds since the history began."""
        return self._clock.time() - self.begin.timestamp()

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, for the server too; the poller does what is due then, which is one poll at most."""
        self.sandbox.settable_clock.advance(seconds)
        before = None if self.process is None else self.process.marks
        self._clock.turn(seconds)
        await self.rest(before)

    async def set_clock(self, happening: faults.ClockStep | faults.AutumnNight) -> None:
        """Set the server's clock, within bounds: what is promised of a message counts from its stamp."""
        now = utc_datetime(self.sandbox.clock())
        if isinstance(happening, faults.ClockStep):
            step = happening.seconds
        elif now >= _AUTUMN + timedelta(hours=1):  # before that, the last such night was a year ago
            step = (_AUTUMN - timedelta(minutes=happening.minutes) - now).total_seconds()
        else:
            return
        if _STEPPED_BACK <= self._stepped + step <= _STEPPED_AHEAD:
            self.sandbox.faults.add(happening)
            self._stepped += step

    # --- the server ---

    async def write(self, sender: int, count: int) -> None:
        """A patient writes so many SMS, all in one tick."""
        for _ in range(count):
            self._write(sender)

    def _write(self, sender: int) -> None:
        number = f"3706000000{sender}"
        message = self.sandbox.receive(sender=number, recipient="37000000001", text=f"answer {len(self._senders)}")
        self._senders[message.id] = number
        self._hide()
        if (
            self._is_before_start(message.created_ticks)
            or self._lag(message.created_ticks) + self._hidden > self._bearable_lag
        ):
            self._optional.add(message.id)

    async def change_state(self, pick: int, state: str) -> None:
        """A message gets a state, and a stamp."""
        self.sandbox.set_state(1 + pick % len(self._senders), state)
        self._changed()

    async def change_many(self, happening: faults.BulkUpdate | faults.ArchiveJob) -> None:
        """A job changes many messages at once."""
        self.sandbox.faults.add(happening)
        self._changed()

    def _changed(self) -> None:
        self._hide()
        for (
            message
        ) in self.sandbox.received:  # a stamp that goes back far enough puts one out of every poll's sight
            is_old = message.id not in self._received and self._lag(message.updated_ticks) > self._bearable_lag
            if is_old or self._is_before_start(message.updated_ticks):
                self._optional.add(message.id)

    def _hide(self) -> None:
        self._visible_at = max(self._visible_at, self._elapsed + self._hidden)

    @property
    def _hidden(self) -> float:
        """Seconds until a list shows what is written now."""
        late = self._switches.get(faults.LateRows)
        return 0.0 if late is None else late.fault.hidden

    def _lag(self, stamp: int) -> float:
        """Seconds by which the server's clock is ahead of a stamp."""
        return (self.sandbox.clock() - stamp) / TICKS_PER_SECOND

    @property
    def _bearable_lag(self) -> float:
        return _VISIBLE_WITHIN if self.client.server_timezone else _VISIBLE_WITHIN_IF_NO_ZONE

    def _is_before_start(self, stamp: int) -> bool:
        if self.start != "datetime":
            return False
        begin = ticks_of(self.begin)
        if self.client.server_timezone is None:  # then the start is what the server's clock on the wall showed
            return wall_ticks(stamp, VILNIUS) < wall_ticks(begin, VILNIUS)
        return stamp < begin

    # --- its faults ---

    async def switch_on(self, new: Iterable[faults.Fault]) -> None:
        """Switch faults on, each in place of another of its kind."""
        for fault in new:
            await self.switch_off([fault])
            switch = self.sandbox.faults.add(fault)
            assert switch is not None
            self._switches[type(fault)] = switch

    async def switch_off(self, kinds: Iterable[faults.Fault]) -> None:
        """Switch faults of these kinds off, if they are on."""
        for fault in kinds:
            switch = self._switches.pop(type(fault), None)
            if switch is not None:
                with suppress(LookupError):  # it has struck as often as it should
                    self.sandbox.faults.remove(switch)

    def _strikes(self) -> list[faults.Fault]:
        """The faults that struck requests since the last look."""
        before, self._struck = self._struck, {one.id: one.struck for one in self._switches.values()}
        return [
            one.fault
            for one in self._switches.values()
            if one.struck > before.get(one.id, 0) and not one.fault.acts_on_new
        ]

    def _requests(self) -> list[Exchange]:
        """What was asked since the last look."""
        requests = [exchange for exchange in self.sandbox.journal if exchange.id > self._last_exchange]
        self._last_exchange = max((exchange.id for exchange in requests), default=self._last_exchange)
        return requests

    # --- the process ---

    @asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        """Run the poller while the block lasts; what is in hand at its end is not settled."""
        begin = self.begin if self.client.server_timezone else self.begin.astimezone(VILNIUS).replace(tzinfo=None)
        poller = IncomingPoller(
            self.client,
            start=begin if self.start == "datetime" else self.start,
            store=(store := MortalStore(self.store)),
            interval=INTERVAL,
            clock=self._clock,
        )
        self._strikes()  # those of a poll that a crash interrupted
        self._requests()
        process: Process | None = None
        try:
            async with poller, anyio.create_task_group() as tasks:
                engine = poller._engine
                assert engine is not None
                deliveries = poller.deliveries(max_in_flight=_MAX_IN_FLIGHT)
                self.process = process = Process(poller, engine, deliveries, store)
                tasks.start_soon(self._listen, engine)
                yield
                self._may_return.update(delivery.message.id for delivery in process.in_hand)
                tasks.cancel_scope.cancel()
        except SmsError:
            assert process is not None
            assert process.is_over  # which was judged when it happened
        finally:
            self.process = None

    async def _listen(self, engine: Engine) -> None:
        while True:
            await engine.news()
            self._clock.stir()

    @property
    def _alive(self) -> Process:
        assert self.process is not None
        return self.process

    async def doom(self, dies: Dying | None) -> None:
        """The process will die at its next write, just before that or just after; or, with None, it will not."""
        self._alive.store.dies = dies

    async def die(self) -> None:
        """The process writes no more; what remains is to leave its block."""
        self._alive.store.is_dead = True

    async def die_while_it_asks(self) -> None:
        """The process dies while the server is silent."""
        await self.switch_on([_SILENCE])
        self.sandbox.settable_clock.advance(LONGEST_PAUSE)
        self._clock.turn(LONGEST_PAUSE)
        await until(self._is_met_with_silence)
        await self.die()
        await self.switch_off([_SILENCE])

    def _is_met_with_silence(self) -> bool:
        return any(exchange.id > self._last_exchange and exchange.faults for exchange in self.sandbox.journal)

    # --- the consumer ---

    async def take(self, wanted: int) -> None:
        """Take so many messages in hand, if there are so many."""
        process = self._alive
        while wanted and not process.is_over and len(process.in_hand) < _MAX_IN_FLIGHT:
            delivery = await self._take_one(process)
            if delivery is None:
                break
            self._check(process, delivery)
            wanted -= 1
        await self.rest()

    async def _take_one(self, process: Process) -> Delivery | None:
        """The next message, or None if there is none."""
        taken: list[Delivery] = []

        async def ask() -> None:
            with suppress(SmsError):  # the process has died
                taken.append(await anext(process.deliveries))
            self._clock.stir()

        engine = process.engine
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            while not (taken or process.is_over):
                if engine.hungry and self._clock.is_at_rest and not engine._term._staged:
                    break
                await self._clock.stirred()
            tasks.cancel_scope.cancel()
        return taken[0] if taken else None

    async def settle(self, pick: int, count: int) -> None:
        """Settle so many of the messages in hand."""
        for _ in range(count):
            await self._end(pick, lambda delivery: delivery.ack())

    async def reject(self, pick: int) -> None:
        """Give up on a message, which settles it."""
        await self._end(pick, lambda delivery: delivery.reject("answers no reminder"))

    async def _end(self, pick: int, settle: Callable[[Delivery], Awaitable[None]]) -> None:
        process = self._alive
        if process.is_over or not process.in_hand:
            return
        delivery = process.in_hand[pick % len(process.in_hand)]
        is_settled = True
        try:
            await settle(delivery)
        except StoreError:
            assert process.store.is_dead
            is_settled = process.store.dies == "after"
            self._half_settled.add(delivery.message.id)
        if is_settled:
            process.in_hand.remove(delivery)
            self.settled.add(delivery.message.id)
        await self.rest()

    async def release(self, pick: int, delay: float | None) -> None:
        """Fail at a message, which comes again."""
        process = self._alive
        if process.in_hand:
            delivery = process.in_hand.pop(pick % len(process.in_hand))
            self._may_return.add(delivery.message.id)
            await delivery.release(delay=delay)
            await self.rest()

    # --- what must be true ---

    async def rest(self, before: tuple[str | None, str | None] | None = None) -> None:
        """Wait until the poller has done what was due, and judge that.

        Args:
            before: The marks before it, if no message was settled meanwhile.
        """
        process = self.process
        if process is None:
            return
        while not (process.is_over or self._clock.is_at_rest):
            await self._clock.stirred()
        requests, struck = self._requests(), self._strikes()
        assert not requests or self._clock.now >= process.is_asked_to_wait_until, "Retry-After was not honoured"
        bad: list[faults.Fault] = [fault for fault in struck if isinstance(fault, _BAD)]
        if bad:
            process.failures += 1
            process.is_asked_to_wait_until = self._clock.now + min(_retry_after(bad), 300.0)
            assert process.is_over or before is None or process.marks == before, "a bad answer moved a mark"
        elif requests:
            self._take_in(process, requests[-1], struck)
        self._check_end(process, bad)
        if not process.is_over:
            self._check_health(process)

    def _take_in(self, process: Process, request: Exchange, struck: list[faults.Fault]) -> None:
        """Note what a good answer brought."""
        date_from = parse_date_from(parse_qs(urlsplit(request.target).query)["dateFrom"][0])
        assert date_from is not None
        is_null = any(isinstance(fault, faults.Nulls) for fault in struck)
        rows = {
            row.id: (wall_ticks(row.created_ticks if is_null else row.updated_ticks, VILNIUS), row.id)
            for row in self.sandbox.changed_since("Incoming", date_from, struck)
        }
        if self.start == "now" and not self._has_begun:
            self._begin(process, set(rows))
        self._received.update(rows)
        process.arrived = rows | process.arrived
        process.failures, process.last_ok = 0, self._clock.now
        process.saw_malformed = any(isinstance(fault, faults.MalformedRow) for fault in struck)
        self._was_malformed |= process.saw_malformed
        self._had_no_sender |= is_null

    def _begin(self, process: Process, listed: set[int]) -> None:
        if not process.store.has_written:  # it died, and the next one begins anew
            self._optional |= listed
            return
        self._has_begun = True
        self._taken_as_seen = listed
        self._optional.update(
            message.id
            for message in self.sandbox.received
            if message.id not in listed and self._lag(message.created_ticks) > self._bearable_lag
        )

    def _check_end(self, process: Process, bad: list[faults.Fault]) -> None:
        """Only death ends a poller, and a wrong setting if nothing was ever good; that must end it."""
        if process.store.is_dead:
            assert process.is_over
            self._deaths_at_a_write += 1
        elif process.is_over:
            may_end = process.last_ok is None and any(map(_is_refusal, bad))
            assert may_end, f"the poller ended: {process.engine.failure!r}"
        else:
            must_end = process.last_ok is None and len(bad) == 1 and _is_wrong_setting(bad[0])
            assert not must_end, "a wrong setting went unnoticed"

    def _check_health(self, process: Process) -> None:
        health = process.poller.health()
        told = attrs.asdict(health, filter=lambda field, _: field.name in _JUDGED)
        true = {
            "role": "leading",
            "is_live": True,
            "is_ready": process.last_ok is not None,
            "degraded": process.failures > 0 or health.malformed > 0,
            "last_ok_age": None if process.last_ok is None else self._clock.now - process.last_ok,
            "consecutive_failures": process.failures,
            "in_hand": len(process.in_hand),
        }
        assert told == true, f"health() tells {told}; the truth is {true}"
        assert (health.last_error is not None) == (process.failures > 0), "the last error is not that of a failure"
        assert self._was_malformed or not health.malformed, "no row was malformed"
        assert health.malformed or not process.saw_malformed, "a row is malformed"
        waiting = set(process.arrived) - self._taken_as_seen
        waiting -= {delivery.message.id for delivery in process.in_hand}
        settled = self.settled & waiting
        waits, may_wait = waiting - settled - self._optional, waiting - (settled - self._half_settled)
        assert len(waits) <= health.buffered <= len(may_wait), f"{waits} to {may_wait} wait, not {health.buffered}"

    def _check(self, process: Process, delivery: Delivery) -> None:
        """Whether a message may be handed out now."""
        message = delivery.message
        assert message.id in self._received, "it came from a bad answer"
        assert message.id not in self._taken_as_seen, "it was there before the start"
        assert message.id not in self.settled, "a settled message came again"
        before = self._times.get(message.id, 0)
        assert not before or message.id in self._may_return, "a message came twice"
        assert before < delivery.attempt <= before + 1 + self._deaths_at_a_write, "the attempts were miscounted"
        if not self._had_no_sender:
            told = (message.sender, message.text)
            assert told == (self._senders[message.id], f"answer {message.id - 1}"), (
                "it is another message's content"
            )
            self._check_order(process, message.id)
        self._may_return.discard(message.id)
        self._times[message.id] = before + 1
        process.in_hand.append(delivery)

    def _check_order(self, process: Process, message_id: int) -> None:
        sender, place = self._senders[message_id], process.arrived[message_id]
        earlier = {
            other
            for other, its_place in process.arrived.items()
            if self._senders[other] == sender and its_place < place
        }
        earlier -= self.settled | self._taken_as_seen | self._optional
        assert not earlier, f"{earlier} of the same patient came before, and are not settled"
        in_hand = [other.message.id for other in process.in_hand if self._senders[other.message.id] == sender]
        assert not in_hand, f"{in_hand} of the same patient is in hand"

    # --- the end ---

    async def become_sane(self) -> None:
        """Nothing goes wrong any more, and the server's clock is right."""
        self.sandbox.faults.clear()
        self._switches.clear()
        self.sandbox.settable_clock.set(self.begin + timedelta(seconds=self._elapsed))
        self._stepped = 0.0

    async def finish(self) -> None:
        """In the end everything has arrived, and was settled once.

        Also one last message that is hidden for so long as can be promised, while others come and are settled that
        move the marks as far as they can go.
        """
        await self.pass_time(LONGEST_PAUSE)
        await self.switch_on([faults.LateRows(self._bearable_lag)])
        await self.write(8, 1)
        await self.switch_off([faults.LateRows()])
        await self.pass_time(self._visible_at - self._elapsed - MINUTE)
        await self._write_and_settle()
        await self.pass_time(MINUTE)
        await self._write_and_settle()
        for _ in range(2):
            await self.pass_time(HOUR)
            await self._drain()
        lost = set(self._senders) - self._optional - self._taken_as_seen - self.settled
        assert not lost, f"lost: {lost}"
        health = self._alive.poller.health()
        assert health.low == health.high, "all is settled, and the settled mark is not the read mark"

    async def _write_and_settle(self) -> None:
        await self.write(9, 1)
        await self.pass_time(INTERVAL)
        await self._drain()

    async def _drain(self) -> None:
        process = self._alive
        while process.in_hand or process.poller.health().buffered:
            before = len(self.settled)
            await self.take(_MAX_IN_FLIGHT)
            await self.settle(0, len(process.in_hand))
            if len(self.settled) == before:  # what was released comes again after a while
                assert self._clock.now < 1e9, "what waits does not come"
                await self.pass_time(LONGEST_PAUSE)


def _retry_after(bad: list[faults.Fault]) -> float:
    """What an answer asks for, in seconds, if it comes through."""
    if len(bad) == 1 and isinstance(bad[0], faults.Status):
        return bad[0].retry_after or 0.0
    return _RATE_LIMITED if len(bad) == 1 and isinstance(bad[0], faults.RateLimit) else 0.0


def _is_refusal(fault: faults.Fault) -> bool:
    return isinstance(fault, faults.HtmlPage) or (
        isinstance(fault, faults.Status) and 400 <= fault.status < 500 and fault.status != 429
    )


def _is_wrong_setting(fault: faults.Fault) -> bool:
    """An envelope, even of an error, is the SMS server speaking, unless it refuses the client."""
    return isinstance(fault, faults.HtmlPage) or (isinstance(fault, faults.Status) and fault.status in (401, 403))
