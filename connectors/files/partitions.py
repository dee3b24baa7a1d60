"""Which files a path means, and how they are cut into partitions.

It looks at names and lengths, and reads no file. A partition's name holds all that is needed to
read it, so positions mean the same in every run.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

from streamline.errors import ConnectorError

COMPRESSED = (".gz", ".zst")


def find_files(pattern: str) -> list[Path]:
    """The files that a path, a folder or a pattern with wildcards means, sorted.

    Hidden files, and files in hidden folders, are left out.

    Raises:
        ConnectorError: If there is none; says what to do.
    """
    path = Path(pattern)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if file.is_file()]
        files = [file for file in found if not _hidden(file.relative_to(path))]
        if not files:
            raise ConnectorError(f"the folder {pattern!r} has no files to read; put some there")
        return files
    if glob.has_magic(pattern):
        matches = sorted(Path(match) for match in glob.glob(pattern, recursive=True))  # noqa: PTH207 - absolute ones too
        files = [match for match in matches if match.is_file()]
        if not files:
            raise ConnectorError(f"no file matches {pattern!r}; check the pattern and the folder")
        return files
    raise ConnectorError(f"the file {pattern!r} does not exist; check the path")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


@dataclass(frozen=True)
class Stripe:
    """Every so manieth piece of a file: the lines that begin in its pieces.

    A file is dealt out in small pieces, like cards, so that all readers move through it, and
    through event time, side by side. A cut into long parts would have them years apart.

    Attributes:
        path: The file.
        number: Which of the stripes; it has the pieces ``number``, ``number + count`` ...
        count: How many stripes there are.
        piece_bytes: Length of a piece; 0 when there is one stripe, which is the whole file.
        end: Length of the file when it was dealt out; -1 for all there is: of a compressed
            file, or one that is being followed.
    """

    path: str
    number: int
    count: int
    piece_bytes: int
    end: int

    def name(self) -> str:
        """The partition's name; sorts by path, then by number."""
        end = "" if self.end < 0 else f"{self.end}"
        piece = self.piece_bytes or ""
        return f"{self.path}#{self.number:04d}-{self.count}-{piece}-{end}"

    @classmethod
    def parse(cls, name: str) -> Stripe:
        """Undo :meth:`name`; the length of a piece, which once stood in all names, may too."""
        path, _, rest = name.rpartition("#")
        number, count, piece_bytes, end = rest.split("-")
        piece = int(piece_bytes) if count != "1" else 0
        return cls(path, int(number), int(count), piece, int(end) if end else -1)

    def owns(self, offset: int) -> bool:
        """Whether a line that begins there is ours."""
        return self.count == 1 or offset // self.piece_bytes % self.count == self.number

    def next_piece(self, offset: int) -> int:
        """Where our first piece behind an offset begins."""
        before = (offset // self.piece_bytes - self.number) // self.count
        return ((before + 1) * self.count + self.number) * self.piece_bytes

    def left(self, offset: int) -> int:
        """How many bytes of our pieces there are from an offset on; the end must be known."""
        if self.count == 1:
            return max(0, self.end - offset)
        here = max(0, self.piece_end(offset) - offset) if self.owns(offset) else 0
        begin, every = self.next_piece(offset), self.piece_bytes * self.count
        whole, rest = divmod(max(0, self.end - begin), every)
        return here + whole * self.piece_bytes + min(rest, self.piece_bytes)

    def piece_end(self, offset: int) -> int:
        """Where the piece ends that an offset lies in, or the file."""
        if self.count == 1:
            return self.end
        end = (offset // self.piece_bytes + 1) * self.piece_bytes
        return end if self.end < 0 else min(end, self.end)


def deal_out(path: Path, piece_bytes: int, stripes: int, *, whole: bool) -> list[Stripe]:
    """Make a file into partitions.

    Args:
        path: The file.
        piece_bytes: Length of a piece.
        stripes: At most so many partitions.
        whole: Make one, and leave the end open.

    Raises:
        ConnectorError: If the file cannot be looked at.
    """
    if whole or path.suffix in COMPRESSED:
        return [Stripe(str(path), 0, 1, 0, -1)]
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ConnectorError(f"the file {str(path)!r} cannot be read: {error}") from error
    count = max(1, min(stripes, -(-size // piece_bytes)))
    piece = piece_bytes if count > 1 else 0
    return [Stripe(str(path), number, count, piece, size) for number in range(count)]
