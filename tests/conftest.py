"""What all tests share: both async backends, a loop that nobody may block, and a real PostgreSQL."""

import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx
from postgres import Postgres

# Not by its entry point: that is loaded before coverage begins, which would then miss our module-level lines.
pytest_plugins = ["his_sms_async.pytest_plugin", "pytester"]

_NUMBERS = count()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Async tests run on both backends."""
    return str(request.param)


@pytest.fixture(autouse=True)
def no_blocking_call(request: pytest.FixtureRequest) -> Iterator[None]:
    """A blocking call of ours on asyncio's loop fails the test; under trio the tool finds nothing."""
    if "anyio_backend" in request.fixturenames and request.getfixturevalue("anyio_backend") == "asyncio":
        with blockbuster_ctx("his_sms_async") as finder:
            for function in finder.functions.values():
                # asyncpg looks for ~/.pgpass and certificates
                function.can_block_in("asyncpg/connect_utils.py", "_parse_connect_dsn_and_args")
                # a queue's lock, for microseconds, to hand work to a thread
                function.can_block_in("anyio/_backends/_asyncio.py", "run_sync_in_worker_thread")
                # what measures us
                function.can_block_in("coverage/collector.py", "lock_data")
            yield
    else:
        yield


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A server of this worker; pytest's own tmp_path would not do: root's is closed to the user `nobody`."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as directory, Postgres(Path(directory)) as server:
        yield server


@pytest.fixture
def postgres(postgres_server: Postgres) -> Postgres:
    """The running server, whatever an earlier test did to it."""
    postgres_server.start()
    return postgres_server


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """The address of an empty database of the test's own, for a sync engine."""
    return postgres.create_database(f"test_{next(_NUMBERS)}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what was missing, and which tests did not run for want of it."""
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and "no browser" in report.longrepr[2]
    ]
    if skipped:
        reason = skipped[0].longrepr[2].removeprefix("Skipped: ")
        terminalreporter.write_line(f"{reason}; {len(skipped)} tests of test_browser.py did not run", yellow=True)
