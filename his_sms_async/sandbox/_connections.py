"""How an answer gets on the wire: as HTTP through uvicorn, or past it where a fault breaks the connection."""

import asyncio
import os
import struct
from itertools import chain
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, Final, cast

import anyio
import anyio.lowlevel
import attrs
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ._answers import Answer

# struct linger: on, and for no time at all; with it, closing a connection is a reset
_NO_LINGER: Final = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


class Protocol(H11Protocol):
    """uvicorn's HTTP, which shows each request the connection that it came by."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = self.app_state | {"transport": transport}


@attrs.frozen(eq=False)
class Reply:
    """The ASGI application that writes an `Answer`, `delay` seconds late."""

    answer: Answer
    delay: float = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.delay and await _is_given_up(receive, within=self.delay):
            return
        answer = self.answer
        if answer.ending == "complete" and not answer.is_raw:
            await self._send(send)
            return
        if answer.ending == "reset":
            transport = _transport(scope)
            transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, _NO_LINGER)
            transport.abort()
        elif answer.is_raw:
            transport = _transport(scope)
            transport.writelines(answer.pieces)
            transport.close()
        elif answer.ending == "cut":
            transport = _transport(scope)
            await self._send(send)
            transport.close()
        await _is_given_up(receive)

    async def _send(self, send: Send) -> None:
        answer, headers = self.answer, dict(self.answer.headers)
        is_cut = answer.ending == "cut"
        pieces = iter(answer.pieces)
        first, second = next(pieces, b""), next(pieces, None)
        if second is None:
            headers.setdefault("Content-Length", str(len(first)))
            pieces = iter([first[: len(first) // 2] if is_cut else first])
        else:
            pieces = iter([first]) if is_cut else chain([first, second], pieces)
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await anyio.lowlevel.checkpoint()
        if not is_cut:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _is_given_up(receive: Receive, *, within: float | None = None) -> bool:
    """Wait until the client hangs up, at most so many seconds, and return whether it did."""
    with anyio.move_on_after(within):
        while (await receive())["type"] != "http.disconnect":
            pass
        return True
    return False


def _transport(scope: Scope) -> asyncio.Transport:
    """Return the connection of a request.

    Raises:
        RuntimeError: There is none: the application is called directly.
    """
    state: dict[str, Any] = scope.get("state", {})
    if "transport" not in state:
        raise RuntimeError("a fault of the connection needs one: use Sandbox.serve(), not Sandbox.app")
    return cast(asyncio.Transport, state["transport"])
