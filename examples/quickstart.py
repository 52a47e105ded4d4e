"""Remind six patients, and receive their answers: `python examples/quickstart.py`.

The SMS server is the stand-in, which this script starts itself. It speaks real HTTP, and sends nothing.
"""

from typing import NamedTuple

import anyio

from his_sms_async import BearerAuth, IncomingPoller, MemoryStore, SendReceipt, SmsClient
from his_sms_async.sandbox import Sandbox

HOSPITAL = "37000000001"


class Appointment(NamedTuple):
    """What the HIS knows; `key` is its own number of the reminder."""

    key: int
    number: str
    name: str
    time: str


APPOINTMENTS = [
    Appointment(27342, "37000000002", "A. BERZINA", "07:00"),
    Appointment(27343, "37000000003", "J. OZOLS", "07:20"),
    Appointment(27344, "37000000004", "L. KALNA", "07:40"),
    Appointment(27345, "37000000005", "P. LIEPA", "08:00"),
    Appointment(27346, "37000000006", "M. EGLE", "08:20"),
    Appointment(27347, "37000000007", "K. VITOLS", "08:40"),
]


async def main(address: str) -> None:
    """Send the reminders, listen to the answers for four seconds, and sum up."""
    async with SmsClient(address, auth=BearerAuth("sandbox-token"), server_timezone="Europe/Vilnius") as client:
        sent = [(await remind(client, one), one) for one in APPOINTMENTS]
        reminded = {receipt.id: one for receipt, one in sent}
        begin = min(receipt.created_at for receipt, _ in sent)

        outcomes: dict[int, str] = {}
        async with IncomingPoller(client, start=begin, store=MemoryStore(), interval=0.2) as poller:
            with anyio.move_on_after(4):
                async for message in poller:
                    if message.reply_to_id in reminded:  # the Id of the reminder that it answers
                        one = reminded[message.reply_to_id]
                        outcomes[message.reply_to_id] = outcome = meaning(message.text)
                        print(f"{outcome:<9}  {one.time}  {one.name:<10}  {message.text!r}")

    print()
    for outcome in ("comes", "cancelled", "call back", "no answer"):
        names = [one.name for id_, one in reminded.items() if outcomes.get(id_, "no answer") == outcome]
        print(f"{outcome:<9}  {len(names)}  {', '.join(names)}")


async def remind(client: SmsClient, one: Appointment) -> SendReceipt:
    """Send one reminder."""
    text = f"Reminding, that {one.name} is registered on 2026-03-10 (Tu) {one.time}. Will You come?"
    receipt = await client.send(sender=HOSPITAL, recipient=one.number, text=text, external_key=one.key)
    print(f"reminded   {one.time}  {one.name}")
    return receipt


def meaning(text: str) -> str:
    """What an answer asks the hospital to do; a later one of the same patient counts."""
    word = text.lower()
    return "comes" if word.startswith("yes") else "cancelled" if word.startswith("no") else "call back"


if __name__ == "__main__":
    sandbox = Sandbox()
    sandbox.patient("37000000002").replies("Yes", after=1.2)
    sandbox.patient("37000000003").replies("No", after=0.4)
    sandbox.patient("37000000004").replies("yes, thank you", after=2.0)
    sandbox.patient("37000000006").replies("Yes", after=0.8)
    sandbox.patient("37000000007").replies("Where is that?", after=1.6)  # and 37000000005 stays silent
    with sandbox.serve() as server:
        anyio.run(main, server.url)
