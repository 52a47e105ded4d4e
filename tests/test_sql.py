"""`SqlStore` itself: its tables, what it refuses and how it says so, and the exclusive use of a SQLite file."""

import importlib
import os
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from databases import Place, combinations, place as new_place
from fakes import FakeServer, row, until
from postgres import Postgres
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError, TimeoutError as PoolTimeout
from sqlalchemy.pool import StaticPool

from his_sms_async import (
    ConfigurationError,
    IncomingPoller,
    LeaseLost,
    SmsError,
    StoreError,
    UnsupportedStoreFormat,
)
from his_sms_async._store import Delta, Marks, Saved, Settlement, Standby
from his_sms_async.sql import SqlStore
from his_sms_async.sql._database import translated

pytestmark = pytest.mark.anyio

NAME, SERVER = "incoming", "https://sms.test/"
MARKS = Marks(start=1, low=5, caught_up=7, swept_at=9.0)
SETTLEMENT = Settlement(key=(1, 2, ""), created=3, updated=4, states=("Delivered",))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A SQLite file that does not exist yet."""
    return tmp_path / "store.db"


@pytest.fixture
def store(file: Path) -> SqlStore:
    """A store that is given its URL."""
    return SqlStore(f"sqlite:///{file}")


@pytest.fixture
def engine(file: Path) -> Iterator[Engine]:
    """An engine of the user's on the same file."""
    made = create_engine(f"sqlite:///{file}")
    yield made
    made.dispose()


async def opening(store: SqlStore, name: str = NAME) -> Saved | Standby:
    """Open a store and close it again."""
    opened = await store.open(name, SERVER)
    if isinstance(opened, Saved):
        await store.close(name)
    return opened


# --- tables ---


async def test_given_a_url_missing_tables_are_created_and_given_an_engine_they_are_an_error(
    file: Path, engine: Engine
) -> None:
    """The error names what creates them; created twice they stay as they are."""
    with pytest.raises(StoreError, match=r"create_tables\(\)"):
        await opening(SqlStore(engine))
    await opening(SqlStore(f"sqlite:///{file}"))
    store = SqlStore(engine)
    for _ in range(2):
        await store.create_tables()
    assert await opening(store) == Saved()


async def test_prefix_and_schema_are_the_users(postgres_url: str) -> None:
    """Tables, DDL text and metadata bear them, and the store works there."""
    engine = create_engine(postgres_url)
    try:
        store = SqlStore(engine, prefix="ward_3_", schema="sms")
        with pytest.raises(StoreError, match="the schema of the store is missing; create it"):
            await store.create_tables()
        with engine.begin() as connection:
            connection.execute(text("CREATE SCHEMA sms"))
            connection.exec_driver_sql(store.ddl())
        await opening(store)
        assert sorted(store.metadata.tables) == [
            f"sms.ward_3_{name}" for name in ("attempt", "poller", "quarantine", "settlement", "store")
        ]
    finally:
        engine.dispose()


async def test_ddl_is_written_for_a_url_too(store: SqlStore) -> None:
    """Nothing is connected for it; no column could hold a number or a text of a patient."""
    ddl = store.ddl()
    assert ddl.count("CREATE TABLE") == 5
    assert not {"sender", "recipient", "from", "to", "text", "phone"} & {
        line.split()[0].lower() for line in ddl.splitlines() if line.startswith("\t")
    }


async def test_two_replicas_create_the_tables_at_the_same_time(postgres_url: str) -> None:
    """Whoever is a moment later finds them there."""
    stores = [SqlStore(postgres_url) for _ in range(4)]
    async with anyio.create_task_group() as tasks:
        for store in stores:
            tasks.start_soon(store.create_tables)
    opened = [await store.open(NAME, SERVER) for store in stores]
    assert [isinstance(one, Standby) for one in opened] == [False, True, True, True]
    await stores[0].close(NAME)
    for store in stores:
        await store._database.dispose()


async def test_tables_that_another_has_just_created_are_no_error(store: SqlStore, file: Path) -> None:
    """Only if they are not there is a failure to create them one."""

    def fail(*_: Any, **__: Any) -> None:
        raise OperationalError("", None, Exception())

    event.listen(store.metadata, "before_create", fail)
    with pytest.raises(StoreError):
        await store.create_tables()
    await opening(SqlStore(f"sqlite:///{file}"))
    await store.create_tables()
    await store._database.dispose()


# --- arguments ---


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the import tells how to get it."""
    monkeypatch.delitem(sys.modules, "his_sms_async.sql")
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ModuleNotFoundError, match=r"his_sms_async\[sql\]"):
        importlib.import_module("his_sms_async.sql")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("no url", "engine_or_url must be an Engine, an AsyncEngine or a URL"),
        (7, "engine_or_url must be an Engine, an AsyncEngine or a URL"),
        ("sqlite://", "give SqlStore a file, .* or use MemoryStore"),
        ("sqlite:///:memory:", "give SqlStore a file, .* or use MemoryStore"),
        ("sqlite:///file:name?mode=memory&uri=true", "give SqlStore a file, .* or use MemoryStore"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused(place: Any, words: str) -> None:
    """Before anything is connected, by an error that names the argument."""
    with pytest.raises(ConfigurationError, match=words):
        SqlStore(place)


def test_a_pool_of_one_shared_connection_is_refused(file: Path) -> None:
    """The store's transactions would mix with the consumer's."""
    with pytest.raises(ConfigurationError, match="pool shares one connection"):
        SqlStore(create_engine(f"sqlite:///{file}", poolclass=StaticPool))
    with pytest.raises(ConfigurationError, match="lease must be greater than 0"):
        SqlStore(f"sqlite:///{file}", lease=0)
    with pytest.raises(ConfigurationError, match="finite"):
        SqlStore(f"sqlite:///{file}", lease=float("inf"))


@pytest.mark.parametrize(
    ("url", "missing"), [("postgresql+psycopg2://localhost/x", "psycopg2"), ("foxpro://x", "foxpro")]
)
async def test_a_driver_that_is_not_installed_is_named(url: str, missing: str) -> None:
    """The error tells what to install."""
    with pytest.raises(ConfigurationError, match=f"not installed: {missing}"):
        await opening(SqlStore(url))


async def test_a_password_is_not_shown() -> None:
    """Neither in the `repr`, nor in errors, nor in the frames that they carry."""
    store = SqlStore("postgresql+psycopg://user:geheim@127.0.0.1:1/x")
    assert "geheim" not in repr(store)
    assert "geheim" not in repr(SqlStore("postgresql+psycopg://127.0.0.1/x?user=u&password=geheim"))
    with pytest.raises(StoreError) as caught:
        await opening(store)
    error = caught.value
    assert error.retryable
    frames = []
    frame = error.__traceback__
    while frame is not None:
        frames.append(
            repr(frame.tb_frame.f_locals) if "his_sms_async" in frame.tb_frame.f_code.co_filename else ""
        )
        frame = frame.tb_next
    assert "geheim" not in f"{error!r} {error.__cause__!r} {error.args} {frames}"


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_an_async_engine_needs_asyncio(file: Path, anyio_backend: str) -> None:
    """Under trio the error names what to give instead."""
    store = SqlStore(f"sqlite+aiosqlite:///{file}")
    if anyio_backend == "asyncio":
        assert await opening(store) == Saved()
    else:
        with pytest.raises(ConfigurationError, match="give a sync Engine"):
            await opening(store)


async def test_a_name_that_is_too_long_is_refused(store: SqlStore) -> None:
    """Before anything is written."""
    with pytest.raises(ConfigurationError, match="name is longer than 200 characters"):
        await store.open("x" * 201, SERVER)


# --- what cannot be read or written ---


async def start(store: SqlStore, **options: Any) -> None:
    """Poll with a store until the first good poll, or raise what is wrong."""
    async with FakeServer(rows=[row(1)]).client() as client:
        settings: dict[str, Any] = {"start": "now", "interval": 0.05, "backoff_max": 0.1} | options
        async with IncomingPoller(client, store=store, **settings) as poller:
            with anyio.move_on_after(0.5):
                await anext(poller.deliveries())


def tamper(file: Path, *statements: str) -> None:
    """Change the store behind its back."""
    with sqlite3.connect(file) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "kind", "words"),
    [
        ("UPDATE his_sms_store SET format = 2", UnsupportedStoreFormat, "has format 2, and this version"),
        ("DROP TABLE his_sms_settlement", StoreError, r"call create_tables\(\)"),
        ("ALTER TABLE his_sms_attempt DROP COLUMN number", UnsupportedStoreFormat, "a column of the store"),
        ("UPDATE his_sms_poller SET server = 'https://other/'", StoreError, "adopt"),
        ("UPDATE his_sms_poller SET low = 'yesterday', start = 1", UnsupportedStoreFormat, "restore the database"),
        (
            "INSERT INTO his_sms_settlement VALUES ('incoming',1,2,'',3,4,'[',5,6,7)",
            UnsupportedStoreFormat,
            "restore the database",
        ),
        (
            "INSERT INTO his_sms_attempt VALUES ('incoming',1,2,'',3,'never','x',0)",
            UnsupportedStoreFormat,
            "restore the database",
        ),
    ],
)
async def test_a_store_that_cannot_be_understood_is_refused(
    store: SqlStore, engine: Engine, file: Path, statement: str, kind: type[StoreError], words: str
) -> None:
    """Another format, missing tables and columns, another server, damaged rows: never a restart from "now"."""
    await start(store)
    tamper(file, statement)
    with pytest.raises(kind, match=words) as caught:
        await start(SqlStore(engine))
    assert not caught.value.retryable


@pytest.mark.parametrize("table", ["poller", "settlement", "attempt", "quarantine"])
async def test_a_store_of_which_a_part_is_missing_is_not_begun_anew(
    store: SqlStore, file: Path, table: str
) -> None:
    """Given a URL, missing tables are created; but where there was a store, that would lose replies."""
    await start(store)
    tamper(file, f"DROP TABLE his_sms_{table}")
    with pytest.raises(UnsupportedStoreFormat, match="tables of the store are missing; restore"):
        await start(SqlStore(f"sqlite:///{file}"))


async def test_a_store_that_was_never_finished_is_finished(store: SqlStore, file: Path) -> None:
    """A process that died while it created the tables left nothing that could be lost."""
    await store.create_tables()
    tamper(file, "DROP TABLE his_sms_attempt")
    await start(store)


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [("postgres@", "nobody@", "refuses the user"), ("/test_", "/none_", "does not exist; create it")],
)
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_a_wrong_user_or_database_is_an_error(
    postgres_url: str, driver: str, right: str, wrong: str, words: str
) -> None:
    """It is a wrong setting, which does not go away by waiting."""
    url = postgres_url.replace("+psycopg", f"+{driver}").replace(right, wrong)
    with pytest.raises(StoreError, match=words) as caught:
        await opening(SqlStore(url))
    assert not caught.value.retryable


async def test_a_file_that_is_no_database_is_refused(store: SqlStore, file: Path) -> None:
    """The error tells to restore it, and the file is left as it is."""
    file.write_bytes(b"his_sms_async" * 100)
    with pytest.raises(UnsupportedStoreFormat, match="no SQLite database"):
        await start(store)
    assert file.read_bytes() == b"his_sms_async" * 100


async def test_a_damaged_file_is_refused(store: SqlStore, file: Path) -> None:
    """Pages that SQLite cannot read."""
    await start(store)
    content = bytearray(file.read_bytes())
    content[200:] = b"\xff" * (len(content) - 200)
    file.write_bytes(content)
    with pytest.raises(StoreError, match="restore"):
        await start(store)


async def test_a_file_in_no_folder_is_refused(tmp_path: Path) -> None:
    """The error names the folder."""
    with pytest.raises(StoreError, match="check its folder"):
        await start(SqlStore(f"sqlite:///{tmp_path / 'missing' / 'store.db'}"))


async def test_a_read_only_file_is_refused(store: SqlStore, file: Path) -> None:
    """The error tells to let this process write it; root may write any file, so SQLite is told to refuse."""
    await start(store)
    engine = create_engine(f"sqlite:///file:{file}?mode=ro&uri=true")
    with pytest.raises(StoreError, match="read-only"):
        await start(SqlStore(engine))
    engine.dispose()


class Disk:
    """Lets the file of an engine grow by so many pages only; others are free."""

    def __init__(self, engine: Engine, room: int) -> None:
        self.room: int | None = room
        self.pages: int | None = None
        event.listen(engine, "checkout", self.limit)

    def limit(self, connection: Any, *_: Any) -> None:
        """Before each transaction."""
        if self.pages is None:
            (self.pages,) = connection.execute("PRAGMA page_count").fetchone()
        most = 10**6 if self.room is None else self.pages + self.room
        connection.execute(f"PRAGMA max_page_count={most}")


async def test_a_full_disk_at_the_start_is_an_error(engine: Engine) -> None:
    """It names what to do."""
    Disk(engine, 1)
    with pytest.raises(StoreError, match=r"disk .* is full; free space") as caught:
        await SqlStore(engine).create_tables()
    assert not caught.value.retryable


async def test_a_disk_that_becomes_full_is_waited_for(
    store: SqlStore, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """The poller pauses, health and log say why, and once there is space it goes on."""
    await start(store)
    server = FakeServer(rows=[row(number) for number in range(1000)])
    disk = Disk(engine, 1)
    options: dict[str, Any] = {"name": "other", "interval": 0.05, "backoff_base": 0.05, "backoff_max": 0.1}
    async with (
        server.client() as client,
        IncomingPoller(client, start="now", store=SqlStore(engine), **options) as poller,
    ):
        await until(lambda: poller.health().consecutive_failures > 1)
        assert (poller.health().last_error, poller.health().degraded) == ("StoreError", True)
        assert "free space" in caplog.text
        disk.room = None
        await until(lambda: poller.health().is_ready and not poller.health().consecutive_failures)
        assert poller.health().seen == 1000


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (ConnectionRefusedError(), True),
        (OperationalError("", None, Exception()), True),
        (DBAPIError("", None, Exception(), connection_invalidated=True), True),
        (DBAPIError("", None, Exception()), False),
        (SQLAlchemyError(), False),
        (PoolTimeout(), True),
        (type("CannotConnectNowError", (Exception,), {"sqlstate": "57P03"})(), True),
        (type("Refused", (Exception,), {"sqlstate": "28P01"})(), False),
    ],
)
def test_what_may_pass_is_tried_again(error: Exception, *, retryable: bool) -> None:
    """No connection, a restart, a lock; not what only a person can mend."""
    assert translated(error).retryable is retryable


# --- one process ---


async def test_a_sqlite_file_is_used_by_one_process(store: SqlStore, file: Path) -> None:
    """A second process is refused by an error that says what to do, until the first has ended or was killed."""
    program = (
        "import sys, anyio; from his_sms_async.sql import SqlStore\n"
        "async def main():\n"
        "    await SqlStore(sys.argv[1]).open('incoming', 'https://sms.test/'); print('open', flush=True)\n"
        "    await anyio.sleep_forever()\n"
        "anyio.run(main)"
    )
    command = [sys.executable, "-c", program, f"sqlite:///{file}"]
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdout is not None
        assert (await process.stdout.receive()).strip() == b"open"
        with pytest.raises(StoreError, match="another process uses the SQLite store for the poller 'incoming'"):
            await store.open(NAME, SERVER)
        await opening(store, "another")
        process.kill()
        await process.wait()
    assert await opening(store) == Saved()


async def test_prefix_and_name_tell_who_may_use_a_file(file: Path) -> None:
    """Another prefix is another store, and a name may be as long as it likes up to its limit."""
    url = f"sqlite:///{file}"
    stores = [SqlStore(url), SqlStore(url, prefix="other_")]
    for store in stores:
        await store.open(NAME, SERVER)
        await store.open("ä" * 200, SERVER)
    for store in stores:
        await store.close(NAME)
        await store.close("ä" * 200)


async def test_a_lock_that_cannot_be_made_is_an_error(store: SqlStore, file: Path) -> None:
    """A folder stands where the lock's file should be."""
    await opening(store)
    lock = Path(f"{file}-his_sms_{NAME}.lock")
    lock.unlink()
    lock.mkdir()
    with pytest.raises(StoreError, match="cannot be opened"):
        await store.open(NAME, SERVER)


async def test_a_lock_file_that_is_no_lock_is_an_error(store: SqlStore, file: Path) -> None:
    """Something else has its name."""
    await opening(store)
    Path(f"{file}-his_sms_{NAME}.lock").write_bytes(b"his_sms_async" * 100)
    with pytest.raises(UnsupportedStoreFormat, match="no SQLite database"):
        await store.open(NAME, SERVER)


# --- leading ---


async def test_without_the_lease_nothing_but_settlements_is_written(postgres_url: str) -> None:
    """Marks are fenced by the epoch; a handler of the last leader can still settle."""
    first, second = (SqlStore(postgres_url, lease=0.2) for _ in range(2))
    leading = await first.open(NAME, SERVER)
    assert isinstance(leading, Saved)
    assert leading.lease is not None
    standby = await second.open(NAME, SERVER)
    assert isinstance(standby, Standby)
    assert standby.lease.holder == leading.lease.holder
    assert standby.lease.holder.endswith(f":{os.getpid()}")
    assert abs(standby.lease.until - datetime.now(UTC)) < timedelta(seconds=60)
    before = leading.lease.until
    await leading.lease.renew()
    assert before < leading.lease.until

    taken: Saved | Standby = standby
    while isinstance(taken, Standby):
        taken = await second.open(NAME, SERVER)
    with pytest.raises(LeaseLost):
        await leading.lease.renew()
    with pytest.raises(LeaseLost):
        await first.save(NAME, Delta(marks=MARKS))
    assert not await first.save(NAME, Delta(settlements=(SETTLEMENT,)))
    await first.close(NAME)  # which takes nothing from the other
    with pytest.raises(LeaseLost):
        await first.save(NAME, Delta(marks=MARKS))
    assert not await first.save(NAME, Delta(settlements=(SETTLEMENT,)))
    assert not await second.save(NAME, Delta(marks=MARKS))
    assert await second.settled(NAME, [SETTLEMENT.key]) == {SETTLEMENT.key: SETTLEMENT}
    await second.close(NAME)
    assert isinstance(await opening(first), Saved)
    for store in (first, second):
        await store._database.dispose()


async def test_a_lease_is_renewed_while_much_is_read(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes, no other replica takes over meanwhile."""
    monkeypatch.setattr("his_sms_async.sql._store._RENEW_EVERY", 1)
    store = SqlStore(postgres_url)
    await store.open(NAME, SERVER)
    await store.save(NAME, Delta(settlements=(SETTLEMENT,)))
    await store.close(NAME)
    renewals: list[str] = []

    def note(*told: Any) -> None:
        renewals.append(told[2])

    event.listen(Engine, "before_cursor_execute", note)
    opened = await store.open(NAME, SERVER)
    event.remove(Engine, "before_cursor_execute", note)
    assert isinstance(opened, Saved)
    assert opened.settlements == (SETTLEMENT,)
    assert sum("SET lease_until" in statement for statement in renewals) == 2
    await store.close(NAME)


async def test_a_lost_race_for_a_row_is_run_again(store: SqlStore) -> None:
    """Two that insert the same row: the second finds it there when it tries again; but not without end."""
    await opening(store)
    attempts = 0

    def insert_again(connection: Any) -> int:
        nonlocal attempts
        attempts += 1
        if attempts < limit:
            connection.exec_driver_sql("INSERT INTO his_sms_store SELECT * FROM his_sms_store")
        return attempts

    limit = 3
    assert await store._database.run(insert_again) == 3
    limit, attempts = 99, 0
    with pytest.raises(SmsError):
        await store._database.run(insert_again)
    assert attempts == 3
    await store._database.dispose()


async def test_a_statement_that_does_not_end_is_left_to_itself(store: SqlStore) -> None:
    """Who is cancelled waits for it, but not for long."""
    may_end = threading.Event()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await store._database.run(lambda _: may_end.wait(30))
    assert scope.cancelled_caught
    may_end.set()
    await store._database.dispose()


# --- a database that goes away ---


@pytest.fixture(params=combinations("psycopg", "asyncpg"))
def combination(request: pytest.FixtureRequest) -> Any:
    """A backend, and a driver for PostgreSQL that works on it."""
    return request.param


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The backend of the combination, if the test has one."""
    if "combination" in request.fixturenames:
        return str(request.getfixturevalue("combination")[0])
    return "asyncio"


@pytest.fixture
async def place(
    combination: tuple[str, str], request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Place]:
    """A database of that kind."""
    async with new_place(combination[1], request, tmp_path) as made:
        yield made


async def test_a_database_that_is_started_again_loses_nothing(place: Place, postgres: Postgres) -> None:
    """While it is down the poller waits and says so; after that it goes on with what it has."""
    server = FakeServer(rows=[row(1, 0), row(2, 1)])
    options: dict[str, Any] = {"interval": 0.05, "backoff_base": 0.05, "backoff_max": 0.2}
    async with (
        server.client() as client,
        IncomingPoller(client, start="everything", store=place.store(), **options) as poller,
    ):
        deliveries = poller.deliveries()
        first = await anext(deliveries)
        await anyio.to_thread.run_sync(postgres.stop, "immediate")
        await until(lambda: poller.health().consecutive_failures > 0)
        assert poller.health().degraded
        await anyio.to_thread.run_sync(postgres.start)
        await first.ack()
        await (await anext(deliveries)).ack()
        await until(lambda: poller.health().consecutive_failures == 0)
        assert poller.health().oldest_unsettled_age is None
        assert poller.health().role == "leading"


async def test_leaving_takes_seconds_when_the_database_is_gone(place: Place, postgres: Postgres) -> None:
    """Nobody waits for it, and the block is left without another error."""
    async with FakeServer().client() as client, IncomingPoller(client, start="now", store=place.store()) as poller:
        await until(lambda: poller.health().is_ready)
        await anyio.to_thread.run_sync(postgres.stop, "immediate")
        begun = anyio.current_time()
    assert anyio.current_time() - begun < 20
