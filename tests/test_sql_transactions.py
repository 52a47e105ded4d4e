"""`ack(tx)`: the effect of a message and its settlement in one commit of the consumer's, however that ends."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from databases import Place, combinations, place as new_place
from fakes import FakeServer, all_blocked, row, until
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from his_sms_async import AlreadySettled, ConfigurationError, Delivery, IncomingPoller, MemoryStore
from his_sms_async.sql import SqlStore

pytestmark = pytest.mark.anyio

SETTLED_BY_ANOTHER = """
    INSERT INTO his_sms_settlement
    SELECT poller, message_id, created_modulo, version, created, updated, '[]', 'settled', NULL, 'another'
    FROM his_sms_attempt
"""


@pytest.fixture(params=combinations("sqlite", "aiosqlite", "psycopg", "asyncpg"))
def combination(request: pytest.FixtureRequest) -> Any:
    """A backend, and a database with a driver that works on it."""
    return request.param


@pytest.fixture
def anyio_backend(combination: tuple[str, str]) -> str:
    """The backend."""
    return combination[0]


class Ward:
    """A consumer with a database, in which a message has its effect: a row in a table without unique keys."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.server = FakeServer()

    async def do(self, tx: Any, statement: str, **values: Any) -> Any:
        """Execute in a transaction of any kind."""
        if isinstance(tx, AsyncConnection | AsyncSession):
            return await tx.execute(text(statement), values)
        return await anyio.to_thread.run_sync(lambda: tx.execute(text(statement), values))

    async def book(self, tx: Any, delivery: Delivery) -> None:
        """Have the effect."""
        await self.do(tx, "INSERT INTO effect VALUES (:id)", id=delivery.message.id)

    async def effects(self) -> list[int]:
        """What is committed."""
        async with self.begin() as tx:
            return sorted((await self.do(tx, "SELECT id FROM effect")).scalars())

    @asynccontextmanager
    async def begin(self, *, session: bool = False) -> AsyncIterator[Any]:
        """A transaction of the kind that goes with the engine; a sync one is used in worker threads."""
        engine = self.place.engine
        if isinstance(engine, AsyncEngine):
            async with AsyncSession(engine) if session else engine.connect() as connection, connection.begin():
                yield connection
            return
        assert isinstance(engine, Engine)
        tx: Session | Connection = Session(engine) if session else await anyio.to_thread.run_sync(engine.connect)
        try:
            yield tx
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(tx.rollback)
            raise
        else:
            await anyio.to_thread.run_sync(tx.commit)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(tx.close)

    @asynccontextmanager
    async def poller(self, store: Any = None, **options: Any) -> AsyncIterator[IncomingPoller]:
        """A poller over a store that is made anew, as after a restart."""
        settings: dict[str, Any] = {"start": "everything", "interval": 0.05, "backoff_base": 0.05} | options
        store = self.place.store() if store is None else store
        async with self.server.client() as client, IncomingPoller(client, store=store, **settings) as poller:
            yield poller

    async def left(self) -> list[tuple[int, int]]:
        """Which messages come after a restart, and at which attempt."""
        async with self.poller() as poller:
            await until(lambda: poller.health().is_ready)
            deliveries, found = poller.deliveries(), list[tuple[int, int]]()
            while poller.health().oldest_unsettled_age is not None:
                delivery = await anext(deliveries)
                found.append((delivery.message.id, delivery.attempt))
                await delivery.ack()
            return found


@pytest.fixture
async def ward(
    combination: tuple[str, str], request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Ward]:
    """A ward with one reply."""
    async with new_place(combination[1], request, tmp_path) as place:
        made = Ward(place)
        async with made.begin() as tx:
            await made.do(tx, "CREATE TABLE effect (id INT)")
        made.server.rows = [row(1)]
        yield made


async def commit(tx: Any) -> None:
    """Commit before the block is left."""
    if isinstance(tx, AsyncConnection):
        await tx.commit()
    else:
        await anyio.to_thread.run_sync(tx.commit)


def settled(poller: IncomingPoller) -> Callable[[], bool]:
    """Whether all that was received is settled."""
    return lambda: poller.health().oldest_unsettled_age is None


@pytest.mark.parametrize("session", [False, True], ids=["connection", "session"])
async def test_effect_and_settlement_are_committed_together(ward: Ward, *, session: bool) -> None:
    """After the commit the message never comes again; twice in one transaction is once."""
    async with ward.poller() as poller:
        delivery = await anext(poller.deliveries())
        async with ward.begin(session=session) as tx:
            await ward.book(tx, delivery)
            await delivery.ack(tx)
            await delivery.ack(tx)
            await delivery.ack()
        await until(settled(poller))
        assert (delivery.outcome, poller.health().in_hand) == ("acked", 0)
    assert (await ward.left(), await ward.effects()) == ([], [1])


async def test_an_iterator_that_waits_for_room_hears_of_a_commit(ward: Ward) -> None:
    """The next message comes at once, though nothing else happens for an hour."""
    ward.server.rows = [row(1, 0), row(2, 1)]
    async with ward.poller(interval=3600) as poller:
        deliveries = poller.deliveries(max_in_flight=1)
        first = await anext(deliveries)
        async with anyio.create_task_group() as tasks:
            found: list[Delivery] = []

            async def take() -> None:
                found.append(await anext(deliveries))

            tasks.start_soon(take)
            await all_blocked()
            async with ward.begin() as tx:
                await first.ack(tx)
        assert found[0].message.id == 2


async def test_sync_handlers_in_all_threads_can_settle(ward: Ward) -> None:
    """`ack(tx)` with a sync transaction needs a thread, and takes none of those that wait for it."""
    if isinstance(ward.place.engine, AsyncEngine):
        return
    ward.server.rows = [row(number, number) for number in range(3)]
    limiter = anyio.to_thread.current_default_thread_limiter()
    before, limiter.total_tokens = limiter.total_tokens, 3
    async with ward.poller() as poller:

        def handle(delivery: Delivery) -> None:
            with ward.place.engine.begin() as tx:  # type: ignore[union-attr]
                anyio.from_thread.run(delivery.ack, tx)

        deliveries = poller.deliveries()
        taken = [await anext(deliveries) for _ in range(3)]
        async with anyio.create_task_group() as tasks:
            for delivery in taken:
                tasks.start_soon(anyio.to_thread.run_sync, handle, delivery)
        await until(settled(poller))
    limiter.total_tokens = before


async def test_after_a_rollback_the_message_comes_again(ward: Ward) -> None:
    """The settlement is gone with the effect, which a second attempt has."""
    async with ward.poller() as poller:
        deliveries = poller.deliveries()
        delivery = await anext(deliveries)
        with pytest.raises(KeyError):
            async with delivery, ward.begin() as tx:
                await ward.book(tx, delivery)
                await delivery.ack(tx)
                raise KeyError
        again = await anext(deliveries)
        assert (delivery.outcome, again.attempt) == ("released", 2)
        async with ward.begin() as tx:
            await ward.book(tx, again)
            await again.ack(tx)
        await until(settled(poller))
    assert (await ward.left(), await ward.effects()) == ([], [1])


async def test_a_rolled_back_transaction_can_be_tried_again(ward: Ward) -> None:
    """As after a serialization failure; the message does not come again meanwhile."""
    async with ward.poller() as poller:
        delivery = await anext(poller.deliveries())
        for is_good in (False, False, True):
            try:
                async with ward.begin() as tx:
                    await ward.book(tx, delivery)
                    await delivery.ack(tx)
                    assert is_good
            except AssertionError:
                continue
        await until(settled(poller))
        assert delivery.attempt == 1
    assert (await ward.left(), await ward.effects()) == ([], [1])


async def test_a_second_effect_fails_and_is_rolled_back(ward: Ward) -> None:
    """A second transaction for one message is refused, and what it did is undone."""
    async with ward.poller() as poller:
        delivery = await anext(poller.deliveries())
        async with ward.begin() as tx:
            await ward.book(tx, delivery)
            await delivery.ack(tx)
        for _ in range(2):
            with pytest.raises(AlreadySettled):
                async with ward.begin() as tx:
                    await ward.book(tx, delivery)
                    await delivery.ack(tx)
            await until(settled(poller))
        await delivery.ack()
        with pytest.raises(RuntimeError, match="acked already"):
            await delivery.release()
    assert (await ward.left(), await ward.effects()) == ([], [1])


async def test_of_two_transactions_at_once_one_settles(ward: Ward) -> None:
    """The second waits for the first, and fails if that was committed."""
    if "sqlite" in ward.place.kind:
        return  # it lets only one write at a time
    async with ward.poller() as poller:
        delivery = await anext(poller.deliveries())
        failures = []

        async def settle_again() -> None:
            try:
                async with ward.begin() as tx:
                    await ward.book(tx, delivery)
                    await delivery.ack(tx)
            except AlreadySettled as error:
                failures.append(error)

        async def waits_for_a_lock() -> bool:
            async with ward.begin() as tx:
                found = await ward.do(tx, "SELECT count(*) FROM pg_locks WHERE NOT granted")
                return bool(found.scalar())

        async with ward.begin() as tx, anyio.create_task_group() as tasks:
            await ward.book(tx, delivery)
            await delivery.ack(tx)
            delivery._has_ended = None  # as in another process, which knows nothing of this transaction
            tasks.start_soon(settle_again)
            while not await waits_for_a_lock():
                await anyio.lowlevel.checkpoint()
            await commit(tx)
        await until(settled(poller))
        assert len(failures) == 1
    assert (await ward.left(), await ward.effects()) == ([], [1])


async def test_what_is_settled_otherwise_after_a_rollback(ward: Ward) -> None:
    """A transaction that was rolled back leaves the choice: acknowledge, reject or release."""
    ward.server.rows = [row(number, sender=str(number)) for number in (1, 2, 3)]
    async with ward.poller() as poller:
        deliveries = poller.deliveries()
        first, second, third = [await anext(deliveries) for _ in range(3)]
        for delivery in (first, second, third):
            with pytest.raises(KeyError):
                async with ward.begin() as tx:
                    await delivery.ack(tx)
                    with pytest.raises(RuntimeError, match="acked already"):
                        await delivery.release()
                    raise KeyError
        await first.ack()
        await second.reject("unreadable")
        await third.release(delay=0)
        assert (await anext(deliveries)).attempt == 2
        assert [one.outcome for one in (first, second, third)] == ["acked", "rejected", "released"]
        assert poller.health().rejected == 1
    assert await ward.left() == [(3, 3)]


async def test_the_nth_rollback_rejects(ward: Ward) -> None:
    """A rollback is a failure, which `max_attempts` counts."""
    async with ward.poller(max_attempts=1) as poller:
        delivery = await anext(poller.deliveries())
        with pytest.raises(KeyError):
            async with ward.begin() as tx:
                await delivery.ack(tx)
                raise KeyError
        await until(settled(poller))
        assert (delivery.outcome, poller.health().rejected) == ("rejected", 1)
    assert await ward.left() == []


async def test_a_savepoint_that_is_rolled_back_takes_the_settlement_along(ward: Ward) -> None:
    """The transaction around it can settle again; if it does not, the message comes again."""
    async with ward.poller() as poller:
        deliveries = poller.deliveries()
        for is_settled in (False, True):
            delivery = await anext(deliveries)
            async with ward.begin() as tx:
                await ward.do(tx, "INSERT INTO effect VALUES (0)")
                await ward.do(tx, "SAVEPOINT inner_one")
                await ward.book(tx, delivery)
                await delivery.ack(tx)
                await ward.do(tx, "ROLLBACK TO SAVEPOINT inner_one")
                if is_settled:
                    await ward.book(tx, delivery)
                    await delivery.ack(tx)
        await until(settled(poller))
        assert delivery.attempt == 2
    assert (await ward.left(), await ward.effects()) == ([], [0, 0, 1])


async def test_a_transaction_that_is_open_settles_nothing_yet(ward: Ward) -> None:
    """The sender's next message waits for the commit; others, and the poller, do not wait for it."""
    if "sqlite" in ward.place.kind:
        return  # SQLite has one writer: all wait until the transaction ends
    ward.server.rows = [row(1, 0, sender="1"), row(2, 1, sender="1"), row(3, 2, sender="3")]
    async with ward.poller() as poller:
        deliveries = poller.deliveries()
        async with ward.begin() as tx:
            await (await anext(deliveries)).ack(tx)
            other = await anext(deliveries)
            assert other.message.id == 3
            await other.ack()
            polls = len(ward.server.requests)
            await until(lambda: len(ward.server.requests) > polls + 2)
            assert (poller.health().in_hand, poller.health().buffered) == (1, 1)
        assert (await anext(deliveries)).message.id == 2
    assert await ward.left() == [(2, 2)]


async def test_a_transaction_that_outlives_its_poller(ward: Ward) -> None:
    """Committed later, it settles all the same: the next life finds it before, or at, its own settlement."""
    if "sqlite" in ward.place.kind:
        return  # its lock keeps the next life from beginning
    ward.server.rows = [row(1, 0), row(2, 1)]
    async with ward.begin() as early, ward.begin() as late:
        async with ward.poller() as poller:
            deliveries = poller.deliveries()
            for tx in (early, late):
                delivery = await anext(deliveries)
                await ward.book(tx, delivery)
                await delivery.ack(tx)
        async with ward.poller() as poller:
            await until(lambda: poller.health().buffered == 2)
            await commit(early)
            delivery = await anext(poller.deliveries())
            assert (delivery.message.id, delivery.attempt) == (2, 2)  # the first is found settled
            await commit(late)
            with pytest.raises(AlreadySettled):
                async with ward.begin() as tx:
                    await ward.book(tx, delivery)
                    await delivery.ack(tx)
            await until(settled(poller))
    assert (await ward.left(), await ward.effects()) == ([], [1, 2])


async def test_a_plain_ack_waits_for_anothers_transaction_alone(ward: Ward) -> None:
    """The last leader's handler has settled and not committed: only who settles the same message waits for it."""
    if "sqlite" in ward.place.kind:
        return  # its lock keeps the next life from beginning
    ward.server.rows = [row(1, 0), row(2, 1), row(3, 2)]
    async with ward.begin() as tx:
        async with ward.poller() as poller:
            delivery = await anext(poller.deliveries())
            await ward.book(tx, delivery)
            await delivery.ack(tx)
        async with ward.poller() as poller, anyio.create_task_group() as tasks:
            deliveries = poller.deliveries()
            first = await anext(deliveries)
            assert (first.message.id, first.attempt) == (1, 2)
            failures = []

            async def settle() -> None:
                try:
                    await first.ack()
                except AlreadySettled as error:
                    failures.append(error)

            tasks.start_soon(settle)
            for expected in (2, 3):
                other = await anext(deliveries)
                assert other.message.id == expected
                await other.ack()
            assert (poller.health().in_hand, poller.health().role, failures) == (1, "leading", [])
            await commit(tx)
            await until(settled(poller))
    assert len(failures) == 1
    assert (await ward.left(), await ward.effects()) == ([], [1])


async def test_a_plain_ack_that_comes_too_late_says_so(ward: Ward) -> None:
    """What another settled meanwhile is a conflict for `ack()` and `reject()`; a plain loop goes on."""
    ward.server.rows = [row(1, 0), row(2, 1)]
    async with ward.poller() as poller:
        deliveries = poller.deliveries()
        first, second = await anext(deliveries), await anext(deliveries)
        async with ward.begin() as tx:
            await ward.do(tx, SETTLED_BY_ANOTHER)
        for _ in range(2):
            with pytest.raises(AlreadySettled):
                await first.ack()
        with pytest.raises(AlreadySettled):
            await second.reject("why")
        assert poller.health().oldest_unsettled_age is None
    assert await ward.left() == []


async def test_a_plain_loop_goes_on_after_a_conflict(ward: Ward) -> None:
    """Another replica handled the same message: that is no reason to end a script."""
    ward.server.rows = [row(1, 0), row(2, 1)]
    async with ward.poller() as poller:
        async for message in poller:
            if message.id == 2:
                break
            async with ward.begin() as tx:
                await ward.do(tx, SETTLED_BY_ANOTHER)
    assert await ward.left() == [(2, 2)]


def has_polled(poller: IncomingPoller) -> bool:
    """Whether there was a good poll; a poller that has ended raises what ended it when its block is left."""
    health = poller.health()
    return health.last_ok_age is not None or not health.is_live


class Cancellation:
    """Cancels a scope at the n-th statement of an engine, in whatever thread that is executed."""

    def __init__(self, engine: Any, scope: anyio.CancelScope, statements: int) -> None:
        self.engine = getattr(engine, "sync_engine", engine)
        self.scope, self.left = scope, statements

    def __enter__(self) -> None:
        event.listen(self.engine, "before_cursor_execute", self.count)

    def __exit__(self, *_: object) -> None:
        event.remove(self.engine, "before_cursor_execute", self.count)

    def count(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            try:
                anyio.from_thread.run_sync(self.scope.cancel)
            except RuntimeError:  # this is the loop's own thread
                self.scope.cancel()


async def test_cancelled_at_each_statement_nothing_is_lost_or_doubled(ward: Ward) -> None:
    """The whole block is cancelled, again and again at a later statement; each effect is had once."""
    ward.server.rows = [row(number, number, sender=str(number % 2)) for number in range(3)]
    lives = 0
    is_done = False
    while not is_done:
        lives += 1
        with anyio.CancelScope() as scope, Cancellation(ward.place.engine, scope, lives):
            async with ward.poller() as poller:
                await until(lambda poller=poller: has_polled(poller))  # type: ignore[misc]
                deliveries = poller.deliveries()
                while poller.health().oldest_unsettled_age is not None:
                    delivery = await anext(deliveries)
                    # interrupted in a transaction of the consumer's, SQLAlchemy's aiosqlite can hang for ever
                    with anyio.CancelScope(shield=ward.place.kind == "aiosqlite"):
                        async with delivery, ward.begin() as tx:
                            await ward.book(tx, delivery)
                            await delivery.ack(tx)
                    await until(lambda poller=poller: not poller.health().in_hand)  # type: ignore[misc]
            is_done = True
    assert lives > 5
    assert (await ward.left(), await ward.effects()) == ([], [0, 1, 2])


# --- what is no transaction on the store's database ---


async def test_a_transaction_on_another_database_is_refused(ward: Ward, tmp_path: Path) -> None:
    """Without the tables, with another store's tables, and with tables under another prefix."""
    other = create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    async with ward.poller() as poller:
        delivery = await anext(poller.deliveries())
        for has_tables in (False, True):
            if has_tables:
                store = SqlStore(other)
                await store.create_tables()
                await store.open("incoming", "https://sms.test/")
                await store.close("incoming")
            connection = await anyio.to_thread.run_sync(other.connect)
            with pytest.raises(ConfigurationError, match="not on the store's database"):
                await delivery.ack(connection)
            await anyio.to_thread.run_sync(connection.close)
        async with ward.begin() as tx:
            await delivery.ack(tx)
        await until(settled(poller))
    other.dispose()


async def test_what_is_no_transaction_is_refused(ward: Ward) -> None:
    """Other objects, connections that commit by themselves, and what was closed."""
    async with ward.poller() as poller:
        delivery = await anext(poller.deliveries())
        with pytest.raises(ConfigurationError, match="must be a SQLAlchemy Connection"):
            await delivery.ack(ward.place.engine)
        async with ward.begin() as tx:
            pass
        with pytest.raises(ConfigurationError, match="cannot be used: ResourceClosedError"):
            await delivery.ack(tx)
        assert ward.place.engine is not None
        ward.place.engine = ward.place.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with ward.begin() as tx:
            with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
                await delivery.ack(tx)
        assert delivery.outcome is None
        make = create_async_engine if isinstance(ward.place.engine, AsyncEngine) else create_engine
        plain, ward.place.engine = ward.place.engine, make(ward.place.url, isolation_level="AUTOCOMMIT")
        async with ward.begin() as tx:
            with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
                await delivery.ack(tx)
        if isinstance(ward.place.engine, AsyncEngine):
            await ward.place.engine.dispose()
        else:
            ward.place.engine.dispose()
        ward.place.engine = plain


async def test_a_transaction_that_cannot_be_used_changes_nothing(ward: Ward, tmp_path: Path) -> None:
    """After a rollback a second try fails on the wrong database: the message comes again all the same."""
    other = create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    async with ward.poller() as poller:
        deliveries = poller.deliveries()
        delivery = await anext(deliveries)
        with pytest.raises(KeyError):
            async with ward.begin() as tx:
                await delivery.ack(tx)
                raise KeyError
        connection = await anyio.to_thread.run_sync(other.connect)
        with pytest.raises(ConfigurationError):
            await delivery.ack(connection)
        await anyio.to_thread.run_sync(connection.close)
        assert (await anext(deliveries)).attempt == 2
    other.dispose()


async def test_memory_takes_part_in_no_transaction(ward: Ward) -> None:
    """The error names what to use instead."""
    async with ward.poller(MemoryStore()) as poller:
        delivery = await anext(poller.deliveries())
        async with ward.begin() as tx:
            with pytest.raises(ConfigurationError, match="SqlStore"):
                await delivery.ack(tx)
