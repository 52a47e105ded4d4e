"""The stand-in as a real server: uvicorn in a thread of its own."""

import ssl
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import attrs

from ._state import Sandbox

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
    _ended: threading.Event = attrs.field(alias="ended", repr=False)

    def wait(self) -> None:
        """Block until the server is stopped, or until Ctrl-C if this is the main thread."""
        has_ended = False
        while not has_ended:  # on Windows, Ctrl-C does not interrupt a wait without limit
            has_ended = self._ended.wait(0.5)


@contextmanager
def serve(
    sandbox: Sandbox, *, host: str, port: int, tls: bool, allowed_hosts: Iterable[str]
) -> Iterator[RunningSandbox]:
    """Serve `sandbox` while the block lasts; see `Sandbox.serve`.

    The socket listens before the block is entered, so a request made at once is only early, not refused.
    """
    # Here, so that the package can be imported without the web stack.
    import uvicorn  # noqa: PLC0415

    from ._app import create_app  # noqa: PLC0415
    from ._connections import Protocol  # noqa: PLC0415
    from ._door import Listener, Server  # noqa: PLC0415

    with ExitStack() as stack:
        listener = stack.enter_context(Listener(host, port))
        port = listener.getsockname()[1]
        name = name_in_url(host, tls=tls)
        ca_file, tls_context = stack.enter_context(_certified(host)) if tls else (None, None)
        config = uvicorn.Config(
            create_app(sandbox, allowed_hosts=[_bracketed(host), *allowed_hosts]),
            access_log=False,
            date_header=False,  # the gate writes the sandbox's time
            http=Protocol,
            lifespan="off",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE,
            ws="none",
        )
        config.load()
        config.ssl = tls_context  # there is no option for a context that is ready
        server = Server(sandbox, config, listener)
        stack.enter_context(server.running())
        yield RunningSandbox(
            sandbox=sandbox,
            host=host,
            port=port,
            url=f"http{'s' if tls else ''}://{name}:{port}",
            aad_instance=f"https://{name}:{port}/{{0}}",
            ca_file=ca_file,
            ended=server.ended,
        )


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
