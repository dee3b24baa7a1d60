"""Stores and keyed state keep their contracts."""

from pathlib import Path

import pytest

from streamline.state.kv import KeyValueStore
from streamline.state.memory import MemoryStore
from streamline.state.rocksdb import open_rocksdb
from streamline.testing import KeyValueStoreContract, StateBackendContract


class TestMemoryStore(KeyValueStoreContract):
    def open_store(self, directory: Path) -> KeyValueStore:
        return MemoryStore.open(directory)


class TestRocksStore(KeyValueStoreContract):
    seeds = 4

    def open_store(self, directory: Path) -> KeyValueStore:
        return open_rocksdb(directory)


class TestStateInMemory(StateBackendContract):
    seeds = 30

    def open_store(self, directory: Path) -> KeyValueStore:
        return MemoryStore.open(directory)


class TestStateInRocksDB(StateBackendContract):
    seeds = 3
    steps = 250

    def open_store(self, directory: Path) -> KeyValueStore:
        return open_rocksdb(directory)


class Forgetful(MemoryStore):
    """Loses deletes."""

    def write(self, puts, deletes=()) -> None:  # type: ignore[no-untyped-def]
        super().write(puts)


def test_the_kits_find_a_store_that_loses_deletes() -> None:
    class Keys(KeyValueStoreContract):
        def open_store(self, directory: Path) -> KeyValueStore:
            return Forgetful.open(directory)

    class State(StateBackendContract):
        def open_store(self, directory: Path) -> KeyValueStore:
            return Forgetful.open(directory)

    with pytest.raises(AssertionError):
        Keys().test_deletes_come_before_puts()
    with pytest.raises(AssertionError, match="step"):
        Keys().test_random_runs()
    with pytest.raises(AssertionError) as caught:
        State().test_random_runs_against_a_dict()
    assert caught.value.__notes__[0].startswith("seed ")
