"""RocksStore: a KeyValueStore on RocksDB. The one file that knows rocksdict.

There is no write-ahead log: what is not in a checkpoint is replayed from the sources. A
checkpoint flushes the memtable and hard-links the table files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

from rocksdict import (
    BlockBasedOptions,
    Cache,
    Checkpoint,
    DBCompressionType,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from streamline.errors import StateError
from streamline.state.kv import KeyValueStore

_CACHE_BYTES = 32 << 20
_MEMTABLE_BYTES = 64 << 20
_BLOOM_BITS = 10


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(_MEMTABLE_BYTES)
    options.set_max_background_jobs(2)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_keep_log_file_num(1)
    options.set_max_log_file_size(1 << 20)
    options.set_max_open_files(256)
    # Files are whole, so that one that has not changed need not be uploaded again.
    options.set_level_compaction_dynamic_level_bytes(True)
    table = BlockBasedOptions()
    table.set_bloom_filter(_BLOOM_BITS, False)
    table.set_block_cache(Cache(_CACHE_BYTES))
    options.set_block_based_table_factory(table)
    return options


class RocksStore(KeyValueStore):
    """Entries in RocksDB, in a folder of its own.

    Args:
        directory: What a checkpoint left, or a folder to be made.

    Raises:
        StateError: If it cannot be opened.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        try:
            self._db = Rdict(str(directory), options=_options())
        except Exception as error:
            raise StateError(f"the state in {directory} cannot be opened: {error}") from error
        write = WriteOptions()
        write.disable_wal = True  # type: ignore[method-assign, assignment]  # its stub is wrong
        self._db.set_write_options(write)
        self._write_options = write
        self._open = True

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        try:
            found = cast(list[bytes | None], self._db.get(list(keys)))
        except Exception as error:
            raise self._explain("read", error) from error
        return found

    def write(
        self,
        puts: Iterable[tuple[bytes, bytes]],
        deletes: Iterable[bytes] = (),
    ) -> None:
        batch = WriteBatch(raw_mode=True)
        for key in deletes:
            batch.delete(key)
        put = batch.put
        for key, value in puts:
            put(key, value)
        try:
            self._db.write(batch, self._write_options)
        except Exception as error:
            raise self._explain("written", error) from error

    def delete_range(self, start: bytes, stop: bytes) -> None:
        try:
            self._db.delete_range(start, stop, write_opt=self._write_options)
        except Exception as error:
            raise self._explain("written", error) from error

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        read = ReadOptions()
        read.set_iterate_upper_bound(stop)
        yield from self._db.items(from_key=start, read_opt=read)

    def checkpoint(self, directory: Path) -> None:
        try:
            # A checkpoint flushes too, but holds the interpreter's lock while it does.
            self._db.flush()
            Checkpoint(self._db).create_checkpoint(str(directory))
        except Exception as error:
            raise self._explain("checkpointed", error) from error

    def close(self) -> None:
        if self._open:
            self._open = False
            self._db.close()

    def _explain(self, verb: str, error: Exception) -> StateError:
        return StateError(f"state in {self._directory} cannot be {verb}: {error}")


def open_rocksdb(directory: Path) -> KeyValueStore:
    """Open the store in a folder, new or with what is there."""
    return RocksStore(directory)
