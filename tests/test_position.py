"""What the model does not look at: the bounds of what is remembered, and what a store may have kept."""

from datetime import UTC, datetime
from typing import Any

from fakes import VILNIUS

from his_sms_async import Change, Message, MessageState, MessageType
from his_sms_async._known import Entry
from his_sms_async._models import Revision
from his_sms_async._position import EVERYTHING, Position
from his_sms_async._store import Attempt, Marks, Outcome, Settlement
from his_sms_async._time import ticks, wall_of_date
from his_sms_async._wire import Row

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def row(id_: int, hours: float, state: MessageState = MessageState.DELIVERED, created: float | None = None) -> Row:
    """A message that was changed, and created unless that is given, so many hours after noon."""
    stamp = wall_of_date(NOON, VILNIUS) + ticks(hours=hours)
    message = Message(
        id=id_,
        sender=str(id_),
        recipient="",
        type=MessageType.INCOMING,
        created_at=NOON,
        updated_at=NOON,
        text="",
        state=state,
        reply_to_id=None,
        revision=Revision(stamp, state),
    )
    born = stamp if created is None else wall_of_date(NOON, VILNIUS) + ticks(hours=created)
    return Row(message=message, created=born, updated=stamp, has_offset=False)


def settle(position: Position, rows: list[Row], now: float = 0.0) -> list[int]:
    """Poll once and settle all that is new."""
    ask = position.ask(now=now, wall_time=now)
    receipt = position.receive(ask, rows, date=None, now=now, wall_time=now)
    for entry in receipt.entries:
        position.attempt(entry)
        position.settle(entry, entry.settlement(Outcome.SETTLED, None, "life"))
    return [entry.row.message.id for entry in receipt.entries]


def test_the_memory_of_what_was_seen_is_bounded() -> None:
    """Beyond its bound the oldest are forgotten, the store is told, and a warning says so."""
    position = Position(EVERYTHING, type=MessageType.INCOMING, changes=False, zone=VILNIUS, max_seen=10)
    rows = [row(number, number / 10) for number in range(20)]
    settle(position, rows)
    assert position.seen == 20
    settle(position, rows)

    assert position.seen == 9
    assert "seen-bound" in position.warnings
    delta = position.delta()
    assert delta is not None
    assert sorted(identity[0] for identity in delta.forgotten) == list(range(11))
    assert position.delta() is None


def test_what_no_poll_can_bring_as_new_is_forgotten() -> None:
    """48 h behind the point up to which everything was settled, nothing needs to be remembered."""
    position = Position(EVERYTHING, type=MessageType.INCOMING, changes=False, zone=VILNIUS)
    assert settle(position, [row(1, 0), row(2, 30)]) == [1, 2]
    assert settle(position, [row(2, 30), row(3, 60)]) == [3]
    assert settle(position, [row(1, 0)]) == []

    assert position.seen == 2


def receive(position: Position, *rows: Row) -> list[Entry]:
    """Poll once; return what has to wait for its turn."""
    ask = position.ask(now=0.0, wall_time=0.0)
    return position.receive(ask, rows, date=None, now=0.0, wall_time=0.0).entries


def with_changes() -> Position:
    """A position that wants changes."""
    return Position(EVERYTHING, type=MessageType.INCOMING, changes=True, zone=VILNIUS)


def settlement(of: Row, version: str = "", *states: MessageState) -> Settlement:
    """What another wrote of a row."""
    return Settlement(
        key=(*of.identity, version),
        created=of.created,
        updated=of.updated,
        states=tuple(str(state) for state in states or (of.message.state,)),
        by="another",
    )


def test_another_settled_an_earlier_revision() -> None:
    """With `changes=True` the later one is a change of that; the store is told that the attempt has ended."""
    position, early, late = with_changes(), row(1, 0), row(1, 1, MessageState.SEEN, created=0)
    (entry,) = receive(position, late)
    position.attempt(entry)
    assert position.delta() is not None

    later = position.heard(entry, settlement(early))
    assert later is not None
    assert later.change == Change(previous=MessageState.DELIVERED)
    assert later.row is late
    delta = position.delta()
    assert delta is not None
    assert delta.done == ((*late.identity, ""),)


def test_another_settled_what_has_changed_again_meanwhile() -> None:
    """The change that waits already is the only one."""
    position, early, late = with_changes(), row(1, 0), row(1, 1, MessageState.SEEN, created=0)
    (entry,) = receive(position, early)
    position.attempt(entry)
    (change,) = receive(position, late)

    assert position.heard(entry, settlement(early)) is None
    assert change.known.waiting is change
    assert receive(position, early, late) == []


def test_another_settled_the_same_change() -> None:
    """Nothing is left to deliver, and everything is caught up."""
    position, early, late = with_changes(), row(1, 0), row(1, 1, MessageState.SEEN, created=0)
    settle(position, [early])
    (change,) = receive(position, late)
    position.attempt(change)

    assert position.heard(change, settlement(late, change.version)) is None
    assert receive(position, late) == []
    assert position.low == position.high


def test_a_store_tells_its_facts_in_any_order() -> None:
    """The newest settlement tells the state; one that was rejected stays so; an attempt makes it owed."""
    first, second = row(1, 0), row(1, 1, MessageState.SEEN, created=0)
    facts = [settlement(first), settlement(second, "2 Seen")]
    for kept in (facts, facts[::-1]):
        position = with_changes()
        position.recall(kept)
        assert receive(position, first, second) == []
        (change,) = receive(position, row(1, 2, MessageState.DELETED, created=0))
        assert change.change == Change(previous=MessageState.SEEN)

    position = with_changes()
    position.recall([facts[1], Attempt(key=facts[0].key, created=first.created, updated=first.updated, number=2)])
    (owed,) = receive(position, second)
    position.attempt(owed)
    assert (owed.change, owed.known.attempt) == (None, 3)


def test_states_that_the_specification_does_not_know_have_short_keys() -> None:
    """However long the server's word for a state is, the key of a change fits the store's column."""
    position = with_changes()
    settle(position, [row(1, 0)])
    word: Any = "Zugestellt, " * 100
    (change,) = receive(position, row(1, 1, word, created=0))
    assert len(change.version) <= 64
    assert change.settlement(Outcome.SETTLED, None, "life").states == (word,)


def test_a_released_change_that_has_changed_again_counts_its_attempts_anew() -> None:
    """The attempt at the earlier revision has ended, and the store is told."""
    position = with_changes()
    settle(position, [row(1, 0)])
    (change,) = receive(position, row(1, 1, MessageState.SEEN, created=0))
    position.attempt(change)
    key = change.key
    assert position.delta() is not None
    receive(position, row(1, 2, MessageState.DELETED, created=0))
    assert position.release(change, not_before=0.0) is not None
    delta = position.delta()
    assert delta is not None
    assert delta.done == (key,)


def test_a_restart_alone_does_not_make_old_rows_old_news() -> None:
    """What was received and not settled before a restart is new, also if a stale answer comes in between."""
    noon = datetime(2026, 6, 1, 12, tzinfo=UTC)
    touched = row(1, 0, created=-100)  # by a bulk update

    def life(marks: Marks | None, now: float) -> Position:
        position = Position(EVERYTHING, type=MessageType.INCOMING, changes=False, zone=VILNIUS)
        if marks is not None:
            position.resume(marks, now=now, wall_time=noon.timestamp() + now)
        return position

    def poll(position: Position, rows: list[Row], now: float) -> list[Entry]:
        wall_time = noon.timestamp() + now
        ask = position.ask(now=now, wall_time=wall_time)
        return position.receive(ask, rows, date=noon, now=now, wall_time=wall_time).entries

    first = life(None, 0.0)
    assert len(poll(first, [touched], 0.0)) == 1
    delta = first.delta()
    assert delta is not None
    second = life(delta.marks, 10.0)
    assert poll(second, [], 10.0) == []
    assert [entry.row for entry in poll(second, [touched], 20.0)] == [touched]
