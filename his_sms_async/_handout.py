"""Who is next: in the order (UpdatedAt, Id), never two messages of one sender at the same time."""

import heapq

import attrs

from ._known import Entry, Place


@attrs.define(eq=False)
class _Queue:
    """The waiting messages of one sender."""

    waiting: list[tuple[Place, Entry]] = attrs.field(factory=list, repr=False)
    in_hand: Entry | None = None

    def head(self) -> tuple[Place, Entry] | None:
        """The next message, after those that moved or were dropped are cleared away."""
        while self.waiting and self.waiting[0][1].place != self.waiting[0][0]:
            heapq.heappop(self.waiting)
        return self.waiting[0] if self.waiting else None


@attrs.define(eq=False)
class Handout:
    """The messages that wait to be handed out, and those in hand."""

    _queues: dict[str, _Queue] = attrs.field(init=False, factory=dict, repr=False)
    _ready: list[tuple[Place, str]] = attrs.field(init=False, factory=list, repr=False)
    _delayed: list[tuple[float, Place, str]] = attrs.field(init=False, factory=list, repr=False)
    _count: int = attrs.field(init=False, default=0)
    buffered: int = attrs.field(init=False, default=0)
    """Messages that wait."""
    in_hand: int = attrs.field(init=False, default=0)
    """Messages that were taken and are not done."""

    def add(self, entry: Entry, *, first: bool = False) -> None:
        """Let a message wait, until its `not_before`; `first` puts it in front of all others."""
        self.buffered += 1
        self._place(entry, first=first)

    def move(self, entry: Entry) -> None:
        """A waiting message got a later revision, and so another place."""
        self._place(entry, first=False)

    def drop(self, entry: Entry) -> None:
        """A waiting message is not needed any more."""
        self.buffered -= 1
        entry.place = None
        self._offer(entry.line)

    def take(self, now: float) -> Entry | None:
        """The next message that may be handed out, or None."""
        while self._delayed and self._delayed[0][0] <= now:
            _, key, sender = heapq.heappop(self._delayed)
            heapq.heappush(self._ready, (key, sender))
        while self._ready:
            key, sender = heapq.heappop(self._ready)
            queue = self._queues.get(sender)
            head = queue.head() if queue and queue.in_hand is None else None
            if queue is None or head is None or head[0] != key:
                continue
            entry = heapq.heappop(queue.waiting)[1]
            if entry.not_before > now:
                heapq.heappush(queue.waiting, head)
                heapq.heappush(self._delayed, (entry.not_before, key, sender))
                continue
            entry.place = None
            queue.in_hand = entry
            self.buffered -= 1
            self.in_hand += 1
            return entry
        return None

    def done(self, entry: Entry) -> None:
        """A message that was taken is settled, or is put back by `add`: its sender's next one may go."""
        self._queues[entry.line].in_hand = None
        self.in_hand -= 1
        self._offer(entry.line)

    def next_at(self) -> float | None:
        """When a released message may be taken again, at the earliest."""
        return self._delayed[0][0] if self._delayed else None

    def _place(self, entry: Entry, *, first: bool) -> None:
        self._count += 1
        entry.place = (not first, *entry.order, self._count)
        queue = self._queues.setdefault(entry.line, _Queue())
        heapq.heappush(queue.waiting, (entry.place, entry))
        self._offer(entry.line)

    def _offer(self, sender: str) -> None:
        queue = self._queues[sender]
        head = queue.head()
        if head is not None and queue.in_hand is None:
            heapq.heappush(self._ready, (head[0], sender))
        elif head is None and queue.in_hand is None:
            del self._queues[sender]
