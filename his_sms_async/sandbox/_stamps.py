"""How the stand-in writes and reads time: as the wall clock of one zone, to seven digits.

The SMS server compares and sorts these digits as they stand. So in the repeated autumn hour a later change
can have the smaller stamp, here as there.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from ._clock import TICKS_PER_SECOND, ticks_of, utc_datetime

_DATE_FROM: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{0,7}))?")


_QUARTER: Final = 15 * 60 * TICKS_PER_SECOND


def wall_ticks(ticks: int, zone: ZoneInfo) -> int:
    """Return what the wall clock in `zone` shows at the UTC `ticks`, again as ticks."""
    return ticks + _offset(ticks, zone)


def format_stamp(ticks: int, zone: ZoneInfo, *, offset: bool) -> str:
    """Write the UTC `ticks` like ``2019-11-12T11:01:51.2143795``, with `offset` also ``+02:00``."""
    ahead = _offset(ticks, zone)
    second, fraction = divmod(ticks + ahead, TICKS_PER_SECOND)
    stamp = f"{_whole_second(second)}.{fraction:07}"
    return stamp + _format_offset(ahead) if offset else stamp


def parse_date_from(text: str) -> int | None:
    """Read ``yyyy-MM-dd HH:mm:ss.fffffff`` as wall clock ticks, or return None.

    The fraction has 0 to 7 digits or is absent; the separator is a space or a T; there is no offset.
    """
    match = _DATE_FROM.fullmatch(text)
    if match is None:
        return None
    date, time, fraction = match.groups(default="")
    try:
        whole = datetime.fromisoformat(f"{date}T{time}")
    except ValueError:
        return None
    return ticks_of(whole.replace(tzinfo=UTC)) + int(fraction.ljust(7, "0"))


# A list may have a million rows, whose stamps are of few quarters of an hour, and often of one second.


def _offset(ticks: int, zone: ZoneInfo) -> int:
    """Return by how many ticks the wall clock in `zone` is before UTC."""
    offset = _offset_in_quarter(ticks // _QUARTER, zone)
    return _exact_offset(ticks, zone) if offset is None else offset


@lru_cache(maxsize=4096)
def _offset_in_quarter(quarter: int, zone: ZoneInfo) -> int | None:
    """Return the offset in a quarter of an hour of UTC, None if it changes there; none changes twice in one."""
    first, last = _exact_offset(quarter * _QUARTER, zone), _exact_offset((quarter + 1) * _QUARTER - 1, zone)
    return first if first == last else None


def _exact_offset(ticks: int, zone: ZoneInfo) -> int:
    offset = utc_datetime(ticks).astimezone(zone).utcoffset()
    return (offset or timedelta()) // timedelta(microseconds=1) * 10


@lru_cache(maxsize=4096)
def _whole_second(second: int) -> str:
    return utc_datetime(second * TICKS_PER_SECOND).replace(tzinfo=None).isoformat(timespec="seconds")


def _format_offset(ticks: int) -> str:
    minutes = abs(ticks) // (60 * TICKS_PER_SECOND)
    return f"{'-' if ticks < 0 else '+'}{minutes // 60:02}:{minutes % 60:02}"
