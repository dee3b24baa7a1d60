"""Job: the root of a pipeline. It collects nodes and edges into a JobGraph.

It reads nothing and starts nothing: whoever runs a job takes its ``graph()``. What can be done
with a stream stands in ``stream``.
"""

from __future__ import annotations

from typing import Any, TypeVar

from streamline.dsl.builder import GraphBuilder
from streamline.dsl.stream import Stream
from streamline.errors import UsageError
from streamline.graph import JobGraph
from streamline.io import Layout, Source
from streamline.keys import DEFAULT_MAX_PARALLELISM
from streamline.plural import counted

T = TypeVar("T")


class Job:
    """A named pipeline.

    Args:
        name: Names the job's state folder and its output; letters, digits, ``-``, ``_``, ``.``.
        max_parallelism: Number of key groups; fixed once the job has state.

    Raises:
        UsageError: If the name or the number cannot be used.

    >>> import streamline as sl
    >>> from streamline.connectors.collection import CollectionSource
    >>> from streamline.connectors.stdout import StdoutSink
    >>> job = sl.Job("shout")
    >>> lines = job.source("lines", CollectionSource(["a", "b"]))
    >>> lines.map(str.upper).sink("out", StdoutSink(sl.Text()))
    >>> [node.id for node in job.graph().nodes]
    ['lines', 'map', 'out']
    """

    def __init__(self, name: str, *, max_parallelism: int = DEFAULT_MAX_PARALLELISM) -> None:
        text = isinstance(name, str)
        if (
            not text
            or not name
            or name.startswith(".")
            or not all(c.isalnum() or c in "-_." for c in name)
        ):
            raise UsageError(
                f"the job name {name!r} must be made of letters, digits, '-', '_' and '.', and not "
                "begin with a dot"
            )
        if not 1 <= max_parallelism <= 1 << 15:
            raise UsageError(f"max_parallelism={max_parallelism} must be between 1 and {1 << 15}")
        self._builder = GraphBuilder(JobGraph(name, max_parallelism=max_parallelism))

    @property
    def name(self) -> str:
        """The job's name.

        >>> Job("shout").name
        'shout'
        """
        return self._builder.graph.name

    def graph(self) -> JobGraph:
        """What has been built so far; :meth:`JobGraph.validate` tells whether it can run.

        >>> import streamline as sl
        >>> sl.Job("empty").graph().nodes
        []
        """
        return self._builder.graph

    def source(
        self,
        name: str,
        source: Source[T],
        *,
        parallelism: int | None = None,
        layout: Layout = "rows",
    ) -> Stream[T]:
        """Begin a stream.

        Args:
            name: Name of the node.
            source: Where the records come from.
            parallelism: Parallel readers, if not the job's default.
            layout: ``"columns"`` asks the source for columns, where its format has them.

        Raises:
            GraphError: If the name is taken.
            UsageError: If ``source`` is not a source, or the layout is unknown.

        >>> import streamline as sl
        >>> from streamline.connectors.collection import CollectionSource
        >>> job = sl.Job("example")
        >>> orders = job.source("orders", CollectionSource([{"user": "ada", "amount": 3}]))
        >>> isinstance(orders, sl.Stream), job.graph().nodes[0].id
        (True, 'orders')
        """
        if not isinstance(source, Source):
            raise UsageError(f"job.source({name!r}, ...) needs a Source, not {source!r:.80}")
        if layout not in ("rows", "columns"):
            raise UsageError(f'layout={layout!r} must be "rows" or "columns"')
        node = self._builder.add(
            "source", source, name=name, parallelism=parallelism, layout=layout
        )
        return Stream(self._builder, node)

    def __repr__(self) -> str:
        return f"Job({self.name!r}, {counted(len(self.graph().nodes), 'node')})"


def as_graph(job: Any) -> JobGraph:
    """The graph of what a job file exposes.

    Raises:
        UsageError: If it is not a Job.
    """
    if isinstance(job, Job):
        return job.graph()
    raise UsageError(f"expected a streamline Job, not {type(job).__name__} ({job!r:.80})")
