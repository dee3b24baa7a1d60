"""How long a task stands still for a checkpoint: the swap, each slice, and RocksDB's own copy."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from streamline.config import RuntimeConfig
from streamline.keys import KeyGroupRange
from streamline.runtime.worker import tune_gc
from streamline.state.rocksdb import open_rocksdb
from streamline.state.task_state import TaskState

SLICE = RuntimeConfig.flush_slice_entries


def longest_pauses(work: Path, *, entries: int) -> dict[str, float]:
    """Milliseconds of the longest call of each kind, with so many dirty entries."""
    tune_gc()  # as a worker does
    state = TaskState(
        open_rocksdb(work / "live"),
        key_range=KeyGroupRange(0, 128),
        max_parallelism=128,
        capacity=2 * entries,
        slice_entries=SLICE,
    )
    table = state.table("window", "slices")
    for key in range(entries):
        table.touch(0, f"user-{key}", lambda: [0, 1.5, 7])
    longest = {"freeze": _ms(lambda: state.freeze(1)), "slice": 0.0}
    done = False

    def flush() -> None:
        nonlocal done
        done = state.flush_slice(SLICE)

    while not done:
        longest["slice"] = max(longest["slice"], _ms(flush))
    longest["clean up"] = 0.0
    cleaning = True

    def clean() -> None:
        nonlocal cleaning
        cleaning = state.clean_up()

    while cleaning:
        longest["clean up"] = max(longest["clean up"], _ms(clean))
    copying = threading.Thread(target=state.checkpoint, args=(work / "copy",))
    copying.start()
    longest["copy beside"], last = 0.0, time.perf_counter()
    while copying.is_alive():  # the stream goes on: how long are we kept from it?
        table.get(0, "user-77")
        now = time.perf_counter()
        longest["copy beside"] = max(longest["copy beside"], (now - last) * 1000)
        last = now
    state.checkpointed()
    state.close()
    longest["freeze in a spill"] = _in_a_spill(work, entries)
    return longest


def _in_a_spill(work: Path, entries: int) -> float:
    """A barrier that comes when memory is short and entries are being written anyway."""
    state = TaskState(
        open_rocksdb(work / "spilling"),
        key_range=KeyGroupRange(0, 128),
        max_parallelism=128,
        capacity=entries,
        slice_entries=SLICE,
    )
    table = state.table("window", "slices")
    for key in range(entries // 2 + 1):
        table.touch(0, f"user-{key}", lambda: [0, 1.5, 7])
    state.maintain()
    longest = _ms(lambda: state.freeze(1))
    state.close()
    return longest


def _ms(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000
