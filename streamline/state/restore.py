"""Open a task's state from the snapshots of the tasks that had its key groups before.

Where the job has changed since, its entries are turned into what they are now.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from streamline.keys import KeyGroupRange
from streamline.record import find_type
from streamline.state.encoding import (
    decode_entry,
    encode_entry,
    groups_range,
    state_id,
    state_of,
)
from streamline.state.kv import KeyValueStore
from streamline.state.manifest import StateHandle
from streamline.state.schema import Convert, Layout, record_schema
from streamline.state.store import CheckpointStore
from streamline.state.task_state import Place, TaskState

OpenStore: TypeAlias = Callable[[Path], KeyValueStore]
_COPY_ENTRIES = 10_000
_WORTH_KEEPING = 0.25
"""The least part of a task's key groups for which its files are kept whole."""


@dataclass(frozen=True)
class WantedStates:
    """The states that a task has a place for.

    Attributes:
        layouts: How their entries are laid out.
        converter: Gets a state's place and its layout when it was stored; returns what turns its
            entries into the layout of now, or None if they stay.
    """

    layouts: Mapping[Place, Layout] = field(default_factory=dict)
    converter: Callable[[Place, Layout], Convert | None] = lambda place, was: None


def restore_state(
    handles: Sequence[StateHandle],
    store: CheckpointStore,
    directory: Path,
    *,
    key_range: KeyGroupRange,
    wanted: WantedStates,
    max_parallelism: int,
    open_kv: OpenStore,
    capacity: int,
    slice_entries: int,
    check: bool = False,
) -> TaskState:
    """Open state in a new folder, with what the handles hold of the key groups and states.

    The files of one old task, of which we keep the most, are opened as they are, and what is not
    ours is deleted by its range; entries of the others are copied. Where states were left out or
    have changed, or we keep too little of each, all entries are copied.

    Raises:
        CheckpointError: If a file is missing or damaged.
        StateError: If a store cannot be opened or written.
    """
    shutil.rmtree(directory, ignore_errors=True)
    live = directory / "kv"
    tables = _tables(handles, wanted)
    base = base_of(handles, key_range, wanted)
    if base is not None:
        _fetch(base, store, live)
    kv = open_kv(live)
    if base is not None:
        _keep(kv, base.key_range, key_range)
    for number, handle in enumerate(handles):
        if handle is base:
            continue
        folder = directory / f"old-{number}"
        _fetch(handle, store, folder)
        old = open_kv(folder)
        try:
            _copy(handle, old, kv, key_range=key_range, wanted=wanted)
        finally:
            old.close()
            shutil.rmtree(folder, ignore_errors=True)
    return TaskState(
        kv,
        key_range=key_range,
        max_parallelism=max_parallelism,
        capacity=capacity,
        slice_entries=slice_entries,
        persisted=_namespaces(tables),
        check=check,
        layouts=wanted.layouts,
        types={place: [find_type(name) for name in _types(tables, place)] for place, _ in tables},
    )


def base_of(
    handles: Sequence[StateHandle], key_range: KeyGroupRange, wanted: WantedStates
) -> StateHandle | None:
    """The handle whose files are opened as they are; None if all entries have to be copied.

    Of a task whose key groups are now spread over many, each copies its few: otherwise each would
    keep, until they are compacted, the files of all.
    """
    parts = [(_kept(handle, key_range), handle) for handle in handles if _fits(handle, wanted)]
    worth = [(part * handle.size_bytes, handle) for part, handle in parts if part >= _WORTH_KEEPING]
    return max(worth, key=lambda one: one[0], default=(0.0, None))[1]


def _kept(handle: StateHandle, key_range: KeyGroupRange) -> float:
    """Which part of its key groups is ours."""
    start, stop = handle.key_range
    ours = handle.key_range.common(key_range)
    return (ours.stop - ours.start) / max(1, stop - start)


def _keep(kv: KeyValueStore, was: KeyGroupRange, now: KeyGroupRange) -> None:
    """Delete the key groups that are not ours any more."""
    ours = was.common(now)
    for start, stop in ((was.start, ours.start), (ours.stop, was.stop)):
        if start < stop:
            kv.delete_range(*groups_range(start, stop))


def _tables(
    handles: Sequence[StateHandle], wanted: WantedStates
) -> list[tuple[Place, dict[str, Any]]]:
    """What the handles say of the tables that are wanted."""
    return [
        (place, table)
        for handle in handles
        for table in handle.metadata["tables"]
        if (place := _place(table)) in wanted.layouts
    ]


def _place(table: dict[str, Any]) -> Place:
    return table["node"], table["state"]


def _types(tables: list[tuple[Place, dict[str, Any]]], place: Place) -> set[str]:
    return {name for other, table in tables if other == place for name in table.get("types", ())}


def _namespaces(tables: list[tuple[Place, dict[str, Any]]]) -> dict[Place, list[int]]:
    found: dict[Place, set[int]] = {}
    for place, table in tables:
        found.setdefault(place, set()).update(table["namespaces"])
    return {place: sorted(namespaces) for place, namespaces in found.items()}


def _fits(handle: StateHandle, wanted: WantedStates) -> bool:
    """Whether no state has to be left out or turned into something else."""
    tables = handle.metadata["tables"]
    if not {_place(table) for table in tables} <= wanted.layouts.keys():
        return False
    return not any(_conversion(table, wanted) for table in tables)


def _conversion(table: dict[str, Any], wanted: WantedStates) -> Convert | None:
    """What is to be done with the entries of a table; None if they stay as they are."""
    convert = wanted.converter(_place(table), table.get("layout", {}))
    if convert is not None:
        return convert
    changed = any(
        record_schema(find_type(name))["fingerprint"] != schema["fingerprint"]
        for name, schema in table.get("types", {}).items()
    )
    return _as_it_is if changed else None


def _as_it_is(values: list[Any]) -> list[Any]:
    """Records become those of now by being read and written."""
    return values


def _fetch(handle: StateHandle, store: CheckpointStore, folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in handle.files:
        store.fetch(file, folder / file.name)


def _copy(
    handle: StateHandle,
    old: KeyValueStore,
    new: KeyValueStore,
    *,
    key_range: KeyGroupRange,
    wanted: WantedStates,
) -> None:
    """Copy the entries of our key groups and states."""
    conversions = {
        state_id(*_place(table)): _conversion(table, wanted)
        for table in handle.metadata["tables"]
        if _place(table) in wanted.layouts
    }
    part: list[tuple[bytes, bytes]] = []
    for key, value in old.scan(*groups_range(*handle.key_range.common(key_range))):
        state = state_of(key)
        if state in conversions:
            convert = conversions[state]
            if convert is not None:
                value = encode_entry([0, *convert(decode_entry(value, 0)[1:])])
            part.append((key, value))
            if len(part) >= _COPY_ENTRIES:
                new.write(part)
                part = []
    if part:
        new.write(part)
