"""Real processes, killed at chosen points: no reply is lost, and only what was in hand comes again.

`ack(tx)` in the effect's transaction: each effect once. A separate ack: the one in hand has its effect again.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import anyio
import attrs
import crash_consumer
import pytest
from crash_consumer import EFFECT, Life, Window
from sqlalchemy import Engine, NullPool, create_engine, select, text

from his_sms_async.sandbox import Sandbox
from his_sms_async.sql import SqlStore

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL and fork are POSIX's")

PATIENTS = ("37000000002", "37000000003", "37000000002", "37000000004")
LATE_PATIENT = "37000000003"
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@attrs.frozen
class Kind:
    """Which driver of which database, whether effect and ack are in one transaction, and how many consumers."""

    driver: str
    in_transaction: bool
    consumers: int = 1

    def __str__(self) -> str:
        return f"{self.driver}, {'ack(tx)' if self.in_transaction else 'separate ack'}"

    @property
    def is_postgres(self) -> bool:
        """Else it is SQLite."""
        return self.driver.startswith("postgresql")

    @property
    def windows(self) -> list[Window]:
        """Where its processes can be killed."""
        return [window for window in Window if self.in_transaction or window is not Window.ACK_TO_COMMIT]

    def half_done(self, window: Window) -> tuple[int, ...]:
        """How many replies can have their effect and no settlement after a kill there."""
        if self.in_transaction:
            return (0,)
        return {Window.BEFORE_EFFECT: (0,), Window.EFFECT_TO_ACK: (1,), Window.AFTER_ACK: (0,)}.get(window, (0, 1))


SOME = (
    Kind("sqlite", in_transaction=True),
    Kind("sqlite", in_transaction=False),
    Kind("postgresql+asyncpg", in_transaction=True, consumers=3),
    Kind("postgresql+psycopg", in_transaction=False),
)
OTHERS = (
    Kind("sqlite+aiosqlite", in_transaction=True),
    Kind("sqlite+aiosqlite", in_transaction=False),
    Kind("postgresql+psycopg", in_transaction=True),
    Kind("postgresql+asyncpg", in_transaction=False),
)
_WITH_ONE_IN_HAND = (Window.BEFORE_EFFECT, Window.EFFECT_TO_ACK, Window.ACK_TO_COMMIT)
SOAK = (pytest.mark.soak, pytest.mark.timeout(600))


@attrs.define
class Tally:
    """What the kills in one window did."""

    kills: int = 0
    not_reached: int = 0
    """The process ended before it came to the chosen point."""
    came_again: int = 0
    """Replies that were handed out a second time."""
    doubled: int = 0
    """Those among them that had their effect twice."""
    lost: int = 0


@attrs.define(eq=False)
class Hospital:
    """A database, an SMS server, and the process that forks the consumers."""

    kind: Kind
    engine: Engine
    sandbox: Sandbox
    life: Life
    ask: Callable[[Life], tuple[int, Counter[Window]]]
    store: SqlStore = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.store = SqlStore(self.engine)

    def begin(self) -> None:
        """Be as new, with some replies received, two of them from one patient."""
        self.sandbox.reset()
        with self.engine.begin() as connection:
            for table in (EFFECT, *self.store.metadata.sorted_tables):
                connection.execute(table.delete())
        for patient in PATIENTS:
            self.sandbox.receive(sender=patient, recipient="37000000001", text="Yes")

    def bury(self) -> tuple[set[int], set[int]]:
        """Let PostgreSQL notice that a process is dead, and end its lease, which would last for half a minute.

        Return the replies that were handed out and are not settled, and those that have an effect and are not.
        """
        if self.kind.is_postgres:
            with self.engine.connect() as connection:
                while connection.scalar(text(SESSIONS)):
                    connection.rollback()  # a transaction sees the same sessions all the time
                connection.execute(text("UPDATE his_sms_poller SET lease_until = 0"))
                connection.commit()
        settled = self.ids("settlement")
        return set(self.ids("attempt")).difference(settled), set(self.effects()).difference(settled)

    def effects(self) -> dict[int, list[int]]:
        """The attempts in which each reply had its effect."""
        found: dict[int, list[int]] = {}
        with self.engine.connect() as connection:
            for message_id, attempt in connection.execute(select(EFFECT).order_by(EFFECT.c.attempt)):
                found.setdefault(message_id, []).append(attempt)
        return found

    def ids(self, table: str) -> list[int]:
        """The replies in one of the store's tables."""
        with self.engine.connect() as connection:
            return list(connection.scalars(text(f"SELECT message_id FROM his_sms_{table} ORDER BY 1")))

    def undisturbed(self) -> Counter[Window]:
        """Live without a kill; return how often each point was reached."""
        self.begin()
        code, counts = self.ask(self.life)
        assert code == 0
        assert self.effects() == {reply: [1] for reply in self.replies()}
        return counts

    def kill(self, window: Window, nth: int, tally: Tally) -> None:
        """Live, be killed, live again, and look at what became of the replies."""
        self.begin()
        code, _ = self.ask(attrs.evolve(self.life, window=window, nth=nth))
        assert code in (0, -signal.SIGKILL), f"the process ended with {code}"
        in_hand, half_done = self.bury()
        self.sandbox.receive(sender=LATE_PATIENT, recipient="37000000001", text="Yes")
        assert self.ask(self.life)[0] == 0

        effects, replies = self.effects(), self.replies()
        tally.kills += code != 0
        tally.not_reached += code == 0
        tally.came_again += sum(attempts[-1] > 1 for attempts in effects.values())
        tally.doubled += sum(len(attempts) > 1 for attempts in effects.values())
        tally.lost += len(set(replies).difference(effects))
        where = f"killed {window}, the {nth}. time; in hand were {in_hand}, half done {half_done}"
        expected = {reply: [1] * (reply in half_done) + [1 + (reply in in_hand)] for reply in replies}
        assert effects == expected, where
        assert self.ids("settlement") == replies, where
        assert half_done <= in_hand, where
        assert len(in_hand) <= self.kind.consumers, where
        if code != 0:
            assert in_hand or window not in _WITH_ONE_IN_HAND, where
            assert len(half_done) in self.kind.half_done(window), where

    def replies(self) -> list[int]:
        """What was received."""
        return [message.id for message in self.sandbox.received]


@contextmanager
def forking() -> Iterator[Callable[[Life], tuple[int, Counter[Window]]]]:
    """Run the program that forks; give what lets a process live, and returns its exit code and its counts."""
    program = Path(crash_consumer.__file__)
    with subprocess.Popen(
        [sys.executable, "-W", "error", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdin
        assert process.stdout

        def ask(life: Life) -> tuple[int, Counter[Window]]:
            assert process.stdin
            assert process.stdout
            process.stdin.write(json.dumps(attrs.asdict(life)) + "\n")
            process.stdin.flush()
            code, counts = json.loads(process.stdout.readline())
            return code, Counter({Window(window): count for window, count in counts.items()})

        try:
            yield ask
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # with whatever it has forked


@pytest.fixture
def hospital(kind: Kind, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hospital]:
    """All of it, with the tables created."""
    url = request.getfixturevalue("postgres_url") if kind.is_postgres else f"sqlite:///{tmp_path / 'replies.db'}"
    engine, sandbox = create_engine(url, poolclass=NullPool), Sandbox()
    with sandbox.serve() as server, forking() as ask:
        life = Life(
            database=kind.driver + url[url.index(":") :],
            server=server.url,
            in_transaction=kind.in_transaction,
            consumers=kind.consumers,
        )
        hospital = Hospital(kind, engine, sandbox, life, ask)
        anyio.run(hospital.store.create_tables)
        EFFECT.metadata.create_all(engine)
        yield hospital


@pytest.mark.parametrize(
    ("kind", "kills"),
    [pytest.param(kind, 1, id=str(kind)) for kind in SOME]
    + [pytest.param(kind, 20, id=f"{kind}, 20 in each window", marks=SOAK) for kind in SOME + OTHERS],
)
def test_nothing_is_lost_or_doubled_by_a_kill(
    hospital: Hospital, kind: Kind, kills: int, record_property: Callable[[str, Any], None]
) -> None:
    """A reply has its effect once; only with a separate ack does the one in hand have it again, as attempt 2."""
    counts, chance = hospital.undisturbed(), random.Random(str(kind))
    tallies = {window: Tally() for window in kind.windows}
    try:
        for window, tally in tallies.items():
            moments = cycle(chance.sample(range(1, counts[window] + 1), counts[window]))
            while tally.kills < kills:
                hospital.kill(window, next(moments), tally)
                assert tally.not_reached < kills + counts[window], f"killed {window} {tally.kills} times only"
    finally:
        report = [f"\n{kind!s:40}" + "".join(f"{name:>12}" for name in attrs.asdict(Tally()))]
        for window, tally in tallies.items():
            record_property(window.value, attrs.asdict(tally))
            report.append(f"{window:40}" + "".join(f"{count:12}" for count in attrs.astuple(tally)))
        print(*report, sep="\n")  # noqa: T201 - the tally is what this test is for
