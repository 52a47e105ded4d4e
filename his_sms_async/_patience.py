"""Trying again until it works: what to count, how long to pause, and what to tell the log."""

import logging
import math
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import attrs

from ._backoff import backoff
from ._clock import Clock
from ._errors import RateLimited, ServerFailure, SmsError, StoreError
from ._models import ErrorCode

logger = logging.getLogger(__name__)

T = TypeVar("T")

LIMIT = 30.0
"""Seconds after which a call of the store that does not answer has failed."""
# A server's Retry-After is honoured up to so many seconds.
_MAX_RETRY_AFTER = 300.0


@attrs.define(eq=False)
class Patience:
    """The failures of one poller: of its polls, and of its store, which may work while the other does not."""

    _clock: Clock
    _base: float
    _maximum: float
    _on_recovery: Callable[[], None]
    """The store works again, for which others may wait."""
    last_error: str | None = attrs.field(init=False, default=None)
    """Class and code of the last failure."""
    failed_polls: int = attrs.field(init=False, default=0)
    """In succession."""
    store_failures: int = attrs.field(init=False, default=0)
    """How often the store's calls under way have failed: a store may answer reads while it refuses writes."""
    _never: anyio.Event = attrs.field(init=False, factory=anyio.Event)

    @property
    def failures(self) -> int:
        """Of both."""
        return self.failed_polls + self.store_failures

    def poll_failed(self, error: SmsError) -> float:
        """Count it; return the seconds to pause."""
        self.failed_polls += 1
        return self._pause("the poll failed", error, self.failed_polls)

    def poll_succeeded(self) -> None:
        """Forget what failed before."""
        if self.failed_polls:
            logger.warning("the poll succeeded again after %d failures", self.failed_polls)
        self.failed_polls = 0

    async def with_store(
        self, call: Callable[[], Awaitable[T]], *, limit: float = LIMIT, longest: float = math.inf
    ) -> T:
        """Call the store until it answers: nothing goes on in memory only.

        Args:
            call: What to do; a `StoreError` that is not retryable ends it.
            limit: Seconds after which a call has failed.
            longest: Seconds to pause at most.
        """
        failures = 0
        try:
            while True:
                try:
                    result = await _within(limit, call)
                except StoreError as error:
                    if not error.retryable:
                        raise
                    failures += 1
                    self.store_failures += 1
                    pause = min(longest, self._pause("the store failed", error, failures))
                else:
                    break
                await self._clock.wait(self._never, self._clock.monotonic() + pause)
        finally:
            self.store_failures -= failures
            if failures:
                self._on_recovery()
        if failures:
            logger.warning("the store works again after %d failures", failures)
        return result

    def _pause(self, what: str, error: SmsError, failures: int) -> float:
        """Tell of a failure, the first in succession as a warning; return the seconds to pause."""
        self.last_error = label(error)
        logger.log(
            logging.WARNING if failures == 1 else logging.DEBUG,
            "%s (%s%s); trying again until it works",
            what,
            self.last_error,
            f": {error}" if isinstance(error, StoreError) else "",  # which tells what to do
        )
        asked = error.retry_after if isinstance(error, RateLimited | ServerFailure) else None
        pause = backoff(failures, base=self._base, maximum=self._maximum, random=random.random)
        return max(pause, min(asked or 0.0, _MAX_RETRY_AFTER))


async def _within(limit: float, call: Callable[[], Awaitable[T]]) -> T:
    with anyio.move_on_after(limit):
        return await call()
    msg = f"the store did not answer within {limit:g} s"
    raise StoreError(msg, retryable=True)


def label(error: Exception) -> str:
    """An error's class and code; an error code that the specification does not know is the server's own text."""
    code = getattr(error, "error_code", None)
    code = int(code) if isinstance(code, ErrorCode) else getattr(error, "http_status", None)
    return type(error).__name__ if code is None else f"{type(error).__name__} {code}"
