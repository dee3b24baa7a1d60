"""Timers: moments at which a key wants to be called, kept in a table with the rest of its state.

Namespace = a bucket of about a second; one entry for each key that has timers in it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heappop, heappush
from itertools import count

from streamline.errors import UsageError
from streamline.messages import MAX_TIMESTAMP
from streamline.state.backend import Entry, Table
from streamline.state.schema import Layout

_BUCKET_BITS = 10
_MOST_FOLLOWERS = 1_000_000  # a timer each second for eleven days, or one without end
TIMERS: Layout = {"kind": "timers"}
"""How their table is laid out."""


def _no_timers() -> Entry:
    return [0, []]


class Timers:
    """The timers of one kind of one node, for the keys of one task."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._next: int | None = None
        self._upto_ms: int | None = None
        self._ringing: dict[tuple[int, Hashable], bool] = {}
        self._order: list[tuple[int, int, Hashable]] = []
        self._numbers = count()
        self._learn()

    @property
    def next_ms(self) -> int | None:
        """The earliest timer, or a moment shortly before it."""
        return self._next

    def set(self, at_ms: int, key: Hashable) -> None:
        """Set a timer; setting it again changes nothing."""
        if self._upto_ms is not None and at_ms <= self._upto_ms:
            self._add_ringing(at_ms, key)
            return
        entry = self._table.touch(at_ms >> _BUCKET_BITS, key, _no_timers)
        if at_ms not in entry[1]:
            entry[1].append(at_ms)
        if self._next is None or at_ms < self._next:
            self._next = at_ms

    def delete(self, at_ms: int, key: Hashable) -> None:
        """Delete a timer if it is set."""
        if self._ringing.pop((at_ms, key), False):
            return
        bucket = at_ms >> _BUCKET_BITS
        found = self._table.get(bucket, key)
        if found is None or at_ms not in found[1]:
            return
        entry = self._table.touch(bucket, key, _no_timers)
        entry[1].remove(at_ms)
        if not entry[1]:
            self._table.delete(bucket, key)
            if next(self._table.items(bucket), None) is None:
                self._table.drop(bucket)

    def ring(self, upto_ms: int) -> Iterator[tuple[int, Hashable]]:
        """Remove the timers up to a moment (included), one at a time, in order of time.

        Those that are set or deleted meanwhile have their turn, or no longer have it.

        Raises:
            UsageError: If they are set without end; at the end of time all are due.
        """
        for at, key in self.due(upto_ms):
            self._add_ringing(at, key)
        self._upto_ms = upto_ms
        most = len(self._order) + _MOST_FOLLOWERS
        try:
            while self._order:
                at, _, key = heappop(self._order)
                if not self._ringing.pop((at, key), False):
                    continue
                most -= 1
                if most < 0:
                    raise UsageError(
                        f"on_timer for key {key!r:.80} sets another timer each time it is called, "
                        "without end; set none once ctx.input_ended is true"
                    )
                yield at, key
        finally:
            self._upto_ms = None

    def _add_ringing(self, at_ms: int, key: Hashable) -> None:
        if (at_ms, key) not in self._ringing:
            self._ringing[at_ms, key] = True
            heappush(self._order, (at_ms, next(self._numbers), key))

    def due(self, upto_ms: int) -> list[tuple[int, Hashable]]:
        """Remove the timers up to a moment (included) and return them, in order of time."""
        if self._next is None or self._next > upto_ms:
            return []
        due: list[tuple[int, Hashable]] = []
        for bucket in self._table.namespaces():
            if bucket << _BUCKET_BITS > upto_ms:
                break
            due += self._due_of(bucket, upto_ms)
        self._learn()
        due.sort(key=lambda timer: timer[0])
        return due

    def _due_of(self, bucket: int, upto_ms: int) -> list[tuple[int, Hashable]]:
        entries = [(key, list(entry[1])) for key, entry in self._table.items(bucket)]
        if (bucket + 1) << _BUCKET_BITS <= min(upto_ms, MAX_TIMESTAMP - 1) + 1:
            self._table.drop(bucket)
            return [(at, key) for key, times in entries for at in times]
        due: list[tuple[int, Hashable]] = []
        for key, times in entries:
            now = [at for at in times if at <= upto_ms]
            due += [(at, key) for at in now]
            later = [at for at in times if at > upto_ms]
            if not later:
                self._table.delete(bucket, key)
            elif now:
                self._table.touch(bucket, key, _no_timers)[1] = later
        return due

    def _learn(self) -> None:
        """The earliest timer of the first bucket that has any."""
        self._next = None
        for bucket in self._table.namespaces():
            times = [at for _, entry in self._table.items(bucket) for at in entry[1]]
            if times:
                self._next = min(times)
                return
