"""The consumer that `test_crash.py` kills: a program that has everything imported, and forks for each life.

It reads a `Life` as a line of JSON, forks a process that consumes until everything is settled or it has killed
itself, and writes how that ended as a line of JSON. Until it forks it has neither threads nor an event loop.
"""

import faulthandler
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any

import anyio
import attrs
import httpx
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from his_sms_async import BearerAuth, Delivery, IncomingPoller, SmsClient
from his_sms_async.sql import SqlStore


class Window(StrEnum):
    """Where a process may be killed."""

    BEFORE_STATEMENT = "before a statement of the store"
    AFTER_STATEMENT = "after a statement of the store"
    BEFORE_COMMIT = "before a commit"
    AFTER_COMMIT = "after a commit"
    BEFORE_EFFECT = "before the effect"
    EFFECT_TO_ACK = "between effect and ack"
    ACK_TO_COMMIT = "between ack and commit"
    """With `ack(tx)` only; else the ack is durable when it returns."""
    AFTER_ACK = "after the ack is durable"
    BEFORE_REQUEST = "before a request"
    AT_HEADERS = "when its headers are there"
    IN_BODY = "in its body"


EFFECT = sa.Table(
    "effect", sa.MetaData(), sa.Column("message_id", sa.BigInteger), sa.Column("attempt", sa.Integer)
)
"""What became of each reply, in the store's database; nothing in it keeps an effect from being had twice."""

# Else each process would import these for itself.
_LATE = ("anyio._backends._asyncio", "asyncpg", "httpcore", "psycopg", "sqlalchemy.dialects.postgresql", "trio")


@attrs.frozen(kw_only=True)
class Life:
    """What one process is to do."""

    database: str
    server: str
    in_transaction: bool
    """Effect and ack in one transaction, or the ack on its own after the effect was committed."""
    consumers: int
    """Tasks, each with one delivery in hand."""
    window: Window | None = None
    """Where it kills itself; None lets it live until everything is settled."""
    nth: int = 0
    """The how-manieth time it comes there."""


@attrs.define(eq=False)
class Killer:
    """Counts how often each point is reached, in whatever thread, and kills this process at one of them."""

    window: Window | None
    nth: int
    counts: Counter[Window] = attrs.field(init=False, factory=Counter)
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock)

    def reach(self, window: Window) -> None:
        """Be at a point of a window."""
        with self._lock:
            self.counts[window] += 1
            if window == self.window and self.counts[window] == self.nth:
                os.kill(os.getpid(), signal.SIGKILL)  # it does not return

    def watch(self, engine: sa.Engine) -> None:
        """Be told of the store's statements, and of everybody's commits."""

        def at(window: Window) -> Callable[..., None]:
            def reach(_: Any, __: Any, statement: str, *___: Any) -> None:
                if "his_sms_" in statement and not statement.startswith("PRAGMA"):  # which only looks for tables
                    self.reach(window)

            return reach

        def commit(dbapi_connection: Any) -> None:
            self.reach(Window.BEFORE_COMMIT)
            do_commit(dbapi_connection)
            self.reach(Window.AFTER_COMMIT)

        sa.event.listen(engine, "before_cursor_execute", at(Window.BEFORE_STATEMENT))
        sa.event.listen(engine, "after_cursor_execute", at(Window.AFTER_STATEMENT))
        do_commit, engine.dialect.do_commit = engine.dialect.do_commit, commit  # type: ignore[method-assign]


@attrs.define(eq=False)
class Wire(httpx.AsyncBaseTransport):
    """The network, with points before a request, at the headers of its answer and in the middle of its body."""

    _killer: Killer
    _at_request: Callable[[], None]
    _network: httpx.AsyncHTTPTransport = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._network = httpx.AsyncHTTPTransport(verify=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._at_request()
        self._killer.reach(Window.BEFORE_REQUEST)
        response = await self._network.handle_async_request(request)
        self._killer.reach(Window.AT_HEADERS)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Halves(response.stream, self._killer)
        return response

    async def aclose(self) -> None:
        await self._network.aclose()


@attrs.define(eq=False)
class _Halves(httpx.AsyncByteStream):
    """A body whose pieces come in halves."""

    _body: httpx.AsyncByteStream
    _killer: Killer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._body:
            yield piece[: len(piece) // 2]
            self._killer.reach(Window.IN_BODY)
            yield piece[len(piece) // 2 :]

    async def aclose(self) -> None:
        await self._body.aclose()


@attrs.define(eq=False)
class Consumer:
    """A service with its own database, until everything is settled."""

    _life: Life
    _killer: Killer
    _engine: sa.Engine | AsyncEngine = attrs.field(init=False)
    _busy: int = attrs.field(init=False, default=0)
    _request: anyio.Event = attrs.field(init=False, factory=anyio.Event)
    """Set, and replaced, when a request begins."""

    def __attrs_post_init__(self) -> None:
        url = sa.make_url(self._life.database)
        engine = self._engine = create_async_engine(url) if url.get_dialect().is_async else sa.create_engine(url)
        self._killer.watch(engine.sync_engine if isinstance(engine, AsyncEngine) else engine)

    async def consume(self) -> None:
        """Poll as fast as it goes; a request that begins when nothing is left to do is the last."""
        settled = anyio.Event()

        def look() -> None:
            self._request.set()
            self._request = anyio.Event()
            health = poller.health()
            if health.last_ok_age is not None and health.oldest_unsettled_age is None and not self._busy:
                settled.set()

        wire, auth, store = Wire(self._killer, look), BearerAuth("sandbox-token"), SqlStore(self._engine)
        client = SmsClient(self._life.server, auth=auth, server_timezone="Europe/Vilnius", transport=wire)
        poller = IncomingPoller(client, start="everything", store=store, interval=0.005)
        async with client, poller, anyio.create_task_group() as tasks:
            for _ in range(self._life.consumers):
                tasks.start_soon(self._work, poller)
            await settled.wait()
            tasks.cancel_scope.cancel()
        if isinstance(self._engine, AsyncEngine):
            await self._engine.dispose()

    async def _work(self, poller: IncomingPoller) -> None:
        async for delivery in poller.deliveries(max_in_flight=1):
            self._busy += 1
            await self._handle(delivery)
            self._busy -= 1

    async def _handle(self, delivery: Delivery) -> None:
        await self._request.wait()  # so that one is under way while this is done
        self._killer.reach(Window.BEFORE_EFFECT)
        async with self._begin() as tx:
            effect = EFFECT.insert().values(message_id=delivery.message.id, attempt=delivery.attempt)
            await tx.execute(effect) if isinstance(tx, AsyncConnection) else tx.execute(effect)
            if self._life.in_transaction:
                self._killer.reach(Window.EFFECT_TO_ACK)
                await delivery.ack(tx)
                self._killer.reach(Window.ACK_TO_COMMIT)
        if not self._life.in_transaction:
            await self._request.wait()
            self._killer.reach(Window.EFFECT_TO_ACK)
            await delivery.ack()
        self._killer.reach(Window.AFTER_ACK)

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[sa.Connection | AsyncConnection]:
        if isinstance(self._engine, AsyncEngine):
            async with self._engine.begin() as tx:
                yield tx
        else:
            with self._engine.begin() as tx:
                yield tx


def live(life: Life) -> Counter[Window]:
    """Consume until everything is settled; return how often each point was reached."""
    killer = Killer(life.window, life.nth)
    faulthandler.dump_traceback_later(30, exit=True)  # a life that hangs shows where, and ends
    anyio.run(Consumer(life, killer).consume)
    return killer.counts


def main() -> None:
    """Fork a process for each line."""
    for module in _LATE:
        importlib.import_module(module)
    for line in sys.stdin:
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            code = 1
            try:
                os.write(writing, json.dumps(live(Life(**json.loads(line)))).encode())
                code = 0
            except BaseException:  # noqa: BLE001 - nothing of the parent's may run on in its child
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writing)
        with os.fdopen(reading) as said:
            counts = json.loads(said.read() or "{}")
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        sys.stdout.write(json.dumps([code, counts]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
