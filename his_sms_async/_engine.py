"""The poller at work: one task that polls, one that writes to the store, and what the consumer waits for.

What is decided stands in `_position` (what to ask, what is new, where the marks go) and `_handout` (who is
next); this is the thin shell around them. A message has one owner at any time, and none of them is a queue
that a cancelled receiver could lose it from.
"""

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import anyio.lowlevel
import attrs

from ._backoff import backoff
from ._client import SmsClient, fetch
from ._clock import Clock
from ._delivery import Delivery
from ._errors import ProtocolError, RateLimited, ServerFailure, SmsError, StoreError, bare
from ._handout import Handout
from ._known import Entry
from ._models import ErrorCode, MessageType, PollerHealth
from ._position import Position, Receipt
from ._store import Delta, Status, Store
from ._time import format_ticks
from ._wire import is_wrong_setting

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A server's Retry-After is honoured up to so many seconds.
_MAX_RETRY_AFTER = 300.0
# Seconds that the store has to close, when it may not answer at all.
_GRACE = 2.0


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


@attrs.define(eq=False)
class _Settlement:
    entry: Entry
    status: Status
    reason: str | None
    durable: anyio.Event


@attrs.define(eq=False)
class Engine:
    """One life of a poller, from entering its block to leaving it."""

    _options: Options
    failure: Exception | None = attrs.field(init=False, default=None)
    """What ended the background tasks; raised by whatever the consumer does next."""
    failure_was_raised: bool = attrs.field(init=False, default=False)
    _position: Position = attrs.field(init=False)
    _handout: Handout = attrs.field(init=False, factory=Handout)
    _staged: deque[Delivery] = attrs.field(init=False, factory=deque)
    """Attempts that the store knows of, for whoever asks next."""
    _hungry: int = attrs.field(init=False, default=0)
    """Iterators that wait for a message."""
    _settlements: list[_Settlement] = attrs.field(init=False, factory=list)
    _flushes: list[anyio.Event] = attrs.field(init=False, factory=list)
    _work: anyio.Event = attrs.field(init=False, factory=anyio.Event)
    """Set when there is something to write."""
    _news: anyio.Event = attrs.field(init=False, factory=anyio.Event)
    """Set, and replaced, when consumers should look again."""
    _unsaved: Delta | None = attrs.field(init=False, default=None)
    """What is being written."""
    _is_live: bool = attrs.field(init=False, default=True)
    _last_ok: float | None = attrs.field(init=False, default=None)
    _failed_polls: int = attrs.field(init=False, default=0)
    """In succession."""
    _store_failures: int = attrs.field(init=False, default=0)
    """How often the store's calls under way have failed: a store may answer reads while it refuses writes."""
    _last_error: str | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        options = self._options
        self._position = Position(
            options.start, type=options.type, changes=options.changes, zone=options.client.server_timezone
        )

    # --- the background tasks ---

    async def run(self) -> None:
        """Poll and write until cancelled; a failure is kept for the consumer, whom nobody cancels."""
        options = self._options
        opened = False
        try:
            saved = await self._with_store(lambda: options.store.open(options.name, options.client.base_url))
            opened = True
            if saved is not None:
                self._position.resume(saved, now=options.clock.monotonic(), wall_time=options.clock.time())
            async with anyio.create_task_group() as tasks:
                for task in (self._poll, self._write):
                    tasks.start_soon(self._until_it_fails, task, tasks.cancel_scope)
        except Exception as error:  # noqa: BLE001 - whatever it is, the consumer must hear of it
            self._end(error)
        finally:
            if opened:
                await self._within_grace("the last settlements were not stored", self._write_the_rest)
            self._is_live = False
            self._notify()
            if opened:
                await self._within_grace("the store did not close", lambda: options.store.close(options.name))

    async def _within_grace(self, complaint: str, call: Callable[[], Awaitable[None]]) -> None:
        """Do what is left to be done, cancelled or not; what fails now must not hide why the block is left."""
        with anyio.move_on_after(_GRACE, shield=True):
            try:
                await call()
            except Exception as error:  # noqa: BLE001 - likewise
                logger.warning("%s (%s)", complaint, _label(error))

    async def _write_the_rest(self) -> None:
        """Write the settlements that were asked for; what an interrupted write held is written again."""
        if self._unsaved is not None:
            await self._options.store.save(self._options.name, self._unsaved)
        for settlement in self._settlements:
            self._position.settle(settlement.entry, settlement.status, settlement.reason)
        delta = self._position.delta() if self._settlements else None
        if delta is not None:
            await self._options.store.save(self._options.name, delta)

    async def _until_it_fails(self, task: Callable[[], Awaitable[None]], both: anyio.CancelScope) -> None:
        try:
            await task()
        except Exception as error:  # noqa: BLE001 - likewise; a task group would wrap it, and cancel the consumer
            self._end(error)
            both.cancel()

    def _end(self, error: Exception) -> None:
        self.failure = error
        self._last_error = _label(error)

    async def _poll(self) -> None:
        options = self._options
        never = anyio.Event()
        while True:
            await self._until_there_is_room()
            begun = options.clock.monotonic()
            error = await self._poll_once()
            until = begun + options.interval
            if error is not None:
                if self._last_ok is None and is_wrong_setting(error):
                    raise error
                self._position.failed()
                self._failed_polls += 1
                pause = self._note_failure("the poll failed", error, self._failed_polls)
                until = options.clock.monotonic() + pause
            await options.clock.wait(never, until)

    async def _poll_once(self) -> SmsError | None:
        options, position = self._options, self._position
        position.requeue(await self._with_store(lambda: options.store.requeued(options.name)))
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
        if self._failed_polls:
            logger.warning("the poll succeeded again after %d failures", self._failed_polls)
        self._last_ok, self._failed_polls = options.clock.monotonic(), 0
        return None

    def _take_in(self, receipt: Receipt) -> None:
        for entry in receipt.entries:
            self._handout.add(entry)
        for entry in receipt.moved:
            self._handout.move(entry)
        self._work.set()
        for row in receipt.malformed:
            logger.warning("the server lists a malformed row: %s", row.error)
            if self._options.on_malformed is not None:
                try:
                    self._options.on_malformed(row.error)
                except Exception as error:  # noqa: BLE001 - a hook's fault must not stop the replies
                    logger.warning("on_malformed failed with %s", type(error).__name__)

    async def _write(self) -> None:
        while True:
            self._work = anyio.Event()
            if not await self._write_once():
                wanted = self._hungry > len(self._staged)
                await self._options.clock.wait(self._work, self._handout.next_at() if wanted else None)

    async def _write_once(self) -> bool:
        """Write what waits to be written in one go, then let it have its effect; False if nothing waits."""
        settlements, self._settlements = self._settlements, []
        flushes, self._flushes = self._flushes, []
        entries = self._take_wanted()
        if not (settlements or flushes or entries):
            return False
        for settlement in settlements:
            self._position.settle(settlement.entry, settlement.status, settlement.reason)
        for entry in entries:
            self._position.attempt(entry)
        delta = self._position.delta()
        if delta is not None:  # pragma: no branch - a flush finds nothing if another write took it along
            self._unsaved = delta
            await self._save(delta)
            self._unsaved = None
        for settlement in settlements:
            self._handout.done(settlement.entry)
            settlement.durable.set()
        for flush in flushes:
            flush.set()
        self._staged.extend(Delivery(entry, self, self._options.max_attempts) for entry in entries)
        self._notify()
        return True

    def _take_wanted(self) -> list[Entry]:
        entries: list[Entry] = []
        while len(self._staged) + len(entries) < self._hungry:
            entry = self._handout.take(self._options.clock.monotonic())
            if entry is None:
                break
            entries.append(entry)
        return entries

    async def _save(self, delta: Delta) -> None:
        await self._with_store(lambda: self._options.store.save(self._options.name, delta))

    async def _flush(self) -> None:
        """Wait until the store has been told."""
        done = anyio.Event()
        self._flushes.append(done)
        self._work.set()
        await done.wait()

    async def _until_there_is_room(self) -> None:
        """Also for what the store has to be told: a poll would bring more of it."""
        while self._store_failures or self._handout.buffered + len(self._staged) >= self._options.max_buffered:
            await self._news.wait()

    async def _with_store(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call the store until it answers: nothing goes on in memory only."""
        never = anyio.Event()
        failures = 0
        try:
            while True:
                try:
                    result = await call()
                except StoreError as error:
                    if not error.retryable:
                        raise
                    failures += 1
                    self._store_failures += 1
                    pause = self._note_failure("the store failed", error, failures)
                else:
                    break
                await self._options.clock.wait(never, self._options.clock.monotonic() + pause)
        finally:
            self._store_failures -= failures
        if failures:
            logger.warning("the store works again after %d failures", failures)
            self._notify()
        return result

    def _note_failure(self, what: str, error: SmsError, failures: int) -> float:
        """Tell of a failure, the first in succession as a warning; return the seconds to pause."""
        self._last_error = _label(error)
        logger.log(
            logging.WARNING if failures == 1 else logging.DEBUG,
            "%s (%s); trying again until it works",
            what,
            self._last_error,
        )
        asked = error.retry_after if isinstance(error, RateLimited | ServerFailure) else None
        pause = backoff(
            failures,
            base=self._options.backoff_base,
            maximum=self._options.backoff_max,
            random=random.random,
        )
        return max(pause, min(asked or 0.0, _MAX_RETRY_AFTER))

    # --- what the consumer does ---

    async def next(self, may_take: Callable[[], bool]) -> Delivery:
        """Wait until there is a message and the caller may take it; cancelled, it loses none."""
        await anyio.lowlevel.checkpoint()
        while True:
            self._check()
            wants = may_take()
            if wants and self._staged:
                delivery = self._staged.popleft()
                self._notify()  # there is room for the next poll
                return delivery
            if wants:
                self._hungry += 1
                self._work.set()
            try:
                await self._news.wait()
            finally:
                self._hungry -= wants

    def settle(self, entry: Entry, status: Status, reason: str | None) -> anyio.Event:
        """Have a settlement written; the event is set when it is durable."""
        self._check()
        settlement = _Settlement(entry, status, reason, anyio.Event())
        self._settlements.append(settlement)
        self._work.set()
        return settlement.durable

    def release(self, entry: Entry, delay: float, *, first: bool = False) -> None:
        """Have a message delivered again after so many seconds, or before all others."""
        now = self._options.clock.monotonic()
        dropped = self._position.release(entry, not_before=now + delay)
        if dropped is not None:
            self._handout.drop(dropped)
        self._handout.done(entry)
        self._handout.add(entry, first=first)
        self._work.set()
        self._notify()

    async def durable(self, event: anyio.Event) -> None:
        """Wait for a settlement; it is written even if this is cancelled."""
        while not event.is_set():
            self._check()
            await self._news.wait()

    def look_again(self) -> None:
        """Another iteration has taken over."""
        self._notify()

    def _notify(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    def _check(self) -> None:
        if self.failure is not None:
            self.failure_was_raised = True
            raise bare(self.failure) if isinstance(self.failure, SmsError) else self.failure
        if not self._is_live:
            msg = "the poller was left; use it inside `async with`"
            raise RuntimeError(msg)

    def health(self) -> PollerHealth:
        """How the poller is doing."""
        now = self._options.clock.monotonic()
        position = self._position
        ages = [now - entry.received_at for entry in position.unsettled()]
        failures = self._failed_polls + self._store_failures + (self.failure is not None)
        warnings = set(position.warnings)
        if position.quarantine.is_full:
            warnings.add("quarantine-bound")
        return PollerHealth(
            role="leading",
            is_live=self._is_live,
            is_ready=self._last_ok is not None and self._is_live,
            degraded=bool(position.quarantine.rows or failures or warnings & {"seen-bound", "quarantine-bound"}),
            last_ok_age=None if self._last_ok is None else now - self._last_ok,
            consecutive_failures=failures,
            last_error=self._last_error if failures else None,
            high=_digits(position.high),
            low=_digits(position.low),
            buffered=self._handout.buffered + len(self._staged),
            in_hand=self._handout.in_hand - len(self._staged),
            oldest_unsettled_age=max(ages, default=None),
            late=position.late,
            malformed=len(position.quarantine.rows),
            rejected=position.rejected,
            seen=position.seen,
            warnings=tuple(sorted(warnings)),
            lease_until=None,
        )


def _label(error: Exception) -> str:
    """An error's class and code; an error code that the specification does not know is the server's own text."""
    code = getattr(error, "error_code", None)
    code = int(code) if isinstance(code, ErrorCode) else getattr(error, "http_status", None)
    return type(error).__name__ if code is None else f"{type(error).__name__} {code}"


def _digits(mark: int | None) -> str | None:
    return None if mark is None else format_ticks(mark)
