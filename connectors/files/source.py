"""FileSource: lines of files as records, by partition, in order of event time.

It owns open files and byte offsets. How files are cut stands in ``partitions``; what a line means
is the format's; what event time a partition has reached it is told by its task.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, TypeVar

import zstandard

from streamline.batch import Batch, Origins, RowBatch
from streamline.config import Duration, positive_duration_ms
from streamline.connectors.files.partitions import COMPRESSED, Stripe, deal_out, find_files
from streamline.connectors.files.zstd import ZstdFile
from streamline.errors import ConnectorError, DecodeError, UsageError
from streamline.formats import Format
from streamline.io import (
    SHOWN_BYTES,
    DeadLetter,
    Position,
    ReaderContext,
    Source,
    SourceReader,
    leave_out,
)
from streamline.messages import MIN_TIMESTAMP
from streamline.plural import counted

T = TypeVar("T")
_OPEN_FILES = 64
_PIECES_PER_POLL = 16
_FIRST_LINE_BYTES = 64
_MEASURE_EVERY_S = 1.0  # there may be ten thousand files, of each of which the size is asked for


class FileSource(Source[T]):
    """Reads a file, all files of a folder, or those a pattern matches.

    A file that ends in ``.gz`` or ``.zst`` is unpacked. Plain files are dealt out in small
    pieces, cut at line breaks, to partitions that are read side by side.

    Args:
        path: A file, a folder, or a pattern such as ``"logs/*.jsonl"``.
        format: How a line is decoded.
        follow: Do not end: wait for more lines, and for new files.
        split_bytes: About how long a piece of a plain file is.
        partitions: Into how many partitions a plain file is dealt out, if it is long enough.
        poll_every: How often followed files are looked at when there is nothing to read.

    Raises:
        UsageError: For a format or length that cannot be.

    >>> import streamline as sl
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from streamline.testing import CollectingSink, run_job
    >>> with TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "words.txt").write_text("so\\nfar\\n")
    ...     job, sink = sl.Job("read"), CollectingSink()
    ...     job.source("words", FileSource(folder, format=sl.Text())).sink("out", sink)
    ...     _ = run_job(job)
    >>> sink.records
    ['so', 'far']
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        format: Format[T],
        *,
        follow: bool = False,
        split_bytes: int = 1 << 19,
        partitions: int = 8,
        poll_every: Duration = "200ms",
    ) -> None:
        if not isinstance(format, Format):
            raise UsageError(
                f"FileSource(format=...) needs a format such as sl.Json(), not {format!r}"
            )
        if not format.in_files:
            raise UsageError(
                f"FileSource: values of {format!r} cannot be told apart in a file; "
                "use sl.Json(), sl.MsgPack() or sl.Csv()"
            )
        if split_bytes < 1:
            raise UsageError(f"split_bytes={split_bytes} must be at least 1")
        if partitions < 1:
            raise UsageError(f"partitions={partitions} must be at least 1")
        self.path = os.fspath(path)
        self.format = format
        self.follow = follow
        self.split_bytes = split_bytes
        self.partitions = partitions
        self.poll_ms = positive_duration_ms(poll_every, "poll_every")

    @property
    def bounded(self) -> bool:
        return not self.follow

    @property
    def dead_letters(self) -> bool:
        return self.format.on_error == "dead_letter"

    async def discover(self) -> list[str]:
        whole = self.follow or not self.format.separator
        try:
            files = find_files(self.path)
        except ConnectorError:
            if self.follow and Path(self.path).is_dir():
                return []
            raise
        for file in files:
            if not os.access(file, os.R_OK):
                raise ConnectorError(f"the file {str(file)!r} cannot be read: permission denied")
            if self.follow and file.suffix in COMPRESSED:
                raise ConnectorError(f"the compressed file {str(file)!r} cannot be followed")
        return [
            stripe.name()
            for file in files
            for stripe in deal_out(file, self.split_bytes, self.partitions, whole=whole)
        ]

    def adopt(self, positions: Mapping[str, Position | None]) -> dict[str, Position | None]:
        """Whole files have one name, whatever ``split_bytes`` was; parts cannot be followed.

        Raises:
            ConnectorError: If the job now follows a file that was being read in parts.
        """
        if not self.follow:
            return dict(positions)
        adopted: dict[str, Position | None] = {}
        for name, position in positions.items():
            stripe = Stripe.parse(name)
            if stripe.count > 1:
                raise ConnectorError(
                    f"the file {stripe.path!r} was being read in {stripe.count} parts and cannot "
                    "be followed from there; go on without follow=True, or start over with --fresh"
                )
            # It may have been read up to a length so far, and have ended there.
            at = position if position is None else [position[0], False]
            adopted[replace(stripe, end=-1).name()] = at
        return adopted

    def reader(self) -> SourceReader[T]:
        return FileReader(self)


class _Partition:
    """Where reading stands in one partition."""

    def __init__(self, name: str, position: int | None, *, follow: bool) -> None:
        self.name = name
        self.stripe = Stripe.parse(name)
        self.follow = follow
        self.position = position  # None: the first line break has not been looked for

    def next_byte(self) -> int:
        """Where reading goes on, or begins."""
        if self.position is None:
            return self.stripe.number * self.stripe.piece_bytes
        if self.stripe.owns(self.position):
            return self.position
        return self.stripe.next_piece(self.position)


class FileReader(SourceReader[T]):
    """Reads stripes of files; the position is a byte offset into the unpacked file."""

    def __init__(self, source: FileSource[T]) -> None:
        self._source = source
        self._format = source.format
        self._partitions: dict[str, _Partition] = {}
        self._files: OrderedDict[str, IO[bytes]] = OrderedDict()
        self._lanes: dict[str, set[str]] = {}
        self._current: str | None = None
        self._fresh: list[str] = []
        self._quiet: set[str] = set()
        self._line_bytes = float(_FIRST_LINE_BYTES)
        self._measured_s = float("-inf")
        self._lag_bytes: int | None = None
        self.active: set[str] = set()

    async def open(self, context: ReaderContext) -> None:
        self._context = context

    def assign(self, positions: Mapping[str, Position | None]) -> None:
        for name, position in sorted(positions.items()):
            if name in self._partitions:
                continue
            partition = _Partition(name, None, follow=self._source.follow)
            ended = False
            if position is not None:
                partition.position, ended = position
            lane = self._lane(partition)
            left = self._lanes.setdefault(lane, set())
            self._partitions[name] = partition
            if not ended:
                left.add(name)
                self.active.add(lane)
                if position is None and lane not in self._fresh:
                    self._fresh.append(lane)

    def poll(self) -> Batch | None:
        for _ in range(_PIECES_PER_POLL):
            partition = self._choose()
            if partition is None:
                self._quiet.clear()
                return None
            batch = self._read(partition)
            if batch is not None:
                return batch
        return None  # nothing but bad lines; barriers have their turn too

    async def wait(self) -> None:
        if self._source.follow:
            await asyncio.sleep(self._source.poll_ms / 1000)

    def snapshot(self) -> dict[str, Position]:
        positions: dict[str, Position] = {}
        for name, partition in self._partitions.items():
            ended = name not in self._lanes[self._lane(partition)]
            begun = partition.position is not None or ended
            positions[name] = [partition.position, ended] if begun else None
        return positions

    async def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    @property
    def lag_bytes(self) -> int | None:
        """Bytes of its files; of a compressed one it is not known how many there are."""
        if not self._partitions:
            return None
        now_s = self._context.clock.monotonic_s()
        if now_s >= self._measured_s + _MEASURE_EVERY_S:
            self._measured_s, self._lag_bytes = now_s, self._measure()
        return self._lag_bytes

    def _measure(self) -> int | None:
        left = 0
        for partition in list(self._partitions.values()):  # another thread may add one meanwhile
            stripe = partition.stripe
            if partition.name not in self._lanes[self._lane(partition)]:
                continue
            try:
                if stripe.end < 0:
                    if stripe.path.endswith(COMPRESSED):
                        return None
                    stripe = replace(stripe, end=Path(stripe.path).stat().st_size)
            except OSError:
                return None  # reading it will tell why
            left += stripe.left(partition.next_byte())
        return left

    # ------------------------------------------------------------------ choosing

    def _lane(self, partition: _Partition) -> str:
        """What its records are marked with: our stripes of one file are read as one, in order.

        They share a watermark therefore. The name tells whose stripes they are, so that event
        time learned by a task is not taken for that of others when the job is rescaled.
        """
        if partition.stripe.count == 1:
            return partition.name
        return f"{partition.stripe.path}#{self._context.index}/{self._context.parallelism}"

    def _choose(self) -> _Partition | None:
        """Unread files first, to learn their time; then the one furthest behind, in order."""
        while self._fresh:
            lane = self._fresh.pop(0)
            if lane in self.active:
                return self._first_of(lane)
        ready = self.active - self._quiet if self._quiet else self.active
        if not ready:
            return None
        reached = self._context.watermarks
        if reached:
            self._current = min(ready, key=lambda lane: (reached.get(lane, MIN_TIMESTAMP), lane))
        elif self._current not in ready:
            self._current = min(ready)
        assert self._current is not None
        return self._first_of(self._current)

    def _first_of(self, lane: str) -> _Partition:
        left = self._lanes[lane]
        if len(left) == 1:
            return self._partitions[next(iter(left))]
        return min((self._partitions[name] for name in left), key=_Partition.next_byte)

    # ------------------------------------------------------------------ reading

    def _read(self, partition: _Partition) -> Batch | None:
        """The next records of a partition; None if it has ended or has nothing new."""
        start = self._start(partition)
        if start is None:
            return None
        piece: bytes | list[bytes]
        if self._format.separator:
            piece, position = self._lines(partition, start)
        else:
            piece, position = self._values(partition, start)
        if position == start and not piece:
            self._nothing(partition)
            return None
        partition.position = position
        self._context.counters.bytes_in += position - start
        batch = self._decode(partition, piece, start)
        if batch is None or not len(batch):
            return None
        if isinstance(piece, bytes) and len(batch):
            self._line_bytes = max(1.0, len(piece) / len(batch))
        batch.partition = self._lane(partition)
        return batch

    def _start(self, partition: _Partition) -> int | None:
        """Where to read on: the next line that begins in a piece of ours, if there is one."""
        stripe, start = partition.stripe, partition.position
        try:
            if start is None:
                start = self._after_header(partition) if stripe.owns(0) else 0
                if start is None:
                    self._nothing(partition)
                    return None
            while not stripe.owns(start) and (stripe.end < 0 or start < stripe.end):
                piece = stripe.next_piece(start)
                if piece >= stripe.end:
                    start = stripe.end
                    break
                file = self._file(partition)
                file.seek(piece - 1)  # a line that begins before the piece is not ours
                start = piece - 1 + len(file.readline())
        except (OSError, EOFError, zstandard.ZstdError) as error:
            raise self._broken(partition, error) from error
        partition.position = start
        if 0 <= stripe.end <= start:
            self._check_length(partition)
            self._nothing(partition)
            return None
        if self._first_of(self._lane(partition)) is not partition:
            return None  # a line longer than a piece has carried it past the others
        return start

    def _after_header(self, partition: _Partition) -> int | None:
        """Where the first record begins; None if the header is still being written."""
        if self._format.header is None:
            return 0
        file = self._file(partition)
        file.seek(0)
        header = file.readline()
        return None if partition.follow and not header.endswith(b"\n") else len(header)

    def _lines(self, partition: _Partition, start: int) -> tuple[bytes, int]:
        """A piece of whole lines from ``start``, and where it ends."""
        file = self._file(partition)
        want = max(1, int(self._context.batch_rows * self._line_bytes))
        stripe = partition.stripe
        if stripe.count > 1 or stripe.end >= 0:
            want = min(want, stripe.piece_end(start) - start)
        try:
            file.seek(start)
            piece = file.read(want)
            if piece and not piece.endswith(b"\n"):
                piece += file.readline()
            if not piece:
                self._check_length(partition)
        except (OSError, EOFError, zstandard.ZstdError) as error:
            raise self._broken(partition, error) from error
        if partition.follow and not piece.endswith(b"\n"):
            piece = piece[: piece.rfind(b"\n") + 1]  # the last line is still being written
        return piece, start + len(piece)

    def _check_length(self, partition: _Partition) -> None:
        """Refuse a file that has become shorter than what there was of it to read."""
        stripe = partition.stripe
        if stripe.path.endswith(COMPRESSED):
            return
        least = max(partition.position or 0, stripe.end)
        size = Path(stripe.path).stat().st_size
        if size < least:
            raise ConnectorError(
                f"the file {stripe.path!r} has become shorter ({counted(size, 'byte')}, was at "
                f"least {least:,}); a file may grow but not be rewritten"
            )

    def _values(self, partition: _Partition, start: int) -> tuple[list[bytes], int]:
        """Some values that tell their own length, from ``start``, and where they end."""
        import msgpack

        file = self._file(partition)
        want = max(1 << 12, int(self._context.batch_rows * self._line_bytes))
        try:
            file.seek(start)
            data = file.read(want)
            values: list[bytes] = []
            while data:
                unpacker = msgpack.Unpacker(max_buffer_size=0)
                unpacker.feed(data)
                at = 0
                while len(values) < self._context.batch_rows:
                    try:
                        unpacker.skip()
                    except msgpack.OutOfData:
                        break
                    values.append(data[at : unpacker.tell()])
                    at = unpacker.tell()
                if values:
                    return values, start + at
                more = file.read(len(data))
                if not more:
                    break
                data += more
        except (OSError, EOFError, ValueError, zstandard.ZstdError) as error:
            raise self._broken(partition, error) from error
        if data and not partition.follow:
            raise DecodeError(
                f"source {self._context.node!r}, file {partition.stripe.path}, byte {start}: the "
                f"last value is cut off: {data[:SHOWN_BYTES]!r}"
            )
        return [], start

    def _nothing(self, partition: _Partition) -> None:
        if partition.follow:
            self._quiet.add(partition.name)
            return
        lane = self._lane(partition)
        left = self._lanes[lane]
        left.discard(partition.name)
        if not left:
            self.active.discard(lane)
        path = partition.stripe.path
        file = self._files.get(path)
        open_lanes = (lane for lane, left in self._lanes.items() if left)
        if (
            file is not None
            and not left
            and all(path != lane.rpartition("#")[0] for lane in open_lanes)
        ):
            self._files.pop(path).close()

    def _file(self, partition: _Partition) -> IO[bytes]:
        """The open file of a partition; few are kept open at a time."""
        path = partition.stripe.path
        file = self._files.get(path)
        if file is not None:
            self._files.move_to_end(path)
            return file
        while len(self._files) >= _OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        try:
            file = self._files[path] = _open(path)
        except OSError as error:
            raise self._broken(partition, error) from error
        return file

    def _broken(self, partition: _Partition, error: Exception) -> ConnectorError:
        return ConnectorError(
            f"source {self._context.node!r}: the file {partition.stripe.path!r} cannot be read: "
            f"{error or type(error).__name__}"
        )

    # ------------------------------------------------------------------ decoding

    def _decode(
        self, partition: _Partition, piece: bytes | list[bytes], start: int
    ) -> Batch | None:
        try:
            batch = self._decode_all(piece)
        except DecodeError:
            return self._decode_each(partition, piece, start)
        if self._context.origins:
            lines: list[tuple[int, bytes]] = []

            def find(place: int) -> tuple[int, bytes]:
                if not lines:
                    lines.extend(_lines(piece, start, self._format.padding))
                return lines[place]

            batch.origins = Origins(partition.stripe.path, find)
        return batch

    def _decode_all(self, piece: bytes | list[bytes]) -> Batch:
        if isinstance(piece, list):
            return RowBatch(self._format.decode_many(piece))
        if self._context.layout == "columns":
            columns = self._format.decode_columns(piece)
            if columns is not None:
                return columns
        return RowBatch(self._format.decode_lines(piece))

    def _decode_each(
        self, partition: _Partition, piece: bytes | list[bytes], start: int
    ) -> Batch | None:
        """Find the bad values, and do with them what the format says."""
        lines = _lines(piece, start, self._format.padding)
        bad: set[int] = set()

        def leave_out(place: int, data: bytes, reason: str) -> None:
            bad.add(place)
            self._bad(partition, lines[place][0], data, reason)

        values = self._format.decode_each([data for _, data in lines], leave_out)
        good = [line for place, line in enumerate(lines) if place not in bad]
        origins = None
        if self._context.origins:
            origins = Origins(partition.stripe.path, good.__getitem__)
        return RowBatch(values, origins=origins) if values else None

    def _bad(self, partition: _Partition, offset: int, data: bytes, reason: str) -> None:
        path = partition.stripe.path
        letter = DeadLetter(reason, self._context.node, path, offset, data)
        leave_out(self._context, letter, self._format.on_error, f"file {path}, byte {offset}")


def _lines(piece: bytes | list[bytes], start: int, padding: bytes) -> list[tuple[int, bytes]]:
    """The values in a piece of a file, each with its offset."""
    found: list[tuple[int, bytes]] = []
    whole = isinstance(piece, list)
    at = start
    for line in piece if isinstance(piece, list) else piece.split(b"\n"):
        if whole or line.strip(padding):
            found.append((at, line))
        at += len(line) + (0 if whole else 1)
    return found


def _open(path: str) -> IO[bytes]:
    if path.endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.endswith(".zst"):
        return io.BufferedReader(ZstdFile(path))
    return Path(path).open("rb", buffering=1 << 18)
