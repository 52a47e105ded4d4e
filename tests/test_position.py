"""What the model does not look at: the bounds of what is remembered."""

from datetime import UTC, datetime

from fakes import VILNIUS

from his_sms_async import Message, MessageState, MessageType
from his_sms_async._models import Revision
from his_sms_async._position import EVERYTHING, Position
from his_sms_async._time import ticks, wall_of_date
from his_sms_async._wire import Row

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def row(id_: int, hours: float) -> Row:
    """A message, so many hours after noon."""
    stamp = wall_of_date(NOON, VILNIUS) + ticks(hours=hours)
    message = Message(
        id=id_,
        sender=str(id_),
        recipient="",
        type=MessageType.INCOMING,
        created_at=NOON,
        updated_at=NOON,
        text="",
        state=MessageState.DELIVERED,
        reply_to_id=None,
        revision=Revision(stamp, MessageState.DELIVERED),
    )
    return Row(message=message, created=stamp, updated=stamp, has_offset=False)


def settle(position: Position, rows: list[Row], now: float = 0.0) -> list[int]:
    """Poll once and settle all that is new."""
    ask = position.ask(now=now, wall_time=now)
    receipt = position.receive(ask, rows, date=None, now=now, wall_time=now)
    for entry in receipt.entries:
        position.attempt(entry)
        position.settle(entry)
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
