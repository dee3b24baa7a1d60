"""TaskState against a plain dict, through freezes, spills, checkpoints and restores."""

import random
from copy import deepcopy

import pytest

from streamline.errors import CheckpointError, InvariantError, StateError
from streamline.keys import KeyGroupRange, key_group
from streamline.state.manifest import StateHandle
from streamline.state.memory import MemoryStore
from streamline.state.restore import WantedStates, restore_state
from streamline.state.rocksdb import open_rocksdb
from streamline.state.store import DirectoryStore
from streamline.state.task_state import TaskState

GROUPS = 16
NODES = ("a", "b")
TABLES = (("a", "x"), ("a", "y"), ("b", "x"))
NAMESPACES = (-(1 << 63), -5, 0, 7, (1 << 63) - 1)
KEYS = [*range(-8, 14), "", "k", "ü", b"k", None, ("k", 1), ("k", None), 2.5]


def split(rng, count):
    """Contiguous ranges of all key groups, none of them empty."""
    cuts = [0, *sorted(rng.sample(range(1, GROUPS), count - 1)), GROUPS]
    return [KeyGroupRange(*pair) for pair in zip(cuts, cuts[1:])]


def empty_state(kv, key_range=KeyGroupRange(0, GROUPS), *, capacity=1000, slice_entries=3):
    return TaskState(
        kv,
        key_range=key_range,
        max_parallelism=GROUPS,
        capacity=capacity,
        slice_entries=slice_entries,
        check=True,
    )


def fresh():
    return [0, 0, []]


def contents(states):
    """All that some task states hold, by (table, namespace, key)."""
    found = {}
    for state in states:
        for place in TABLES:
            table = state.table(*place)
            for namespace in table.namespaces():
                for key, entry in table.items(namespace):
                    where = (place, namespace, key)
                    assert where not in found
                    assert key_group(key, GROUPS) in state.key_range
                    found[where] = deepcopy(entry[1:])
    return found


class Life:
    """Some task states, the dict they are to equal, and the checkpoint under way."""

    def __init__(self, rng, folder, open_kv):
        self.rng = rng
        self.folder = folder
        self.open_kv = open_kv
        self.store = DirectoryStore(folder / "store")
        self.number = 0
        self.model = {}
        self.states = []
        self.wanted = None
        self.handles = {}
        self.checked = 0
        self.given_up = 0
        self.states = self.restored([])

    # ------------------------------------------------------------------ one step each

    def where(self):
        rng = self.rng
        place, namespace, key = rng.choice(TABLES), rng.choice(NAMESPACES), rng.choice(KEYS)
        group = key_group(key, GROUPS)
        state = next(state for state in self.states if group in state.key_range)
        return state.table(*place), namespace, key, (place, namespace, key)

    def touch(self):
        table, namespace, key, where = self.where()
        stamp = self.rng.choice([0, table.stamp, -1])
        entry = table.touch(namespace, key, lambda: [stamp, 0, []])
        mine = self.model.setdefault(where, [0, []])
        assert entry[1:] == mine
        assert entry[0] == table.stamp
        assert table.space(namespace)[key] is entry
        self.change(entry, mine)

    def change(self, entry, mine):
        number = self.rng.randrange(1000)
        entry[1] += number
        mine[0] += number
        if self.rng.random() < 0.5:
            entry[2].append(number)
            mine[1].append(number)

    def touch_in_the_hot_loop(self):
        table, namespace, key, where = self.where()
        entry = table.space(namespace).get(key)
        if entry is not None and entry[0] == table.stamp:
            self.change(entry, self.model[where])

    def get(self):
        table, namespace, key, where = self.where()
        entry = table.get(namespace, key)
        assert (None if entry is None else entry[1:]) == self.model.get(where)

    def change_what_was_read(self):
        table, namespace, key, where = self.where()
        entry = table.get(namespace, key)
        if entry is not None:
            table.preserve(namespace, key)
            entry[2].append("seen")
            again = table.touch(namespace, key, fresh)
            again[2] = entry[2]
            self.model[where][1].append("seen")

    def delete(self):
        table, namespace, key, where = self.where()
        table.delete(namespace, key)
        self.model.pop(where, None)
        assert table.get(namespace, key) is None

    def drop(self):
        place, namespace = self.rng.choice(TABLES), self.rng.choice(NAMESPACES)
        for state in self.states:
            state.table(*place).drop(namespace)
        for where in [where for where in self.model if where[:2] == (place, namespace)]:
            del self.model[where]

    def prefetch(self):
        place, namespace = self.rng.choice(TABLES), self.rng.choice(NAMESPACES)
        keys = self.rng.choices(KEYS, k=self.rng.randrange(6))
        for state in self.states:
            mine = [key for key in keys if key_group(key, GROUPS) in state.key_range]
            state.table(*place).prefetch(namespace, mine)
            for key in mine:
                if (place, namespace, key) in self.model:
                    assert key in state.table(*place).space(namespace)

    def look_at_all(self):
        assert contents(self.states) == self.model
        for state in self.states:
            tables = [state.table(*place) for place in TABLES]
            for table in tables:
                assert table.namespaces() == sorted(set(table.namespaces()))
            assert state.entries == sum(len(s) for t in tables for s in t.live.values())
            assert state.dirty_entries == sum(len(d) for t in tables for d in t.dirty.values())

    def maintain(self):
        for state in self.states:
            state.maintain()

    def clean_up(self):
        for state in self.states:
            state.clean_up()

    def freeze(self):
        if self.wanted is not None:
            return
        self.wanted = deepcopy(self.model)
        self.handles = {}
        for state in self.states:
            state.freeze(self.number)

    def flush(self):
        """Also without a checkpoint under way: a spill is worked off."""
        state = self.rng.choice(self.states)
        state.flush_slice(self.rng.randrange(1, 5))

    def copy(self):
        """Write off one task's part, a slice at a time, and copy it at some time after that."""
        if self.wanted is None:
            return
        left = [number for number in range(len(self.states)) if number not in self.handles]
        number = self.rng.choice(left)
        state = self.states[number]
        if state.flush_slice(self.rng.randrange(1, 8)):
            if self.rng.random() < 0.5:
                return  # all is written, and stays as it is for a while
            self.handles[number] = self.handle(state)
            state.checkpointed()
        if len(self.handles) == len(self.states):
            self.restore()

    def give_up(self):
        if self.wanted is not None and self.rng.random() < 0.3:
            for state in self.states:
                state.checkpointed()
            self.wanted = None
            self.given_up += 1

    # ------------------------------------------------------------------ checkpoints

    def handle(self, state):
        self.number += 1
        folder = self.folder / f"copy-{self.number}"
        state.checkpoint(folder)
        files = self.store.upload(folder, {})
        return StateHandle(state.key_range, list(NODES), files, state.metadata())

    def restored(self, handles):
        ranges = split(self.rng, self.rng.randrange(1, 4))
        states = []
        for key_range in ranges:
            self.number += 1
            states.append(
                restore_state(
                    [handle for handle in handles if handle.key_range.overlaps(key_range)],
                    self.store,
                    self.folder / f"live-{self.number}",
                    key_range=key_range,
                    wanted=WantedStates(dict.fromkeys(TABLES, {})),
                    max_parallelism=GROUPS,
                    open_kv=self.open_kv,
                    capacity=self.rng.choice([2, 10, 1000]),
                    slice_entries=self.rng.randrange(1, 6),
                    check=True,
                )
            )
        return states

    def restore(self):
        """The checkpoint is complete: it must hold what was there at the freeze."""
        wanted, self.wanted = self.wanted, None
        states = self.restored(list(self.handles.values()))
        assert contents(states) == wanted
        self.checked += 1
        if self.rng.random() < 0.5:
            self.states, states, self.model = states, self.states, wanted
        for state in states:
            state.close()

    def live(self, steps):
        choices = {
            self.touch: 40,
            self.touch_in_the_hot_loop: 10,
            self.get: 12,
            self.change_what_was_read: 8,
            self.delete: 8,
            self.drop: 2,
            self.prefetch: 4,
            self.look_at_all: 1,
            self.maintain: 10,
            self.clean_up: 2,
            self.freeze: 3,
            self.flush: 6,
            self.copy: 16,
            self.give_up: 1,
        }
        for step in self.rng.choices(list(choices), list(choices.values()), k=steps):
            step()
        self.look_at_all()
        while self.wanted is not None:
            self.copy()
        self.freeze()
        while self.wanted is not None:
            self.copy()
        assert self.checked
        for state in self.states:
            state.close()


@pytest.mark.parametrize("seed", range(200))
def test_it_is_a_dict_whatever_happens(seed, tmp_path):
    Life(random.Random(seed), tmp_path, MemoryStore.open).live(300)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_a_dict_on_rocksdb_too(seed, tmp_path):
    Life(random.Random(seed), tmp_path, open_rocksdb).live(200)


@pytest.mark.parametrize("open_kv", [MemoryStore.open, open_rocksdb])
def test_state_may_be_much_larger_than_the_table(tmp_path, open_kv):
    rng = random.Random(7)
    state = empty_state(open_kv(tmp_path / "kv"), capacity=50, slice_entries=10)
    table = state.table("a", "x")
    model = {}
    for _ in range(3000):
        key = rng.randrange(1500)
        entry = table.touch(key % 3, key, fresh)
        assert entry[1] == model.get(key, 0)
        entry[1] += 1
        model[key] = entry[1]
        state.maintain()
        assert state.entries <= 2 * 50 + 2
    assert len(model) > 1000
    found = {key: entry[1] for namespace in range(3) for key, entry in table.items(namespace)}
    assert found == model
    state.close()


def test_memory_stays_bounded_by_what_was_changed_while_a_checkpoint_waits():
    state = empty_state(MemoryStore(), capacity=20)
    table = state.table("a", "x")
    for key in range(40):
        table.touch(0, key, fresh)
    state.freeze(1)
    while not state.flush_slice(100):
        pass
    for _ in range(5):
        state.maintain()
    assert state.entries == 20  # what is written may go, though the copy is not made yet
    for key in range(100, 160):
        table.touch(0, key, fresh)
        state.maintain()
    assert len(table.dirty[0]) == 60  # nothing of later may be written before the copy
    state.checkpointed()
    for _ in range(40):
        state.maintain()
    assert state.entries <= 20
    assert sorted(key for key, _ in table.items(0)) == [*range(40), *range(100, 160)]


def test_a_barrier_in_a_spill_writes_nothing_at_once(tmp_path):
    """What the spill has left to write stays below what the barrier has caught."""
    written = []

    class Counted(MemoryStore):
        def write(self, puts, deletes):
            written.append(len(puts) + len(deletes))
            super().write(puts, deletes)

    state = empty_state(Counted(), capacity=20, slice_entries=1)
    table = state.table("a", "x")
    for key in range(20):
        table.touch(0, key, fresh)[1] = 1
    state.maintain()  # a spill begins
    state.maintain()
    table.touch(0, 3, fresh)[1] = 2  # in the spill and behind it
    table.delete(0, 4)
    table.touch(0, 99, fresh)[1] = 2
    before = len(written)
    state.freeze(1)
    assert len(written) == before
    assert [len(layer.entries[0]) for layer in table.layers] == [20, 3]
    for key in (3, 5, 99):
        table.touch(0, key, fresh)[1] = 3  # behind the barrier
    while not state.flush_slice(1):
        assert max(written) <= 1
    state.checkpoint(tmp_path / "copy")
    copied = empty_state(MemoryStore.open(tmp_path / "copy"))
    copied._persisted = {("a", "x"): [0]}
    found = {key: entry[1] for key, entry in copied.table("a", "x").items(0)}
    ones = {key: 1 for key in range(20) if key not in (3, 4)}
    assert found == {**ones, 3: 2, 99: 2}


def test_a_key_of_another_task_is_refused():
    state = empty_state(MemoryStore(), KeyGroupRange(0, GROUPS // 2))
    table = state.table("a", "x")
    for key in KEYS:
        if key_group(key, GROUPS) < GROUPS // 2:
            table.touch(0, key, fresh)
        else:
            with pytest.raises(InvariantError, match=r"^a: key .*, group \d+, not in"):
                table.touch(0, key, fresh)


def test_nothing_is_copied_before_it_is_frozen_and_written(tmp_path):
    state = empty_state(MemoryStore())
    with pytest.raises(InvariantError):
        state.checkpoint(tmp_path / "1")
    for key in range(10):
        state.table("a", "x").touch(0, key, fresh)
    state.freeze(1)
    assert not state.flush_slice(1)
    with pytest.raises(InvariantError):
        state.checkpoint(tmp_path / "2")
    while not state.flush_slice(1):
        pass
    state.checkpoint(tmp_path / "3")
    state.checkpointed()
    with pytest.raises(InvariantError):
        state.checkpoint(tmp_path / "4")


def test_a_table_is_the_same_object_for_the_same_names():
    state = empty_state(MemoryStore())
    assert state.table("a", "x") is state.table("a", "x")
    assert state.table("a", "x") is not state.table("b", "x")


def test_two_states_with_the_same_number_are_refused(monkeypatch):
    monkeypatch.setattr("streamline.state.task_state.state_id", lambda node, name: 1)
    state = empty_state(MemoryStore())
    state.table("a", "x")
    with pytest.raises(StateError, match=r"state 'y' of node 'a' .* rename"):
        state.table("a", "y")


def test_state_of_a_node_that_is_gone_is_left_out(tmp_path):
    store = DirectoryStore(tmp_path / "store")
    state = empty_state(MemoryStore())
    state.table("a", "x").touch(0, 1, fresh)
    state.table("b", "x").touch(5, 2, fresh)
    state.freeze(1)
    while not state.flush_slice(1):
        pass
    state.checkpoint(tmp_path / "copy")
    files = store.upload(tmp_path / "copy", {})
    handle = StateHandle(state.key_range, list(NODES), files, state.metadata())
    restored = restore_state(
        [handle],
        store,
        tmp_path / "live",
        key_range=state.key_range,
        wanted=WantedStates({("b", "x"): {}}),
        max_parallelism=GROUPS,
        open_kv=MemoryStore.open,
        capacity=100,
        slice_entries=10,
    )
    assert restored.metadata()["tables"] == [
        {"node": "b", "state": "x", "namespaces": [5], "layout": {}, "types": {}}
    ]
    assert contents([restored]) == {(("b", "x"), 5, 2): [0, []]}


def test_a_state_that_was_never_asked_for_is_kept(tmp_path):
    """An operator may be slow to open its tables; the next checkpoint has them all the same."""
    rng = random.Random(1)
    life = Life(rng, tmp_path, MemoryStore.open)
    for state in life.states:
        state.close()
    state = empty_state(MemoryStore())
    state.table("a", "x").touch(3, 1, fresh)
    state.freeze(1)
    while not state.flush_slice(1):
        pass
    first = life.handle(state)
    again = life.restored([first])
    handles = []
    for state in again:
        state.freeze(2)
        while not state.flush_slice(1):
            pass
        handles.append(life.handle(state))
    assert contents(life.restored(handles)) == {(("a", "x"), 3, 1): [0, []]}


def test_a_missing_or_short_file_is_noticed(tmp_path):
    life = Life(random.Random(1), tmp_path, MemoryStore.open)
    state = empty_state(MemoryStore())
    state.freeze(1)
    while not state.flush_slice(1):
        pass
    handle = life.handle(state)
    file = tmp_path / "store" / "shared" / handle.files[0].digest
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data + b"x")
    with pytest.raises(CheckpointError, match="bytes, not"):
        life.restored([handle])
    file.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        life.restored([handle])
