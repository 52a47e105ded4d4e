"""Publish each reply to a message broker, and settle it when the broker has it: `python examples/to_broker.py`.

What fails in between is published again, under the same message id, by which NATS JetStream recognises it.
The broker is FastStream's own in memory, which drops nothing; or yours: `--broker nats://…`, where a stream
`example` is made.
"""

import argparse
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import anyio

from his_sms_async import BearerAuth, Delivery, IncomingPoller, SmsClient
from his_sms_async.sandbox import Sandbox
from his_sms_async.sql import SqlStore

try:
    from faststream import Header
    from faststream.nats import DeliverPolicy, JStream, NatsBroker, TestNatsBroker
    from nats.errors import Error as NatsError
except ImportError:
    raise SystemExit("this example needs FastStream with NATS: pip install 'faststream[nats]'") from None

SUBJECT = "example.replies"
STREAM = JStream("example", duplicate_window=3600)  # for so many seconds it remembers message ids
NAMES = {101: "A. BERZINA", 102: "J. OZOLS", 103: "L. KALNA"}


async def publish(broker: NatsBroker, delivery: Delivery) -> None:
    """Return when the broker has stored it; whoever subscribes needs no phone number."""
    async with delivery as message:  # left by an exception, the reply comes again; else it is settled
        await broker.publish(
            {"reminder": message.reply_to_id, "text": message.text},
            SUBJECT,
            stream=STREAM.name,  # and so it waits for JetStream's answer
            headers={"Nats-Msg-Id": f"{message.id} {message.created_at}"},  # an Id alone may be used again
        )
        if message.text == "No" and delivery.attempt == 1:
            raise OSError("something fails before it is settled")


async def forward(address: str, file: Path, broker: NatsBroker) -> None:
    """Publish replies for three seconds."""
    async with (
        SmsClient(address, auth=BearerAuth("sandbox-token")) as client,
        IncomingPoller(client, start="everything", store=SqlStore(f"sqlite:///{file}"), interval=0.2) as poller,
    ):
        with anyio.move_on_after(3):
            async for delivery in poller.deliveries():
                what = f"{NAMES[delivery.message.reply_to_id or 0]:<10}  attempt {delivery.attempt}"
                try:
                    await publish(broker, delivery)
                    print(f"settled   {what}")
                except (NatsError, OSError) as error:
                    print(f"released  {what}: {error}")


async def main(address: str, file: Path, url: str | None) -> None:
    """Forward replies, and show what a subscriber receives."""
    broker = NatsBroker(url or [], logger=None)
    received = Counter[str]()

    @broker.subscriber(SUBJECT, stream=STREAM, deliver_policy=DeliverPolicy.NEW)
    async def receive(reply: dict[str, Any], message_id: Annotated[str, Header("Nats-Msg-Id")]) -> None:
        received[message_id] += 1
        print(f"received  {NAMES[reply['reminder']]:<10}  {reply['text']!r}")

    async with broker if url else TestNatsBroker(broker, connect_only=False):
        await broker.start()
        await forward(address, file, broker)
    print(f"\nreceived {received.total()}, with {len(received)} message ids")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", metavar="URL")
    options = parser.parse_args()
    sandbox = Sandbox()
    for number, reminder, text in (
        ("37000000002", 101, "Yes"),
        ("37000000003", 102, "No"),
        ("37000000004", 103, "Yes"),
    ):
        sandbox.receive(sender=number, recipient="37000000001", text=text, reply_to=reminder)
    with sandbox.serve() as server, TemporaryDirectory() as directory:
        anyio.run(main, server.url, Path(directory, "replies.db"), options.broker)
