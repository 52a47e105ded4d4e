"""Handle several replies at the same time: `python examples/concurrent_handlers.py`.

Each delivery is settled on its own: acknowledged, rejected, or released to come again. Two messages of one
patient are never in hand at the same time, so that "Yes", then "No" cannot become "No", then "Yes".
"""

import anyio

from his_sms_async import BearerAuth, Delivery, IncomingPoller, MemoryStore, SmsClient
from his_sms_async.sandbox import Sandbox

NAMES = {"37000000002": "A. BERZINA", "37000000003": "J. OZOLS", "37000000004": "L. KALNA"}


async def main(address: str) -> None:
    """Give each delivery a task of its own, three at most, for two seconds."""
    async with (
        SmsClient(address, auth=BearerAuth("sandbox-token")) as client,
        IncomingPoller(client, start="everything", store=MemoryStore(), interval=0.2) as poller,
    ):
        with anyio.move_on_after(2):
            async with anyio.create_task_group() as tasks:
                async for delivery in poller.deliveries(max_in_flight=3):
                    tasks.start_soon(handle, delivery)
        health = poller.health()
        print(f"\nleft over: {health.buffered + health.in_hand}, rejected: {health.rejected}")


async def handle(delivery: Delivery) -> None:
    """Book what a patient wrote, which takes a while, and settle it."""
    message = delivery.message
    what = f"{NAMES[message.sender]:<10}  {message.text!r:<16}  attempt {delivery.attempt}"
    print(f"begins    {what}")
    await anyio.sleep(0.1)
    if message.text not in ("Yes", "No"):
        await delivery.reject("neither Yes nor No")  # kept in the store; a person reads it
    elif message.id == 1 and delivery.attempt == 1:
        await delivery.release(delay=0.5)  # the record is locked, say: it comes again
    else:
        await delivery.ack()
    print(f"{delivery.outcome:<8}  {what}")


if __name__ == "__main__":
    sandbox = Sandbox()
    for sender, text in (
        ("37000000002", "Yes"),
        ("37000000002", "No"),  # waits until her first message is settled
        ("37000000003", "Yes"),
        ("37000000004", "Who are you?"),
    ):
        sandbox.receive(sender=sender, recipient="37000000001", text=text)
    with sandbox.serve() as server:
        anyio.run(main, server.url)
