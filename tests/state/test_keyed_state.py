"""KeyedState: from the barrier to the report, and what may come in between."""

import errno
import random
from pathlib import Path

import pytest

from streamline.config import RuntimeConfig
from streamline.errors import CheckpointError, StateError
from streamline.ids import TaskId
from streamline.keys import KeyGroupRange
from streamline.runtime.keyed_state import KeyedState, StateServices
from streamline.state.manifest import TaskSnapshot
from streamline.state.memory import MemoryStore
from streamline.state.restore import WantedStates
from streamline.state.rocksdb import open_rocksdb
from streamline.state.store import DirectoryStore

TASK = TaskId("a", 2)
RANGE = KeyGroupRange(0, 16)


class CountingStore(MemoryStore):
    """Counts how often it was closed, and can be told to fail."""

    closed = 0
    broken = None

    @classmethod
    def open(cls, directory):
        return cls(MemoryStore.open(directory)._entries)

    def write(self, puts, deletes=()):
        assert not self.closed
        if self.broken == "write":
            raise StateError("the disk is full")
        super().write(puts, deletes)

    def checkpoint(self, directory):
        assert not self.closed
        if self.broken == "checkpoint":
            directory.mkdir(parents=True)
            (directory / "half").write_bytes(b"x")
            raise StateError("the disk is full")
        super().checkpoint(directory)

    def close(self):
        self.closed += 1


class WatchedStore(DirectoryStore):
    """Knows what was put, and can be full."""

    def __init__(self, root):
        super().__init__(root)
        self.put = []
        self.full = False

    def put_file(self, source, digest):
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.put.append((source.name, digest))
        super().put_file(source, digest)


class Bench:
    """One KeyedState with all that it needs; work aside is done when the test says."""

    def __init__(self, folder, open_kv=CountingStore.open):
        self.folder = folder
        self.stores = []
        self.store = WatchedStore(folder / "store")
        self.asides = []
        self.log = []
        self.taken = {}
        self.declined = []
        self.open_kv = open_kv
        self.keyed = self.make()
        self.keyed.restore([])
        self.table = self.keyed.backend.table("a", "x")

    def make(self):
        def open_kv(directory):
            self.stores.append(self.open_kv(directory))
            return self.stores[-1]

        return KeyedState(
            TASK,
            RANGE,
            ("a",),
            wanted=WantedStates({("a", "x"): {}}),
            max_parallelism=16,
            services=StateServices(
                self.folder / f"process-{len(self.stores)}",
                open_kv,
                self.store,
                lambda work, done: self.asides.append((work, done)),
            ),
            config=RuntimeConfig(flush_slice_entries=2, table_entries=1000, check_invariants=True),
            probe=lambda point, task, epoch: self.log.append((point, epoch)),
        )

    @property
    def kv(self):
        return self.stores[-1]

    def change(self, *keys):
        for key in keys:
            self.table.touch(0, key, lambda: [0, 0])[1] += 1

    def freeze(self, epoch):
        self.keyed.freeze(epoch)

    def begin_store(self, epoch):
        snapshot = TaskSnapshot("a", 2, ["a"], 3, epoch, RANGE, operators={"a": epoch})
        self.keyed.store(snapshot, self.on_taken, self.on_declined)

    def on_taken(self, snapshot):
        self.log.append(("taken", snapshot.epoch))
        self.taken[snapshot.epoch] = snapshot

    def on_declined(self, epoch, reason):
        self.log.append(("declined", epoch))
        self.declined.append((epoch, reason))

    def barrier(self, epoch):
        self.freeze(epoch)
        self.begin_store(epoch)

    def work_off(self):
        """All that is to be written off between batches."""
        for _ in range(1000):
            if not self.keyed.work_off():
                return
        raise AssertionError("it never ends")

    def aside(self, count=1):
        """Do some of the work aside."""
        for _ in range(count):
            work, done = self.asides.pop(0)
            try:
                result = work()
            except Exception as error:
                result = error
            done(result)

    def finish(self, epoch):
        """Bring a checkpoint from its barrier to its end."""
        self.work_off()
        while self.asides:
            self.aside()
        assert self.log[-1] == ("taken", epoch)

    def contents(self, epoch):
        """What a checkpoint holds, by key."""
        keyed = self.make()
        keyed.restore([self.taken[epoch].state])
        try:
            return {key: entry[1] for key, entry in keyed.backend.table("a", "x").items(0)}
        finally:
            keyed.close()
            self.stores.pop()

    def links(self):
        return list(self.folder.glob("process-0/links/*/*"))


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_the_order_from_barrier_to_report(bench):
    bench.change(*range(7))
    bench.freeze(1)
    assert bench.log == [("frozen", 1)]
    assert not bench.keyed.work_off()  # nothing is stored before the rest of the snapshot is there
    bench.begin_store(1)
    bench.change(0, 7)
    slices = 0
    while not bench.asides:
        assert bench.keyed.work_off()
        bench.change(1)
        slices += 1
    assert slices >= 4  # of two entries each
    assert bench.log == [("frozen", 1), ("flushed", 1)]
    assert not bench.keyed.work_off()
    bench.aside()  # the copy
    assert len(bench.links()) == 1
    assert len(bench.asides) == 1 and not bench.taken
    bench.change(2)
    bench.aside()  # the upload
    assert bench.log == [("frozen", 1), ("flushed", 1), ("taken", 1)]
    assert bench.links() == []
    snapshot = bench.taken[1]
    assert snapshot.operators == {"a": 1}
    assert (snapshot.state.key_range, snapshot.state.nodes) == (RANGE, ["a"])
    assert bench.contents(1) == dict.fromkeys(range(7), 1)


def test_what_came_after_the_barrier_is_in_the_next(bench):
    bench.change(1, 2)
    bench.barrier(1)
    bench.change(2, 3)
    bench.finish(1)
    bench.barrier(2)
    bench.change(1)
    bench.finish(2)
    assert bench.contents(1) == {1: 1, 2: 1}
    assert bench.contents(2) == {1: 1, 2: 2, 3: 1}


def test_an_empty_state_is_stored_too(bench):
    bench.barrier(1)
    bench.finish(1)
    assert bench.contents(1) == {}


def test_maintain_writes_nothing_of_later_while_the_copy_waits(bench):
    bench.keyed.close()
    bench = Bench(bench.folder / "small")
    bench.keyed._config = RuntimeConfig(flush_slice_entries=2)
    bench.keyed._state._capacity = 4
    bench.change(*range(20))
    bench.barrier(1)
    while not bench.asides:
        bench.keyed.work_off()
        bench.change(*range(30))
        bench.keyed.maintain()
    for _ in range(20):
        bench.change(*range(30))
        bench.keyed.maintain()
    bench.aside(2)
    assert bench.contents(1) == dict.fromkeys(range(20), 1)


def test_a_full_checkpoint_store_declines_once_and_the_next_works(bench):
    bench.change(1)
    bench.barrier(1)
    bench.store.full = True
    bench.work_off()
    bench.aside(2)
    assert [epoch for epoch, _ in bench.declined] == [1]
    assert "No space left on device" in bench.declined[0][1]
    assert not bench.taken and not bench.asides and bench.links() == []
    bench.work_off()
    bench.store.full = False
    bench.change(2)
    bench.barrier(2)
    bench.finish(2)
    assert len(bench.declined) == 1
    assert bench.contents(2) == {1: 1, 2: 1}


def test_a_full_local_disk_declines_once_and_the_next_works(bench, monkeypatch):
    """Already the folder for the copy cannot be made."""

    def mkdir(path, *args, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    bench.change(1)
    bench.barrier(1)
    with monkeypatch.context() as full:
        full.setattr(Path, "mkdir", mkdir)
        bench.work_off()
    assert [epoch for epoch, _ in bench.declined] == [1]
    assert "No space left on device" in bench.declined[0][1]
    assert not bench.asides
    bench.change(2)
    bench.barrier(2)
    bench.finish(2)
    assert len(bench.declined) == 1
    assert bench.contents(2) == {1: 1, 2: 1}


def test_a_copy_that_fails_declines_once_and_the_next_works(bench):
    bench.change(1)
    bench.barrier(1)
    bench.work_off()
    bench.kv.broken = "checkpoint"
    bench.aside()
    assert bench.declined == [(1, "the disk is full")]
    assert not bench.asides
    bench.kv.broken = None
    bench.change(2)
    bench.barrier(2)
    bench.finish(2)
    assert bench.contents(2) == {1: 1, 2: 1}


def test_a_copy_that_fails_leaves_nothing_on_the_full_disk(bench):
    bench.change(1)
    bench.barrier(1)
    bench.work_off()
    bench.kv.broken = "checkpoint"
    bench.aside()
    assert bench.links() == []


def test_state_that_cannot_be_written_ends_the_task(bench):
    bench.change(1)
    bench.barrier(1)
    bench.kv.broken = "write"
    with pytest.raises(StateError, match="disk is full"):
        bench.work_off()
    assert not bench.declined and not bench.taken
    bench.keyed.close()
    assert bench.kv.closed == 1


def test_files_that_have_not_changed_are_not_uploaded_again(tmp_path):
    bench = Bench(tmp_path, open_rocksdb)
    bench.change(*range(300))
    bench.barrier(1)
    bench.finish(1)
    first = {file.digest for file in bench.taken[1].state.files if file.name.endswith(".sst")}
    assert first and first <= {digest for _, digest in bench.store.put}
    bench.keyed.committed(1)
    bench.store.put.clear()
    bench.change(5000)
    bench.barrier(2)
    bench.finish(2)
    files = bench.taken[2].state.files
    assert first <= {file.digest for file in files}
    assert not first & {digest for _, digest in bench.store.put}
    new = {file.digest for file in files if file.name.endswith(".sst")} - first
    assert new and new <= {digest for _, digest in bench.store.put}
    assert bench.contents(2) == dict.fromkeys([*range(300), 5000], 1)
    bench.keyed.close()


def test_files_of_a_checkpoint_that_did_not_complete_are_uploaded_again(tmp_path):
    """Its files may have been removed with it."""
    bench = Bench(tmp_path, open_rocksdb)
    bench.change(*range(300))
    bench.barrier(1)
    bench.finish(1)
    first = {file.digest for file in bench.taken[1].state.files if file.name.endswith(".sst")}
    bench.keyed.abort(1)
    bench.store.remove(1, first)
    bench.barrier(2)
    bench.finish(2)
    bench.keyed.committed(2)
    assert bench.contents(2) == dict.fromkeys(range(300), 1)
    bench.keyed.committed(1)  # late, or never: it is not what the next one builds on
    bench.change(1)
    bench.barrier(3)
    bench.finish(3)
    assert bench.contents(3) == dict.fromkeys(range(300), 1) | {1: 2}
    bench.keyed.close()


PHASES = ["frozen", "stored", "flushing", "flushed", "copied", "taken"]


def bring_to(bench, epoch, phase):
    """A checkpoint of keys 0 to 5 as far as a phase."""
    bench.change(*range(6))
    bench.freeze(epoch)
    steps = PHASES.index(phase)
    if steps >= 1:
        bench.begin_store(epoch)
    if steps == 2:
        assert bench.keyed.work_off()
        assert not bench.asides
    if steps >= 3:
        bench.work_off()
        assert len(bench.asides) == 1
    if steps >= 4:
        bench.aside()
    if steps >= 5:
        bench.aside()


@pytest.mark.parametrize("late", [False, True], ids=["aside at once", "aside late"])
@pytest.mark.parametrize("phase", PHASES)
def test_abort_in_every_phase(bench, phase, late):
    bring_to(bench, 1, phase)
    bench.keyed.abort(1)
    bench.change(0, 10)
    if not late:
        while bench.asides:
            bench.aside()
    bench.keyed.maintain()
    bench.barrier(2)
    bench.work_off()
    while bench.asides:
        bench.aside()
    assert bench.log.count(("taken", 2)) == 1
    assert bench.log.count(("taken", 1)) == (phase in ("copied", "taken"))  # too late for that
    assert not bench.declined
    assert bench.contents(2) == {0: 2, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 10: 1}
    assert bench.links() == []
    bench.keyed.close()
    assert bench.kv.closed == 1


@pytest.mark.parametrize("phase", PHASES)
def test_an_abort_of_an_older_one_changes_nothing(bench, phase):
    bring_to(bench, 5, phase)
    if phase == "frozen":
        bench.begin_store(5)
    bench.keyed.abort(4)
    bench.work_off()
    while bench.asides:
        bench.aside()
    assert bench.log.count(("taken", 5)) == 1
    assert bench.contents(5) == dict.fromkeys(range(6), 1)


@pytest.mark.parametrize("phase", PHASES)
def test_a_new_barrier_while_an_old_snapshot_is_pending(bench, phase):
    bring_to(bench, 1, phase)
    bench.change(3, 10)
    bench.barrier(2)
    bench.change(3)
    bench.work_off()
    while bench.asides:
        bench.aside()
    assert bench.contents(2) == {0: 1, 1: 1, 2: 1, 3: 2, 4: 1, 5: 1, 10: 1}
    assert bench.log.count(("taken", 2)) == 1
    assert not bench.declined
    if 1 in bench.taken:
        assert bench.contents(1) == dict.fromkeys(range(6), 1)
    assert bench.links() == []


@pytest.mark.parametrize("phase", PHASES)
def test_close_in_every_phase(bench, phase):
    bring_to(bench, 1, phase)
    bench.keyed.close()
    assert bench.kv.closed == (phase != "flushed")  # not under the copy's feet
    while bench.asides:
        bench.aside()
    assert bench.kv.closed == 1
    assert not bench.declined
    if 1 in bench.taken:
        assert bench.contents(1) == dict.fromkeys(range(6), 1)


def test_close_while_two_copies_are_made(bench):
    bring_to(bench, 1, "flushed")
    bench.barrier(2)
    bench.work_off()
    assert len(bench.asides) == 2
    bench.keyed.close()
    bench.aside()
    assert bench.kv.closed == 0
    bench.aside()
    assert bench.kv.closed == 1
    while bench.asides:
        bench.aside()
    assert bench.kv.closed == 1


def test_a_failed_copy_lets_the_store_be_closed(bench):
    bring_to(bench, 1, "flushed")
    bench.kv.broken = "checkpoint"
    bench.keyed.close()
    bench.aside()
    assert bench.kv.closed == 1


def test_close_before_restore(tmp_path):
    bench = Bench(tmp_path)
    keyed = bench.make()
    keyed.close()
    assert len(bench.stores) == 1


def test_closing_twice_is_allowed_on_rocksdb(tmp_path):
    bench = Bench(tmp_path, open_rocksdb)
    bring_to(bench, 1, "flushed")
    bench.keyed.close()
    bench.keyed.close()
    bench.aside(2)
    bench.keyed.close()
    assert bench.contents(1) == dict.fromkeys(range(6), 1)


def test_a_restore_that_lacks_a_file_says_so(bench):
    bench.change(1)
    bench.barrier(1)
    bench.finish(1)
    for digest in bench.store.digests():
        bench.store.remove(1, {digest})
    with pytest.raises(CheckpointError, match="is missing"):
        bench.contents(1)


@pytest.mark.parametrize("seed", range(40))
def test_any_order_of_events(tmp_path, seed):
    """Every checkpoint that is reported holds what was there at its barrier."""
    rng = random.Random(seed)
    bench = Bench(tmp_path)
    model, wanted, epoch = {}, {}, 0

    def change():
        key = rng.randrange(30)
        bench.change(key)
        model[key] = model.get(key, 0) + 1

    def barrier():
        nonlocal epoch
        epoch += 1
        bench.barrier(epoch)
        wanted[epoch] = dict(model)

    def fail():
        bench.store.full = not bench.store.full

    def aside():
        if bench.asides:  # threads do not keep to an order
            bench.asides.insert(0, bench.asides.pop(rng.randrange(len(bench.asides))))
            bench.aside()

    def committed():
        done = list(bench.taken)
        if done:
            bench.keyed.committed(rng.choice(done))

    steps = {
        change: 20,
        barrier: 2,
        fail: 1,
        aside: 6,
        committed: 1,
        bench.keyed.work_off: 20,
        bench.keyed.maintain: 5,
        lambda: bench.keyed.abort(rng.randrange(epoch + 1)): 1,
    }
    for step in rng.choices(list(steps), list(steps.values()), k=250):
        step()
    bench.store.full = False
    barrier()
    bench.work_off()
    while bench.asides:
        aside()
    assert len(bench.log) == len(set(bench.log))  # each is reported once
    assert epoch in bench.taken
    for number in bench.taken:
        assert number not in dict(bench.declined)
        assert bench.contents(number) == wanted[number]
    assert bench.links() == []
    bench.keyed.close()
    assert bench.kv.closed == 1


def test_a_snapshot_that_comes_after_its_abort_holds_nothing_of_later(bench):
    """A sink may be preparing still when the abort comes."""
    bench.change(*range(6))
    bench.freeze(1)
    bench.keyed.abort(1)
    bench.begin_store(1)
    bench.change(*range(6))
    bench.keyed._state._capacity = 2
    for _ in range(10):
        bench.keyed.maintain()
    bench.work_off()
    while bench.asides:
        bench.aside()
    if 1 in bench.taken:
        assert bench.contents(1) == dict.fromkeys(range(6), 1)
    bench.barrier(2)
    bench.finish(2)
    assert bench.contents(2) == dict.fromkeys(range(6), 2)
