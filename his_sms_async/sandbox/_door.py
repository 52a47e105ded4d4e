"""uvicorn behind a door: connections are accepted, or refused as long as a fault says so."""

import asyncio
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import SHUT_RDWR, SOCK_STREAM, create_server, getaddrinfo, socket
from typing import Any, Final
from weakref import WeakSet

import uvicorn

from ._state import Sandbox
from .faults import Refuse

_MOMENT: Final = 0.2  # seconds in which requests in hand are answered when the door is shut
_PATIENCE: Final = 5.0  # seconds


class ServerThread(threading.Thread):
    """The thread of a server, which must not wait for itself, nor for another one that may wait for it."""


class Server(uvicorn.Server):
    """uvicorn in a thread of its own, which shuts its door while a `Refuse` is switched on.

    All is done in its event loop; other threads only ask for it.
    """

    def __init__(self, sandbox: Sandbox, config: uvicorn.Config, listener: "Listener") -> None:
        super().__init__(config)
        self.servers = []  # empty while connections are refused
        self._sandbox = sandbox
        self._listener = listener
        # This loop calls `listener.accept` on every platform; the usual one of Windows does not.
        self._loop = asyncio.SelectorEventLoop()
        self._order = asyncio.Event()  # to look at the faults, and whether to end
        self._refused_since: dict[int, float] = {}  # by the id of the switch, monotonic
        self.ended = threading.Event()
        """Set when the server has ended. An interrupted `Thread.join` takes a thread for dead that still runs."""
        self._thread = ServerThread(target=self._run, name="his-sms-sandbox", daemon=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run while the block lasts."""
        self._thread.start()
        self._sandbox.doors.append(self._obey)
        try:
            self._obey()  # until it has begun, or the door is shut by a fault that was switched on before
            yield
        finally:
            self._sandbox.doors.remove(self._obey)
            self.should_exit = True
            self._give_order()
            while not self.ended.wait(0.02):
                self._listener.hang_up()  # more than once: it takes a moment until nobody is let in any more
            self._thread.join()
            self._listener.close()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self.serve([self._listener]))
        finally:
            self.ended.set()

    async def main_loop(self) -> None:
        """Keep the door until the server is to end; uvicorn's own would look at that ten times a second."""
        await self.on_tick(0)  # for the headers of all answers
        while not self.should_exit:
            times = self._times_left()
            if times and self.servers:
                await self._shut()
            elif not times and not self.servers:
                await self._open()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(times, default=None)):
                    await self._order.wait()
            self._order.clear()
        if self.servers:
            await self._accept_no_more()

    def _obey(self) -> None:
        """Shut or open the door as the faults say now, and wait until that is so."""
        self._give_order()
        deadline = time.monotonic() + _PATIENCE
        while (
            (not self.started or self._is_refusing() == bool(self.servers))
            and not isinstance(threading.current_thread(), ServerThread)
            and not self.ended.is_set()
            and time.monotonic() < deadline
        ):
            time.sleep(0.001)

    def _give_order(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has just ended
            self._loop.call_soon_threadsafe(self._order.set)

    async def _accept_no_more(self) -> None:
        """Let nobody in; who just came gets a transport, for asyncio (3.11) trips over a server that is closed."""
        self._loop.remove_reader(self._listener)
        await asyncio.sleep(0)

    async def _shut(self) -> None:
        await self._accept_no_more()
        for server in self.servers:
            server.close()
        self.servers = []
        for connection in list(self.server_state.connections):
            connection.shutdown()  # once it is answered what was asked
        self._loop.call_later(_MOMENT, self._listener.hang_up)

    async def _open(self) -> None:
        self._listener.hang_up()
        while not self.should_exit:
            with suppress(OSError):  # somebody else has the port
                self._listener = self._listener.again()
                await self.startup([self._listener])
                return
            await asyncio.sleep(0.05)

    def _is_refusing(self) -> bool:
        return any(isinstance(switch.fault, Refuse) for switch in self._sandbox.faults)

    def _times_left(self) -> list[float]:
        """Return for how many seconds each fault refuses connections yet; those that are over are switched off."""
        times = []
        for switch in self._sandbox.faults:
            if not isinstance(switch.fault, Refuse):
                continue
            since, seconds = self._refused_since.setdefault(switch.id, time.monotonic()), switch.fault.seconds
            left = math.inf if seconds is None else since + seconds - time.monotonic()
            if left > 0:
                times.append(left)
            else:
                with suppress(LookupError):  # another server was quicker
                    self._sandbox.faults.remove(switch)
        return times


class Listener(socket):
    """Listens, and remembers whom it let in, so that it can hang up on them at the end.

    asyncio waits half a minute for a TLS client that does not say goodbye, and uvicorn for asyncio.
    """

    def __init__(self, host: str, port: int) -> None:
        family, _, _, _, address = getaddrinfo(host, port, type=SOCK_STREAM)[0]
        super().__init__(fileno=create_server(address[:2], family=family).detach())
        self._address = (host, self.getsockname()[1])
        self._lock = threading.RLock()
        self._accepted = WeakSet[socket]()

    def accept(self) -> tuple[socket, Any]:
        """Let the next one in."""
        connection, address = super().accept()
        with self._lock:
            self._accepted.add(connection)
        return connection, address

    def again(self) -> "Listener":
        """Listen at the same address, after this one was closed.

        Raises:
            OSError: Somebody else does.
        """
        return Listener(*self._address)

    def hang_up(self) -> None:
        """End all connections, so that the event loop hears that they are over and closes them."""
        with self._lock:
            for connection in self._accepted:
                with suppress(OSError):  # over already
                    connection.shutdown(SHUT_RDWR)
