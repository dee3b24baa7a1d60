"""TaskState: tables in memory, written back to a key-value store behind a barrier.

An entry is stamped with the freeze during which it was last touched. A freeze swaps the maps
of changed entries and raises the stamp; the entries it caught are encoded and written in
slices while processing goes on. An entry that is touched again before its turn leaves its
encoded pre-image behind, so nothing is ever copied. Nothing touched after a barrier is
written before the checkpoint of that barrier has been taken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

from streamline.codec import note_types
from streamline.errors import InvariantError, StateError
from streamline.keys import KeyGroupRange, canonical_key, key_group
from streamline.state.backend import Entry, Space, StateBackend, Table
from streamline.state.encoding import (
    VALUE_VERSION,
    decode_entry,
    encode_entry,
    key_of,
    namespace_range,
    state_id,
    stored_key,
    stored_keys,
)
from streamline.state.kv import KeyValueStore
from streamline.state.schema import Layout, schemas_of

Writes: TypeAlias = list[tuple[bytes, bytes | None]]
Place: TypeAlias = tuple[str, str]
"""Node and name of a state."""

_HURRIED_SLICES = 8
_EVICT_PER_CALL = 8_192
_FREE_PER_CALL = 16_384
_SCANS_PER_SLICE = 32


@dataclass(frozen=True)
class Layer:
    """What one freeze has caught of a table.

    A freeze waits for nothing: what an earlier one has caught and nobody has written yet stays
    below it as a layer of its own. Layers are written from the oldest to the newest, and an entry
    that is in a newer one too is written there alone.

    Attributes:
        stamp: The stamp of its entries, unless they were touched since.
        entries: By namespace; None where one was removed.
        dropped: Namespaces that were dropped as a whole, before the entries were made.
    """

    stamp: int
    entries: dict[int, dict[Hashable, Entry | None]]
    dropped: set[int]

    def has(self, namespace: int, key: Hashable) -> bool:
        """Whether it decides about a key."""
        entries = self.entries.get(namespace)
        return (entries is not None and key in entries) or namespace in self.dropped


class WriteBackTable(Table):
    """One named state; see the module's text for how it works."""

    def __init__(self, owner: TaskState, node: str, name: str, persisted: Iterable[int]) -> None:
        self.node, self.name = node, name
        self.id = state_id(node, name)
        self.stamp = owner.stamp
        self.live: dict[int, Space] = {}
        self.dirty: dict[int, dict[Hashable, Entry | None]] = {}
        self.dropped: set[int] = set()
        self.layers: list[Layer] = []
        self.unwritten = 0
        self.saved: dict[tuple[int, Hashable], bytes] = {}
        self.types: set[type] = set()
        self.persisted: set[int] = set(persisted)
        self.incomplete: set[int] = set(self.persisted)
        self._owner = owner
        self._absent: set[Hashable] = set()
        self._absent_of: int | None = None

    # ------------------------------------------------------------------ the operator's side

    def space(self, namespace: int) -> Space:
        space = self.live.get(namespace)
        if space is None:
            space = self.live[namespace] = {}
        return space

    def touch(self, namespace: int, key: Hashable, new: Callable[[], Entry]) -> Entry:
        space = self.live.get(namespace)
        if space is None:
            space = self.live[namespace] = {}
        owner = self._owner
        entry = space.get(key)
        if entry is None:
            if owner.check:
                owner.check_owned(self, key)
            entry = self._load(namespace, key) if namespace in self.incomplete else None
            if entry is None:
                entry = new()
            owner.entries += 1
        elif entry[0] == self.stamp:
            return entry
        else:
            if self.layers:
                self._save(namespace, key, entry)
            del space[key]
        space[key] = entry  # last in its dict: the first ones are evicted first
        entry[0] = self.stamp
        changed = self.dirty.get(namespace)
        if changed is None:
            changed = self.dirty[namespace] = {}
        if key not in changed:
            owner.dirty_entries += 1
        changed[key] = entry
        return entry

    def get(self, namespace: int, key: Hashable) -> Entry | None:
        space = self.live.get(namespace)
        entry = None if space is None else space.get(key)
        if entry is None and namespace in self.incomplete:
            entry = self._load(namespace, key)
            if entry is not None:
                self.space(namespace)[key] = entry
                self._owner.entries += 1
        return entry

    def preserve(self, namespace: int, key: Hashable) -> None:
        entry = self.live.get(namespace, {}).get(key)
        if entry is not None and entry[0] != self.stamp:
            self._save(namespace, key, entry)

    def _save(self, namespace: int, key: Hashable, entry: Entry) -> None:
        """Keep what an entry was at the last freeze, if that is still to be written."""
        place = (namespace, key)
        if place in self.saved:
            return
        for layer in self.layers:
            entries = layer.entries.get(namespace)
            if entries is not None and key in entries:
                self.saved[place] = self._encode(entry)
                return

    def delete(self, namespace: int, key: Hashable) -> None:
        space = self.live.get(namespace)
        entry = None if space is None else space.pop(key, None)
        if entry is not None:
            self._owner.entries -= 1
        if self._is_kept(namespace):
            changed = self.dirty.setdefault(namespace, {})
            if key not in changed:
                self._owner.dirty_entries += 1
            changed[key] = None
        else:
            changed = self.dirty.get(namespace, {})
            if changed.pop(key, None) is not None:
                self._owner.dirty_entries -= 1

    def prefetch(self, namespace: int, keys: Iterable[Hashable]) -> None:
        if namespace not in self.incomplete:
            return
        space = self.space(namespace)
        missing = [key for key in set(keys) if key not in space and not self._gone(namespace, key)]
        if not missing:
            return
        stored = stored_keys(self.id, namespace, missing, self._owner.max_parallelism)
        self._absent, self._absent_of = set(), namespace
        for key, data in zip(missing, self._owner.kv.get_many(stored), strict=True):
            if data is None:
                self._absent.add(key)
            else:
                space[key] = decode_entry(data, 0)
                self._owner.entries += 1

    def namespaces(self) -> list[int]:
        full = {namespace for namespace, space in self.live.items() if space}
        return sorted(full | self.incomplete)

    def items(self, namespace: int) -> Iterator[tuple[Hashable, Entry]]:
        space = self.live.get(namespace, {})
        if namespace not in self.incomplete:
            return iter(space.items())
        return chain(space.items(), self._stored(namespace, space))

    def _stored(
        self, namespace: int, space: Mapping[Hashable, Entry]
    ) -> Iterator[tuple[Hashable, Entry]]:
        """Entries of a namespace that are in the store alone."""
        owner = self._owner
        for group in range(owner.key_range.start, owner.key_range.stop):
            for stored, data in owner.kv.scan(*namespace_range(group, self.id, namespace)):
                key = key_of(stored)
                if key not in space and not self._gone(namespace, key):
                    yield key, decode_entry(data, 0)

    def drop(self, namespace: int) -> None:
        owner = self._owner
        space = self.live.pop(namespace, None)
        if space is not None:
            owner.entries -= len(space)
            owner.throw_away(space)
        changed = self.dirty.pop(namespace, None)
        if changed is not None:
            owner.dirty_entries -= len(changed)
            owner.throw_away(changed)
        self.incomplete.discard(namespace)
        if self._is_kept(namespace):
            self.dropped.add(namespace)

    def _is_kept(self, namespace: int) -> bool:
        """Whether something of a namespace is in the store, or will be."""
        return namespace in self.persisted or any(
            namespace in layer.entries for layer in self.layers
        )

    # ------------------------------------------------------------------ the owner's side

    def freeze(self, stamp: int) -> None:
        """Set the changes since the last freeze aside; from now on entries get this stamp."""
        if self.dirty or self.dropped:
            self.layers.append(Layer(self.stamp, self.dirty, self.dropped))
            self.unwritten += 1
            self.persisted -= self.dropped
            self.dirty, self.dropped = {}, set()
        # What was saved is of entries that were touched after it: they are in the new layer.
        self._owner.throw_away(self.saved)
        self.saved = {}
        self.stamp = stamp

    def writes(self) -> Iterator[Writes]:
        """What the layers come to: stored keys with their value, or None for removed.

        In slices, some of them empty: work that came to nothing also takes time. There may be
        another freeze before it goes on.
        """
        while self.unwritten:
            yield from self._writes_of_layer(len(self.layers) - self.unwritten)
            self.unwritten -= 1

    def _writes_of_layer(self, number: int) -> Iterator[Writes]:
        owner, layer = self._owner, self.layers[number]
        part: Writes = []
        for namespace in layer.dropped:
            for count, group in enumerate(range(owner.key_range.start, owner.key_range.stop)):
                for stored, _ in owner.kv.scan(*namespace_range(group, self.id, namespace)):
                    part.append((stored, None))
                    if len(part) >= owner.slice_entries:
                        yield part
                        part = []
                if count % _SCANS_PER_SLICE == 0:
                    yield []
        yield part
        for namespace, entries in layer.entries.items():
            left = iter(entries.items())
            while some := list(islice(left, owner.slice_entries)):
                for newer in self.layers[number + 1 :]:
                    some = [item for item in some if not newer.has(namespace, item[0])]
                if some:
                    self.persisted.add(namespace)
                yield self._writes_of(namespace, some, layer.stamp)

    def _writes_of(
        self, namespace: int, some: list[tuple[Hashable, Entry | None]], stamp: int
    ) -> Writes:
        saved = self.saved
        keys = [key for key, _ in some]
        stored = stored_keys(self.id, namespace, keys, self._owner.max_parallelism)
        writes: Writes = []
        before = note_types(self.types)
        try:
            for place, (key, entry) in zip(stored, some, strict=True):
                if entry is None:
                    writes.append((place, None))
                elif entry[0] == stamp:
                    # Touched again and not changed since: the pre-image is what it was.
                    writes.append((place, saved.get((namespace, key)) or encode_entry(entry)))
                else:
                    writes.append((place, saved[namespace, key]))
        finally:
            note_types(before)
        return writes

    def _encode(self, entry: Entry) -> bytes:
        before = note_types(self.types)
        try:
            return encode_entry(entry)
        finally:
            note_types(before)

    def written(self) -> None:
        """All layers are in the store."""
        self._owner.throw_away(
            *(entries for layer in self.layers for entries in layer.entries.values()), self.saved
        )
        self.layers, self.saved = [], {}

    def evict(self, count: int) -> int:
        """Forget up to ``count`` entries that are in the store; returns how many."""
        self._absent_of = None
        gone = 0
        for namespace, space in self.live.items():
            if namespace not in self.persisted:
                continue
            changed = self.dirty.get(namespace, {})
            old = [key for key in islice(space, count - gone) if key not in changed]
            for layer in self.layers:
                frozen = layer.entries.get(namespace, {})
                old = [key for key in old if key not in frozen]
            for key in old:
                del space[key]
            if old:
                self.incomplete.add(namespace)
                gone += len(old)
            if gone >= count:
                break
        return gone

    def _gone(self, namespace: int, key: Hashable) -> bool:
        """Whether the store's entry of a key was removed or dropped since it was written."""
        changed = self.dirty.get(namespace)
        if changed is not None and key in changed:
            return True
        if namespace in self.dropped:
            return True
        return any(layer.has(namespace, key) for layer in self.layers)

    def _load(self, namespace: int, key: Hashable) -> Entry | None:
        if self._gone(namespace, key):
            return None
        if namespace == self._absent_of and key in self._absent:
            return None  # prefetch has looked already
        stored = stored_key(self.id, namespace, key, self._owner.max_parallelism)
        data = self._owner.kv.get_many([stored])[0]
        return None if data is None else decode_entry(data, 0)


class TaskState(StateBackend):
    """All keyed state of one task.

    Args:
        kv: Where entries are written.
        key_range: Key groups of the task.
        max_parallelism: Number of key groups of the job.
        capacity: About how many entries are held in memory.
        slice_entries: Entries written at once when memory is short.
        persisted: For each state in the store, the namespaces it may have there.
        check: Assert that every new key belongs to the task.
        layouts: How the entries of each state are laid out.
        types: For each state in the store, the types of the records that it may have there.
    """

    def __init__(
        self,
        kv: KeyValueStore,
        *,
        key_range: KeyGroupRange,
        max_parallelism: int,
        capacity: int,
        slice_entries: int,
        persisted: dict[Place, list[int]] | None = None,
        check: bool = False,
        layouts: Mapping[Place, Layout] | None = None,
        types: Mapping[Place, Collection[type]] | None = None,
    ) -> None:
        self.kv = kv
        self.key_range = key_range
        self.max_parallelism = max_parallelism
        self.check = check
        self.stamp = 1
        self.entries = 0
        self.dirty_entries = 0
        self._capacity = capacity
        self.slice_entries = slice_entries
        self._tables: dict[Place, WriteBackTable] = {}
        self._by_id: dict[int, Place] = {}
        self._persisted = dict(persisted or {})
        self._layouts = dict(layouts or {})
        self._types = dict(types or {})
        self._writing: Iterator[Writes] | None = None
        self._awaits_checkpoint = False
        self._garbage: list[dict[Any, Any]] = []

    def table(self, node: str, name: str) -> Table:
        """The table of one state; the same object for the same names.

        Raises:
            StateError: If the names of two states collide in stored keys.
        """
        place = (node, name)
        table = self._tables.get(place)
        if table is None:
            table = WriteBackTable(self, node, name, self._persisted.get(place, ()))
            table.types.update(self._types.get(place, ()))
            other = self._by_id.setdefault(table.id, place)
            if other != place:
                raise StateError(
                    f"state {name!r} of node {node!r} has the same number as {other[1]!r} of "
                    f"{other[0]!r}; rename one of the nodes"
                )
            self._tables[place] = table
        return table

    def freeze(self, epoch: int) -> None:
        """Fix the state for a checkpoint; what is touched from now on does not belong to it."""
        self._freeze()
        self._awaits_checkpoint = True

    def flush_slice(self, max_entries: int) -> bool:
        """Write some of the frozen entries; true once all are written.

        Raises:
            StateError: If they cannot be written.
        """
        writing = self._writing
        if writing is None:
            return True
        count = 0
        while count < max_entries:
            part = next(writing, None)
            if part is None:
                break
            count += len(part) or _SCANS_PER_SLICE
            if part:
                puts = [(key, value) for key, value in part if value is not None]
                self.kv.write(puts, [key for key, value in part if value is None])
        else:
            return False
        self._writing = None
        for table in self._tables.values():
            table.written()
        return True

    def checkpoint(self, directory: Path) -> None:
        """Put a copy of what was frozen last into a new folder.

        May be called in another thread; ``checkpointed`` is to be called in our own then.

        Raises:
            InvariantError: If that is not all written, or entries of later have been.
            StateError: If the copy cannot be made.
        """
        if self._writing is not None or not self._awaits_checkpoint:
            raise InvariantError("a checkpoint of a state that is not frozen and written")
        self.kv.checkpoint(directory)

    def checkpointed(self) -> None:
        """The copy was made, or is not wanted any more: writing may go on."""
        self._awaits_checkpoint = False

    def metadata(self) -> dict[str, Any]:
        """What must be known to open the store again."""
        tables = {place: sorted(table.persisted) for place, table in self._tables.items()}
        for place, namespaces in self._persisted.items():
            tables.setdefault(place, namespaces)
        types = {**self._types, **{place: table.types for place, table in self._tables.items()}}
        return {
            "version": VALUE_VERSION,
            "tables": [
                {
                    "node": place[0],
                    "state": place[1],
                    "namespaces": namespaces,
                    "layout": self._layouts.get(place, {}),
                    "types": schemas_of(types.get(place, ())),
                }
                for place, namespaces in sorted(tables.items())
            ],
        }

    def maintain(self) -> None:
        """Keep memory within bounds; called after each batch."""
        if self.entries <= self._capacity and self.dirty_entries <= self._capacity // 2:
            if self._writing is not None and not self._awaits_checkpoint:
                self.flush_slice(self.slice_entries)
            return
        if self._writing is not None and not self._awaits_checkpoint:
            self.flush_slice(2 * self.slice_entries)
        elif self._writing is None and not self._awaits_checkpoint:
            if self.dirty_entries > self._capacity // 2:
                self._freeze()  # a spill: the same, but no checkpoint follows
        if self.entries > self._capacity:
            want = min(self.entries - self._capacity, _EVICT_PER_CALL)
            for table in self._tables.values():
                if want <= 0:
                    break
                gone = table.evict(want)
                self.entries -= gone
                want -= gone
        if self.entries > 2 * self._capacity and not self._awaits_checkpoint:
            self.flush_slice(_HURRIED_SLICES * self.slice_entries)  # nearly what a batch brings
            if self.entries > 4 * self._capacity:
                self._finish_writing()

    def throw_away(self, *dicts: dict[Any, Any]) -> None:
        """Free dicts that nobody needs any more, a little at a time.

        To free one of a million entries at once would take longer than a pause may.
        """
        self._garbage += [one for one in dicts if one]

    def clean_up(self) -> bool:
        """Free some of what was thrown away; true if there is more."""
        garbage = self._garbage
        if not garbage:
            return False
        left = _FREE_PER_CALL
        while garbage and left > 0:
            last = garbage[-1]
            if len(last) <= left:
                left -= len(last) + 1
                garbage.pop()
            else:
                for _ in range(left):
                    last.popitem()
                left = 0
        return bool(garbage)

    def check_owned(self, table: WriteBackTable, key: Hashable) -> None:
        """Refuse a key that belongs to another task.

        Raises:
            InvariantError: If it does.
        """
        group = key_group(key, self.max_parallelism)
        if group not in self.key_range:
            raise InvariantError(
                f"{table.node}: key {canonical_key(key)!r}, group {group}, not in {self.key_range}"
            )

    def close(self) -> None:
        """Close the store."""
        self.kv.close()

    def _freeze(self) -> None:
        self.stamp += 1
        self.dirty_entries = 0
        for table in self._tables.values():
            table.freeze(self.stamp)
        if self._writing is None:
            self._writing = self._all_writes()

    def _all_writes(self) -> Iterator[Writes]:
        # A freeze meanwhile adds layers, also to tables that were done, and there may be new ones.
        while any(table.unwritten for table in self._tables.values()):
            for table in list(self._tables.values()):
                yield from table.writes()

    def _finish_writing(self) -> None:
        while self._writing is not None:
            self.flush_slice(self.slice_entries)
