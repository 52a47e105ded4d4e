"""What is read and written, as functions of a connection in a transaction."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    insert,
    not_,
    select,
    tuple_,
    update,
)

from his_sms_async._errors import LeaseLost, UnsupportedStoreFormat
from his_sms_async._store import Attempt, Delta, Identity, Key, Marks, Outcome, Quarantined, Settlement, requeued

from ._tables import Tables

T = TypeVar("T")

# Rows in one statement: large enough to be quick, small enough to leave the event loop its turns.
_AT_ONCE = 500
_PAGE = 1000


@attrs.frozen
class Held:
    """A leadership: every write of marks is fenced by it."""

    holder: str
    epoch: int


@attrs.frozen
class Rows:
    """The rows of one poller."""

    tables: Tables
    name: str
    lease: float | None
    """Seconds; None without one."""

    # --- reading ---

    def marks(self, connection: Connection) -> Marks | None:
        """The position; None if there is none yet."""
        poller = self.tables.poller
        row = connection.execute(
            select(poller.c.start, poller.c.low, poller.c.caught_up, poller.c.swept_at).where(
                poller.c.name == self.name
            )
        ).one()
        if row.start is None:
            return None
        return _understood(
            lambda: Marks(
                start=_whole(row.start),
                low=None if row.low is None else _whole(row.low),
                caught_up=_whole(row.caught_up),
                swept_at=row.swept_at,
            )
        )

    def settlements(self, connection: Connection, read: Sequence[Settlement]) -> list[Settlement]:
        """The next page of what is settled and remembered, after what was read; empty at the end."""
        table = self.tables.settlement
        place = tuple_(table.c.message_id, table.c.created_modulo, table.c.version)
        chosen = select(table).where(table.c.poller == self.name).order_by(*place.clauses).limit(_PAGE)
        if read:
            chosen = chosen.where(place > tuple_(*read[-1].key))
        return [_settlement(row) for row in connection.execute(chosen)]

    def attempts(self, connection: Connection) -> tuple[Attempt, ...]:
        """All that was handed out or requeued, and is not settled."""
        attempt = self.tables.attempt
        return tuple(
            _attempt(row) for row in connection.execute(select(attempt).where(attempt.c.poller == self.name))
        )

    def requeued(self, connection: Connection) -> tuple[Attempt, ...]:
        """What was requeued and not handed out since."""
        attempt = self.tables.attempt
        chosen = select(attempt).where(
            attempt.c.poller == self.name, attempt.c.requeued.is_(True), attempt.c.number == 0
        )
        return tuple(_attempt(row) for row in connection.execute(chosen))

    def quarantine(self, connection: Connection) -> tuple[Quarantined, ...]:
        """The malformed rows."""
        quarantine = self.tables.quarantine
        chosen = select(quarantine).where(quarantine.c.poller == self.name)
        return tuple(_quarantined(row) for row in connection.execute(chosen))

    def settled(self, connection: Connection, keys: Collection[Key]) -> dict[Key, Settlement]:
        """The settlements among some versions."""
        settlement = self.tables.settlement
        wanted = set(keys)
        found: dict[Key, Settlement] = {}
        for some in _some(sorted({key[0] for key in wanted})):
            chosen = select(settlement).where(
                settlement.c.poller == self.name, settlement.c.message_id.in_([*some])
            )
            found |= {
                kept.key: kept for kept in map(_settlement, connection.execute(chosen)) if kept.key in wanted
            }
        return found

    # --- writing ---

    def save(
        self, connection: Connection, held: Held, delta: Delta, *, is_clear: bool
    ) -> Mapping[Key, Settlement]:
        """Write a change.

        With `is_clear`, nothing is expected to stand where something is written, but for what was handed out
        before; if it does, that is an IntegrityError, and the change is to be saved without.
        """
        self._forget(connection, delta.forgotten)
        tried = [one.key for one in delta.attempts if one.number > 1 or one.requeued or not is_clear]
        asked = tried if is_clear else [*tried, *(one.key for one in delta.settlements)]
        standing = self.settled(connection, asked) if asked else {}
        taken = self._settle(connection, delta.settlements, standing)
        attempts = [one for one in delta.attempts if one.key not in taken]
        attempt = self.tables.attempt
        self._delete(connection, attempt, delta.done, not_(and_(attempt.c.requeued, attempt.c.number == 0)))
        self._delete(connection, attempt, tried)
        for some in _some([self._attempt_values(one) for one in attempts]):
            connection.execute(insert(self.tables.attempt), some)
        self._quarantine(connection, delta)
        self._fence(connection, held, delta.marks)
        return taken

    def settle(self, connection: Connection, settlements: Sequence[Settlement]) -> Mapping[Key, Settlement]:
        """Write settlements without leading."""
        return self._settle(connection, settlements, self.settled(connection, [one.key for one in settlements]))

    def _fence(self, connection: Connection, held: Held, marks: Marks | None) -> None:
        """Move the marks if this replica leads; if not, nothing is written.

        It comes last: whatever the statements before it wait for, the row stays free for renewals until then.
        """
        limit_idleness(connection, self.lease)
        poller = self.tables.poller
        values: dict[str, Any] = {"epoch": held.epoch} if marks is None else attrs.asdict(marks)
        fenced = update(poller).where(
            poller.c.name == self.name, poller.c.holder == held.holder, poller.c.epoch == held.epoch
        )
        if connection.execute(fenced.values(values)).rowcount != 1:
            raise lease_lost()

    def _settle(
        self, connection: Connection, settlements: Sequence[Settlement], standing: Mapping[Key, Settlement]
    ) -> dict[Key, Settlement]:
        own = {one.key for one in settlements if one.key in standing and standing[one.key].by == one.by}
        new = [self._settlement_values(one) for one in settlements if one.key not in standing]
        for some in _some(new):
            connection.execute(insert(self.tables.settlement), some)
        return {key: kept for key, kept in standing.items() if key not in own}

    def _quarantine(self, connection: Connection, delta: Delta) -> None:
        quarantine = self.tables.quarantine
        gone = [_row_key(key) for key in (*delta.cured, *(row.key for row in delta.quarantined))]
        for some in _some([{"gone": key} for key in gone]):
            connection.execute(
                delete(quarantine).where(
                    quarantine.c.poller == self.name, quarantine.c.row_key == bindparam("gone")
                ),
                some,
            )
        kept = [
            {"poller": self.name, "row_key": _row_key(row.key)}
            | attrs.asdict(row, filter=lambda attribute, _: attribute.name != "key")
            for row in delta.quarantined
        ]
        for some in _some(kept):
            connection.execute(insert(quarantine), some)

    def _forget(self, connection: Connection, forgotten: Sequence[Identity]) -> None:
        for table in (self.tables.settlement, self.tables.attempt) if forgotten else ():
            gone = delete(table).where(
                table.c.poller == self.name,
                table.c.message_id == bindparam("gone_id"),
                table.c.created_modulo == bindparam("gone_modulo"),
            )
            for some in _some(forgotten):
                connection.execute(gone, [{"gone_id": one[0], "gone_modulo": one[1]} for one in some])

    def _delete(
        self, connection: Connection, table: Table, keys: Sequence[Key], *conditions: ColumnElement[bool]
    ) -> None:
        gone = delete(table).where(
            *conditions,
            table.c.poller == self.name,
            table.c.message_id == bindparam("gone_id"),
            table.c.created_modulo == bindparam("gone_modulo"),
            table.c.version == bindparam("gone_version"),
        )
        for some in _some(keys):
            connection.execute(
                gone, [dict(zip(("gone_id", "gone_modulo", "gone_version"), key, strict=True)) for key in some]
            )

    def clear_settled_attempts(self, connection: Connection) -> None:
        """Delete the attempts whose settlement was committed when nobody could see to them."""
        attempt, settlement = self.tables.attempt, self.tables.settlement
        is_settled = exists().where(
            and_(*(settlement.c[name] == attempt.c[name] for name in attempt.primary_key.columns.keys()))  # noqa: SIM118
        )
        connection.execute(delete(attempt).where(attempt.c.poller == self.name, is_settled))

    def requeue(self, connection: Connection, message_id: int | None) -> int:
        """Have rejected messages delivered again; return how many."""
        settlement = self.tables.settlement
        chosen = select(settlement).where(
            settlement.c.poller == self.name, settlement.c.outcome == str(Outcome.REJECTED)
        )
        if message_id is not None:
            chosen = chosen.where(settlement.c.message_id == message_id)
        rejected = [_settlement(row) for row in connection.execute(chosen)]
        keys = [one.key for one in rejected]
        for table in (settlement, self.tables.attempt):
            self._delete(connection, table, keys)
        for some in _some([self._attempt_values(requeued(one)) for one in rejected]):
            connection.execute(insert(self.tables.attempt), some)
        return len(rejected)

    def insert_settlement(self, connection: Connection, settlement: Settlement) -> None:
        """Write one settlement, and nothing else."""
        connection.execute(insert(self.tables.settlement).values(self._settlement_values(settlement)))

    def _settlement_values(self, settlement: Settlement) -> dict[str, Any]:
        return self._key_values(settlement.key) | {
            "created": settlement.created,
            "updated": settlement.updated,
            "states": json.dumps(settlement.states),
            "outcome": str(settlement.outcome),
            "reason": settlement.reason,
            "settled_by": settlement.by,
        }

    def _attempt_values(self, attempt: Attempt) -> dict[str, Any]:
        return self._key_values(attempt.key) | {
            "created": attempt.created,
            "updated": attempt.updated,
            "number": attempt.number,
            "requeued": attempt.requeued,
        }

    def _key_values(self, key: Key) -> dict[str, Any]:
        message_id, created_modulo, version = key
        return {
            "poller": self.name,
            "message_id": message_id,
            "created_modulo": created_modulo,
            "version": version,
        }


def limit_idleness(connection: Connection, seconds: float | None) -> None:
    """Let PostgreSQL end this transaction if it stands still for so long.

    A process that is suspended after it has locked the row that says who leads would keep all others from it.
    """
    if seconds is not None and connection.dialect.name == "postgresql":
        limit = max(1, round(seconds * 1000))
        connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = {limit}")


def lease_lost() -> LeaseLost:
    """The error for a write without leadership."""
    return LeaseLost("another replica leads now, and will deliver what is not settled")


# --- rows as values -------------------------------------------------------------------------------------


def _settlement(row: Row[Any]) -> Settlement:
    return _understood(
        lambda: Settlement(
            key=_key(row),
            created=_whole(row.created),
            updated=_whole(row.updated),
            states=tuple(str(state) for state in json.loads(row.states)),
            outcome=Outcome(row.outcome),
            reason=row.reason,
            by=row.settled_by,
        )
    )


def _attempt(row: Row[Any]) -> Attempt:
    return _understood(
        lambda: Attempt(
            key=_key(row),
            created=_whole(row.created),
            updated=_whole(row.updated),
            number=_whole(row.number),
            requeued=bool(row.requeued),
        )
    )


def _quarantined(row: Row[Any]) -> Quarantined:
    kind, _, key = row.row_key.partition(" ")
    return _understood(
        lambda: Quarantined(
            key=int(key) if kind == "id" else key,
            created=row.created,
            updated=row.updated,
            reason=row.reason,
            asked_from=_whole(row.asked_from),
            is_new=bool(row.is_new),
        )
    )


def _row_key(key: int | str) -> str:
    return f"id {key}" if isinstance(key, int) else f"digest {key}"


def _key(row: Row[Any]) -> Key:
    return _whole(row.message_id), _whole(row.created_modulo), str(row.version)


def _whole(value: Any) -> int:
    """An integer; SQLite keeps whatever it is given."""
    if type(value) is not int:
        raise TypeError
    return value


def _understood(read: Callable[[], T]) -> T:
    try:
        return read()
    except (TypeError, ValueError):
        msg = "the store holds a row that cannot be read; it is damaged: restore the database from a backup"
    raise UnsupportedStoreFormat(msg)


def _some(values: Sequence[T]) -> Iterable[Sequence[T]]:
    return (values[begin : begin + _AT_ONCE] for begin in range(0, len(values), _AT_ONCE))
