"""FileSink: files that appear when the checkpoint that covers them is complete, and not before.

It owns what stands in the folder under its own tag, and touches no other file there. When a
checkpoint is taken, and whether it was completed, it is told by its task.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import zstandard

from streamline.batch import Batch
from streamline.errors import ConnectorError, UsageError
from streamline.formats import Format
from streamline.io import Committable, Guarantee, Sink, SinkWriter, WriterContext
from streamline.plural import counted

T = TypeVar("T")
PENDING = ".pending"
_BUFFER_BYTES = 1 << 18


class FileSink(Sink[T]):
    """Writes files named ``part-*`` into a folder, exactly once.

    Records of one epoch stand under ``.pending/`` in the folder until the checkpoint is
    complete; then their file is renamed. A job that starts over replaces what it wrote before.

    Args:
        directory: The folder; made if it is not there.
        format: How values are encoded.
        compression: Pack each file with gzip or zstd.
        if_exists: What a job that starts from scratch does with files that this sink of this job
            wrote in an earlier run: replace them, keep and append to them, or fail.

    Raises:
        UsageError: For an argument that cannot be.

    >>> import streamline as sl
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from streamline.connectors.collection import CollectionSource
    >>> from streamline.testing import run_job
    >>> with TemporaryDirectory() as folder:
    ...     job = sl.Job("copy")
    ...     orders = job.source("orders", CollectionSource([{"user": "ada"}, {"user": "bob"}]))
    ...     orders.sink("out", FileSink(folder, format=sl.Json()))
    ...     _ = run_job(job)
    ...     [path.read_text() for path in Path(folder).glob("part-*.jsonl")]
    ['{"user":"ada"}\\n{"user":"bob"}\\n']
    """

    guarantee = Guarantee.EXACTLY_ONCE

    def __init__(
        self,
        directory: str | os.PathLike[str],
        format: Format[Any],
        *,
        compression: Literal["gzip", "zstd"] | None = None,
        if_exists: Literal["replace", "append", "fail"] = "replace",
    ) -> None:
        if not isinstance(format, Format):
            raise UsageError(
                f"FileSink(format=...) needs a format such as sl.Json(), not {format!r}"
            )
        if not format.in_files:
            raise UsageError(
                f"FileSink: values of {format!r} cannot be told apart in a file; "
                "use sl.Json(), sl.MsgPack() or sl.Csv()"
            )
        if compression not in (None, "gzip", "zstd"):
            raise UsageError(f'compression={compression!r} must be "gzip", "zstd" or None')
        if if_exists not in ("replace", "append", "fail"):
            raise UsageError(f'if_exists={if_exists!r} must be "replace", "append" or "fail"')
        self.directory = os.fspath(directory)
        self.format = format
        self.compression = compression
        self.if_exists = if_exists

    def writer(self) -> SinkWriter[T]:
        return FileWriter(self)


class FileWriter(SinkWriter[T]):
    """Writes one file per epoch."""

    def __init__(self, sink: FileSink[T]) -> None:
        self._sink = sink
        self._folder = Path(sink.directory)
        self._pending = self._folder / PENDING
        packed = {"gzip": ".gz", "zstd": ".zst", None: ""}[sink.compression]
        self._suffix = sink.format.suffix + packed
        self._file: IO[bytes] | None = None
        self._path: Path | None = None
        self._number = 0

    async def open(self, context: WriterContext) -> None:
        self._context = context
        # Marks the files of this sink of this job among others in the folder.
        name = f"{context.job}/{context.node}".encode()
        self._tag = hashlib.blake2b(name, digest_size=4).hexdigest()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if context.index == 0 and not context.restored:
                self._start_over()
        except OSError as error:
            raise self._broken(self._folder, error) from error

    async def recover(self, committables: list[Committable]) -> None:
        await self.commit(committables)
        context, run = self._context, self._context.run
        try:
            for path in self._pending.glob(f"{self._tag}-*"):
                _, of_run, index, _ = path.name.split("-")
                if of_run != run and self._settles(index):
                    path.unlink(missing_ok=True)
            if context.restored_epoch is None:
                return
            # Of this life of the job, but behind the checkpoint it was taken back to: it will
            # be written again.
            for path in self._folder.glob(f"part-{self._tag}-{context.lineage}-*"):
                _, _, _, index, epoch, _ = path.name.split("-")
                if int(epoch) > context.restored_epoch and self._settles(index):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise self._broken(self._pending, error) from error

    def write(self, batch: Batch) -> None:
        data = self._sink.format.encode_lines(batch.to_rows().values)
        try:
            if self._file is None:
                self._file = self._begin()
            self._file.write(data)
        except OSError as error:
            raise self._broken(self._path or self._pending, error) from error
        self._context.counters.bytes_out += len(data)

    async def prepare(self, epoch: int) -> list[Committable]:
        file, path = self._file, self._path
        if file is None or path is None:
            return []
        try:
            file.close()
            _sync(path)
            _sync(self._pending)
        except OSError as error:
            raise self._broken(path, error) from error
        self._file = self._path = None
        context = self._context
        place = f"{context.lineage}-{context.index:05d}-{epoch:08d}"
        final = f"part-{self._tag}-{place}-{context.run}{self._suffix}"
        return [[str(self._folder.absolute()), path.name, final]]

    async def commit(self, committables: list[Committable]) -> None:
        for folder, name, final in committables:  # the folder of then: the job may have another now
            target = Path(folder) / final
            try:
                (Path(folder) / PENDING / name).replace(target)
            except FileNotFoundError:
                if not target.exists():
                    raise ConnectorError(
                        f"sink {self._context.node!r}: {target} was written and covered by a "
                        "checkpoint, but now neither it nor its pending file is there; somebody "
                        "removed it, and its records are lost"
                    ) from None
            except OSError as error:
                raise self._broken(target, error) from error
        for folder in {folder for folder, _, _ in committables}:
            _sync(Path(folder))

    async def close(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                pass  # a full disk: what is given up need not be written
            self._file = None
        try:
            self._pending.rmdir()
        except OSError:
            pass  # not there, or files of others are in it

    def _settles(self, index: str) -> bool:
        """Whether what the earlier writer with this index left is this writer's to settle."""
        return int(index) % self._context.parallelism == self._context.index

    def _begin(self) -> IO[bytes]:
        context = self._context
        if not self._pending.is_dir():
            self._pending.mkdir(parents=True, exist_ok=True)
            _sync(self._folder)
        self._number += 1
        name = f"{self._tag}-{context.run}-{context.index:05d}-{self._number:08d}{self._suffix}"
        self._path = self._pending / name
        file: IO[bytes]
        if self._sink.compression == "gzip":
            file = gzip.open(self._path, "wb", compresslevel=5)  # type: ignore[assignment]
        elif self._sink.compression == "zstd":
            file = zstandard.open(self._path, "wb")
        else:
            file = self._path.open("wb", buffering=_BUFFER_BYTES)
        if self._sink.format.header is not None:
            file.write(self._sink.format.header)
        return file

    def _start_over(self) -> None:
        """Deal with the files that an earlier run of this very sink left."""
        old = sorted(self._folder.glob(f"part-{self._tag}-*"))
        if not old or self._sink.if_exists == "append":
            return
        if self._sink.if_exists == "fail":
            raise ConnectorError(
                f"sink {self._context.node!r}: {self._folder} holds {counted(len(old), 'file')} "
                'of an earlier run; remove what is there, or give FileSink if_exists="replace" or '
                '"append"'
            )
        for path in old:
            path.unlink(missing_ok=True)

    def _broken(self, path: Path, error: OSError) -> ConnectorError:
        return ConnectorError(f"sink {self._context.node!r} cannot write {path}: {error}")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
