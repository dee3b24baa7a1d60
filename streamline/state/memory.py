"""MemoryStore: a KeyValueStore in a dict, for tests, the simulator and small inline jobs.

It keeps the promises of the seam, with checkpoints in one file. It is not for state larger than
memory, and nothing in it is incremental.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgpack

from streamline.state.kv import KeyValueStore

_FILE = "entries"


class MemoryStore(KeyValueStore):
    """Keeps everything in memory; a checkpoint is one file of sorted entries."""

    def __init__(self, entries: dict[bytes, bytes] | None = None) -> None:
        self._entries = dict(entries or {})
        self._sorted: list[bytes] | None = None

    @classmethod
    def open(cls, directory: Path) -> MemoryStore:
        """Open what a checkpoint left in a folder, or an empty one."""
        file = directory / _FILE
        if not file.exists():
            return cls()
        return cls(dict(msgpack.unpackb(file.read_bytes(), use_list=False)))

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._entries.get(key) for key in keys]

    def write(
        self,
        puts: Iterable[tuple[bytes, bytes]],
        deletes: Iterable[bytes] = (),
    ) -> None:
        for key in deletes:
            self._entries.pop(key, None)
        self._entries.update(puts)
        self._sorted = None

    def delete_range(self, start: bytes, stop: bytes) -> None:
        self._entries = {k: v for k, v in self._entries.items() if not start <= k < stop}
        self._sorted = None

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        if self._sorted is None:
            self._sorted = sorted(self._entries)
        keys = self._sorted
        for place in range(bisect_left(keys, start), bisect_left(keys, stop)):
            yield keys[place], self._entries[keys[place]]

    def checkpoint(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        (directory / _FILE).write_bytes(msgpack.packb(sorted(self._entries.items())))

    def close(self) -> None:
        pass
