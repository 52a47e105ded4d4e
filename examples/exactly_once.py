"""Change the appointment and settle the reply in one commit: `python examples/exactly_once.py`.

Both happen or neither, so each reply changes its appointment exactly once, whatever fails. The hospital's
database is a SQLite file here; with PostgreSQL only its URL is another.
"""

from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from his_sms_async import AlreadySettled, BearerAuth, Delivery, IncomingPoller, SmsClient
from his_sms_async.sandbox import Sandbox
from his_sms_async.sql import SqlStore

HOSPITAL = MetaData()
APPOINTMENT = Table(
    "appointment",
    HOSPITAL,
    Column("reminder", Integer, primary_key=True),  # the Id of the SMS that reminded of it
    Column("name", String, nullable=False),
    Column("answer", String),
    Column("changes", Integer, nullable=False, default=0),
)
NAMES = {101: "A. BERZINA", 102: "J. OZOLS", 103: "L. KALNA"}


async def book(engine: AsyncEngine, delivery: Delivery) -> None:
    """Effect and settlement in one commit; an error rolls both back, and the reply comes again."""
    async with delivery as message, engine.begin() as tx:
        change = update(APPOINTMENT).where(APPOINTMENT.c.reminder == message.reply_to_id)
        await tx.execute(change.values(answer=message.text, changes=APPOINTMENT.c.changes + 1))
        await delivery.ack(tx)
        if message.text == "No" and delivery.attempt == 1:
            raise OSError("something fails before the commit")


async def receive(address: str, engine: AsyncEngine) -> None:
    """Book replies for three seconds."""
    async with (
        SmsClient(address, auth=BearerAuth("sandbox-token")) as client,
        IncomingPoller(client, start="everything", store=SqlStore(engine), interval=0.2) as poller,
    ):
        with anyio.move_on_after(3):
            async for delivery in poller.deliveries():
                name = NAMES[delivery.message.reply_to_id or 0]
                what = f"{name:<10}  attempt {delivery.attempt}"
                try:
                    await book(engine, delivery)
                    print(f"committed    {what}")
                    if name == "L. KALNA":
                        await book(engine, delivery)  # the answer to the commit was lost, say: was it made?
                except AlreadySettled:
                    print(f"rolled back  {what}: it has had its effect already")
                except OSError as error:
                    print(f"rolled back  {what}: {error}")


async def main(address: str, database: str) -> None:
    """Prepare the hospital's database, book the replies, and tell how often each appointment was changed."""
    engine = create_async_engine(database)
    try:
        await SqlStore(engine).create_tables()  # or have your migrations do it: SqlStore(…).metadata
        async with engine.begin() as tx:
            await tx.run_sync(HOSPITAL.create_all)
            await tx.execute(insert(APPOINTMENT), [{"reminder": key, "name": NAMES[key]} for key in NAMES])
        await receive(address, engine)
        print()
        async with engine.connect() as connection:
            for row in await connection.execute(select(APPOINTMENT)):
                print(f"{row.name:<10}  {row.answer!r:<5}  changes: {row.changes}")
    finally:
        await engine.dispose()


if __name__ == "__main__":
    if find_spec("aiosqlite") is None:
        raise SystemExit("this example needs SQLite's async driver: pip install aiosqlite")
    sandbox = Sandbox()
    for number, reminder, text in (
        ("37000000002", 101, "Yes"),
        ("37000000003", 102, "No"),
        ("37000000004", 103, "Yes"),
    ):
        sandbox.receive(sender=number, recipient="37000000001", text=text, reply_to=reminder)
    with sandbox.serve() as server, TemporaryDirectory() as directory:
        anyio.run(main, server.url, f"sqlite+aiosqlite:///{Path(directory, 'hospital.db')}")
