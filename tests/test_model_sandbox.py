"""The poller's state machine against the real stand-in: over HTTP, with faults switched on and off at random."""

import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, ClassVar

import anyio
import attrs
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fakes import VILNIUS
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from model_world import HOUR, INTERVAL, MINUTE, Dying, Start, World

from his_sms_async import BearerAuth, MemoryStore, SmsClient
from his_sms_async.sandbox import Sandbox, faults

NEW_MESSAGES: list[faults.Fault] = [
    *(faults.LateRows(seconds) for seconds in (MINUTE, 400.0, 2 * HOUR, 20 * HOUR, 36 * HOUR)),
    faults.Ties(),
    *(faults.FutureStamp(seconds) for seconds in (HOUR, 24 * HOUR, 365 * 24 * HOUR)),
    *(faults.SkewedNode(seconds) for seconds in (-40.0, -50 * MINUTE, 15.0)),
]
BAD_ANSWERS: list[faults.Fault] = [
    faults.Status(503, times=1),
    faults.Status(500, times=3),
    faults.Status(502, every=2, times=1),
    faults.Status(504),
    faults.Status(429, times=2, retry_after=7),
    faults.Status(503, times=1, retry_after=3600),
    faults.Status(401, times=1),
    faults.Status(403, times=2),
    faults.Status(404, times=1),
    faults.ErrorEnvelope(times=1),
    faults.ErrorEnvelope(error_code="InvalidMessageOwner", every=2, times=1),
    faults.HtmlPage(times=1),
    faults.HtmlPage(every=2, times=1),
    faults.EmptyAnswer(times=2),
    faults.Garbage(times=1),
    faults.Reset(times=1),
    faults.Reset(times=2, taken=True),
    faults.CutBody(every=2, times=1),
    faults.CutBody(),
    faults.MissingStatus(times=1),
    faults.MissingStatus(every=3, times=2),
    faults.RateLimit(requests=1, seconds=HOUR),  # of real time: it refuses all but the first
]
OTHER_ANSWERS: list[faults.Fault] = [
    faults.MalformedRow(),
    faults.MalformedRow(times=1),
    faults.UnknownState(),
    faults.Nulls(times=1),
    faults.NumericEnums(),
    faults.CamelCase(),
    faults.Offsets("all"),
    faults.Offsets("none"),
    faults.Offsets("mixed"),
    faults.TrimmedZeros(),
    faults.Unsorted(),
    faults.Duplicates(),
    faults.StaleAnswer(MINUTE),
    faults.StaleAnswer(2 * HOUR),
    faults.Gzip(),
    faults.Latency(0.002),
]
CLOCK_FAULTS: list[faults.ClockStep | faults.AutumnNight] = [
    *(faults.ClockStep(seconds) for seconds in (-3 * HOUR, -HOUR, -90.0, 90.0, HOUR, 2 * HOUR)),
    faults.AutumnNight(),
    faults.AutumnNight(1.0),
]
JOBS: list[faults.BulkUpdate | faults.ArchiveJob] = [
    faults.BulkUpdate(),
    faults.BulkUpdate("Seen"),
    faults.ArchiveJob(),
    faults.ArchiveJob(hours=1),
]
DOWN = st.sampled_from([0.0, 0.0, MINUTE, 5 * HOUR, 72 * HOUR])
DEATHS = st.sampled_from([None, None, None, "before", "after"])
STATES = ["Seen", "Deleted", "Teleported"]
BEGINNINGS = ["2026-06-01T12:00", "2026-10-24T23:10", "2026-10-25T01:20", "2026-03-29T00:20"]


@attrs.frozen
class Bench:
    """What all histories of a test share: a server, and an event loop with two clients of it."""

    sandbox: Sandbox
    portal: BlockingPortal
    clients: dict[bool, SmsClient]
    """By whether they know the server's zone."""

    def run(self, act: Callable[..., Awaitable[object]], *arguments: Any) -> None:
        """Do something in the event loop."""

        async def in_time() -> None:
            with anyio.fail_after(20):  # seconds, though nothing here takes one
                await act(*arguments)

        self.portal.call(in_time)


@pytest.fixture
def bench(backend: str, caplog: pytest.LogCaptureFixture) -> Iterator[Bench]:
    """The stand-in, served, and a client in a loop of the backend."""
    caplog.set_level(logging.CRITICAL, "his_sms_async")  # thousands of failures are the plan
    sandbox = Sandbox(magic_numbers=False, random_seed=0)
    with sandbox.serve() as server, start_blocking_portal(backend) as portal:
        auth = BearerAuth("sandbox-token")
        knowing = SmsClient(server.url, auth=auth, server_timezone=VILNIUS)
        with (
            portal.wrap_async_context_manager(knowing),
            portal.wrap_async_context_manager(SmsClient(server.url, auth=auth)) as unknowing,
        ):
            yield Bench(sandbox, portal, {True: knowing, False: unknowing})


class History(RuleBasedStateMachine):
    """What happens to the server, its patients, the poller and its consumer."""

    bench: ClassVar[Bench]
    world: World

    def __init__(self) -> None:
        super().__init__()
        self.life: AbstractContextManager[None] | None = None

    @initialize(
        begin=st.sampled_from(BEGINNINGS),
        knows_zone=st.booleans(),
        start=st.sampled_from(["everything", "now", "datetime"]),
    )
    def begin(self, *, begin: str, knows_zone: bool, start: Start) -> None:
        """A server with a history, in a night with or without a clock change."""
        self.world = World(
            sandbox=self.bench.sandbox,
            client=self.bench.clients[knows_zone],
            store=MemoryStore(),
            start=start,
            begin=datetime.fromisoformat(f"{begin}+00:00"),
        )
        self.open()

    def do(self, act: Callable[..., Awaitable[object]], *arguments: Any) -> None:
        self.bench.run(act, *arguments)
        if self.world.process is not None and self.world.process.is_over:
            self.close()

    def close(self) -> None:
        life, self.life = self.life, None
        if life is not None:
            life.__exit__(None, None, None)

    def open(self) -> None:
        """Start the process, or start it again."""
        life = self.bench.portal.wrap_async_context_manager(self.world.life())
        life.__enter__()
        self.life = life
        self.do(self.world.rest)

    def lives(self, dies: Dying | None = None) -> bool:
        """Start the process if it has ended, tell whether it lives, and whether it will die at its next write."""
        if self.life is None:
            self.open()
        if self.life is not None:
            self.do(self.world.doom, dies)
        return self.life is not None

    def holds(self, dies: Dying | None = None) -> bool:
        """Let the consumer have something in hand, if it can."""
        if self.lives() and self.world.process is not None and not self.world.process.in_hand:
            self.do(self.world.take, 3)
        return self.lives(dies)

    # --- the process ---

    @rule(end=st.sampled_from(["leaves", "dies", "dies while it asks"]), seconds=DOWN)
    def end(self, end: str, seconds: float) -> None:
        """The process ends, and is started again after a while."""
        if self.lives() and end != "leaves":
            self.do(self.world.die if end == "dies" else self.world.die_while_it_asks)
        self.close()
        self.do(self.world.pass_time, seconds)
        self.open()

    # --- the consumer ---

    @rule(wanted=st.integers(1, 4), dies=DEATHS)
    def take(self, wanted: int, dies: Dying | None) -> None:
        """The consumer takes messages in hand; maybe the process dies at the write before."""
        if self.lives(dies):
            self.do(self.world.take, wanted)

    @rule(pick=st.integers(0, 3), count=st.integers(1, 4), dies=DEATHS)
    def settle(self, pick: int, count: int, dies: Dying | None) -> None:
        """The consumer settles some of what it has in hand, in any order; maybe the process dies at the write."""
        if self.holds(dies):
            self.do(self.world.settle, pick, count)

    @rule(pick=st.integers(0, 3), dies=DEATHS)
    def reject(self, pick: int, dies: Dying | None) -> None:
        """The consumer gives up on a message; maybe the process dies at the write."""
        if self.holds(dies):
            self.do(self.world.reject, pick)

    @rule(pick=st.integers(0, 3), delay=st.sampled_from([None, 0.0, 300.0]))
    def release(self, pick: int, delay: float | None) -> None:
        """The consumer fails."""
        if self.holds():
            self.do(self.world.release, pick, delay)

    # --- the server ---

    @rule(sender=st.integers(0, 2), count=st.integers(1, 3), gap=st.sampled_from([0.0, 0.3, INTERVAL]))
    def write(self, sender: int, count: int, gap: float) -> None:
        """A patient writes, more than once in one tick maybe."""
        self.do(self.world.pass_time, gap)
        self.do(self.world.write, sender, count)

    @rule(pick=st.integers(0, 20), state=st.sampled_from(STATES))
    def change_state(self, pick: int, state: str) -> None:
        """The state of a message changes."""
        self.do(self.world.change_state, pick, state)

    @rule(happening=st.sampled_from(JOBS))
    def change_many(self, happening: faults.BulkUpdate | faults.ArchiveJob) -> None:
        """A job changes many messages at once."""
        self.do(self.world.change_many, happening)

    @rule(happening=st.sampled_from(CLOCK_FAULTS))
    def set_clock(self, happening: faults.ClockStep | faults.AutumnNight) -> None:
        """The server's clock is set."""
        self.do(self.world.set_clock, happening)

    @rule(new=st.lists(st.sampled_from(NEW_MESSAGES), min_size=1, max_size=2))
    def misdate_or_hide(self, new: list[faults.Fault]) -> None:
        """From now on, messages have wrong stamps or are listed late."""
        self.do(self.world.switch_on, new)

    @rule(new=st.lists(st.sampled_from(BAD_ANSWERS), min_size=1, max_size=2))
    def answer_badly(self, new: list[faults.Fault]) -> None:
        """From now on, answers are not good."""
        self.do(self.world.switch_on, new)

    @rule(new=st.lists(st.sampled_from(OTHER_ANSWERS), min_size=1, max_size=3))
    def answer_otherwise(self, new: list[faults.Fault]) -> None:
        """From now on, good answers look different."""
        self.do(self.world.switch_on, new)

    @rule(kinds=st.sampled_from([NEW_MESSAGES, BAD_ANSWERS, OTHER_ANSWERS]))
    def mend(self, kinds: list[faults.Fault]) -> None:
        """Faults end."""
        self.do(self.world.switch_off, kinds)

    # --- time ---

    @rule(seconds=st.sampled_from([1.0, MINUTE, 130.0, 301.0, HOUR, 5 * HOUR, 30 * HOUR, 72 * HOUR]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.do(self.world.pass_time, seconds)

    @rule(times=st.integers(1, 4), dies=DEATHS)
    def poll(self, times: int, dies: Dying | None) -> None:
        """So many intervals pass; maybe the process dies when it writes what it was told."""
        if self.lives(dies):
            for _ in range(times):
                self.do(self.world.pass_time, INTERVAL)

    # --- the end ---

    def teardown(self) -> None:
        """In the end nothing goes wrong any more, and everything arrives."""
        try:
            if hasattr(self, "world") and sys.exc_info()[0] is None:  # else it has ended before its time
                self.do(self.world.become_sane)
                assert self.lives()
                self.do(self.world.finish)
        finally:
            self.close()


def explore(bench: Bench, examples: int) -> None:
    """Look for a history that breaks a promise."""

    class Here(History):
        pass

    Here.bench = bench
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            report_multiple_bugs=False,
        ),
    )


BACKENDS = ["asyncio", "trio"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_lost_and_nothing_comes_twice_whatever_the_server_does(bench: Bench) -> None:
    """300 histories of bad answers, wrong stamps, late rows, clock steps and crashes, half on each backend."""
    explore(bench, 150)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_lost_and_nothing_comes_twice_in_thousands_of_histories(bench: Bench) -> None:
    """The same 5,000 times."""
    explore(bench, 2500)
