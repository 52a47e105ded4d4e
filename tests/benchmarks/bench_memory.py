"""What it costs that a store remembers much: to open it, to poll what is known, and its size.

Run as `python tests/benchmarks/bench_memory.py` with `PYTHONPATH=tests`, for what benchmarks and tests share.
"""

import asyncio
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import anyio
import attrs
import httpx
from benchmarks.places import LIFE, Database, databases
from benchmarks.report import say, table
from fakes import FakeServer, answer, envelope, row, until
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from his_sms_async import IncomingPoller

FEW, MANY, LISTED = 1_000, 100_000, 350
OPENINGS, POLLS = 3, 20


@attrs.define
class Statements:
    """What a store executes, and how long that takes, commits not counted."""

    number: int = 0
    seconds: float = 0.0
    _begun: float = attrs.field(init=False, default=0.0)

    @contextmanager
    def of(self, database: Database) -> Iterator[None]:
        """Count what is executed; a poller's statements come one after the other."""
        engine = database.engine.sync_engine if isinstance(database.engine, AsyncEngine) else database.engine
        listeners = (("before_cursor_execute", self._before), ("after_cursor_execute", self._after))
        for name, listener in listeners:
            event.listen(engine, name, listener)
        try:
            yield
        finally:
            for name, listener in listeners:
                event.remove(engine, name, listener)

    def _before(self, *_: object) -> None:
        self._begun = time.perf_counter()

    def _after(self, *_: object) -> None:
        self.number += 1
        self.seconds += time.perf_counter() - self._begun


@attrs.frozen
class Life:
    """What a poller cost from entering its block on; in milliseconds."""

    opening: float
    """Until its first request."""
    opening_stall: float
    """The longest time meanwhile in which the event loop did nothing else."""
    first_poll_stall: float
    """Likewise from the first request to the second."""
    cpu: float
    """Of all threads, in a poll after that; likewise the next two."""
    statements: float
    """Their number."""
    statement_time: float


async def remember(database: Database, prefix: str, number: int) -> float:
    """Fill a store: `LISTED` messages through a poller, the others as copies; return a settlement's bytes."""
    await database.store(prefix).create_tables()
    async with (
        FakeServer(rows=_listed()).client() as client,
        IncomingPoller(client, start="now", store=database.store(prefix), interval=3600) as poller,
    ):
        await until(lambda: poller.health().is_ready)
    settlement = f"{prefix}settlement"
    size = f"SELECT pg_total_relation_size('{settlement}')"
    if database.is_sqlite:
        size = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    before = await database.execute(size)
    await database.execute(
        f"UPDATE {settlement} SET settled_by = '{LIFE}'",
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {number - LISTED}) "
        f"INSERT INTO {settlement} SELECT poller, {LISTED} + i, created_modulo, version, created, updated, "
        f"states, outcome, reason, settled_by FROM {settlement}, n WHERE message_id = 1 ORDER BY i",
    )
    after = await database.execute(size)
    await database.execute("ANALYZE")  # as PostgreSQL does by itself within a minute
    return float(after - before) / (number - LISTED)


def _listed() -> list[Any]:
    return [row(number, -number) for number in range(1, LISTED + 1)]


async def live(database: Database, prefix: str) -> Life:
    """Open a store, and poll again and again what it knows."""
    statements, enough = Statements(), anyio.Event()
    body = answer(body=envelope(Messages=_listed())).content
    polls: list[tuple[float, float, int, float]] = []
    stalls = [0.0]

    def poll(_: httpx.Request) -> httpx.Response:
        polls.append((time.perf_counter(), time.process_time(), statements.number, statements.seconds))
        if len(polls) <= 2:
            stalls.append(0.0)
        if len(polls) == POLLS + 2:
            enough.set()
        return answer(body=body)

    async def beat() -> None:
        while True:
            slept = time.perf_counter()
            await anyio.sleep(0.001)
            stalls[-1] = max(stalls[-1], time.perf_counter() - slept - 0.001)

    gc.collect()
    server = FakeServer(script=[poll] * 1000)
    async with server.client() as client, anyio.create_task_group() as tasks:
        tasks.start_soon(beat)
        await anyio.sleep(0.005)
        begun = time.perf_counter()
        with statements.of(database):
            async with IncomingPoller(client, start="now", store=database.store(prefix), interval=1e-6):
                await enough.wait()
        tasks.cancel_scope.cancel()
    each = [[end - begin for begin, end in zip(*pair, strict=True)] for pair in pairwise(polls[1 : POLLS + 2])]
    cpu, number, seconds = (statistics.median(figure) for figure in list(zip(*each, strict=True))[1:])
    return Life(
        opening=(polls[0][0] - begun) * 1e3,
        opening_stall=stalls[0] * 1e3,
        first_poll_stall=stalls[1] * 1e3,
        cpu=cpu * 1e3,
        statements=number,
        statement_time=seconds * 1e3,
    )


async def memory(opened: list[Database]) -> None:
    """Open stores that remember few and many messages, poll, and print the medians."""
    sizes: list[tuple[str, float]] = []
    for database in opened:
        kind, _, engine = database.name.partition(", ")
        if engine == "sync":
            await remember(database, "few_", FEW)
            sizes.append((kind, await remember(database, "many_", MANY)))
    lives: list[tuple[Database, list[Life], list[Life]]] = [(database, [], []) for database in opened]
    for _ in range(OPENINGS):
        for database, few, many in lives:
            few.append(await live(database, "few_"))
            many.append(await live(database, "many_"))
    table(
        f"A poll of {LISTED} rows that are all known: medians of {OPENINGS} times {POLLS} polls",
        (
            "database, engine",
            f"CPU ms, {FEW:,} seen",
            f"{MANY:,} seen",
            "ratio",
            "statements",
            f"ms in them, {FEW:,} seen",
            f"{MANY:,} seen",
            "ratio",
        ),
        [
            (
                database.name,
                *_compared(few, many, lambda life: life.cpu),
                statistics.median(life.statements for life in many),
                *_compared(few, many, lambda life: life.statement_time),
            )
            for database, few, many in lives
        ],
    )
    table(
        f"Opening a store, {FEW:,} and {MANY:,} settlements remembered: medians of {OPENINGS}",
        (
            "database, engine",
            f"ms, {FEW:,}",
            f"{MANY:,}",
            f"longest stall ms, {FEW:,}",
            f"{MANY:,}",
            f"in the first poll, {FEW:,}",
            f"{MANY:,}",
        ),
        [
            (
                database.name,
                *_compared(few, many, lambda life: life.opening)[:2],
                *_compared(few, many, lambda life: life.opening_stall)[:2],
                *_compared(few, many, lambda life: life.first_poll_stall)[:2],
            )
            for database, few, many in lives
        ],
    )
    table("Size of a remembered settlement, with its index", ("database", "bytes"), sizes)


def _compared(few: list[Life], many: list[Life], figure: Callable[[Life], float]) -> tuple[float, float, float]:
    """The medians, and the median of what was measured side by side."""
    return (
        statistics.median(map(figure, few)),
        statistics.median(map(figure, many)),
        statistics.median(figure(much) / figure(little) for little, much in zip(few, many, strict=True)),
    )


async def main() -> None:
    """Measure on all of them."""
    begun = time.perf_counter()
    async with databases("A SQL store that remembers much") as opened:
        await memory(opened)
    say(f"\n{time.perf_counter() - begun:.0f} s in all\n")


if __name__ == "__main__":
    asyncio.run(main())
