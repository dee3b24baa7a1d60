"""KeyValueStore: what lies behind the tables. An ordered map of bytes that can be snapshotted.

The seam that RocksDB (``rocksdb``) and a dict (``memory``) stand behind. Keys and values are bytes:
what they mean, and when a snapshot is due, it does not know.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path


class KeyValueStore(ABC):
    """An ordered map from bytes to bytes in a folder of its own; used by one thread at a time, but
    for :meth:`checkpoint`."""

    @abstractmethod
    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of some keys, None where there is none."""

    @abstractmethod
    def write(
        self,
        puts: Iterable[tuple[bytes, bytes]],
        deletes: Iterable[bytes] = (),
    ) -> None:
        """Write at once: first the deletes, then the puts.

        It is durable only with the next ``checkpoint``.

        Raises:
            StateError: If it cannot be written, such as on a full disk.
        """

    @abstractmethod
    def delete_range(self, start: bytes, stop: bytes) -> None:
        """Delete all keys from ``start`` to ``stop`` (excluded), however many there are.

        It is durable as what is written.

        Raises:
            StateError: If it cannot be written.
        """

    @abstractmethod
    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values from ``start`` to ``stop`` (excluded), ascending."""

    @abstractmethod
    def checkpoint(self, directory: Path) -> None:
        """Put a consistent copy into a new folder, from which it can be opened.

        May be called in another thread: reading goes on meanwhile, writing does not.

        Raises:
            StateError: If it cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the folder; also twice."""
