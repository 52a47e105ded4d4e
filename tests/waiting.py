"""How tests of the sandbox wait: for conditions that come true in other threads, and with requests in hand."""

import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from his_sms_async.sandbox import RunningSandbox, Sandbox

_LONG = 50.0  # seconds; a test that needs them has failed, and says where


def until(is_so: Callable[[], bool]) -> None:
    """Look again and again until something is so; the test's own time limit ends it otherwise."""
    looked = threading.Event()
    while not is_so():
        looked.wait(0.005)


def waits(sandbox: Sandbox) -> int:
    """Return how many wait for an SMS, by `wait_for`, `arrival` or the control API."""
    return len(sandbox._arrivals._waits)


@contextmanager
def in_hand(
    server: RunningSandbox, method: str = "GET", path: str = "/?type=Numbers", message: Any = None
) -> Iterator[socket.socket]:
    """Make one authorized request by a socket without TLS, and hang up when the block ends.

    What may have been answered is still to be read from the socket. `message` is the JSON of the body, if any.
    """
    body = b"" if message is None else json.dumps(message).encode()
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        "Authorization: Bearer sandbox-token",
        f"Content-Length: {len(body)}",
    ]
    if body:
        lines.append("Content-Type: application/json")
    with socket.create_connection(("127.0.0.1", server.port), timeout=_LONG) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        yield connection


def is_silent(connection: socket.socket, seconds: float = 0.1) -> bool:
    """Return whether not a byte comes, nor the end, for some seconds."""
    connection.settimeout(seconds)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    return False


@contextmanager
def heeding_interrupts() -> Iterator[None]:
    """Let SIGINT interrupt this process, and those it starts: a shell's background jobs have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
