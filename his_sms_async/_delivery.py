"""What the consumer holds: a delivery that it settles, and the two ways to iterate."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Protocol, Self

import anyio
import attrs

from ._errors import AlreadySettled
from ._known import Entry
from ._models import Change, Message
from ._store import Outcome, Settlement, already_settled

_MAX_REASON = 200
# Seconds until a released message comes again: doubled with each attempt, from the first to the last.
_FIRST_DELAY, _LAST_DELAY = 1.0, 300.0


@attrs.define(eq=False)
class Settling:
    """A settlement on its way to the store."""

    entry: Entry
    settlement: Settlement
    is_contested: bool
    """It was handed out before, so somebody else may be about to settle it; no other settlement waits for this."""
    durable: anyio.Event = attrs.field(factory=anyio.Event)
    is_taken: bool = False
    """Another settled this version first."""


class Desk(Protocol):
    """The poller while it leads, as a delivery sees it; it serves its deliveries also after that."""

    def settle(self, entry: Entry, outcome: Outcome, reason: str | None) -> Settling:
        """Have a settlement written; its event is set when it is durable."""
        ...

    async def durable(self, settling: Settling) -> None:
        """Wait for a settlement."""
        ...

    async def settle_in(self, tx: Any, entry: Entry, delivery: "Delivery", *, again: bool) -> Callable[[], bool]:
        """Settle through a transaction of the consumer's; return what tells that it has ended."""
        ...

    async def is_settled(self, entry: Entry) -> bool:
        """Whether a settlement was committed."""
        ...

    def release(self, entry: Entry, delay: float, *, first: bool = False) -> None:
        """Have a message delivered again after so many seconds, or before all others."""
        ...


class Source(Protocol):
    """The poller, as an iterator sees it."""

    async def next(self, may_take: Callable[[], bool]) -> "Delivery":
        """Wait until there is a message and the caller may take it; cancelled, it loses none."""
        ...


@attrs.define(eq=False)
class Delivery:
    """A message in hand, to be settled: by `ack`, `reject` or `release`, or by leaving its `async with` block.

    The block hands out the message; leaving it cleanly acknowledges, leaving it by an exception releases.
    """

    _entry: Entry = attrs.field(repr=False)
    _desk: Desk = attrs.field(repr=False)
    _max_attempts: int | None = attrs.field(repr=False)
    message: Message = attrs.field(init=False)
    change: Change | None = attrs.field(init=False)
    """None for a message that comes for the first time, else what it was before."""
    late: bool = attrs.field(init=False)
    """It came behind newer messages."""
    attempt: int = attrs.field(init=False)
    """How often this was handed out, this time included; from 1."""
    outcome: str | None = attrs.field(init=False, default=None)
    """ "acked", "rejected" or "released"; None while it is in hand."""
    has_failed: bool = attrs.field(init=False, default=False, repr=False)
    """Its block was left by an exception, so somebody knows."""
    _settling: Settling | None = attrs.field(init=False, default=None, repr=False)
    _has_ended: Callable[[], bool] | None = attrs.field(init=False, default=None, repr=False)
    """Tells whether the transaction in which it was acknowledged last has ended."""

    def __attrs_post_init__(self) -> None:
        self.message = self._entry.row.message
        self.change = self._entry.change
        self.late = self._entry.late
        self.attempt = self._entry.known.attempt

    async def ack(self, tx: Any = None) -> None:
        """Settle: the message never comes again. Durable when this returns; again, it does nothing.

        Inside a transaction on the store's database, give it that transaction: without it, this waits until
        SQLite lets another connection write, which it does when your transaction has ended.

        Args:
            tx: A transaction on the store's database: a SQLAlchemy `Connection`, `Session`,
                `AsyncConnection` or `AsyncSession`. The settlement is one row in it, so it holds if and when
                this transaction is committed; if it is rolled back, it can be tried again in another one,
                else the message comes again. What is synchronous is used in a worker thread.

        Raises:
            AlreadySettled: It was settled before, here or by another replica. Let this error leave the
                transaction's block, so that the effect which the message had once is not had twice.
            ConfigurationError: `tx` is no transaction on the store's database.
            RuntimeError: It was rejected or released before.
        """
        if tx is None:
            await self._settle("acked", Outcome.SETTLED, None)
            return
        self._refuse_other("acked")
        again = self._has_ended is not None and not self._has_ended()
        try:
            self._has_ended = await self._desk.settle_in(tx, self._entry, self, again=again)
        except AlreadySettled:
            self._has_ended, self.outcome = _has_long_ended, "acked"
            raise
        self.outcome = "acked"

    async def reject(self, reason: str) -> None:
        """Settle as hopeless; the store keeps it until `requeue`, with at most 200 characters of the reason.

        Args:
            reason: Why, without patient data: stores and logs keep it.

        Raises:
            AlreadySettled: Another replica settled it meanwhile.
            RuntimeError: It was acknowledged or released before.
        """
        storable = reason.encode("utf-8", "replace").decode().replace("\0", " ")
        await self._settle("rejected", Outcome.REJECTED, storable[:_MAX_REASON])

    async def release(self, *, delay: float | None = None) -> None:
        """Have it delivered again, with `attempt` + 1; with `max_attempts` the last failure rejects it.

        Args:
            delay: Seconds to wait; by default from 1 s, doubled with each attempt, to 5 min.

        Raises:
            RuntimeError: It was acknowledged or rejected before.
        """
        await self._reconsider()
        if self._is_last_attempt and self.outcome is None:
            await self.reject(self._exhausted)
        else:
            self._release(self.delay if delay is None else delay)

    @property
    def delay(self) -> float:
        """Seconds until it comes again if it is released now."""
        return min(_LAST_DELAY, _FIRST_DELAY * 2.0 ** min(self.attempt - 1, 30))

    def roll_back(self) -> None:
        """The transaction in which it was acknowledged was rolled back, and nobody tried again meanwhile."""
        self.outcome = self._has_ended = None
        if self._is_last_attempt:
            self._begin_to_settle("rejected", Outcome.REJECTED, self._exhausted)
        else:
            self._release(0.0)

    def hand_over(self) -> None:
        """Have it delivered again, before all others; not if it is settled, or about to be."""
        if self.outcome is None:
            self._release(0.0, first=True)

    async def __aenter__(self) -> Message:
        return self.message

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.has_failed = exc is not None
        if self.outcome is not None:
            return
        if exc is None:
            await self.ack()
        elif isinstance(exc, Exception):
            await self.release()
        else:  # cancelled, which is no failure of the message
            self._release(0.0)

    @property
    def _is_last_attempt(self) -> bool:
        return self._max_attempts is not None and self.attempt >= self._max_attempts

    @property
    def _exhausted(self) -> str:
        return f"failed {self.attempt} times"

    async def _settle(self, outcome: str, stored_as: Outcome, reason: str | None) -> None:
        await self._reconsider()
        settling = self._begin_to_settle(outcome, stored_as, reason)
        if settling is not None:
            await self._desk.durable(settling)
            if settling.is_taken:
                raise already_settled()

    def _begin_to_settle(self, outcome: str, stored_as: Outcome, reason: str | None) -> Settling | None:
        self._refuse_other(outcome)
        if self.outcome is None:
            self._settling = self._desk.settle(self._entry, stored_as, reason)
            self.outcome = outcome
        return self._settling

    def _release(self, delay: float, *, first: bool = False) -> None:
        self._refuse_other("released")
        if self.outcome is None:
            self._desk.release(self._entry, delay, first=first)
            self.outcome = "released"

    def _refuse_other(self, outcome: str) -> None:
        if self.outcome not in (None, outcome):
            msg = f"this delivery was {self.outcome} already, and cannot be {outcome}"
            raise RuntimeError(msg)

    async def _reconsider(self) -> None:
        """A transaction that was rolled back took the acknowledgement along."""
        if self._has_ended is None or not self._has_ended() or await self._desk.is_settled(self._entry):
            return
        if self.outcome == "acked":  # it may have been released meanwhile
            self.outcome = self._has_ended = None


def _has_long_ended() -> bool:
    return True


@attrs.define(eq=False)
class _Iterator:
    """One task at a time asks it for the next."""

    _source: Source = attrs.field(repr=False)
    _busy: bool = attrs.field(init=False, default=False)

    def __aiter__(self) -> Self:
        return self

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._busy:
            msg = "two tasks iterate at the same time; use deliveries(), an iterator for each, or run()"
            raise RuntimeError(msg)
        self._busy = True
        try:
            yield
        finally:
            self._busy = False


@attrs.define(eq=False)
class DeliveryIterator(_Iterator):
    """`poller.deliveries()`: at most `max_in_flight` of its deliveries are in hand at the same time."""

    _max_in_flight: int = attrs.field(kw_only=True, alias="max_in_flight")
    _given: list[Delivery] = attrs.field(init=False, factory=list, repr=False)

    async def __anext__(self) -> Delivery:
        with self._alone():
            delivery = await self._source.next(self._has_room)
            self._given.append(delivery)
            return delivery

    def _has_room(self) -> bool:
        self._given = [delivery for delivery in self._given if delivery.outcome is None]
        return len(self._given) < self._max_in_flight


@attrs.define(eq=False)
class MessageIterator(_Iterator):
    """`async for message in poller`: a message is settled when the loop comes back for the next."""

    _in_hand: Delivery | None = attrs.field(init=False, default=None)
    _is_over: bool = attrs.field(init=False, default=False)

    async def __anext__(self) -> Message:
        with self._alone():
            self._is_current()
            if self._in_hand is not None:
                with suppress(AlreadySettled):  # another replica took over meanwhile, and handled it as well
                    await self._in_hand.ack()
                self._in_hand = None
            self._in_hand = await self._source.next(self._is_current)
            return self._in_hand.message

    def hand_over(self) -> None:
        """Another iterator takes over, and starts with the message in hand."""
        self._is_over = True
        if self._in_hand is not None:
            self._in_hand.hand_over()

    def _is_current(self) -> bool:
        if self._is_over:
            msg = "another iteration of this poller has taken over"
            raise RuntimeError(msg)
        return True
