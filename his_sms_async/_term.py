"""The poller at work while it leads: one task polls, one writes to the store, one renews the lease.

What is decided stands in `_position` (what to ask, what is new, where the marks go) and `_handout` (who is
next); this is the thin shell around them. A message has one owner at any time, and none of them is a queue
that a cancelled receiver could lose it from.
"""

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import anyio
import attrs
from anyio.abc import TaskGroup

from ._client import SmsClient, fetch
from ._clock import Clock
from ._delivery import Delivery, Settling
from ._errors import AlreadySettled, LeaseLost, ProtocolError, SmsError
from ._handout import Handout
from ._known import Entry
from ._models import MessageType
from ._patience import LIMIT, Patience
from ._position import Position, Receipt
from ._store import Delta, Key, Lease, Outcome, Settlement, Store
from ._transactions import Transaction, Transactions
from ._wire import is_wrong_setting

logger = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class Options:
    """What a poller was told; `IncomingPoller` explains it."""

    client: SmsClient
    type: MessageType
    start: int | None
    store: Store
    interval: float
    changes: bool
    max_attempts: int | None
    name: str
    backoff_base: float
    backoff_max: float
    on_malformed: Callable[[ProtocolError], object] | None
    max_buffered: int
    max_response_bytes: int
    clock: Clock


class Consumers(Protocol):
    """Those who wait for messages and settlements, as the work sees them."""

    hungry: int
    """Iterators that wait for a message."""
    last_ok: float | None
    """When the last good poll was, in elapsed seconds."""

    def notify(self) -> None:
        """Have them look again."""
        ...

    async def news(self) -> None:
        """Wait until they should look again."""
        ...

    def check(self) -> None:
        """Raise what ended the poller, if it has ended."""
        ...


@attrs.define(eq=False)
class Term:
    """One leadership: what it knows and has under way, which the next one reads anew from the store."""

    _options: Options
    _life: str
    """The poller's, which a settlement names: another cannot write the same."""
    _consumers: Consumers
    _patience: Patience
    _lease: Lease | None
    position: Position
    handout: Handout = attrs.field(init=False, factory=Handout)
    is_over: bool = attrs.field(init=False, default=True)
    """It has ended, or has not begun."""
    _is_closing: bool = attrs.field(init=False, default=False)
    _leads_until: float = attrs.field(init=False, default=math.inf)
    """When the lease may be lost, in elapsed seconds, counted from when it was asked for."""
    _leads_until_time: float = attrs.field(init=False, default=math.inf)
    """The same by the wall clock, which goes on while a machine sleeps."""
    _staged: deque[Delivery] = attrs.field(init=False, factory=deque)
    """Attempts that the store knows of, for whoever asks next."""
    _settlings: list[Settling] = attrs.field(init=False, factory=list)
    """Asked for, and not durable yet."""
    _transactions: Transactions = attrs.field(init=False, factory=Transactions)
    _flushes: list[anyio.Event] = attrs.field(init=False, factory=list)
    _unsaved: tuple[Delta, list[Settling]] | None = attrs.field(init=False, default=None)
    """What is being written, and whose settlements are in it."""
    _work: anyio.Event = attrs.field(init=False, factory=anyio.Event)
    """Set when there is something to write."""
    _tasks: TaskGroup | None = attrs.field(init=False, default=None)
    _failures: list[Exception] = attrs.field(init=False, factory=list)
    """What ended the tasks, the cause first."""

    async def run(self, asked_at: tuple[float, float]) -> None:
        """Poll and write until cancelled, or until something fails.

        Args:
            asked_at: When the lease was asked for: elapsed seconds, and seconds since 1970.

        Raises:
            LeaseLost: Another replica leads now.
        """
        self.is_over = False
        tasks: list[Callable[[], Awaitable[None]]] = [self._poll, self._write]
        if self._lease is not None:
            self._hold_from(self._lease, asked_at)
            tasks.append(partial(self._renew, self._lease))
        async with anyio.create_task_group() as group:
            self._tasks = group
            for task in tasks:
                group.start_soon(self._until_it_fails, task, group.cancel_scope)
        raise self._failures[0]

    async def _until_it_fails(self, task: Callable[[], Awaitable[None]], all_tasks: anyio.CancelScope) -> None:
        try:
            await task()
        except Exception as error:  # noqa: BLE001 - raised by `run`: a task group would wrap it
            self._failures.append(error)
            all_tasks.cancel()

    # --- polling ---

    async def _poll(self) -> None:
        options = self._options
        never = anyio.Event()
        while True:
            await self._until_there_is_room()
            begun = options.clock.monotonic()
            error = await self._poll_once()
            until = begun + options.interval
            if error is not None:
                if self._consumers.last_ok is None and is_wrong_setting(error):
                    raise error
                self.position.failed()
                until = options.clock.monotonic() + self._patience.poll_failed(error)
            await options.clock.wait(never, until)

    async def _poll_once(self) -> SmsError | None:
        options, position = self._options, self.position
        position.requeue(await self._patience.with_store(lambda: options.store.requeued(options.name)))
        while True:
            ask = position.ask(now=options.clock.monotonic(), wall_time=options.clock.time())
            answer = await fetch(options.client, options.type, ask.date_from, max_bytes=options.max_response_bytes)
            if isinstance(answer, SmsError):
                return answer
            receipt = position.receive(
                ask,
                answer.rows,
                answer.malformed,
                date=answer.date,
                now=options.clock.monotonic(),
                wall_time=options.clock.time(),
            )
            if position.has_begun:
                break
        self._take_in(receipt)
        if position.must_save():
            await self._flush()
        self._patience.poll_succeeded()
        self._consumers.last_ok = options.clock.monotonic()
        return None

    def _take_in(self, receipt: Receipt) -> None:
        for entry in receipt.entries:
            self.handout.add(entry)
        for entry in receipt.moved:
            self.handout.move(entry)
        self._work.set()
        for row in receipt.malformed:
            logger.warning("the server lists a malformed row: %s", row.error)
            if self._options.on_malformed is not None:
                try:
                    self._options.on_malformed(row.error)
                except Exception as error:  # noqa: BLE001 - a hook's fault must not stop the replies
                    logger.warning("on_malformed failed with %s", type(error).__name__)

    async def _until_there_is_room(self) -> None:
        """Also for what the store has to be told: a poll would bring more of it."""
        while self._patience.store_failures or self.buffered >= self._options.max_buffered:
            await self._consumers.news()

    # --- leading ---

    def _hold_from(self, lease: Lease, asked_at: tuple[float, float]) -> None:
        self._leads_until, self._leads_until_time = (moment + lease.seconds for moment in asked_at)

    @property
    def leads(self) -> bool:
        """Nobody else can lead now, by the lease."""
        clock = self._options.clock
        return clock.monotonic() < self._leads_until and clock.time() < self._leads_until_time

    async def _renew(self, lease: Lease) -> None:
        clock = self._options.clock
        never = anyio.Event()

        async def renew() -> None:
            asked_at = clock.monotonic(), clock.time()
            await lease.renew()
            self._hold_from(lease, asked_at)

        while True:
            await clock.wait(never, self._leads_until - lease.seconds * 2 / 3)
            await self._patience.with_store(renew, limit=lease.seconds / 3, longest=lease.seconds / 6)
            self._consumers.notify()  # they may have waited for it

    # --- writing ---

    async def _write(self) -> None:
        try:
            while True:
                self._work = anyio.Event()
                if not await self._write_once():
                    await self._options.clock.wait(self._work, self._next_look())
        finally:
            self._tasks = None  # no more tasks: trio closes the nursery before this is seen elsewhere

    def _next_look(self) -> float | None:
        """When there may be something to write though nobody says so, in elapsed seconds."""
        looks = self._transactions.looks(self._options.clock.monotonic())
        released = self.handout.next_at() if self._consumers.hungry > len(self._staged) else None
        return min(looks if released is None else [*looks, released], default=None)

    async def _write_once(self) -> bool:
        """Write what waits to be written in one go, then let it have its effect; False if nothing waits."""
        has_read = await self._read_back()
        flushes, self._flushes = self._flushes, []
        settlings = [settling for settling in self._settlings if not settling.is_contested]
        entries = self._take_wanted()
        if not (settlings or flushes or entries):
            return has_read
        for settling in settlings:
            self.position.settle(settling.entry, settling.settlement)
        for entry in entries:
            self.position.attempt(entry)
        taken: Mapping[Key, Settlement] = {}
        delta = self.position.delta()
        if delta is not None:  # pragma: no branch - a flush finds nothing if another write took it along
            self._unsaved = delta, settlings
            # a first answer that is taken as seen can be large, and the database slow
            limit = LIMIT + len(delta.settlements) / 100
            taken = await self._patience.with_store(lambda: self._save(delta), limit=limit)
            self._unsaved = None
        for settling in settlings:
            self.handout.done(settling.entry)
        self._wake(settlings, taken)
        for flush in flushes:
            flush.set()
        for entry in entries:
            if entry.key in taken:  # by a handler of the last leader, or a transaction that ended late
                later = self.position.heard(entry, taken[entry.key])
                self.handout.done(entry)
                if later is not None:
                    self.handout.add(later)
            else:
                self._staged.append(Delivery(entry, self, self._options.max_attempts))
        self._consumers.notify()
        return True

    def _take_wanted(self) -> list[Entry]:
        entries: list[Entry] = []
        while not self._is_closing and len(self._staged) + len(entries) < self._consumers.hungry:
            entry = self.handout.take(self._options.clock.monotonic())
            if entry is None:
                break
            entries.append(entry)
        return entries

    async def _save(self, delta: Delta) -> Mapping[Key, Settlement]:
        return await self._options.store.save(self._options.name, delta)

    def _wake(self, settlings: list[Settling], taken: Mapping[Key, Settlement]) -> None:
        """Let those go on that wait for these settlements, which are durable."""
        self._settlings = [settling for settling in self._settlings if settling not in settlings]
        for settling in settlings:
            settling.is_taken = settling.settlement.key in taken
            settling.durable.set()

    async def _flush(self) -> None:
        """Wait until the store has been told."""
        done = anyio.Event()
        self._flushes.append(done)
        self._work.set()
        await done.wait()

    async def _read_back(self) -> bool:
        """Look for the settlements whose transactions have ended; True if one was found, or comes again."""
        now = self._options.clock.monotonic()
        given_up = self._transactions.given_up(now)
        for one in given_up:
            if not one.delivery.has_failed:  # was its commit forgotten?
                logger.warning(
                    "a transaction that settled a message was rolled back; the message comes again (attempt %d)",
                    one.delivery.attempt + 1,
                )
            self._transactions.remove(one.entry)
            one.delivery.roll_back()
        ended = self._transactions.ended()
        settled = await self._read_settled([one.entry for one in ended]) if ended else {}
        for one in filter(self._transactions.holds, ended):  # others were tried again, or settled, meanwhile
            if one.settlement.key in settled:
                self._transactions.remove(one.entry)
                self.position.settle(one.entry, settled[one.settlement.key], is_stored=True)
                self.handout.done(one.entry)
            else:
                one.comes_again_at = now + one.delivery.delay
        return bool(ended or given_up)

    async def _read_settled(self, entries: list[Entry]) -> Mapping[Key, Settlement]:
        store, name = self._options.store, self._options.name
        keys = [entry.key for entry in entries]
        return await self._patience.with_store(lambda: store.settled(name, keys))

    async def write_the_rest(self) -> None:
        """At the end, write the settlements that were asked for; what an interrupted write held is written again.

        Without the lease, they are written without marks, which the next leader moves when it finds them.
        """
        self._is_closing = True
        if not any(isinstance(failure, LeaseLost) for failure in self._failures):
            with suppress(LeaseLost):
                if self._unsaved is not None:
                    delta, settlings = self._unsaved
                    self._wake(settlings, await self._save(delta))
                    self._unsaved = None
                if self.position.must_save():
                    self._flushes.append(anyio.Event())
                await self._write_once()
        for settling in sorted(self._settlings, key=lambda settling: settling.is_contested):
            await self._settle_alone(settling)

    async def _settle_contested(self, settling: Settling) -> None:
        """Write a settlement for which another's transaction may have to be waited for."""
        taken = await self._settle_alone(settling)
        settlement = taken.get(settling.settlement.key, settling.settlement)
        self.position.settle(settling.entry, settlement, is_stored=True)
        self.handout.done(settling.entry)
        self._flushes.append(anyio.Event())  # the attempt has ended: nobody waits for it, but soon
        self._work.set()
        self._consumers.notify()

    async def _settle_alone(self, settling: Settling) -> Mapping[Key, Settlement]:
        delta = Delta(settlements=(settling.settlement,))
        taken = await self._patience.with_store(lambda: self._save(delta), limit=math.inf)
        self._wake([settling], taken)
        return taken

    # --- what the consumer does ---

    @property
    def buffered(self) -> int:
        """Messages that wait."""
        return self.handout.buffered + len(self._staged)

    @property
    def in_hand(self) -> int:
        """Messages that the consumer has."""
        return self.handout.in_hand - len(self._staged)

    def take(self) -> Delivery | None:
        """A message to hand out, if there is one and nobody else can lead."""
        return self._staged.popleft() if self._staged and self.leads and not self.is_over else None

    def wake(self) -> None:
        """Somebody waits for a message, or something is to be written."""
        self._transactions.look_soon()
        self._work.set()

    def settle(self, entry: Entry, outcome: Outcome, reason: str | None) -> Settling:
        """Have a settlement written; its event is set when it is durable."""
        self._consumers.check()
        self._transactions.remove(entry)
        is_contested = entry.known.attempt > 1
        settling = Settling(entry, entry.settlement(outcome, reason, self._life), is_contested)
        self._settlings.append(settling)
        if is_contested and self._tasks is not None:
            task = partial(self._settle_contested, settling)
            self._tasks.start_soon(self._until_it_fails, task, self._tasks.cancel_scope)
        self.wake()
        return settling

    async def durable(self, settling: Settling) -> None:
        """Wait for a settlement; while the poller leads, it is written even if this is cancelled."""
        while not settling.durable.is_set():
            self._consumers.check()
            if self.is_over:
                await self._settle_alone(settling)
            else:
                await self._consumers.news()

    async def settle_in(self, tx: Any, entry: Entry, delivery: Delivery, *, again: bool) -> Callable[[], bool]:
        """Settle through a transaction of the consumer's; return what tells that it has ended."""
        self._consumers.check()
        before = self._transactions.remove(entry)  # it was rolled back; now it must not come again
        settlement = entry.settlement(Outcome.SETTLED, None, self._life)
        try:
            has_ended = await self._options.store.settle_in(tx, self._options.name, settlement, again=again)
        except AlreadySettled:
            self._look_for(Transaction(delivery, entry, settlement, _at_once))
            raise
        except BaseException:
            if before is not None:
                self._look_for(before)
            raise
        self._look_for(Transaction(delivery, entry, settlement, has_ended))
        return has_ended

    def _look_for(self, transaction: Transaction) -> None:
        """Find out what becomes of a settlement that is not ours to commit, unless that is known."""
        if not self.is_over and not transaction.entry.settled:
            self._transactions.add(transaction)
            self.wake()
            self._consumers.notify()  # an iterator may have room again

    async def is_settled(self, entry: Entry) -> bool:
        """Whether a settlement was committed."""
        return entry.key in await self._read_settled([entry])

    def release(self, entry: Entry, delay: float, *, first: bool = False) -> None:
        """Have a message delivered again after so many seconds, or before all others.

        After the term nothing is to be done: the next leader has it from the store.
        """
        if self.is_over:
            return
        self._transactions.remove(entry)
        dropped = self.position.release(entry, not_before=self._options.clock.monotonic() + delay)
        if dropped is not None:
            self.handout.drop(dropped)
        self.handout.done(entry)
        self.handout.add(entry, first=first)
        self._work.set()
        self._consumers.notify()


def _at_once() -> bool:
    return True
