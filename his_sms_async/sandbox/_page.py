"""The page: a phone for every patient, in the browser, kept up to date by a stream of events.

The page reads here, as HTML, and acts through the control API.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from functools import partial
from importlib.resources import files
from typing import Final

import anyio
import anyio.to_thread
import attrs
import htpy as h
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from ._clock import TICKS_PER_SECOND, SandboxClock, real_ticks
from ._conversations import Conversations
from ._fragments import conversations, first_sms, status, thread
from ._frame import document
from ._html import View
from ._state import Sandbox
from ._tools import panel, panels

# The types are not left to the computer's settings: with a wrong one a browser does not run a module.
_FILES: Final[Mapping[str, str]] = {
    "icon.svg": "image/svg+xml",
    "morph.js": "text/javascript; charset=utf-8",
    "phone.css": "text/css; charset=utf-8",
    "phone.js": "text/javascript; charset=utf-8",
    "segments.js": "text/javascript; charset=utf-8",
    "theme.js": "text/javascript; charset=utf-8",
}
_PAUSE: Final = 0.1  # seconds between two events: a burst of changes is one
_LOOK: Final = 0.5  # seconds after which is looked whether something was due, or the clock was moved


def page_routes(sandbox: Sandbox) -> list[BaseRoute]:
    """Return the routes below ``/phone``."""
    phone = _Phone(sandbox)
    return [
        Route("/", phone.page),
        Route("/fragments", phone.fragments),
        Route("/events", phone.events),
        *(Route(f"/static/{name}", partial(_file, name)) for name in _FILES),
    ]


@attrs.frozen(eq=False)
class _Phone:
    """What each route answers; pages are made in worker threads, for there may be a million messages."""

    sandbox: Sandbox
    _conversations: Conversations = attrs.field(
        init=False, default=attrs.Factory(lambda self: Conversations(self.sandbox), takes_self=True)
    )

    def page(self, request: Request) -> Response:
        """Answer with the whole page."""
        view, sandbox = View.of(request.query_params), self.sandbox
        return _html(
            document(
                sandbox,
                view,
                status=status(sandbox, view),
                listed=self._listed(view, request),
                thread=self._thread(view),
                panel=panels(sandbox, view, _url(request)),
            )
        )

    def fragments(self, request: Request) -> Response:
        """Answer with the parts of the page that can change, one after another."""
        view, sandbox = View.of(request.query_params), self.sandbox
        return _html(
            h.fragment[
                status(sandbox, view),
                self._listed(view, request),
                self._thread(view),
                panel(sandbox, view, _url(request)),
            ]
        )

    async def events(self, request: Request) -> Response:
        """Answer with a stream that tells of changes.

        It is written by hand: sse-starlette would replace a method of uvicorn in the whole process, and would ask
        a variable of the process whether the server stops, of which there may be several here.
        """
        headers = {"Cache-Control": "no-store", "Content-Type": "text/event-stream"}
        if request.method == "HEAD":
            return Response(headers=headers)
        return StreamingResponse(_events(self.sandbox), headers=headers)

    def _listed(self, view: View, request: Request) -> h.Element:
        found = self._conversations.find(view.search)
        return conversations(self.sandbox, view, found, first_sms(_url(request)))

    def _thread(self, view: View) -> h.Element:
        return thread(self.sandbox, view, self._conversations.thread(view.patient, around=view.message))


async def _events(sandbox: Sandbox) -> AsyncIterator[str]:
    """Yield an event at once and after each change, until the client or the server goes."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has just stopped
            loop.call_soon_threadsafe(changed.set)

    told = None
    with sandbox.changes.listen(tell):
        yield "retry: 1000\n\n"
        while True:
            changed.clear()
            if (state := await anyio.to_thread.run_sync(_state_of, sandbox)) != told:
                told = state
                yield f"event: change\nid: {state[0]}\ndata: {state[0]}\n\n"
                await anyio.sleep(_PAUSE)
            with anyio.move_on_after(_LOOK):
                await changed.wait()


def _state_of(sandbox: Sandbox) -> tuple[int, object]:
    """Do what is due, and return what is another value after each change, and when the clock is another one."""
    if sandbox.next_due == 0:
        _ = sandbox.messages
    clock = sandbox.clock
    if isinstance(clock, SandboxClock) and clock.is_frozen:
        return sandbox.changes.count, ("frozen", clock())
    return sandbox.changes.count, round((clock() - real_ticks()) / TICKS_PER_SECOND)


def _file(name: str, request: Request) -> Response:
    """Answer with a file, or that it is still the one that the browser has."""
    content = (files("his_sms_async.sandbox") / "static" / name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"Cache-Control": "no-cache", "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers | {"Content-Type": _FILES[name]})


def _html(content: h.Renderable) -> Response:
    # A number in an address can be anything, also what UTF-8 cannot write.
    body = str(content).encode(errors="replace")
    return HTMLResponse(body, headers={"Cache-Control": "no-store"})


def _url(request: Request) -> str:
    """Return the address by which the browser knows this server."""
    return f"{request.url.scheme}://{request.headers.get('host', '')}"
