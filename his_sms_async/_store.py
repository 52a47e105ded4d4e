"""What a poller remembers across restarts, and where: the protocol of a store, and the one in memory.

A store is told identities, revisions, marks, attempts and reasons: no number and no text.
"""

from enum import StrEnum
from typing import Any, Protocol

import attrs

from ._errors import ConfigurationError, PositionMismatch

Identity = tuple[int, int]
"""Id, and CreatedAt modulo 15 minutes in ticks."""


class Status(StrEnum):
    """What became of a message."""

    OPEN = "open"
    """It was handed out and never settled."""
    SETTLED = "settled"
    REJECTED = "rejected"
    """Settled, and kept until it is requeued."""
    REQUEUED = "requeued"
    """It was rejected, and is to be delivered again."""


@attrs.frozen(kw_only=True)
class Record:
    """What is known of one message."""

    identity: Identity
    created: int
    """CreatedAt in ticks of the server's wall clock."""
    updated: int
    """UpdatedAt of the revision that was settled last; of the one in hand, if none was."""
    states: tuple[str, ...]
    """The states that were settled at `updated`, in order; more than one if the stamp did not move."""
    attempt: int
    """How often the version that is not settled was handed out."""
    status: Status
    reason: str | None = None
    """Why it was rejected."""


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


@attrs.frozen(kw_only=True)
class Saved:
    """All that a store holds for a poller."""

    marks: Marks
    records: tuple[Record, ...]
    quarantine: tuple[Quarantined, ...]


@attrs.frozen(kw_only=True)
class Delta:
    """What changed; a store applies all of it, or nothing."""

    marks: Marks | None = None
    records: tuple[Record, ...] = ()
    forgotten: tuple[Identity, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    cured: tuple[int | str, ...] = ()
    """Keys of malformed rows that came well-formed, or are gone."""


class Store(Protocol):
    """Where a poller keeps its position, under its name.

    A method that fails raises a `StoreError`; a `retryable` one pauses the poller until the store is back.
    """

    async def open(self, name: str, server: str) -> Saved | None:
        """Begin to use a position; None if there is none yet.

        Raises:
            PositionMismatch: It belongs to another SMS server than `server`.
            ConfigurationError: It is in use already.
        """
        ...

    async def save(self, name: str, delta: Delta) -> None:
        """Write a change, all of it or nothing; durable when this returns. Saving it twice does no harm."""
        ...

    async def requeued(self, name: str) -> tuple[Record, ...]:
        """The messages that `requeue` marked, until they are handed out again."""
        ...

    async def close(self, name: str) -> None:
        """End the use of a position."""
        ...


class _HasAddress(Protocol):
    @property
    def base_url(self) -> str: ...


@attrs.define
class _Position:
    server: str
    marks: Marks | None = None
    records: dict[Identity, Record] = attrs.field(factory=dict)
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

    async def open(self, name: str, server: str) -> Saved | None:
        """Begin to use a position; None if there is none yet."""
        if name in self._in_use:
            msg = f"the store is in use by a poller named {name!r}; give each poller a name of its own"
            raise ConfigurationError(msg)
        position = self._positions.setdefault(name, _Position(server))
        if position.server != server:
            msg = f"the position {name!r} belongs to {position.server}; call store.adopt() to use it for {server}"
            raise PositionMismatch(msg)
        self._in_use.add(name)
        if position.marks is None:
            return None
        return Saved(
            marks=position.marks,
            records=tuple(position.records.values()),
            quarantine=tuple(position.quarantine.values()),
        )

    async def save(self, name: str, delta: Delta) -> None:
        """Write a change."""
        position = self._positions[name]
        position.marks = delta.marks or position.marks
        for record in delta.records:
            kept = position.records.get(record.identity)
            asked_for = kept is not None and kept.status is Status.REQUEUED and not kept.attempt
            if asked_for and record.status is Status.REJECTED:  # the poller has not heard of it yet
                record = attrs.evolve(record, status=Status.REQUEUED, attempt=0, reason=None)  # noqa: PLW2901
            position.records[record.identity] = record
        position.quarantine |= {row.key: row for row in delta.quarantined}
        _remove(position.records, delta.forgotten)
        _remove(position.quarantine, delta.cured)

    async def requeued(self, name: str) -> tuple[Record, ...]:
        """The messages that `requeue` marked, until they are handed out again."""
        records = self._positions[name].records.values()
        return tuple(record for record in records if record.status is Status.REQUEUED and not record.attempt)

    async def close(self, name: str) -> None:
        """End the use of a position."""
        self._in_use.discard(name)

    async def requeue(self, name: str, *, id: int | None = None) -> int:  # noqa: A002 - the specification's name
        """Have rejected messages delivered again: the one with this Id, or all; return how many."""
        records = self._positions[name].records if name in self._positions else {}
        chosen = [
            record
            for record in records.values()
            if record.status is Status.REJECTED and id in (None, record.identity[0])
        ]
        for record in chosen:
            records[record.identity] = attrs.evolve(record, status=Status.REQUEUED, attempt=0)
        return len(chosen)

    async def adopt(self, name: str, client: _HasAddress) -> None:
        """Use the position for the server of `client`, which has moved and has the same messages."""
        if name in self._positions:
            self._positions[name].server = client.base_url


def _remove(table: dict[Any, Any], keys: tuple[Any, ...]) -> None:
    for key in keys:
        table.pop(key, None)
