"""Which files a path means, and how they are cut into partitions."""

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
class Split:
    """A part of a file: the lines that begin at ``start`` up to ``end`` (excluded).

    ``end`` is -1 for all there is: of a compressed file, or one that is being followed.
    """

    path: str
    start: int
    end: int

    def name(self) -> str:
        """The partition's name; sorts by path, then by place."""
        end = "" if self.end < 0 else f"{self.end}"
        return f"{self.path}#{self.start:016d}-{end}"

    @classmethod
    def parse(cls, name: str) -> Split:
        """Undo :meth:`name`."""
        path, _, span = name.rpartition("#")
        start, _, end = span.partition("-")
        return cls(path, int(start), int(end) if end else -1)


def split_file(path: Path, split_bytes: int, *, whole: bool) -> list[Split]:
    """Cut a file into partitions.

    Args:
        path: The file.
        split_bytes: About how long a partition is.
        whole: Do not cut, and leave the end open.
    """
    if whole:
        return [Split(str(path), 0, -1)]
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ConnectorError(f"the file {str(path)!r} cannot be read: {error}") from error
    if path.suffix in COMPRESSED:
        return [Split(str(path), 0, -1)]
    starts = range(0, max(size, 1), split_bytes)
    return [Split(str(path), start, min(start + split_bytes, size)) for start in starts]
