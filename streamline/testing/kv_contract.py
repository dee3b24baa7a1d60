"""KeyValueStoreContract: what every key-value store behind keyed state must do.

A seeded run of writes, reads and checkpoints is compared with a sorted dict.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from pathlib import Path
from tempfile import TemporaryDirectory

from streamline.state.kv import KeyValueStore

_LAST = b"\xff" * 8


class KeyValueStoreContract(ABC):
    """Subclass it under a name that begins with ``Test``, and say how a store is opened.

    Attributes:
        seeds: How many random runs there are.
        steps: How long each is.

    >>> from streamline.state.memory import MemoryStore
    >>> class TestMemory(KeyValueStoreContract):
    ...     def open_store(self, directory: Path) -> KeyValueStore:
    ...         return MemoryStore.open(directory)
    >>> TestMemory().test_random_runs()
    """

    seeds: int = 8
    steps: int = 60

    @abstractmethod
    def open_store(self, directory: Path) -> KeyValueStore:
        """Open the store in a folder: what a checkpoint left there, or empty."""

    # ------------------------------------------------------------------ tests

    def test_an_empty_store(self) -> None:
        with TemporaryDirectory() as folder:
            store = self.open_store(Path(folder) / "live")
            assert store.get_many([b"a", b"b"]) == [None, None]
            assert store.get_many([]) == []
            assert list(store.scan(b"", _LAST)) == []
            store.write([], [b"a"])
            store.checkpoint(Path(folder) / "copy")
            store.close()
            copy = self.open_store(Path(folder) / "copy")
            assert list(copy.scan(b"", _LAST)) == []
            copy.close()

    def test_deletes_come_before_puts(self) -> None:
        with TemporaryDirectory() as folder:
            store = self.open_store(Path(folder) / "live")
            store.write([(b"a", b"1"), (b"b", b"2")])
            store.write([(b"a", b"3")], [b"a", b"b", b"c"])
            assert store.get_many([b"a", b"b", b"c"]) == [b"3", None, None]
            store.close()

    def test_values_and_keys_may_be_any_bytes(self) -> None:
        entries = {bytes([byte, 0, 255]): bytes([byte]) * byte for byte in range(0, 256, 5)}
        with TemporaryDirectory() as folder:
            store = self.open_store(Path(folder) / "live")
            store.write(entries.items())
            assert list(store.scan(b"", _LAST)) == sorted(entries.items())
            keys = sorted(entries, reverse=True)
            assert store.get_many([*keys, keys[0]]) == [entries[key] for key in [*keys, keys[0]]]
            store.close()

    def test_a_scan_has_its_start_and_not_its_stop(self) -> None:
        with TemporaryDirectory() as folder:
            store = self.open_store(Path(folder) / "live")
            store.write([(key, key) for key in (b"a", b"b", b"b\x00", b"c", b"d")])
            assert [key for key, _ in store.scan(b"b", b"d")] == [b"b", b"b\x00", b"c"]
            assert list(store.scan(b"c", b"c")) == [] == list(store.scan(b"e", _LAST))
            store.close()

    def test_a_range_is_deleted_and_may_be_written_again(self) -> None:
        with TemporaryDirectory() as folder:
            root = Path(folder)
            store = self.open_store(root / "live")
            keys = (b"a", b"b", b"b\x00", b"c", b"d")
            store.write([(key, b"1") for key in keys])
            store.delete_range(b"b", b"c")
            store.delete_range(b"x", b"y")
            assert [key for key, _ in store.scan(b"", _LAST)] == [b"a", b"c", b"d"]
            assert store.get_many([b"b", b"b\x00"]) == [None, None]
            store.write([(b"b\x00", b"2")])
            store.checkpoint(root / "copy")
            store.close()
            copy = self.open_store(root / "copy")
            assert list(copy.scan(b"b", b"c")) == [(b"b\x00", b"2")]
            copy.close()

    def test_a_checkpoint_stays_as_it_was_taken(self) -> None:
        with TemporaryDirectory() as folder:
            root = Path(folder)
            store = self.open_store(root / "live")
            store.write([(b"a", b"1"), (b"b", b"1")])
            store.checkpoint(root / "one")
            store.write([(b"a", b"2"), (b"c", b"2")], [b"b"])
            store.checkpoint(root / "two")
            store.close()
            one, two = self.open_store(root / "one"), self.open_store(root / "two")
            one.write([(b"z", b"9")])
            assert list(one.scan(b"", _LAST)) == [(b"a", b"1"), (b"b", b"1"), (b"z", b"9")]
            assert list(two.scan(b"", _LAST)) == [(b"a", b"2"), (b"c", b"2")]
            one.close()
            two.close()

    def test_close_twice(self) -> None:
        with TemporaryDirectory() as folder:
            store = self.open_store(Path(folder) / "live")
            store.write([(b"a", b"1")])
            store.close()
            store.close()

    def test_random_runs(self) -> None:
        for seed in range(self.seeds):
            with TemporaryDirectory() as folder:
                self._random_run(random.Random(seed), Path(folder), f"seed {seed}")  # noqa: S311

    # ------------------------------------------------------------------ inside

    def _random_run(self, rng: random.Random, root: Path, seed: str) -> None:
        model: dict[bytes, bytes] = {}
        keys = [bytes(rng.choices(b"\x00ab\xff", k=rng.randint(1, 4))) for _ in range(60)]
        store = self.open_store(root / "live")
        for step in range(self.steps):
            where = f"{seed}, step {step}"
            choice = rng.random()
            if choice < 0.1:
                start, stop = sorted(rng.sample(keys, 2))
                store.delete_range(start, stop)
                model = {key: model[key] for key in model if not start <= key < stop}
            elif choice < 0.5:
                deletes = rng.sample(keys, rng.randint(0, 8))
                puts = {rng.choice(keys): b"%d" % step for _ in range(rng.randint(0, 8))}
                store.write(puts.items(), deletes)
                for key in deletes:
                    model.pop(key, None)
                model.update(puts)
            elif choice < 0.7:
                asked = rng.sample(keys, rng.randint(0, 10))
                assert store.get_many(asked) == [model.get(key) for key in asked], where
            elif choice < 0.95:
                start, stop = sorted(rng.sample(keys, 2))
                wanted = [item for item in sorted(model.items()) if start <= item[0] < stop]
                assert list(store.scan(start, stop)) == wanted, where
            else:
                store.checkpoint(root / f"{step}")
                store.close()
                store = self.open_store(root / f"{step}")
        assert list(store.scan(b"", _LAST)) == sorted(model.items()), seed
        store.close()
