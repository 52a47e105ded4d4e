"""What the consumer holds: a delivery that it settles, and the two ways to iterate."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, Self

import anyio
import attrs

from ._errors import ConfigurationError
from ._known import Entry
from ._models import Change, Message
from ._store import Status

_MAX_REASON = 200
# Seconds until a released message comes again: doubled with each attempt, from the first to the last.
_FIRST_DELAY, _LAST_DELAY = 1.0, 300.0


class Desk(Protocol):
    """The poller, as a delivery sees it."""

    async def next(self, may_take: Callable[[], bool]) -> "Delivery":
        """Wait until there is a message and the caller may take it; cancelled, it loses none."""
        ...

    def settle(self, entry: Entry, status: Status, reason: str | None) -> anyio.Event:
        """Have a settlement written; the event is set when it is durable."""
        ...

    def release(self, entry: Entry, delay: float, *, first: bool = False) -> None:
        """Have a message delivered again after so many seconds, or before all others."""
        ...

    async def durable(self, event: anyio.Event) -> None:
        """Wait for a settlement."""
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
    _durable: anyio.Event = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.message = self._entry.row.message
        self.change = self._entry.change
        self.late = self._entry.late
        self.attempt = self._entry.known.attempt

    async def ack(self, tx: Any = None) -> None:
        """Settle: the message never comes again. Durable when this returns; again, it does nothing.

        Args:
            tx: A transaction on the store's database, in which the settlement is written.

        Raises:
            ConfigurationError: The store has no transactions.
            RuntimeError: It was rejected or released before.
        """
        if tx is not None:
            msg = "ack(tx) needs a store on the same database, like SqlStore; call ack() without it"
            raise ConfigurationError(msg)
        await self._settle("acked", Status.SETTLED, None)

    async def reject(self, reason: str) -> None:
        """Settle as hopeless; the store keeps it until `requeue`, with at most 200 characters of the reason.

        Args:
            reason: Why, without patient data: stores and logs keep it.

        Raises:
            RuntimeError: It was acknowledged or released before.
        """
        await self._settle("rejected", Status.REJECTED, reason[:_MAX_REASON])

    async def release(self, *, delay: float | None = None) -> None:
        """Have it delivered again, with `attempt` + 1; with `max_attempts` the last failure rejects it.

        Args:
            delay: Seconds to wait; by default from 1 s, doubled with each attempt, to 5 min.

        Raises:
            RuntimeError: It was acknowledged or rejected before.
        """
        if self._max_attempts is not None and self.attempt >= self._max_attempts and self.outcome is None:
            await self.reject(f"failed {self.attempt} times")
            return
        if delay is None:
            delay = min(_LAST_DELAY, _FIRST_DELAY * 2.0 ** min(self.attempt - 1, 30))
        self._decide("released", lambda: self._desk.release(self._entry, delay))

    def hand_over(self) -> None:
        """Have it delivered again, before all others; not if it is settled, or about to be."""
        if self.outcome is None:
            self._decide("released", lambda: self._desk.release(self._entry, 0.0, first=True))

    async def __aenter__(self) -> Message:
        return self.message

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self.outcome is not None:
            return
        if exc is None:
            await self.ack()
        elif isinstance(exc, Exception):
            await self.release()
        else:  # cancelled, which is no failure of the message
            self._decide("released", lambda: self._desk.release(self._entry, 0.0))

    async def _settle(self, outcome: str, status: Status, reason: str | None) -> None:
        def write() -> None:
            self._durable = self._desk.settle(self._entry, status, reason)

        self._decide(outcome, write)
        await self._desk.durable(self._durable)

    def _decide(self, outcome: str, act: Callable[[], None]) -> None:
        if self.outcome == outcome:
            return
        if self.outcome is not None:
            msg = f"this delivery was {self.outcome} already, and cannot be {outcome}"
            raise RuntimeError(msg)
        act()
        self.outcome = outcome


@attrs.define(eq=False)
class _Iterator:
    """One task at a time asks it for the next."""

    _desk: Desk = attrs.field(repr=False)
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
            delivery = await self._desk.next(self._has_room)
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
                await self._in_hand.ack()
                self._in_hand = None
            self._in_hand = await self._desk.next(self._is_current)
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
