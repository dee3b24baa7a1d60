"""Checkpoints on RocksDB are incremental, also behind a restore."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from streamline.config import RuntimeConfig
from streamline.ids import NodeId, TaskId
from streamline.keys import KeyGroupRange, key_group
from streamline.runtime.keyed_state import KeyedState, StateServices
from streamline.state.manifest import StateFile, StateHandle, TaskSnapshot
from streamline.state.restore import WantedStates
from streamline.state.rocksdb import open_rocksdb
from streamline.state.store import DirectoryStore

GROUPS = 16
NODE = "counts"
ALL = KeyGroupRange(0, GROUPS)


class CountingStore(DirectoryStore):
    """One that notes which tables it was given."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.tables: list[str] = []

    def put_file(self, source: Path, digest: str) -> None:
        if source.suffix == ".sst":
            self.tables.append(digest)
        super().put_file(source, digest)


def at_once(
    work: Callable[[], list[StateFile]], done: Callable[[list[StateFile] | BaseException], None]
) -> None:
    done(work())


class Life:
    """One life of a task: from a restore on."""

    def __init__(
        self,
        folder: Path,
        store: DirectoryStore,
        handles: Sequence[StateHandle],
        key_range: KeyGroupRange,
    ) -> None:
        self.key_range = key_range
        self.state = KeyedState(
            TaskId(NodeId(NODE), 0),
            self.key_range,
            (NODE,),
            wanted=WantedStates({(NODE, "count"): {}}),
            max_parallelism=GROUPS,
            services=StateServices(folder, open_rocksdb, store, at_once),
            config=RuntimeConfig(check_invariants=True),
            probe=lambda *_: None,
        )
        self.state.restore(list(handles))

    def add(self, keys: range) -> None:
        """One more for each key that is ours."""
        table = self.state.backend.table(NODE, "count")
        for key in keys:
            if key_group(key, GROUPS) in self.key_range:
                table.touch(0, key, lambda: [0, 0])[1] += 1

    def counts(self) -> dict[object, int]:
        table = self.state.backend.table(NODE, "count")
        return {key: entry[1] for key, entry in table.items(0)}

    def checkpoint(self, epoch: int) -> StateHandle:
        taken: list[TaskSnapshot] = []
        self.state.freeze(epoch)
        snapshot = TaskSnapshot(NODE, 0, [NODE], 1, epoch, self.key_range)
        self.state.store(snapshot, taken.append, lambda epoch, why: pytest.fail(why))
        while not taken:
            assert self.state.work_off()
        assert taken[0].state is not None
        self.state.committed(epoch)
        return taken[0].state


def test_only_new_tables_are_stored(tmp_path: Path) -> None:
    store = CountingStore(tmp_path / "store")
    life = Life(tmp_path / "one", store, [], ALL)
    life.add(range(1_000))
    first = life.checkpoint(1)
    assert len(store.tables) == 1
    life.add(range(10))
    second = life.checkpoint(2)
    assert len(store.tables) == 2
    assert tables(first) < tables(second)
    life.state.close()


def test_a_restore_knows_what_is_stored(tmp_path: Path) -> None:
    store = CountingStore(tmp_path / "store")
    life = Life(tmp_path / "one", store, [], ALL)
    life.add(range(1_000))
    first = life.checkpoint(1)
    life.state.close()
    again = Life(tmp_path / "two", store, [first], ALL)
    again.add(range(500, 1_010))
    second = again.checkpoint(2)
    assert len(store.tables) == 2
    assert tables(first) < tables(second)
    again.state.close()
    last = Life(tmp_path / "three", store, [second], ALL)
    assert last.counts() == {key: 2 if 500 <= key < 1_000 else 1 for key in range(1_010)}
    last.state.close()


def test_a_part_of_the_key_groups_keeps_the_tables(tmp_path: Path) -> None:
    """What is not ours any more is deleted by its range, not left out by copying the rest."""
    store = CountingStore(tmp_path / "store")
    life = Life(tmp_path / "one", store, [], ALL)
    life.add(range(1_000))
    first = life.checkpoint(1)
    life.state.close()
    for number, part in enumerate((KeyGroupRange(0, 8), KeyGroupRange(8, 16), KeyGroupRange(5, 9))):
        store.tables.clear()
        one = Life(tmp_path / f"part-{number}", store, [first], part)
        assert one.counts() == ones(part)
        second = one.checkpoint(2)
        assert tables(first) < tables(second)
        assert len(store.tables) == 1  # which holds that a range was deleted
        one.state.close()
    few = Life(tmp_path / "few", store, [first], KeyGroupRange(5, 8))
    assert few.counts() == ones(few.key_range)
    assert not tables(first) & tables(few.checkpoint(2))  # too few to keep the files of all
    few.state.close()


def test_apart_and_together_again(tmp_path: Path) -> None:
    """What was deleted by its range is there again when it comes back from another task."""
    store = CountingStore(tmp_path / "store")
    handles: list[StateHandle] = []
    wanted: dict[object, int] = {}
    lives = 0
    for epoch, count in enumerate((1, 2, 1, 3, 2, 5, 1), start=1):
        ends = [GROUPS * place // count for place in range(count + 1)]
        before, handles = handles, []
        for part in map(KeyGroupRange, ends, ends[1:]):
            mine = [handle for handle in before if handle.key_range.overlaps(part)]
            life = Life(tmp_path / f"life-{lives}", store, mine, part)
            lives += 1
            held = {key for key in wanted if key_group(key, GROUPS) in part}
            assert life.counts() == {key: wanted[key] for key in held}
            life.add(range(epoch * 100, epoch * 100 + 300))
            handles.append(life.checkpoint(epoch))
            life.state.close()
        for key in range(epoch * 100, epoch * 100 + 300):
            wanted[key] = wanted.get(key, 0) + 1
    last = Life(tmp_path / "last", store, handles, ALL)
    assert last.counts() == wanted
    last.state.close()


def ones(part: KeyGroupRange) -> dict[object, int]:
    return {key: 1 for key in range(1_000) if key_group(key, GROUPS) in part}


def tables(handle: StateHandle) -> set[str]:
    return {file.digest for file in handle.files if file.name.endswith(".sst")}
