"""StateBackendContract: keyed state over a key-value store, against a plain dict.

Seeded random runs: entries are touched, read, deleted and dropped while frozen sets are
written off, memory is short, and now and then all is restored into other key-group splits.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Hashable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from streamline.keys import KeyGroupRange, key_group, owned_range
from streamline.state.kv import KeyValueStore
from streamline.state.manifest import StateHandle
from streamline.state.restore import WantedStates, restore_state
from streamline.state.store import DirectoryStore
from streamline.state.task_state import TaskState

Model: TypeAlias = dict[tuple[str, int, Hashable], list[Any]]
_NODE = "node"
_TABLES = ("a", "b")
_NAMESPACES = (-(1 << 40), -1, 0, 7)
_KEYS: list[Hashable] = [
    *(f"key {number}" for number in range(12)),
    *range(-3, 9),
    *((number, "pair") for number in range(4)),
    *(2.5, b"bytes", None, "", 1 << 62),
]


class StateBackendContract(ABC):
    """Subclass it under a name that begins with ``Test``, and say how a store is opened.

    Attributes:
        seeds: How many random runs there are.
        steps: How long each is.
        max_parallelism: Number of key groups.

    >>> from streamline.state.memory import MemoryStore
    >>> class TestMemory(StateBackendContract):
    ...     seeds = 2
    ...     def open_store(self, directory: Path) -> KeyValueStore:
    ...         return MemoryStore.open(directory)
    >>> TestMemory().test_random_runs_against_a_dict()
    """

    seeds: int = 10
    steps: int = 400
    max_parallelism: int = 16

    @abstractmethod
    def open_store(self, directory: Path) -> KeyValueStore:
        """Open the store in a folder: what a checkpoint left there, or empty."""

    # ------------------------------------------------------------------ tests

    def test_a_checkpoint_holds_what_was_there_at_the_freeze(self) -> None:
        with TemporaryDirectory() as folder:
            life = _Life(self, Path(folder), random.Random(0), capacity=1000)  # noqa: S311
            table = life.states[0].table(_NODE, "a")
            table.touch(0, "kept", lambda: [0, [1]])
            table.touch(0, "changed", lambda: [0, [1]])
            table.touch(0, "deleted", lambda: [0, [1]])
            table.touch(7, "dropped", lambda: [0, [1]])
            before = life.freeze()
            table.touch(0, "changed", lambda: [0, []])[1].append(2)
            table.delete(0, "deleted")
            table.drop(7)
            table.touch(0, "new", lambda: [0, [3]])
            assert before.finish() == {
                ("a", 0, "kept"): [[1]],
                ("a", 0, "changed"): [[1]],
                ("a", 0, "deleted"): [[1]],
                ("a", 7, "dropped"): [[1]],
            }
            assert {key: entry[1:] for key, entry in table.items(0)} == {
                "kept": [[1]],
                "changed": [[1, 2]],
                "new": [[3]],
            }
            life.close()

    def test_a_table_is_the_same_object_for_the_same_names(self) -> None:
        with TemporaryDirectory() as folder:
            life = _Life(self, Path(folder), random.Random(0), capacity=10)  # noqa: S311
            state = life.states[0]
            assert state.table(_NODE, "a") is state.table(_NODE, "a")
            assert state.table(_NODE, "a") is not state.table(_NODE, "b")
            life.close()

    def test_random_runs_against_a_dict(self) -> None:
        for seed in range(self.seeds):
            rng = random.Random(seed)  # noqa: S311 - chance is not secrecy
            with TemporaryDirectory() as folder:
                life = _Life(self, Path(folder), rng, capacity=rng.choice([4, 20, 1000]))
                try:
                    for _ in range(self.steps):
                        life.step()
                    life.check_all()
                except AssertionError as error:
                    error.add_note(f"seed {seed}")
                    raise
                finally:
                    life.close()


class _Frozen:
    """A checkpoint under way of one of the states, and what it must hold."""

    def __init__(self, life: _Life, number: int) -> None:
        self._life, self._number = life, number
        self.state = life.states[number]
        self.wanted = life.model_of(self.state.key_range)
        life.epoch += 1
        self.state.freeze(life.epoch)

    def work(self, entries: int) -> StateHandle | None:
        """Write some of it; the handle once it is stored."""
        if not self.state.flush_slice(entries):
            return None
        self._life.copies += 1
        folder = self._life.root / f"copy-{self._life.copies}"
        metadata = self.state.metadata()
        self.state.checkpoint(folder)
        self.state.checkpointed()
        files = self._life.store.upload(folder, {})
        return StateHandle(self.state.key_range, [_NODE], files, metadata)

    def finish(self) -> Model:
        """Store it, restore it elsewhere, and say what is there."""
        while (handle := self.work(3)) is None:
            pass
        restored = self._life.restore([handle], self.state.key_range)
        found = _contents(restored)
        restored.close()
        return found


class _Life:
    """States of one job at some parallelism, and the dict that they must equal."""

    def __init__(
        self, kit: StateBackendContract, root: Path, rng: random.Random, *, capacity: int
    ) -> None:
        self.root, self.rng = root, rng
        self.store = DirectoryStore(root / "checkpoints")
        self.model: Model = {}
        self.epoch = self.copies = self._lives = 0
        self._kit, self._capacity = kit, capacity
        self.states = [self.restore([], KeyGroupRange(0, kit.max_parallelism))]
        self._frozen: _Frozen | None = None

    def restore(self, handles: list[StateHandle], key_range: KeyGroupRange) -> TaskState:
        self._lives += 1
        return restore_state(
            [handle for handle in handles if handle.key_range.overlaps(key_range)],
            self.store,
            self.root / f"live-{self._lives}",
            key_range=key_range,
            wanted=WantedStates({(_NODE, name): {} for name in _TABLES}),
            max_parallelism=self._kit.max_parallelism,
            open_kv=self._kit.open_store,
            capacity=self._capacity,
            slice_entries=3,
            check=True,
        )

    def close(self) -> None:
        for state in self.states:
            state.close()

    def freeze(self) -> _Frozen:
        return _Frozen(self, self.rng.randrange(len(self.states)))

    def model_of(self, key_range: KeyGroupRange) -> Model:
        """A copy of what belongs to some key groups."""
        most = self._kit.max_parallelism
        return {
            place: [list(values[0])]
            for place, values in self.model.items()
            if key_group(place[2], most) in key_range
        }

    def step(self) -> None:
        """Do one random thing."""
        rng = self.rng
        choice = rng.random()
        table, namespace, key = rng.choice(_TABLES), rng.choice(_NAMESPACES), rng.choice(_KEYS)
        state = self._owner(key)
        if choice < 0.40:
            entry = state.table(_NODE, table).touch(namespace, key, lambda: [0, []])
            entry[1].append(rng.randrange(100))
            self.model.setdefault((table, namespace, key), [[]])[0].append(entry[1][-1])
        elif choice < 0.55:
            entry_read = state.table(_NODE, table).get(namespace, key)
            found = None if entry_read is None else entry_read[1:]
            assert found == self.model.get((table, namespace, key)), (table, namespace, key)
        elif choice < 0.65:
            state.table(_NODE, table).delete(namespace, key)
            self.model.pop((table, namespace, key), None)
        elif choice < 0.68:
            self._drop(table, namespace)
        elif choice < 0.75:
            mine = [key for key in rng.sample(_KEYS, 6) if self._owner(key) is state]
            state.table(_NODE, table).prefetch(namespace, mine)
        elif choice < 0.85:
            state.maintain()
            state.clean_up()
        elif choice < 0.90:
            self.check_all()
        elif choice < 0.98:
            self._checkpoint()
        else:
            self._rescale()

    def check_all(self) -> None:
        """All states together hold what the dict does, and no state anything of another's."""
        for state in self.states:
            assert _contents(state) == self.model_of(state.key_range), f"{state.key_range}"

    def _owner(self, key: Hashable) -> TaskState:
        group = key_group(key, self._kit.max_parallelism)
        return next(state for state in self.states if group in state.key_range)

    def _drop(self, table: str, namespace: int) -> None:
        for state in self.states:
            state.table(_NODE, table).drop(namespace)
        for place in [place for place in self.model if place[:2] == (table, namespace)]:
            del self.model[place]

    def _checkpoint(self) -> None:
        """Begin one, or write some of the one that is under way."""
        if self._frozen is None:
            self._frozen = self.freeze()
        elif (handle := self._frozen.work(self.rng.randint(1, 6))) is not None:
            restored = self.restore([handle], self._frozen.state.key_range)
            assert _contents(restored) == self._frozen.wanted, "not what was there at the freeze"
            restored.close()
            self._frozen = None

    def _rescale(self) -> None:
        """Checkpoint all states and go on at another parallelism."""
        handles: list[StateHandle] = []
        for number in range(len(self.states)):
            frozen = _Frozen(self, number)
            while (handle := frozen.work(self.rng.randint(1, 50))) is None:
                pass
            handles.append(handle)
        self.close()
        self._frozen = None
        count, most = self.rng.randint(1, 4), self._kit.max_parallelism
        self.states = [self.restore(handles, owned_range(i, count, most)) for i in range(count)]
        self.check_all()


def _contents(state: TaskState) -> Model:
    """All that is in a state, by way of namespaces and items."""
    found: Model = {}
    for name in _TABLES:
        table = state.table(_NODE, name)
        for namespace in table.namespaces():
            for key, entry in table.items(namespace):
                place = (name, namespace, key)
                assert place not in found, f"{place} comes twice"
                found[place] = [list(entry[1])]
    return found
