"""The keyed state of one task from barrier to store: freeze, write off in slices, upload.

What happens at the barrier is a swap. The entries frozen there are written to the key-value
store between batches, then its files are linked to a folder and uploaded aside; only then is
the snapshot reported.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from streamline.config import RuntimeConfig
from streamline.graph import Node
from streamline.ids import TaskId
from streamline.keys import KeyGroupRange
from streamline.operators.base import OperatorSpec
from streamline.state.backend import StateBackend
from streamline.state.kv import KeyValueStore
from streamline.state.manifest import StateFile, StateHandle, TaskSnapshot
from streamline.state.restore import WantedStates, base_of, restore_state
from streamline.state.store import CheckpointStore
from streamline.state.task_state import TaskState

Aside: TypeAlias = Callable[
    [Callable[[], list[StateFile]], Callable[[list[StateFile] | BaseException], None]], None
]
"""Runs the first argument aside (a thread) and calls the second with its result, in our thread."""
Taken: TypeAlias = Callable[[TaskSnapshot], None]
Declined: TypeAlias = Callable[[int, str], None]


@dataclass(frozen=True)
class StateServices:
    """How keyed state is opened and stored.

    Attributes:
        directory: A folder of this process and attempt alone; for live databases.
        open_kv: Opens a key-value store in a folder, new or with what is there.
        store: Where checkpoints go.
        aside: Runs an upload beside the stream.
    """

    directory: Path
    open_kv: Callable[[Path], KeyValueStore]
    store: CheckpointStore
    aside: Aside


def wanted_states(nodes: Iterable[Node]) -> WantedStates:
    """The states that some nodes have a place for."""
    specs = {str(node.id): node.body for node in nodes if isinstance(node.body, OperatorSpec)}
    layouts = {
        (node, state): layout
        for node, spec in specs.items()
        for state, layout in spec.layouts().items()
    }
    return WantedStates(layouts, lambda place, was: specs[place[0]].converter(place[1], was))


@dataclass
class _Pending:
    snapshot: TaskSnapshot
    taken: Taken
    declined: Declined
    written: bool = False


class KeyedState:
    """All keyed state of one task, and the snapshot of it that is under way."""

    def __init__(
        self,
        task: TaskId,
        key_range: KeyGroupRange,
        nodes: tuple[str, ...],
        *,
        wanted: WantedStates,
        max_parallelism: int,
        services: StateServices,
        config: RuntimeConfig,
        probe: Callable[[str, TaskId, int], None],
    ) -> None:
        self._task = task
        self._key_range = key_range
        self._nodes = nodes
        self._wanted = wanted
        self._max_parallelism = max_parallelism
        self._services = services
        self._config = config
        self._probe = probe
        name = f"{task.node}-{task.index}".replace("/", "_")
        self._live = services.directory / "live" / name
        self._links = services.directory / "links" / name
        self._pending: _Pending | None = None
        self._uploaded: dict[int, dict[str, StateFile]] = {}
        self._known: dict[str, StateFile] = {}
        self._state: TaskState | None = None
        self._copying = 0
        self._stored_bytes = 0
        self._closed = False

    @property
    def backend(self) -> StateBackend:
        """What operators see."""
        return self._open_state

    @property
    def _open_state(self) -> TaskState:
        assert self._state is not None, "restore comes first"
        return self._state

    @property
    def size(self) -> tuple[int, int]:
        """Entries held in memory, and bytes of the last files that were stored."""
        state = self._state
        return 0 if state is None else state.entries, self._stored_bytes

    def restore(self, handles: list[StateHandle]) -> None:
        """Open the state, empty or with what the old tasks had of our key groups.

        Raises:
            CheckpointError: If a file is missing or damaged.
        """
        self._state = restore_state(
            handles,
            self._services.store,
            self._live,
            key_range=self._key_range,
            wanted=self._wanted,
            max_parallelism=self._max_parallelism,
            open_kv=self._services.open_kv,
            capacity=self._config.table_entries,
            slice_entries=self._config.flush_slice_entries,
            check=self._config.check_invariants,
        )
        base = base_of(handles, self._key_range, self._wanted)
        self._known = {} if base is None else {file.name: file for file in base.files}

    def freeze(self, epoch: int) -> None:
        """The barrier has come: what was touched so far belongs to it, the rest does not."""
        self._give_up()  # an older one that never came to its end
        self._open_state.freeze(epoch)
        self._probe("frozen", self._task, epoch)

    def store(self, snapshot: TaskSnapshot, taken: Taken, declined: Declined) -> None:
        """Store what was frozen; ``taken`` or ``declined`` is called when it is done."""
        self._pending = _Pending(snapshot, taken, declined)

    def work_off(self) -> bool:
        """Write one slice of what is frozen; true if there was something to do.

        Raises:
            StreamlineError: If it cannot be written. The task cannot go on then: what is in the
                store is neither what was frozen nor what was there before.
        """
        pending = self._pending
        if pending is None or pending.written:
            return self._open_state.clean_up()
        if self._open_state.flush_slice(self._config.flush_slice_entries):
            pending.written = True
            try:
                self._copy(pending)
            except OSError as error:
                self._give_up()
                pending.declined(pending.snapshot.epoch, str(error))
        return True

    def abort(self, epoch: int) -> None:
        """The checkpoint was given up; what is frozen is still written off, later."""
        if self._pending is not None and self._pending.snapshot.epoch <= epoch:
            self._give_up()

    def _give_up(self) -> None:
        self._pending = None
        self._open_state.checkpointed()

    def committed(self, epoch: int) -> None:
        """The checkpoint is complete: its files need not be uploaded again."""
        known = self._uploaded.pop(epoch, None)
        if known is not None:
            self._known = known
        for old in [old for old in self._uploaded if old < epoch]:
            del self._uploaded[old]

    def maintain(self) -> None:
        """Keep the table within its bounds; called after each batch."""
        self._open_state.maintain()

    def close(self) -> None:
        """Close the database, once nothing is copied from it any more."""
        self._closed = True
        if self._state is not None and not self._copying:
            self._state.close()

    def _copy(self, pending: _Pending) -> None:
        """All is written: have the database copied aside, which reads may go on beside."""
        epoch, state = pending.snapshot.epoch, self._open_state
        folder = self._links / f"{epoch:08d}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._probe("flushed", self._task, epoch)
        metadata = state.metadata()
        self._copying += 1

        def copy() -> list[StateFile]:
            state.checkpoint(folder)
            return []

        def copied(result: list[StateFile] | BaseException) -> None:
            self._copying -= 1
            if self._closed and not self._copying:
                state.close()
            if self._pending is not pending:
                shutil.rmtree(folder, ignore_errors=True)
                return  # given up meanwhile
            self._pending = None
            state.checkpointed()
            if isinstance(result, BaseException):
                shutil.rmtree(folder, ignore_errors=True)
                pending.declined(epoch, str(result))
            else:
                self._upload(pending, folder, metadata)

        self._services.aside(copy, copied)

    def _upload(self, pending: _Pending, folder: Path, metadata: dict[str, Any]) -> None:
        """The copy is made: bring its files to the store, aside; the stream goes on."""
        snapshot = pending.snapshot
        store, known = self._services.store, self._known

        def upload() -> list[StateFile]:
            try:
                return store.upload(folder, known)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        def done(result: list[StateFile] | BaseException) -> None:
            if isinstance(result, BaseException):
                pending.declined(snapshot.epoch, str(result))
                return
            self._uploaded[snapshot.epoch] = {file.name: file for file in result}
            handle = self._handle(result, metadata)
            self._stored_bytes = handle.size_bytes
            pending.taken(replace(snapshot, state=handle))

        self._services.aside(upload, done)

    def _handle(self, files: list[StateFile], metadata: dict[str, Any]) -> StateHandle:
        return StateHandle(
            key_range=self._key_range, nodes=list(self._nodes), files=files, metadata=metadata
        )
