"""How far back each poll asks: one ladder of look-backs.

Elapsed time, not stamps, decides how far: then a bulk update of 200,000 rows on one stamp is downloaded
again for two minutes, and not all night.
"""

import math
from collections import deque

import attrs

from ._time import ticks

# Rung 0, every poll: from what `high` was two minutes ago. Commits that finish late, nodes with skewed clocks.
_NEAR_SECONDS = 120.0
# Rung 1, every five minutes, and after a failure: from what it was 75 minutes ago. The autumn hour: stamps
# without offset repeat 60 minutes, so a reply may then take five minutes, one hour a year.
_FAR_SECONDS = 75 * 60.0
_FAR_EVERY = 300.0
# Rung 2, every hour, and when a clock runs backwards: everything else.
_DEEP_EVERY = 3600.0

FAR = ticks(minutes=75)
DEEP = ticks(hours=48)


@attrs.frozen
class Ask:
    """What to ask the server next."""

    date_from: int
    """In ticks of the server's wall clock."""
    rung: int
    """0, 1 or 2: which look-back it is."""
    shorter: int | None = None
    """Where the next shorter look-back would have begun; a new row below it was nearly missed."""


@attrs.define(eq=False)
class Ladder:
    """Decides which look-back is due; `now` is elapsed seconds of any monotonic clock."""

    _deep_at: float
    """When the last deep sweep was, on the same clock; minus infinity if it is due."""
    _far_at: float = attrs.field(init=False, default=0.0)
    _after_failure: bool = attrs.field(init=False, default=False)
    _first: int = attrs.field(init=False, default=0)
    """What `high` was after the first answer with rows."""
    _history: deque[tuple[float, int]] = attrs.field(init=False, factory=deque)
    """When `high` became what, oldest first, back to 75 minutes ago."""

    def deep_is_due(self, now: float) -> bool:
        """Whether the hourly sweep, or one that a clock's step called for, is due."""
        return now - self._deep_at >= _DEEP_EVERY

    def ask(self, now: float, high: int) -> Ask:
        """What to ask when there was a good answer before."""
        near = self._high_ago(now, _NEAR_SECONDS) + 1
        far = min(near, self._high_ago(now, _FAR_SECONDS) + 1)
        bounds = (near, far, min(far, high - DEEP))
        rung = 0
        if self._after_failure or now - self._far_at >= _FAR_EVERY:
            rung = 1
        if self.deep_is_due(now):
            rung = 2
        return Ask(bounds[rung], rung, bounds[rung - 1] if rung else None)

    def answered(self, ask: Ask, now: float, high: int | None) -> None:
        """A complete, OK answer came, after which the read mark is `high`."""
        self._after_failure = False
        if ask.rung >= 1:
            self._far_at = now
        if ask.rung == 2:
            self._deep_at = now
        if high is None:
            return
        self._first = self._first or high
        if not self._history or self._history[-1][1] != high:
            self._history.append((now, high))
        while len(self._history) > 1 and self._history[1][0] <= now - _FAR_SECONDS:
            self._history.popleft()

    def failed(self) -> None:
        """A poll failed: the next good one looks back further."""
        self._after_failure = True

    def sweep(self) -> None:
        """A clock runs backwards: look back as far as possible, at once."""
        self._deep_at = -math.inf

    def _high_ago(self, now: float, seconds: float) -> int:
        """What `high` was so long ago; before the first answer with rows, 75 minutes behind that one's."""
        ago = (high for at, high in reversed(self._history) if at <= now - seconds)
        return next(ago, self._first - FAR)
