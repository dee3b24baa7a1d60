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
        self, folder: Path, store: DirectoryStore, handles: Sequence[StateHandle], half: bool
    ) -> None:
        self.key_range = KeyGroupRange(0, GROUPS // 2 if half else GROUPS)
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
    life = Life(tmp_path / "one", store, [], half=False)
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
    life = Life(tmp_path / "one", store, [], half=False)
    life.add(range(1_000))
    first = life.checkpoint(1)
    life.state.close()
    again = Life(tmp_path / "two", store, [first], half=False)
    again.add(range(500, 1_010))
    second = again.checkpoint(2)
    assert len(store.tables) == 2
    assert tables(first) < tables(second)
    again.state.close()
    last = Life(tmp_path / "three", store, [second], half=False)
    assert last.counts() == {key: 2 if 500 <= key < 1_000 else 1 for key in range(1_010)}
    last.state.close()


def test_a_restore_of_other_key_groups_stores_its_own_tables(tmp_path: Path) -> None:
    store = CountingStore(tmp_path / "store")
    life = Life(tmp_path / "one", store, [], half=False)
    life.add(range(1_000))
    first = life.checkpoint(1)
    life.state.close()
    half = Life(tmp_path / "two", store, [first], half=True)
    second = half.checkpoint(2)
    assert not tables(first) & tables(second)
    assert len(store.tables) == 2
    assert half.counts() == {
        key: 1 for key in range(1_000) if key_group(key, GROUPS) in half.key_range
    }
    half.state.close()


def tables(handle: StateHandle) -> set[str]:
    return {file.digest for file in handle.files if file.name.endswith(".sst")}
