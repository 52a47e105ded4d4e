"""What the stand-in knows and decides, without any web: numbers, messages, patients, tokens, time."""

import hmac
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final, Literal
from zoneinfo import ZoneInfo

import attrs

from ._azure_ad import AzureAd, AzureAdAnswer
from ._clock import TICKS_PER_SECOND, SandboxClock
from ._messages import MessageType, SandboxMessage
from ._patients import EVERYONE_ELSE, Answer, Patient
from ._stamps import wall_ticks

if TYPE_CHECKING:  # the web stack is imported by the two methods that need it
    from starlette.types import ASGIApp

    from ._serve import RunningSandbox

DEFAULT_NUMBERS: Final[Mapping[str, int]] = {"37000000000": 4, "RSL_HOSP": 7, "37000000001": 9}
"""Hospital phone numbers and sender names, each with its OperatorNumberId."""

_A_DAY: Final = 24 * 3600 * TICKS_PER_SECOND
_PHONE_NUMBER: Final = re.compile(r"\+?[0-9]{7,15}")

ErrorCode = Literal["Internal", "InvalidMessageOwner", "InvalidClientNumber"]


class Refused(Exception):
    """The stand-in refuses a request; `error_code` is the name of the reason in the Status.

    The text names the field that is wrong and not what is in it.
    """

    def __init__(self, error_code: ErrorCode, reason: str) -> None:
        super().__init__(error_code, reason)
        self.error_code = error_code
        self.reason = reason


@attrs.frozen(eq=False, kw_only=True)
class Sandbox:
    """An SMS server that sends nothing: it remembers, in memory, what it was told.

    Any method may be called from any thread, with a server running or without.

    Args:
        token: The static bearer token; None if only tokens of the fake Azure AD are good.
        timezone: IANA name of the zone whose wall clock the server writes and compares.
        stamp_offsets: Whether the stamps of listed messages carry the zone's offset. The receipt of a
            sent message always does, as in the specification.
        numbers: The hospital's phone numbers and sender names, each with its OperatorNumberId.
        patients: What patients answer by themselves, by phone number; ``"*"`` stands for everyone else.
        answer_after: Seconds of `clock` that these answers take.
        clock: Gives the time as UTC ticks of 100 ns since 0001-01-01.
        tenant: The only tenant of the fake Azure AD.
        client_id: The only application in it.
        client_secret: The secret of that application.
        scope: The only scope it can have tokens for.
        token_lifetime: Seconds of `clock` for which an issued token is good. MSAL takes a token that has
            less than 300 left for expired.
    """

    token: str | None = attrs.field(default="sandbox-token", repr=False)
    timezone: str = "Europe/Vilnius"
    stamp_offsets: Literal["none", "all"] = attrs.field(
        default="none", validator=attrs.validators.in_(("none", "all"))
    )
    numbers: Mapping[str, int] = attrs.field(default=DEFAULT_NUMBERS, repr=False)
    patients: Mapping[str, Answer] = attrs.field(factory=dict, repr=False)
    answer_after: float = 0.0
    clock: Callable[[], int] = attrs.field(factory=SandboxClock, repr=False)
    tenant: str = "sandbox"
    client_id: str = "his"
    client_secret: str = attrs.field(default="sandbox-secret", repr=False)
    scope: str = "api://sandbox/.default"
    token_lifetime: int = 3600

    zone: ZoneInfo = attrs.field(
        init=False, default=attrs.Factory(lambda self: ZoneInfo(self.timezone), takes_self=True), repr=False
    )
    """The zone that `timezone` names."""
    _lock: threading.RLock = attrs.field(init=False, factory=threading.RLock, repr=False)
    _azure_ad: AzureAd = attrs.field(
        init=False, default=attrs.Factory(lambda self: self._new_azure_ad(), takes_self=True), repr=False
    )
    _messages: dict[int, SandboxMessage] = attrs.field(init=False, factory=dict, repr=False)
    _scripts: dict[str, Patient] = attrs.field(init=False, factory=dict, repr=False)
    # Answers on their way, as a heap of (due ticks, reminder, text). Nothing waits for them: whoever looks
    # at the state next finds them delivered, stamped with the time they were due.
    _on_the_way: list[tuple[int, int, str]] = attrs.field(init=False, factory=list, repr=False)

    def __attrs_post_init__(self) -> None:
        self.reset()

    # What happens to messages

    def send(self, *, sender: str, recipient: str, text: str, external_key: int) -> SandboxMessage:
        """Take a message from the hospital and deliver it at once.

        Raises:
            Refused: `sender` is not the hospital's, `recipient` is no phone number, or `text` is not Unicode.
        """
        with self._up_to_date():
            if sender not in self.numbers:
                raise Refused("InvalidMessageOwner", "From is not one of the hospital's numbers")
            if not _PHONE_NUMBER.fullmatch(recipient):
                raise Refused("InvalidClientNumber", "To is not a phone number")
            reminder = self._add("Outgoing", sender, recipient, text, external_key=external_key)
            self._plan_answer(reminder)
            return reminder

    def receive(self, *, sender: str, recipient: str, text: str, reply_to: int | None = None) -> SandboxMessage:
        """Take an SMS that a patient wrote to the hospital, as a reply or unprompted.

        Raises:
            Refused: `recipient` is not the hospital's, `sender` is no phone number, or `text` is not Unicode.
        """
        with self._up_to_date():
            if recipient not in self.numbers:
                raise Refused("InvalidMessageOwner", "the recipient is not one of the hospital's numbers")
            if not _PHONE_NUMBER.fullmatch(sender):
                raise Refused("InvalidClientNumber", "the sender is not a phone number")
            return self._add("Incoming", sender, recipient, text, reply_to_id=reply_to)

    def set_state(self, message_id: int, state: str) -> SandboxMessage:
        """Give a message another state, which moves its UpdatedAt.

        Any word is taken: a client has to bear one that it does not know.

        Raises:
            LookupError: There is no such message.
        """
        with self._up_to_date():
            if message_id not in self._messages:
                raise LookupError(f"there is no message {message_id}")
            changed = attrs.evolve(self._messages[message_id], state=state, updated_ticks=self.clock())
            self._messages[message_id] = changed
            return changed

    @property
    def messages(self) -> tuple[SandboxMessage, ...]:
        """All messages, in the order they were made."""
        with self._up_to_date():
            return tuple(self._messages.values())

    @property
    def sent(self) -> tuple[SandboxMessage, ...]:
        """What the hospital sent, in that order."""
        return tuple(message for message in self.messages if message.type == "Outgoing")

    @property
    def received(self) -> tuple[SandboxMessage, ...]:
        """What patients wrote, in that order."""
        return tuple(message for message in self.messages if message.type == "Incoming")

    def changed_since(self, kind: MessageType, wall: int) -> list[SandboxMessage]:
        """Return the messages of a type whose change date is not less than `wall`, sorted by it.

        `wall` is ticks of the server's wall clock, and it is the wall clock that is compared and sorted,
        because that is what a server that stores no offset can do.
        """
        # No zone is a day from UTC, so the calendar need not be asked for what is older than that.
        dated = [
            (wall_ticks(message.updated_ticks, self.zone), message.id, message)
            for message in self.messages
            if message.type == kind and message.updated_ticks > wall - _A_DAY
        ]
        return [message for updated, _, message in sorted(dated, key=lambda row: row[:2]) if updated >= wall]

    # Patients that answer by themselves

    def patient(self, number: str) -> Patient:
        """Return the patient with that number, to tell it what to answer; ``"*"`` is everyone else."""
        with self._lock:
            return self._scripts.setdefault(number.lstrip("+"), Patient(number))

    # Tokens

    def accepts(self, token: str) -> bool:
        """Return whether a request with that bearer token may pass."""
        with self._lock:
            if self._azure_ad.accepts(token, now=self.clock()):
                return True
        return self.token is not None and hmac.compare_digest(token.encode(), self.token.encode())

    def discover(self, tenant: str, host: str) -> AzureAdAnswer:
        """Answer the OpenID discovery that was asked under the name `host`, port included."""
        with self._lock:
            return self._azure_ad.discover(tenant, host, now=self.clock())

    def request_token(self, tenant: str, form: Mapping[str, str]) -> AzureAdAnswer:
        """Answer a request to the token endpoint of the fake Azure AD."""
        with self._lock:
            return self._azure_ad.request_token(tenant, form, now=self.clock())

    def revoke_tokens(self) -> None:
        """Accept none of the tokens that the fake Azure AD issued so far; the static one stays good."""
        with self._lock:
            self._azure_ad.revoke_tokens()

    @property
    def token_requests(self) -> int:
        """How often a token was asked for, successfully or not, since the start or the last reset."""
        with self._lock:
            return self._azure_ad.requests

    # The whole

    def reset(self) -> None:
        """Be as new: no message, no issued token, ids from 1, patients as given; the clock is left alone."""
        with self._lock:
            self._messages.clear()
            self._on_the_way.clear()
            self._azure_ad.reset()
            self._scripts.clear()
            for number, answer in self.patients.items():
                self.patient(number).replies(answer, after=self.answer_after)

    @property
    def app(self) -> "ASGIApp":
        """The server as an ASGI application, for ``httpx.ASGITransport(sandbox.app)``."""
        from ._api import create_app  # noqa: PLC0415

        return create_app(self)

    def serve(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: bool = False,
        allowed_hosts: Iterable[str] = (),
    ) -> "AbstractContextManager[RunningSandbox]":
        """Serve HTTP from a thread of its own for as long as the block lasts; see `RunningSandbox`.

        It works beside any event loop or none. Entering and leaving the block takes some tenths of a second,
        in which the calling thread waits; connections that are still open at the end are cut.

        Args:
            host: The address to listen on.
            port: 0 is any free one.
            tls: Serve https, with a certificate of a new CA.
            allowed_hosts: Names that clients may use for this server, besides `host` and loopback.

        Raises:
            OSError: The address is in use or is not this computer's.
        """
        from ._serve import serve  # noqa: PLC0415

        return serve(self, host=host, port=port, tls=tls, allowed_hosts=allowed_hosts)

    def _new_azure_ad(self) -> AzureAd:
        return AzureAd(
            tenant=self.tenant,
            client_id=self.client_id,
            client_secret=self.client_secret,
            scope=self.scope,
            token_lifetime=self.token_lifetime,
        )

    # What is done under the lock

    @contextmanager
    def _up_to_date(self) -> Iterator[None]:
        """Hold the lock, with every answer delivered that is due."""
        with self._lock:
            now = self.clock()
            while self._on_the_way and self._on_the_way[0][0] <= now:
                due, reminder_id, text = heappop(self._on_the_way)
                self._answer(self._messages[reminder_id], text, at=due)
            yield

    def _plan_answer(self, reminder: SandboxMessage) -> None:
        if not _PHONE_NUMBER.fullmatch(reminder.sender):
            return  # nobody can answer a sender name
        patient = self.patient(reminder.recipient)
        planned = (patient if patient.has_script else self.patient(EVERYONE_ELSE)).answer_to(reminder)
        if planned is None:
            return
        text, delay = planned
        if delay > 0:
            heappush(self._on_the_way, (reminder.updated_ticks + delay, reminder.id, text))
        else:
            self._answer(reminder, text, at=None)

    def _answer(self, reminder: SandboxMessage, text: str, *, at: int | None) -> None:
        self._add("Incoming", reminder.recipient, reminder.sender, text, reply_to_id=reminder.id, at=at)

    def _add(
        self,
        kind: MessageType,
        sender: str,
        recipient: str,
        text: str,
        *,
        reply_to_id: int | None = None,
        external_key: int | None = None,
        at: int | None = None,
    ) -> SandboxMessage:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise Refused("Internal", "Text has half a surrogate pair, which no encoding can write")
        message = SandboxMessage(
            id=len(self._messages) + 1,
            type=kind,
            sender=sender,
            recipient=recipient,
            text=text,
            state="Delivered",
            created_ticks=self.clock() if at is None else at,
            updated_ticks=self.clock() if at is None else at,
            reply_to_id=reply_to_id,
            external_key=external_key,
        )
        self._messages[message.id] = message
        return message
