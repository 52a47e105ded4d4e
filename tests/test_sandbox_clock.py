"""The stand-in's clock and how it writes time."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from his_sms_async.sandbox import SandboxClock
from his_sms_async.sandbox._clock import real_ticks, ticks_of, utc_datetime
from his_sms_async.sandbox._stamps import format_stamp, parse_date_from, wall_ticks

VILNIUS = ZoneInfo("Europe/Vilnius")
NOON = datetime(2019, 11, 12, 12, tzinfo=UTC)
SECOND = 10_000_000


def test_untouched_clock_tells_the_real_time_and_never_the_same_tick_twice() -> None:
    """Stamps of a clock that runs are distinct and rise, and lie between two looks at the computer's time."""
    clock = SandboxClock()
    before = real_ticks()
    stamps = [clock() for _ in range(1000)]
    assert stamps == sorted(set(stamps))
    assert before <= stamps[0] <= real_ticks() + len(stamps)


def test_clock_rises_when_the_real_time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer whose time moves in large steps, or is set back, still gives distinct stamps."""
    monkeypatch.setattr("time.time_ns", lambda: 1_573_560_000_000_000_000)
    clock = SandboxClock()
    assert [clock(), clock(), clock()] == [ticks_of(NOON) + i for i in range(3)]


def test_clock_can_be_set_and_runs_on_from_there() -> None:
    """After `set` the clock shows that instant and goes on."""
    clock = SandboxClock()
    clock.set(NOON)
    assert ticks_of(NOON) < clock() < ticks_of(NOON + timedelta(minutes=1))


def test_clock_set_in_another_zone_is_set_to_the_same_instant() -> None:
    """An aware datetime is an instant, whatever its zone."""
    clock = SandboxClock()
    clock.freeze()
    clock.set(NOON.astimezone(timezone(timedelta(hours=-7))))
    assert clock() == ticks_of(NOON)


def test_naive_instant_is_refused() -> None:
    """A datetime without zone does not say when it is."""
    with pytest.raises(ValueError, match="must have a time zone"):
        SandboxClock().set(datetime(2019, 11, 12))  # noqa: DTZ001 -- that is the point


def test_clock_steps_forwards_and_backwards() -> None:
    """`advance` moves by seconds, also negative ones, and keeps the 100 ns."""
    clock = SandboxClock()
    clock.freeze()
    clock.set(NOON)
    clock.advance(90.0000001)
    assert clock() == ticks_of(NOON) + 90 * SECOND + 1
    clock.advance(-3600)
    assert clock() == ticks_of(NOON) - 3510 * SECOND + 1


def test_running_clock_that_steps_back_gives_smaller_stamps() -> None:
    """Going back is not hidden by the promise of distinct stamps."""
    clock = SandboxClock()
    before = clock()
    clock.advance(-10)
    assert clock() < before


def test_frozen_clock_gives_ties_until_it_runs_again() -> None:
    """Frozen, every stamp is the same tick; afterwards the clock runs on from it."""
    clock = SandboxClock()
    clock.set(NOON)
    clock.freeze()
    stopped = clock()
    assert clock() == stopped
    clock.unfreeze()
    assert stopped < clock() < clock() < stopped + 60 * SECOND


def test_reset_returns_to_the_real_time() -> None:
    """A reset clock runs, and tells the computer's time."""
    clock = SandboxClock()
    clock.set(NOON)
    clock.freeze()
    clock.reset()
    assert real_ticks() - 60 * SECOND < clock() < clock()


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e300, -1e11, 3e11])
def test_clock_does_not_leave_the_calendar(seconds: float) -> None:
    """A step to where no zone has a date is refused, and the clock stays."""
    clock = SandboxClock()
    clock.freeze()
    before = clock()
    with pytest.raises(ValueError, match=r"the seconds must be a number|in the years from 1 to 9999"):
        clock.advance(seconds)
    with pytest.raises(ValueError, match="in the years from 1 to 9999"):
        clock.set(datetime.max.replace(tzinfo=UTC))
    assert clock() == before


@pytest.mark.parametrize("instant", [datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)])
def test_ends_of_the_calendar_are_dates_in_every_zone(instant: datetime) -> None:
    """What the clock can show can be written."""
    clock = SandboxClock()
    clock.freeze()
    clock.set(instant)
    for zone in ("UTC", "Pacific/Kiritimati", "America/Adak", "Europe/Vilnius"):
        stamp = format_stamp(clock(), ZoneInfo(zone), offset=True)
        assert abs(datetime.fromisoformat(stamp).astimezone(UTC) - instant) < timedelta(minutes=1)


def test_ticks_count_from_year_one() -> None:
    """The ticks are those of .NET, so the years 1 and 1970 are where they are there."""
    assert ticks_of(datetime(1, 1, 1, tzinfo=UTC)) == 0
    assert ticks_of(datetime(1970, 1, 1, tzinfo=UTC)) == 621_355_968_000_000_000
    assert utc_datetime(ticks_of(NOON) + 19) == NOON + timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("zone", "offset", "stamp"),
    [
        ("Europe/Vilnius", False, "2019-11-12T14:00:00.0000007"),
        ("Europe/Vilnius", True, "2019-11-12T14:00:00.0000007+02:00"),
        ("UTC", True, "2019-11-12T12:00:00.0000007+00:00"),
        ("America/St_Johns", True, "2019-11-12T08:30:00.0000007-03:30"),
    ],
)
def test_stamp_has_seven_digits_and_the_offset_on_demand(zone: str, offset: bool, stamp: str) -> None:  # noqa: FBT001
    """Stamps look as in the specification, exact to the tick."""
    assert format_stamp(ticks_of(NOON) + 7, ZoneInfo(zone), offset=offset) == stamp


def test_whole_second_keeps_its_seven_zeros() -> None:
    """Digits are never trimmed."""
    assert format_stamp(0, ZoneInfo("UTC"), offset=False) == "0001-01-01T00:00:00.0000000"


def test_repeated_autumn_hour_shows_the_same_digits_twice() -> None:
    """Without offset, stamps an hour apart are equal in that night; with it they differ."""
    first = ticks_of(datetime(2019, 10, 27, 0, 30, tzinfo=UTC))
    second = first + 3600 * SECOND
    assert format_stamp(first, VILNIUS, offset=False) == format_stamp(second, VILNIUS, offset=False)
    assert format_stamp(first, VILNIUS, offset=True).endswith("T03:30:00.0000000+03:00")
    assert format_stamp(second, VILNIUS, offset=True).endswith("T03:30:00.0000000+02:00")
    assert wall_ticks(first, VILNIUS) == wall_ticks(second, VILNIUS)


@pytest.mark.parametrize(
    ("zone", "change"),
    [
        # The second stands in the middle of a quarter of an hour of UTC.
        ("Europe/Vilnius", datetime(1879, 12, 31, 22, 18, 44, tzinfo=UTC)),
        ("Europe/Vilnius", datetime(2019, 10, 27, 1, tzinfo=UTC)),
        ("Asia/Kathmandu", datetime(1985, 12, 31, 18, 30, tzinfo=UTC)),
        ("Africa/Monrovia", datetime(1972, 1, 7, 0, 44, 30, tzinfo=UTC)),
    ],
)
def test_wall_clock_changes_at_the_exact_tick(zone: str, change: datetime) -> None:
    """However offsets are remembered, one tick before a change the old one holds, and at it the new one."""
    at, info = ticks_of(change), ZoneInfo(zone)
    old = (change - timedelta(seconds=1)).astimezone(info).utcoffset()
    new = change.astimezone(info).utcoffset()
    assert old is not None
    assert new is not None
    assert old != new
    for _ in range(2):
        assert wall_ticks(at - 1, info) - (at - 1) == old // timedelta(microseconds=1) * 10
        assert wall_ticks(at, info) - at == new // timedelta(microseconds=1) * 10
        assert wall_ticks(at - 3600 * SECOND, info) - at + 3600 * SECOND == old // timedelta(microseconds=1) * 10


@pytest.mark.parametrize(
    ("text", "ticks"),
    [
        ("2019-11-12 12:00:00", 0),
        ("2019-11-12T12:00:00", 0),
        ("2019-11-12 12:00:00.", 0),
        ("2019-11-12 12:00:00.5", 5_000_000),
        ("2019-11-12 12:00:00.0000001", 1),
        ("2019-11-12T12:00:00.8912252", 8_912_252),
    ],
)
def test_date_from_is_read_to_the_tick(text: str, ticks: int) -> None:
    """0 to 7 digits of a second, after a space or a T."""
    assert parse_date_from(text) == ticks_of(NOON) + ticks


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2019-11-12",
        "2019-11-12 12:00",
        "2019-11-12 12:00:00.12345678",
        "2019-11-12 12:00:00Z",
        "2019-11-12 12:00:00+02:00",
        "2019-13-12 12:00:00",
        "2019-02-29 12:00:00",
        "2019-11-12 24:00:00",
        "0000-11-12 12:00:00",
        "2019-11-12  12:00:00",
        "2019-11-12 12:00:00\n",
        "\u0662\u0660\u0661\u0669-11-12 12:00:00",
    ],
)
def test_other_dates_are_not_read(text: str) -> None:
    """What is no date, or a date of another form, is None, never a guess."""
    assert parse_date_from(text) is None
