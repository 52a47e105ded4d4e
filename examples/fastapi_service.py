"""A FastAPI service that reminds patients and receives their answers.

`python examples/fastapi_service.py` shows it against the stand-in. With the README's `HIS_SMS_…` variables set
it is a service: `uvicorn fastapi_service:app`.
"""

import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from socket import create_server
from typing import Any

import anyio
import attrs
import httpx

from his_sms_async import IncomingPoller, MemoryStore, Message, SmsClient, SmsError
from his_sms_async.sandbox import RunningSandbox, Sandbox

try:
    import uvicorn
    from fastapi import FastAPI, Response
except ImportError:
    raise SystemExit("this example needs FastAPI and uvicorn: pip install fastapi uvicorn") from None

logger = logging.getLogger("reminders")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Receive replies for as long as the service runs; a missing setting keeps it from starting."""
    interval = float(os.environ.get("REMINDERS_INTERVAL", "10"))
    begin = datetime.now(UTC) - timedelta(days=2)  # a MemoryStore forgets: what came since then comes again
    async with (
        SmsClient.from_env() as client,
        IncomingPoller(client, start=begin, store=MemoryStore(), interval=interval) as poller,
        anyio.create_task_group() as tasks,
    ):
        app.state.client, app.state.poller, app.state.answers = client, poller, {}
        tasks.start_soon(receive, app)
        yield
        tasks.cancel_scope.cancel()


async def receive(app: FastAPI) -> None:
    """Handle replies; when that ends for good, the health endpoint says so, and the service is restarted."""

    async def handle(message: Message) -> None:
        app.state.answers[message.reply_to_id] = message.text

    try:
        await app.state.poller.run(handle)
    except SmsError:
        logger.exception("no more replies are received")


app = FastAPI(lifespan=lifespan)


@app.get("/health")
async def health(response: Response) -> dict[str, Any]:
    """Tell probes how the poller is doing; nothing in it is about a patient."""
    state = app.state.poller.health()
    response.status_code = 200 if state.is_ready else 503
    return attrs.asdict(state)


@app.post("/reminders/{key}")
async def remind(key: int, recipient: str, text: str) -> int:
    """Send a reminder, and return its Id."""
    receipt = await app.state.client.send(sender="37000000001", recipient=recipient, text=text, external_key=key)
    return int(receipt.id)


@app.get("/answers/{reminder}")
async def answer(reminder: int) -> str | None:
    """Tell what the patient answered."""
    text: str | None = app.state.answers.get(reminder)
    return text


async def demonstrate(server: RunningSandbox) -> None:
    """Serve the app, use it as its neighbours in the hospital would, and shut it down."""
    os.environ |= {
        "HIS_SMS_BASE_ADDRESS": server.url,
        "HIS_SMS_TOKEN": "sandbox-token",
        "HIS_SMS_SERVER_TIMEZONE": "Europe/Vilnius",
        "REMINDERS_INTERVAL": "0.2",
    }
    listener = create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    service = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    async with anyio.create_task_group() as tasks, httpx.AsyncClient(base_url=address, trust_env=False) as http:
        tasks.start_soon(service.serve, [listener])

        probe = await ask(http, "/health", until=lambda response: response.status_code == 200)
        print("GET /health:", probe.status_code, {name: probe.json()[name] for name in ("role", "is_ready")})

        reminder = {"recipient": "37000000003", "text": "Will You come?"}
        id_ = (await http.post("/reminders/27342", params=reminder)).json()
        print("POST /reminders/27342: the SMS server took it")

        answered = await ask(http, f"/answers/{id_}", until=lambda response: response.json() is not None)
        print(f"GET /answers/{id_}: the patient wrote {answered.json()!r}")

        service.should_exit = True
    print("shut down:", app.state.poller, app.state.client)


async def ask(http: httpx.AsyncClient, path: str, *, until: Callable[[httpx.Response], bool]) -> httpx.Response:
    """Ask again and again, as a load balancer or a web page does."""
    while not until(response := await http.get(path)):  # noqa: ASYNC110 - HTTP has no events to wait for
        await anyio.sleep(0.1)
    return response


if __name__ == "__main__":
    with Sandbox(patients={"*": "No"}, answer_after=0.5).serve() as running:
        anyio.run(demonstrate, running)
