"""Drive readers and writers by hand: without a task, an event loop or threads."""

from streamline.clock import ManualClock
from streamline.io import Counters, ReaderContext, WriterContext


def now(coroutine):
    """The result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise AssertionError("it waits")


def reader_context(
    index=0,
    parallelism=1,
    *,
    batch_rows=10,
    layout="rows",
    clock=None,
    watermarks=None,
    dead_letters=None,
):
    """What a reader is told; dead letters are appended to a list."""
    letters = [] if dead_letters is None else dead_letters
    return ReaderContext(
        node="in",
        index=index,
        parallelism=parallelism,
        batch_rows=batch_rows,
        layout=layout,
        clock=clock or ManualClock(),
        counters=Counters(),
        watermarks={} if watermarks is None else watermarks,
        dead_letter=letters.append,
    )


def writer_context(
    *,
    job="job",
    node="out",
    index=0,
    parallelism=1,
    run="run1",
    restored=False,
    restored_epoch=None,
    lineage="life1",
):
    """What a writer is told."""
    return WriterContext(
        job=job,
        node=node,
        index=index,
        parallelism=parallelism,
        run=run,
        restored=restored,
        clock=ManualClock(),
        counters=Counters(),
        restored_epoch=restored_epoch,
        lineage=lineage,
    )


class Readers:
    """Some readers of one source side by side, partitions dealt out in turn."""

    def __init__(self, source, count=1, positions=None, **context):
        self.source = source
        self.contexts = [reader_context(index, count, **context) for index in range(count)]
        self.readers = [source.reader() for _ in range(count)]
        self.values = []
        self.batches = []
        self.polls = 0
        self._turn = 0
        for reader, context in zip(self.readers, self.contexts):
            now(reader.open(context))
        if positions is None:
            positions = dict.fromkeys(now(source.discover()))
        self.assign(positions)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for reader in self.readers:
            now(reader.close())
            now(reader.close())

    def assign(self, positions):
        """Deal out partitions."""
        parts = [{} for _ in self.readers]
        for number, (name, position) in enumerate(sorted(positions.items())):
            parts[number % len(parts)][name] = position
        for reader, part in zip(self.readers, parts):
            reader.assign(part)

    @property
    def active(self):
        return set().union(*(reader.active for reader in self.readers))

    def poll(self):
        """One poll of the reader whose turn it is; true if it brought something."""
        reader = self.readers[self._turn % len(self.readers)]
        self._turn += 1
        self.polls += 1
        before = set(reader.active)
        batch = reader.poll()
        if batch is None:
            return False
        assert len(batch) > 0
        assert batch.partition in before
        self.batches.append(batch)
        self.values += batch.to_rows().values
        return True

    def poll_some(self, count):
        for _ in range(count):
            self.poll()
        return self

    def read_all(self, most=100_000):
        """Read until all readers have ended; what was read, in order of reading."""
        for _ in range(most):
            if not self.active:
                return self.values
            self.poll()
        raise AssertionError("it never ends")

    def read_what_is_there(self):
        """Read until no reader has anything right now; for a source that does not end."""
        quiet = 0
        while quiet < len(self.readers):
            quiet = 0 if self.poll() else quiet + 1
        return self.values

    def snapshot(self):
        positions = {}
        for reader in self.readers:
            part = reader.snapshot()
            assert not positions.keys() & part.keys()
            positions |= part
        return positions

    def counted(self, name):
        return sum(getattr(context.counters, name) for context in self.contexts)


def read_all(source, count=1, positions=None, **context):
    """All values of a source, in order of reading."""
    with Readers(source, count, positions, **context) as readers:
        return readers.read_all()
