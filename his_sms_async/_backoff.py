"""How long to wait before trying again."""

from collections.abc import Callable


def backoff(failures: int, *, base: float, maximum: float, random: Callable[[], float]) -> float:
    """Seconds to wait after so many failures in succession: full jitter below `base` × 2^(failures − 1).

    The exponent has a cap of its own, for a poller runs for years and its 1,025th failure will come.
    """
    return random() * min(maximum, base * 2.0 ** min(failures - 1, 60))
