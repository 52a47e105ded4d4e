"""The stand-in as a real server: uvicorn in a thread of its own."""

import asyncio
import ssl
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from socket import SHUT_RDWR, SOCK_STREAM, create_server, getaddrinfo, socket
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

import attrs

from ._state import Sandbox

if TYPE_CHECKING:
    import uvicorn

_GRACE: Final = 1  # seconds that requests in hand get when the server is stopped


@attrs.frozen(eq=False, kw_only=True)
class RunningSandbox:
    """A sandbox that is being served, and how to reach it from this computer."""

    sandbox: Sandbox
    host: str
    """What it listens on, as it was asked for."""
    port: int
    url: str
    """Like ``http://127.0.0.1:8025``, without a slash at the end."""
    aad_instance: str
    """Like ``https://localhost:8025/{0}``, for MSAL, which refuses it unless it is served with TLS."""
    ca_file: str | None
    """The certificate to trust (PEM), a file that is removed at the end; None without TLS."""
    _thread: threading.Thread = attrs.field(alias="thread", repr=False)

    def wait(self) -> None:
        """Block until the server is stopped, or until Ctrl-C if this is the main thread."""
        while self._thread.is_alive():
            self._thread.join(0.5)  # on Windows, Ctrl-C does not interrupt a wait without limit


@contextmanager
def serve(
    sandbox: Sandbox, *, host: str, port: int, tls: bool, allowed_hosts: Iterable[str]
) -> Iterator[RunningSandbox]:
    """Serve `sandbox` while the block lasts; see `Sandbox.serve`.

    The socket listens before the block is entered, so a request made at once is only early, not refused.
    """
    # Here, so that the package can be imported without the web stack.
    import uvicorn  # noqa: PLC0415

    from ._api import create_app  # noqa: PLC0415

    with ExitStack() as stack:
        listener = stack.enter_context(_Listener(host, port))
        port = listener.getsockname()[1]
        name = name_in_url(host, tls=tls)
        ca_file, tls_context = stack.enter_context(_certified(host)) if tls else (None, None)
        config = uvicorn.Config(
            create_app(sandbox, allowed_hosts=[_bracketed(host), *allowed_hosts]),
            access_log=False,
            date_header=False,  # the gate writes the sandbox's time
            http="h11",
            lifespan="off",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE,
            ws="none",
        )
        config.load()
        config.ssl = tls_context  # there is no option for a context that is ready
        server = uvicorn.Server(config)
        thread = threading.Thread(target=_run, args=(server, listener), name="his-sms-sandbox", daemon=True)
        thread.start()
        stack.callback(_stop, server, listener, thread)
        yield RunningSandbox(
            sandbox=sandbox,
            host=host,
            port=port,
            url=f"http{'s' if tls else ''}://{name}:{port}",
            aad_instance=f"https://{name}:{port}/{{0}}",
            ca_file=ca_file,
            thread=thread,
        )


class _Listener(socket):
    """Listens, and remembers whom it let in, so that it can hang up on them at the end.

    asyncio waits half a minute for a TLS client that does not say goodbye, and uvicorn for asyncio.
    """

    def __init__(self, host: str, port: int) -> None:
        family, _, _, _, address = getaddrinfo(host, port, type=SOCK_STREAM)[0]
        super().__init__(fileno=create_server(address[:2], family=family).detach())
        self._lock = threading.RLock()
        self._accepted = WeakSet[socket]()

    def accept(self) -> tuple[socket, Any]:
        connection, address = super().accept()
        with self._lock:
            self._accepted.add(connection)
        return connection, address

    def hang_up(self) -> None:
        """End all connections, so that the event loop hears that they are over and closes them."""
        with self._lock:
            for connection in self._accepted:
                with suppress(OSError):  # over already
                    connection.shutdown(SHUT_RDWR)


def _run(server: "uvicorn.Server", listener: _Listener) -> None:
    # This loop calls `listener.accept` on every platform; the usual one of Windows does not.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(server.serve([listener]))


def _stop(server: "uvicorn.Server", listener: _Listener, thread: threading.Thread) -> None:
    server.should_exit = True
    while thread.is_alive():
        listener.hang_up()  # more than once, for it takes a moment until nobody is let in any more
        thread.join(0.02)


@contextmanager
def _certified(host: str) -> Iterator[tuple[str, ssl.SSLContext]]:
    """Make a CA and a certificate of it for `host`; the file of the CA lasts as long as the block."""
    import trustme  # noqa: PLC0415 -- it brings all of cryptography

    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*dict.fromkeys(["localhost", "127.0.0.1", "::1", host])).configure_cert(context)
    with TemporaryDirectory(prefix="his-sms-sandbox-") as directory:
        ca_file = Path(directory, "ca.pem")
        authority.cert_pem.write_to_path(str(ca_file))
        yield str(ca_file), context


def is_loopback(host: str) -> bool:
    """Return whether only this computer can reach a server that listens on `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def name_in_url(host: str, *, tls: bool) -> str:
    """Return what this computer calls a server that listens on `host`, fit for its certificate if `tls`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- what is not a destination
    return "localhost" if tls and is_loopback(host) else _bracketed(host)
