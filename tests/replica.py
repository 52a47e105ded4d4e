"""Replicas of a service as processes: the program that each of them runs, and the team of them in a test's hand.

The program says what it does in lines of JSON on its standard output. A byte on its standard input lets the
handlers go on that wait, now and later; the end of the input ends it.
"""

import ctypes
import json
import os
import platform
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import attrs
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from his_sms_async import BearerAuth, Delivery, IncomingPoller, SmsClient
from his_sms_async._clock import SystemClock
from his_sms_async.sandbox import Sandbox
from his_sms_async.sql import SqlStore

PATIENCE = 20.0  # seconds after which something never happens

EFFECT = text("INSERT INTO effect VALUES (:message_id, :attempt, :replica, clock_timestamp())")

# No key keeps a second effect out. The database itself notes how long after the end of a lease another led.
TABLES = """
    CREATE TABLE effect (message_id bigint, attempt int, replica text, at timestamptz);
    CREATE TABLE change (epoch int, late double precision);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO change VALUES (NEW.epoch, extract(epoch FROM clock_timestamp()) - OLD.lease_until);
        RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER UPDATE ON his_sms_poller FOR EACH ROW
        WHEN (NEW.epoch > OLD.epoch) EXECUTE FUNCTION note();
"""

Line = dict[str, Any]


# --- in the process


class RolledBack(Exception):
    """The handler does not want its transaction any more."""


@attrs.define(eq=False)
class ShiftedClock(SystemClock):
    """A clock that somebody has set wrong."""

    ahead: float

    def time(self) -> float:
        """Seconds since 1970, and some more."""
        return super().time() + self.ahead


@attrs.define(eq=False, kw_only=True)
class Replica:
    """A poller and its handlers."""

    name: str
    server: str
    """The SMS server's address."""
    database: str
    """Its driver decides: a sync `Engine` under trio, or an `AsyncEngine`."""
    lease: float
    ahead: float = 0.0
    """Seconds by which its clock is ahead of the others'."""
    work: float = 0.0
    """Seconds that each step of a handler takes, at most."""
    freezes_at: str | None = None
    """A word with which the statement begins that is the last before the process is suspended."""
    engine: Engine | AsyncEngine = attrs.field(init=False)
    may_go_on: anyio.Event = attrs.field(init=False, factory=anyio.Event)

    def __attrs_post_init__(self) -> None:
        is_async = "asyncpg" in self.database
        self.engine = create_async_engine(self.database) if is_async else create_engine(self.database)
        if self.freezes_at is not None:
            sync_engine = self.engine.sync_engine if isinstance(self.engine, AsyncEngine) else self.engine
            event.listen(sync_engine, "after_cursor_execute", self.freeze)

    async def run(self) -> None:
        """Handle replies until the end of the input."""
        async with (
            SmsClient(self.server, auth=BearerAuth("sandbox-token")) as client,
            IncomingPoller(
                client,
                start="everything",
                store=SqlStore(self.engine, lease=self.lease),
                interval=0.1,
                backoff_base=0.1,
                backoff_max=0.4,
                clock=ShiftedClock(self.ahead),
            ) as poller,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self.watch, poller)
            tasks.start_soon(self.obey, tasks.cancel_scope)
            async for delivery in poller.deliveries():
                tasks.start_soon(self.try_to_handle, delivery)
        if isinstance(self.engine, AsyncEngine):
            await self.engine.dispose()
        else:
            self.engine.dispose()

    async def try_to_handle(self, delivery: Delivery) -> None:
        """Handle a reply; if that fails, it comes again."""
        self.say("begun", id=delivery.message.id, attempt=delivery.attempt)
        try:
            async with delivery:
                await self.handle(delivery)
        except Exception as error:  # noqa: BLE001 - a stopped database has many
            self.say("failed", id=delivery.message.id, error=type(error).__name__)
        else:
            self.say("done", id=delivery.message.id, attempt=delivery.attempt)

    async def handle(self, delivery: Delivery) -> None:
        """Have the effect and the settlement in one commit; the text says where the first handler waits."""
        message, attempt = delivery.message, delivery.attempt
        await self.step("before", delivery)
        async with self.begin() as tx:
            values = {"message_id": message.id, "attempt": attempt, "replica": self.name}
            if isinstance(tx, Connection):
                tx.execute(EFFECT, values)
            else:
                await tx.execute(EFFECT, values)
            await self.step("inside", delivery)
            await delivery.ack(tx)
            await self.step("acked", delivery)
            await self.step("undone", delivery)
            if message.text == "undone" and attempt == 1:
                raise RolledBack

    async def step(self, name: str, delivery: Delivery) -> None:
        """Work; the first handler of a reply with this text waits to be told to go on."""
        await anyio.sleep(random.random() * self.work)
        if delivery.message.text == name and delivery.attempt == 1:
            self.say("waits", id=delivery.message.id)
            await self.may_go_on.wait()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Connection | AsyncConnection]:
        """A transaction of the consumer's; where it is sync it holds up the loop for as long as it takes."""
        if isinstance(self.engine, AsyncEngine):
            async with self.engine.begin() as connection:
                yield connection
        else:
            with self.engine.begin() as connection:
                yield connection

    async def watch(self, poller: IncomingPoller) -> None:
        """Say again and again how the poller is doing."""
        while True:
            health = poller.health()
            until = None if health.lease_until is None else health.lease_until.timestamp()
            role = "starting" if health.leader is None else health.role
            self.say(role, leader=health.leader, lease_until=until, fails=health.consecutive_failures > 0)
            await anyio.sleep(0.05)

    async def obey(self, everything: anyio.CancelScope) -> None:
        """Listen to the parent."""
        await anyio.wait_readable(sys.stdin)
        while os.read(sys.stdin.fileno(), 1):
            self.may_go_on.set()
            await anyio.wait_readable(sys.stdin)
        everything.cancel()

    def freeze(self, connection: Any, cursor: Any, statement: str, *_: object) -> None:
        """Suspend this process once, between two statements of a transaction of the store's."""
        if self.freezes_at is not None and statement.startswith(self.freezes_at):
            self.freezes_at = None
            self.say("frozen")
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # before this thread can go on

    def say(self, what: str, **facts: Any) -> None:
        """Tell the parent; Linux has one monotonic clock for all processes."""
        line = {"what": what, "replica": self.name, "at": time.monotonic()} | facts
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


# --- in the test


@attrs.frozen(eq=False)
class Member:
    """A replica's process."""

    name: str
    process: subprocess.Popen[bytes]

    @property
    def holder(self) -> str:
        """How the store calls it."""
        return f"{platform.node()}:{self.process.pid}"

    def go_on(self) -> None:
        """Let its handlers go on that wait."""
        assert self.process.stdin
        self.process.stdin.write(b"!")
        self.process.stdin.flush()

    def suspend(self) -> float:
        """Have it stand still; return since when."""
        os.kill(self.process.pid, signal.SIGSTOP)
        return self.stands_still()

    def stands_still(self) -> float:
        """Wait until it is suspended, whoever did that; return when it was."""
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        return time.monotonic()

    def resume(self) -> float:
        """Have it run again; return since when."""
        resumed_at = time.monotonic()
        os.kill(self.process.pid, signal.SIGCONT)
        return resumed_at

    def kill(self) -> float:
        """End it without a word; return when that was done."""
        self.process.kill()
        self.process.wait()
        return time.monotonic()

    def end(self) -> int:
        """Ask it to end; return its exit code."""
        assert self.process.stdin
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        return self.process.wait(PATIENCE)


class Team:
    """The replicas of a service, what they say, and the patients who reply."""

    def __init__(self, server: str, sandbox: Sandbox, database: str, driver: str, lease: float) -> None:
        self.sandbox, self.engine = sandbox, create_engine(database, poolclass=NullPool)
        self.settings = {"server": server, "database": database.replace("psycopg", driver), "lease": lease}
        self.members: dict[str, Member] = {}
        self.lines: list[Line] = []
        self._news = threading.Condition()
        SqlStore(self.engine).metadata.create_all(self.engine)
        with self.engine.begin() as connection:
            connection.execute(text(TABLES))

    # --- the replicas ---

    def start(self, **options: Any) -> Member:
        """Start one more."""
        name = str(len(self.members))
        command = (sys.executable, "-W", "error", __file__, json.dumps(self.settings | {"name": name} | options))
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        member = self.members[name] = Member(name, process)
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        return member

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        with process.stdout:
            for said in process.stdout:
                with self._news:
                    self.lines.append(json.loads(said))
                    self._news.notify_all()

    def start_several(self, *options: dict[str, Any]) -> Member:
        """Start some at the same time; return the one that leads when all others stand by."""
        members = [self.start(**one) for one in options]
        leader = self.leader()
        for member in members:
            if member is not leader:
                self.until(what="standby", replica=member.name, leader=leader.holder)
        return leader

    def leader(self, *, after: float = 0.0) -> Member:
        """Wait until one leads."""
        return self.members[self.until(what="leading", after=after)["replica"]]

    def kill(self) -> None:
        """End all, suspended or not."""
        for member in self.members.values():
            member.kill()
            member.end()

    # --- what they say ---

    def until(self, *, after: float = 0.0, **facts: Any) -> Line:
        """Wait for a line with these facts, said after a moment, maybe already."""
        gives_up_at = time.monotonic() + PATIENCE
        number = 0
        with self._news:
            while True:
                for line in self.lines[number:]:
                    if line["at"] > after and facts.items() <= line.items():
                        return line
                number = len(self.lines)
                if not self._news.wait(gives_up_at - time.monotonic()):
                    last = {(line["replica"], line["what"]): line for line in self.lines}
                    msg = f"nobody said {facts}; the last of each kind: {[*last.values()]}"
                    raise TimeoutError(msg)

    def listen_to(self, lines: int) -> None:
        """Wait until so many more lines have been said."""
        with self._news:
            enough = len(self.lines) + lines
            assert self._news.wait_for(lambda: len(self.lines) >= enough, PATIENCE)

    def report(self, measured: str) -> None:
        """Tell a person."""
        print(measured)  # noqa: T201 - these times are what the tests are for

    # --- the replies ---

    def receive(self, words: str = "Yes", *, patient: int | None = None) -> int:
        """Have a patient reply, a new one unless told who; return the reply's Id."""
        patient = 10_000 + len(self.sandbox.received) if patient is None else patient
        return self.sandbox.receive(sender=f"3706{patient:07}", recipient="37000000001", text=words).id

    def in_hand(self, *places: str) -> list[int]:
        """Have patients reply whose first handlers wait at these places; return when all do."""
        replies = [self.receive(place) for place in places]
        for reply in replies:
            self.until(what="waits", id=reply)
        return replies

    def handled(self, *replies: int, **facts: Any) -> None:
        """Wait until they are."""
        for reply in replies:
            self.until(what="done", id=reply, **facts)

    # --- what the database knows ---

    def rows(self, query: str) -> list[Any]:
        """Ask it."""
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    def take_overs(self) -> list[float | None]:
        """Seconds after the end of the last lease, by the database's clock, for each; None if it was given up."""
        return [late for (late,) in self.rows("SELECT late FROM change WHERE epoch > 1 ORDER BY epoch")]

    def tally(self) -> dict[int, tuple[int, str]]:
        """End all; return attempt and replica of each reply's effect: there is one, and one settlement."""
        running = [member for member in self.members.values() if member.process.poll() is None]
        assert [member.end() for member in running] == [0] * len(running)
        effects = self.rows("SELECT message_id, attempt, replica FROM effect ORDER BY message_id")
        replies = [message.id for message in self.sandbox.received]
        assert [effect[0] for effect in effects] == replies
        assert [row[0] for row in self.rows("SELECT message_id FROM his_sms_settlement ORDER BY 1")] == replies
        return {reply: (attempt, replica) for reply, attempt, replica in effects}


if __name__ == "__main__":
    # A suspended process does not see the end of its input: killed with the parent, however that ends.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    replica = Replica(**json.loads(sys.argv[1]))
    anyio.run(replica.run, backend="asyncio" if isinstance(replica.engine, AsyncEngine) else "trio")
