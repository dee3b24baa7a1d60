"""The streams of the DSL: each call adds a node to the graph and returns the next stream.

A stream is a place in the graph, with no records in it. What is given to a method is checked at
once, in the user's words; what the node then does is known to the spec of its operator.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, Self, TypeVar, overload

from streamline.batch import Column
from streamline.config import Duration, duration_ms, positive_duration_ms
from streamline.dsl.builder import GraphBuilder
from streamline.errors import UsageError
from streamline.expr import Expr
from streamline.graph import DEAD_LETTERS, MAIN, Body, Node, Partitioning
from streamline.io import DeadLetter, OnError, Sink, checked_on_error
from streamline.operators.aggregations import Aggregation
from streamline.operators.base import LATE
from streamline.operators.key_by import KeyBySpec
from streamline.operators.map_batch import MapBatchSpec
from streamline.operators.process import ProcessFunction, ProcessSpec
from streamline.operators.reduce import KeyedAggregateSpec, ReduceSpec
from streamline.operators.rows import RowKind, RowSpec
from streamline.operators.timestamps import TimestampsSpec
from streamline.operators.union import UnionSpec
from streamline.operators.windows.assigners import Session, Sliding, Tumbling, WindowBounds
from streamline.operators.windows.specs import window_aggregate, window_apply, window_reduce
from streamline.record import KeyedResult, WindowResult

T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K", bound=Hashable)
F = TypeVar("F")


def _callable(function: F, method: str) -> F:
    """The function itself; anything else is refused at once."""
    if not callable(function):
        raise UsageError(f".{method}() needs a function, not {function!r:.80}")
    return function


class Stream(Generic[T]):
    """Records of type ``T`` on their way; made by :meth:`Job.source` and by other streams.

    Every method takes ``name=`` (the node's stable name, by which its state is found again)
    and ``parallelism=`` (if not the job's default).

    Methods that take ``on_error=`` let a job go on when their function raises on a record:
    ``"fail"`` ends the job, ``"skip"`` leaves the record out and counts it, ``"dead_letter"``
    sends it to :attr:`dead_letters` of the stream they return.

    >>> import streamline as sl
    >>> from streamline.connectors.collection import CollectionSource
    >>> from streamline.testing import CollectingSink, run_job
    >>> job, sink = sl.Job("cheap"), CollectingSink()
    >>> prices = job.source("prices", CollectionSource([3, 12, 5]))
    >>> prices.filter(lambda price: price < 10).map(lambda price: f"{price} EUR").sink("out", sink)
    >>> _ = run_job(job)
    >>> sink.records
    ['3 EUR', '5 EUR']
    """

    def __init__(
        self,
        builder: GraphBuilder,
        node: Node,
        *,
        tag: str = MAIN,
        partitioning: Partitioning = Partitioning.FORWARD,
    ) -> None:
        self._builder = builder
        self._node = node
        self._tag = tag
        self._partitioning = partitioning

    def uid(self, name: str) -> Self:
        """Name the node just added, as ``name=`` does.

        Raises:
            GraphError: If the name is taken.
            UsageError: If the name cannot be used.

        >>> import streamline as sl
        >>> from streamline.connectors.collection import CollectionSource
        >>> job = sl.Job("example")
        >>> words = job.source("words", CollectionSource(["a"])).map(str.upper).uid("upper")
        >>> [node.id for node in job.graph().nodes]
        ['words', 'upper']
        """
        self._builder.rename(self._node, name)
        return self

    @property
    def dead_letters(self) -> Stream[DeadLetter]:
        """Records that could not be decoded, or on which the function of this node raised.

        There are some if the source's format, or the node, says ``on_error="dead_letter"``.

        >>> import streamline as sl
        >>> from streamline.connectors.collection import CollectionSource
        >>> from streamline.testing import CollectingSink, run_job
        >>> job, numbers, letters = sl.Job("example"), CollectingSink(), CollectingSink()
        >>> texts = job.source("texts", CollectionSource(["1", "two", "3"]))
        >>> parsed = texts.map(int, on_error="dead_letter", name="parse")
        >>> parsed.sink("numbers", numbers)
        >>> parsed.dead_letters.sink("letters", letters)
        >>> _ = run_job(job)
        >>> numbers.records, [(letter.node, letter.text) for letter in letters.records]
        ([1, 3], [('parse', '"two"')])
        """
        return Stream(self._builder, self._node, tag=DEAD_LETTERS)

    @overload
    def map(
        self,
        function: Callable[[T], U],
        *,
        on_error: OnError = ...,
        name: str | None = ...,
        parallelism: int | None = ...,
    ) -> Stream[U]: ...
    @overload
    def map(
        self,
        function: Expr | str,
        *,
        on_error: OnError = ...,
        name: str | None = ...,
        parallelism: int | None = ...,
    ) -> Stream[Any]: ...
    def map(
        self,
        function: Callable[[T], Any] | Expr | str,
        *,
        on_error: OnError = "fail",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[Any]:
        """Replace each record by what the function, expression or field gives.

        Raises:
            UsageError: If it is none of these.

        >>> import streamline as sl
        >>> from streamline.testing import OperatorHarness
        >>> harness = OperatorHarness.of(lambda orders: orders.map(sl.col("amount") * 2))
        >>> harness.push({"amount": 3}, {"amount": 4})
        >>> harness.values()
        [6, 8]
        """
        return self._rows("map", function, on_error=on_error, name=name, parallelism=parallelism)

    def filter(
        self,
        function: Callable[[T], object] | Expr | str,
        *,
        on_error: OnError = "fail",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[T]:
        """Keep the records for which the function, expression or field is true.

        Raises:
            UsageError: If it is none of these.

        >>> from streamline.testing import OperatorHarness
        >>> harness = OperatorHarness.of(lambda numbers: numbers.filter(lambda n: n % 2 == 0))
        >>> harness.push(1, 2, 3, 4)
        >>> harness.values()
        [2, 4]
        """
        return self._rows("filter", function, on_error=on_error, name=name, parallelism=parallelism)

    @overload
    def flat_map(
        self,
        function: Callable[[T], Iterable[U]],
        *,
        on_error: OnError = ...,
        name: str | None = ...,
        parallelism: int | None = ...,
    ) -> Stream[U]: ...
    @overload
    def flat_map(
        self,
        function: Expr | str,
        *,
        on_error: OnError = ...,
        name: str | None = ...,
        parallelism: int | None = ...,
    ) -> Stream[Any]: ...
    def flat_map(
        self,
        function: Callable[[T], Iterable[Any]] | Expr | str,
        *,
        on_error: OnError = "fail",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[Any]:
        """Replace each record by all that the function yields for it, at its event time.

        A field or an expression gives a list, or another value to iterate over.

        Raises:
            UsageError: If it is neither of these, nor a function.

        >>> from streamline.testing import OperatorHarness
        >>> harness = OperatorHarness.of(lambda lines: lines.flat_map(str.split))
        >>> harness.push("so far", "so good")
        >>> harness.values()
        ['so', 'far', 'so', 'good']
        """
        return self._rows(
            "flat_map", function, on_error=on_error, name=name, parallelism=parallelism
        )

    def map_batch(
        self,
        function: Callable[[list[T]], Sequence[U]],
        *,
        on_error: OnError = "fail",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[U]:
        """Replace the records of a whole batch at once: one result for each, in order.

        For models and other code that is fast on many values. How the stream is cut into
        batches is the engine's choice, so the result for a record must not depend on it. If the
        function raises and ``on_error`` lets the job go on, it is called again for each record.

        Raises:
            UsageError: If it is not a function.

        >>> from streamline.testing import OperatorHarness
        >>> def scores(texts: list[str]) -> list[int]:
        ...     return [len(text) for text in texts]
        >>> harness = OperatorHarness.of(lambda texts: texts.map_batch(scores))
        >>> harness.push("good", "very good")
        >>> harness.values()
        [4, 9]
        """
        spec = MapBatchSpec(_callable(function, "map_batch"), "rows", checked_on_error(on_error))
        return Stream(self._builder, self._add(spec, name, parallelism))

    def map_columns(
        self,
        function: Callable[[Mapping[str, Column]], dict[str, Column]],
        *,
        on_error: OnError = "fail",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[Any]:
        """Like :meth:`map_batch`, on numpy columns: a dict of arrays in, a dict of arrays out.

        There is one array for each field, of shape ``(n,)`` for ``n`` records: int64, float64 or
        bool where all values are of that type, else of objects. The arrays that come back are as
        long; their names are the fields of the dicts that go on. Those given are read-only: take a
        ``.copy()`` of one that is to be changed.

        Raises:
            UsageError: If it is not a function.

        >>> from streamline.testing import OperatorHarness
        >>> harness = OperatorHarness.of(
        ...     lambda orders: orders.map_columns(lambda of: {"cost": of["price"] * of["count"]})
        ... )
        >>> harness.push({"price": 2, "count": 3}, {"price": 5, "count": 1})
        >>> harness.values()
        [{'cost': 6}, {'cost': 5}]
        """
        spec = MapBatchSpec(
            _callable(function, "map_columns"), "columns", checked_on_error(on_error)
        )
        return Stream(self._builder, self._add(spec, name, parallelism))

    def with_timestamps(
        self,
        time: str | Expr | Callable[[T], int | datetime],
        *,
        max_out_of_orderness: Duration = "0ms",
        idle_after: Duration | None = None,
        max_future: Duration = "1h",
        on_error: OnError = "fail",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[T]:
        """Set event times and make watermarks.

        Args:
            time: Field, expression or function giving ms since the epoch, or a datetime.
            max_out_of_orderness: How much older than its predecessors in the same partition a
                record may be without being late.
            idle_after: A partition silent for so long is not waited for.
            max_future: Event times further ahead of the clock do not move the watermark; they
                are counted.
            on_error: What becomes of a record without a usable event time.
            name: The node's stable name.
            parallelism: Parallel copies, if not the job's default.

        Raises:
            UsageError: For a duration that is none.

        >>> from streamline.testing import OperatorHarness
        >>> harness = OperatorHarness.of(
        ...     lambda orders: orders.with_timestamps("at", max_out_of_orderness="2s")
        ... )
        >>> harness.push({"at": 10_000}, {"at": 9_000})
        >>> harness.events()
        [Event(value={'at': 10000}, at=10000), Event(value={'at': 9000}, at=9000)]
        >>> harness.watermarks[-1].timestamp
        7999
        """
        if not callable(time) and not isinstance(time, str | Expr):
            raise UsageError(
                ".with_timestamps() needs a field name, an expression or a function, not "
                f"{time!r:.80}"
            )
        spec = TimestampsSpec(
            time,
            duration_ms(max_out_of_orderness, "max_out_of_orderness"),
            None if idle_after is None else positive_duration_ms(idle_after, "idle_after"),
            duration_ms(max_future, "max_future"),
            checked_on_error(on_error),
        )
        return Stream(self._builder, self._add(spec, name, parallelism))

    @overload
    def key_by(
        self,
        key: Callable[[T], K],
        *,
        on_error: OnError = ...,
        name: str | None = ...,
        parallelism: int | None = ...,
    ) -> KeyedStream[K, T]: ...
    @overload
    def key_by(
        self,
        key: str | Expr,
        *,
        on_error: OnError = ...,
        name: str | None = ...,
        parallelism: int | None = ...,
    ) -> KeyedStream[Any, T]: ...
    def key_by(
        self,
        key: str | Expr | Callable[[T], Any],
        *,
        on_error: OnError = "fail",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> KeyedStream[Any, T]:
        """Bring records of one key together, in one task.

        Keys are str, int, float, bytes, bool, None or tuples of those. Keys that are equal are
        one key: a bool, or a float without a fraction, is handed on as the int it equals.

        Raises:
            UsageError: If it is not a field name, an expression or a function.

        >>> import streamline as sl
        >>> from streamline.testing import OperatorHarness
        >>> harness = OperatorHarness.of(
        ...     lambda words: words.key_by(lambda word: word[0]).aggregate(n=sl.Count())
        ... )
        >>> harness.push("apple", "bread", "avocado")
        >>> [(count.key, count.n) for count in harness.values()]
        [('a', 1), ('b', 1), ('a', 2)]
        """
        if not callable(key) and not isinstance(key, str | Expr):
            raise UsageError(
                f".key_by() needs a field name, an expression or a function, not {key!r:.80}"
            )
        return KeyedStream(
            self._builder, self._add(KeyBySpec(key, checked_on_error(on_error)), name, parallelism)
        )

    def union(
        self, *others: Stream[T], name: str | None = None, parallelism: int | None = None
    ) -> Stream[T]:
        """This stream and others of the same type as one, in no particular order.

        Raises:
            UsageError: If a stream is of another job.

        >>> import streamline as sl
        >>> from streamline.connectors.collection import CollectionSource
        >>> from streamline.testing import CollectingSink, run_job
        >>> job, sink = sl.Job("example"), CollectingSink()
        >>> web = job.source("web", CollectionSource(["a", "b"]))
        >>> app = job.source("app", CollectionSource(["c"]))
        >>> web.union(app).sink("out", sink)
        >>> _ = run_job(job)
        >>> sorted(sink.records)
        ['a', 'b', 'c']
        """
        node = self._add(UnionSpec(), name, parallelism)
        for other in others:
            if other._builder is not self._builder:
                raise UsageError(f"union {node.id!r}: a stream of another job cannot be joined in")
            self._builder.connect(other._node, node, other._partitioning, tag=other._tag)
        return Stream(self._builder, node)

    def rebalance(self, *, name: str | None = None, parallelism: int | None = None) -> Stream[T]:
        """Spread the records evenly over the tasks of the next operator.

        With a name or a parallelism that is a node of its own, which only hands them on.

        >>> import streamline as sl
        >>> from streamline.connectors.collection import CollectionSource
        >>> job = sl.Job("example")
        >>> words = job.source("words", CollectionSource(["a", "b"]), parallelism=1)
        >>> slow = words.rebalance().map(str.upper, parallelism=4)
        >>> str(job.graph().edges[0].partitioning)
        'rebalance'
        """
        return self._partitioned(Partitioning.REBALANCE, name, parallelism)

    def broadcast(self, *, name: str | None = None, parallelism: int | None = None) -> Stream[T]:
        """Send every record to every task of the next operator.

        With a name or a parallelism that is a node of its own, which only hands them on.

        >>> import streamline as sl
        >>> from streamline.connectors.collection import CollectionSource
        >>> from streamline.testing import CollectingSink, run_job
        >>> job, sink = sl.Job("example"), CollectingSink()
        >>> rules = job.source("rules", CollectionSource(["a"]))
        >>> rules.broadcast().map(str.upper, parallelism=3).sink("out", sink)
        >>> _ = run_job(job)
        >>> sink.records
        ['A', 'A', 'A']
        """
        return self._partitioned(Partitioning.BROADCAST, name, parallelism)

    def sink(self, name: str, sink: Sink[Any], *, parallelism: int | None = None) -> None:
        """End the stream.

        Args:
            name: Name of the node.
            sink: Where the records go.
            parallelism: Parallel writers, if not the job's default.

        Raises:
            GraphError: If the name is taken.
            UsageError: If ``sink`` is not a sink, or the name cannot be used.

        >>> import streamline as sl
        >>> from streamline.connectors.collection import CollectionSource
        >>> from streamline.testing import CollectingSink, run_job
        >>> job, sink = sl.Job("copy"), CollectingSink()
        >>> job.source("words", CollectionSource(["so", "far"])).sink("out", sink)
        >>> str(run_job(job).state), sink.records
        ('finished', ['so', 'far'])
        """
        if not isinstance(sink, Sink):
            raise UsageError(f".sink({name!r}, ...) needs a Sink, not {sink!r:.80}")
        node = self._builder.add("sink", sink, name=name, parallelism=parallelism)
        self._builder.connect(self._node, node, self._partitioning, tag=self._tag)

    def _rows(
        self,
        step: RowKind,
        function: Any,
        *,
        on_error: OnError,
        name: str | None,
        parallelism: int | None,
    ) -> Stream[Any]:
        if not callable(function) and not isinstance(function, str | Expr):
            raise UsageError(
                f".{step}() needs a function, a field name or an expression, not {function!r:.80}"
            )
        spec = RowSpec(step, function, checked_on_error(on_error))
        return Stream(self._builder, self._add(spec, name, parallelism))

    def _add(
        self,
        spec: Body,
        name: str | None,
        parallelism: int | None,
        *,
        how: Partitioning | None = None,
    ) -> Node:
        """Add a node fed by this stream."""
        kind = spec.kind  # type: ignore[union-attr]
        node = self._builder.add(kind, spec, name=name, parallelism=parallelism)
        self._builder.connect(self._node, node, how or self._partitioning, tag=self._tag)
        return node

    def _partitioned(
        self, partitioning: Partitioning, name: str | None, parallelism: int | None
    ) -> Stream[T]:
        if name is not None or parallelism is not None:
            name = name or self._builder.free_name(partitioning.value)
            return Stream(
                self._builder, self._add(UnionSpec(), name, parallelism, how=partitioning)
            )
        return Stream(self._builder, self._node, tag=self._tag, partitioning=partitioning)


class KeyedStream(Generic[K, T]):
    """Records with keys; made by :meth:`Stream.key_by`. Records of one key stay in order.

    >>> import streamline as sl
    >>> from streamline.connectors.collection import CollectionSource
    >>> from streamline.testing import CollectingSink, run_job
    >>> job, sink = sl.Job("highest"), CollectingSink()
    >>> bids = job.source("bids", CollectionSource([("vase", 3), ("lamp", 5), ("vase", 4)]))
    >>> bids.key_by(lambda bid: bid[0]).reduce(max).sink("out", sink)
    >>> _ = run_job(job)
    >>> sink.records
    [('vase', 3), ('lamp', 5), ('vase', 4)]
    """

    def __init__(self, builder: GraphBuilder, node: Node) -> None:
        self._builder = builder
        self._node = node

    def uid(self, name: str) -> Self:
        """Name the node just added, as ``name=`` of ``key_by`` does.

        Raises:
            GraphError: If the name is taken.
            UsageError: If the name cannot be used.

        >>> import streamline as sl
        >>> from streamline.connectors.collection import CollectionSource
        >>> job = sl.Job("example")
        >>> users = job.source("orders", CollectionSource([{"user": "ada"}])).key_by("user")
        >>> _ = users.uid("by-user")
        >>> [node.id for node in job.graph().nodes]
        ['orders', 'by-user']
        """
        self._builder.rename(self._node, name)
        return self

    @property
    def dead_letters(self) -> Stream[DeadLetter]:
        """Records without a usable key, if ``key_by`` says ``on_error="dead_letter"``.

        >>> import streamline as sl
        >>> from streamline.connectors.collection import CollectionSource
        >>> from streamline.testing import CollectingSink, run_job
        >>> job, sink, letters = sl.Job("example"), CollectingSink(), CollectingSink()
        >>> orders = job.source("orders", CollectionSource([{"user": "ada"}, {"use": "bob"}]))
        >>> by_user = orders.key_by(lambda order: order["user"], on_error="dead_letter")
        >>> by_user.aggregate(n=sl.Count()).sink("counts", sink)
        >>> by_user.dead_letters.sink("letters", letters)
        >>> _ = run_job(job)
        >>> [letter.text for letter in letters.records]
        ['{"use":"bob"}']
        """
        return Stream(self._builder, self._node, tag=DEAD_LETTERS)

    def window(
        self, window: Tumbling | Sliding | Session, *, allowed_lateness: Duration = "0ms"
    ) -> WindowedStream[K, T]:
        """Group records by key and event time.

        Args:
            window: :class:`Tumbling`, :class:`Sliding` or :class:`Session`.
            allowed_lateness: A window is updated, and its result given again, for so long after
                the watermark has passed its end; records later than that are late.

        Raises:
            UsageError: If it is not a window or not a duration.

        >>> import streamline as sl
        >>> from streamline.testing import Event, OperatorHarness
        >>> harness = OperatorHarness.of(
        ...     lambda clicks: clicks.key_by(lambda user: user)
        ...     .window(sl.Tumbling("10s"), allowed_lateness="1m")
        ...     .aggregate(n=sl.Count())
        ... )
        >>> harness.push(Event("ada", 1_000), Event("ada", 9_999))
        >>> harness.watermark(9_999)
        >>> harness.push(Event("ada", 2_000))
        >>> harness.watermark(10_000)
        >>> [(result.window_start, result.window_end, result.n) for result in harness.values()]
        [(0, 10000, 2), (0, 10000, 3)]
        """
        if not isinstance(window, Tumbling | Sliding | Session):
            raise UsageError(
                f".window() needs sl.Tumbling, sl.Sliding or sl.Session, not {window!r:.80}"
            )
        lateness_ms = duration_ms(allowed_lateness, "allowed_lateness")
        return WindowedStream(self._builder, self._node, window=window, lateness_ms=lateness_ms)

    def reduce(
        self,
        function: Callable[[T, T], T],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[T]:
        """For each record, its key's records so far reduced to one: ``function(so_far, next)``.

        The function must not change what it is given.

        Raises:
            UsageError: If it is not a function.

        >>> from streamline.testing import OperatorHarness
        >>> harness = OperatorHarness.of(
        ...     lambda bids: bids.key_by("item").reduce(
        ...         lambda best, bid: max(best, bid, key=lambda one: one["price"])
        ...     )
        ... )
        >>> harness.push({"item": "vase", "price": 3}, {"item": "vase", "price": 2})
        >>> [bid["price"] for bid in harness.values()]
        [3, 3]
        """
        return self._next(ReduceSpec(_callable(function, "reduce")), name, parallelism)

    def aggregate(
        self,
        *,
        name: str | None = None,
        parallelism: int | None = None,
        **aggregations: Aggregation[Any, Any, Any],
    ) -> Stream[KeyedResult]:
        """For each record, the aggregations over its key's records so far.

        A result is a :class:`KeyedResult`: ``key``, then the aggregations under their own names.

        Raises:
            UsageError: If there is none, or one is not an aggregation.

        >>> import streamline as sl
        >>> from streamline.testing import OperatorHarness
        >>> harness = OperatorHarness.of(
        ...     lambda orders: orders.key_by("user").aggregate(n=sl.Count(), spent=sl.Sum("cents"))
        ... )
        >>> harness.push({"user": "ada", "cents": 300}, {"user": "ada", "cents": 45})
        >>> [(result.key, result.n, result.spent) for result in harness.values()]
        [('ada', 1, 300), ('ada', 2, 345)]
        """
        pairs = named_aggregations(aggregations, ("key",))
        return self._next(KeyedAggregateSpec(pairs), name, parallelism)

    def process(
        self,
        function: ProcessFunction[K, T, U],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[U]:
        """Run a function with state and timers of its own for each key.

        Raises:
            UsageError: If it is not an object of a :class:`ProcessFunction` class.

        >>> import streamline as sl
        >>> from streamline.testing import OperatorHarness
        >>> class First(sl.ProcessFunction[str, str, str]):
        ...     seen = sl.ValueState(bool, False)
        ...     def process(self, value, ctx):
        ...         if not self.seen.get():
        ...             self.seen.set(True)
        ...             yield value
        >>> harness = OperatorHarness.of(lambda ids: ids.key_by(lambda i: i).process(First()))
        >>> harness.push("a", "b", "a")
        >>> harness.values()
        ['a', 'b']
        """
        if not isinstance(function, ProcessFunction):
            raise UsageError(
                f".process() needs an object of a sl.ProcessFunction class, not {function!r:.80}"
            )
        return self._next(ProcessSpec(function), name, parallelism)

    def _next(self, spec: Body, name: str | None, parallelism: int | None) -> Stream[Any]:
        stream: Stream[Any] = Stream(self._builder, self._node, partitioning=Partitioning.HASH)
        return Stream(self._builder, stream._add(spec, name, parallelism))


class WindowedStream(Generic[K, T]):
    """Records grouped by key and window; made by :meth:`KeyedStream.window`.

    It is no stream yet: one of its methods says what is made of each group.

    >>> import streamline as sl
    >>> from streamline.connectors.collection import CollectionSource
    >>> from streamline.testing import CollectingSink, run_job
    >>> job, sink = sl.Job("clicks"), CollectingSink()
    >>> clicks = job.source("clicks", CollectionSource(["ada", "bob", "ada"], [1, 2, 7_000]))
    >>> windows = clicks.key_by(lambda user: user).window(sl.Tumbling("5s"))
    >>> windows.aggregate(n=sl.Count()).sink("out", sink)
    >>> _ = run_job(job)
    >>> sorted((result.window_start, result.key, result.n) for result in sink.records)
    [(0, 'ada', 1), (0, 'bob', 1), (5000, 'ada', 1)]
    """

    def __init__(
        self,
        builder: GraphBuilder,
        node: Node,
        *,
        window: Tumbling | Sliding | Session,
        lateness_ms: int,
    ) -> None:
        self._builder = builder
        self._node = node
        self._window = window
        self._lateness_ms = lateness_ms

    def aggregate(
        self,
        *,
        name: str | None = None,
        parallelism: int | None = None,
        **aggregations: Aggregation[Any, Any, Any],
    ) -> WindowResultStream[WindowResult, T]:
        """One result per key and window: ``key, window_start, window_end``, then these.

        Bounds are ms since the epoch; the end is the first one behind the window. The event time
        of a result is the last ms in it.

        Raises:
            UsageError: If there is none, one is not an aggregation, or a name is taken.

        >>> import streamline as sl
        >>> from streamline.testing import Event, OperatorHarness
        >>> harness = OperatorHarness.of(
        ...     lambda orders: orders.key_by("user")
        ...     .window(sl.Session("30s"))
        ...     .aggregate(n=sl.Count(), most=sl.Max("cents"))
        ... )
        >>> harness.push(Event({"user": "ada", "cents": 300}, 0))
        >>> harness.push(Event({"user": "ada", "cents": 45}, 20_000))
        >>> harness.end()
        >>> [(one.key, one.window_start, one.window_end) for one in harness.values()]
        [('ada', 0, 50000)]
        >>> [(one.n, one.most) for one in harness.values()]
        [(2, 300)]
        """
        pairs = named_aggregations(aggregations, ("key", "window_start", "window_end"))
        spec = window_aggregate(self._window, self._lateness_ms, pairs)
        return self._next(spec, name, parallelism)

    def reduce(
        self,
        function: Callable[[T, T], T],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> WindowResultStream[T, T]:
        """One result per key and window: its records reduced to one, ``function(so_far, next)``.

        The function must not change what it is given.

        Raises:
            UsageError: If it is not a function.

        >>> import streamline as sl
        >>> from streamline.testing import Event, OperatorHarness
        >>> harness = OperatorHarness.of(
        ...     lambda bids: bids.key_by(lambda bid: bid[0]).window(sl.Tumbling("1m")).reduce(max)
        ... )
        >>> harness.push(Event(("vase", 3), 1), Event(("vase", 9), 2), Event(("lamp", 1), 3))
        >>> harness.end()
        >>> sorted(harness.values())
        [('lamp', 1), ('vase', 9)]
        """
        spec = window_reduce(self._window, self._lateness_ms, _callable(function, "reduce"))
        return self._next(spec, name, parallelism)

    def apply(
        self,
        function: Callable[[K, WindowBounds, list[T]], Iterable[U]],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> WindowResultStream[U, T]:
        """All that the function yields for each key and window, given all its records.

        It is called with the key, the bounds of the window (ms since the epoch) and the list of
        its records. All records are kept until the window closes: ``aggregate`` and ``reduce``
        keep one value.

        Raises:
            UsageError: If it is not a function.

        >>> import streamline as sl
        >>> from streamline.testing import Event, OperatorHarness
        >>> def medians(key, window, prices):
        ...     yield key, window.start, sorted(prices)[len(prices) // 2]
        >>> harness = OperatorHarness.of(
        ...     lambda prices: prices.key_by(lambda price: "all")
        ...     .window(sl.Tumbling("1m"))
        ...     .apply(medians)
        ... )
        >>> harness.push(Event(7, 0), Event(1, 10), Event(3, 20))
        >>> harness.end()
        >>> harness.values()
        [('all', 0, 3)]
        """
        spec = window_apply(self._window, self._lateness_ms, _callable(function, "apply"))
        return self._next(spec, name, parallelism)

    def _next(
        self, spec: Body, name: str | None, parallelism: int | None
    ) -> WindowResultStream[Any, T]:
        stream: Stream[Any] = Stream(self._builder, self._node, partitioning=Partitioning.HASH)
        return WindowResultStream(self._builder, stream._add(spec, name, parallelism))


class WindowResultStream(Stream[U], Generic[U, T]):
    """What windows emit; the records that came too late stand beside it.

    >>> import streamline as sl
    >>> from streamline.testing import CollectingSink, Event, ScriptedSource, Watermark, run_job
    >>> job, sink, late = sl.Job("example"), CollectingSink(), CollectingSink()
    >>> script = [Event("tea", 1_000), Watermark(9_999), Event("tea", 2_000)]
    >>> words = job.source("words", ScriptedSource(script)).key_by(lambda word: word)
    >>> results = words.window(sl.Tumbling("10s")).aggregate(n=sl.Count())
    >>> results.sink("counts", sink)
    >>> results.late.sink("late", late)
    >>> _ = run_job(job)
    >>> [result.n for result in sink.records], late.events
    ([1], [Event(value='tea', at=2000)])
    """

    @property
    def late(self) -> Stream[T]:
        """Records whose windows were all closed when they came, at their own event times."""
        return Stream(self._builder, self._node, tag=LATE)


def named_aggregations(
    aggregations: Mapping[str, Aggregation[Any, Any, Any]], reserved: tuple[str, ...]
) -> tuple[tuple[str, Aggregation[Any, Any, Any]], ...]:
    """Check the keyword arguments of ``aggregate``.

    Raises:
        UsageError: If there is none, one is not an aggregation, or a name is taken.
    """
    if not aggregations:
        raise UsageError('.aggregate() needs at least one aggregation: total=sl.Sum("amount")')
    for name, aggregation in aggregations.items():
        if not isinstance(aggregation, Aggregation):
            raise UsageError(
                f".aggregate({name}=...) needs an aggregation such as sl.Count() or "
                f'sl.Sum("field"), not {aggregation!r:.80}'
            )
        if name in reserved:
            raise UsageError(f".aggregate({name}=...): {name!r} is a field of every result already")
    return tuple(aggregations.items())
