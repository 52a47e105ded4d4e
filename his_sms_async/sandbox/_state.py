"""What the stand-in knows and decides, without any web: numbers, messages, patients, tokens, faults, time."""

import asyncio
import hmac
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from zoneinfo import ZoneInfo

import anyio
import attrs
import sniffio

from ._answers import ErrorCode
from ._arrivals import Arrivals, Wait, Wanted, describe
from ._azure_ad import AzureAd, AzureAdAnswer
from ._changes import Changes
from ._clock import TICKS_PER_SECOND, SandboxClock
from ._file import MessageFile
from ._journal import Journal
from ._magic import MAGIC_NUMBERS
from ._mailbox import Mailbox
from ._messages import MessageType, SandboxMessage, check_unicode
from ._patients import AT_ONCE, EVERYONE_ELSE, Answer, Delivery, Patient, is_phone_number, is_read, key_of
from ._switchboard import Faults
from .faults import Fault

if TYPE_CHECKING:  # the web stack is imported by the two methods that need it
    from starlette.types import ASGIApp

    from ._serve import RunningSandbox

DEFAULT_NUMBERS: Final[Mapping[str, int]] = {"37000000000": 4, "RSL_HOSP": 7, "37000000001": 9}
"""Hospital phone numbers and sender names, each with its OperatorNumberId."""


class Refused(Exception):
    """The stand-in refuses a request; `error_code` is the name of the reason in the Status.

    The text names the field that is wrong and not what is in it.
    """

    def __init__(self, error_code: ErrorCode, reason: str) -> None:
        super().__init__(error_code, reason)
        self.error_code = error_code
        self.reason = reason


class NothingArrived(AssertionError):
    """No SMS arrived that was waited for; the text lists those that did, the newest hundred of them."""


@attrs.frozen(eq=False, kw_only=True)
class Sandbox:
    """An SMS server that sends nothing: it remembers what it was told, and fails when it is told to.

    Any method may be called from any thread, with a server running or without.

    Args:
        token: The static bearer token; None if only tokens of the fake Azure AD are good.
        timezone: IANA name of the zone whose wall clock the server writes and compares.
        stamp_offsets: Whether the stamps of listed messages carry the zone's offset. The receipt of a
            sent message always does, as in the specification.
        numbers: The hospital's phone numbers and sender names, each with its OperatorNumberId.
        patients: What patients answer by themselves, by phone number; ``"*"`` stands for everyone else.
        answer_after: Seconds of `clock` that these answers take.
        magic_numbers: Whether the numbers of `MAGIC_NUMBERS` do what they say.
        clock: Gives the time as UTC ticks of 100 ns since 0001-01-01.
        file: Where messages are kept; None is in memory only. A file is for one sandbox at a time. What is still
            to happen to messages is not in it, and `reset` empties it.
        seed: The messages to begin with, and after `reset`, unless `file` holds some: mappings with sender,
            recipient and text, and if wanted the other fields of `SandboxMessage`.
        random_seed: Makes the faults that strike with a probability strike the same way each time.
        tenant: The only tenant of the fake Azure AD.
        client_id: The only application in it.
        client_secret: The secret of that application.
        scope: The only scope it can have tokens for.
        token_lifetime: Seconds of `clock` for which an issued token is good. MSAL takes a token that has
            less than 300 left for expired.

    Raises:
        UnusableFile: `file` holds something else.
        ValueError: A message of `seed` is none.
    """

    token: str | None = attrs.field(default="sandbox-token", repr=False)
    timezone: str = "Europe/Vilnius"
    stamp_offsets: Literal["none", "all"] = attrs.field(
        default="none", validator=attrs.validators.in_(("none", "all"))
    )
    numbers: Mapping[str, int] = attrs.field(default=DEFAULT_NUMBERS, repr=False)
    patients: Mapping[str, Answer] = attrs.field(factory=dict, repr=False)
    answer_after: float = 0.0
    magic_numbers: bool = True
    clock: Callable[[], int] = attrs.field(factory=SandboxClock, repr=False)
    file: Path | str | None = None
    seed: Sequence[Mapping[str, Any]] = attrs.field(default=(), repr=False)
    random_seed: int | None = None
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
    changes: Changes = attrs.field(init=False, factory=Changes, repr=False)
    """Tells of every change of what is below."""
    faults: Faults = attrs.field(
        init=False, default=attrs.Factory(lambda self: self._new_faults(), takes_self=True), repr=False
    )
    """What goes wrong: ``sandbox.faults.add(Status(503, times=3))``."""
    journal: Journal = attrs.field(
        init=False, default=attrs.Factory(lambda self: Journal(self.changes.tell), takes_self=True), repr=False
    )
    """The last requests to the REST API and to the fake Azure AD."""
    doors: list[Callable[[], None]] = attrs.field(init=False, factory=list, repr=False)
    """Called when a fault of connections was switched on or off; servers stand here while they run."""
    _azure_ad: AzureAd = attrs.field(
        init=False, default=attrs.Factory(lambda self: self._new_azure_ad(), takes_self=True), repr=False
    )
    _mailbox: Mailbox = attrs.field(
        init=False, default=attrs.Factory(lambda self: self._new_mailbox(), takes_self=True), repr=False
    )
    _patients: dict[str, Patient] = attrs.field(init=False, factory=dict, repr=False)
    _arrivals: Arrivals = attrs.field(init=False, factory=Arrivals, repr=False)
    _named: set[str] = attrs.field(init=False, factory=set, repr=False)

    def __attrs_post_init__(self) -> None:
        with self._lock:
            self._mailbox.open()
            self._script_patients()

    # What happens to messages

    def send(self, *, sender: str, recipient: str, text: str, external_key: int) -> SandboxMessage:
        """Take a message from the hospital and deliver it as its recipient receives.

        Raises:
            Refused: `sender` is not the hospital's, `recipient` is no phone number, or `text` is not Unicode.
        """
        with self._changing():
            if sender not in self.numbers:
                raise Refused("InvalidMessageOwner", "From is not one of the hospital's numbers")
            if not is_phone_number(recipient):
                raise Refused("InvalidClientNumber", "To is not a phone number")
            _check_text(text)
            delivery = self._patient(recipient).delivery or self._patient(EVERYONE_ELSE).delivery or AT_ONCE
            reminder = self._mailbox.add(
                "Outgoing", sender, recipient, text, state=delivery.states[0], external_key=external_key
            )
            self._mailbox.deliver(reminder, delivery)
            self._arrivals.add(reminder)
            if delivery.is_read:
                self._answer(reminder, since=reminder.updated_ticks)
            return reminder

    def receive(self, *, sender: str, recipient: str, text: str, reply_to: int | None = None) -> SandboxMessage:
        """Take an SMS that a patient wrote to the hospital, as a reply or unprompted.

        Raises:
            Refused: `recipient` is not the hospital's, `sender` is no phone number, or `text` is not Unicode.
        """
        with self._changing():
            if recipient not in self.numbers:
                raise Refused("InvalidMessageOwner", "the recipient is not one of the hospital's numbers")
            if not is_phone_number(sender):
                raise Refused("InvalidClientNumber", "the sender is not a phone number")
            _check_text(text)
            return self._mailbox.add("Incoming", sender, recipient, text, reply_to_id=reply_to)

    def set_state(self, message_id: int, state: str) -> SandboxMessage:
        """Give a message another state, which moves its UpdatedAt.

        Any word is taken: a client has to bear one that it does not know.

        Raises:
            LookupError: There is no such message.
            ValueError: `state` is not Unicode.
        """
        check_unicode(state, "state")
        with self._changing():
            self._mailbox.change([self._message(message_id)], state=state)
            return self._message(message_id)

    def change_many(self, which: Callable[[SandboxMessage], bool], *, state: str | None) -> None:
        """Give all messages that `which` picks one new UpdatedAt, and a state unless that is None.

        Raises:
            ValueError: `state` is not Unicode.
        """
        check_unicode(state or "", "state")
        with self._changing():
            self._mailbox.change(list(filter(which, self._mailbox.messages.values())), state=state)

    def pile_up(self, count: int) -> None:
        """Let so many answers arrive at once, stamped a tenth of a second apart, the last one with now.

        Raises:
            Refused: The hospital has no phone number that patients can write to.
        """
        with self._changing():
            self._mailbox.pile_up(count, self._first_phone_number())

    @property
    def messages(self) -> tuple[SandboxMessage, ...]:
        """All messages, in the order they were made."""
        with self._up_to_date():
            return tuple(self._mailbox.messages.values())

    @property
    def sent(self) -> tuple[SandboxMessage, ...]:
        """What the hospital sent, in that order."""
        return tuple(message for message in self.messages if message.type == "Outgoing")

    @property
    def received(self) -> tuple[SandboxMessage, ...]:
        """What patients wrote, in that order."""
        return tuple(message for message in self.messages if message.type == "Incoming")

    def changed_since(self, kind: MessageType, wall: int, faults: Iterable[Fault] = ()) -> list[SandboxMessage]:
        """Return the messages of a type whose change date is not less than `wall`, sorted by it.

        `wall` is ticks of the server's wall clock, and it is the wall clock that is compared and sorted,
        because that is what a server that stores no offset can do. `faults` may show an older state of things.
        """
        with self._up_to_date():
            return self._mailbox.listed(kind, wall, faults)

    # Waiting for what the hospital sends

    def wait_for(
        self,
        *,
        to: str | None = None,
        text: str | None = None,
        external_key: int | None = None,
        timeout: float = 5.0,
    ) -> SandboxMessage:
        """Wait for an SMS of the hospital and return it; each that was sent is returned once.

        It blocks, so in an event loop it only looks, and refuses to wait: there use `arrival`.

        Args:
            to: The phone number it must be sent to, with or without plus; None is any, as for the other two.
            text: What must occur in it.
            external_key: Its ExternalKey.
            timeout: Seconds of real time.

        Raises:
            NothingArrived: No such SMS arrived in time.
            RuntimeError: It is not there yet, and waiting would block an event loop.
        """
        changed = threading.Condition(self._lock)
        with self._waiting(Wanted(to=to, text=text, external_key=external_key), changed.notify_all) as wait:
            with self._lock:
                if wait.found is None and timeout > 0 and _is_in_event_loop():
                    raise RuntimeError("wait_for would block the event loop: await arrival(...) instead")
                changed.wait_for(lambda: wait.found, timeout)
            return self._found(wait, timeout)

    async def arrival(
        self,
        *,
        to: str | None = None,
        text: str | None = None,
        external_key: int | None = None,
        timeout: float = 5.0,
    ) -> SandboxMessage:
        """Wait as `wait_for` does, without blocking the event loop (asyncio or trio).

        If it is cancelled, the message is there for who waits next.
        """
        arrived, call_soon = anyio.Event(), _thread_safe_calls()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed, and nobody waits
                call_soon(arrived.set)

        with self._waiting(Wanted(to=to, text=text, external_key=external_key), tell) as wait:
            if wait.found is None:
                with anyio.move_on_after(timeout):
                    await arrived.wait()
            return self._found(wait, timeout)

    def unexpected(self) -> list[str]:
        """Return what a strict test objects to, one line each.

        That is each request that was refused, other than by a fault, and each SMS to a number that was never
        named by `patient`, `wait_for`, `arrival` or `patients`.
        """
        with self._up_to_date():
            named = {key_of(number) for number in (*self._named, *self.patients)}
            refused = [
                f"request {one.id}, {one.method} {one.target}: {one.status}, {one.outcome}"
                for one in self.journal
                if not one.is_understood
            ]
            unnamed = [
                describe(message)
                for message in self._arrivals.sent.values()
                if key_of(message.recipient) not in named and EVERYONE_ELSE not in named
            ]
        return refused + unnamed

    # Patients

    def patient(self, number: str) -> Patient:
        """Return the patient with that number, to tell it what to do; ``"*"`` is everyone else.

        Raises:
            ValueError: `number` is neither a phone number nor ``"*"``.
        """
        if number != EVERYONE_ELSE and not is_phone_number(number):
            raise ValueError(
                "a patient has a phone number: 7 to 15 digits, with or without a plus; * is everyone else"
            )
        with self._lock:
            self._named.add(number)
            return self._patient(number)

    def rules(self, number: str) -> tuple[Delivery, Answer | None, int]:
        """Return what becomes of an SMS to a number, what that answers, and after how many ticks.

        Asking changes nothing: the number does not count as named.
        """
        with self._lock:
            everyone = self._patient(EVERYONE_ELSE)
            own = self._patients.get(key_of(number), everyone)
            return (
                own.delivery or everyone.delivery or AT_ONCE,
                *(own if own.has_script else everyone).script,
            )

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

    def request_token(self, tenant: str, form: Mapping[str, str], *, expired: bool = False) -> AzureAdAnswer:
        """Answer a request to the token endpoint of the fake Azure AD, with a token that is over if wanted."""
        with self._lock:
            return self._azure_ad.request_token(tenant, form, now=self.clock(), expired=expired)

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

    @property
    def settable_clock(self) -> SandboxClock:
        """The clock, to set it; what has happened up to now stays so.

        Raises:
            ValueError: It is the caller's own.
        """
        if not isinstance(self.clock, SandboxClock):
            raise ValueError("this sandbox was given a clock that cannot be set from here")  # noqa: TRY004
        with self._lock:
            self._mailbox.look()
        return self.clock

    @property
    def next_due(self) -> float | None:
        """Seconds of `clock` until something happens by itself, None if nothing will."""
        with self._lock:
            due = self._mailbox.next_due
            return None if due is None else due / TICKS_PER_SECOND

    def reset(self) -> None:
        """Be as new: the seed, no fault, no issued token, patients as given; the clock is left alone.

        What is in `file` is gone as well: it then holds the seed.
        """
        self.faults.clear()
        with self._changing():
            self._azure_ad.reset()
            self._arrivals.clear()
            self._named.clear()
            for patient in self._patients.values():
                patient.forget()
            self._mailbox.clear()
            self._script_patients()
        self.journal.clear()

    @property
    def app(self) -> "ASGIApp":
        """The server as an ASGI application, for ``httpx.ASGITransport(sandbox.app)``."""
        from ._app import create_app  # noqa: PLC0415

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

    # What is done under the lock

    @contextmanager
    def _up_to_date(self) -> Iterator[None]:
        """Hold the lock, with everything done that is due."""
        was_due = False
        try:
            with self._lock:
                was_due = self._mailbox.catch_up()
                yield
        finally:
            if was_due:
                self.changes.tell()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            with self._up_to_date():
                yield
        finally:  # what fails may have changed something before
            self.changes.tell()

    @contextmanager
    def _waiting(self, wanted: Wanted, tell: Callable[[], object]) -> Iterator[Wait]:
        """Wait as long as the block lasts; `tell` is called under the lock."""
        wait = Wait(wanted, tell)
        with self._lock:
            self._named.update([] if wanted.to is None else [wanted.to])
            self._arrivals.begin(wait)
        try:
            yield wait
        finally:
            with self._lock:
                self._arrivals.give_up(wait)

    def _found(self, wait: Wait, timeout: float) -> SandboxMessage:
        with self._lock:
            found = self._arrivals.take(wait)
            if found is None:
                raise NothingArrived(self._arrivals.told(wait.wanted, timeout))
            return self._mailbox.messages.get(found.id, found)

    def _message(self, message_id: int) -> SandboxMessage:
        try:
            return self._mailbox.messages[message_id]
        except KeyError:
            raise LookupError(f"there is no message {message_id}") from None

    def _patient(self, number: str) -> Patient:
        key = key_of(number)
        if key not in self._patients:
            self._patients[key] = Patient(
                number, answer_waiting=self._answer_waiting, write=partial(self._write, number)
            )
        return self._patients[key]

    def _script_patients(self) -> None:
        for magic in MAGIC_NUMBERS if self.magic_numbers else ():
            patient = self._patient(magic.number)
            patient.delivery = magic.delivery
            if magic.answer is not None:
                patient.replies(magic.answer, after=magic.answer_after)
        for number, answer in self.patients.items():
            self._patient(number).replies(answer, after=self.answer_after)

    def _answer(self, reminder: SandboxMessage, *, since: int) -> None:
        """Let a patient answer, at once or some time after the ticks `since`."""
        if not is_phone_number(reminder.sender):
            return  # nobody can answer a sender name
        patient = self._patient(reminder.recipient)
        planned = (patient if patient.has_script else self._patient(EVERYONE_ELSE)).answer_to(reminder)
        if planned is not None:
            text, delay = planned
            self._mailbox.answer(reminder, text, since=since, delay=delay)

    def _answer_waiting(self, patient: Patient) -> None:
        """Let a patient answer the last reminder, if that was read and has no answer."""
        with self._changing():
            reminder = self._mailbox.waiting(patient.number)
            if reminder is not None and is_read(self._mailbox.last_state(reminder)):
                self._answer(reminder, since=self.clock())

    def _write(self, number: str, text: str, to: str | None, reply_to: int | None) -> SandboxMessage:
        with self._lock:
            if to is None:
                to = self._first_phone_number() if reply_to is None else self._message(reply_to).hospital
            return self.receive(sender=number, recipient=to, text=text, reply_to=reply_to)

    def _first_phone_number(self) -> str:
        for number in self.numbers:
            if is_phone_number(number):
                return number
        raise Refused("InvalidMessageOwner", "the hospital has no phone number, only names")

    # What it is made of

    def _new_faults(self) -> Faults:
        standing = [magic.fault for magic in MAGIC_NUMBERS if self.magic_numbers and magic.fault is not None]
        return Faults(
            happen=lambda happening: happening.happen(self),
            changed=self.changes.tell,
            switched=lambda: [door() for door in list(self.doors)],
            standing=tuple(standing),
            random_seed=self.random_seed,
        )

    def _new_azure_ad(self) -> AzureAd:
        return AzureAd(
            tenant=self.tenant,
            client_id=self.client_id,
            client_secret=self.client_secret,
            scope=self.scope,
            token_lifetime=self.token_lifetime,
        )

    def _new_mailbox(self) -> Mailbox:
        return Mailbox(
            clock=self.clock,
            zone=self.zone,
            file=None if self.file is None else MessageFile(Path(self.file)),
            seed=self.seed,
            strike=self.faults.strike_new,
        )


def _check_text(text: str) -> None:
    try:
        check_unicode(text, "Text")
    except ValueError as wrong:
        raise Refused("Internal", str(wrong)) from None


def _thread_safe_calls() -> Callable[[Callable[[], object]], object]:
    """Return what calls a function in this event loop soon, from any thread."""
    if sniffio.current_async_library() == "trio":
        from trio.lowlevel import current_trio_token  # noqa: PLC0415 -- who runs it has it

        return current_trio_token().run_sync_soon
    return asyncio.get_running_loop().call_soon_threadsafe


def _is_in_event_loop() -> bool:
    try:
        sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        return False
    return True
