"""The poller with its client, against a server in memory and a clock that stands until it is turned."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from fakes import NOON, VILNIUS, FakeClock, FakeServer, all_blocked, answer, failure, row

from his_sms_async import (
    AuthenticationError,
    Change,
    ConfigurationError,
    ConnectionFailed,
    Delivery,
    IncomingPoller,
    MemoryStore,
    Message,
    MessageState,
    PermissionDenied,
    ProtocolError,
    RequestRejected,
    SmsError,
    StoreError,
)
from his_sms_async._store import Delta, Key, Saved, Settlement, Standby

pytestmark = pytest.mark.anyio


class Bench:
    """A server, a clock, a store, and pollers over them."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.clock = FakeClock()
        self.store = MemoryStore()

    @asynccontextmanager
    async def poller(self, **options: Any) -> AsyncIterator[IncomingPoller]:
        settings: dict[str, Any] = {"start": "everything", "store": self.store, "clock": self.clock} | options
        async with self.server.client() as client, IncomingPoller(client, **settings) as poller:
            await all_blocked()
            yield poller

    async def turn(self, seconds: float) -> None:
        """Time passes, for the server too."""
        self.server.now += timedelta(seconds=seconds)
        await self.clock.advance(seconds)


@pytest.fixture
def bench() -> Bench:
    """A server without messages."""
    return Bench()


async def take(poller: IncomingPoller, count: int) -> list[int]:
    """Iterate plainly over so many messages; the last one is not settled."""
    ids: list[int] = []
    async for message in poller:
        ids.append(message.id)
        if len(ids) == count:
            break
    return ids


async def nothing_comes(poller: IncomingPoller) -> bool:
    """Whether nothing can be taken now."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            found: list[Delivery] = []

            async def wait() -> None:
                found.append(await anext(poller.deliveries()))

            tasks.start_soon(wait)
            await all_blocked()
            scope.cancel()
    for delivery in found:
        await delivery.release(delay=0)
    return not found


# --- plain iteration ---


async def test_messages_come_sorted_and_are_settled_by_the_next_step(bench: Bench) -> None:
    """A message is settled when the loop comes back for the next; the order is (UpdatedAt, Id)."""
    bench.server.rows = [row(3, 2), row(2, 1), row(1, 1)]
    async with bench.poller() as poller:
        assert await take(poller, 3) == [1, 2, 3]
        assert poller.health().in_hand == 1

    async with bench.poller() as poller:
        assert await take(poller, 1) == [3]
        assert poller.health().seen == 3


async def test_a_new_loop_starts_with_the_message_in_hand(bench: Bench) -> None:
    """Leaving by `break` does not settle: the next loop gets the same message first, as attempt 2."""
    bench.server.rows = [row(1, 0), row(2, 1)]
    async with bench.poller() as poller:
        first = aiter(poller)
        assert (await anext(first)).id == 1

        assert await take(poller, 2) == [1, 2]
        with pytest.raises(RuntimeError, match="taken over"):
            await anext(first)


async def test_deliveries_take_over_from_a_plain_loop(bench: Bench) -> None:
    """What a plain loop had in hand comes to `deliveries()` as attempt 2."""
    bench.server.rows = [row(1, 0)]
    async with bench.poller() as poller:
        assert await take(poller, 1) == [1]
        delivery = await anext(poller.deliveries())

        assert (delivery.message.id, delivery.attempt) == (1, 2)


async def test_a_waiting_iterator_learns_that_it_was_taken_over(bench: Bench) -> None:
    """A task that waits in an old iterator gets the error at once, and takes no message."""
    async with bench.poller() as poller:
        old = aiter(poller)
        errors: list[str] = []

        async def wait() -> None:
            try:
                await anext(old)
            except RuntimeError as error:
                errors.append(str(error))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await all_blocked()
            aiter(poller)

        assert errors == ["another iteration of this poller has taken over"]


async def test_two_tasks_in_one_iterator_are_refused(bench: Bench) -> None:
    """The second task that asks the same iterator gets an error that names the alternatives."""
    async with bench.poller() as poller, anyio.create_task_group() as tasks:
        iterator = poller.deliveries()
        tasks.start_soon(anext, iterator)
        await all_blocked()
        with pytest.raises(RuntimeError, match="two tasks iterate"):
            await anext(iterator)
        tasks.cancel_scope.cancel()


async def test_changes_need_deliveries(bench: Bench) -> None:
    """With `changes=True` a bare message would look like a second reply, so plain iteration is refused."""
    async with bench.poller(changes=True) as poller:
        with pytest.raises(ConfigurationError, match="deliveries"):
            aiter(poller)


async def test_use_outside_the_block_is_an_error(bench: Bench) -> None:
    """Before and after the block every use raises RuntimeError; a delivery cannot be settled any more."""
    bench.server.rows = [row(1, 0)]
    async with bench.poller() as poller:
        deliveries = poller.deliveries()
        delivery = await anext(deliveries)
    for use in (poller.deliveries, poller.health, poller.__aiter__):
        with pytest.raises(RuntimeError, match="inside"):
            use()
    with pytest.raises(RuntimeError, match="was left"):
        await delivery.ack()
    with pytest.raises(RuntimeError, match="was left"):
        await anext(deliveries)


# --- deliveries ---


async def test_a_clean_exit_acknowledges_and_an_exception_releases(bench: Bench) -> None:
    """`async with delivery` settles by how its block ends; the released message comes after a second."""
    bench.server.rows = [row(1, 0), row(2, 1)]
    async with bench.poller() as poller:
        deliveries = poller.deliveries()
        first = await anext(deliveries)
        with pytest.raises(KeyError):
            async with first as message:
                raise KeyError(message.id)
        async with await anext(deliveries) as message:
            assert message.id == 2

        assert first.outcome == "released"
        assert await nothing_comes(poller)
        await bench.turn(1.0)
        again = await anext(deliveries)
        assert (again.message.id, again.attempt) == (1, 2)


async def test_the_delay_of_a_release_grows_to_five_minutes(bench: Bench) -> None:
    """1 s, 2 s, 4 s, … 300 s; an explicit delay counts as it stands."""
    bench.server.rows = [row(1, 0)]
    async with bench.poller(interval=1e9) as poller:
        deliveries = poller.deliveries()
        for attempt in range(1, 13):
            delivery = await anext(deliveries)
            assert delivery.attempt == attempt
            await delivery.release()
            delay = min(300.0, 2.0 ** (attempt - 1))
            await bench.turn(delay - 0.01)
            assert await nothing_comes(poller)
            await bench.turn(0.02)
        await (await anext(deliveries)).release(delay=0)

        assert (await anext(deliveries)).attempt == 14


async def test_the_same_settlement_twice_does_nothing_and_another_is_refused(bench: Bench) -> None:
    """A delivery has one outcome."""
    bench.server.rows = [row(1, 0), row(2, 0), row(3, 0)]
    async with bench.poller() as poller:
        acked, rejected, released = [await anext(poller.deliveries()) for _ in range(3)]
        for _ in range(2):
            await acked.ack()
            await rejected.reject("no such appointment")
            await released.release()

        assert (acked.outcome, rejected.outcome, released.outcome) == ("acked", "rejected", "released")
        for delivery in (rejected, released):
            with pytest.raises(RuntimeError, match="already"):
                await delivery.ack()
        with pytest.raises(RuntimeError, match="already"):
            await acked.release()
        with pytest.raises(RuntimeError, match="already"):
            await acked.reject("")
        assert poller.health().rejected == 1


async def test_a_rejected_message_comes_back_when_it_is_requeued(bench: Bench) -> None:
    """`reject` keeps at most 200 characters of its reason; `store.requeue` has the message delivered again."""
    bench.server.rows = [row(1, 0), row(2, 600)]
    async with bench.poller() as poller:
        deliveries = poller.deliveries()
        await (await anext(deliveries)).reject("x" * 300)
        await (await anext(deliveries)).ack()
        await bench.turn(10)
        assert await nothing_comes(poller)

        assert await bench.store.requeue("incoming", id=2) == 0
        assert await bench.store.requeue("incoming", id=1) == 1
        assert poller.health().rejected == 1
        await bench.turn(10)
        again = await anext(deliveries)
        assert (again.message.id, again.attempt, again.change) == (1, 1, None)
        assert poller.health().rejected == 0
        await again.ack()
        await bench.turn(10)
        assert await nothing_comes(poller)


async def test_a_requeued_message_comes_after_a_restart(bench: Bench) -> None:
    """A message requeued while no poller ran is asked for by the next one, however old."""
    bench.server.rows = [row(1, -200_000), row(2, 0)]
    async with bench.poller() as poller:
        deliveries = poller.deliveries()
        await (await anext(deliveries)).reject("not now")
        await (await anext(deliveries)).ack()
    assert await bench.store.requeue("incoming") == 1
    assert await bench.store.requeue("unknown") == 0

    async with bench.poller() as poller:
        assert await take(poller, 1) == [1]


async def test_the_nth_failure_rejects(bench: Bench) -> None:
    """With `max_attempts=2` the second failure rejects; being cancelled is no failure."""
    bench.server.rows = [row(1, 0)]
    async with bench.poller(max_attempts=2, interval=1e9) as poller:
        deliveries = poller.deliveries()
        await (await anext(deliveries)).release(delay=0)
        with anyio.CancelScope() as scope:
            async with await anext(deliveries):
                scope.cancel()
                await anyio.sleep_forever()
        third = await anext(deliveries)
        assert third.attempt == 3
        with pytest.raises(ValueError, match="hopeless"):
            async with third:
                raise ValueError("hopeless")

        assert third.outcome == "rejected"
        assert poller.health().rejected == 1


async def test_two_messages_of_one_sender_are_never_in_hand_together(bench: Bench) -> None:
    """The later waits until the earlier is settled, also while that one is released; others pass by."""
    bench.server.rows = [row(1, 0, sender="1"), row(2, 1, sender="1"), row(3, 2, sender="2")]
    async with bench.poller(interval=1e9) as poller:
        deliveries = poller.deliveries()
        first = await anext(deliveries)
        third = await anext(deliveries)
        assert (first.message.id, third.message.id) == (1, 3)
        assert await nothing_comes(poller)
        await first.release()
        assert await nothing_comes(poller)
        await bench.turn(1)
        again = await anext(deliveries)
        assert again.message.id == 1
        await again.ack()

        assert (await anext(deliveries)).message.id == 2


async def test_no_more_are_in_hand_than_asked_for(bench: Bench) -> None:
    """`deliveries(max_in_flight=2)` hands out the third when one of the first two is settled."""
    bench.server.rows = [row(number, number) for number in range(5)]
    async with bench.poller() as poller:
        deliveries = poller.deliveries(max_in_flight=2)
        held = [await anext(deliveries), await anext(deliveries)]
        third: list[int] = []

        async def wait() -> None:
            third.append((await anext(deliveries)).message.id)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await all_blocked()
            assert not third
            await held[0].ack()

        assert third == [2]


async def test_run_calls_the_handler_and_goes_on_after_a_failure(bench: Bench) -> None:
    """A handler that raises gets its message again; `run` ends by cancellation."""
    bench.server.rows = [row(1, 0), row(2, 1)]
    calls: list[int] = []

    async def handle(message: Message) -> None:
        calls.append(message.id)
        if calls == [1]:
            raise RuntimeError(message.text)

    async with bench.poller(interval=1e9) as poller, anyio.create_task_group() as tasks:
        tasks.start_soon(poller.run, handle)
        await all_blocked()
        assert calls == [1, 2]
        await bench.turn(1)
        assert calls == [1, 2, 1]
        assert poller.health().in_hand == 0
        tasks.cancel_scope.cancel()


async def test_run_raises_a_fatal_error_bare(bench: Bench) -> None:
    """A refused token ends `run` with the error itself, not with a group."""
    bench.server.script = [answer(401)]
    async with bench.poller() as poller:
        with pytest.raises(AuthenticationError):
            await poller.run(lambda _: anyio.lowlevel.checkpoint())


# --- what the server does ---


async def test_changes_tell_the_state_before(bench: Bench) -> None:
    """With `changes=True` a later revision comes as a change, and an older one never follows it."""
    bench.server.rows = [row(1, 0, State="Accepted")]
    async with bench.poller(changes=True) as poller:
        deliveries = poller.deliveries()
        first = await anext(deliveries)
        assert first.change is None
        bench.server.rows = [row(1, 20, created=0, State="Seen")]
        await bench.turn(10)
        assert await nothing_comes(poller)
        await first.ack()
        second = await anext(deliveries)
        assert second.change == Change(previous=MessageState.ACCEPTED)
        assert second.message.state is MessageState.SEEN
        await second.ack()
        bench.server.rows = [row(1, 10, created=0, State="Delivered")]
        await bench.turn(10)
        assert await nothing_comes(poller)
        bench.server.rows = [row(1, 20, created=0, State="Deleted")]
        await bench.turn(10)

        assert (await anext(deliveries)).change == Change(previous=MessageState.SEEN)


async def test_a_waiting_message_is_replaced_by_its_later_revision(bench: Bench) -> None:
    """A message that was not handed out yet comes once, as it is now; also after it was released."""
    bench.server.rows = [row(1, 0, State="Accepted")]
    async with bench.poller(changes=True) as poller:
        bench.server.rows = [row(1, 5, created=0, State="Enroute")]
        await bench.turn(10)
        deliveries = poller.deliveries()
        delivery = await anext(deliveries)
        assert (delivery.message.state, delivery.change) == (MessageState.ENROUTE, None)
        bench.server.rows = [row(1, 9, created=0, State="Delivered")]
        await bench.turn(10)
        await delivery.release(delay=0)

        again = await anext(deliveries)
        assert (again.message.state, again.change, again.attempt) == (MessageState.DELIVERED, None, 2)
        await again.ack()
        assert await nothing_comes(poller)


async def test_a_change_does_not_come_without_changes(bench: Bench) -> None:
    """By default the stream yields each message once, whatever becomes of it."""
    bench.server.rows = [row(1, 0)]
    async with bench.poller() as poller:
        deliveries = poller.deliveries()
        delivery = await anext(deliveries)
        bench.server.rows = [row(1, 20, created=0, State="Seen")]
        await bench.turn(10)
        await delivery.ack()
        bench.server.rows = [row(1, 30, created=0, State="Deleted")]
        await bench.turn(10)

        assert await nothing_comes(poller)


async def test_start_now_takes_the_first_answer_as_seen(bench: Bench) -> None:
    """Its first request begins at least 61 h before the server's clock; only what comes later is delivered."""
    bench.server.rows = [row(1, -100)]
    async with bench.poller(start="now") as poller:
        assert await nothing_comes(poller)
        bench.server.rows += [row(2, 5), row(3, -200)]
        await bench.turn(10)

        assert await take(poller, 2) == [3, 2]
        assert bench.server.asked[0] <= (NOON - timedelta(hours=63)).isoformat(" ")


async def test_start_now_asks_again_if_this_machine_is_ahead(bench: Bench) -> None:
    """The server's clock counts: with ours a week ahead, the first answer would not show what is there."""
    bench.clock.epoch += 7 * 86_400
    bench.server.rows = [row(1, -100)]
    async with bench.poller(start="now") as poller:
        assert bench.server.asked[1] == "2026-03-07 21:00:00.0000000"
        assert await nothing_comes(poller)


async def test_start_now_needs_the_servers_clock(bench: Bench) -> None:
    """Without a Date header it raises, and asks for a datetime."""
    bench.server.sends_date = False
    async with bench.poller(start="now") as poller:
        with pytest.raises(ConfigurationError, match="datetime"):
            await anext(aiter(poller))


async def test_a_start_is_never_passed(bench: Bench) -> None:
    """No poll asks for anything before `start`, not even a deep sweep, and such rows are not delivered."""
    bench.server.rows = [row(1, -1), row(2, 0)]
    async with bench.poller(start=NOON) as poller:
        assert await take(poller, 1) == [2]
        for _ in range(3):
            await bench.turn(3601)

        assert min(bench.server.asked) == "2026-03-10 12:00:00.0000000"


async def test_a_stored_position_wins_over_start(bench: Bench) -> None:
    """A restart goes on where the last run ended, whatever `start` says."""
    bench.server.rows = [row(1, 0)]
    async with bench.poller() as poller:
        await (await anext(poller.deliveries())).ack()
    bench.server.rows.append(row(2, 60))

    async with bench.poller(start="now") as poller:
        assert await take(poller, 1) == [2]
        assert bench.server.asked[-1] == "2026-03-10 10:45:00.0000000"


@pytest.mark.parametrize("start", ["yesterday", None, 5, datetime(2026, 1, 1, tzinfo=VILNIUS)])
async def test_a_start_that_cannot_be_understood_is_refused(bench: Bench, start: Any) -> None:
    """The error names `start`, and for an aware datetime the zone that is missing."""
    client = bench.server.client(server_timezone=None)
    with pytest.raises(ConfigurationError, match="start"):
        IncomingPoller(client, start=start, store=bench.store)


@pytest.mark.parametrize(
    "option", ["interval", "backoff_base", "backoff_max", "max_attempts", "max_buffered", "name"]
)
async def test_an_option_that_cannot_work_is_refused(bench: Bench, option: str) -> None:
    """The error names the option."""
    with pytest.raises(ConfigurationError, match=option):
        wrong: dict[str, Any] = {option: "" if option == "name" else 0}
        IncomingPoller(bench.server.client(), start="now", store=bench.store, **wrong)
    async with bench.poller() as poller:
        with pytest.raises(ConfigurationError, match="max_in_flight"):
            poller.deliveries(max_in_flight=0)


# --- the look-backs ---


async def test_each_poll_begins_where_the_read_mark_was_two_minutes_ago(bench: Bench) -> None:
    """The ladder on the wire: 2 min ago each poll, 75 min ago every 5 min, 48 h behind every hour."""
    bench.server.rows = [row(1, 0)]
    async with bench.poller(interval=60) as poller:
        deliveries = poller.deliveries(max_in_flight=1000)
        for minute in range(1, 121):
            bench.server.rows = [row(1 + minute, minute * 60)]
            await bench.turn(60)
            await (await anext(deliveries)).ack()
        asked = [datetime.fromisoformat(text) for text in bench.server.asked]

        behind = [
            round((NOON + timedelta(minutes=minute) - asked[minute]).total_seconds() / 60) for minute in range(121)
        ]
        assert behind[101:105] == [2, 2, 2, 2]
        assert behind[105] == 75
        assert [minute for minute, back in enumerate(behind) if back > 48 * 60] == [0, 60, 120]
        assert all(text.endswith("0000001") for text in bench.server.asked[101:105])


async def test_the_first_good_poll_after_a_failure_looks_back_further(bench: Bench) -> None:
    """After a failure the next poll asks from what the mark was 75 min ago."""
    bench.server.rows = [row(1, 0)]
    async with bench.poller(interval=60) as poller:
        for _ in range(90):
            await bench.turn(60)
        bench.server.rows = [row(2, 5400)]
        await bench.turn(60)
        await bench.turn(130)
        bench.server.script = [answer(503)]
        await bench.turn(60)
        await bench.turn(60)

        assert bench.server.asked[-1] == "2026-03-10 12:00:00.0000001"
        assert poller.health().consecutive_failures == 0


async def test_a_late_row_is_delivered_and_flagged(bench: Bench) -> None:
    """A row that becomes visible behind the mark comes, flagged and counted."""
    bench.server.rows = [row(2, 7)]
    async with bench.poller() as poller:
        deliveries = poller.deliveries()
        await (await anext(deliveries)).ack()
        bench.server.rows.append(row(1, 0))
        await bench.turn(10)
        delivery = await anext(deliveries)

        assert (delivery.message.id, delivery.late) == (1, True)
        assert poller.health().late == 1


async def test_a_late_row_lowers_the_stored_mark_before_it_is_handed_out(bench: Bench) -> None:
    """A crash while a late row is in hand brings it again at the first poll of the restart."""
    bench.server.rows = [row(2, 100_000)]
    bench.server.now += timedelta(hours=47)
    async with bench.poller() as poller:
        deliveries = poller.deliveries()
        await (await anext(deliveries)).ack()
        bench.server.rows.append(row(1, 0))
        await bench.turn(3601)
        assert (await anext(deliveries)).message.id == 1

    async with bench.poller() as poller:
        again = await anext(poller.deliveries())
        assert (again.message.id, again.attempt) == (1, 2)


async def test_a_clock_that_runs_backwards_calls_for_a_deep_sweep(bench: Bench) -> None:
    """When the server's Date falls back, the next poll looks back 48 h at once."""
    bench.server.rows = [row(1, 0)]
    async with bench.poller(interval=60) as poller:
        await bench.turn(60)
        bench.server.now -= timedelta(hours=3)
        await bench.turn(60)
        assert "clock-step" in poller.health().warnings
        await bench.turn(60)

        assert bench.server.asked[-1] == "2026-03-08 12:00:00.0000000"


async def test_rows_far_behind_are_looked_for_at_once_while_they_come(bench: Bench) -> None:
    """A node that is three hours behind: the hourly sweep finds its first row, and the next poll sweeps again."""
    bench.server.rows = [row(1, 0)]
    async with bench.poller(interval=60) as poller:
        deliveries = poller.deliveries()
        await (await anext(deliveries)).ack()
        await bench.turn(60)
        bench.server.rows.append(row(2, -10_800))
        await bench.turn(60)
        assert await nothing_comes(poller)
        await bench.turn(3600)
        await (await anext(deliveries)).ack()
        bench.server.rows.append(row(3, -10_700))
        await bench.turn(60)
        assert (await anext(deliveries)).message.id == 3
        await bench.turn(60)
        await bench.turn(60)

        deep = "2026-03-08 12:00:00.0000000"
        assert [asked == deep for asked in bench.server.asked[-4:]] == [True, True, True, False]


async def test_a_row_from_the_future_hides_nothing(bench: Bench) -> None:
    """One row stamped tomorrow does not move the read mark beyond the server's clock."""
    bench.server.rows = [row(1, 86_400)]
    async with bench.poller() as poller:
        deliveries = poller.deliveries()
        await (await anext(deliveries)).ack()
        bench.server.rows.append(row(2, 5))
        await bench.turn(10)

        assert (await anext(deliveries)).message.id == 2
        assert poller.health().high == "2026-03-10 12:00:10.9999999"
        assert "future-stamp" in poller.health().warnings


async def test_other_servers_habits_are_warnings(bench: Bench) -> None:
    """No zone, no Date, mixed offsets, rows of another type: health names each; only what was asked for comes."""
    bench.server.sends_date = False
    bench.server.rows = [
        row(1, 0, UpdatedAt="2026-03-10T12:00:00+02:00"),
        row(2, 1),
        row(3, 2, Type="Outgoing"),
    ]
    async with (
        bench.server.client(server_timezone=None) as client,
        IncomingPoller(client, start="everything", store=bench.store, clock=bench.clock) as poller,
    ):
        assert await take(poller, 2) == [1, 2]
        assert poller.health().warnings == ("mixed-offsets", "no-date-header", "no-server-timezone", "other-type")
        assert poller.health().buffered == 0


# --- what goes wrong ---

BAD_ANSWERS: list[Any] = [
    answer(500),
    answer(429, **{"Retry-After": "7"}),
    answer(200, failure("Internal")),
    answer(400, failure("InvalidMessageOwner", "Bad Request")),
    answer(200, b'{"Data": {"Messages": ['),
    answer(200, {"Data": {"Messages": []}}),
    answer(200, b""),
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("late"),
    httpx.RemoteProtocolError("peer closed connection without sending complete message body"),
]


@pytest.mark.parametrize("bad", BAD_ANSWERS, ids=repr)
async def test_no_mark_moves_on_a_bad_answer(bench: Bench, bad: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A bad answer is one warning in the log; the stream stays open, and what was missed comes."""
    caplog.set_level(logging.DEBUG)
    bench.server.script = [bad, bad, bad]
    bench.server.rows = [row(1, 0)]
    async with bench.poller() as poller:
        health = poller.health()
        assert (health.consecutive_failures, health.is_ready, health.degraded, health.high) == (
            1,
            False,
            True,
            None,
        )
        for _ in range(3):
            await bench.turn(300)
        assert await take(poller, 1) == [1]
        assert poller.health().last_error is None

    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert warnings[1] == "the poll succeeded again after 3 failures"


async def test_retry_after_is_honoured(bench: Bench) -> None:
    """The server's Retry-After sets the pause, up to five minutes."""
    bench.server.script = [answer(429, **{"Retry-After": "200"}), answer(429, **{"Retry-After": "86400"})]
    async with bench.poller():
        await bench.turn(199)
        assert len(bench.server.requests) == 1
        await bench.turn(2)
        assert len(bench.server.requests) == 2
        await bench.turn(298)
        assert len(bench.server.requests) == 2
        await bench.turn(3)
        assert len(bench.server.requests) == 3


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (answer(401), AuthenticationError),
        (answer(403), PermissionDenied),
        (answer(200, b"<html>login</html>"), ProtocolError),
        (answer(302, b"", Location="https://login.test/"), ProtocolError),
        (answer(404, b"<html>"), RequestRejected),
    ],
    ids=["401", "403", "HTML", "redirect", "404"],
)
async def test_a_wrong_setting_is_raised_before_the_first_good_poll(
    bench: Bench, bad: httpx.Response, error: type[SmsError]
) -> None:
    """What no waiting can mend is raised from the iteration, again at each step."""
    bench.server.script = [bad]
    async with bench.poller() as poller:
        for _ in range(2):
            with pytest.raises(error):
                await anext(aiter(poller))
        assert not poller.health().is_live


async def test_the_same_later_is_waited_for(bench: Bench) -> None:
    """After a good poll a refused token is a failure like others, and health tells it."""
    async with bench.poller() as poller:
        bench.server.script = [answer(401)]
        await bench.turn(10)
        assert poller.health().last_error == "AuthenticationError 401"
        bench.server.rows = [row(1, 0)]
        await bench.turn(300)

        assert await take(poller, 1) == [1]


async def test_an_error_that_nobody_saw_is_raised_at_the_end(bench: Bench) -> None:
    """A poller that died unobserved is not left in silence; another error of the body wins."""
    bench.server.script = [answer(401)]
    with pytest.raises(AuthenticationError):
        async with bench.poller():
            pass
    bench.server.script = [answer(401)]
    with pytest.raises(KeyError):
        async with bench.poller():
            raise KeyError


async def test_an_exception_of_the_body_leaves_the_block_as_it_is(bench: Bench) -> None:
    """No exception group is wrapped around what the host's own code raises."""
    with pytest.raises(ValueError, match="mine"):
        async with bench.poller():
            raise ValueError("mine")


async def test_a_bug_surfaces_where_the_consumer_looks(bench: Bench) -> None:
    """The original exception is raised by the next step, and the consumer's task is not cancelled."""

    class Broken(MemoryStore):
        async def save(self, name: str, delta: Delta) -> Mapping[Key, Settlement]:
            raise ZeroDivisionError

    bench.store = Broken()
    async with bench.poller() as poller:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await anext(poller.deliveries())


async def test_a_bug_in_the_hook_is_logged_and_the_replies_flow(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Malformed rows are reported once each; what the hook raises stops nothing, and is named by its type."""
    found: list[ProtocolError] = []

    def report(error: ProtocolError) -> None:
        found.append(error)
        raise KeyError(str(error))

    bench.server.rows = [row(1, 0), row(2, 1, CreatedAt="yesterday"), {"Id": None}, row(4, 3)]
    async with bench.poller(on_malformed=report) as poller:
        assert await take(poller, 2) == [1, 4]
        await bench.turn(10)
        health = poller.health()

    assert [(error.index, error.field) for error in found] == [(1, "CreatedAt"), (2, "Id")]
    assert (health.malformed, health.degraded) == (2, True)
    assert "on_malformed failed with KeyError" in caplog.text


async def test_a_malformed_row_is_delivered_once_it_is_mended(bench: Bench) -> None:
    """Quarantined is not seen: mended after days and a restart, an old row still comes as a new message."""
    bench.server.rows = [row(1, 0, Text=5), row(2, 10)]
    async with bench.poller() as poller:
        await (await anext(poller.deliveries())).ack()
        assert poller.health().malformed == 1
    bench.server.rows = [row(1, 0), row(2, 10), row(3, 300_000)]
    bench.server.now += timedelta(hours=100)

    async with bench.poller() as poller:
        assert await take(poller, 2) == [1, 3]
        assert (poller.health().malformed, poller.health().degraded) == (0, False)


async def test_a_malformed_row_that_is_gone_is_no_worry_any_more(bench: Bench) -> None:
    """An answer that covers it and does not list it ends the quarantine."""
    bench.server.rows = [row(1, 10), row(2, 5, Id="2")]
    async with bench.poller() as poller:
        assert poller.health().malformed == 1
        bench.server.rows = [row(1, 10)]
        await bench.turn(10)

        assert poller.health().malformed == 0


async def test_polls_wait_for_a_slow_consumer(bench: Bench) -> None:
    """While `max_buffered` messages wait, released ones included, no request is made."""
    bench.server.rows = [row(1, 0), row(2, 1)]
    async with bench.poller(max_buffered=2) as poller:
        for _ in range(5):
            await bench.turn(100)
        assert len(bench.server.requests) == 1
        assert poller.health().buffered == 2
        deliveries = poller.deliveries()
        delivery = await anext(deliveries)
        await all_blocked()
        assert len(bench.server.requests) == 2
        await delivery.release(delay=1000)
        await bench.turn(100)
        assert len(bench.server.requests) == 2
        await (await anext(deliveries)).ack()
        await all_blocked()

        assert len(bench.server.requests) == 3


async def test_one_request_is_under_way_at_a_time(bench: Bench) -> None:
    """An answer that takes longer than the interval is waited for, and the next poll follows at once."""
    running = most = 0
    arrived = anyio.Event()

    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await arrived.wait()
            running -= 1
            return bench.server(request)

    async with bench.server.client() as client:
        pass
    client._exchange.transport = Slow()
    async with client, IncomingPoller(client, start="everything", store=bench.store, clock=bench.clock) as poller:
        for _ in range(5):
            await bench.turn(10)
        arrived.set()
        await bench.turn(10)

        assert most == 1
        assert poller.health().is_ready


async def test_a_store_that_is_away_stops_everything_until_it_is_back(bench: Bench) -> None:
    """Deliveries and polls pause, health says so, nothing goes on in memory only, and nothing is lost."""

    class Away(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.away = True

        async def save(self, name: str, delta: Delta) -> Mapping[Key, Settlement]:
            if self.away:
                raise StoreError("the database is away", retryable=True)
            return await super().save(name, delta)

    store = bench.store = Away()
    bench.server.rows = [row(1, 0)]
    async with bench.poller() as poller:
        assert await nothing_comes(poller)
        await bench.turn(100)
        health = poller.health()
        assert (health.last_error, health.degraded) == ("StoreError", True)
        assert len(bench.server.requests) == 1
        store.away = False
        await bench.turn(100)
        await (await anext(poller.deliveries())).ack()
        await bench.turn(10)

        assert poller.health().consecutive_failures == 0


async def test_a_store_that_only_answers_reads_stops_the_polls(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk: no poll begins and health stays red until writes work again; the log tells it once."""

    class Full(MemoryStore):
        is_full = False

        async def save(self, name: str, delta: Delta) -> Mapping[Key, Settlement]:
            if self.is_full:
                raise StoreError("the disk is full", retryable=True)
            return await super().save(name, delta)

    store = bench.store = Full()
    bench.server.rows = [row(1, 0), row(2, 1)]
    async with bench.poller(backoff_max=5) as poller:
        deliveries = poller.deliveries()
        first, second = await anext(deliveries), await anext(deliveries)
        await first.ack()
        await bench.turn(10)
        store.is_full = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(second.ack)
            await all_blocked()
            asked = len(bench.server.requests)
            for _ in range(5):
                await bench.turn(10)
                health = poller.health()
                assert (health.last_error, health.degraded) == ("StoreError", True)
                assert health.consecutive_failures > 0
            assert len(bench.server.requests) <= asked + 1  # one may have been due when the disk became full
            store.is_full = False
            await bench.turn(10)
        await bench.turn(10)
        assert (poller.health().consecutive_failures, poller.health().last_error) == (0, None)
        assert len(bench.server.requests) > asked
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.partition(" (")[0].partition(" after")[0] for text in warnings] == [
        "the store failed",
        "the store works again",
    ]


async def test_a_store_that_cannot_be_used_is_an_error(bench: Bench) -> None:
    """A typed error of the store is raised from the iteration: never a silent restart."""

    class Unusable(MemoryStore):
        async def open(self, name: str, server: str) -> Saved | Standby:
            raise StoreError("the tables are missing; call create_tables()")

    bench.store = Unusable()
    async with bench.poller() as poller:
        with pytest.raises(StoreError, match="create_tables"):
            await anext(aiter(poller))


async def test_a_position_is_used_by_one_poller_at_a_time(bench: Bench) -> None:
    """Two pollers on one store need different names."""
    async with bench.poller():
        async with bench.poller() as second:
            with pytest.raises(ConfigurationError, match="name"):
                await anext(aiter(second))
        async with bench.poller(name="other") as third:
            assert await nothing_comes(third)


async def test_a_handler_that_shields_itself_settles_after_a_cancellation(bench: Bench) -> None:
    """A service that shuts down lets it end: until then the poller works, and afterwards nothing comes again."""
    bench.server.rows = [row(1, 0)]
    handled: list[int] = []
    with anyio.CancelScope() as scope:
        async with bench.poller() as poller:
            async for delivery in poller.deliveries():
                with anyio.CancelScope(shield=True):
                    async with delivery as message:
                        scope.cancel()
                        await all_blocked()
                        handled.append(message.id)
                    assert poller.health().in_hand == 0
    async with bench.poller() as poller:
        assert await nothing_comes(poller)
    assert handled == [1]


async def test_leaving_takes_no_time_when_the_server_never_answers(bench: Bench) -> None:
    """A request under way is cancelled, and no task is left behind."""

    class Silent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await anyio.sleep_forever()
            raise AssertionError

    client = bench.server.client()
    client._exchange.transport = Silent()
    async with client:
        with anyio.fail_after(5):
            async with IncomingPoller(client, start="everything", store=bench.store) as poller:
                await all_blocked()
                assert poller.health().last_ok_age is None
    assert repr(poller) == "<IncomingPoller 'incoming' closed>"


async def test_health_tells_ages_and_marks(bench: Bench) -> None:
    """The settled mark stays below what is in hand, ages grow, and lag is not the age of the newest stamp."""
    bench.server.rows = [row(1, 0), row(2, 30)]
    async with bench.poller() as poller:
        delivery = await anext(poller.deliveries())
        await bench.turn(7)
        health = poller.health()

        assert (health.high, health.low) == ("2026-03-10 12:00:00.9999999", "2026-03-10 11:59:59.9999999")
        assert (health.last_ok_age, health.oldest_unsettled_age) == (7.0, 7.0)
        assert (health.role, health.lease_until, health.is_live, health.is_ready) == ("leading", None, True, True)
        assert (health.buffered, health.in_hand, health.seen) == (1, 1, 2)
        await delivery.ack()
        assert "IncomingPoller" in repr(poller)


async def test_a_transaction_needs_a_store_with_transactions(bench: Bench) -> None:
    """`ack(tx)` with a memory store is refused, and settles nothing."""
    bench.server.rows = [row(1, 0)]
    async with bench.poller() as poller:
        delivery = await anext(poller.deliveries())
        with pytest.raises(ConfigurationError, match="SqlStore"):
            await delivery.ack(object())

        assert delivery.outcome is None


async def test_a_certificate_that_is_not_trusted_is_raised(bench: Bench) -> None:
    """It is a wrong setting, unlike a server that cannot be reached."""
    bench.server.script = [ConnectionFailed("not trusted", retryable=False)]
    async with bench.poller() as poller:
        with pytest.raises(ConnectionFailed, match="trusted"):
            await anext(aiter(poller))


async def test_what_was_settled_inside_its_block_stays_so(bench: Bench) -> None:
    """An explicit settlement wins over how the block ends."""
    bench.server.rows = [row(1, 0)]
    async with bench.poller() as poller:
        delivery = await anext(poller.deliveries())
        with pytest.raises(KeyError):
            async with delivery:
                await delivery.ack()
                raise KeyError

        assert delivery.outcome == "acked"


async def test_a_change_does_not_hide_that_the_message_was_rejected(bench: Bench) -> None:
    """A rejected message can be requeued also after a change of it was settled."""
    bench.server.rows = [row(1, 0, State="Accepted")]
    async with bench.poller(changes=True) as poller:
        deliveries = poller.deliveries()
        await (await anext(deliveries)).reject("later")
        bench.server.rows = [row(1, 5, created=0, State="Seen")]
        await bench.turn(10)
        await (await anext(deliveries)).ack()

        assert poller.health().rejected == 1
        assert await bench.store.requeue("incoming") == 1


async def test_a_message_that_is_listed_twice_comes_once(bench: Bench) -> None:
    """The newest revision in an answer counts, in whatever order they stand."""
    bench.server.rows = [row(1, 5, created=0, State="Seen"), row(1, 0, State="Accepted")]
    async with bench.poller() as poller:
        delivery = await anext(poller.deliveries())

        assert delivery.message.state is MessageState.SEEN
        await delivery.ack()
        assert await nothing_comes(poller)


async def test_a_quarantine_outlives_a_restart_and_has_a_bound(bench: Bench) -> None:
    """Malformed rows without stamps are kept too; where there are too many, health says so."""
    bench.server.rows = [row(1, 0), {"Id": 2}]
    async with bench.poller() as poller:
        assert poller.health().malformed == 1
    bench.server.rows += [{"Id": number} for number in range(10, 10_010)]
    async with bench.poller() as poller:
        health = poller.health()

        assert (health.malformed, health.degraded) == (10_000, True)
        assert "quarantine-bound" in health.warnings
        assert await take(poller, 1) == [1]


# --- what a hostile reader found ---


class BadClose(MemoryStore):
    """A store that is away when it is closed."""

    async def close(self, name: str) -> None:
        raise StoreError("the database is away", retryable=True)


async def test_a_store_that_does_not_close_hides_nothing(bench: Bench) -> None:
    """The body's own error, a clean end and a fatal error stay what they are."""
    bench.store = BadClose()
    with pytest.raises(KeyError):
        async with bench.poller():
            raise KeyError
    bench.store = BadClose()
    async with bench.poller():
        pass
    bench.store = BadClose()
    bench.server.script = [answer(401)]
    async with bench.poller() as poller:
        await all_blocked()
        with pytest.raises(AuthenticationError):
            await anext(aiter(poller))


async def test_a_settlement_under_way_is_written_when_the_block_is_left(bench: Bench) -> None:
    """What the consumer settled does not come again, though shutdown cancelled the write."""

    class Slow(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.hangs = False

        async def save(self, name: str, delta: Delta) -> Mapping[Key, Settlement]:
            if self.hangs:
                self.hangs = False
                await anyio.sleep_forever()
            return await super().save(name, delta)

    store = bench.store = Slow()
    bench.server.rows = [row(1, 0), row(2, 1)]
    with anyio.CancelScope() as scope:
        async with bench.poller() as poller:
            deliveries = poller.deliveries()
            held = [await anext(deliveries), await anext(deliveries)]
            store.hangs = True
            async with anyio.create_task_group() as tasks:
                for delivery in held:
                    tasks.start_soon(delivery.ack)
                    await all_blocked()
                scope.cancel()

    async with bench.poller() as poller:
        assert await nothing_comes(poller)


async def test_a_change_does_not_put_a_message_behind_the_next_of_its_sender(bench: Bench) -> None:
    """A "Yes" that was archived while it waited still comes before the later "No"."""
    bench.server.rows = [row(1, 0, sender="1"), row(2, 1, sender="1")]
    async with bench.poller() as poller:
        deliveries = poller.deliveries()
        await (await anext(deliveries)).release()
        bench.server.rows[0] = row(1, 5, created=0, sender="1")
        await bench.turn(10)

        assert (await anext(deliveries)).message.id == 1


async def test_a_mended_old_row_survives_a_restart(bench: Bench) -> None:
    """An old row that was malformed comes, also if the poller stops before it is handed out."""
    bench.server.rows = [row(1, -360_000, Text=5), row(2, 0)]
    async with bench.poller() as poller:
        await (await anext(poller.deliveries())).ack()
    bench.server.rows[0] = row(1, -360_000)
    for _ in range(2):
        async with bench.poller() as poller:
            assert poller.health().buffered == 1


async def test_a_requeue_is_not_overwritten_by_a_change(bench: Bench) -> None:
    """A message requeued while a change of it is in hand comes again."""
    bench.server.rows = [row(1, 0)]
    async with bench.poller(changes=True) as poller:
        deliveries = poller.deliveries()
        await (await anext(deliveries)).reject("no")
        bench.server.rows = [row(1, 5, created=0, State="Seen")]
        await bench.turn(10)
        change = await anext(deliveries)
        assert await bench.store.requeue("incoming") == 1
        await change.ack()
        await bench.turn(20)

        assert (await anext(deliveries)).message.id == 1


async def test_a_retry_after_of_nothing_is_no_hot_loop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backoff is the least pause, whatever the server says."""
    monkeypatch.setattr("random.random", lambda: 0.5)
    bench.server.script = [answer(429, **{"Retry-After": "0"})] * 30
    async with bench.poller(backoff_base=10):
        assert len(bench.server.requests) == 1


async def test_a_good_and_a_malformed_row_of_one_id_are_reported_once(bench: Bench) -> None:
    """The malformed one stays in quarantine while it is listed."""
    found: list[ProtocolError] = []
    bench.server.rows = [row(1, 0), row(1, 5, Text=5)]
    async with bench.poller(on_malformed=found.append) as poller:
        for _ in range(3):
            await bench.turn(10)

        assert (len(found), poller.health().malformed) == (1, 1)


async def test_a_mended_old_row_whose_id_could_not_be_read_comes(bench: Bench) -> None:
    """Its CreatedAt tells that it is the one that was malformed."""
    bench.server.rows = [row(1, -360_000, Id=None), row(2, 0)]
    async with bench.poller() as poller:
        await (await anext(poller.deliveries())).ack()
    bench.server.rows[0] = row(1, -360_000)

    async with bench.poller() as poller:
        assert await take(poller, 1) == [1]


async def test_an_old_message_that_was_malformed_for_a_while_is_not_new(bench: Bench) -> None:
    """Settled and forgotten long ago, changed into a malformed row and mended: it does not come again."""
    bench.server.rows = [row(1, -360_000), row(2, 0)]
    async with bench.poller() as poller:
        deliveries = poller.deliveries()
        for _ in range(2):
            await (await anext(deliveries)).ack()
        await bench.turn(10)
        assert poller.health().seen == 1
        bench.server.rows[0] = row(1, 12, created=-360_000, Text=5)
        await bench.turn(10)
        assert poller.health().malformed == 1
        bench.server.rows[0] = row(1, 22, created=-360_000)
        await bench.turn(10)

        assert poller.health().malformed == 0
        assert await nothing_comes(poller)


async def test_the_retry_after_of_a_failing_server_is_honoured(bench: Bench) -> None:
    """A 503 can ask for time, as a 429 can."""
    bench.server.script = [answer(503, **{"Retry-After": "120"})]
    async with bench.poller():
        await bench.turn(119)
        assert len(bench.server.requests) == 1
        await bench.turn(2)

        assert len(bench.server.requests) == 2
