"""Exact time: what is a stamp and what is not, and what zones do to it."""

import random
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from fakes import VILNIUS
from hypothesis import example, given, settings, strategies as st

from his_sms_async._backoff import backoff
from his_sms_async._time import (
    TICKS_PER_SECOND,
    Stamp,
    earliest_wall,
    format_ticks,
    parse_http_date,
    parse_stamp,
    ticks,
    wall_of_date,
)

NEW_YORK = ZoneInfo("America/New_York")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")  # its summer time is half an hour
KIRITIMATI = ZoneInfo("Pacific/Kiritimati")  # fourteen hours ahead of UTC

DAY = 24 * 3600 * TICKS_PER_SECOND
FIRST, LAST = 4 * DAY, (date.max.toordinal() - 4) * DAY
"""Well within the calendar: its ends are refused."""
MOMENT = 637_090_565_018_072_824
""".NET's `new DateTime(2019, 11, 11, 8, 8, 21).Ticks + 8072824`."""


def wall(text: str) -> int:
    """The digits of a stamp in ticks."""
    return parse_stamp(text).digits


def naive(text: str) -> datetime:
    """A naive datetime: the server's wall clock."""
    return datetime.fromisoformat(text)


def utc(text: str) -> datetime:
    """An aware datetime in UTC."""
    return naive(text).replace(tzinfo=UTC)


# --- stamps ---------------------------------------------------------------------------------------------


@pytest.mark.spec("3.10", "4.11", "4.12")
def test_a_stamp_keeps_all_seven_digits() -> None:
    """A stamp counts the ticks that .NET counts, with its offset aside."""
    assert parse_stamp("2019-11-11T08:08:21.8072824+02:00") == Stamp(MOMENT, timedelta(hours=2))


def test_ten_thousand_ticks_come_back() -> None:
    """What is written from ticks is read as the same ticks, with a T or a space."""
    chance = random.Random(42)
    for _ in range(10_000):
        moment = chance.randrange(FIRST, LAST)
        text = format_ticks(moment)
        assert len(text) == 27
        assert parse_stamp(text) == parse_stamp(text.replace(" ", "T")) == Stamp(moment, None)


@given(st.integers(FIRST, LAST), st.integers(FIRST, LAST))
def test_digits_sort_as_ticks(one: int, other: int) -> None:
    """A server that compares the digits as text agrees with us that compare ticks."""
    assert (one < other) == (format_ticks(one) < format_ticks(other))


@pytest.mark.spec("4.5")
@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (MOMENT, "2019-11-11 08:08:21.8072824"),
        (wall("2019-11-12T11:01:26.8912252"), "2019-11-12 11:01:26.8912252"),
        (wall("2019-11-12T23:00:00"), "2019-11-12 23:00:00.0000000"),
        (wall("1900-01-01T00:00:00"), "1900-01-01 00:00:00.0000000"),
        (wall("0033-04-03T15:00:00.0000001"), "0033-04-03 15:00:00.0000001"),
    ],
)
def test_ticks_are_written_as_in_the_specification(moment: int, text: str) -> None:
    """A date, a space, and a time in 24 hours with seven digits, whatever the year."""
    assert format_ticks(moment) == text


@pytest.mark.parametrize(
    ("fraction", "extra"),
    [
        ("", 0),
        (".1", 1_000_000),
        (".12", 1_200_000),
        (".123", 1_230_000),
        (".1234", 1_234_000),
        (".12345", 1_234_500),
        (".123456", 1_234_560),
        (".1234567", 1_234_567),
        (".0000001", 1),
    ],
)
def test_none_to_seven_digits(fraction: str, extra: int) -> None:
    """.NET leaves trailing zeros out; each digit has its place."""
    for suffix in ("", "Z", "+02:00"):
        assert wall(f"2019-11-12T11:01:26{fraction}{suffix}") == wall("2019-11-12T11:01:26") + extra


@pytest.mark.parametrize(
    ("suffix", "offset"),
    [
        ("", None),
        ("Z", timedelta(0)),
        ("+00:00", timedelta(0)),
        ("-00:00", timedelta(0)),
        ("+02:00", timedelta(hours=2)),
        ("-03:30", timedelta(hours=-3, minutes=-30)),
        ("+14:00", timedelta(hours=14)),
        ("+23:59", timedelta(hours=23, minutes=59)),
        ("-23:59", timedelta(hours=-23, minutes=-59)),
    ],
)
def test_offsets(suffix: str, offset: timedelta | None) -> None:
    """Z, an offset in hours and minutes, or none."""
    assert parse_stamp(f"2019-11-12T11:01:26.5{suffix}").offset == offset


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2019-11-12",
        "11:01:26",
        "2019-11-12T11:01",
        "2019-11-12T1:01:26",
        "2019-11-12T11:01:26.",
        "2019-11-12T11:01:26.12345678",
        "2019-11-12T11:01:26,5",
        "2019-11-12t11:01:26",
        "2019-11-12  11:01:26",
        "2019-11-12_11:01:26",
        "20191112T110126",
        "2019-W46-2T11:01:26",
        "2019-316T11:01:26",
        "19-11-12T11:01:26",
        "12019-11-12T11:01:26",
        "-2019-11-12T11:01:26",
        "2019-11-12T11:01:60",
        "2019-11-12T11:60:26",
        "2019-11-12T24:00:00",
        "2019-02-29T11:01:26",
        "2019-13-12T11:01:26",
        "2019-00-12T11:01:26",
        "2019-11-31T11:01:26",
        "0000-01-01T00:00:00",
        "2019-11-12T11:01:26+24:00",
        "2019-11-12T11:01:26-24:00",
        "2019-11-12T11:01:26+02:60",
        "2019-11-12T11:01:26+0200",
        "2019-11-12T11:01:26+02",
        "2019-11-12T11:01:26+02:00:00",
        "2019-11-12T11:01:26 +02:00",
        "2019-11-12T11:01:26Z+02:00",
        "2019-11-12T11:01:26 GMT",
        " 2019-11-12T11:01:26",
        "2019-11-12T11:01:26\n",
        "２０１９-11-12T11:01:26",
        "2019-11-12T11:01:2٦",
        "11/12/2019 11:01:26",
        "/Date(1573556486000)/",
    ],
)
def test_nothing_else_is_a_stamp(text: str) -> None:
    """Whatever is not the specification's form, or no date of the calendar, is refused."""
    with pytest.raises(ValueError):
        parse_stamp(text)


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00", "0001-01-01T23:59:59.9999999", "9999-12-31T23:59:59.9999999"]
)
def test_the_ends_of_the_calendar_are_refused(text: str) -> None:
    """.NET's MinValue and MaxValue mean that there is no stamp, and zones cannot be applied to them."""
    with pytest.raises(ValueError, match="too close to the end of the calendar"):
        parse_stamp(text)


@given(st.text() | st.from_regex(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,8})?([Zz]|[+-]\d\d:\d\d)?"))
@example("9999-12-30T23:59:59-23:59")
@example("9999-12-30T23:00:00-14:00")
@example("0001-01-02T00:00:00+23:59")
@settings(deadline=None, max_examples=500)
def test_what_can_be_read_can_be_converted(text: str) -> None:
    """A stamp is refused when it is read, or can be used in every zone: there is no third outcome."""
    try:
        stamp = parse_stamp(text)
    except ValueError:
        return
    for zone in (None, VILNIUS, NEW_YORK, KIRITIMATI):
        assert parse_stamp(format_ticks(stamp.digits)).digits == stamp.digits
        assert stamp.to_datetime(zone).replace(tzinfo=None) == stamp.to_datetime(None).replace(tzinfo=None)
        assert isinstance(stamp.wall(zone), int)


# --- zones ----------------------------------------------------------------------------------------------


def test_a_stamp_with_an_offset_is_aware() -> None:
    """The written offset stays, zone or not; Z and +00:00 are UTC itself."""
    moment = parse_stamp("2019-11-12T11:01:26.1234567+02:00").to_datetime(NEW_YORK)
    assert moment == utc("2019-11-12T09:01:26.123456")
    assert moment.tzinfo == timezone(timedelta(hours=2))
    assert parse_stamp("2019-11-12T11:01:26Z").to_datetime(NEW_YORK).tzinfo is UTC
    assert parse_stamp("2019-11-12T11:01:26+00:00").to_datetime(None).tzinfo is UTC


def test_a_stamp_without_an_offset_is_the_zones() -> None:
    """Aware in the server's zone, naive if that is unknown."""
    stamp = parse_stamp("2019-07-12T11:01:26.1234567")
    assert stamp.to_datetime(VILNIUS).tzinfo is VILNIUS
    assert stamp.to_datetime(VILNIUS).astimezone(UTC) == utc("2019-07-12T08:01:26.123456")
    assert stamp.to_datetime(None) == naive("2019-07-12T11:01:26.123456")
    assert stamp.to_datetime(None).tzinfo is None


def test_the_repeated_hour_is_read_as_its_first_pass() -> None:
    """03:30 of the autumn night happens twice; without an offset it is summer time still."""
    stamp = parse_stamp("2026-10-25T03:30:00").to_datetime(VILNIUS)
    assert stamp.fold == 0
    assert stamp.utcoffset() == timedelta(hours=3)


def test_a_stamp_in_the_spring_gap_is_kept() -> None:
    """03:30 of the spring night does not exist; a server that writes it all the same harms nobody."""
    stamp = parse_stamp("2026-03-29T03:30:00")
    assert stamp.to_datetime(VILNIUS).replace(tzinfo=None) == naive("2026-03-29T03:30:00")
    assert stamp.wall(VILNIUS) == wall("2026-03-29T03:30:00")


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2019-11-12T11:01:26.1234567", VILNIUS, "2019-11-12T11:01:26.1234567"),
        ("2019-11-12T11:01:26.1234567", None, "2019-11-12T11:01:26.1234567"),
        ("2019-11-12T11:01:26.1234567+05:30", None, "2019-11-12T11:01:26.1234567"),
        ("2019-11-12T11:01:26.1234567+02:00", VILNIUS, "2019-11-12T11:01:26.1234567"),
        ("2019-11-12T11:01:26.1234567Z", VILNIUS, "2019-11-12T13:01:26.1234567"),
        ("2019-07-12T11:01:26.1234567Z", VILNIUS, "2019-07-12T14:01:26.1234567"),
        ("2019-11-12T01:01:26.1234567+05:30", NEW_YORK, "2019-11-11T14:31:26.1234567"),
        # the autumn night, before and in the repeated hour, both passes, and after
        ("2026-10-24T23:59:59.9999999Z", VILNIUS, "2026-10-25T02:59:59.9999999"),
        ("2026-10-25T00:30:00.0000001Z", VILNIUS, "2026-10-25T03:30:00.0000001"),
        ("2026-10-25T01:30:00.0000001Z", VILNIUS, "2026-10-25T03:30:00.0000001"),
        ("2026-10-25T04:30:00.0000001+03:00", VILNIUS, "2026-10-25T03:30:00.0000001"),
        ("2026-10-25T02:00:00Z", VILNIUS, "2026-10-25T04:00:00"),
        # the spring night, on both sides of the gap
        ("2026-03-29T00:59:59.9999999Z", VILNIUS, "2026-03-29T02:59:59.9999999"),
        ("2026-03-29T01:00:00Z", VILNIUS, "2026-03-29T04:00:00"),
    ],
)
def test_the_wall_clock_of_a_stamp(text: str, zone: ZoneInfo | None, expected: str) -> None:
    """The digits count as they stand, unless both offset and zone are known: then they are converted."""
    assert parse_stamp(text).wall(zone) == wall(expected)


@given(
    st.datetimes(min_value=naive("1900-01-01"), max_value=naive("2100-01-01")),
    st.integers(0, 9),
    st.integers(-14 * 60, 14 * 60),
)
@settings(deadline=None)
def test_conversion_keeps_every_digit(moment: datetime, hundreds: int, minutes: int) -> None:
    """A stamp with any offset has the wall clock that the zone shows at that instant, to the last tick."""
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    text = aware.isoformat(timespec="microseconds").replace(aware.isoformat()[-6:], f"{hundreds}")
    stamp = parse_stamp(f"{text}{aware.isoformat()[-6:]}")
    assert stamp.to_datetime(None) == aware
    local = aware.astimezone(VILNIUS).replace(tzinfo=None).isoformat(timespec="microseconds")
    assert stamp.wall(VILNIUS) == wall(f"{local}{hundreds}")


# --- where to begin to ask ------------------------------------------------------------------------------


@pytest.mark.spec("4.5")
def test_a_naive_moment_is_the_servers_wall_clock() -> None:
    """A naive moment is taken as it stands, zone or not, in the repeated hour too."""
    for zone in (None, VILNIUS):
        assert earliest_wall(naive("2026-10-25T03:30:00.123456"), zone) == wall("2026-10-25T03:30:00.123456")


def test_an_aware_moment_needs_the_zone() -> None:
    """Without the server's zone nobody knows what its clock shows at an instant."""
    with pytest.raises(ValueError, match="zone"):
        earliest_wall(utc("2026-03-10T12:00:00"), None)


@pytest.mark.parametrize(
    ("instant", "zone", "expected"),
    [
        ("2026-03-10T10:00:00.123456", VILNIUS, "2026-03-10T12:00:00.123456"),
        ("2026-07-10T10:00:00", VILNIUS, "2026-07-10T13:00:00"),
        # the autumn night: just before, first pass, second pass, after
        ("2026-10-24T23:59:59.999999", VILNIUS, "2026-10-25T02:59:59.999999"),
        ("2026-10-25T00:00:00", VILNIUS, "2026-10-25T02:00:00"),
        ("2026-10-25T00:30:00", VILNIUS, "2026-10-25T02:30:00"),
        ("2026-10-25T00:59:59.999999", VILNIUS, "2026-10-25T02:59:59.999999"),
        ("2026-10-25T01:00:00", VILNIUS, "2026-10-25T03:00:00"),
        ("2026-10-25T01:30:00", VILNIUS, "2026-10-25T03:30:00"),
        ("2026-10-25T02:00:00", VILNIUS, "2026-10-25T04:00:00"),
        # the spring night
        ("2026-03-29T00:59:59", VILNIUS, "2026-03-29T02:59:59"),
        ("2026-03-29T01:00:00", VILNIUS, "2026-03-29T04:00:00"),
        # half an hour is repeated
        ("2026-04-04T14:45:00", LORD_HOWE, "2026-04-05T01:15:00"),
        ("2026-04-04T15:15:00", LORD_HOWE, "2026-04-05T01:45:00"),
    ],
)
def test_an_aware_moment_is_converted(instant: str, zone: ZoneInfo, expected: str) -> None:
    """In the first pass of the repeated hour it begins so much earlier; else it is exact."""
    assert earliest_wall(utc(instant), zone) == wall(expected)


@pytest.mark.parametrize(("fold", "expected"), [(0, "2026-10-25T02:30:00"), (1, "2026-10-25T03:30:00")])
def test_fold_tells_the_passes_apart(fold: int, expected: str) -> None:
    """A moment in the server's own zone says by its fold which pass it means."""
    moment = datetime(2026, 10, 25, 3, 30, tzinfo=VILNIUS, fold=fold)
    assert earliest_wall(moment, VILNIUS) == wall(expected)


@given(
    st.datetimes(min_value=naive("1970-01-01"), max_value=naive("2037-12-31")),
    st.timedeltas(min_value=timedelta(0), max_value=timedelta(hours=3)) | st.timedeltas(min_value=timedelta(0)),
    st.sampled_from([VILNIUS, NEW_YORK, LORD_HOWE]),
)
@example(naive("2026-10-25T00:30:00"), timedelta(minutes=30), VILNIUS)
@settings(deadline=None, max_examples=500)
def test_the_clock_never_shows_less_later(moment: datetime, later: timedelta, zone: ZoneInfo) -> None:
    """No message that is written at or after a moment has a smaller stamp than what is asked for."""
    try:
        after = moment.replace(tzinfo=UTC) + later
        shown = after.astimezone(zone)
    except OverflowError:
        return
    assert earliest_wall(moment.replace(tzinfo=UTC), zone) <= earliest_wall(shown.replace(tzinfo=None), zone)


# --- HTTP dates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Sun, 06 Nov 1994 10:49:37 +0200",
        "06 Nov 1994 08:49:37 -0000",
    ],
)
def test_http_dates(value: str) -> None:
    """All three forms of RFC 9110 are UTC, and an offset is converted."""
    assert parse_http_date(value) == utc("1994-11-06T08:49:37")


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "now",
        "120",
        "Sun, 32 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 25:49:37 GMT",
        "Sun, 06 Nov 99999999999 08:49:37 GMT",
        "Fri, 31 Dec 9999 23:59:59 -0100",
    ],
)
def test_what_is_no_http_date_is_none(value: str | None) -> None:
    """A header that cannot be read counts as missing; nothing is raised."""
    assert parse_http_date(value) is None


@given(
    st.text()
    | st.lists(
        st.sampled_from(["Mon", ",", "01", "Jan", "9999", "0001", "23:59:59", "GMT", "+0100", "-2359", "(", "\\"])
    ).map(" ".join)
)
def test_no_date_header_raises(value: str) -> None:
    """Whatever a proxy writes, a Date header is a date in UTC or none."""
    moment = parse_http_date(value)
    assert moment is None or moment.tzinfo is UTC


def test_the_wall_clock_of_a_date_header() -> None:
    """What the server's clock shows in its zone; the digits of UTC if that is unknown."""
    moment = utc("2026-07-10T10:00:00")
    assert wall_of_date(moment, VILNIUS) == wall("2026-07-10T13:00:00")
    assert (
        wall_of_date(moment, None) == wall_of_date(moment.astimezone(VILNIUS), None) == wall("2026-07-10T10:00:00")
    )


# --- durations ------------------------------------------------------------------------------------------


def test_durations_in_ticks() -> None:
    """A tick is 100 ns."""
    assert ticks(hours=1) == 36_000_000_000
    assert ticks(minutes=1.5) == 900_000_000
    assert ticks(hours=1, minutes=15) == ticks(minutes=75)
    assert ticks() == 0


@pytest.mark.parametrize(
    ("failures", "longest"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (1025, 60.0), (10**9, 60.0)]
)
def test_backoff_doubles_up_to_its_maximum(failures: int, longest: float) -> None:
    """Full jitter below a limit that doubles; a billion failures do not overflow it."""
    for chance in (0.0, 0.5, 1.0):
        assert backoff(failures, base=1.0, maximum=60.0, random=lambda: chance) == chance * longest  # noqa: B023
