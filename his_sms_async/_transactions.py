"""Settlements in transactions of the consumer's, of which it is not known yet whether they were committed."""

from collections.abc import Callable

import attrs

from ._delivery import Delivery
from ._known import Entry
from ._store import Settlement

# Seconds until an open transaction is looked at again: from the first, doubled, to the last.
_FIRST_LOOK, _LAST_LOOK = 0.002, 0.25


@attrs.define(eq=False)
class Transaction:
    """One of them."""

    delivery: Delivery
    entry: Entry
    settlement: Settlement
    has_ended: Callable[[], bool]
    comes_again_at: float | None = None
    """It was rolled back; until then the consumer can try again in another one. Elapsed seconds."""


@attrs.define(eq=False)
class Transactions:
    """All of one term; nobody tells when they end, so they are looked at now and then."""

    _pending: dict[Entry, Transaction] = attrs.field(init=False, factory=dict)
    _look_after: float = attrs.field(init=False, default=_FIRST_LOOK)

    def add(self, transaction: Transaction) -> None:
        """Look at it from now on; an earlier one of the same message does not count any more."""
        self._pending[transaction.entry] = transaction

    def remove(self, entry: Entry) -> Transaction | None:
        """Look at it no more: its message is settled or released otherwise, or about to be tried again."""
        return self._pending.pop(entry, None)

    def holds(self, transaction: Transaction) -> bool:
        """Whether it still counts."""
        return self._pending.get(transaction.entry) is transaction

    def ended(self) -> list[Transaction]:
        """Those that have ended, of which it is to be found out how."""
        return [one for one in self._pending.values() if one.comes_again_at is None and one.has_ended()]

    def given_up(self, now: float) -> list[Transaction]:
        """Those that were rolled back and not tried again in time."""
        return [
            one for one in self._pending.values() if one.comes_again_at is not None and one.comes_again_at <= now
        ]

    def look_soon(self) -> None:
        """Something has happened: one may end at any moment."""
        self._look_after = _FIRST_LOOK

    def looks(self, now: float) -> list[float]:
        """When to look again, in elapsed seconds."""
        looks = [one.comes_again_at for one in self._pending.values() if one.comes_again_at is not None]
        if len(looks) < len(self._pending):
            looks.append(now + self._look_after)
            self._look_after = min(self._look_after * 2, _LAST_LOOK)
        return looks
