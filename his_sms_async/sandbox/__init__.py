"""The SMS server's stand-in: the same REST API over real HTTP, and nothing is ever sent.

    with Sandbox().serve() as server:
        ...  # talk to server.url with the token "sandbox-token"

It shares no code with the client of this library: a mistake in a shared name would cancel out on both sides.
Needs the extra ``sandbox``.
"""

from ._clock import SandboxClock
from ._messages import SandboxMessage
from ._patients import Answer, Patient, demo_answer
from ._serve import RunningSandbox
from ._state import Refused, Sandbox

__all__ = [
    "Answer",
    "Patient",
    "Refused",
    "RunningSandbox",
    "Sandbox",
    "SandboxClock",
    "SandboxMessage",
    "demo_answer",
]
