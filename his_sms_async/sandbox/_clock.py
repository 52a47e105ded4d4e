"""The clock of the stand-in: UTC in the ticks of .NET, 100 ns each, counted from 0001-01-01.

Ticks are integers, so the seven digits that the SMS server writes are exact; a `datetime` has six.
"""

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Final

import attrs

TICKS_PER_SECOND = 10_000_000
_LONGEST_STEP: Final = 10**12  # seconds, more than the calendar has
_YEAR_ONE = datetime(1, 1, 1, tzinfo=UTC)
_EARLIEST, _LATEST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)  # in any zone a date
_UNIX_EPOCH = 621_355_968_000_000_000  # the ticks from year 1 to 1970


def real_ticks() -> int:
    """Return this computer's time; two calls may return the same tick."""
    return _UNIX_EPOCH + time.time_ns() // 100


def ticks_of(instant: datetime) -> int:
    """Return the ticks of an aware datetime.

    Raises:
        ValueError: `instant` is naive.
    """
    if instant.tzinfo is None:
        raise ValueError("the instant must have a time zone")
    return (instant - _YEAR_ONE) // timedelta(microseconds=1) * 10


def is_a_time(ticks: int) -> bool:
    """Return whether the calendar has these ticks, in any zone."""
    return ticks_of(_EARLIEST) <= ticks <= ticks_of(_LATEST)


def nearest_time(ticks: int) -> int:
    """Return the ticks that the calendar has, in any zone, nearest to these."""
    return min(max(ticks, ticks_of(_EARLIEST)), ticks_of(_LATEST))


def utc_datetime(ticks: int) -> datetime:
    """Return the aware UTC datetime of `ticks`, rounded down to the microsecond."""
    return _YEAR_ONE + timedelta(microseconds=ticks // 10)


@attrs.define(eq=False)
class SandboxClock:
    """A clock that a test can set, move and stop; untouched, it tells the real time.

    Calling it returns UTC ticks. While it runs, no two calls return the same tick, so every stamp is
    distinct; while it is frozen, all of them do, so every stamp is a tie. Safe to use from any thread.
    """

    _ahead: int = attrs.field(init=False, default=0)  # ticks before real time
    _frozen_at: int | None = attrs.field(init=False, default=None)
    _last: int = attrs.field(init=False, default=0, repr=False)
    _lock: threading.RLock = attrs.field(init=False, factory=threading.RLock, repr=False)

    def __call__(self) -> int:
        with self._lock:
            if self._frozen_at is not None:
                return self._frozen_at
            # The real time may stand still between two calls, or be set back by NTP.
            self._last = max(real_ticks() + self._ahead, self._last + 1)
            return self._last

    def set(self, instant: datetime) -> None:
        """Go to `instant` (aware), forwards or backwards, and run on, or stand, as before.

        Raises:
            ValueError: `instant` is naive, or too close to an end of the calendar.
        """
        self._go_to(ticks_of(instant))

    def advance(self, seconds: float) -> None:
        """Jump `seconds` ahead; a negative number steps back.

        Raises:
            ValueError: That is beyond the calendar, or no number.
        """
        if not abs(seconds) <= _LONGEST_STEP:
            raise ValueError("the clock must stay in the years from 1 to 9999")
        with self._lock:
            self._go_to(self() + round(seconds * TICKS_PER_SECOND))

    def freeze(self) -> None:
        """Stand still until `unfreeze`."""
        with self._lock:
            self._frozen_at = self()

    def unfreeze(self) -> None:
        """Run on from where the clock stands."""
        with self._lock:
            now, self._frozen_at = self(), None
            self._go_to(now)

    @property
    def is_frozen(self) -> bool:
        """Whether it stands still."""
        return self._frozen_at is not None

    def reset(self) -> None:
        """Tell the real time again, running."""
        with self._lock:
            self._ahead, self._frozen_at, self._last = 0, None, 0

    def _go_to(self, ticks: int) -> None:
        if not is_a_time(ticks):
            raise ValueError("the clock must stay in the years from 1 to 9999")
        with self._lock:
            self._ahead = ticks - real_ticks()
            self._last = ticks
            if self._frozen_at is not None:
                self._frozen_at = ticks
