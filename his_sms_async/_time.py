"""Exact time: stamps as integer ticks of 100 ns, the unit in which the SMS server counts.

A position is never a `datetime`: that has six digits where the server has seven, and in the repeated autumn
hour two aware datetimes of one zone that lie an hour apart compare equal.
"""

import re
from datetime import UTC, date, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from zoneinfo import ZoneInfo

import attrs

TICKS_PER_SECOND = 10_000_000
_TICKS_PER_MICROSECOND = 10
_TICKS_PER_DAY = 86_400 * TICKS_PER_SECOND

# Offset and zone can move a stamp by two days; between these it stays a date whatever they are.
_FIRST, _LAST = 3 * _TICKS_PER_DAY, (date.max.toordinal() - 3) * _TICKS_PER_DAY

# ISO 8601 as .NET writes it, and as section 4 of the specification shows it: 0 to 7 fraction digits.
_STAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,7}))?(?:([Zz])|([+-])(\d\d):(\d\d))?", re.ASCII
)


def ticks(*, hours: float = 0, minutes: float = 0) -> int:
    """A duration in ticks."""
    return round((hours * 3600 + minutes * 60) * TICKS_PER_SECOND)


@attrs.frozen
class Stamp:
    """A moment as the server wrote it."""

    digits: int
    """The written date and time of day, in ticks since 0001-01-01."""
    offset: timedelta | None
    """The written offset from UTC, or None if there was none."""

    def wall(self, zone: ZoneInfo | None) -> int:
        """The server's wall clock in ticks: the digits, unless offset and zone say how to convert them."""
        if self.offset is None or zone is None:
            return self.digits
        utc = self.digits - round(self.offset.total_seconds()) * TICKS_PER_SECOND
        return _wall_clock(_naive(utc).replace(tzinfo=UTC), zone) + utc % _TICKS_PER_MICROSECOND

    def to_datetime(self, zone: ZoneInfo | None) -> datetime:
        """Aware by the written offset, else by the zone (the repeated hour as its first pass), else naive."""
        tzinfo = zone if self.offset is None else timezone(self.offset) if self.offset else UTC
        return _naive(self.digits).replace(tzinfo=tzinfo)


def parse_stamp(text: str) -> Stamp:
    """Read a stamp exactly.

    Raises:
        ValueError: It is not a date and time with 0 to 7 fraction digits and an optional offset, or there is
            no such date, or it lies within days of the calendar's ends, where zones cannot be applied.
    """
    match = _STAMP.fullmatch(text)
    if match is None:
        msg = "not a date and time with at most 7 fraction digits"
        raise ValueError(msg)
    *calendar, fraction, utc, sign, hours, minutes = match.groups()
    moment = datetime(*(int(part) for part in calendar))  # type: ignore[arg-type]  # noqa: DTZ001
    digits = _ticks_of(moment) + int((fraction or "").ljust(7, "0"))
    if not _FIRST <= digits < _LAST:
        msg = "too close to the end of the calendar"
        raise ValueError(msg)
    offset = timedelta(0) if utc else None
    if sign is not None:
        offset = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == "-" else 1)
        if abs(offset) >= timedelta(hours=24) or int(minutes) > 59:
            msg = "no such offset from UTC"
            raise ValueError(msg)
    return Stamp(digits, offset)


def format_ticks(wall: int) -> str:
    """Write a wall clock as in the example of section 4: `2019-11-12 11:01:26.8912252`, in 24 hours."""
    seconds, fraction = divmod(wall, TICKS_PER_SECOND)
    return f"{_naive(seconds * TICKS_PER_SECOND):%Y-%m-%d %H:%M:%S}.{fraction:07}".rjust(27, "0")


def earliest_wall(moment: datetime, zone: ZoneInfo | None) -> int:
    """The earliest that the server's wall clock shows at or after a moment, in ticks.

    A naive moment is the server's wall clock already. An aware one in the first pass of the repeated autumn
    hour gives the same time an hour earlier: its second pass, which comes later, has smaller digits.
    """
    if moment.tzinfo is None:
        return _ticks_of(moment)
    if zone is None:
        msg = "an aware datetime needs the server's zone"
        raise ValueError(msg)
    local = moment.astimezone(UTC).astimezone(zone)
    repeated = (local.utcoffset() or timedelta(0)) - (local.replace(fold=1).utcoffset() or timedelta(0))
    first_pass = repeated if not local.fold and repeated > timedelta(0) else timedelta(0)
    return _ticks_of(local.replace(tzinfo=None) - first_pass)


def wall_of_date(moment: datetime, zone: ZoneInfo | None) -> int:
    """The server's wall clock at a `Date` header, in ticks; without a zone, the digits of UTC."""
    return _wall_clock(moment, zone) if zone is not None else _ticks_of(moment.astimezone(UTC))


def parse_http_date(value: str | None) -> datetime | None:
    """Read a `Date` header (RFC 9110, 5.6.7), whole seconds, as an aware datetime in UTC; None if unreadable."""
    try:
        moment = parsedate_to_datetime(value or "")
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _wall_clock(moment: datetime, zone: ZoneInfo) -> int:
    return _ticks_of(moment.astimezone(zone))


def _ticks_of(moment: datetime) -> int:
    """The digits of a datetime in ticks; its tzinfo plays no part."""
    seconds = (moment.hour * 60 + moment.minute) * 60 + moment.second
    return (
        (moment.toordinal() - 1) * _TICKS_PER_DAY
        + seconds * TICKS_PER_SECOND
        + moment.microsecond * _TICKS_PER_MICROSECOND
    )


def _naive(wall: int) -> datetime:
    """The digits as a naive datetime, cut to microseconds."""
    return datetime(1, 1, 1) + timedelta(microseconds=wall // _TICKS_PER_MICROSECOND)  # noqa: DTZ001
