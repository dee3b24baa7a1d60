"""OperatorHarness: one operator, or a few steps of a stream, driven by hand without an engine.

Chain, keyed state and snapshots are those of a task; channels, threads and time are not.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from streamline.batch import Batch, RowBatch
from streamline.clock import ManualClock
from streamline.codec import decode, encode
from streamline.errors import InvariantError, UsageError
from streamline.graph import DEAD_LETTERS, MAIN
from streamline.ids import NodeId, TaskId
from streamline.io import Counters
from streamline.keys import key_group, owned_range
from streamline.messages import MAX_TIMESTAMP, MIN_TIMESTAMP, Watermark
from streamline.operators.base import LATE, OperatorContext, OperatorSpec
from streamline.runtime.chain import Outlet, build_chain
from streamline.state.manifest import TaskSnapshot
from streamline.testing.event import Event
from streamline.testing.pipeline import BuildStream, Key, Pipeline
from streamline.testing.snapshots import HarnessSettings, HarnessState, OperatorSnapshot

_NO_KEY = object()
_CALLS_AT_ONE_MOMENT = 10_000


class OperatorHarness:
    """Push records, watermarks and time into an operator and look at what comes out.

    It stands for task ``index`` of ``parallelism``: records of keys that another task owns are
    left out, as in a job.

    Args:
        operator: What to drive; for steps of the DSL see :meth:`of`.
        key: Field, expression or function that gives the key of each record pushed.
        parallelism: How many tasks the harness is one of.
        index: Which of them.
        snapshots: Go on from these: all snapshots of the tasks there were before.
        settings: The rest.

    Raises:
        UsageError: For a place that cannot be.

    >>> import streamline as sl
    >>> from streamline.testing import Event, OperatorHarness
    >>> harness = OperatorHarness.of(
    ...     lambda stream: stream.key_by("user")
    ...     .window(sl.Tumbling("10s"))
    ...     .aggregate(total=sl.Sum("amount"))
    ... )
    >>> harness.push(Event({"user": "ada", "amount": 3}, 1_000))
    >>> harness.push(Event({"user": "ada", "amount": 4}, 9_999))
    >>> harness.values()
    []
    >>> harness.watermark(9_999)
    >>> [(result.key, result.window_end, result.total) for result in harness.values()]
    [('ada', 10000, 7)]
    >>> harness.push(Event({"user": "ada", "amount": 5}, 2_000))
    >>> harness.values("late")
    [{'user': 'ada', 'amount': 5}]
    """

    def __init__(
        self,
        operator: OperatorSpec | Pipeline,
        *,
        key: Key | None = None,
        parallelism: int = 1,
        index: int = 0,
        snapshots: Sequence[OperatorSnapshot] = (),
        settings: HarnessSettings | None = None,
    ) -> None:
        self.settings = settings or HarnessSettings()
        most = self.settings.max_parallelism
        if not 0 <= index < parallelism <= most:
            raise UsageError(f"there is no task {index} of {parallelism}, with {most} key groups")
        pipeline = operator if isinstance(operator, Pipeline) else Pipeline.of_spec(operator, key)
        self._pipeline = pipeline
        self._parallelism, self._index = parallelism, index
        self._range = owned_range(index, parallelism, most)
        self._events: dict[str, list[Event[Any]]] = {}
        self._watermarks: list[Watermark] = []
        self._log: list[Event[Any] | Watermark] = []
        self._reached = MIN_TIMESTAMP
        self._epoch = max((snapshot.task.epoch for snapshot in snapshots), default=0)
        self._closed = False
        self._open(snapshots)

    @classmethod
    def of(
        cls,
        build: BuildStream,
        *,
        parallelism: int = 1,
        index: int = 0,
        settings: HarnessSettings | None = None,
    ) -> OperatorHarness:
        """A harness for what a function adds to a stream; the stream it returns is looked at.

        Raises:
            UsageError: If it does not return a stream.
            GraphError: If what it builds cannot run.

        >>> harness = OperatorHarness.of(lambda stream: stream.filter(str.isupper).map(str.lower))
        >>> harness.push("A", "b")
        >>> harness.values()
        ['a']
        """
        pipeline = Pipeline.of_stream(build)
        return cls(pipeline, parallelism=parallelism, index=index, settings=settings)

    # ------------------------------------------------------------------ what goes in

    def push(self, *records: object, key: object = _NO_KEY) -> None:
        """Push records, as one batch.

        Args:
            records: Values, or :class:`Event` for values with an event time.
            key: Key of all of them, where nothing in the harness makes keys.

        Raises:
            UserFunctionError: If a function of the user's raises.

        >>> import streamline as sl
        >>> harness = OperatorHarness.of(lambda stream: stream.map(sl.col("n")))
        >>> harness.push({"n": 1}, Event({"n": 2}, 1_000))
        >>> harness.values()
        [1, 2]
        """
        events = [r if isinstance(r, Event) else Event(r, MIN_TIMESTAMP) for r in records]
        times = np.array([event.at for event in events], dtype=np.int64)
        batch = RowBatch([event.value for event in events], times)
        if key is not _NO_KEY:
            assert isinstance(key, Hashable)
            group = key_group(key, self.settings.max_parallelism)
            groups = np.full(len(events), group, dtype=np.uint16)
            batch = RowBatch(batch.values, times, keys=[key] * len(events), groups=groups)
        if events:
            self.push_batch(batch)

    def push_batch(self, batch: Batch) -> None:
        """Push a batch as it is, such as one of columns.

        >>> from streamline import ColumnBatch
        >>> harness = OperatorHarness.of(lambda stream: stream.map("n"))
        >>> harness.push_batch(ColumnBatch({"n": np.arange(3)}, np.zeros(3, int), record_type=dict))
        >>> harness.values()
        [0, 1, 2]
        """
        self._chain.head.emit(batch)
        if self._state is not None:
            self._state.maintain()

    def watermark(self, timestamp: int, *, idle: bool = False) -> None:
        """Move event time on.

        Args:
            timestamp: No record of then or before is expected any more; ms since the epoch.
            idle: There is nothing to come for now.

        Raises:
            UsageError: If it would go back.

        >>> harness = OperatorHarness.of(lambda stream: stream.map(str))
        >>> harness.watermark(5_000)
        >>> harness.watermarks
        [Watermark(timestamp=5000, idle=False)]
        """
        if timestamp < self._reached:
            raise UsageError(f"event time is at {self._reached}, it cannot go to {timestamp}")
        self._reached = timestamp
        self._chain.head.watermark(Watermark(timestamp, idle))

    def end(self) -> None:
        """The input is over: event time goes to its end, windows close and timers ring.

        >>> import streamline as sl
        >>> harness = OperatorHarness.of(
        ...     lambda words: words.key_by(len).window(sl.Tumbling("1h")).reduce(max)
        ... )
        >>> harness.push(Event("far", 0), Event("way", 1))
        >>> harness.end()
        >>> harness.values()
        ['way']
        """
        self.watermark(MAX_TIMESTAMP)

    def advance(self, ms: int) -> None:
        """Let processing time pass; the operator is called at each moment that it asked for.

        Raises:
            InvariantError: If it asks for the same moment for ever.

        >>> import streamline as sl
        >>> class Echo(sl.ProcessFunction[str, str, str]):
        ...     def process(self, value, ctx):
        ...         ctx.set_processing_timer(ctx.now_ms() + 1_000)
        ...     def on_timer(self, timestamp, ctx):
        ...         yield ctx.key
        >>> harness = OperatorHarness.of(lambda words: words.key_by(str).process(Echo()))
        >>> harness.push("hello")
        >>> harness.advance(999)
        >>> harness.values()
        []
        >>> harness.advance(1)
        >>> harness.values()
        ['hello']
        """
        clock = self.settings.clock
        target = clock.now_ms() + ms
        calls = 0
        while (due := self._chain.next_clock_ms()) is not None and due <= target:
            passed = max(0, due - clock.now_ms())
            clock.advance(passed)
            calls = 0 if passed else calls + 1
            if calls > _CALLS_AT_ONE_MOMENT:
                raise InvariantError(f"the operator wants to be called at {due} for ever")
            self._chain.on_clock(clock.now_ms())
        clock.advance(max(0, target - clock.now_ms()))

    # ------------------------------------------------------------------ what comes out

    def events(self, tag: str = MAIN) -> list[Event[Any]]:
        """Records that came out, with event times, since the last :meth:`clear`.

        Args:
            tag: ``main`` for the results, ``late`` for late records, ``dead_letters`` for what
                any of the operators made of records on which a function raised.

        >>> harness = OperatorHarness.of(lambda texts: texts.map(int, on_error="dead_letter"))
        >>> harness.push(Event("1", 1_000), Event("two", 2_000))
        >>> harness.events()
        [Event(value=1, at=1000)]
        >>> [(letter.value.text, letter.at) for letter in harness.events("dead_letters")]
        [('"two"', 2000)]
        """
        return list(self._events.get(tag, ()))

    def values(self, tag: str = MAIN) -> list[Any]:
        """The same without event times."""
        return [event.value for event in self._events.get(tag, ())]

    @property
    def watermarks(self) -> list[Watermark]:
        """Watermarks that came out."""
        return list(self._watermarks)

    @property
    def log(self) -> list[Event[Any] | Watermark]:
        """Results and watermarks, in the order in which they came out.

        >>> harness = OperatorHarness.of(lambda numbers: numbers.map(lambda n: -n))
        >>> harness.push(Event(1, 10))
        >>> harness.watermark(10)
        >>> harness.log
        [Event(value=-1, at=10), Watermark(timestamp=10, idle=False)]
        """
        return list(self._log)

    @property
    def counters(self) -> Counters:
        """What the last operator has counted.

        >>> harness = OperatorHarness.of(lambda texts: texts.map(int, on_error="skip"))
        >>> harness.push("1", "two")
        >>> harness.counters.skipped
        1
        """
        return self._chain.counters[self._pipeline.results.source]

    def clear(self) -> None:
        """Forget what has come out so far.

        >>> harness = OperatorHarness.of(lambda numbers: numbers.map(lambda n: -n))
        >>> harness.push(1)
        >>> harness.clear()
        >>> harness.push(2)
        >>> harness.values()
        [-2]
        """
        for events in self._events.values():
            events.clear()
        self._watermarks.clear()
        self._log.clear()

    def owns(self, key: Hashable) -> bool:
        """Whether records of a key are this task's.

        >>> build = lambda words: words.key_by(str).reduce(max)
        >>> tasks = [OperatorHarness.of(build, parallelism=2, index=i) for i in range(2)]
        >>> sum(task.owns("tea") for task in tasks)
        1
        """
        return key_group(key, self.settings.max_parallelism) in self._range

    def state(self, name: str, key: Hashable) -> Any:
        """What a process function has stored under a name for a key; a copy, None if nothing.

        >>> import streamline as sl
        >>> class Last(sl.ProcessFunction[str, dict, str]):
        ...     last = sl.ValueState(int)
        ...     def process(self, value, ctx):
        ...         self.last.set(value["n"])
        >>> harness = OperatorHarness.of(lambda stream: stream.key_by("user").process(Last()))
        >>> harness.push({"user": "ada", "n": 3})
        >>> harness.state("last", "ada")
        3
        """
        if self._state is None:
            return None
        for node in self._pipeline.keyed_nodes:
            entry = self._state.backend.table(node, f"state:{name}").get(0, key)
            if entry is not None:
                return decode(encode(entry[1]))
        return None

    # ------------------------------------------------------------------ snapshots

    def snapshot(self) -> OperatorSnapshot:
        """All state, keyed and not, as a checkpoint would hold it; the harness may go on.

        Raises:
            CheckpointError: If it cannot be taken.
            EncodeError: If something in it cannot be stored.
        """
        self._epoch += 1
        stage = self._pipeline.stage
        task = TaskSnapshot(
            node=stage.id,
            nodes=[str(node) for node in stage.node_ids],
            index=self._index,
            parallelism=self._parallelism,
            epoch=self._epoch,
            key_range=self._range,
            operators=self._chain.snapshot(),
        )
        if self._state is not None:
            return self._state.snapshot(task)
        return OperatorSnapshot(decode(encode(task)), {})

    def resume(self, *snapshots: OperatorSnapshot, parallelism: int = 1) -> list[OperatorHarness]:
        """New harnesses, one to each task, that go on from the snapshots of all old tasks.

        Each has a clock of its own, which begins where this one's stands.

        >>> import streamline as sl
        >>> from streamline.testing import OperatorHarness
        >>> one = OperatorHarness.of(lambda stream: stream.key_by("n").aggregate(c=sl.Count()))
        >>> one.push({"n": 1}, {"n": 2}, {"n": 3})
        >>> tasks = one.resume(one.snapshot(), parallelism=3)
        >>> for task in tasks:
        ...     task.push({"n": 1}, {"n": 2}, {"n": 3})
        >>> sorted((result.key, result.c) for task in tasks for result in task.values())
        [(1, 2), (2, 2), (3, 2)]
        """
        now = self.settings.clock.now_ms()
        return [
            OperatorHarness(
                self._pipeline,
                parallelism=parallelism,
                index=index,
                snapshots=snapshots,
                settings=replace(self.settings, clock=ManualClock(now)),
            )
            for index in range(parallelism)
        ]

    def close(self) -> None:
        """Close the operators and remove what is on disk; also twice.

        A harness that is given up without it removes what is on disk as well.

        >>> harness = OperatorHarness.of(lambda words: words.key_by(str).reduce(max))
        >>> harness.close()
        """
        if self._closed:
            return
        self._closed = True
        self._chain.close()
        if self._state is not None:
            self._state.close()

    # ------------------------------------------------------------------ inside

    def _open(self, snapshots: Sequence[OperatorSnapshot]) -> None:
        results = self._pipeline.results
        outlets = [Outlet(results.source, results.tag, self._taker(MAIN), self._take_watermark)]
        if results.tag != LATE:
            outlets.append(Outlet(results.source, LATE, self._taker(LATE), _ignore))
        for node in self._pipeline.letter_nodes:
            if (node, DEAD_LETTERS) != (results.source, results.tag):
                outlets.append(Outlet(node, DEAD_LETTERS, self._taker(DEAD_LETTERS), _ignore))
        self._chain = build_chain(self._pipeline.stage, outlets)
        self._state: HarnessState | None = None
        if self._chain.keyed:
            stage, task = self._pipeline.stage, TaskId(self._pipeline.stage.id, self._index)
            self._state = HarnessState(
                task, self._range, stage, settings=self.settings, snapshots=snapshots
            )
        self._chain.open(self._context)
        states: dict[str, list[Any]] = {}
        for snapshot in snapshots:
            for name, state in snapshot.task.operators.items():
                states.setdefault(name, []).append(state)
        self._chain.restore(states)

    def _context(self, node: NodeId, counters: Counters, keyed: bool) -> OperatorContext:
        return OperatorContext(
            node=node,
            index=self._index,
            parallelism=self._parallelism,
            max_parallelism=self.settings.max_parallelism,
            key_range=self._range,
            clock=self.settings.clock,
            config=self.settings.config,
            counters=counters,
            state=self._state.backend if keyed and self._state is not None else None,
        )

    def _taker(self, tag: str) -> Callable[[Batch], None]:
        events_of_tag = self._events.setdefault(tag, [])

        def take(batch: Batch) -> None:
            rows = batch.to_rows()
            events = [*map(Event, rows.values, rows.timestamps.tolist())]
            events_of_tag.extend(events)
            if tag == MAIN:
                self._log.extend(events)

        return take

    def _take_watermark(self, watermark: Watermark) -> None:
        self._watermarks.append(watermark)
        self._log.append(watermark)


def _ignore(watermark: Watermark) -> None:
    pass
