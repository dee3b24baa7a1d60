"""Open a task's state from the snapshots of the tasks that had its key groups before."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeAlias

from streamline.keys import KeyGroupRange
from streamline.state.encoding import groups_range, state_id, state_of
from streamline.state.kv import KeyValueStore
from streamline.state.manifest import StateHandle
from streamline.state.store import CheckpointStore
from streamline.state.task_state import TaskState

OpenStore: TypeAlias = Callable[[Path], KeyValueStore]
_COPY_ENTRIES = 10_000


def restore_state(
    handles: Sequence[StateHandle],
    store: CheckpointStore,
    directory: Path,
    *,
    key_range: KeyGroupRange,
    nodes: Collection[str],
    max_parallelism: int,
    open_kv: OpenStore,
    capacity: int,
    slice_entries: int,
    check: bool = False,
) -> TaskState:
    """Open state in a new folder, with what the handles hold of the key groups and nodes.

    A single handle of the same key groups and nodes is opened as it is; otherwise the entries
    are copied, from any number of old tasks.

    Raises:
        CheckpointError: If a file is missing or damaged.
        StateError: If a store cannot be opened or written.
    """
    shutil.rmtree(directory, ignore_errors=True)
    live = directory / "kv"
    persisted = _namespaces(handles, nodes)
    if len(handles) == 1 and _same(handles[0], key_range, nodes):
        _fetch(handles[0], store, live)
        kv = open_kv(live)
    else:
        kv = open_kv(live)
        for number, handle in enumerate(handles):
            folder = directory / f"old-{number}"
            _fetch(handle, store, folder)
            old = open_kv(folder)
            try:
                _copy(handle, old, kv, key_range, nodes)
            finally:
                old.close()
                shutil.rmtree(folder, ignore_errors=True)
    return TaskState(
        kv,
        key_range=key_range,
        max_parallelism=max_parallelism,
        capacity=capacity,
        slice_entries=slice_entries,
        persisted=persisted,
        check=check,
    )


def _same(handle: StateHandle, key_range: KeyGroupRange, nodes: Collection[str]) -> bool:
    return handle.key_range == key_range and set(handle.nodes) == set(nodes)


def _namespaces(
    handles: Sequence[StateHandle], nodes: Collection[str]
) -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], set[int]] = {}
    for handle in handles:
        for table in handle.metadata["tables"]:
            if table["node"] in nodes:
                place = (table["node"], table["state"])
                found.setdefault(place, set()).update(table["namespaces"])
    return {place: sorted(namespaces) for place, namespaces in found.items()}


def _fetch(handle: StateHandle, store: CheckpointStore, folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in handle.files:
        store.fetch(file, folder / file.name)


def _copy(
    handle: StateHandle,
    old: KeyValueStore,
    new: KeyValueStore,
    key_range: KeyGroupRange,
    nodes: Collection[str],
) -> None:
    """Copy the entries of our key groups and nodes."""
    wanted = {
        state_id(table["node"], table["state"])
        for table in handle.metadata["tables"]
        if table["node"] in nodes
    }
    start = max(handle.key_range.start, key_range.start)
    stop = min(handle.key_range.stop, key_range.stop)
    part: list[tuple[bytes, bytes]] = []
    for key, value in old.scan(*groups_range(start, stop)):
        if state_of(key) in wanted:
            part.append((key, value))
            if len(part) >= _COPY_ENTRIES:
                new.write(part)
                part = []
    if part:
        new.write(part)
