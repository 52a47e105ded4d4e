"""The poller: hands every reply that the SMS server lists to its consumer, in one of three ways."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Self

import anyio

from ._client import SmsClient
from ._clock import Clock, SystemClock
from ._delivery import Delivery, DeliveryIterator, MessageIterator
from ._engine import Engine
from ._errors import AlreadySettled, ConfigurationError, ProtocolError, SmsError, bare
from ._models import Message, MessageType, PollerHealth
from ._position import EVERYTHING
from ._store import Store
from ._term import Options
from ._time import earliest_wall

logger = logging.getLogger(__name__)


class IncomingPoller(anyio.AsyncContextManagerMixin):
    """Yields every reply that the SMS server lists, once, in the order (UpdatedAt, Id).

    An async context manager that runs a background task. Inside its block there are three ways to consume:
    `async for message in poller` settles a message when the loop comes back for the next; `deliveries()`
    hands out several at a time, to be settled one by one; `run()` calls a handler. Two messages of one
    sender are never in hand at the same time.

    Args:
        client: The client to poll with, open as long as the poller is.
        start: What to begin with if the store has no position under this name: "now" (the first answer is
            taken as seen), "everything", or a datetime, aware (which needs the client's `server_timezone`)
            or naive (the server's wall clock). There is no default, on purpose.
        store: Where the position is kept; `MemoryStore()` forgets it with the process.
        interval: Seconds from the begin of one poll to the begin of the next; one is under way at a time.
        changes: `deliveries()` also yields messages that changed, with `change` set.
        max_attempts: A message that fails at this attempt or a later one is rejected; None tries for ever.
            Attempts count how often it was handed out, also before a crash or a change of leader.
        name: The position's name in the store; pollers that share a store need different ones.
        backoff_base: Seconds; the first pause after a failure is at most so long, then twice as long.
        backoff_max: Seconds; the longest pause.
        on_malformed: Called with a `ProtocolError` for each malformed row that is found.
        max_buffered: No poll begins while so many messages wait.
        max_response_bytes: Limit of an answer, after decompression.
        clock: Where time comes from, for tests.

    Raises:
        ConfigurationError: An argument is wrong; the text names it.
    """

    def __init__(
        self,
        client: SmsClient,
        *,
        start: str | datetime,
        store: Store,
        interval: float = 10.0,
        changes: bool = False,
        max_attempts: int | None = None,
        name: str = "incoming",
        backoff_base: float = 1.0,
        backoff_max: float = 60.0,
        on_malformed: Callable[[ProtocolError], object] | None = None,
        max_buffered: int = 1000,
        max_response_bytes: int = 2**30,
        clock: Clock | None = None,
    ) -> None:
        for option, value in (
            ("interval", interval),
            ("backoff_base", backoff_base),
            ("backoff_max", backoff_max),
            ("max_attempts", 1 if max_attempts is None else max_attempts),
            ("max_buffered", max_buffered),
            ("max_response_bytes", max_response_bytes),
        ):
            if not value > 0:
                msg = f"{option} must be greater than 0"
                raise ConfigurationError(msg)
        if not name:
            msg = "name must not be empty"
            raise ConfigurationError(msg)
        self._options = Options(
            client=client,
            type=MessageType.INCOMING,
            start=_checked_start(start, client),
            store=store,
            interval=interval,
            changes=changes,
            max_attempts=max_attempts,
            name=name,
            backoff_base=backoff_base,
            backoff_max=backoff_max,
            on_malformed=on_malformed,
            max_buffered=max_buffered,
            max_response_bytes=max_response_bytes,
            clock=SystemClock() if clock is None else clock,
        )
        self._engine: Engine | None = None
        self._iterator: MessageIterator | None = None

    def __repr__(self) -> str:
        return f"<IncomingPoller {self._options.name!r} {'open' if self._engine else 'closed'}>"

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        engine = self._engine = Engine(self._options)
        error: BaseException | None = None
        # Ends with the block, not before: a handler that shields itself from a cancellation can still settle,
        # and no other replica takes over until then.
        work = anyio.CancelScope(shield=True)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_run_in, work, engine)
                try:
                    yield self
                except anyio.get_cancelled_exc_class():
                    raise
                except BaseException as raised:  # noqa: BLE001 - the task group would wrap it
                    error = raised
                finally:
                    work.cancel()
        finally:
            self._engine = self._iterator = None
        if error is not None:
            raise error
        if engine.failure is not None and not engine.failure_was_raised:
            raise bare(engine.failure) if isinstance(engine.failure, SmsError) else engine.failure

    def __aiter__(self) -> MessageIterator:
        """Iterate over messages; each is settled when the next one is asked for.

        What is in hand when the loop is left is not settled: the next loop starts with it, and takes over.

        Raises:
            RuntimeError: The poller is used outside its block.
            ConfigurationError: With `changes=True` a bare message would look like a second reply.
        """
        engine = self._running()
        if self._options.changes:
            msg = "with changes=True use deliveries(), which tells a change from a new message"
            raise ConfigurationError(msg)
        self._take_over()
        self._iterator = MessageIterator(engine)
        return self._iterator

    def deliveries(self, *, max_in_flight: int = 8) -> DeliveryIterator:
        """Iterate over deliveries, to be settled one by one.

        Args:
            max_in_flight: How many of this iterator's deliveries are in hand at the same time, at most. One
                that is never settled or released stays in hand until the block is left.

        Raises:
            RuntimeError: The poller is used outside its block.
        """
        engine = self._running()
        if not max_in_flight > 0:
            msg = "max_in_flight must be greater than 0"
            raise ConfigurationError(msg)
        self._take_over()
        return DeliveryIterator(engine, max_in_flight=max_in_flight)

    async def run(self, handler: Callable[[Message], Awaitable[object]], *, concurrency: int = 8) -> None:
        """Call a handler with each message, until cancelled or until a fatal error, which is raised.

        A message is settled when its handler returns; if it raises, the message comes again.

        Args:
            handler: An async function.
            concurrency: How many handlers run at the same time, at most; one at a time for each sender.
        """
        deliveries = self.deliveries(max_in_flight=concurrency)
        fatal: list[Exception] = []
        async with anyio.create_task_group() as handlers:
            try:
                while True:
                    handlers.start_soon(_handle, handler, await anext(deliveries))
            except Exception as error:  # noqa: BLE001 - the task group would wrap it
                fatal.append(error)
        raise fatal[0]

    def health(self) -> PollerHealth:
        """Tell how the poller is doing, for probes and dashboards; cheap, and callable from any thread.

        Raises:
            RuntimeError: The poller is used outside its block.
        """
        return self._running().health()

    def _running(self) -> Engine:
        if self._engine is None:
            msg = "use the poller inside `async with`"
            raise RuntimeError(msg)
        return self._engine

    def _take_over(self) -> None:
        if self._iterator is not None:
            self._iterator.hand_over()
            self._running().notify()
            self._iterator = None


async def _run_in(scope: anyio.CancelScope, engine: Engine) -> None:
    with scope:
        await engine.run()


async def _handle(handler: Callable[[Message], Awaitable[object]], delivery: Delivery) -> None:
    try:
        async with delivery as message:
            await handler(message)
    except AlreadySettled:
        logger.warning("another replica handled a message as well")
    except Exception as error:  # noqa: BLE001 - one message's failure is not the others'
        logger.warning("a handler failed with %s; its message was %s", type(error).__name__, delivery.outcome)


def _checked_start(start: str | datetime, client: SmsClient) -> int | None:
    """The start in ticks of the server's wall clock; None for "now"."""
    if start == "now":
        return None
    if start == "everything":
        return EVERYTHING
    if not isinstance(start, datetime):
        msg = 'start must be "now", "everything" or a datetime'
        raise ConfigurationError(msg)
    try:
        return earliest_wall(start, client.server_timezone)
    except (ValueError, OverflowError):
        msg = "start is an aware datetime, which needs the client's server_timezone (HIS_SMS_SERVER_TIMEZONE)"
    raise ConfigurationError(msg)
