"""`SqlStore`: a poller's position in the user's own database."""

import math
import os
import platform
import sqlite3
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import attrs
from sqlalchemy import Connection, Engine, MetaData, insert, inspect, select, update
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from his_sms_async._errors import ConfigurationError, StoreError, UnsupportedStoreFormat
from his_sms_async._hidden import Hidden
from his_sms_async._store import Attempt, Delta, HasAddress, Key, Saved, Settlement, Standby, unknown_position

from ._database import Database, missing_table, translated
from ._lease import Leader, Leadership, SqlLease
from ._lock import Lock, lock
from ._rows import Held, Rows, lease_lost
from ._tables import FORMAT, MAX_NAME, Tables
from ._transaction import SettlementInTransaction

T = TypeVar("T")

# Seconds to undo what an interrupted `open` did.
_GRACE = 2.0
# Settlements to read before the lease is renewed: well under a second.
_RENEW_EVERY = 20_000


@attrs.define(eq=False)
class _InUse:
    """A position that a poller of this process uses."""

    held: Held | None = None
    lock: Lock | None = None


class SqlStore:
    """Keeps positions in SQLite (one process) or PostgreSQL (replicas too), through SQLAlchemy.

    It holds identifiers, stamps, states, counts and the reasons of rejections: no phone number and no text.
    With PostgreSQL the replicas of a service run the same poller over it: one leads, the others stand by,
    and the first to see that its lease has ended takes over. A SQLite file is used by one process at a time.

    Args:
        engine_or_url: The consumer's own `Engine`, which is used in worker threads and so also under trio, or
            `AsyncEngine` (asyncio only); or a URL like `sqlite:///replies.db` or `postgresql+psycopg://…`.
            Leave two of an engine's connections to the store. Given a URL, missing tables are created; given
            an engine, `create_tables()` or the consumer's own migrations do that. They are never altered.
        prefix: What the tables' names begin with.
        schema: The tables' schema; None for the connection's.
        lease: Seconds after which another replica takes over from one that does not answer.

    Raises:
        ConfigurationError: An argument is wrong; the text names it.
    """

    def __init__(
        self,
        engine_or_url: Engine | AsyncEngine | URL | str,
        *,
        prefix: str = "his_sms_",
        schema: str | None = None,
        lease: float = 30.0,
    ) -> None:
        place = Hidden[object](engine_or_url)  # a URL may hold a password
        del engine_or_url
        if not 0 < lease < math.inf:
            msg = "lease must be greater than 0, and finite"
            raise ConfigurationError(msg)
        self._database = Database.at(place)
        self._prefix = prefix
        self._tables = Tables.named(prefix, schema)
        self._lease = None if self._database.is_sqlite else lease
        self._store_id = ""
        self._in_use: dict[str, _InUse] = {}

    def __repr__(self) -> str:
        shown = self._database.url.set(query={})  # which may hold a password, as the URL itself may
        return f"<SqlStore {shown!r}, used by {sorted(self._in_use)}>"

    @property
    def metadata(self) -> MetaData:
        """The tables, for migrations: give it to Alembic as `target_metadata`, beside your own."""
        return self._tables.metadata

    def ddl(self) -> str:
        """The statements that create the tables on this database, for those who write migrations by hand."""
        return self._tables.ddl(self._database.dialect)

    async def create_tables(self) -> None:
        """Create the tables that are missing; those that are there are left as they are.

        Raises:
            StoreError: The database does not let it.
        """

        def create(connection: Connection) -> None:
            self._tables.metadata.create_all(connection)

        try:
            await self._database.run(create, opening=True)
        except StoreError:
            if await self._database.run(self._lack_tables):  # unless another replica was just quicker
                raise

    # --- the protocol of a poller's store ---

    async def open(self, name: str, server: str) -> Saved | Standby:
        """Begin to lead, unless another replica does.

        Raises:
            PositionMismatch: The position belongs to another SMS server.
            UnsupportedStoreFormat: Another version wrote the store, or it is damaged.
            StoreError: Tables are missing, the file is read-only or used by another process, and the like.
            ConfigurationError: The name is in use in this process, or too long.
        """
        if name in self._in_use:
            msg = f"the store is in use by a poller named {name!r}; give each poller a name of its own"
            raise ConfigurationError(msg)
        if len(name) > MAX_NAME:
            msg = f"name is longer than {MAX_NAME} characters"
            raise ConfigurationError(msg)
        self._in_use[name] = _InUse()
        leads = False
        try:
            opened = await self._open(name, server)
            leads = isinstance(opened, Saved)
            return opened
        finally:
            if not leads:
                with anyio.move_on_after(_GRACE, shield=True), suppress(StoreError):  # the first error counts
                    await self.close(name)

    async def _open(self, name: str, server: str) -> Saved | Standby:
        database, leadership, use = self._database, self._leadership(name), self._in_use[name]
        if database.is_given_by_url and await database.run(self._lack_tables, opening=True):
            await database.run(self._refuse_rest, opening=True)
            await self.create_tables()
        self._store_id = await database.run(self._identify, opening=True)
        if database.is_sqlite:
            use.lock = await self._lock(name)
        holder = f"{platform.node()[:100]}:{os.getpid()}:{uuid.uuid4().hex}"

        def take(connection: Connection) -> Held | Leader:
            taken = leadership.take(connection, server, holder)
            use.held = taken if isinstance(taken, Held) else None  # also for an `open` that is cancelled now
            return taken

        held = await database.run(take, opening=True)
        if isinstance(held, Leader):
            assert leadership.seconds is not None  # noqa: S101 - who holds a file's lock, leads
            return Standby(lease=held, retry_after=leadership.seconds / 3)
        lease = None
        if leadership.seconds is not None:

            async def renew() -> Any:
                return await database.run(lambda connection: leadership.renew(connection, held))

            lease = SqlLease(held, leadership.seconds, await renew(), renew)
        rows = self._rows(name)
        await database.run(rows.clear_settled_attempts, opening=True)
        settlements: list[Settlement] = []

        def next_page(connection: Connection) -> list[Settlement]:
            return rows.settlements(connection, settlements)

        while page := await database.run(next_page, opening=True):
            settlements.extend(page)
            if lease is not None and len(settlements) % _RENEW_EVERY == 0:
                await lease.renew()

        def load_the_rest(connection: Connection) -> Saved:
            return Saved(
                marks=rows.marks(connection),
                settlements=tuple(settlements),
                attempts=rows.attempts(connection),
                quarantine=rows.quarantine(connection),
                lease=lease,
            )

        return await database.run(load_the_rest, opening=True)

    async def save(self, name: str, delta: Delta) -> Mapping[Key, Settlement]:
        """Write a change, all of it or nothing."""
        use, rows = self._in_use.get(name), self._rows(name)
        held = None if use is None else use.held
        if delta == Delta(settlements=delta.settlements):
            return await self._database.run(lambda connection: rows.settle(connection, delta.settlements))
        if held is None:
            raise lease_lost()
        tries = 0

        def save(connection: Connection) -> Mapping[Key, Settlement]:
            nonlocal tries
            tries += 1
            return rows.save(connection, held, delta, is_clear=tries == 1)

        return await self._database.run(save)

    async def settled(self, name: str, keys: Collection[Key]) -> Mapping[Key, Settlement]:
        """The settlements of these versions, in what is committed."""
        rows = self._rows(name)
        return await self._database.run(lambda connection: rows.settled(connection, keys))

    async def settle_in(self, tx: Any, name: str, settlement: Settlement, *, again: bool) -> Callable[[], bool]:
        """Write a settlement through a transaction of the consumer's; return what tells that this has ended."""
        return await SettlementInTransaction(self._rows(name), self._store_id, settlement, again).write(tx)

    async def requeued(self, name: str) -> tuple[Attempt, ...]:
        """The messages that `requeue` marked, until they are handed out again."""
        return await self._database.run(self._rows(name).requeued)

    async def close(self, name: str) -> None:
        """End the use of a position, and let another replica lead when it tries next."""
        use = self._in_use.pop(name)
        try:
            if use.held is not None:
                held, leadership = use.held, self._leadership(name)
                await self._database.run(lambda connection: leadership.give_up(connection, held))
        finally:
            if use.lock is not None:
                with anyio.CancelScope(shield=True):  # however long the database took, this does not
                    await anyio.to_thread.run_sync(use.lock.close)
            if not self._in_use:
                await self._database.dispose()

    # --- for operators ---

    async def requeue(self, name: str, *, id: int | None = None) -> int:  # noqa: A002 - the specification's name
        """Have rejected messages delivered again: the one with this Id, or all; return how many.

        The poller that leads notices at its next poll, in whatever process it runs.
        """
        rows = self._rows(name)
        return await self._once(lambda connection: rows.requeue(connection, id))

    async def adopt(self, name: str, client: HasAddress) -> None:
        """Use the position for the server of `client`, which has moved and has the same messages.

        Raises:
            ConfigurationError: There is no position of this name.
        """
        poller, address = self._tables.poller, client.base_url

        def adopt(connection: Connection) -> int:
            return connection.execute(update(poller).where(poller.c.name == name).values(server=address)).rowcount

        if not await self._once(adopt):
            raise unknown_position(name)

    async def _once(self, work: Callable[[Connection], T]) -> T:
        try:
            return await self._database.run(work)
        finally:
            if not self._in_use:
                await self._database.dispose()

    # --- parts ---

    def _rows(self, name: str) -> Rows:
        return Rows(self._tables, name, self._lease)

    def _leadership(self, name: str) -> Leadership:
        return Leadership(self._tables, name, self._lease)

    def _lack_tables(self, connection: Connection) -> bool:
        inspector = inspect(connection)
        return not all(
            inspector.has_table(table.name, schema=table.schema) for table in self.metadata.sorted_tables
        )

    def _refuse_rest(self, connection: Connection) -> None:
        """Do not begin anew where a part of a store is left; one that was never finished has no identity yet."""
        store = self._tables.store
        if not inspect(connection).has_table(store.name, schema=store.schema):
            return
        if connection.execute(select(store.c.id)).first() is not None:
            msg = "tables of the store are missing; restore the database from a backup"
            raise UnsupportedStoreFormat(msg)

    def _identify(self, connection: Connection) -> str:
        """Check the format, and return the identity of the store; a new one gets it now."""
        if self._lack_tables(connection):
            raise missing_table()
        store = self._tables.store
        row = connection.execute(select(store.c.id, store.c.format)).first()
        if row is None:
            identity = uuid.uuid4().hex
            connection.execute(insert(store).values(only=1, id=identity, format=FORMAT))
            return identity
        if row.format != FORMAT:
            msg = (
                f"the store has format {row.format}, and this version of his_sms_async knows format {FORMAT}; "
                "use the version that wrote it"
            )
            raise UnsupportedStoreFormat(msg)
        return str(row.id)

    async def _lock(self, name: str) -> Lock:
        def path(connection: Connection) -> str:
            return str(connection.exec_driver_sql("PRAGMA database_list").first()[2])  # type: ignore[index]

        place = await self._database.run(path, opening=True)
        try:
            return await anyio.to_thread.run_sync(lock, place, self._prefix, name)
        except sqlite3.Error as error:
            failure = translated(error, opening=True)
        raise failure
