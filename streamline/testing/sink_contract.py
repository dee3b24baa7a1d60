"""SinkContract: what every sink must do, as tests to inherit.

Crashes are played: a writer is closed where it stands and another attempt takes over, with
what the checkpoint would hold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from streamline.batch import RowBatch
from streamline.clock import Clock, SystemClock
from streamline.codec import decode, encode
from streamline.io import Guarantee, Sink, SinkWriter, WriterContext
from streamline.testing.looped import looped, same_records

T = TypeVar("T")


class SinkContract(ABC, Generic[T]):
    """Subclass it under a name that begins with ``Test``, and say where the sink writes.

    The tests of two phases pass by themselves for a sink that promises at-least-once.

    Attributes:
        job: Name of the job, as writers are told it.

    >>> from streamline.testing import CollectingSink
    >>> class TestCollecting(SinkContract[str]):
    ...     def __init__(self) -> None:
    ...         self.sink = CollectingSink[str]()
    ...     def make_sink(self) -> CollectingSink[str]:
    ...         return self.sink
    ...     def visible(self) -> list[str]:
    ...         return self.sink.records
    ...     def records(self, count: int) -> list[str]:
    ...         return [f"record {number}" for number in range(count)]
    >>> TestCollecting().test_a_crash_after_prepare_loses_nothing()
    """

    job: str = "contract"

    @abstractmethod
    def make_sink(self) -> Sink[T]:
        """The sink under test; each call within a test means the same place."""

    @abstractmethod
    def visible(self) -> Sequence[T]:
        """What a reader outside the job sees there now."""

    @abstractmethod
    def records(self, count: int) -> list[T]:
        """Some records, all different, the same ones at each call."""

    def clock(self) -> Clock:
        """What writers are given as the time."""
        return SystemClock()

    # ------------------------------------------------------------------ tests

    @looped
    async def test_records_are_visible_after_commit_and_not_before(self) -> None:
        records = self.records(4)
        writer = await self._writer("a")
        self._write(writer, records[:3])
        self._write(writer, records[3:])
        self._hidden(records, "written")
        prepared = await self._prepare(writer, 1)
        self._hidden(records, "prepared")
        await writer.commit(prepared)
        same_records(self.visible(), records, "after commit")
        await writer.close()
        same_records(self.visible(), records, "after close")

    @looped
    async def test_commit_twice_is_commit_once(self) -> None:
        records = self.records(3)
        writer = await self._writer("a")
        self._write(writer, records)
        prepared = await self._prepare(writer, 1)
        await writer.commit(prepared)
        await writer.commit(prepared)
        await writer.close()
        same_records(self.visible(), records, "by the same writer")
        second = await self._writer("b", restored=1, committables=prepared)
        await second.commit(prepared)
        await second.close()
        same_records(self.visible(), records, "by the next attempt")

    @looped
    async def test_an_epoch_without_records(self) -> None:
        writer = await self._writer("a")
        await writer.commit(await self._prepare(writer, 1))
        await writer.commit([])
        self._write(writer, self.records(2))
        await writer.commit(await self._prepare(writer, 2))
        await writer.close()
        same_records(self.visible(), self.records(2), "behind an empty epoch")

    @looped
    async def test_several_epochs_in_one_commit(self) -> None:
        records = self.records(4)
        writer = await self._writer("a")
        prepared: list[Any] = []
        for epoch, record in enumerate(records, start=1):
            self._write(writer, [record])
            prepared += await self._prepare(writer, epoch)
        self._hidden(records, "prepared")
        await writer.commit(prepared)
        await writer.close()
        same_records(self.visible(), records, "after one commit of four epochs")

    @looped
    async def test_a_crash_before_prepare_leaves_nothing(self) -> None:
        first = await self._writer("a")
        self._write(first, self.records(2))
        await first.close()
        self._hidden(self.records(2), "closed")
        second = await self._writer("b")
        self._write(second, self.records(3))
        await second.commit(await self._prepare(second, 1))
        await second.close()
        if self._two_phases:
            same_records(self.visible(), self.records(3), "of the second attempt alone")

    @looped
    async def test_a_crash_after_prepare_loses_nothing(self) -> None:
        records = self.records(5)
        first = await self._writer("a")
        self._write(first, records[:3])
        prepared = await self._prepare(first, 1)
        await first.close()
        self._hidden(records, "closed")
        second = await self._writer("b", restored=1, committables=prepared)
        same_records(self.visible(), records[:3], "recovered")
        self._write(second, records[3:])
        await second.commit(await self._prepare(second, 2))
        await second.close()
        same_records(self.visible(), records, "of both attempts")

    @looped
    async def test_what_no_checkpoint_names_never_appears(self) -> None:
        if not self._two_phases:
            return
        records = self.records(5)
        first = await self._writer("a")
        self._write(first, records[:2])
        one = await self._prepare(first, 1)
        self._write(first, records[2:4])
        await self._prepare(first, 2)
        await first.close()
        second = await self._writer("b", restored=1, committables=one)
        same_records(self.visible(), records[:2], "recovered from epoch 1")
        self._write(second, records[2:])  # the sources are read again from there
        await second.commit(await self._prepare(second, 2))
        await second.close()
        same_records(self.visible(), records, "at the end")

    @looped
    async def test_a_crash_between_commits_of_two_writers(self) -> None:
        records = self.records(6)
        writers = [await self._writer("a", index=index, parallelism=2) for index in range(2)]
        prepared: list[list[Any]] = []
        for index, writer in enumerate(writers):
            self._write(writer, records[index::2])
            prepared.append(await self._prepare(writer, 1))
        await writers[0].commit(prepared[0])
        for writer in writers:
            await writer.close()
        last = await self._writer("b", restored=1, committables=prepared[0] + prepared[1])
        same_records(self.visible(), records, "recovered by one writer")
        await last.close()

    @looped
    async def test_recovered_by_more_writers_and_by_fewer(self) -> None:
        records = self.records(6)
        prepared: list[list[Any]] = [[]]
        for attempt, parallelism in enumerate((2, 3, 1)):
            expected = records[: 2 * attempt]
            writers = [
                await self._writer(
                    f"run{attempt}",
                    index=index,
                    parallelism=parallelism,
                    restored=attempt or None,
                    committables=[one for share in prepared[index::parallelism] for one in share],
                )
                for index in range(parallelism)
            ]
            if self._two_phases:
                same_records(self.visible(), expected, f"recovered by {parallelism}")
            for index, writer in enumerate(writers):
                own = records[2 * attempt : 2 * attempt + 2][index::parallelism]
                if own:
                    self._write(writer, own)
            prepared = [await self._prepare(writer, attempt + 1) for writer in writers]
            if attempt == 2:
                await writers[0].commit(prepared[0])
            elif not self._two_phases:
                for writer, items in zip(writers, prepared, strict=True):
                    await writer.commit(items)
            for writer in writers:
                await writer.close()
        same_records(self.visible(), records, "at the end")

    @looped
    async def test_writers_side_by_side_keep_out_of_each_others_way(self) -> None:
        records = self.records(9)
        writers = [await self._writer("a", index=index, parallelism=3) for index in range(3)]
        for index, writer in enumerate(writers):
            self._write(writer, records[index::3])
        prepared = [await self._prepare(writer, 1) for writer in writers]
        await writers[1].commit(prepared[1])
        await writers[0].close()
        if self._two_phases:
            # A reader may have to wait for writers that are still at it, but sees nothing of them.
            others = [one for one in self.visible() if one not in records[1::3]]
            same_records(others, [], "visible although not committed")
        await writers[2].commit(prepared[2])
        await writers[1].commit(prepared[0])
        for writer in writers:
            await writer.close()
        same_records(self.visible(), records, "of all writers")

    @looped
    async def test_close_at_any_time_and_twice(self) -> None:
        await self.make_sink().writer().close()
        writer = await self._writer("a")
        self._write(writer, self.records(1))
        await writer.close()
        await writer.close()

    # ------------------------------------------------------------------ inside

    @property
    def _two_phases(self) -> bool:
        return self.make_sink().guarantee == Guarantee.EXACTLY_ONCE

    def _hidden(self, records: Sequence[T], when: str) -> None:
        if self._two_phases:
            same_records(self.visible(), [], f"visible although only {when}")

    async def _writer(
        self,
        run: str,
        *,
        index: int = 0,
        parallelism: int = 1,
        restored: int | None = None,
        committables: Sequence[Any] = (),
    ) -> SinkWriter[T]:
        """A writer as a task would begin with it."""
        writer = self.make_sink().writer()
        await writer.open(
            WriterContext(
                job=self.job,
                node="sink",
                index=index,
                parallelism=parallelism,
                run=run,
                restored=restored is not None,
                clock=self.clock(),
                restored_epoch=restored,
                lineage="life",
            )
        )
        await writer.recover(list(committables))
        return writer

    def _write(self, writer: SinkWriter[T], records: Sequence[T]) -> None:
        writer.write(RowBatch(list(records)))

    async def _prepare(self, writer: SinkWriter[T], epoch: int) -> list[Any]:
        """Committables as they come back from a checkpoint."""
        await writer.ready()
        stored: list[Any] = decode(encode(await writer.prepare(epoch)))
        return stored
