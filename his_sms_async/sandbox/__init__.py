"""The SMS server's stand-in: the same REST API over real HTTP, a phone for the patients, and nothing is ever sent.

    with Sandbox().serve() as server:
        ...  # talk to server.url with the token "sandbox-token", open it in a browser

It shares no code with the client of this library: a mistake in a shared name would cancel out on both sides.
Needs the extra ``sandbox``. What can go wrong on purpose is in `faults`.
"""

from . import faults
from ._clock import SandboxClock
from ._file import UnusableFile
from ._journal import Exchange, Journal
from ._magic import MAGIC_NUMBERS, MagicNumber
from ._messages import SandboxMessage
from ._patients import Answer, Delivery, Patient, demo_answer
from ._serve import RunningSandbox
from ._state import NothingArrived, Refused, Sandbox
from ._switchboard import Faults, Switch

__all__ = [
    "MAGIC_NUMBERS",
    "Answer",
    "Delivery",
    "Exchange",
    "Faults",
    "Journal",
    "MagicNumber",
    "NothingArrived",
    "Patient",
    "Refused",
    "RunningSandbox",
    "Sandbox",
    "SandboxClock",
    "SandboxMessage",
    "Switch",
    "UnusableFile",
    "demo_answer",
    "faults",
]
