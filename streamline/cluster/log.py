"""A job's log: one file that many processes append to, of which the last part is kept.

They write to it by themselves, also when the daemon is gone, and none of them has to know that it
is made smaller: its beginning is given back to the disk in place, so that places in it stay what
they are and no line is lost or comes twice for whoever reads on. What is given back reads as a
hole; the file looks as long as all that was ever printed, and takes what is kept.
"""

from __future__ import annotations

import codecs
import ctypes
import ctypes.util
import errno
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_LOG_BYTES = 64 << 20
_MOST_READ = 1 << 20
_BLOCK = 1 << 16
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # of fallocate(2)


@dataclass(frozen=True)
class LogSettings:
    """How jobs' logs are kept.

    Attributes:
        as_json: They have JSON lines, from the next start of a job's process on.
        most_bytes: So much of each is kept.
    """

    as_json: bool = False
    most_bytes: int = DEFAULT_LOG_BYTES


def read_log(path: Path, offset: int, most: int = _MOST_READ) -> dict[str, Any]:
    """A piece of a log: whole lines, unless one is longer than a piece, or not whole yet.

    Args:
        path: The log.
        offset: Where to begin, in bytes; a negative one counts from the end. Behind what is kept
            no more, it begins with the first whole line that is.
        most: So many bytes at most.

    Returns:
        ``text``, and the offset of what is ``next``.
    """
    if not path.exists():
        return {"text": "", "next": 0}
    with path.open("rb", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        wanted = max(0, size + offset) if offset < 0 else min(offset, size)
        while True:
            start = _kept_from(file.fileno(), wanted, size)
            file.seek(start)
            data = file.read(most)
            if _kept_from(file.fileno(), start, size) == start:
                break  # or else it was given back just now
    full = len(data) == most
    if start > wanted and b"\n" in data:  # this line has begun in what is gone
        cut = data.index(b"\n") + 1
        data, start = data[cut:], start + cut
    if full and b"\n" in data:
        data = data[: data.rindex(b"\n") + 1]
    # What is being written may end within a letter: that comes with the next piece.
    text, used = codecs.utf_8_decode(data, "replace", False)
    return {"text": text, "next": start + used}


def cut_log(path: Path, most: int) -> None:
    """Give back the beginning of a log that takes a quarter more than it may, or more.

    Args:
        path: The log; it may be written to meanwhile.
        most: So many bytes of it are kept.

    Raises:
        OSError: If it cannot be; also where the file system has no holes.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    if found.st_blocks * 512 <= most + most // 4 or found.st_size <= most:
        return
    with path.open("r+b", buffering=0) as file:
        _punch(file.fileno(), (found.st_size - most) // _BLOCK * _BLOCK)


def _kept_from(descriptor: int, offset: int, size: int) -> int:
    """The first place from an offset on that is not in a hole."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # there is nothing behind it
            return max(offset, size)
        raise


def _punch(descriptor: int, length: int) -> None:
    """Give the first bytes of a file back to the disk."""
    if length <= 0:
        return
    if not sys.platform.startswith("linux"):
        raise OSError(errno.EOPNOTSUPP, "files have no holes here")
    library = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    what = (ctypes.c_int(descriptor), ctypes.c_int(_KEEP_SIZE | _PUNCH_HOLE))
    where = (ctypes.c_longlong(0), ctypes.c_longlong(length))
    if library.fallocate64(*what, *where):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
