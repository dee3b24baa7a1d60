"""Journal: records appended to a file, each durable when ``append`` returns.

    u32 length | 16 bytes of BLAKE2b | MessagePack

A record that was being written when the process died is cut off at the next start. One that is
damaged further up is an error: what follows it cannot be trusted to be complete.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, TypeAlias

import msgpack

from streamline.errors import StateError

Entry: TypeAlias = dict[str, Any]
_HEAD = struct.Struct("<I16s")


class Journal:
    """One file of entries.

    Args:
        path: The file; made if it is not there.

    Attributes:
        entries: What stood in it when it was opened.

    Raises:
        StateError: If it cannot be used, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._broken = False
        self.entries: list[Entry] = []
        self.size = 0
        try:
            path.with_suffix(".new").unlink(missing_ok=True)
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise StateError(f"the journal {path} cannot be used: {error}") from error
        try:
            self._read()
            _sync_folder(path.parent)
        except OSError as error:
            self._file.close()
            raise StateError(f"the journal {path} cannot be used: {error}") from error
        except StateError:
            self._file.close()
            raise

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry; it is on the disk when this returns.

        Raises:
            StateError: If it cannot be written; then it is as if it had not been tried.
        """
        if self._broken:
            raise StateError(f"the journal {self._path} takes no more; start the cluster again")
        data = _framed(entry)
        try:
            self._file.seek(self.size)
            _write(self._file, data)
            os.fsync(self._file.fileno())
        except OSError as error:
            try:
                self._cut(self.size)
            except OSError:
                self._broken = True  # nobody knows what stands in it now
            raise StateError(f"the journal {self._path} cannot be written: {error}") from error
        self.size += len(data)

    def replace(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Replace all entries by fewer that say the same, at once or not at all.

        Raises:
            StateError: If they cannot be written; the old ones stay.
        """
        new = self._path.with_suffix(".new")
        file: FileIO | None = None
        try:
            file = new.open("w+b", buffering=0)
            for entry in entries:
                _write(file, _framed(entry))
            size = file.tell()
            os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            if file is not None:
                file.close()
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise StateError(f"the journal {self._path} cannot be written: {error}") from error
        self._file.close()
        self._file, self.size, self._broken = file, size, False
        try:
            _sync_folder(self._path.parent)
        except OSError as error:
            self._broken = True  # after a loss of power it could be the old one again
            raise StateError(f"the journal {self._path} cannot be written: {error}") from error

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _read(self) -> None:
        self._file.seek(0)
        data = self._file.readall()
        while self.size < len(data):
            entry, end = _unframed(data, self.size)
            if entry is None:
                if _begins_further_on(data, self.size + 1):
                    raise StateError(
                        f"the journal {self._path} is damaged at byte {self.size}; bring back a "
                        "copy of it, or begin with another --data-dir"
                    )
                self._cut(self.size)
                return
            self.entries.append(entry)
            self.size = end

    def _cut(self, size: int) -> None:
        self._file.truncate(size)
        os.fsync(self._file.fileno())


def _write(file: FileIO, data: bytes) -> None:
    """Write all of it: the system may take a part, and say no to the rest."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _framed(entry: Mapping[str, Any]) -> bytes:
    data: bytes = msgpack.packb(dict(entry), use_bin_type=True)
    return _HEAD.pack(len(data), hashlib.blake2b(data, digest_size=16).digest()) + data


def _unframed(data: bytes, start: int) -> tuple[Entry | None, int]:
    if len(data) - start < _HEAD.size:
        return None, start
    length, digest = _HEAD.unpack_from(data, start)
    begin, end = start + _HEAD.size, start + _HEAD.size + length
    body = data[begin:end]
    if len(body) < length or hashlib.blake2b(body, digest_size=16).digest() != digest:
        return None, start
    return msgpack.unpackb(body, raw=False), end


def _begins_further_on(data: bytes, start: int) -> bool:
    """Whether a whole entry stands behind a damaged place."""
    return any(_unframed(data, place)[0] is not None for place in range(start, len(data)))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
