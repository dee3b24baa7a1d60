"""ZstdFile: a zstd file that can be read from any place, and whose end is checked.

Bytes alone: it knows no lines and no records. Where reading goes on is said by who reads.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import zstandard

_PACKED_BYTES = 1 << 15


class ZstdFile(io.RawIOBase):
    """Unpacks one frame after the other; going back unpacks again from the start.

    A stream reader of zstandard takes a file that was cut off inside a frame for a whole one,
    and would lose its last records in silence: frames are therefore unpacked one by one.

    Raises:
        EOFError: When reading, if the file ends inside a frame.
        zstandard.ZstdError: When reading, if it is damaged.
    """

    def __init__(self, path: str) -> None:
        self._raw = Path(path).open("rb")
        self._begin()

    def _begin(self) -> None:
        self._raw.seek(0)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._unpacked = memoryview(b"")
        self._at = 0

    def _more(self) -> bool:
        """Unpack a little more; False at the end."""
        while not self._unpacked:
            ended = self._frame is None or self._frame.eof
            packed = b"" if self._frame is None else self._frame.unused_data
            packed = (packed if ended else b"") or self._raw.read(_PACKED_BYTES)
            if not packed:
                if not ended:
                    raise EOFError("it ends in the middle of a zstd frame")
                return False
            if self._frame is None or ended:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._unpacked = memoryview(self._frame.decompress(packed))
        return True

    def _take(self, most: int) -> memoryview:
        taken, self._unpacked = self._unpacked[:most], self._unpacked[most:]
        self._at += len(taken)
        return taken

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        if not len(target) or not self._more():
            return 0
        taken = self._take(len(target))
        target[: len(taken)] = taken
        return len(taken)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET:
            raise OSError("a zstd stream can only be positioned from its start")
        if offset < self._at:
            self._begin()
        while self._at < offset and self._more():
            self._take(offset - self._at)
        return self._at

    def close(self) -> None:
        self._raw.close()
        super().close()
