"""run_job: a whole job in the test's own thread, to its end; what a test of a job calls.

It puts an inline engine, a manual clock and a folder together, and turns a job that failed into an
error. What goes wrong in between is decided by a seed; the engine does it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from streamline.clock import Clock, ManualClock
from streamline.config import RuntimeConfig
from streamline.coordinator.lifecycle import JobState
from streamline.coordinator.status import JobStatus
from streamline.dsl.job import Job
from streamline.engines.inline import Faults, InlineEngine
from streamline.errors import JobFailedError
from streamline.ids import TaskId
from streamline.state.memory import MemoryStore
from streamline.state.store import DirectoryStore

_MAX_STEPS = 5_000_000


def run_job(
    job: Job,
    *,
    parallelism: int = 1,
    clock: Clock | None = None,
    faults: Faults | int | None = None,
    until: Callable[[], bool] | None = None,
    folder: Path | None = None,
    config: RuntimeConfig | None = None,
) -> JobStatus:
    """Run a job to its end, in this thread and with no process, socket or sleep.

    The clock is a :class:`ManualClock` unless given another. It jumps to whatever is due next,
    so minutes of processing time pass at once and a run is the same every time. It begins in
    November 2023; event times that are more than ``max_future`` ahead of it do not move the
    watermark, so start it later (``ManualClock(start_ms=...)``) if the records are younger.

    Args:
        job: What to run.
        parallelism: Its default parallelism.
        clock: The time.
        faults: What goes wrong. A number is a seed: up to three workers are killed and control
            messages are lost and late, as it decides.
        until: Asked after each commit; the job is drained and stopped once it is true. Ends a
            job whose sources do not.
        folder: Keeps the checkpoints; a job that was stopped or failed is gone on with by
            another call with the same folder. A temporary one if not given.
        config: Settings of the run; by default with all invariants checked.

    Returns:
        How it ended: ``finished``, or ``stopped`` because of ``until``.

    Raises:
        JobFailedError: If the job failed; the reason is its message, the traceback a note.
        InvariantError: If it does not come to an end.

    >>> import streamline as sl
    >>> from streamline.connectors.collection import CollectionSource
    >>> from streamline.testing import CollectingSink, run_job
    >>> job, sink = sl.Job("double"), CollectingSink()
    >>> job.source("in", CollectionSource([1, 2, 3])).map(lambda n: 2 * n).sink("out", sink)
    >>> status = run_job(job, parallelism=2, faults=7)
    >>> str(status.state), sorted(sink.records)
    ('finished', [2, 4, 6])
    """
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="streamline-")))
        status = _run(
            job,
            folder,
            parallelism=parallelism,
            clock=clock or ManualClock(),
            faults=_seeded(faults) if isinstance(faults, int) else faults,
            until=until or (lambda: False),
            config=config or RuntimeConfig(check_invariants=True),
        )
    if status.state not in (JobState.FINISHED, JobState.STOPPED):
        error = JobFailedError(f"job {job.name!r} {status.state}: {status.reason}")
        if status.trace:
            error.add_note(status.trace)
        raise error
    return status


def _run(
    job: Job,
    folder: Path,
    *,
    parallelism: int,
    clock: Clock,
    faults: Faults | None,
    until: Callable[[], bool],
    config: RuntimeConfig,
) -> JobStatus:
    stopping = False

    def probe(point: str, _: TaskId, __: int) -> None:
        nonlocal stopping
        if point == "committed" and not stopping and until():
            stopping = True
            engine.stop()

    engine = InlineEngine(
        job.graph(),
        store=DirectoryStore(folder / "checkpoints"),
        open_kv=MemoryStore.open,
        directory=folder / "live",
        parallelism=parallelism,
        config=config,
        clock=clock,
        faults=faults,
        probe=probe,
        run=_next_run(folder),
    )
    return engine.run(_MAX_STEPS)


def _seeded(seed: int) -> Faults:
    rng = random.Random(seed)  # noqa: S311 - chance is not secrecy
    return Faults(rng, drop=0.02, delay_ms=20, kill=0.01, kills=3)


def _next_run(folder: Path) -> str:
    """A name that no other run of the folder has; files of sinks bear it."""
    counter = folder / "runs"
    number = int(counter.read_text()) + 1 if counter.exists() else 0
    folder.mkdir(parents=True, exist_ok=True)
    counter.write_text(f"{number}")
    return f"run{number}"
