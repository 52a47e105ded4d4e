"""The databases on which the store is measured: SQLite and PostgreSQL, each through a sync and an async driver."""

import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import attrs
import postgres
from benchmarks.report import header
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from his_sms_async.sql import SqlStore

DRIVERS = {
    "SQLite, sync": "sqlite+pysqlite",
    "SQLite, async": "sqlite+aiosqlite",
    "PostgreSQL, sync": "postgresql+psycopg",
    "PostgreSQL, async": "postgresql+asyncpg",
}
# Enough for 8 in flight, the store and the loop by hand: beyond its size, a pool connects for each transaction.
POOL = 12
LIFE = "0123456789abcdef" * 2 + ":1"
"""As long as what the poller writes into `settled_by`."""

Work = Callable[[Connection], object]


@attrs.frozen(eq=False)
class Database:
    """A database through one driver."""

    name: str
    engine: Engine | AsyncEngine
    _stores: dict[str, SqlStore] = attrs.field(init=False, factory=dict, repr=False)

    @classmethod
    @asynccontextmanager
    async def at(cls, name: str, url: str) -> AsyncIterator["Database"]:
        """Connect, with the engine's default settings but for PostgreSQL's pool."""
        make = create_async_engine if name.endswith("async") else create_engine
        url = DRIVERS[name] + url[url.index(":") :]
        engine = make(url) if name.startswith("SQLite") else make(url, pool_size=POOL)
        try:
            yield cls(name, engine)
        finally:
            if isinstance(engine, AsyncEngine):
                await engine.dispose()
            else:
                engine.dispose()

    @property
    def is_sqlite(self) -> bool:
        """It has one writer at a time, and no server."""
        return self.name.startswith("SQLite")

    def store(self, prefix: str) -> SqlStore:
        """A store with tables of its own; the same one again, for what SQLAlchemy compiled for it."""
        if prefix not in self._stores:
            self._stores[prefix] = SqlStore(self.engine, prefix=prefix)
        return self._stores[prefix]

    async def run(self, work: Work) -> None:
        """Do something in one transaction, as an async service has to: not on the event loop."""
        if isinstance(self.engine, AsyncEngine):
            async with self.engine.begin() as connection:
                await connection.run_sync(work)
        else:
            await anyio.to_thread.run_sync(_in_transaction, self.engine, work)

    async def execute(self, *statements: str) -> Any:
        """Execute statements; return the value that the last one answers, if it answers any."""
        found: list[Any] = []

        def work(connection: Connection) -> None:
            for statement in statements:
                result = connection.execute(text(statement))
            found.append(result.scalar() if result.returns_rows else None)

        await self.run(work)
        return found[0]


def _in_transaction(engine: Engine, work: Work) -> None:
    with engine.begin() as connection:
        work(connection)


@asynccontextmanager
async def databases(title: str) -> AsyncIterator[list[Database]]:
    """Make a file and a server of our own, and print what they are."""
    vars(postgres)["_FAST"] = ()  # the tests do without fsync, which is much of what a settlement costs
    async with AsyncExitStack() as stack:
        folder, server_folder = (
            stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")) for _ in range(2)
        )
        server = stack.enter_context(postgres.Postgres(Path(server_folder)))
        urls = {"SQLite": f"sqlite:///{folder}/store.db", "PostgreSQL": server.create_database("store")}
        opened = [
            await stack.enter_async_context(Database.at(name, urls[name.partition(",")[0]])) for name in DRIVERS
        ]
        sqlite, _, postgresql, _ = opened
        header(
            title,
            ("his_sms_async", "sqlalchemy", "aiosqlite", "psycopg", "asyncpg"),
            f"SQLite {sqlite3.sqlite_version}: journal_mode {await sqlite.execute('PRAGMA journal_mode')}, "
            f"synchronous {await sqlite.execute('PRAGMA synchronous')} (2 is FULL), as it is by default",
            f"PostgreSQL {await postgresql.execute('SHOW server_version')}: "
            f"fsync {await postgresql.execute('SHOW fsync')}, "
            f"synchronous_commit {await postgresql.execute('SHOW synchronous_commit')}; pool_size={POOL}",
        )
        yield opened
