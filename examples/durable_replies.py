"""Kill the service in the middle of its work, and start it again: `python examples/durable_replies.py`.

What is settled is kept in a SQLite file. Told an SMS server and a file, this script is the service; else it
starts the stand-in, and then itself as the service, which it kills the hard way and starts again.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from his_sms_async import BearerAuth, IncomingPoller, SmsClient
from his_sms_async.sandbox import Sandbox
from his_sms_async.sql import SqlStore

NAMES = {
    "37000000002": "A. BERZINA",
    "37000000003": "J. OZOLS",
    "37000000004": "L. KALNA",
    "37000000005": "P. LIEPA",
    "37000000006": "M. EGLE",
    "37000000007": "K. VITOLS",
}


async def service(address: str, file: str) -> None:
    """Handle one reply after the other; `start` counts only if the file has no position yet."""
    async with (
        SmsClient(address, auth=BearerAuth("sandbox-token")) as client,
        IncomingPoller(client, start="everything", store=SqlStore(f"sqlite:///{file}"), interval=0.2) as poller,
    ):
        async for delivery in poller.deliveries():
            async with delivery as message:
                what = f"{NAMES[message.sender]:<10}  {message.text!r:<5}  attempt {delivery.attempt}"
                print(f"begins   {what}", flush=True)
                await anyio.sleep(0.5)  # your work
            print(f"handled  {what}", flush=True)  # the file knows it: it never comes again


def run_service(address: str, file: Path, *, until: str) -> list[str]:
    """Run the service in a process of its own until it says something; kill it then, and return what it said."""
    said: list[str] = []
    command = [sys.executable, __file__, address, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - it is this script
        for line in process.stdout or ():
            said.append(line.strip())
            print(said[-1])
            if line.startswith(until):
                process.kill()  # it gets no chance to clean up
                print("killed")
    return said


def main() -> None:
    """Kill the service with a reply in hand, let patients write meanwhile, and sum up what became of all."""
    sandbox = Sandbox()

    def receive(*numbers: str) -> None:
        for number in numbers:
            sandbox.receive(sender=number, recipient="37000000001", text="No" if number[-1] in "35" else "Yes")

    with sandbox.serve() as server, TemporaryDirectory() as directory:
        file = Path(directory, "replies.db")
        receive(*list(NAMES)[:4])
        said = run_service(server.url, file, until="begins   L. KALNA")
        receive(*list(NAMES)[4:])  # while the service is down
        said += run_service(server.url, file, until="handled  K. VITOLS")

    handled = sum(line.startswith("handled") for line in said)
    again = [line for line in said if line.startswith("begins") and not line.endswith("attempt 1")]
    print(f"\n{len(sandbox.received)} replies, {handled} handled; {len(again)} came again, which was in hand")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        anyio.run(service, sys.argv[1], sys.argv[2])
    else:
        main()
