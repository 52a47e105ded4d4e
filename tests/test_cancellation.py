"""Whoever is cancelled, wherever it waits: no message is lost, and no task is left behind."""

import asyncio
import types
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
import trio
from fakes import FakeServer, all_blocked, row

from his_sms_async import IncomingPoller, MemoryStore
from his_sms_async._store import Attempt, Delta, Key, Saved, Settlement, Standby

pytestmark = pytest.mark.anyio

IDS = [1, 2, 3]
Consume = Callable[[IncomingPoller, list[int]], Awaitable[None]]


class SlowStore(MemoryStore):
    """A store whose calls take turns of the event loop, as a database's do."""

    async def open(self, name: str, server: str) -> Saved | Standby:
        await anyio.lowlevel.checkpoint()
        return await super().open(name, server)

    async def save(self, name: str, delta: Delta) -> Mapping[Key, Settlement]:
        await anyio.lowlevel.checkpoint()
        taken = await super().save(name, delta)
        await anyio.lowlevel.checkpoint()
        return taken

    async def requeued(self, name: str) -> tuple[Attempt, ...]:
        await anyio.lowlevel.checkpoint()
        return await super().requeued(name)


class SlowBody(httpx.AsyncByteStream):
    """A body that arrives in pieces."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    async def __aiter__(self) -> Any:
        for begin in range(0, len(self.content), 200):
            await anyio.lowlevel.checkpoint()
            yield self.content[begin : begin + 200]


class World:
    """Three replies of two patients, and a server that takes its time."""

    def __init__(self) -> None:
        self.server = FakeServer(rows=[row(1, 0, sender="1"), row(2, 1, sender="2"), row(3, 2, sender="1")])
        self.store = SlowStore()

    async def answer(self, request: httpx.Request) -> httpx.Response:
        await anyio.lowlevel.checkpoint()
        response = self.server(request)
        return httpx.Response(200, headers=response.headers, stream=SlowBody(response.content))

    def client(self) -> Any:
        client = self.server.client()
        client._exchange.transport = httpx.MockTransport(self.answer)
        return client

    def poller(self, client: Any) -> AbstractAsyncContextManager[IncomingPoller]:
        return IncomingPoller(client, start="everything", store=self.store, interval=1000)


async def plain(poller: IncomingPoller, handled: list[int]) -> None:
    """A script's loop: a message is handled, then the next is asked for."""
    async for message in poller:
        handled.append(message.id)
        if len(set(handled)) == len(IDS):
            return
        await anyio.lowlevel.checkpoint()


async def block(poller: IncomingPoller, handled: list[int]) -> None:
    """A service's loop: a message is handled inside its delivery."""
    async for delivery in poller.deliveries(max_in_flight=1):
        async with delivery as message:
            await anyio.lowlevel.checkpoint()
            handled.append(message.id)
        if len(set(handled)) == len(IDS):
            return


async def handler(poller: IncomingPoller, handled: list[int]) -> None:
    """`run` with two handlers at a time."""

    async def handle(message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        handled.append(message.id)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: poller.run(handle, concurrency=2))
        while len(set(handled)) < len(IDS) or poller.health().in_hand:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()


def coroutines() -> Iterator[Any]:
    """The coroutine of each task but this one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        root = trio.lowlevel.current_root_task()
        assert root is not None
        pending = [root]
        while pending:
            task = pending.pop()
            pending += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
            if task is not trio.lowlevel.current_task():
                yield task.coro
    else:
        yield from (task.get_coro() for task in asyncio.all_tasks() if task is not asyncio.current_task())


def points() -> set[tuple[str, ...]]:
    """Where our code waits now: on each task's stack the lines of ours, and the innermost of anybody's."""
    found: set[tuple[str, ...]] = set()
    for coroutine in coroutines():
        ours: list[str] = []
        innermost = ""
        step: Any = coroutine
        while step is not None:
            frame = next(
                (getattr(step, name) for name in ("cr_frame", "gi_frame", "ag_frame") if hasattr(step, name)), None
            )
            if isinstance(frame, types.FrameType):
                innermost = f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
                if "/his_sms_async/_" in frame.f_code.co_filename:
                    ours.append(innermost)
            step = next(
                (getattr(step, name) for name in ("cr_await", "gi_yieldfrom", "ag_await") if hasattr(step, name)),
                None,
            )
        if ours:
            found.add((*ours, innermost))
    return found


async def drain(world: World, poller: IncomingPoller, handled: list[int]) -> None:
    """Take what is left, until nothing is unsettled."""
    async with anyio.create_task_group() as tasks:

        async def take() -> None:
            async for delivery in poller.deliveries():
                async with delivery as message:
                    handled.append(message.id)

        tasks.start_soon(take)
        await all_blocked()
        tasks.cancel_scope.cancel()


async def cancelled_after(
    ticks: int, work: Callable[[], Awaitable[None]], *, native: bool, hit: set[tuple[str, ...]]
) -> bool:
    """Run something, cancel it after so many turns of the loop; tell whether it was still running."""
    done = False

    async def run() -> None:
        nonlocal done
        await work()
        done = True

    async def wait() -> None:
        for _ in range(ticks):
            await anyio.lowlevel.checkpoint()
        hit.update(points())

    if native:
        task = asyncio.ensure_future(run())
        await wait()
        task.cancel()
        await asyncio.wait([task])
    else:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await wait()
            tasks.cancel_scope.cancel()
    return not done


def ways() -> list[Any]:
    """The three ways to consume."""
    return [pytest.param(consume, id=consume.__name__) for consume in (plain, block, handler)]


@pytest.mark.parametrize("consume", ways())
@pytest.mark.parametrize("native", [False, True], ids=["scope", "native"])
async def test_cancelling_the_consumer_loses_nothing(
    consume: Consume, *, native: bool, anyio_backend: str, record_property: Callable[[str, object], None]
) -> None:
    """The consumer alone is cancelled, at every turn of the loop; its successor gets all that was not settled."""
    if native and anyio_backend == "trio":
        return  # trio has no other cancellation than scopes
    hit: set[tuple[str, ...]] = set()
    ticks = 0
    running = True
    while running:
        world, handled = World(), list[int]()
        async with world.client() as client, world.poller(client) as poller:

            async def work(poller: Any = poller, handled: list[int] = handled) -> None:
                await consume(poller, handled)

            running = await cancelled_after(ticks, work, native=native, hit=hit)
            before = list(handled)
            await drain(world, poller, handled)
            assert poller.health().oldest_unsettled_age is None
        assert set(handled) == set(IDS), f"lost after {ticks} turns"
        again = [message for message in handled[len(before) :] if message in before]
        assert len(again) <= 2
        assert consume is not plain or again in ([], before[-1:])
        assert not list(coroutines_of_ours())
        ticks += 1
    print(f"{consume.__name__}: cancelled at {ticks} turns, {len(hit)} distinct points")  # noqa: T201
    record_property("distinct points", len(hit))
    assert len(hit) >= 8  # trio shuffles its tasks, so the number varies


@pytest.mark.parametrize("consume", ways())
async def test_cancelling_the_poller_loses_nothing(
    consume: Consume, record_property: Callable[[str, object], None]
) -> None:
    """The whole block is cancelled, wherever request, store and consumer are; the next life gets what is left."""
    hit: set[tuple[str, ...]] = set()
    ticks = 0
    running = True
    while running:
        world, handled = World(), list[int]()

        async def work(world: World = world, handled: list[int] = handled) -> None:
            async with world.client() as client, world.poller(client) as poller:
                await consume(poller, handled)

        running = await cancelled_after(ticks, work, native=False, hit=hit)
        assert not list(coroutines_of_ours())
        before = list(handled)
        async with world.client() as client, world.poller(client) as poller:
            await drain(world, poller, handled)
        assert set(handled) == set(IDS), f"lost after {ticks} turns"
        again = [message for message in handled[len(before) :] if message in before]
        assert len(again) <= 2
        ticks += 1
    print(f"{consume.__name__}: cancelled at {ticks} turns, {len(hit)} distinct points")  # noqa: T201
    record_property("distinct points", len(hit))
    assert len(hit) >= 8  # trio shuffles its tasks, so the number varies


def coroutines_of_ours() -> Iterator[Any]:
    """Tasks that run our code."""
    for coroutine in coroutines():
        if "his_sms_async" in getattr(getattr(coroutine, "cr_code", None), "co_filename", ""):
            yield coroutine
