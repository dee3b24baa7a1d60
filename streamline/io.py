"""All that a connector sees: Source and SourceReader, Sink and SinkWriter.

A description (Source, Sink) is small, frozen and travels with the job; the running object
(SourceReader, SinkWriter) belongs to one task and is only ever called by it, one call at a
time. What is called per batch is synchronous; what is called per epoch may wait.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from streamline.batch import Batch
from streamline.clock import Clock
from streamline.errors import DecodeError, UsageError
from streamline.messages import MAX_TIMESTAMP
from streamline.record import Record

T = TypeVar("T")
Position: TypeAlias = Any
"""Where a reader stands in a partition: any value that the codec can write."""
Committable: TypeAlias = Any
"""What a sink has prepared and can still commit after a crash: any value the codec can write."""
Layout: TypeAlias = Literal["rows", "columns"]
SHOWN_BYTES = 120
"""So much of a record is shown in an error."""
OnError: TypeAlias = Literal["fail", "skip", "dead_letter"]
"""What becomes of a record that cannot be decoded, or on which a function raises."""


def checked_on_error(on_error: OnError) -> OnError:
    """The value itself.

    Raises:
        UsageError: If it is none of the three.
    """
    if on_error not in ("fail", "skip", "dead_letter"):
        raise UsageError(f'on_error={on_error!r} must be "fail", "skip" or "dead_letter"')
    return on_error


class DeadLetter(Record):
    """A record that could not be decoded, or on which a function raised, and why.

    Attributes:
        reason: One sentence.
        node: Name of the node: the source that read it, or the operator that was given it.
        partition: Partition of the source, such as a file's path; empty if not known any more.
        offset: Where in the partition it stands, or -1; the unit is the source's own.
        data: The bytes as they were read; the record as JSON if they are not known any more.
        trace: What a function raised, with the user's own frames; empty for bad bytes.

    >>> import streamline as sl
    >>> letter = sl.DeadLetter("not JSON", "orders", "orders.jsonl", 120, b"{user: ada}")
    >>> f"{letter.partition} byte {letter.offset}: {letter.reason}: {letter.text}"
    'orders.jsonl byte 120: not JSON: {user: ada}'
    """

    reason: str
    node: str
    partition: str
    offset: int
    data: bytes
    trace: str = ""

    @property
    def text(self) -> str:
        """The bytes as text; what is not UTF-8 is replaced."""
        return self.data.decode(errors="replace")


@dataclass
class Counters:
    """What one node of one task has counted since it was opened; only ever grows."""

    records_in: int = 0
    records_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    late: int = 0
    future: int = 0
    skipped: int = 0
    dead_letters: int = 0

    def add_to(self, total: dict[str, int]) -> None:
        """Add these counts to a sum, by name."""
        for name, value in vars(self).items():
            total[name] = total.get(name, 0) + value


def _nobody() -> int:
    return MAX_TIMESTAMP


@dataclass(frozen=True)
class ReaderContext:
    """What a reader is told when it is opened.

    Attributes:
        node: Name of the source in the job, for messages.
        index: Which parallel copy this is, of ``parallelism``.
        batch_rows: About how many records one ``poll`` is to return at most.
        layout: What the job would like; a reader may answer with the other.
        clock: The time.
        counters: To be counted up: ``bytes_in``, ``skipped``, ``dead_letters``.
        watermarks: Event time reached in each partition, kept up to date by the task; a
            reader that has the choice reads the partition that is furthest behind.
        dead_letter: Hand over a record that could not be decoded.
        restored: The job goes on from a checkpoint: a partition without a position is new.
        origins: Whether ``Batch.origins`` is wanted, for dead letters of functions.
        others: Event time that the slowest of the source's other tasks has reached, as they told
            last by ``SourceReader.reached``.

    A task makes it; so does a test that drives a reader by hand:

    >>> import streamline as sl
    >>> context = sl.ReaderContext(
    ...     node="orders",
    ...     index=0,
    ...     parallelism=1,
    ...     batch_rows=100,
    ...     layout="rows",
    ...     clock=sl.ManualClock(),
    ...     counters=Counters(),
    ...     watermarks={},
    ...     dead_letter=print,
    ... )
    >>> context.restored
    False
    """

    node: str
    index: int
    parallelism: int
    batch_rows: int
    layout: Layout
    clock: Clock
    counters: Counters
    watermarks: Mapping[str, int]
    dead_letter: Callable[[DeadLetter], None]
    restored: bool = False
    origins: bool = False
    others: Callable[[], int] = _nobody


def leave_out(context: ReaderContext, letter: DeadLetter, on_error: OnError, place: str) -> None:
    """What a reader does with a record that cannot be decoded: count it, hand it over, or raise.

    Args:
        context: The reader's.
        letter: The record, and why it cannot be decoded.
        on_error: What its format says is to be done.
        place: Where it stands, in words.

    Raises:
        DecodeError: If that is to fail; shows how the record begins.
    """
    if on_error == "skip":
        context.counters.skipped += 1
    elif on_error == "dead_letter":
        context.counters.dead_letters += 1
        context.dead_letter(letter)
    else:
        shown = letter.data[:SHOWN_BYTES]
        more = "..." if len(letter.data) > SHOWN_BYTES else ""
        raise DecodeError(
            f"source {context.node!r}, {place}: {letter.reason}: "
            f'{shown!r}{more} (on_error="skip" or "dead_letter" would go on)'
        )


class SourceReader(ABC, Generic[T]):
    """Reads the partitions assigned to one task.

    The example reads the numbers from 0 to 2, from wherever a snapshot left off:

    >>> import streamline as sl
    >>> from streamline.testing import CollectingSink, run_job
    >>> class ThreeReader(sl.SourceReader[int]):
    ...     def __init__(self):
    ...         self.active, self.next = set(), {}
    ...     async def open(self, context):
    ...         self.context = context
    ...     def assign(self, positions):
    ...         self.next.update((name, position or 0) for name, position in positions.items())
    ...         self.active.update(name for name in positions if self.next[name] < 3)
    ...     def poll(self):
    ...         if not self.active:
    ...             return None
    ...         name = self.active.pop()
    ...         rows, self.next[name] = list(range(self.next[name], 3)), 3
    ...         return sl.RowBatch(rows, partition=name)
    ...     async def wait(self): ...
    ...     def snapshot(self):
    ...         return dict(self.next)
    ...     async def close(self): ...
    >>> class Three(sl.Source[int]):
    ...     bounded = True
    ...     async def discover(self):
    ...         return ["only"]
    ...     def reader(self):
    ...         return ThreeReader()
    >>> job, sink = sl.Job("three"), CollectingSink()
    >>> job.source("numbers", Three()).sink("out", sink)
    >>> _ = run_job(job)
    >>> sink.records
    [0, 1, 2]

    Its tasks do not wait for each other, and it cannot tell how much there is to read:

    >>> ThreeReader().reached, ThreeReader().lag
    (None, None)

    Attributes:
        active: What may still bring records: names as in ``batch.partition``. The reader keeps
            it up to date, and removes a name with its last record. Usually they are the
            partitions; a reader that reads some of them in order as one gives that one a name.
    """

    active: set[str]

    @abstractmethod
    async def open(self, context: ReaderContext) -> None:
        """Get ready; called once, first.

        Raises:
            ConnectorError: If the system cannot be reached or used.
        """

    @abstractmethod
    def assign(self, positions: Mapping[str, Position | None]) -> None:
        """Add partitions, each at the position of a snapshot, or None for its beginning.

        Reading goes on exactly behind the last record covered by that snapshot.
        """

    @abstractmethod
    def poll(self) -> Batch | None:
        """The next records, all of one partition, or None if there are none right now.

        Never waits and never returns an empty batch. ``batch.partition`` names the partition.

        Raises:
            DecodeError: For a bad record, when the format says so.
            ConnectorError: If the system failed.
        """

    @abstractmethod
    async def wait(self) -> None:
        """Return when ``poll`` may have something, or when some time has passed; cancellable."""

    @abstractmethod
    def snapshot(self) -> dict[str, Position]:
        """The position behind the last record returned, of every partition ever assigned.

        A partition that has ended is included, or else it would be read again.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything; may be called at any time, also twice."""

    @property
    def watermark(self) -> int | None:
        """Event time that no later record is to fall behind, or None if the reader cannot tell.

        The task asks before each ``poll`` and hands it on. It follows from the positions, so
        that a restored reader says the same; ``with_timestamps`` may go further, never back.
        """
        return None

    @property
    def lag(self) -> int | None:
        """How many records there are that have not been read yet, or None if nobody can tell.

        For monitoring only: asked from another thread, and may be some seconds old.
        """
        return None

    @property
    def lag_bytes(self) -> int | None:
        """How many bytes there are that have not been read yet; otherwise as :attr:`lag`."""
        return None

    @property
    def reached(self) -> int | None:
        """Event time of the slowest partition, if the source's other tasks are to wait for it.

        ``MAX_TIMESTAMP`` when nothing is to be read, for now or for ever; None if the tasks of
        this source never wait for each other. Asked from another thread.
        """
        return None

    async def checkpoint_committed(self, positions: Mapping[str, Position]) -> None:
        """A checkpoint with these positions is complete. For monitoring only; may be missed."""


class Source(ABC, Generic[T]):
    """Describes where records come from.

    How one is written is shown at :class:`SourceReader`.

    Attributes:
        assigns_timestamps: Its records have event times without ``with_timestamps``.

    >>> import asyncio
    >>> from streamline.connectors.collection import CollectionSource
    >>> source = CollectionSource(["a", "b", "c"], partitions=2)
    >>> source.bounded, source.dead_letters, asyncio.run(source.discover())
    (True, False, ['00000', '00001'])
    >>> isinstance(source.reader(), SourceReader)
    True
    """

    assigns_timestamps: bool = False

    @property
    @abstractmethod
    def bounded(self) -> bool:
        """Whether it ends by itself."""

    @abstractmethod
    async def discover(self) -> list[str]:
        """Names of all partitions there are now; stable names, in a stable order.

        Called before the first start, and from time to time while an unbounded source runs.

        Raises:
            ConnectorError: If there is nothing to read or no access; says what to do.
        """

    def adopt(self, positions: Mapping[str, Position | None]) -> dict[str, Position | None]:
        """The positions of a checkpoint, under the names that ``discover`` has for them now.

        Names may depend on settings that were changed since. What would be found under another
        name than it is known by would be read twice.

        Raises:
            ConnectorError: If it cannot be gone on from there with these settings.
        """
        return dict(positions)

    @abstractmethod
    def reader(self) -> SourceReader[T]:
        """A new reader for one task."""

    @property
    def dead_letters(self) -> bool:
        """Whether bad records are handed to ``ReaderContext.dead_letter``."""
        return False


class Guarantee(StrEnum):
    """What a sink promises after crashes.

    >>> import streamline as sl
    >>> from streamline.connectors.files import FileSink
    >>> FileSink("out", format=sl.Json()).guarantee is sl.Guarantee.EXACTLY_ONCE
    True
    >>> str(sl.Guarantee.AT_LEAST_ONCE)
    'at-least-once'
    """

    AT_LEAST_ONCE = "at-least-once"
    EXACTLY_ONCE = "exactly-once"


def _no_probe(point: str) -> None:
    pass


@dataclass(frozen=True)
class WriterContext:
    """What a writer is told when it is opened.

    Attributes:
        job: Name of the job.
        node: Name of the sink in the job.
        index: Which parallel copy this is, of ``parallelism``.
        run: Names this attempt to run the job; no other attempt ever has the same.
        restored: The job goes on from a checkpoint; otherwise it starts from scratch.
        clock: The time.
        counters: To be counted up: ``bytes_out``.
        restored_epoch: The checkpoint it goes on from, or None. Usually nothing of a later
            epoch was ever committed; after damage to a checkpoint, or when begun from an older
            one, a sink that can should take back what was.
        lineage: Names the life of the job, from its start from scratch over all restores: what
            was committed under another name is not of this life.
        checkpoint_interval_ms: How often checkpoints are taken, if it is known.
        whole_run: Names the run that this attempt belongs to, the same over all its restarts.
        took_over: An earlier attempt of this run has been at work, so it has taken over from
            the runs before it. Who holds its place now is of a newer run, and this one has to
            give way: raise FencedError.
        probe: Called with the name of a point where a crash is worth a test; does nothing in
            production.

    A task makes it; so does a test that drives a writer by hand:

    >>> import streamline as sl
    >>> context = sl.WriterContext(
    ...     job="spend",
    ...     node="out",
    ...     index=0,
    ...     parallelism=1,
    ...     run="first",
    ...     restored=False,
    ...     clock=sl.ManualClock(),
    ... )
    >>> context.restored_epoch is None
    True
    """

    job: str
    node: str
    index: int
    parallelism: int
    run: str
    restored: bool
    clock: Clock
    counters: Counters = field(default_factory=Counters)
    restored_epoch: int | None = None
    lineage: str = ""
    checkpoint_interval_ms: int | None = None
    whole_run: str = ""
    took_over: bool = False
    probe: Callable[[str], None] = _no_probe


class SinkWriter(ABC, Generic[T]):
    """Writes the records of one task, in two phases.

    Order of calls: ``open``, ``recover``, then ``write`` any number of times, ``prepare`` at
    each barrier, and ``commit`` once the checkpoint of that barrier is complete; ``close``.

    The example puts records into a dict. What it has prepared is in the committable itself, so
    another process could commit it; to commit it twice changes nothing.

    >>> import streamline as sl
    >>> from streamline.connectors.collection import CollectionSource
    >>> from streamline.testing import run_job
    >>> place = {}
    >>> class DictWriter(sl.SinkWriter[str]):
    ...     async def open(self, context):
    ...         self.index, self.pending = context.index, []
    ...     def write(self, batch):
    ...         self.pending += batch.to_rows().values
    ...     async def prepare(self, epoch):
    ...         records, self.pending = self.pending, []
    ...         return [[self.index, epoch, records]] if records else []
    ...     async def commit(self, committables):
    ...         for index, epoch, records in committables:
    ...             place[index, epoch] = records
    ...     async def close(self): ...
    >>> class DictSink(sl.Sink[str]):
    ...     guarantee = sl.Guarantee.EXACTLY_ONCE
    ...     def writer(self):
    ...         return DictWriter()
    >>> job = sl.Job("copy")
    >>> job.source("words", CollectionSource(["so", "far"])).sink("out", DictSink())
    >>> _ = run_job(job)
    >>> list(place.values())
    [['so', 'far']]
    """

    @abstractmethod
    async def open(self, context: WriterContext) -> None:
        """Get ready. What earlier attempts left prepared must not be touched yet."""

    async def recover(self, committables: list[Committable]) -> None:
        """Called once after ``open``, before the first ``write``.

        The earlier writers are shared out: this one settles what those left behind whose index,
        modulo ``context.parallelism``, is its own. The others may be at work at the same time.

        Args:
            committables: What the checkpoint holds of those earlier writers: commit it (some or
                all may have been committed already). Whatever else they left unfinished is to
                be removed: no checkpoint names it.
        """
        await self.commit(committables)

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Take a batch. It must not be visible to readers before ``commit``."""

    async def ready(self) -> None:
        """Return when there is room for another ``write``; the task waits for it."""

    @abstractmethod
    async def prepare(self, epoch: int) -> list[Committable]:
        """Make all that was written since the last call durable, still invisible.

        Returns:
            What ``commit`` needs, also in another process after a crash.
        """

    @abstractmethod
    async def commit(self, committables: list[Committable]) -> None:
        """Make prepared records visible. Repeating it changes nothing."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything, without committing; may be called at any time, also twice."""


class Sink(ABC, Generic[T]):
    """Describes where records go.

    How one is written is shown at :class:`SinkWriter`.

    Attributes:
        guarantee: What it promises after crashes.

    >>> import streamline as sl
    >>> from streamline.connectors.stdout import StdoutSink
    >>> sink = StdoutSink(sl.Text())
    >>> str(sink.guarantee), isinstance(sink.writer(), SinkWriter)
    ('at-least-once', True)
    """

    guarantee: Guarantee = Guarantee.AT_LEAST_ONCE

    @abstractmethod
    def writer(self) -> SinkWriter[T]:
        """A new writer for one task."""
