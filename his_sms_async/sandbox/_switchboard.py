"""Which faults are switched on, and which of them strike a request."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import attrs

from ._answers import Call
from ._messages import MessageType
from .faults import Fault, Happening


@attrs.define(eq=False)
class Switch:
    """A fault that is switched on; `struck` counts how often it acted."""

    id: int
    fault: Fault
    struck: int = 0
    _met: int = 0

    def strikes(self, random: Random) -> bool:
        """Meet what the fault fits, and return whether it acts on it."""
        fault, place = self.fault, self._met
        self._met += 1
        if self.left == 0 or (fault.every is not None and place % fault.every >= (fault.times or 1)):
            return False
        # The dice are for what is uncertain, so that other faults do not change how they fall.
        if fault.probability < 1 and random.random() >= fault.probability:
            return False
        self.struck += 1
        return True

    @property
    def left(self) -> int | None:
        """How often it will yet strike, None if there is no bound."""
        if self.fault.times is None or self.fault.every is not None:
            return None
        return self.fault.times - self.struck


@attrs.define(eq=False, kw_only=True)
class Faults:
    """The faults of a `Sandbox`, in the order they were switched on; safe to use from any thread.

    A fault that has struck as often as it should switches itself off.
    """

    _happen: Callable[[Happening], None] = attrs.field(alias="happen", repr=False)
    _changed: Callable[[], None] = attrs.field(alias="changed", repr=False)
    _switched: Callable[[], object] = attrs.field(alias="switched", repr=False)
    _standing: tuple[Fault, ...] = attrs.field(alias="standing", repr=False)
    _random_seed: int | None = attrs.field(alias="random_seed", repr=False)
    _random: Random = attrs.field(init=False, repr=False)
    _last_id: int = attrs.field(init=False, default=0, repr=False)
    _on: dict[int, Switch] = attrs.field(init=False, factory=dict)
    _always: list[Switch] = attrs.field(init=False, factory=list, repr=False)
    _lock: threading.RLock = attrs.field(init=False, factory=threading.RLock, repr=False)

    def __attrs_post_init__(self) -> None:
        self._begin()

    def add(self, fault: Fault | Happening) -> Switch | None:
        """Switch a fault on, or let something happen at once, which returns None.

        What a fault remembers, as `RateLimit` does, begins anew with each time it is added.

        Raises:
            TypeError: It is not a fault, but perhaps its class.
            ValueError: It cannot happen here: it moves the clock, and this sandbox has one that cannot be set.
        """
        if isinstance(fault, Happening):
            self._happen(fault)
            self._changed()
            return None
        if not isinstance(fault, Fault):
            raise TypeError(f"a fault must be one like Status(503, times=3), not {fault!r}")
        with self._lock:
            self._last_id += 1
            switch = self._on[self._last_id] = Switch(self._last_id, attrs.evolve(fault))
        self._switched()
        self._changed()
        return switch

    def remove(self, switch: Switch | int) -> None:
        """Switch a fault off.

        Raises:
            LookupError: It is not switched on, because it was never, or is no more.
        """
        switch_id = switch if isinstance(switch, int) else switch.id
        with self._lock:
            if self._on.pop(switch_id, None) is None:
                raise LookupError(f"there is no fault {switch_id}")
        self._switched()
        self._changed()

    def clear(self) -> None:
        """Switch all faults off, and begin to count and to roll the dice anew."""
        with self._lock:
            self._on.clear()
            self._begin()
        self._switched()
        self._changed()

    @contextmanager
    def during(self, *faults: Fault) -> Iterator[None]:
        """Have faults switched on for as long as the block lasts."""
        switches: list[Switch | None] = []
        try:
            for fault in faults:
                switches.append(self.add(fault))  # noqa: PERF401 -- those before one that fails are removed
            yield
        finally:
            with self._lock:
                for switch in filter(None, switches):
                    self._on.pop(switch.id, None)  # or it has switched itself off
            self._switched()
            self._changed()

    def __iter__(self) -> Iterator[Switch]:
        """Iterate over what is switched on now."""
        with self._lock:
            return iter(list(self._on.values()))

    def __len__(self) -> int:
        return len(self._on)

    def strike(self, call: Call) -> tuple[Fault, ...]:
        """Return the faults that act on a request."""
        return self._struck(lambda fault: fault.fits(call))

    def strike_new(self, kind: MessageType, numbers: frozenset[str]) -> tuple[Fault, ...]:
        """Return the faults that act on a message that is being made or changed."""
        return self._struck(lambda fault: fault.fits_new(kind, numbers))

    def _struck(self, fits: Callable[[Fault], bool]) -> tuple[Fault, ...]:
        with self._lock:
            switches = [switch for switch in (*self._always, *self._on.values()) if fits(switch.fault)]
            struck = tuple(switch.fault for switch in switches if switch.strikes(self._random))
            for switch in switches:
                if switch.left == 0:
                    self._on.pop(switch.id, None)
        if switches:
            self._changed()
        return struck

    def _begin(self) -> None:
        self._random = Random(self._random_seed)
        self._always = [Switch(0, attrs.evolve(fault)) for fault in self._standing]
