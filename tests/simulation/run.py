"""One simulated life of a job: decided by a seed, the same every time."""

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from streamline.clock import ManualClock
from streamline.config import RuntimeConfig
from streamline.engines.inline import CoordinatorKilled, Faults, InlineEngine, WorkerKilled
from streamline.errors import StateError
from streamline.ids import TaskId
from streamline.state.kv import KeyValueStore
from streamline.state.memory import MemoryStore
from streamline.state.restore import OpenStore
from streamline.state.store import DirectoryStore
from tests.simulation.jobs import JOBS
from tests.simulation.ledger import Ledger

MAX_LIVES = 12
MAX_STEPS = 60_000
POINTS = ["restore", "barrier", "frozen", "flushed", "prepared", "snapshot", "commit", "committed"]
POINTS += ["manifest", "completed"]


class FlakyStore(DirectoryStore):
    """A checkpoint store on a disk that is full now and then."""

    def __init__(self, root: Path, rng: random.Random, fail: float) -> None:
        super().__init__(root)
        self._rng = rng
        self._fail = fail

    def put_file(self, source: Path, digest: str) -> None:
        if self._rng.random() < self._fail:
            raise OSError(28, "No space left on device")
        super().put_file(source, digest)

    def put_manifest(self, epoch: int, data: bytes) -> None:
        if self._rng.random() < self._fail:
            raise OSError(28, "No space left on device")
        super().put_manifest(epoch, data)


class FlakyState(MemoryStore):
    """State on the same disk."""

    rng: random.Random
    fail: float

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = ()) -> None:
        if self.rng.random() < self.fail:
            raise StateError("the state cannot be written: no space left on device")
        super().write(puts, deletes)


def flaky_state(rng: random.Random, fail: float) -> OpenStore:
    def opened(directory: Path) -> KeyValueStore:
        store = FlakyState.open(directory)
        assert isinstance(store, FlakyState)
        store.rng, store.fail = rng, fail
        return store

    return opened


class Difference(AssertionError):
    """A simulated run gave other results than the undisturbed one."""


def simulate(seed: int, tell: Callable[[str], None] = lambda text: None) -> None:
    """Run the job that the seed picks, through all that the seed decides.

    Raises:
        Difference: If the results are not those of the undisturbed run.
        InvariantError: If the engine broke one of its rules.
    """
    rng = random.Random(seed)
    shape = rng.randrange(len(JOBS))
    folder = Path(tempfile.mkdtemp(prefix="streamline-sim-", dir=_memory_folder()))
    try:
        results = _live(rng, shape, folder, tell)
    finally:
        shutil.rmtree(folder)
    _compare(results, undisturbed(shape), f"seed {seed}, job {JOBS[shape].__name__}")


@cache
def undisturbed(shape: int) -> tuple[str, ...]:
    """The results of a job at parallelism 1 when nothing goes wrong."""
    folder = Path(tempfile.mkdtemp(prefix="streamline-sim-", dir=_memory_folder()))
    try:
        store = DirectoryStore(folder / "checkpoints")
        ledger = Ledger(store)
        engine = InlineEngine(
            JOBS[shape](ledger).graph(),
            store=store,
            open_kv=MemoryStore.open,
            directory=folder / "live",
            config=RuntimeConfig(batch_rows=64, check_invariants=True),
            clock=ManualClock(),
        )
        status = engine.run(MAX_STEPS)
        assert status.state == "finished", status
        return tuple(ledger.results())
    finally:
        shutil.rmtree(folder)


def _live(rng: random.Random, shape: int, folder: Path, tell: Callable[[str], None]) -> list[str]:
    """From the first start to the end, over as many crashes of everything as it takes."""
    clock = ManualClock()
    full = rng.choice([0.0, 0.0, 0.05])
    ledger = Ledger()
    faults = Faults(
        rng,
        drop=rng.choice([0.0, 0.0, 0.01, 0.03]),
        delay_ms=rng.choice([0, 5, 200]),
        kill=rng.choice([0.0, 0.002, 0.01]),
        kills=rng.randrange(4),
        step_ms=rng.choice([0, 2, 20]),
    )
    config = RuntimeConfig(
        batch_rows=rng.choice([5, 32, 200]),
        channel_batches=rng.choice([1, 2, 8]),
        checkpoint_every_ms=rng.choice([20, 100, 1_000]),
        checkpoint_timeout_ms=rng.choice([3_000, 20_000]),
        checkpoint_min_pause_ms=rng.choice([0, 50]),
        tolerable_checkpoint_failures=1_000_000,
        retained_checkpoints=rng.choice([1, 2]),
        table_entries=rng.choice([20, 10_000]),
        flush_slice_entries=rng.choice([3, 500]),
        check_invariants=True,
        restart_initial_ms=10,
        restart_max_ms=100,
        restart_budget=1_000,
        task_timeout_ms=2_000,
    )
    for life in range(MAX_LIVES):
        store = FlakyStore(folder / "checkpoints", rng, full)
        ledger.store = store
        last = life == MAX_LIVES - 1
        parallelism = rng.randint(1, 3)
        tell(f"life {life}: parallelism {parallelism}, {faults}, {config}")
        engine = InlineEngine(
            JOBS[shape](ledger).graph(),
            store=store,
            open_kv=flaky_state(rng, full / 5),
            directory=folder / f"live-{life}",
            parallelism=parallelism,
            config=config,
            clock=clock,
            faults=faults,
            probe=_no_crash if last else _crashes(rng, tell),
            run=f"{life}",
            say=lambda level, text: tell(f"  {clock.now_ms()} {level}: {text}"),
        )
        if not last and rng.random() < 0.2:
            engine.stop_after(rng.randrange(300))
        try:
            status = engine.run(MAX_STEPS)
        except CoordinatorKilled as killed:
            tell(f"  {killed}")
            continue
        tell(f"  {status.state} {status.reason}")
        if status.state == "finished":
            return ledger.results()
        if status.state == "failed" and full:
            assert "no space left on device" in status.reason, status.reason
            full = full if life < 3 else 0.0  # somebody makes room, and gives the command again
            continue
        assert status.state == "stopped", status.reason
    raise AssertionError("the job has not come to its end")


def _no_crash(point: str, task: TaskId, epoch: int) -> None:
    pass


def _crashes(rng: random.Random, tell: Callable[[str], None]) -> Callable[[str, TaskId, int], None]:
    """Kill a worker, or everything, at a few of the points where that is worth a test."""
    chosen = rng.choice(POINTS)
    chance = rng.choice([0.0, 0.05, 0.3])
    all_of_it = rng.random() < 0.5
    left = [rng.randint(1, 3)]

    def probe(point: str, task: TaskId, epoch: int) -> None:
        if point != chosen or not left[0] or rng.random() >= chance:
            return
        left[0] -= 1
        if all_of_it or task.index < 0:
            raise CoordinatorKilled(f"everything is killed at {point} of {task}, epoch {epoch}")
        tell(f"  worker of {task} is killed at {point}, epoch {epoch}")
        raise WorkerKilled

    return probe


def _compare(got: list[str], wanted: tuple[str, ...], what: str) -> None:
    lost, extra = Counter(wanted) - Counter(got), Counter(got) - Counter(wanted)
    if lost or extra:
        raise Difference(
            f"{what}: {sum(lost.values())} results are missing ({list(lost)[:3]}), "
            f"{sum(extra.values())} are wrong or twice ({list(extra)[:3]})"
        )


def _memory_folder() -> str | None:
    shm = Path("/dev/shm")
    return str(shm) if shm.is_dir() else None
