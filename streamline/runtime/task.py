"""Task: one parallel copy of a stage. One owner, one thread, one inbox; it steps.

``step`` does a bounded amount of work and says what it waits for. It does not know who calls
it: the event loop of a worker process, the inline engine or the simulator. Whatever may wait
(a sink's prepare, an upload) is handed to the caller as work to await or to run aside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from streamline.batch import Batch, RowBatch
from streamline.clock import Clock
from streamline.config import RuntimeConfig
from streamline.errors import InvariantError
from streamline.graph import DEAD_LETTERS, MAIN
from streamline.ids import Epoch, NodeId, TaskId
from streamline.io import (
    Counters,
    DeadLetter,
    ReaderContext,
    SinkWriter,
    Source,
    SourceReader,
    WriterContext,
)
from streamline.keys import KeyGroupRange
from streamline.messages import (
    END_OF_INPUT,
    MAX_TIMESTAMP,
    MIN_TIMESTAMP,
    Barrier,
    BarrierKind,
    EndOfInput,
    Watermark,
)
from streamline.operators.base import OperatorContext
from streamline.plan import Stage
from streamline.runtime.align import BarrierAligner
from streamline.runtime.chain import Outlet, build_chain
from streamline.runtime.channel import Receiver
from streamline.runtime.control import (
    Abort,
    AssignPartitions,
    Command,
    Commit,
    Committed,
    KeepPace,
    Report,
    Running,
    SnapshotDeclined,
    SnapshotTaken,
    SourceEnded,
    TaskRestore,
    Trigger,
)
from streamline.runtime.dispatch import Router
from streamline.runtime.keyed_state import KeyedState, StateServices, wanted_states
from streamline.runtime.watermarks import WatermarkMerger
from streamline.state.manifest import TaskSnapshot


class Wait(Enum):
    """What a task waits for after a step."""

    NOTHING = "nothing"  # call again at once
    WAKE = "wake"  # call again when woken, or at ``until_ms``
    SOURCE = "source"  # the same, or when its reader's ``wait`` returns
    WORK = "work"  # await ``work``, then call again
    END = "end"  # it is over


@dataclass(frozen=True)
class Step:
    """What a step came to."""

    wait: Wait
    until_ms: int | None = None
    work: Coroutine[Any, Any, None] | None = None


_AGAIN = Step(Wait.NOTHING)
_END = Step(Wait.END)


Probe: TypeAlias = Callable[[str, TaskId, int], None]
"""Called at the points where a crash is worth a test; does nothing in production."""


@dataclass(frozen=True)
class TaskServices:
    """What a task needs from the process it lives in.

    Attributes:
        job: Name of the job.
        run: Names this attempt to run the job; no other attempt ever has the same.
        whole_run, took_over: For sinks, as in ``WriterContext``.
        generation: Number of the attempt.
        clock: The time.
        config: Settings of the run.
        report: Takes what the task has to tell the coordinator.
        state: How keyed state is opened, checkpointed and uploaded.
        probe: Called at the points where a crash is worth a test.
    """

    job: str
    run: str
    whole_run: str
    took_over: bool
    generation: int
    clock: Clock
    config: RuntimeConfig
    report: Callable[[Report], None]
    state: StateServices
    probe: Probe


@dataclass
class TaskPlace:
    """Where a task stands in the plan.

    Attributes:
        id: The task.
        stage: The stage it is a copy of.
        key_range: Key groups it owns.
        max_parallelism: Number of key groups of the job.
        inputs: Its incoming channels.
        routers: Its outgoing edges.
        outlets: The same, by the node and tag that feed them.
    """

    id: TaskId
    stage: Stage
    key_range: KeyGroupRange
    max_parallelism: int
    inputs: list[Receiver] = field(default_factory=list)
    routers: list[Router] = field(default_factory=list)
    outlets: list[Outlet] = field(default_factory=list)


def _no_wake() -> None:
    pass


class Task:
    """Runs the operators of a stage on what its source or its channels bring."""

    def __init__(self, place: TaskPlace, services: TaskServices) -> None:
        self.id = place.id
        self.wake: Callable[[], None] = _no_wake
        self._place = place
        self._services = services
        self._chain = build_chain(place.stage, place.outlets)
        body = place.stage.nodes[0].body
        self._source = body if isinstance(body, Source) else None
        self._reader: SourceReader[Any] | None = self._source.reader() if self._source else None
        self._dead: list[DeadLetter] = []
        self._state: KeyedState | None = None
        self._commands: deque[Command] = deque()
        self._aligner = BarrierAligner(len(place.inputs))
        self._watermarks = WatermarkMerger(len(place.inputs))
        self._turn = 0
        self._ended_inputs: set[int] = set()
        self._source_ended = False
        self._said_idle = False
        self._reached = MIN_TIMESTAMP
        self._held: int | None = None
        self._draining: int | None = None
        self._drained = False
        self._ended = False
        self._started = False
        self._prepared: dict[NodeId, dict[int, list[Any]]] = {}
        self._positions: dict[int, dict[str, Any]] = {}
        self._unready: list[SinkWriter[Any]] = []
        self._last_barrier = 0
        self._partition_watermarks: dict[str, int] = {}
        # Until we are told they may be anywhere.
        self._others = MIN_TIMESTAMP if place.stage.parallelism > 1 else MAX_TIMESTAMP
        self._began_s = self._first_barrier_s = services.clock.monotonic_s()
        self._alignment_ms = 0
        self.idle_s = self.backpressured_s = 0.0

    @property
    def counters(self) -> dict[NodeId, Counters]:
        """What each node has counted."""
        return self._chain.counters

    def counted(self) -> dict[str, int]:
        """What the task itself has counted, and how it stands; times in ms."""
        counters = self._chain.counters
        into = counters[self._place.stage.id]
        # Once for each that takes them; of side streams only what is written here is counted.
        sending = [outlet.node for outlet in self._place.outlets if outlet.tag == MAIN]
        handed_on = sum(counters[node].records_out for node in sending)
        handed_on += sum(counters[node].records_in for node in self._chain.writers)
        senders = [sender for router in self._place.routers for sender in router.senders]
        written = sum(counters[node].bytes_out for node in self._chain.writers)
        counted = {
            "records_in": into.records_out if self._source is not None else into.records_in,
            "records_out": handed_on,
            "bytes_in": into.bytes_in + sum(one.received_bytes for one in self._place.inputs),
            "bytes_out": written + sum(sender.sent_bytes for sender in senders),
            "up_ms": int((self._services.clock.monotonic_s() - self._began_s) * 1000),
            "idle_ms": int(self.idle_s * 1000),
            "backpressured_ms": int(self.backpressured_s * 1000),
            "alignment_ms": self._alignment_ms,
            "credits": sum(sender.credits.left.batches for sender in senders),
            "credits_limit": sum(sender.credits.limit.batches for sender in senders),
        }
        if self._state is not None:
            counted["state_entries"], counted["state_bytes"] = self._state.size
        if self._reader is not None:
            lags = {"source_lag": self._reader.lag, "source_lag_bytes": self._reader.lag_bytes}
            counted |= {name: lag for name, lag in lags.items() if lag is not None}
        return counted

    @property
    def blocked(self) -> bool:
        """Whether it waits for those behind it."""
        return not all(router.ready for router in self._place.routers)

    @property
    def reader(self) -> SourceReader[Any] | None:
        """The source's reader, if this is a source task."""
        return self._reader

    @property
    def watermark(self) -> int:
        """Event time reached by the inputs, or by the partitions of the source."""
        if self._source is None:
            return self._watermarks.merged.timestamp
        # A copy: another thread may ask.
        return min(tuple(self._partition_watermarks.values()), default=MIN_TIMESTAMP)

    @property
    def reached(self) -> int | None:
        """What the reader says under that name, if this is a source task that runs."""
        return None if self._reader is None or not self._started else self._reader.reached

    def deliver(self, command: Command) -> None:
        """Put a command into the inbox."""
        if command.generation == self._services.generation:
            self._commands.append(command)
            self.wake()

    # ------------------------------------------------------------------ start and end

    async def start(self, restore: TaskRestore) -> None:
        """Restore state, open everything, and report that it runs."""
        place, services = self._place, self._services
        services.probe("restore", self.id, 0)
        if self._reader is not None:
            await self._open_reader(self._reader, restore)
        if self._chain.keyed:
            self._state = KeyedState(
                self.id,
                place.key_range,
                tuple(str(node) for node in place.stage.node_ids),
                wanted=wanted_states(place.stage.nodes),
                max_parallelism=place.max_parallelism,
                services=services.state,
                config=services.config,
                probe=services.probe,
            )
            self._state.restore(restore.state)
        self._chain.open(self._operator_context)
        self._chain.restore(restore.operators)
        for node, writer in self._chain.writers.items():
            await writer.open(self._writer_context(node, restore))
            self._prepared[node] = {}
            await writer.recover(restore.committables.get(node, []))
            if type(writer).ready is not SinkWriter.ready:
                self._unready.append(writer)
        for receiver in place.inputs:
            receiver.on_message = self._woken
        for router in place.routers:
            for sender in router.senders:
                sender.on_room = self._woken
        self._started = True
        self.report_running()

    def report_running(self) -> None:
        """Say that it runs, if it does; again if the first time was lost."""
        if self._started:
            self._services.report(Running(self._services.generation, self.id))

    async def close(self) -> None:
        """Let go of everything; also after an error, at any point.

        Raises:
            Exception: What a close raised, once the rest has been closed as well; of several, a
                group of them.
        """
        self._ended = True
        for receiver in self._place.inputs:
            receiver.close()
        for router in self._place.routers:
            for sender in router.senders:
                sender.close()
        errors: list[Exception] = []
        with ExitStack() as rest:  # closed last, also when what is awaited is cancelled
            if self._state is not None:
                rest.callback(self._state.close)
            rest.callback(self._chain.close)
            reader = [] if self._reader is None else [self._reader.close]
            for close in [*reader, *(writer.close for writer in self._chain.writers.values())]:
                try:
                    await close()
                except Exception as error:  # noqa: BLE001 - raised when all is closed
                    errors.append(error)
            if len(errors) == 1:
                raise errors[0]
            if errors:
                raise ExceptionGroup(f"{self.id} was closed with errors", errors)

    def _woken(self) -> None:
        self.wake()

    async def _open_reader(self, reader: SourceReader[Any], restore: TaskRestore) -> None:
        node = self._place.stage.nodes[0]
        services = self._services
        await reader.open(
            ReaderContext(
                node=node.id,
                index=self.id.index,
                parallelism=self._place.stage.parallelism,
                batch_rows=services.config.batch_rows,
                layout=node.layout,
                clock=services.clock,
                counters=self._chain.counters[node.id],
                watermarks=self._partition_watermarks,
                dead_letter=self._dead.append,
                restored=restore.restored,
                origins=self._place.stage.origins,
                others=lambda: self._others,
            )
        )
        positions = restore.positions.get(node.id, {})
        reader.assign(positions)
        if services.config.check_invariants:
            read_on = reader.snapshot()
            for partition, position in positions.items():
                if position is not None and read_on.get(partition) != position:
                    raise InvariantError(
                        f"{self.id} reads {partition} from {read_on.get(partition)!r}, but the "
                        f"checkpoint says {position!r}"
                    )

    def _operator_context(self, node: NodeId, counters: Counters, keyed: bool) -> OperatorContext:
        return OperatorContext(
            node=node,
            index=self.id.index,
            parallelism=self._place.stage.parallelism,
            max_parallelism=self._place.max_parallelism,
            key_range=self._place.key_range,
            clock=self._services.clock,
            config=self._services.config,
            counters=counters,
            state=self._state.backend if keyed and self._state is not None else None,
            active_partitions=None if self._reader is None else self._reader.active,
            partition_watermarks=self._partition_watermarks,
        )

    def _writer_context(self, node: NodeId, restore: TaskRestore) -> WriterContext:
        return WriterContext(
            job=self._services.job,
            node=node,
            index=self.id.index,
            parallelism=self._place.stage.parallelism,
            run=self._services.run,
            whole_run=self._services.whole_run,
            took_over=self._services.took_over,
            restored=restore.restored,
            restored_epoch=restore.epoch or None,
            lineage=restore.lineage,
            checkpoint_interval_ms=self._services.config.checkpoint_every_ms,
            clock=self._services.clock,
            counters=self._chain.counters[node],
            probe=lambda point: self._services.probe(point, self.id, restore.epoch),
        )

    # ------------------------------------------------------------------ steps

    def step(self) -> Step:
        """Do a bounded amount of work.

        Raises:
            StreamlineError: If the task cannot go on; the caller closes it and reports it.
        """
        if self._ended:
            return _END
        if self._commands:
            return self._obey(self._commands.popleft())
        if self._drained and len(self._ended_inputs) == len(self._place.inputs):
            return self._end_if_drained()
        state = self._state
        busy = state is not None and state.work_off()
        if self.blocked:
            return _AGAIN if busy else Step(Wait.WAKE)
        now = self._services.clock.now_ms()
        due = self._chain.next_clock_ms()
        if due is not None and due <= now and self._draining is None and not self._drained:
            self._chain.on_clock(now)
            return _AGAIN
        step = self._poll() if self._source is not None else self._receive()
        if step is None:
            return _AGAIN if busy else self._idle(due)
        if state is not None:
            state.maintain()
        return step

    def _idle(self, due: int | None) -> Step:
        if self._source is not None and self._held is None and not self._source_ended:
            return Step(Wait.SOURCE, due)
        return Step(Wait.WAKE, due)

    def _poll(self) -> Step | None:
        reader = self._reader
        assert reader is not None and self._source is not None
        if self._held is not None or self._source_ended:
            return None
        reached = reader.watermark
        if reached is not None and reached > self._reached:
            self._reached = reached
            self._chain.head.watermark(Watermark(reached))
            return self._after_batch()
        batch = reader.poll()
        if self._dead:
            letters, self._dead[:] = list(self._dead), []
            self._chain.head.emit(RowBatch(letters), DEAD_LETTERS)
        if batch is not None:
            self._chain.head.emit(batch)
            return self._after_batch()
        return self._after_nothing(reader)

    def _after_nothing(self, reader: SourceReader[Any]) -> Step | None:
        """The source has nothing right now, or ever."""
        assert self._source is not None
        if not reader.active and not self._source.bounded and not self._said_idle:
            self._said_idle = True  # no partition to read: nobody is to wait for us
            self._chain.head.watermark(Watermark(MIN_TIMESTAMP, idle=True))
            return self._after_batch()
        if self._source.bounded and not reader.active:
            self._source_ended = True
            self._chain.head.watermark(Watermark(MAX_TIMESTAMP))
            self._services.report(SourceEnded(self._services.generation, self.id))
            return self._after_batch()
        return None

    def _receive(self) -> Step | None:
        inputs = self._place.inputs
        for offset in range(len(inputs)):
            index = (self._turn + offset) % len(inputs)
            if not inputs[index].readable or self._aligner.is_blocked(index):
                continue
            if index in self._ended_inputs:
                if len(inputs[index]):
                    raise InvariantError(f"{self.id}: data after EndOfInput on input {index}")
                continue
            message = inputs[index].receive()
            if message is None:
                continue
            self._turn = index + 1
            if isinstance(message, Batch):
                if self._services.config.check_invariants:
                    self._check_owner(message)
                self._chain.head.emit(message)
                return self._after_batch()
            if isinstance(message, Watermark):
                if self._services.config.check_invariants:
                    self._watermarks.check(index, message)
                merged = self._watermarks.update(index, message)
                if merged is not None:
                    self._chain.head.watermark(merged)
                return self._after_batch()
            if isinstance(message, Barrier):
                return self._align(index, message)
            assert isinstance(message, EndOfInput)
            return self._end_input(index)
        return None

    def _after_batch(self) -> Step:
        if self._unready:
            return Step(Wait.WORK, work=self._wait_for_writers())
        return _AGAIN

    async def _wait_for_writers(self) -> None:
        for writer in self._unready:
            await writer.ready()

    def _check_owner(self, batch: Batch) -> None:
        groups, owned = batch.groups, self._place.key_range
        if groups is not None and len(groups):
            low, high = int(groups.min()), int(groups.max())
            if low not in owned or high not in owned:
                raise InvariantError(f"{self.id} owns {owned}, but got key groups {low} to {high}")

    def _end_input(self, index: int) -> Step:
        self._ended_inputs.add(index)
        return self._end_if_drained()

    # ------------------------------------------------------------------ commands

    def _obey(self, command: Command) -> Step:
        if isinstance(command, Trigger):
            if self._source is None or command.epoch <= self._last_barrier:
                return _AGAIN
            if command.drain:
                self._held = command.epoch
            elif self._source_ended:  # said before; it may have been lost
                self._services.report(SourceEnded(self._services.generation, self.id))
            kind = BarrierKind(command.kind)
            return self._pass_barrier(Barrier(Epoch(command.epoch), kind, command.drain))
        if isinstance(command, Commit):
            return Step(Wait.WORK, work=self._commit(command))
        if isinstance(command, Abort):
            self._aligner.abort(Epoch(command.epoch))
            if self._state is not None:
                self._state.abort(command.epoch)
            if self._held is not None and self._held <= command.epoch:
                self._held = None
            self._draining = None
            return _AGAIN
        if isinstance(command, KeepPace):
            self._others = command.others
            return _AGAIN
        assert isinstance(command, AssignPartitions) and self._reader is not None
        self._reader.assign(dict.fromkeys(command.partitions))
        return _AGAIN

    def _align(self, index: int, message: Barrier) -> Step:
        """A barrier has come on an input."""
        before = self._aligner.aligning
        barrier = self._aligner.on_barrier(index, message)
        now_s = self._services.clock.monotonic_s()
        if before is None or before.epoch < message.epoch:
            self._first_barrier_s = now_s
        if barrier is None:
            return _AGAIN
        self._alignment_ms = int((now_s - self._first_barrier_s) * 1000)
        return self._pass_barrier(barrier)

    def _pass_barrier(self, barrier: Barrier) -> Step:
        """All inputs have delivered the barrier: hand it on and take the snapshot."""
        epoch = barrier.epoch
        if epoch <= self._last_barrier:
            raise InvariantError(f"{self.id}: barrier {epoch} behind {self._last_barrier}")
        self._last_barrier = epoch
        self._services.probe("barrier", self.id, epoch)
        for router in self._place.routers:
            router.control(barrier)
        self._draining = epoch if barrier.drain else None
        if self._state is not None:
            self._state.freeze(epoch)
        sources: dict[str, dict[str, Any]] = {}
        if self._reader is not None:
            sources[self._place.stage.id] = self._positions[epoch] = self._reader.snapshot()
        snapshot = TaskSnapshot(
            node=self.id.node,
            nodes=[str(node) for node in self._place.stage.node_ids],
            index=self.id.index,
            parallelism=self._place.stage.parallelism,
            epoch=epoch,
            key_range=self._place.key_range,
            operators=self._chain.snapshot(),
            sources=sources,
            watermark=self._watermarks.merged.timestamp,
        )
        if self._chain.writers:
            return Step(Wait.WORK, work=self._prepare(snapshot))
        self._complete(snapshot)
        return _AGAIN

    async def _prepare(self, snapshot: TaskSnapshot) -> None:
        """Have the sinks prepare; what earlier epochs prepared goes along until committed."""
        for node, writer in self._chain.writers.items():
            self._prepared[node][snapshot.epoch] = await writer.prepare(snapshot.epoch)
            snapshot.sinks[node] = [
                item for items in self._prepared[node].values() for item in items
            ]
        self._services.probe("prepared", self.id, snapshot.epoch)
        self._complete(snapshot)

    def _complete(self, snapshot: TaskSnapshot) -> None:
        """Report the snapshot: at once, or when the keyed state is stored."""
        if self._state is None:
            self._taken(snapshot)
        else:
            self._state.store(snapshot, self._taken, self._declined)

    def _taken(self, snapshot: TaskSnapshot) -> None:
        self._services.probe("snapshot", self.id, snapshot.epoch)
        generation = self._services.generation
        self._services.report(SnapshotTaken(generation, self.id, snapshot.epoch, snapshot))
        self.wake()

    def _declined(self, epoch: int, reason: str) -> None:
        generation = self._services.generation
        self._services.report(SnapshotDeclined(generation, self.id, epoch, reason))
        self.wake()

    async def _commit(self, command: Commit) -> None:
        """Make visible what was prepared up to the epoch; repeated commits find nothing to do."""
        epoch = command.epoch
        for node, writer in self._chain.writers.items():
            prepared = self._prepared[node]
            due = [old for old in prepared if old <= epoch]
            items = [item for old in due for item in prepared[old]]
            self._services.probe("commit", self.id, epoch)
            if items:
                await writer.commit(items)
            for old in due:
                del prepared[old]
        self._services.probe("committed", self.id, epoch)
        if self._state is not None:
            self._state.committed(epoch)
        if self._reader is not None:
            positions = self._positions.pop(epoch, None)
            for old in [old for old in self._positions if old < epoch]:
                del self._positions[old]
            if positions is not None:
                await self._reader.checkpoint_committed(positions)
        self._services.report(Committed(self._services.generation, self.id, epoch))
        if command.drain and (self._draining == epoch or epoch == self._last_barrier):
            self._drained = True
            self._end_if_drained()

    def _end_if_drained(self) -> Step:
        """Hand EndOfInput on once nothing can follow or is still to be delivered."""
        if not self._drained or len(self._ended_inputs) < len(self._place.inputs):
            return _AGAIN
        if not all(router.ready for router in self._place.routers):
            return Step(Wait.WAKE)
        for router in self._place.routers:
            router.control(END_OF_INPUT)
        self._ended = True
        return _END
