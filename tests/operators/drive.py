"""Drives one operator by hand: real keyed state, a manual clock, and an output that remembers.

A ``Task`` is one parallel copy of an operator; ``Tasks`` are all of them, with the records
split by key group as a hash edge would.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from streamline.batch import Batch, RowBatch
from streamline.clock import ManualClock
from streamline.codec import decode, encode
from streamline.config import RuntimeConfig
from streamline.graph import Node
from streamline.ids import NodeId
from streamline.keys import KeyGroups, owned_range, owner_table
from streamline.messages import MAX_TIMESTAMP, Watermark
from streamline.operators.base import MAIN, OperatorContext, OperatorSpec, Output
from streamline.runtime.keyed_state import wanted_states
from streamline.state.manifest import StateHandle
from streamline.state.memory import MemoryStore
from streamline.state.restore import restore_state
from streamline.state.store import DirectoryStore

NODE = "under-test"
MAX_PARALLELISM = 32
Result = tuple[str, Any, int]


class Collected(Output):
    """What was emitted: (tag, value, timestamp), and the watermarks, in order."""

    def __init__(self) -> None:
        self.all: list[Result] = []
        self.batches: list[Batch] = []
        self.watermarks: list[Watermark] = []

    def emit(self, batch: Batch, tag: str = MAIN) -> None:
        assert len(batch), "an empty batch was emitted"
        assert batch.timestamps.dtype == np.int64
        self.batches.append(batch)
        self.all += [
            (tag, value, at)
            for value, at in zip(batch.to_rows().values, batch.timestamps.tolist(), strict=True)
        ]

    def watermark(self, watermark: Watermark) -> None:
        self.watermarks.append(watermark)

    def values(self, tag: str = MAIN) -> list[Any]:
        return [value for its, value, _ in self.all if its == tag]

    def timed(self, tag: str = MAIN) -> list[tuple[Any, int]]:
        return [(value, at) for its, value, at in self.all if its == tag]


@dataclass
class Saved:
    """One task's part of a snapshot."""

    operator: Any
    handle: StateHandle | None = None


@dataclass
class Setting:
    """What all tasks of one test share.

    Attributes:
        folder: For live state and checkpoints.
        entries: Entries of keyed state held in memory.
    """

    folder: Path
    clock: ManualClock = field(default_factory=ManualClock)
    batch_rows: int = 4096
    entries: int = 1_000_000
    made: int = 0

    def next_folder(self, what: str) -> Path:
        self.made += 1
        return self.folder / f"{what}-{self.made}"

    @property
    def store(self) -> DirectoryStore:
        return DirectoryStore(self.folder / "store")


class Task:
    """One copy of an operator with its state."""

    def __init__(
        self,
        spec: OperatorSpec,
        setting: Setting,
        saved: Sequence[Saved] = (),
        *,
        index: int = 0,
        parallelism: int = 1,
        active: set[str] | None = None,
    ) -> None:
        self.setting = setting
        self.out = Collected()
        self.operator = spec.build()
        self.key_range = owned_range(index, parallelism, MAX_PARALLELISM)
        config = RuntimeConfig(
            batch_rows=setting.batch_rows, table_entries=setting.entries, check_invariants=True
        )
        self.state = None
        if self.operator.keyed:
            handles = [s.handle for s in saved if s.handle is not None]
            self.state = restore_state(
                [handle for handle in handles if handle.key_range.overlaps(self.key_range)],
                setting.store,
                setting.next_folder("live"),
                key_range=self.key_range,
                wanted=wanted_states([Node(NodeId(NODE), spec)]),
                max_parallelism=MAX_PARALLELISM,
                open_kv=MemoryStore.open,
                capacity=setting.entries,
                slice_entries=7,
                check=True,
            )
        self.context = OperatorContext(
            node=NODE,
            index=index,
            parallelism=parallelism,
            max_parallelism=MAX_PARALLELISM,
            key_range=self.key_range,
            clock=setting.clock,
            config=config,
            state=self.state,
            active_partitions=active,
        )
        self.operator.open(self.context)
        states = [decode(encode(s.operator)) for s in saved if s.operator is not None]
        if states:
            self.operator.restore(states)

    def take(self, batch: Batch) -> None:
        """Process a batch, and what a task does behind it."""
        self.operator.process(batch, self.out)
        self._maintain()

    def watermark(self, timestamp: int, *, idle: bool = False) -> None:
        self.operator.on_watermark(Watermark(timestamp, idle), self.out)
        self._maintain()

    def tick(self) -> None:
        """Let the operator see the clock, if it asked for that."""
        now = self.setting.clock.now_ms()
        due = self.operator.next_clock_ms()
        if due is not None and due <= now:
            self.operator.on_clock(now, self.out)
            self._maintain()

    def freeze(self, epoch: int = 1) -> Saved:
        """The barrier: what comes behind it does not belong to the snapshot."""
        saved = Saved(self.operator.snapshot())
        if self.state is not None:
            self.state.freeze(epoch)
        return saved

    def write_some(self, entries: int) -> None:
        """Write some of what is frozen, as happens between batches."""
        if self.state is not None:
            self.state.flush_slice(entries)

    def store(self, saved: Saved) -> Saved:
        """Write all that is frozen, copy and upload it."""
        if self.state is not None:
            while not self.state.flush_slice(50):
                pass
            folder = self.setting.next_folder("links")
            metadata = decode(encode(self.state.metadata()))
            self.state.checkpoint(folder)
            self.state.checkpointed()
            files = self.setting.store.upload(folder, {})
            saved.handle = StateHandle(self.key_range, [NODE], files, metadata)
        return saved

    def close(self) -> None:
        self.operator.close()
        if self.state is not None:
            self.state.close()

    def _maintain(self) -> None:
        if self.state is not None:
            self.state.maintain()
            self.state.clean_up()


class Tasks:
    """All copies of one operator, their results together."""

    def __init__(
        self,
        spec: OperatorSpec,
        setting: Setting,
        parallelism: int = 1,
        saved: Sequence[Saved] = (),
    ) -> None:
        self.spec, self.setting = spec, setting
        self.tasks = [
            Task(spec, setting, saved, index=index, parallelism=parallelism)
            for index in range(parallelism)
        ]
        self._owners = owner_table(parallelism, MAX_PARALLELISM)
        self._groups = KeyGroups(MAX_PARALLELISM)

    def push(
        self,
        values: list[Any],
        times: Sequence[int],
        keys: Sequence[Hashable],
        *,
        columns: bool = False,
    ) -> None:
        """Give each record to the task that owns its key."""
        if not values:
            return
        batch: Batch = RowBatch(
            values,
            np.array(times, dtype=np.int64),
            keys=list(keys),
            groups=self._groups.of(keys),
        )
        if columns:
            batch = batch.to_columns()
        assert batch.groups is not None
        parts = batch.split(self._owners[batch.groups], len(self.tasks))
        for task, part in zip(self.tasks, parts, strict=True):
            if part is not None:
                task.take(part)

    def watermark(self, timestamp: int) -> None:
        for task in self.tasks:
            task.watermark(timestamp)

    def end(self) -> None:
        """The end of all inputs."""
        self.watermark(MAX_TIMESTAMP)

    def tick(self) -> None:
        for task in self.tasks:
            task.tick()

    def freeze(self) -> list[Saved]:
        return [task.freeze() for task in self.tasks]

    def store(self, saved: list[Saved]) -> list[Saved]:
        return [task.store(one) for task, one in zip(self.tasks, saved, strict=True)]

    def again(self, saved: list[Saved], parallelism: int) -> Tasks:
        """New tasks from a snapshot; what was emitted before it is not theirs."""
        for task in self.tasks:
            task.close()
        return Tasks(self.spec, self.setting, parallelism, saved)

    def close(self) -> None:
        for task in self.tasks:
            task.close()

    @property
    def all(self) -> list[Result]:
        return [result for task in self.tasks for result in task.out.all]

    def values(self, tag: str = MAIN) -> list[Any]:
        return [value for its, value, _ in self.all if its == tag]

    def timed(self, tag: str = MAIN) -> list[tuple[Any, int]]:
        return [(value, at) for its, value, at in self.all if its == tag]

    @property
    def late(self) -> int:
        return sum(task.context.counters.late for task in self.tasks)


def cuts(random_: random.Random, count: int, longest: int) -> list[slice]:
    """Cut ``count`` records into batches of random length."""
    slices: list[slice] = []
    at = 0
    while at < count:
        length = random_.randint(1, longest)
        slices.append(slice(at, min(at + length, count)))
        at += length
    return slices
