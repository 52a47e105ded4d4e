"""Settlements per second through the poller and its SQL store, beside the same inserts by hand.

Run as `python tests/benchmarks/bench_settlements.py` with `PYTHONPATH=tests`, for what benchmarks and tests share.
"""

import asyncio
import gc
import statistics
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import attrs
import httpx
from benchmarks.places import LIFE, Database, databases
from benchmarks.report import say, table
from fakes import NOON, FakeServer, answer, envelope, row, until
from sqlalchemy import BigInteger, Column, Connection, Engine, MetaData, String, Table, delete, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from his_sms_async import IncomingPoller

REPLIES, ROUNDS = 75, 5

business = Table(
    "appointment",
    MetaData(),
    Column("reply", BigInteger, primary_key=True, autoincrement=False),
    Column("answer", String(200), nullable=False),
)


@attrs.frozen
class Case:
    """How replies are settled."""

    database: Database
    with_tx: bool
    """`ack(tx)`, in a transaction that also inserts a row of the business."""
    in_flight: int


async def by_hand(case: Case, replies: int) -> float:
    """Settlements per second of a loop that writes the same rows in as many transactions."""
    tables = case.database.store("hand_").metadata.tables
    attempt, settlement = tables["hand_attempt"], tables["hand_settlement"]
    settled = {"states": '["Delivered"]', "outcome": "settled", "reason": None, "settled_by": LIFE}

    def begin(key: dict[str, Any], connection: Connection) -> None:
        connection.execute(insert(attempt), key | {"number": 1, "requeued": False})

    def settle(key: dict[str, Any], connection: Connection) -> None:
        if case.with_tx:
            connection.execute(insert(business), _effect(key["message_id"]))
        connection.execute(insert(settlement), key | settled)
        is_it = (attempt.c[name] == key[name] for name in attempt.primary_key.columns.keys())  # noqa: SIM118
        connection.execute(delete(attempt).where(*is_it))

    async def worker(message_ids: Iterator[int]) -> None:
        for message_id in message_ids:
            key = {"poller": "incoming", "message_id": message_id, "created_modulo": 0, "version": ""}
            key |= {"created": 639087048000000000, "updated": 639087048000000000}
            await case.database.run(partial(begin, key))
            await case.database.run(partial(settle, key))

    message_ids = iter(range(1, replies + 1))
    begun = time.perf_counter()
    async with anyio.create_task_group() as workers:
        # SQLite has one writer: more of them would spend the time waiting for each other
        for _ in range(1 if case.database.is_sqlite else case.in_flight):
            workers.start_soon(worker, message_ids)
    return replies / (time.perf_counter() - begun)


async def through_poller(case: Case, replies: int) -> float:
    """Settlements per second, from the request that brings the replies to the last settlement."""
    begun = [0.0]
    brought = answer(body=envelope(Messages=[row(number, number / 100) for number in range(1, replies + 1)]))

    def first_poll(_: httpx.Request) -> httpx.Response:
        begun[0] = time.perf_counter()
        return brought

    async with FakeServer(script=[first_poll]).client() as client:
        store, start = case.database.store("ours_"), NOON - timedelta(hours=1)
        async with IncomingPoller(client, start=start, store=store) as poller:
            deliveries = poller.deliveries(max_in_flight=case.in_flight)
            async with anyio.create_task_group() as handlers:
                for _ in range(replies):
                    delivery = await anext(deliveries)
                    if case.in_flight == 1:
                        await _settle(case, delivery)
                    else:
                        handlers.start_soon(_settle, case, delivery)
            await until(lambda: not poller.health().in_hand)  # settled, and read back
            begun.append(time.perf_counter())
    return replies / (begun[1] - begun[0])


async def _settle(case: Case, delivery: Any) -> None:
    engine, effect = case.database.engine, _effect(delivery.message.id)
    if not case.with_tx:
        await delivery.ack()
    elif isinstance(engine, AsyncEngine):
        async with engine.begin() as tx:
            await tx.execute(insert(business), effect)
            await delivery.ack(tx)
    else:
        await anyio.to_thread.run_sync(_settle_in_thread, engine, effect, delivery.ack)


def _settle_in_thread(
    engine: Engine, effect: dict[str, Any], ack: Callable[[Any], Coroutine[Any, Any, None]]
) -> None:
    with engine.begin() as tx:
        tx.execute(insert(business), effect)
        anyio.from_thread.run(ack, tx)


def _effect(message_id: int) -> dict[str, Any]:
    return {"reply": message_id, "answer": "Yes"}


async def settlements(opened: list[Database]) -> None:
    """Settle in all the ways, by hand and through the poller in turn, and print the medians."""
    empty: dict[Database, list[str]] = {}
    for database in opened:
        metadata = [*(database.store(prefix).metadata for prefix in ("ours_", "hand_")), business.metadata]
        for each in metadata:
            await database.run(each.create_all)
        command = "DELETE FROM" if database.is_sqlite else "TRUNCATE"
        empty[database] = [f"{command} {one.name}" for each in metadata for one in each.sorted_tables]
    cases = [
        Case(database, with_tx, in_flight)
        for database in opened
        for with_tx in (False, True)
        for in_flight in (1, 8)
    ]
    rates: dict[Case, list[dict[Any, float]]] = {case: [] for case in cases}
    for number in range(ROUNDS + 1):
        for case, measured in rates.items():
            rate: dict[Any, float] = {}
            for measure in (by_hand, through_poller) if number % 2 else (through_poller, by_hand):
                await case.database.execute(*empty[case.database])
                gc.collect()
                rate[measure] = await measure(case, REPLIES if number else 10)
            measured.append(rate)
    for measured in rates.values():
        del measured[0]  # it warmed up
    table(
        f"Settlements per second: {REPLIES} replies, medians of {ROUNDS} rounds",
        ("database, engine", "settled by", "in flight", "by hand", "poller", "poller / hand"),
        [
            (
                case.database.name,
                "ack(tx)" if case.with_tx else "ack()",
                case.in_flight,
                statistics.median(rate[by_hand] for rate in measured),
                statistics.median(rate[through_poller] for rate in measured),
                statistics.median(rate[through_poller] / rate[by_hand] for rate in measured),
            )
            for case, measured in rates.items()
        ],
    )


async def main() -> None:
    """Measure on all of them."""
    begun = time.perf_counter()
    async with databases("Settlements in the SQL store") as opened:
        await settlements(opened)
    say(f"\n{time.perf_counter() - begun:.0f} s in all\n")


if __name__ == "__main__":
    asyncio.run(main())
