"""The user's database: an engine of either kind, one transaction at a time, and what its errors mean."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import anyio.to_thread
import attrs
import sniffio
from sqlalchemy import Connection, Engine, create_engine, make_url
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    InternalError,
    NoSuchModuleError,
    OperationalError,
    TimeoutError as PoolTimeout,
)
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from his_sms_async._errors import ConfigurationError, StoreError, UnsupportedStoreFormat, bare, foreign
from his_sms_async._hidden import Hidden

T = TypeVar("T")

# How often a transaction is tried in which somebody else was first to insert a row.
_ATTEMPTS = 3
# Statements at the same time; those that were abandoned count until they end.
_THREADS = 20
# Seconds in which a statement under way may end when its caller is cancelled.
_GRACE = 1.0


@attrs.define(eq=False)
class Database:
    """Runs work in transactions of its own, beside the user's on the same engine."""

    _given: Hidden[Engine | AsyncEngine | URL]
    """An engine of the user's, or a URL, for which an engine is made when it is first needed."""
    _engine: Engine | AsyncEngine | None = attrs.field(init=False, default=None)
    _threads: anyio.CapacityLimiter | None = attrs.field(init=False, default=None)
    """For a sync engine; the application may use up those of its own."""
    _is_ours: bool = attrs.field(init=False, default=False)

    @classmethod
    def at(cls, place: Hidden[object]) -> "Database":
        """Take an engine or a URL; nothing is connected.

        Raises:
            ConfigurationError: It is neither, or a database in memory.
        """
        engine = place.reveal()
        given = engine if isinstance(engine, Engine | AsyncEngine) else _parsed(place)
        database = cls(Hidden(given))
        if database.url.get_backend_name() == "sqlite" and _is_in_memory(database.url):
            msg = (
                "a SQLite database in memory is lost with the process; give SqlStore a file, with three slashes "
                "before it like sqlite:///replies.db, or use MemoryStore"
            )
            raise ConfigurationError(msg)
        if isinstance(getattr(engine, "pool", None), StaticPool | SingletonThreadPool):
            msg = "the engine's pool shares one connection, so transactions would mix; use its default pool"
            raise ConfigurationError(msg)
        return database

    @property
    def url(self) -> URL:
        """Where it is; its `repr` hides the password."""
        given = self._given.reveal()
        return given if isinstance(given, URL) else given.url

    @property
    def is_given_by_url(self) -> bool:
        """The engine is ours, and the tables may be created."""
        return isinstance(self._given.reveal(), URL)

    @property
    def is_sqlite(self) -> bool:
        """One process at a time, and no lease."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def dialect(self) -> Dialect:
        """How its SQL is written."""
        given = self._given.reveal()
        return given.get_dialect()() if isinstance(given, URL) else given.dialect

    async def run(self, work: Callable[[Connection], T], *, opening: bool = False) -> T:
        """Do something in one transaction, which is committed when this returns.

        Args:
            work: What to do; it is done again if somebody else inserts the same row first.
            opening: A full disk is an error then, for nothing was begun that could wait for space.

        Raises:
            StoreError: The database cannot do it; `retryable` if it may be able to later.
        """
        attempts = 0
        while True:
            attempts += 1
            try:
                return await _to_the_end(lambda: self._in_transaction(work))
            except Exception as error:
                if not _is_foreign(error):
                    raise
                failure = translated(error, opening=opening)
                if not isinstance(error, IntegrityError) or attempts == _ATTEMPTS:
                    break
        raise failure

    async def dispose(self) -> None:
        """Close the connections of an engine that we made."""
        engine, self._engine, self._threads = self._engine, None, None
        if isinstance(engine, AsyncEngine) and self._is_ours:
            await engine.dispose()
        elif engine is not None and self._is_ours:
            await anyio.to_thread.run_sync(engine.dispose)

    async def _in_transaction(self, work: Callable[[Connection], T]) -> T:
        engine = self._engine
        if engine is None:
            made = await anyio.to_thread.run_sync(self._make_engine)
            engine = self._engine = self._engine or made  # another call may have been quicker
        if isinstance(engine, Engine):
            self._threads = self._threads or anyio.CapacityLimiter(_THREADS)
            return await anyio.to_thread.run_sync(
                _begin, engine, work, abandon_on_cancel=True, limiter=self._threads
            )
        if sniffio.current_async_library() != "asyncio":
            msg = "an AsyncEngine, or the URL of an async driver, works on asyncio only; give a sync Engine"
            raise ConfigurationError(msg)
        async with engine.begin() as connection:
            return await connection.run_sync(work)

    def _make_engine(self) -> Engine | AsyncEngine:
        engine = self._given.reveal()
        if isinstance(engine, URL):
            engine = _engine_at(engine)
            self._is_ours = True
        # whatever the user's own transactions need, ours are short, and unique keys and the fence guard them
        return engine if self.is_sqlite else engine.execution_options(isolation_level="READ COMMITTED")


def _engine_at(url: URL) -> Engine | AsyncEngine:
    try:
        return create_async_engine(url) if url.get_dialect().is_async else create_engine(url)
    except ModuleNotFoundError as error:
        missing = error.name
    except NoSuchModuleError:
        missing = f"{url.drivername} (PostgreSQL is called postgresql+psycopg)"
    msg = f"the driver in engine_or_url is not installed: {missing}"
    raise ConfigurationError(msg)


async def _to_the_end(call: Callable[[], Awaitable[T]]) -> T:
    """Let a call end by itself when its caller is cancelled, for some time: drivers complain if interrupted."""
    outcomes: list[T] = []
    failures: list[Exception] = []
    over, scope = anyio.CancelScope(), anyio.CancelScope(shield=True)
    async with anyio.create_task_group() as tasks:
        with scope:
            tasks.start_soon(_limit, scope, over)
            try:
                outcomes.append(await call())
            except Exception as error:  # noqa: BLE001 - raised below: the task group would wrap it
                failures.append(error)
            over.cancel()
    if scope.cancelled_caught:
        await anyio.sleep_forever()  # the caller is cancelled, so this ends at once
    if failures:
        raise failures[0]
    return outcomes[0]


async def _limit(scope: anyio.CancelScope, over: anyio.CancelScope) -> None:
    """Set the scope's deadline when this task is cancelled, unless its work is over."""
    try:
        with over:
            await anyio.sleep_forever()
    finally:
        scope.deadline = anyio.current_time() + _GRACE


def _begin(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)


def _parsed(place: Hidden[object]) -> URL:
    try:
        return make_url(place.reveal())  # type: ignore[arg-type]
    except ArgumentError:
        msg = "engine_or_url must be an Engine, an AsyncEngine or a URL like sqlite:///replies.db"
    raise ConfigurationError(msg)


def _is_in_memory(url: URL) -> bool:
    return not url.database or ":memory:" in url.database or url.query.get("mode") == "memory"


# --- what errors mean -----------------------------------------------------------------------------------

_MISSING = "a table of the store is missing; call create_tables(), or run the migrations that create it"
_FULL = "the disk of the store's database is full; free space"

# By SQLite's error name, which extended ones begin with, or by PostgreSQL's SQLSTATE.
_CODES: dict[str, tuple[type[StoreError], str, bool]] = {
    "SQLITE_FULL": (StoreError, _FULL, True),
    "53100": (StoreError, _FULL, True),
    "SQLITE_BUSY": (StoreError, "the store's file is locked by another transaction, maybe one of your own", True),
    "SQLITE_READONLY": (StoreError, "the store's file is read-only; let this process write it", False),
    "42501": (StoreError, "the database user may not use the store's tables; grant it that", False),
    "SQLITE_CANTOPEN": (StoreError, "the store's file cannot be opened; check its folder and its rights", False),
    "SQLITE_NOTADB": (
        UnsupportedStoreFormat,
        "the store's file is no SQLite database; restore it from a backup, or name another file",
        False,
    ),
    "SQLITE_CORRUPT": (UnsupportedStoreFormat, "the store's file is damaged; restore it from a backup", False),
    "42P01": (StoreError, _MISSING, False),
    "3F000": (StoreError, "the schema of the store is missing; create it, then call create_tables()", False),
    "42703": (
        UnsupportedStoreFormat,
        "a column of the store is missing; run the migrations of its version",
        False,
    ),
    "3D000": (StoreError, "the store's database does not exist; create it", False),
    "28": (StoreError, "the store's database refuses the user or the password", False),
}
# By what drivers say where they tell no code: SQLite, and psycopg while it connects.
_TEXTS: dict[str, tuple[type[StoreError], str, bool]] = {
    "no such table": _CODES["42P01"],
    "no such column": _CODES["42703"],
    "has no column": _CODES["42703"],
    "password authentication failed": _CODES["28"],
    "no pg_hba.conf entry": _CODES["28"],
    'FATAL:  role "': _CODES["28"],
    'FATAL:  database "': _CODES["3D000"],
}
# What may pass: no connection, a lock, a restart, a failover.
_PASSING = (OperationalError, InterfaceError, InternalError, PoolTimeout, OSError, TimeoutError)


def _is_foreign(error: Exception) -> bool:
    """Whether the database or its driver raised it; what else Python or we raise stays what it is."""
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or package not in ("builtins", "his_sms_async")


def translated(error: Exception, *, opening: bool = False) -> StoreError:
    """What an error of SQLAlchemy or of a driver means for the user, without its values and frames."""
    original = getattr(error, "orig", None) or error
    code = str(
        getattr(original, "sqlite_errorname", None)
        or getattr(original, "sqlstate", None)
        or getattr(original, "pgcode", None)
    )
    meaning = next((_CODES[known] for known in _CODES if code.startswith(known)), None)
    meaning = meaning or next((_TEXTS[known] for known in _TEXTS if known in str(original)), None)
    if meaning is None:
        is_passing = isinstance(error, _PASSING) or code[:2] in ("08", "40", "53", "57")
        is_passing |= isinstance(error, DBAPIError) and error.connection_invalidated
        says = "the store's database did not answer" if is_passing else "the store's database refused a statement"
        if isinstance(error, PoolTimeout):
            says = "the pool of the store's engine has no connection left; enlarge it"
        meaning = StoreError, says, is_passing
    kind, message, retryable = meaning
    failure = kind(message, retryable=retryable and not (opening and message == _FULL))
    bare(failure, foreign(original, message=False))
    return failure


def missing_table() -> StoreError:
    """The error for tables that are not there."""
    return StoreError(_MISSING)


def is_missing_table(error: StoreError) -> bool:
    """Whether it is that one."""
    return str(error) == _MISSING
