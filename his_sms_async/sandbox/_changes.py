"""How the open pages hear that something has changed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs


@attrs.define(eq=False)
class Changes:
    """Counts changes, and tells of them; safe to use from any thread."""

    count: int = attrs.field(init=False, default=0)
    _listeners: list[Callable[[], None]] = attrs.field(init=False, factory=list, repr=False)
    _lock: threading.RLock = attrs.field(init=False, factory=threading.RLock, repr=False)

    def tell(self) -> None:
        """Tell everybody that something has changed."""
        with self._lock:
            self.count += 1
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    @contextmanager
    def listen(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call `listener` after each change, as long as the block lasts.

        It is called in whatever thread made the change, which may hold the sandbox's lock: it must not wait.
        """
        with self._lock:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)
