"""Time as a parameter, so that tests can turn it."""

import time
from typing import Protocol

import anyio


class Clock(Protocol):
    """Where a poller gets its time from."""

    def monotonic(self) -> float:
        """Elapsed seconds since any moment."""
        ...

    def time(self) -> float:
        """Seconds since 1970, UTC."""
        ...

    async def wait(self, event: anyio.Event, until: float | None) -> None:
        """Wait until the event is set, or `monotonic()` has reached a moment (None: never)."""
        ...


class SystemClock:
    """This machine's clock."""

    def monotonic(self) -> float:
        """Elapsed seconds since any moment; also outside the event loop, where health checks run."""
        return time.monotonic()

    def time(self) -> float:
        """Seconds since 1970, UTC."""
        return time.time()

    async def wait(self, event: anyio.Event, until: float | None) -> None:
        """Wait until the event is set, or `monotonic()` has reached a moment (None: never)."""
        with anyio.move_on_after(None if until is None else max(0.0, until - time.monotonic())):
            await event.wait()
