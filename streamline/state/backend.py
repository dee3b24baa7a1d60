"""The keyed state of one task as its operators see it: StateBackend and Table.

An entry is a list whose first element is a stamp of the table's and whose others are the
operator's to change in place, but only behind ``touch``: that is how a snapshot stays
untouched by what happens after its barrier. Implementations stand in ``task_state``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, TypeAlias

Entry: TypeAlias = list[Any]
"""``[stamp, value, value, ...]``; the stamp belongs to the table."""
Space: TypeAlias = dict[Hashable, Entry]
"""The entries of one namespace that are in memory, by key."""


class Table(ABC):
    """One named state of one node in one task: entries by (namespace, key).

    The namespace is an int64: the start of a window or slice, a bucket of timers, or 0.

    Attributes:
        stamp: Stamp of the entries already touched since the last freeze. An entry found in
            ``space(namespace)`` whose first element equals it may be changed right away.
    """

    stamp: int

    @abstractmethod
    def space(self, namespace: int) -> Space:
        """The entries of a namespace in memory; it may lack some, and must not be changed.

        The dict stays the same object until ``drop`` of the namespace. In a hot loop: look the
        key up here; if it is missing or its stamp is old, call ``touch``.
        """

    @abstractmethod
    def touch(self, namespace: int, key: Hashable, new: Callable[[], Entry]) -> Entry:
        """The entry, ready to be changed in place; made by ``new`` if there is none.

        ``new`` returns an entry with anything as its stamp. It is marked as changed.
        """

    @abstractmethod
    def get(self, namespace: int, key: Hashable) -> Entry | None:
        """The entry for reading only, or None."""

    def preserve(self, namespace: int, key: Hashable) -> None:
        """What was read of the entry may be changed in place before it is touched.

        A snapshot that is being written must not see that.
        """

    @abstractmethod
    def delete(self, namespace: int, key: Hashable) -> None:
        """Remove an entry if it is there."""

    @abstractmethod
    def prefetch(self, namespace: int, keys: Iterable[Hashable]) -> None:
        """Bring entries of these keys into memory at once, if they are on disk."""

    @abstractmethod
    def namespaces(self) -> list[int]:
        """All namespaces that have or may have entries, ascending."""

    @abstractmethod
    def items(self, namespace: int) -> Iterator[tuple[Hashable, Entry]]:
        """All entries of a namespace, for reading only, in no order; also those on disk.

        The namespace must not be changed meanwhile.
        """

    @abstractmethod
    def drop(self, namespace: int) -> None:
        """Remove a namespace with all its entries."""


class StateBackend(ABC):
    """All keyed state of one task."""

    @abstractmethod
    def table(self, node: str, name: str) -> Table:
        """The table of one state; the same object for the same names."""
