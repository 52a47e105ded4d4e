"""A delivery by itself, where the order of things depends on when a transaction is looked at."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from fakes import FakeServer, row

from his_sms_async import Delivery, IncomingPoller, MemoryStore
from his_sms_async._known import Entry

pytestmark = pytest.mark.anyio


class Desk:
    """A poller that finds the transaction rolled back just when the consumer asks about it."""

    def __init__(self, poller: Any) -> None:
        self.poller = poller
        self.released = 0
        self.delivery: Delivery | None = None

    async def settle_in(self, tx: Any, entry: Entry, delivery: Delivery, *, again: bool) -> Callable[[], bool]:
        self.delivery = delivery
        return lambda: True

    async def is_settled(self, entry: Entry) -> bool:
        assert self.delivery is not None
        self.delivery.roll_back()
        return False

    def release(self, entry: Entry, delay: float, *, first: bool = False) -> None:
        self.released += 1


async def test_what_is_released_meanwhile_is_released_once() -> None:
    """The poller and the consumer give the message back at the same time."""
    server = FakeServer(rows=[row(1)])
    async with (
        server.client() as client,
        IncomingPoller(client, start="everything", store=MemoryStore()) as poller,
    ):
        with anyio.fail_after(10):
            taken = await anext(poller.deliveries())
        desk: Any = Desk(poller)
        delivery = Delivery(taken._entry, desk, None)
        await delivery.ack("tx")
        await delivery.release()
        assert (delivery.outcome, desk.released) == ("released", 1)
