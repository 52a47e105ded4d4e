"""Two and three replicas, each a process, over one real PostgreSQL: whatever happens to them, one effect each.

The database notes who leads from when. No time is slept through here: what is waited for is a line of a replica's.
"""

import random
import time
from collections import defaultdict
from collections.abc import Iterator

import pytest
from postgres import Postgres
from replica import Team

from his_sms_async.sandbox import Sandbox

LEASE = 1.5
RENEWAL = LEASE / 3
MACHINE = 3.0  # seconds that two busy cores may take for what takes milliseconds


@pytest.fixture
def team(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[Team]:
    """Nobody yet; the parameter is the driver, and with it the kind of engine."""
    sandbox = Sandbox()
    with sandbox.serve() as server:
        made = Team(server.url, sandbox, postgres_url, request.param, LEASE)
        try:
            yield made
        finally:
            made.kill()


def on(*drivers: object) -> pytest.MarkDecorator:
    """Run a test on each of these drivers."""
    return pytest.mark.parametrize("team", drivers, indirect=True)


def assert_in_time(late: float | None) -> None:
    """Nobody led before the last lease had ended, nor much later than at the next try after that."""
    assert late is not None
    assert 0 <= late <= RENEWAL + MACHINE


@pytest.mark.parametrize(
    ("team", "ahead"),
    [("psycopg", (0, 0)), ("asyncpg", (0, 0, 0)), ("psycopg", (300, -300))],
    indirect=["team"],
    ids=["two", "three", "clocks apart"],
)
def test_killed_leader(team: Team, ahead: tuple[float, ...]) -> None:
    """Another leads within the lease and one renewal, whatever the clocks; what was in hand comes again."""
    leader = team.start_several(*({"ahead": seconds} for seconds in ahead))
    before = team.receive()
    team.handled(before)
    in_hand = team.in_hand("before", "inside", "acked")

    killed_at = leader.kill()
    led = team.until(what="leading", after=killed_at)
    heir = led["replica"]
    team.handled(*in_hand, attempt=2, replica=heir)
    after = team.receive()
    team.handled(after)

    (late,) = team.take_overs()
    team.report(f"took over {led['at'] - killed_at:.2f} s after the kill, {late:.2f} s after the lease")
    assert led["at"] - killed_at <= LEASE + RENEWAL + MACHINE
    assert_in_time(late)
    assert team.tally() == {before: (1, leader.name), **dict.fromkeys(in_hand, (2, heir)), after: (1, heir)}


@on("psycopg", "asyncpg")
def test_suspended_leader(team: Team) -> None:
    """Woken after twice the lease, it has no effect but the one that it had acknowledged, and stands by."""
    old = team.start_several({}, {})
    before, inside, acked = team.in_hand("before", "inside", "acked")

    suspended_at = old.suspend()
    new = team.leader(after=suspended_at)
    meanwhile = team.receive()
    team.handled(before, inside, attempt=2, replica=new.name)
    team.handled(meanwhile)
    team.until(what="begun", id=acked, replica=new.name)  # it waits for the transaction that stands still
    team.until(after=suspended_at + 2 * LEASE)
    old.go_on()
    resumed_at = old.resume()

    for reply in (before, inside):
        team.until(what="failed", id=reply, replica=old.name, error="AlreadySettled")
    team.handled(acked, replica=old.name)
    team.until(what="failed", id=acked, replica=new.name, error="AlreadySettled")
    team.until(what="standby", replica=old.name, leader=new.holder)
    after = team.receive()
    team.handled(after)

    (late,) = team.take_overs()
    team.report(f"took over {late:.2f} s after the lease of the one suspended")
    assert_in_time(late)
    begun = [line for line in team.lines if line["what"] == "begun" and line["replica"] == old.name]
    assert max(line["at"] for line in begun) < resumed_at
    of_new = {before: (2, new.name), inside: (2, new.name), meanwhile: (1, new.name), after: (1, new.name)}
    assert team.tally() == of_new | {acked: (1, old.name)}


@pytest.mark.parametrize(
    ("team", "statement"),
    [("psycopg", "UPDATE his_sms_poller SET start"), ("asyncpg", "UPDATE his_sms_poller SET lease_until")],
    indirect=["team"],
)
def test_leader_suspended_in_a_transaction_of_the_store(team: Team, statement: str) -> None:
    """It holds the lock of the row that says who leads; another takes over all the same."""
    old = team.start(freezes_at=statement)
    reply = team.receive()
    suspended_at = old.stands_still()
    new = team.start()
    assert team.leader(after=suspended_at) is new
    team.handled(reply, replica=new.name)
    old.resume()
    team.until(what="standby", replica=old.name, leader=new.holder)

    (late,) = team.take_overs()
    team.report(f"took over {late:.2f} s after the lease of the one suspended")
    assert_in_time(late)
    team.tally()


@on("psycopg", pytest.param("asyncpg", marks=pytest.mark.soak))
def test_stopped_database(team: Team, postgres: Postgres) -> None:
    """While it is down no process ends; when it is back, nothing is lost and nothing comes twice."""
    leader = team.start_several({}, {}, {})
    replies = [team.receive() for _ in range(5)]
    team.handled(*replies)
    replies += team.in_hand("before", "inside", "acked")

    postgres.stop("immediate")
    stopped_at = time.monotonic()
    replies += [team.receive() for _ in range(5)]
    for name in team.members:
        team.until(replica=name, fails=True, after=stopped_at)
    postgres.start()
    started_at = time.monotonic()
    leader.go_on()
    team.handled(*replies)
    team.report(f"all was handled {time.monotonic() - started_at:.2f} s after the database was back")
    for name in team.members:
        team.until(replica=name, fails=False, after=started_at)
    assert {member.process.poll() for member in team.members.values()} == {None}
    team.tally()


@on("psycopg", pytest.param("asyncpg", marks=pytest.mark.soak))
def test_business_transaction_held_open(team: Team) -> None:
    """Held for twice the lease after its `ack(tx)`, it costs neither the leadership nor another reply its time."""
    leader = team.start_several({}, {})
    committed, undone = team.in_hand("acked", "undone")
    held_from = time.monotonic()
    other = team.receive()
    team.handled(other)
    team.until(after=held_from + 2 * LEASE)
    leader.go_on()
    team.handled(committed, attempt=1)
    team.until(what="failed", id=undone, error="RolledBack")
    team.handled(undone, attempt=2)

    assert team.take_overs() == []
    roles = {line["what"] for line in team.lines if line["replica"] == leader.name and line["at"] > held_from}
    assert "standby" not in roles
    name = leader.name
    assert team.tally() == {committed: (1, name), undone: (2, name), other: (1, name)}


@on("psycopg")
def test_leader_that_leaves(team: Team) -> None:
    """It gives its lease up, so that another leads at its next try."""
    leader = team.start_several({}, {})
    first = team.receive()
    team.handled(first)
    assert leader.end() == 0
    left_at = time.monotonic()
    led = team.until(what="leading", after=left_at)
    second = team.receive()
    team.handled(second)

    team.report(f"took over {led['at'] - left_at:.2f} s after the leader had left")
    assert team.take_overs() == [None]
    assert led["at"] - left_at <= RENEWAL + MACHINE
    assert team.tally() == {first: (1, leader.name), second: (1, led["replica"])}


@on("asyncpg")
def test_standby_tells_who_leads(team: Team) -> None:
    """Its health names the leader and the end of the lease as the database has it, also when that one is dead."""
    leader = team.start_several({}, {})
    (standby,) = team.members.keys() - {leader.name}
    first = seen = team.until(what="standby", replica=standby, leader=leader.holder)
    while seen["lease_until"] == first["lease_until"]:
        seen = team.until(what="standby", replica=standby, leader=leader.holder, after=seen["at"])
    assert first["lease_until"] < seen["lease_until"] <= time.time() + LEASE
    leader.kill()
    ((until,),) = team.rows("SELECT lease_until FROM his_sms_poller")
    team.until(what="standby", replica=standby, leader=leader.holder, lease_until=until)
    team.tally()


@pytest.mark.soak
@pytest.mark.timeout(900)
@on("psycopg", "asyncpg")
def test_random_kills_and_suspensions(team: Team) -> None:
    """Thirty leaders die or stand still while replies flow: one effect each, each patient's in their order."""
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    patient_of: dict[int, int] = {}

    def flow(lines: int) -> None:
        """Have replies come in, as fast as handlers can just bear."""
        for _ in range(lines):
            team.listen_to(1)
            if dice.random() < 0.15:
                patient = dice.randrange(30)
                patient_of[team.receive(patient=patient)] = patient

    leader = team.start_several({"work": 0.3}, {"work": 0.3}, {"work": 0.3})
    kills = 0
    for _ in range(30):
        flow(dice.randrange(1, 60))
        if dice.random() < 0.5:
            ended_at = leader.kill()
            team.start(work=0.3)
            kills += 1
        else:
            ended_at = leader.suspend()
            resumes_at = ended_at + 3 * LEASE * dice.random()
            while team.lines[-1]["at"] < resumes_at:
                flow(5)
            leader.resume()
        leader = team.leader(after=ended_at)
    while len(team.rows("SELECT DISTINCT message_id FROM effect")) < len(patient_of):
        team.listen_to(20)

    lates = [late for late in team.take_overs() if late is not None]
    refused = sum(line.get("error") == "AlreadySettled" for line in team.lines)
    again = sum(attempt > 1 for attempt, _ in team.tally().values())
    team.report(
        f"seed {seed}: {kills} kills, {30 - kills} suspensions, {len(patient_of)} replies, {again} came again"
    )
    team.report(f"{refused} effects refused, {len(lates)} took over, at most {max(lates):.2f} s after the lease")
    for late in lates:
        assert_in_time(late)
    orders = defaultdict[int, list[int]](list)
    for (reply,) in team.rows("SELECT message_id FROM effect ORDER BY at"):
        orders[patient_of[reply]].append(reply)
    assert all(order == sorted(order) for order in orders.values())
