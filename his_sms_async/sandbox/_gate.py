"""Who may talk to the stand-in: only what names it, and of web pages only its own.

Nothing is logged, and no error text repeats what was sent: that would be phone numbers and what patients write.
"""

import re
from collections.abc import Mapping
from email.utils import format_datetime
from typing import Final

import attrs
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ._answers import error
from ._clock import utc_datetime
from ._connections import Reply
from ._state import Sandbox

LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})

_HOST: Final = re.compile(r"(\[[^]]*\]|[^:]*)(?::[0-9]*)?")

_OTHER_SITES: Final = frozenset({"cross-site", "same-site"})  # the latter is another port of this computer

_SECURITY: Final[Mapping[str, str]] = {
    # Only files of this server, and nothing inline: what patients write can never become a script or a style.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@attrs.frozen(eq=False)
class Gate:
    """Lets in only what names this server, and dates every answer by the sandbox's clock.

    The Host check stops web pages that let a name of theirs point to 127.0.0.1 (DNS rebinding), the Origin check
    pages of other sites that a browser lets send requests and open streams, and the check of Sec-Fetch-Site those
    that name an address here as their picture or script, for which browsers send no Origin.
    """

    app: ASGIApp
    sandbox: Sandbox
    hosts: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                date = format_datetime(utc_datetime(self.sandbox.clock()), usegmt=True)
                added = {"Date": date, **_SECURITY}
                pairs = [(name.lower().encode(), value.encode()) for name, value in added.items()]
                message["headers"] = [*message["headers"], *pairs]
            await send(message)

        app = self.app
        if scope["type"] == "http" and (reason := self._refusal(Headers(scope=scope))):
            app = Reply(error(403, "Internal", reason).written())
        await app(scope, receive, send_dated)

    def _refusal(self, headers: Headers) -> str | None:
        host = headers.get("host", "")
        match = _HOST.fullmatch(host)
        if match is None or match[1].lower() not in self.hosts:
            return "this server is not known by that name (header Host)"
        own = {f"http://{host.lower()}", f"https://{host.lower()}"}
        if not own.issuperset(map(str.lower, headers.getlist("origin"))):
            return "pages of another site may not talk to this server (header Origin)"
        if headers.get("sec-fetch-site") in _OTHER_SITES and headers.get("sec-fetch-mode") != "navigate":
            return "pages of another site may not load anything of this server (header Sec-Fetch-Site)"
        return None
