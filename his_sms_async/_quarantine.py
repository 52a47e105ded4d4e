"""Malformed rows: kept apart without their content, and no obstacle to the good ones."""

from collections.abc import Iterable, Sequence

import attrs

from ._store import Quarantined
from ._wire import MalformedRow, Row

_MAX_ROWS = 10_000


@attrs.define(eq=False)
class Quarantine:
    """The malformed rows that the server lists.

    They count as not seen: once the server or this library is mended, they are delivered like new ones.
    """

    rows: dict[int | str, Quarantined] = attrs.field(init=False, factory=dict)
    is_full: bool = attrs.field(init=False, default=False)
    added: list[Quarantined] = attrs.field(init=False, factory=list)
    """Since the store was told."""
    cured: list[int | str] = attrs.field(init=False, factory=list)
    """Likewise."""

    def add(self, malformed: Iterable[MalformedRow], asked_from: int, *, new_since: int) -> list[MalformedRow]:
        """Keep the rows that are not known, and return them; new is what was created at or after `new_since`.

        What is above the bound is neither kept nor returned: it would be reported at every poll.
        """
        found: list[MalformedRow] = []
        for row in malformed:
            if row.key in self.rows:
                continue
            if len(self.rows) >= _MAX_ROWS:
                self.is_full = True
                break
            found.append(row)
            self.rows[row.key] = Quarantined(
                key=row.key,
                created=row.created,
                updated=row.updated,
                reason=str(row.error),
                asked_from=asked_from,
                is_new=row.created is None or row.created >= new_since,
            )
            self.added.append(self.rows[row.key])
        return found

    def release(self, rows: Sequence[Row], malformed: Sequence[MalformedRow], asked_from: int) -> set[int | None]:
        """Let go what came well-formed, and what an answer that covers it lacks.

        Return what tells the new ones among them: their Ids, or CreatedAt of those whose Id could not be read.
        """
        if not self.rows:
            return set()
        well_formed: set[int | str] = {row.message.id for row in rows if row.message.id in self.rows}
        listed = {row.key for row in malformed}
        well_formed -= listed
        gone = {
            row.key
            for row in self.rows.values()
            if row.key not in listed and asked_from <= (row.asked_from if row.updated is None else row.updated)
        }
        cured = [self.rows.pop(key) for key in well_formed | gone]
        self.cured += [row.key for row in cured]
        # a row without Id that is gone may have come back well-formed: its CreatedAt tells
        return {row.key if isinstance(row.key, int) else row.created for row in cured if row.is_new}
