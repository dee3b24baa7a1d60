"""``streamline run``: a job on this machine, from its file to its end.

It takes the state folder, says what is gone on from, chooses the engine, shows how things stand
and turns signals into stop and cancel. How the job is run is the engine's.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click

from streamline.cli.options import job_arguments, job_spec
from streamline.cli.progress import ProgressLine, side_counts
from streamline.cli.signals import HeldSignals
from streamline.cli.streams import tell
from streamline.config import RuntimeConfig, checks_wanted, positive_duration_ms
from streamline.coordinator.lifecycle import JobState
from streamline.coordinator.status import JobStatus
from streamline.engines.inline import InlineEngine
from streamline.engines.local import STOPPING, LocalEngine, LocalSettings
from streamline.engines.statedir import StateDir
from streamline.errors import JobFailedError, UsageError
from streamline.graph import JobGraph
from streamline.jobfile import JobSpec
from streamline.plan import make_plan
from streamline.plural import counted
from streamline.state.rocksdb import open_rocksdb
from streamline.state.store import CheckpointStore

CANCELED = 130
"""Exit status of a job that was ended at once, as of a command ended by Ctrl-C."""


@click.command()
@job_arguments
@click.option("--parallelism", type=int, default=1, show_default=True, help="Default parallelism.")
@click.option(
    "--engine",
    type=click.Choice(["inline", "local", "ray"]),
    default="local",
    show_default=True,
    help="inline: all in one thread; local: worker processes on this machine.",
)
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The run's folder, with its checkpoints; .streamline/<job name> if not given.",
)
@click.option(
    "--checkpoint-dir",
    metavar="URL",
    default="",
    help="Where checkpoints are kept, if not in there: a folder, or a URL such as s3://bucket/job.",
)
@click.option(
    "--checkpoint-every",
    default="1s",
    show_default=True,
    help='From one checkpoint to the next, such as "500ms" or "1m".',
)
@click.option("--from", "origin", metavar="PATH", help="Begin from the checkpoints at this path.")
@click.option(
    "--allow-dropped-state",
    is_flag=True,
    help="State that the job has no place for any more may be given up.",
)
@click.option("--fresh", is_flag=True, help="Start over: forget the checkpoints there are.")
@click.option(
    "--batch-rows",
    type=click.IntRange(1, 1 << 20),
    default=RuntimeConfig.batch_rows,
    show_default=True,
    help="Most records a source hands on at once.",
)
@click.option(
    "--table-entries",
    type=click.IntRange(1),
    default=RuntimeConfig.table_entries,
    show_default=True,
    help="Entries of keyed state one task keeps in memory.",
)
@click.option(
    "--max-restarts",
    type=click.IntRange(0),
    default=RuntimeConfig.restart_budget,
    show_default=True,
    help="More restarts after a failure within ten minutes fail the job.",
)
@click.option(
    "--check-invariants",
    is_flag=True,
    help="Check the engine's own rules on the way, for some speed; STREAMLINE_CHECK_INVARIANTS=1.",
)
@click.option("--json", "as_json", is_flag=True, help="Print how it ended as JSON on stdout.")
def run(
    target: str,
    params: tuple[str, ...],
    parallelism: int,
    engine: str,
    state_dir: Path | None,
    checkpoint_dir: str,
    checkpoint_every: str,
    origin: str | None,
    allow_dropped_state: bool,
    fresh: bool,
    batch_rows: int,
    table_entries: int,
    max_restarts: int,
    check_invariants: bool,
    as_json: bool,
) -> None:
    """Run the job in FILE on this machine.

    A run that was killed is continued by giving the same command again.
    """
    if engine == "ray":
        raise UsageError(
            "the ray engine is not in this version; use --engine local, which runs worker "
            "processes on this machine"
        )
    spec = job_spec(target, params)
    graph = spec.load().graph()
    make_plan(graph, parallelism)
    config = RuntimeConfig(
        batch_rows=batch_rows,
        checkpoint_every_ms=positive_duration_ms(checkpoint_every, "--checkpoint-every"),
        table_entries=table_entries,
        restart_budget=max_restarts,
        allow_dropped_state=allow_dropped_state,
        check_invariants=check_invariants or checks_wanted(os.environ),
    )
    request = Request(spec, graph, parallelism, engine, config, origin, fresh, bool(checkpoint_dir))
    root = state_dir or Path(".streamline") / graph.name
    # A signal waits until there is something that can be stopped.
    with HeldSignals() as held, closing(StateDir(root, graph.name, checkpoint_dir)) as state:
        status = _run(request, state, held)
    if as_json:
        print(json.dumps(_as_dict(status)), flush=True)
    if status.state == JobState.FAILED:
        error = JobFailedError(f"job {graph.name!r} failed: {status.reason}")
        error.trace = status.trace  # type: ignore[attr-defined]
        raise error
    if status.state == JobState.CANCELED:
        raise click.exceptions.Exit(CANCELED)


@dataclass(frozen=True)
class Request:
    """What is to be run, and how."""

    spec: JobSpec
    graph: JobGraph
    parallelism: int
    engine: str
    config: RuntimeConfig
    origin: str | None
    fresh: bool
    elsewhere: bool


def _run(request: Request, state: StateDir, held: HeldSignals) -> JobStatus:
    name = request.graph.name
    said: list[tuple[str, str]] = []
    if state.finished and not request.fresh:
        said.append(("info", f"job {name!r} had finished; it starts over"))
    over = request.fresh or state.finished
    if request.origin is not None:
        state.begin_from(request.origin, replace=over)
        said.append(("info", f"beginning from the checkpoints in {request.origin}"))
    elif over:
        state.start_over()
    elif state.has_checkpoint:
        where = state.url if request.elsewhere else state.root
        said.append(("info", f"continuing job {name!r} from {where}"))
        said += _changed(state.params, request.spec.params)
    state.params = request.spec.params
    began = time.monotonic()
    if request.engine == "inline":
        status = _run_inline(request, state, held, said=said)
    else:
        settings = LocalSettings(
            request.spec,
            request.graph,
            request.parallelism,
            request.config,
            state.url,
            state.live,
        )
        status = asyncio.run(_run_local(settings, state.store, said, held))
    if status.state == JobState.FINISHED:
        state.mark_finished()
    _sum_up(status, time.monotonic() - began, state)
    return status


def _changed(before: dict[str, str], now: dict[str, str]) -> list[tuple[str, str]]:
    """Tell of parameters that are not what they were when the run began."""
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    if not names:
        return []
    changes = ", ".join(
        f"{name}: {before.get(name, 'not given')} -> {now.get(name, 'not given')}" for name in names
    )
    text = f"the parameters are not those of the run that goes on ({changes}); what a bounded "
    text += "source reads was fixed when it began; give --fresh to begin anew with these"
    return [("warning", text)]


def _run_inline(
    request: Request, state: StateDir, held: HeldSignals, *, said: list[tuple[str, str]]
) -> JobStatus:
    lines = ProgressLine(JobStatus(request.graph.name))
    for level, text in said:
        lines.say(level, text)
    engine = InlineEngine(
        request.graph,
        store=state.store,
        open_kv=open_rocksdb,
        directory=state.live,
        parallelism=request.parallelism,
        config=request.config,
        run=f"{time.time_ns():x}",
        say=lines.say,
    )
    before = {number: signal.signal(number, lambda *_: engine.interrupt()) for number in STOPPING}
    held.hand_over(engine.interrupt)
    try:
        return engine.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _run_local(
    settings: LocalSettings,
    store: CheckpointStore,
    said: list[tuple[str, str]],
    held: HeldSignals,
) -> JobStatus:
    lines: ProgressLine | None = None

    def say(level: str, text: str) -> None:
        assert lines is not None
        lines.say(level, text)

    engine = LocalEngine(settings, say, store=store)
    lines = ProgressLine(engine.status)
    with lines:
        for level, text in said:
            lines.say(level, text)
        running = asyncio.ensure_future(engine.run())
        await asyncio.sleep(0)  # it has its own handlers now
        held.hand_over(engine.interrupt)
        while not running.done():
            await asyncio.wait([running], timeout=lines.every_s)
            if not running.done():
                lines.show()
        return running.result()


def _sum_up(status: JobStatus, seconds: float, state: StateDir) -> None:
    """The last line: how it ended."""
    if status.state == JobState.FAILED and not status.records_in:
        return  # the error says it all
    rate = status.records_in / seconds if seconds > 0 else 0
    counts = f"{counted(status.records_in, 'record')} in, {status.records_out:,} out"
    counts = ", ".join([counts, *side_counts(status)])
    if status.restarts:
        counts += f" since the last of {counted(status.restarts, 'restart')},"
    text = f"job {status.name!r} {status.state}: {counts} in {seconds:.1f} s"
    if not status.restarts:
        text += f" ({rate:,.0f}/s)"
    if status.state == JobState.STOPPED:
        text += f"; the same command goes on from {state.root}"
    tell(text)


def _as_dict(status: JobStatus) -> dict[str, object]:
    done = status.checkpoint
    return {
        "name": status.name,
        "state": str(status.state),
        "parallelism": status.parallelism,
        "restarts": status.restarts,
        "records_in": status.records_in,
        "records_out": status.records_out,
        "counters": status.counters,
        "last_checkpoint": None
        if done is None
        else {
            "epoch": done.epoch,
            "duration_s": done.duration_ms / 1000,
            "size_bytes": done.size_bytes,
        },
        "reason": status.reason,
    }
