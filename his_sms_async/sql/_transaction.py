"""The consumer's own transaction, in which a message is settled together with its effect."""

from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import attrs
from sqlalchemy import Connection, and_, select, true
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from his_sms_async._errors import ConfigurationError, SmsError
from his_sms_async._store import Settlement, already_settled

from ._database import is_missing_table, translated
from ._rows import Rows

_ELSEWHERE = "tx is not on the store's database, or its tables are under another prefix or schema there"


@attrs.frozen
class SettlementInTransaction:
    """One settlement, to be written through a transaction on the store's database."""

    rows: Rows
    store_id: str
    settlement: Settlement
    again: bool
    """It may stand in this transaction already."""

    async def write(self, tx: Any) -> Callable[[], bool]:
        """Write it; return what tells that the transaction has ended, however it did."""
        if not isinstance(tx, Connection | Session | AsyncConnection | AsyncSession):
            msg = "tx must be a SQLAlchemy Connection, Session, AsyncConnection or AsyncSession"
            raise ConfigurationError(msg)
        try:
            if isinstance(tx, AsyncConnection | AsyncSession):
                return await tx.run_sync(self._write)
            # not one of the application's threads: its sync handlers may be waiting in all of them for this
            return await anyio.to_thread.run_sync(self._write, tx, limiter=anyio.CapacityLimiter(1))
        except SmsError:
            raise
        except IntegrityError:  # another transaction was first, and we have waited until it was committed
            failure: SmsError = already_settled()
        except InvalidRequestError as error:
            failure = ConfigurationError(f"tx cannot be used: {type(error).__name__}")
        except Exception as error:  # noqa: BLE001 - drivers raise their own
            problem = translated(error)
            failure = ConfigurationError(_ELSEWHERE) if is_missing_table(problem) else problem
        raise failure

    def _write(self, tx: Connection | Session) -> Callable[[], bool]:
        connection = tx.connection() if isinstance(tx, Session) else tx
        store, settlement = self.rows.tables.store, self.rows.tables.settlement
        message_id, created_modulo, version = self.settlement.key
        is_same = and_(
            settlement.c.poller == self.rows.name,
            settlement.c.message_id == message_id,
            settlement.c.created_modulo == created_modulo,
            settlement.c.version == version,
        )
        found = connection.execute(
            select(store.c.id, settlement.c.settled_by)
            .select_from(store.outerjoin(settlement, is_same))
            .where(true())
        ).first()
        if found is None or found.id != self.store_id:
            raise ConfigurationError(_ELSEWHERE)
        if _commits_by_itself(connection):
            msg = "tx commits each statement by itself (AUTOCOMMIT), so effect and settlement could be parted"
            raise ConfigurationError(msg)
        if found.settled_by is None:
            self.rows.insert_settlement(connection, self.settlement)
        elif not self.again or found.settled_by != self.settlement.by:
            raise already_settled()
        transaction = connection.get_transaction()
        assert transaction is not None  # noqa: S101 - a statement begins one
        return lambda: not transaction.is_active


def _commits_by_itself(connection: Connection) -> bool:
    """Whether there is no transaction in the database, however the engine came to that; after a statement."""
    adapted, driver = connection.connection.dbapi_connection, connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        return getattr(adapted, "isolation_level", None) is None and not getattr(driver, "in_transaction", True)
    return getattr(adapted, "autocommit", False) is True
