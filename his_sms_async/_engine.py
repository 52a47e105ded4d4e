"""One life of a poller: it leads, or stands by while another replica does, and tells how it is doing."""

import logging
import math
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import anyio.lowlevel
import attrs

from ._delivery import Delivery
from ._errors import LeaseLost, SmsError, bare
from ._models import PollerHealth
from ._patience import Patience, label
from ._position import Position
from ._store import Attempt, Leadership, Lease, Quarantined, Saved, Settlement, Standby
from ._term import Options, Term
from ._time import format_ticks

logger = logging.getLogger(__name__)

# Seconds that the store has to write and to close, when it may not answer at all.
_GRACE = 2.0
# What a store held is taken up so many facts at a time, with a turn of the loop in between.
_AT_ONCE = 500


@attrs.define(eq=False)
class Engine:
    """What happens from entering a poller's block to leaving it."""

    _options: Options
    failure: Exception | None = attrs.field(init=False, default=None)
    """What ended the background task; raised by whatever the consumer does next."""
    failure_was_raised: bool = attrs.field(init=False, default=False)
    hungry: int = attrs.field(init=False, default=0)
    """Iterators that wait for a message."""
    last_ok: float | None = attrs.field(init=False, default=None)
    """When the last good poll was, in elapsed seconds."""
    _life: str = attrs.field(init=False, factory=lambda: uuid.uuid4().hex)
    _patience: Patience = attrs.field(init=False)
    _term: Term = attrs.field(init=False)
    """The present one, or the last; one that has not begun while this replica stands by."""
    _leadership: Leadership | None = attrs.field(init=False, default=None)
    """Who leads, where replicas share the store."""
    _stands_by: bool = attrs.field(init=False, default=False)
    _is_live: bool = attrs.field(init=False, default=True)
    _news: anyio.Event = attrs.field(init=False, factory=anyio.Event)
    """Set, and replaced, when consumers should look again."""

    def __attrs_post_init__(self) -> None:
        options = self._options
        self._patience = Patience(options.clock, options.backoff_base, options.backoff_max, self.notify)
        self._term = self._new_term(None)

    def _new_term(self, lease: Lease | None) -> Term:
        options = self._options
        position = Position(
            options.start, type=options.type, changes=options.changes, zone=options.client.server_timezone
        )
        return Term(options, self._life, self, self._patience, lease, position)

    # --- the background task ---

    async def run(self) -> None:
        """Lead, or stand by, until cancelled; a failure is kept for the consumer, whom nobody cancels."""
        try:
            while True:
                with suppress(LeaseLost):  # while what the store holds was being read
                    await self._lead_once()
        except Exception as error:  # noqa: BLE001 - whatever it is, the consumer must hear of it
            self.failure = error
            self._patience.last_error = label(error)
        finally:
            self._is_live = False
            self.notify()

    async def _lead_once(self) -> None:
        options = self._options
        saved, asked_at = await self._until_it_leads()
        try:
            self._term = self._new_term(saved.lease)
            await self._recall(self._term.position, saved)
            del saved  # it may be large
            try:
                await self._term.run(asked_at)
            except LeaseLost:
                logger.warning("the poller %r has lost its lease, and stands by", options.name)
            finally:
                await self._within_grace("the last settlements were not stored", self._term.write_the_rest)
                self._term.is_over = True
                self.notify()
        finally:
            await self._within_grace("the store did not close", lambda: options.store.close(options.name))

    async def _until_it_leads(self) -> tuple[Saved, tuple[float, float]]:
        """Return what the store holds, and when the lease was asked for, in elapsed seconds and since 1970."""
        options, clock = self._options, self._options.clock
        never = anyio.Event()
        while True:
            asked_at = clock.monotonic(), clock.time()
            opened = await self._patience.with_store(
                lambda: options.store.open(options.name, options.client.base_url),
                limit=math.inf,  # it may have much to read
            )
            stood_by, self._stands_by = self._stands_by, isinstance(opened, Standby)
            self._leadership = opened.lease
            if isinstance(opened, Saved):
                logger.info("the poller %r leads", options.name)
                return opened, asked_at
            if not stood_by:
                logger.info("the poller %r stands by; %s leads", options.name, opened.lease.holder)
            self._term = self._new_term(None)
            await clock.wait(never, clock.monotonic() + opened.retry_after)

    async def _recall(self, position: Position, saved: Saved) -> None:
        clock = self._options.clock
        if saved.marks is not None:
            position.resume(saved.marks, now=clock.monotonic(), wall_time=clock.time())
        kept: list[Settlement | Attempt | Quarantined] = [*saved.settlements, *saved.attempts, *saved.quarantine]
        for begin in range(0, len(kept), _AT_ONCE):
            position.recall(kept[begin : begin + _AT_ONCE])
            await anyio.lowlevel.checkpoint()

    async def _within_grace(self, complaint: str, call: Callable[[], Awaitable[None]]) -> None:
        """Do what is left to be done, cancelled or not; what fails now must not hide why the block is left."""
        with anyio.move_on_after(_GRACE, shield=True):
            try:
                await call()
            except Exception as error:  # noqa: BLE001 - likewise
                logger.warning("%s (%s)", complaint, label(error))

    # --- what the consumer does ---

    async def next(self, may_take: Callable[[], bool]) -> Delivery:
        """Wait until there is a message and the caller may take it; cancelled, it loses none."""
        await anyio.lowlevel.checkpoint()
        while True:
            self.check()
            wants = may_take()
            delivery = self._term.take() if wants else None
            if delivery is not None:
                self.notify()  # there is room for the next poll
                return delivery
            self.hungry += wants
            if wants:
                self._term.wake()
            try:
                await self.news()
            finally:
                self.hungry -= wants

    def notify(self) -> None:
        """Have whoever waits look again."""
        self._news.set()
        self._news = anyio.Event()

    async def news(self) -> None:
        """Wait until there is something to look at."""
        await self._news.wait()

    def check(self) -> None:
        """Raise what ended the poller, if it has ended."""
        if self.failure is not None:
            self.failure_was_raised = True
            raise bare(self.failure) if isinstance(self.failure, SmsError) else self.failure
        if not self._is_live:
            msg = "the poller was left; use it inside `async with`"
            raise RuntimeError(msg)

    def health(self) -> PollerHealth:
        """How the poller is doing."""
        now = self._options.clock.monotonic()
        term, position, leadership = self._term, self._term.position, self._leadership
        ages = [now - entry.received_at for entry in position.unsettled()]
        failures = self._patience.failures + (self.failure is not None)
        warnings = set(position.warnings)
        if position.quarantine.is_full:
            warnings.add("quarantine-bound")
        return PollerHealth(
            role="leading" if term.leads and not term.is_over else "standby",
            is_live=self._is_live,
            is_ready=self._is_live
            and (self.last_ok is not None or (self._stands_by and not self._patience.store_failures)),
            degraded=bool(position.quarantine.rows or failures or warnings & {"seen-bound", "quarantine-bound"}),
            last_ok_age=None if self.last_ok is None else now - self.last_ok,
            consecutive_failures=failures,
            last_error=self._patience.last_error if failures else None,
            high=_digits(position.high),
            low=_digits(position.low),
            buffered=term.buffered,
            in_hand=term.in_hand,
            oldest_unsettled_age=max(ages, default=None),
            late=position.late,
            malformed=len(position.quarantine.rows),
            rejected=position.rejected,
            seen=position.seen,
            warnings=tuple(sorted(warnings)),
            leader=None if leadership is None else leadership.holder,
            lease_until=None if leadership is None else leadership.until,
        )


def _digits(mark: int | None) -> str | None:
    return None if mark is None else format_ticks(mark)
