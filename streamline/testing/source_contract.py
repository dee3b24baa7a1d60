"""SourceContract: what every source must do, as tests to inherit.

Written against ``streamline.io`` alone; it knows no connector and no test framework.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from streamline.batch import Batch
from streamline.clock import Clock, SystemClock
from streamline.codec import decode, encode
from streamline.io import Counters, DeadLetter, Layout, ReaderContext, Source, SourceReader
from streamline.messages import MIN_TIMESTAMP
from streamline.testing.looped import looped, same_records

T = TypeVar("T")
_MOST_RESTARTS = 40
_MOST_WAITS = 2_000


class SourceContract(ABC, Generic[T]):
    """Subclass it under a name that begins with ``Test``, and say what the source reads.

    The data must be small: it is read anew from every place in it.

    Attributes:
        batch_rows: Most records in a batch; small, so that there are many places to stop at.
        keeps_batch_rows: False for a reader that only comes near ``batch_rows``.
        layout: What readers are asked for.
        quiet_waits: An unbounded source that has nothing for so many waits is at its end.

    >>> from streamline.connectors.collection import CollectionSource
    >>> class TestCollection(SourceContract[int]):
    ...     def make_source(self) -> CollectionSource[int]:
    ...         return CollectionSource([1, 2, 3, 4, 5], partitions=2)
    ...     def expected(self) -> list[int]:
    ...         return [1, 2, 3, 4, 5]
    >>> TestCollection().test_goes_on_from_every_position()
    """

    batch_rows: int = 3
    keeps_batch_rows: bool = True
    layout: Layout = "rows"
    quiet_waits: int = 3

    @abstractmethod
    def make_source(self) -> Source[T]:
        """The source under test; each call makes a new one of the same data."""

    @abstractmethod
    def expected(self) -> Sequence[T]:
        """All records that it brings, in any order."""

    def clock(self) -> Clock:
        """What readers are given as the time."""
        return SystemClock()

    # ------------------------------------------------------------------ tests

    @looped
    async def test_discover_is_stable(self) -> None:
        source = self.make_source()
        names = await source.discover()
        assert names == await source.discover(), "the second call has another answer"
        assert names == await self.make_source().discover(), "another object has another answer"
        assert len(set(names)) == len(names), "a name stands for two partitions"
        assert all(type(name) is str for name in names)

    @looped
    async def test_brings_every_record_once(self) -> None:
        source = self.make_source()
        reader = await self._reader(source, dict.fromkeys(await source.discover()))
        batches = await self._read(source, reader)
        await reader.close()
        same_records(_values(batches), self.expected(), "all records")
        for batch in batches:
            if source.assigns_timestamps:
                assert batch.timestamps.min() > MIN_TIMESTAMP, "a record without event time"

    @looped
    async def test_goes_on_from_every_position(self) -> None:
        source = self.make_source()
        start = dict.fromkeys(await source.discover())
        reader = await self._reader(source, start)
        whole = len(await self._read(source, reader))
        await reader.close()
        for count in range(0, whole + 1, 1 + whole // _MOST_RESTARTS):
            first = await self._reader(source, start)
            before = await self._read(source, first, batches=count)
            positions = _stored(first.snapshot())
            await first.close()
            again = self.make_source()
            second = await self._reader(again, positions)
            after = await self._read(again, second)
            await second.close()
            same_records(
                _values(before + after), self.expected(), f"restored behind {count} batches"
            )

    @looped
    async def test_a_snapshot_is_not_changed_by_reading_on(self) -> None:
        source = self.make_source()
        reader = await self._reader(source, dict.fromkeys(await source.discover()))
        await self._read(source, reader, batches=1)
        snapshot = reader.snapshot()
        kept = encode(snapshot)
        await self._read(source, reader)
        assert encode(snapshot) == kept
        await reader.close()

    @looped
    async def test_a_snapshot_names_every_partition(self) -> None:
        source = self.make_source()
        names = await source.discover()
        reader = await self._reader(source, dict.fromkeys(names))
        assert set(reader.snapshot()) == set(names), "before the first record"
        await self._read(source, reader)
        assert set(reader.snapshot()) == set(names), "at the end"
        await reader.close()

    @looped
    async def test_what_has_ended_stays_ended(self) -> None:
        source = self.make_source()
        reader = await self._reader(source, dict.fromkeys(await source.discover()))
        await self._read(source, reader)
        assert reader.poll() is None
        positions = _stored(reader.snapshot())
        await reader.close()
        again = self.make_source()
        second = await self._reader(again, positions)
        assert not _values(await self._read(again, second)), "records come again"
        assert not (again.bounded and second.active), f"still active: {second.active}"
        assert set(second.snapshot()) == set(positions), "a partition that ended was forgotten"
        await second.close()

    @looped
    async def test_partitions_move_between_readers(self) -> None:
        source = self.make_source()
        names = await source.discover()
        first = await self._reader(source, dict.fromkeys(names))
        before = await self._read(source, first, batches=2)
        positions = _stored(first.snapshot())
        await first.close()
        parts: list[dict[str, Any]] = [{}, {}]
        for number, name in enumerate(names):
            parts[number % 2][name] = positions[name]
        readers = [
            await self._reader(source, part, index=index, parallelism=2)
            for index, part in enumerate(parts)
        ]
        for reader in readers:
            before += await self._read(source, reader, batches=1)
        merged = {k: v for reader in readers for k, v in _stored(reader.snapshot()).items()}
        for reader in readers:
            await reader.close()
        last = await self._reader(source, merged)
        after = await self._read(source, last)
        await last.close()
        same_records(_values(before + after), self.expected(), "one reader, then two, then one")

    @looped
    async def test_active_is_one_set_and_kept_up_to_date(self) -> None:
        source = self.make_source()
        reader = source.reader()
        await reader.open(self._context(0, 1))
        active = reader.active
        reader.assign(dict.fromkeys(await source.discover()))
        gone: set[str] = set()
        while True:
            before = set(reader.active)
            read = await self._read(source, reader, batches=1)
            assert reader.active is active, "the task holds on to the first set"
            if not read:
                break
            partition = read[0].partition
            assert partition in before, f"{partition!r} was not active"
            assert partition not in gone, f"{partition!r} had ended"
            gone |= before - reader.active
        assert not (source.bounded and active), f"still active at the end: {active}"
        await reader.close()

    @looped
    async def test_a_reader_without_partitions_has_nothing(self) -> None:
        source = self.make_source()
        reader = await self._reader(source, {})
        assert reader.poll() is None
        assert reader.snapshot() == {} and not reader.active
        await reader.close()

    @looped
    async def test_close_at_any_time_and_twice(self) -> None:
        source = self.make_source()
        unopened = source.reader()
        await unopened.close()
        reader = await self._reader(source, dict.fromkeys(await source.discover()))
        await self._read(source, reader, batches=1)
        await reader.close()
        await reader.close()

    # ------------------------------------------------------------------ inside

    def _context(self, index: int, parallelism: int) -> ReaderContext:
        dead: list[DeadLetter] = []
        return ReaderContext(
            node="source",
            index=index,
            parallelism=parallelism,
            batch_rows=self.batch_rows,
            layout=self.layout,
            clock=self.clock(),
            counters=Counters(),
            watermarks={},
            dead_letter=dead.append,
        )

    async def _reader(
        self,
        source: Source[T],
        positions: Mapping[str, Any],
        *,
        index: int = 0,
        parallelism: int = 1,
    ) -> SourceReader[T]:
        reader = source.reader()
        await reader.open(self._context(index, parallelism))
        reader.assign(positions)
        return reader

    async def _read(
        self, source: Source[T], reader: SourceReader[T], *, batches: int | None = None
    ) -> list[Batch]:
        """Read on: so many batches, or to the end; an unbounded source has none, so wait."""
        read: list[Batch] = []
        waits = 0
        while batches is None or len(read) < batches:
            batch = reader.poll()
            if batch is not None:
                assert len(batch), "an empty batch"
                assert batch.partition is not None, "a batch that names no partition"
                assert len(batch) <= self.batch_rows or not self.keeps_batch_rows, "too many rows"
                read.append(batch)
                waits = 0
                continue
            if source.bounded and not reader.active:
                break
            if not source.bounded and waits >= self.quiet_waits:
                break
            waits += 1
            assert waits < _MOST_WAITS, f"nothing comes, but {reader.active} are active"
            await reader.wait()
        return read


def _values(batches: Sequence[Batch]) -> list[Any]:
    return [value for batch in batches for value in batch.to_rows().values]


def _stored(positions: dict[str, Any]) -> dict[str, Any]:
    """Positions as they come back from a checkpoint."""
    stored: dict[str, Any] = decode(encode(positions))
    return stored
