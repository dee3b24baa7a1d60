"""The state of an operator under test: opened from snapshots, and taken into new ones.

Keyed state is that of a task, with a checkpoint store in a temporary folder. A snapshot holds
the bytes of its files itself, so it outlives the harness that took it.
"""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

from streamline.clock import ManualClock
from streamline.codec import decode, encode
from streamline.config import RuntimeConfig
from streamline.errors import CheckpointError, StreamlineError
from streamline.ids import TaskId
from streamline.keys import DEFAULT_MAX_PARALLELISM, KeyGroupRange
from streamline.plan import Stage
from streamline.runtime.keyed_state import KeyedState, StateServices, wanted_states
from streamline.state.backend import StateBackend
from streamline.state.manifest import StateFile, TaskSnapshot
from streamline.state.memory import MemoryStore
from streamline.state.restore import OpenStore
from streamline.state.store import DirectoryStore


@dataclass(frozen=True)
class HarnessSettings:
    """What a harness shares with those that are made from its snapshots.

    Attributes:
        max_parallelism: Number of key groups.
        open_kv: Opens the key-value store behind keyed state; ``open_rocksdb`` for RocksDB.
        config: Settings of the run; a small ``table_entries`` has state spill to the store.
        clock: The time.

    >>> from streamline.config import RuntimeConfig
    >>> from streamline.testing import HarnessSettings, OperatorHarness
    >>> settings = HarnessSettings(config=RuntimeConfig(table_entries=2), max_parallelism=4)
    >>> harness = OperatorHarness.of(lambda s: s.key_by(len).reduce(min), settings=settings)
    >>> harness.push("far", "so", "long", "bar")
    >>> harness.values()
    ['far', 'so', 'long', 'bar']
    >>> settings.open_kv.__qualname__
    'MemoryStore.open'
    """

    max_parallelism: int = DEFAULT_MAX_PARALLELISM
    open_kv: OpenStore = MemoryStore.open
    config: RuntimeConfig = field(default_factory=lambda: RuntimeConfig(check_invariants=True))
    clock: ManualClock = field(default_factory=ManualClock)


@dataclass(frozen=True)
class OperatorSnapshot:
    """All that one harness knew; self-contained.

    Attributes:
        task: As a task would report it.
        files: Files of its keyed state, by digest.

    >>> from streamline.testing import OperatorHarness
    >>> harness = OperatorHarness.of(lambda words: words.key_by(len).reduce(max))
    >>> harness.push("far", "so")
    >>> snapshot = harness.snapshot()
    >>> snapshot.task.epoch, len(snapshot.files)
    (1, 1)
    """

    task: TaskSnapshot
    files: dict[str, bytes]


class HarnessState:
    """Keyed state in a folder that goes away with this object.

    Args:
        task: Whose state it is.
        key_range: Key groups it owns.
        stage: Nodes that have state.
        settings: How it is kept.
        snapshots: What it begins with.
    """

    def __init__(
        self,
        task: TaskId,
        key_range: KeyGroupRange,
        stage: Stage,
        *,
        settings: HarnessSettings,
        snapshots: Sequence[OperatorSnapshot],
    ) -> None:
        self.folder = Path(mkdtemp(prefix="streamline-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._store = DirectoryStore(self.folder / "checkpoints")
        self._keyed = KeyedState(
            task,
            key_range,
            tuple(str(node) for node in stage.node_ids),
            wanted=wanted_states(stage.nodes),
            max_parallelism=settings.max_parallelism,
            services=StateServices(self.folder, settings.open_kv, self._store, _at_once),
            config=settings.config,
            probe=lambda point, task, epoch: None,
        )
        for snapshot in snapshots:
            for digest, data in snapshot.files.items():
                file = self.folder / digest
                file.write_bytes(data)
                self._store.put_file(file, digest)
                file.unlink()
        handles = [snapshot.task.state for snapshot in snapshots]
        self._keyed.restore([h for h in handles if h and h.key_range.overlaps(key_range)])

    @property
    def backend(self) -> StateBackend:
        """What operators see."""
        return self._keyed.backend

    def maintain(self) -> None:
        """Keep memory within bounds; called after each batch."""
        self._keyed.maintain()

    def snapshot(self, task: TaskSnapshot) -> OperatorSnapshot:
        """Add what is stored now to the snapshot of a task.

        Raises:
            CheckpointError: If it cannot be stored.
        """
        stored: list[TaskSnapshot] = []
        declined: list[str] = []
        self._keyed.freeze(task.epoch)
        self._keyed.store(task, stored.append, lambda epoch, reason: declined.append(reason))
        while not stored and not declined:
            self._keyed.work_off()
        if declined:
            raise CheckpointError(declined[0])
        state = stored[0].state
        assert state is not None
        files = {file.digest: b"".join(self._store.chunks(file.digest)) for file in state.files}
        return OperatorSnapshot(decode(encode(stored[0])), files)

    def close(self) -> None:
        """Close it and remove its folder; also twice."""
        if self._remove.alive:
            self._keyed.close()
            self._remove()


def _at_once(
    work: Callable[[], list[StateFile]], done: Callable[[list[StateFile] | BaseException], None]
) -> None:
    try:
        result: list[StateFile] | BaseException = work()
    except (StreamlineError, OSError) as error:
        result = error
    done(result)
