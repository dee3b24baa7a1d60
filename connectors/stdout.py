"""StdoutSink: records as lines on standard output, for a look at a stream.

The shortest sink there is, and an example for one of your own that cannot take back what it wrote:
there is nothing to prepare, and nothing to commit.
"""

from __future__ import annotations

import sys
from typing import Any, TypeVar

from streamline.batch import Batch
from streamline.errors import UsageError
from streamline.formats import Format, Json
from streamline.io import Committable, Guarantee, Sink, SinkWriter, WriterContext

T = TypeVar("T")


class StdoutSink(Sink[T]):
    """Prints each record at once: at least once, what is printed cannot be taken back.

    Args:
        format: How values are encoded; JSON if not given.

    >>> import streamline as sl
    >>> from streamline.connectors.collection import CollectionSource
    >>> job = sl.Job("hello")
    >>> job.source("words", CollectionSource(["so", "far"])).sink("terminal", StdoutSink(sl.Text()))
    >>> [node.id for node in job.graph().nodes]
    ['words', 'terminal']
    """

    guarantee = Guarantee.AT_LEAST_ONCE

    def __init__(self, format: Format[Any] | None = None) -> None:
        self.format = Json() if format is None else format

    def writer(self) -> SinkWriter[T]:
        return _Writer(self.format)


class _Writer(SinkWriter[T]):
    def __init__(self, format: Format[Any]) -> None:
        self._format = format

    async def open(self, context: WriterContext) -> None:
        self._context = context

    def write(self, batch: Batch) -> None:
        data = self._format.encode_lines(batch.to_rows().values)
        try:
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except OSError as error:
            raise UsageError(  # trying again cannot help
                f"sink {self._context.node!r}: standard output was closed: {error}"
            ) from error
        self._context.counters.bytes_out += len(data)

    async def prepare(self, epoch: int) -> list[Committable]:
        return []

    async def commit(self, committables: list[Committable]) -> None:
        pass

    async def close(self) -> None:
        pass
