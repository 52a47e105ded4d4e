"""Who leads: a row judged by the database's clock, with an epoch that fences every write of marks."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import attrs
from sqlalchemy import ColumnElement, Connection, Double, cast, extract, func, insert, or_, select, update

from his_sms_async._store import mismatch

from ._rows import Held, lease_lost, limit_idleness
from ._tables import Tables

# The transaction's begin: a wait for the row's lock makes a lease end earlier, never later.
_NOW: ColumnElement[float] = cast(extract("epoch", func.current_timestamp()), Double)


@attrs.frozen
class Leader:
    """Who leads, and until when."""

    holder: str
    """Machine and process."""
    until: datetime
    """By the database's clock (aware, UTC)."""


@attrs.frozen
class Leadership:
    """The row that says who leads one poller.

    `seconds` is how long a lease holds; None where a lock on the file decides, as with SQLite.
    """

    tables: Tables
    name: str
    seconds: float | None

    def take(self, connection: Connection, server: str, holder: str) -> Held | Leader:
        """Lead from now on, unless another does.

        Raises:
            PositionMismatch: The position belongs to another server.
        """
        limit_idleness(connection, self.seconds)
        poller = self.tables.poller
        row = connection.execute(select(poller.c.server).where(poller.c.name == self.name)).first()
        if row is None:
            connection.execute(insert(poller).values(name=self.name, server=server, epoch=0))
        elif row.server != server:
            raise mismatch(self.name, row.server, server)
        free = update(poller).where(poller.c.name == self.name)
        if self.seconds is not None:
            free = free.where(or_(poller.c.lease_until.is_(None), poller.c.lease_until <= _NOW))
        values: dict[str, Any] = {"holder": holder, "epoch": poller.c.epoch + 1, "lease_until": self._until}
        is_ours = connection.execute(free.values(values)).rowcount == 1
        found = connection.execute(
            select(poller.c.epoch, poller.c.holder, poller.c.lease_until).where(poller.c.name == self.name)
        ).one()
        return Held(holder, found.epoch) if is_ours else Leader(_shown(found.holder), _moment(found.lease_until))

    def renew(self, connection: Connection, held: Held) -> datetime:
        """Prolong a lease; return until when.

        Raises:
            LeaseLost: Another leads.
        """
        limit_idleness(connection, self.seconds)
        poller = self.tables.poller
        ours = (poller.c.name == self.name, poller.c.holder == held.holder, poller.c.epoch == held.epoch)
        if connection.execute(update(poller).where(*ours).values(lease_until=self._until)).rowcount != 1:
            raise lease_lost()
        return _moment(connection.execute(select(poller.c.lease_until).where(*ours)).scalar_one())

    def give_up(self, connection: Connection, held: Held) -> None:
        """Let another lead when it tries next."""
        poller = self.tables.poller
        ours = (poller.c.name == self.name, poller.c.holder == held.holder, poller.c.epoch == held.epoch)
        connection.execute(update(poller).where(*ours).values(holder=None, lease_until=None))

    @property
    def _until(self) -> ColumnElement[float] | None:
        return None if self.seconds is None else _NOW + self.seconds


@attrs.define(eq=False)
class SqlLease:
    """The right to lead for so many seconds from each renewal."""

    _held: Held
    seconds: float
    until: datetime
    _renewed: Callable[[], Awaitable[datetime]] = attrs.field(repr=False)

    @property
    def holder(self) -> str:
        """This machine and process."""
        return _shown(self._held.holder)

    async def renew(self) -> None:
        """Prolong it."""
        self.until = await self._renewed()


def _shown(holder: str) -> str:
    return holder.rpartition(":")[0]


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
