"""How the stand-in writes and reads time: as the wall clock of one zone, to seven digits.

The SMS server compares and sorts these digits as they stand. So in the repeated autumn hour a later change
can have the smaller stamp, here as there.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from ._clock import TICKS_PER_SECOND, ticks_of, utc_datetime

_DATE_FROM: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{0,7}))?")


def wall_ticks(ticks: int, zone: ZoneInfo) -> int:
    """Return what the wall clock in `zone` shows at the UTC `ticks`, again as ticks."""
    return ticks + _offset(ticks, zone) // timedelta(microseconds=1) * 10


def format_stamp(ticks: int, zone: ZoneInfo, *, offset: bool) -> str:
    """Write the UTC `ticks` like ``2019-11-12T11:01:51.2143795``, with `offset` also ``+02:00``."""
    wall = wall_ticks(ticks, zone)
    seconds = utc_datetime(wall).replace(tzinfo=None).isoformat(timespec="seconds")
    stamp = f"{seconds}.{wall % TICKS_PER_SECOND:07}"
    return stamp + _format_offset(_offset(ticks, zone)) if offset else stamp


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


def _offset(ticks: int, zone: ZoneInfo) -> timedelta:
    offset = utc_datetime(ticks).astimezone(zone).utcoffset()
    return offset or timedelta()


def _format_offset(offset: timedelta) -> str:
    minutes = abs(offset) // timedelta(minutes=1)
    return f"{'-' if offset < timedelta() else '+'}{minutes // 60:02}:{minutes % 60:02}"
