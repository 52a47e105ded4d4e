"""The stores that keep the same contract, each on a place of its own, where it can be opened again and again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from his_sms_async import MemoryStore
from his_sms_async.sql import SqlStore

SQL_KINDS = ("sqlite", "aiosqlite", "psycopg", "asyncpg", "async psycopg")
_ASYNC = ("aiosqlite", "asyncpg", "async psycopg")
_DRIVERS = {"psycopg": "psycopg", "asyncpg": "asyncpg", "async psycopg": "psycopg"}


def combinations(*kinds: str) -> list[Any]:
    """Each kind on each backend on which it works: an `AsyncEngine` needs asyncio."""
    return [
        pytest.param((backend, kind), id=f"{kind}-{backend}")
        for kind in kinds
        for backend in ("asyncio", "trio")
        if backend == "asyncio" or kind not in _ASYNC
    ]


@attrs.define(eq=False)
class Place:
    """Where a store keeps what it is told."""

    kind: str
    url: str
    """Empty for memory."""
    engine: Engine | AsyncEngine | None = None
    _memory: MemoryStore = attrs.field(factory=MemoryStore)

    def store(self, **options: Any) -> Any:
        """A store as a process that is started again makes it; memory does not survive that, so it is the same."""
        return self._memory if self.engine is None else SqlStore(self.engine, **options)


@asynccontextmanager
async def place(kind: str, request: pytest.FixtureRequest, directory: Path) -> AsyncIterator[Place]:
    """A new place; the engine is closed at the end."""
    url = ""
    if kind in _DRIVERS:
        url = request.getfixturevalue("postgres_url").replace("+psycopg", f"+{_DRIVERS[kind]}")
    elif kind != "memory":
        url = f"sqlite+{'pysqlite' if kind == 'sqlite' else kind}:///{directory / 'store.db'}"
    engine = None if not url else create_async_engine(url) if kind in _ASYNC else create_engine(url)
    made = Place(kind, url, engine)
    await made.store().create_tables()
    try:
        yield made
    finally:
        if isinstance(engine, AsyncEngine):
            await engine.dispose()
        elif engine is not None:
            engine.dispose()
