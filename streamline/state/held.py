"""HeldStore: checkpoints that one run holds at a time, where no lock reaches.

The run that began last holds them: it has left its name in the note beside them. One that began
before, on another machine it may be, completes no checkpoint any more and removes nothing. Between
looking and writing another may begin, so this keeps zombies off; it is no lock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from streamline.state.store import CheckpointStore


class HeldStore(CheckpointStore):
    """A store that looks whether it is still held before it completes or removes anything.

    Args:
        store: The store.
        url: What to call it in a message.
        holder: The name of this run in the note.
    """

    def __init__(self, store: CheckpointStore, url: str, holder: str) -> None:
        self._store = store
        self._url = url
        self._holder = holder

    def put_manifest(self, epoch: int, data: bytes) -> None:
        self._held(lambda: self._store.put_manifest(epoch, data))

    def remove(self, epoch: int, digests: set[str]) -> None:
        self._held(lambda: self._store.remove(epoch, digests))

    def put_note(self, data: bytes) -> None:
        self._store.put_note(data)

    def get_note(self) -> bytes | None:
        return self._store.get_note()

    def put_file(self, source: Path, digest: str) -> None:
        self._store.put_file(source, digest)

    def get_file(self, digest: str, target: Path) -> None:
        self._store.get_file(digest, target)

    def chunks(self, digest: str) -> Iterator[bytes]:
        return self._store.chunks(digest)

    def get_manifest(self, epoch: int) -> bytes:
        return self._store.get_manifest(epoch)

    def epochs(self) -> list[int]:
        return self._store.epochs()

    def digests(self) -> set[str]:
        return self._store.digests()

    def where(self, epoch: int) -> str:
        return self._store.where(epoch)

    def _held(self, work: Callable[[], None]) -> None:
        data = self._store.get_note()
        try:
            note: Any = json.loads(data or b"")
        except ValueError:  # somebody else's
            note = None
        if not isinstance(note, dict) or note.get("holder") != self._holder:
            raise PermissionError(f"another run has taken over the checkpoints at {self._url}")
        work()
