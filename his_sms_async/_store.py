"""What a poller remembers across restarts, and where: the protocol of a store, and the one in memory.

A store holds two kinds of facts about messages. An *attempt* says that a version was handed out, before it
is; a *settlement* says that it never comes again, and its key is the fence: it can be written once. Both are
told as identities, revisions, marks, attempts and reasons: no number and no text.
"""

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

import attrs

from ._errors import AlreadySettled, ConfigurationError, PositionMismatch

Identity = tuple[int, int]
"""Id, and CreatedAt modulo 15 minutes in ticks."""

Key = tuple[int, int, str]
"""Identity and version: "" is the message itself, in whatever revision; else it is the revision of a change."""


class Outcome(StrEnum):
    """How a version was settled."""

    SETTLED = "settled"
    REJECTED = "rejected"
    """Settled, and kept until it is requeued."""


@attrs.frozen(kw_only=True)
class Attempt:
    """A version that was handed out and is not settled, or that was requeued."""

    key: Key
    created: int
    """CreatedAt in ticks of the server's wall clock."""
    updated: int
    """UpdatedAt, likewise."""
    number: int
    """How often it was handed out."""
    requeued: bool = False
    """It was rejected, and is to be delivered again."""

    @property
    def waits(self) -> bool:
        """It was requeued, and not handed out since."""
        return self.requeued and not self.number


@attrs.frozen(kw_only=True)
class Settlement:
    """A version that never comes again."""

    key: Key
    created: int
    """CreatedAt in ticks of the server's wall clock."""
    updated: int
    """UpdatedAt, likewise."""
    states: tuple[str, ...]
    """The states that were settled at `updated`, in order; more than one if the stamp did not move."""
    outcome: Outcome = Outcome.SETTLED
    reason: str | None = None
    """Why it was rejected."""
    by: str = ""
    """Who settled it: the same one may write it again, for another it is taken."""


@attrs.frozen(kw_only=True)
class Quarantined:
    """A malformed row, without its content."""

    key: int | str
    created: int | None
    updated: int | None
    reason: str
    asked_from: int
    """Where the poll that found it began; one that begins there and does not find it proves it gone."""
    is_new: bool = True
    """Well-formed, it would have been new when it was found; an old message that was changed is not."""


@attrs.frozen(kw_only=True)
class Marks:
    """A poller's position, in ticks of the server's wall clock."""

    start: int
    """No poll asks for anything before it."""
    low: int | None
    """The settled mark: everything received at or below it is settled. None before the first message."""
    caught_up: int
    """The last read mark that the settled mark reached; what was created 48 h before it is not new."""
    swept_at: float | None
    """When the last deep sweep was, in seconds since 1970 of this machine's clock."""


class Leadership(Protocol):
    """Who leads, where replicas share a store."""

    @property
    def holder(self) -> str:
        """Who leads: machine and process."""
        ...

    @property
    def until(self) -> datetime:
        """When the lease ends unless it is renewed, by the store's clock (aware, UTC)."""
        ...


class Lease(Leadership, Protocol):
    """The right to lead."""

    @property
    def seconds(self) -> float:
        """How long it holds from each renewal; the poller counts from when it *sent* the renewal."""
        ...

    async def renew(self) -> None:
        """Prolong it.

        Raises:
            LeaseLost: Another replica leads now.
        """
        ...


@attrs.frozen(kw_only=True)
class Saved:
    """All that a store holds for a poller, which leads from now on."""

    marks: Marks | None = None
    """None if there is no position yet."""
    settlements: tuple[Settlement, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    quarantine: tuple[Quarantined, ...] = ()
    lease: Lease | None = None
    """None where nobody else can lead meanwhile."""


@attrs.frozen(kw_only=True)
class Standby:
    """Another replica leads."""

    lease: Leadership
    retry_after: float
    """Seconds after which to try again."""


@attrs.frozen(kw_only=True)
class Delta:
    """What changed; a store applies all of it, or nothing, in the order of these fields."""

    marks: Marks | None = None
    forgotten: tuple[Identity, ...] = ()
    """Messages of which no poll can bring anything as new any more."""
    settlements: tuple[Settlement, ...] = ()
    done: tuple[Key, ...] = ()
    """Attempts that ended with a settlement; one that was requeued since is another."""
    attempts: tuple[Attempt, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    cured: tuple[int | str, ...] = ()
    """Keys of malformed rows that came well-formed, or are gone."""


class Store(Protocol):
    """Where a poller keeps its position, under its name.

    A method that fails raises a `StoreError`; a `retryable` one pauses the poller until the store is back.
    """

    async def open(self, name: str, server: str) -> Saved | Standby:
        """Begin to lead, unless another replica does.

        Raises:
            PositionMismatch: The position belongs to another SMS server than `server`.
            ConfigurationError: It is in use already.
        """
        ...

    async def save(self, name: str, delta: Delta) -> Mapping[Key, Settlement]:
        """Write a change, all of it or nothing; durable when this returns. Saving it twice does no harm.

        Return the settlements of others that stand where a settlement or an attempt was to be written; these
        were not.

        Raises:
            LeaseLost: Another replica leads now, and nothing was written. A delta of settlements alone needs
                no lease: a handler may end after its poller has lost it.
        """
        ...

    async def settled(self, name: str, keys: Collection[Key]) -> Mapping[Key, Settlement]:
        """The settlements of these versions, in what is committed."""
        ...

    async def settle_in(self, tx: Any, name: str, settlement: Settlement, *, again: bool) -> Callable[[], bool]:
        """Write a settlement through a transaction of the consumer's; return what tells that this has ended.

        With `again`, the same settlement may stand in this transaction already.

        Raises:
            AlreadySettled: The version is settled; the transaction must be rolled back.
            ConfigurationError: It is no transaction on the store's database.
        """
        ...

    async def requeued(self, name: str) -> tuple[Attempt, ...]:
        """The messages that `requeue` marked, until they are handed out again."""
        ...

    async def close(self, name: str) -> None:
        """End the use of a position, if it is in use."""
        ...


class HasAddress(Protocol):
    """A client, as `adopt` needs it."""

    @property
    def base_url(self) -> str:
        """The SMS server's address."""
        ...


@attrs.define
class _Position:
    server: str
    marks: Marks | None = None
    settlements: dict[Key, Settlement] = attrs.field(factory=dict)
    attempts: dict[Key, Attempt] = attrs.field(factory=dict)
    quarantine: dict[int | str, Quarantined] = attrs.field(factory=dict)


@attrs.define(eq=False)
class MemoryStore:
    """A store that lives as long as the process, for scripts and tests.

    What was settled is remembered from one poller to the next that is given the same store.
    """

    _positions: dict[str, _Position] = attrs.field(init=False, factory=dict, repr=False)
    _in_use: set[str] = attrs.field(init=False, factory=set)

    async def create_tables(self) -> None:
        """Do nothing: memory needs no tables."""

    async def open(self, name: str, server: str) -> Saved | Standby:
        """Begin to use a position."""
        if name in self._in_use:
            msg = f"the store is in use by a poller named {name!r}; give each poller a name of its own"
            raise ConfigurationError(msg)
        position = self._positions.setdefault(name, _Position(server))
        if position.server != server:
            raise mismatch(name, position.server, server)
        self._in_use.add(name)
        return Saved(
            marks=position.marks,
            settlements=tuple(position.settlements.values()),
            attempts=tuple(position.attempts.values()),
            quarantine=tuple(position.quarantine.values()),
        )

    async def save(self, name: str, delta: Delta) -> Mapping[Key, Settlement]:
        """Write a change."""
        position = self._positions[name]
        position.marks = delta.marks or position.marks
        if delta.forgotten:
            forgotten = set(delta.forgotten)
            position.settlements = {
                key: kept for key, kept in position.settlements.items() if key[:2] not in forgotten
            }
            position.attempts = {key: kept for key, kept in position.attempts.items() if key[:2] not in forgotten}
        taken: dict[Key, Settlement] = {}
        for settlement in delta.settlements:
            kept = position.settlements.setdefault(settlement.key, settlement)
            if kept.by != settlement.by:
                taken[kept.key] = kept
        for done in delta.done:
            if done in position.attempts and not position.attempts[done].waits:
                del position.attempts[done]
        for attempt in delta.attempts:
            if attempt.key in position.settlements:
                taken[attempt.key] = position.settlements[attempt.key]
            else:
                position.attempts[attempt.key] = attempt
        position.quarantine |= {row.key: row for row in delta.quarantined}
        for cured in delta.cured:
            position.quarantine.pop(cured, None)
        return taken

    async def settled(self, name: str, keys: Collection[Key]) -> Mapping[Key, Settlement]:
        """The settlements of these versions."""
        settlements = self._positions[name].settlements
        return {key: settlements[key] for key in keys if key in settlements}

    async def settle_in(self, tx: Any, name: str, settlement: Settlement, *, again: bool) -> Callable[[], bool]:
        """Refuse: memory takes part in no transaction."""
        msg = "ack(tx) needs a store on the same database, like SqlStore; call ack() without it"
        raise ConfigurationError(msg)

    async def requeued(self, name: str) -> tuple[Attempt, ...]:
        """The messages that `requeue` marked, until they are handed out again."""
        attempts = self._positions[name].attempts.values()
        return tuple(attempt for attempt in attempts if attempt.waits)

    async def close(self, name: str) -> None:
        """End the use of a position."""
        self._in_use.discard(name)

    async def requeue(self, name: str, *, id: int | None = None) -> int:  # noqa: A002 - the specification's name
        """Have rejected messages delivered again: the one with this Id, or all; return how many."""
        if name not in self._positions:
            return 0
        position = self._positions[name]
        chosen = [
            kept
            for kept in position.settlements.values()
            if kept.outcome is Outcome.REJECTED and id in (None, kept.key[0])
        ]
        for settlement in chosen:
            del position.settlements[settlement.key]
            position.attempts[settlement.key] = requeued(settlement)
        return len(chosen)

    async def adopt(self, name: str, client: HasAddress) -> None:
        """Use the position for the server of `client`, which has moved and has the same messages.

        Raises:
            ConfigurationError: There is no position of this name.
        """
        if name not in self._positions:
            raise unknown_position(name)
        self._positions[name].server = client.base_url


def requeued(settlement: Settlement) -> Attempt:
    """The attempt that takes the place of a rejection."""
    return Attempt(
        key=settlement.key, created=settlement.created, updated=settlement.updated, number=0, requeued=True
    )


def mismatch(name: str, stored: str, server: str) -> PositionMismatch:
    """The error for a position of another server."""
    return PositionMismatch(
        f"the position {name!r} belongs to {stored}; call store.adopt({name!r}, client) to use it for {server}, "
        "if the SMS server has moved and has the same messages, or give the poller another name"
    )


def unknown_position(name: str) -> ConfigurationError:
    """The error for a name that no poller has used."""
    return ConfigurationError(f"the store has no position named {name!r}")


def already_settled() -> AlreadySettled:
    """The error for a version whose settlement stands."""
    return AlreadySettled("this message was settled before: roll back, its effect stands already")
