"""What every engine does with the checkpoint store and the sources on the coordinator's behalf.

It loads and completes checkpoints, sweeps what was left over, and looks for partitions. It blocks,
so engines call it where that hurts nobody; when, and what follows, is for the machine to decide.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from streamline.coordinator.fit import compare
from streamline.errors import CheckpointError, OutageError, StateError, StreamlineError
from streamline.graph import JobGraph
from streamline.ids import NodeId
from streamline.io import Source
from streamline.state.manifest import Manifest
from streamline.state.store import CheckpointStore


@dataclass
class Loaded:
    """With what an attempt begins.

    Attributes:
        manifest: The checkpoint to go on from, if there is one.
        partitions: For each source, the partitions there are now.
        problems: What is wrong with newer checkpoints, one sentence each.
        notes: What the user should know of how it fits, one sentence each.
    """

    manifest: Manifest | None
    partitions: dict[NodeId, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class NotLoaded:
    """Why an attempt cannot begin.

    Attributes:
        reason: One sentence.
        outage: What the job reads is away, which may pass.
        goes_on: There is a checkpoint to go on from.
    """

    reason: str
    outage: bool
    goes_on: bool


async def load(
    store: CheckpointStore,
    graph: JobGraph,
    *,
    allow_dropped: bool,
    aside: Callable[[Callable[[], Loaded]], Awaitable[Loaded]],
) -> Loaded | NotLoaded:
    """With what an attempt begins: the newest usable checkpoint, and the partitions there are.

    Args:
        store: Where the checkpoints are.
        graph: The job.
        allow_dropped: State that the job has no place for may be given up.
        aside: Runs what reads the store, which may take long.
    """
    goes_on = False
    try:
        loaded = await aside(partial(load_checkpoint, store, graph, allow_dropped=allow_dropped))
        goes_on = loaded.manifest is not None
        await discover_partitions(loaded, graph)
    except (StreamlineError, OSError) as error:
        return NotLoaded(str(error), isinstance(error, OutageError), goes_on)
    return loaded


def load_checkpoint(
    store: CheckpointStore, graph: JobGraph, *, allow_dropped: bool = False
) -> Loaded:
    """Find the newest checkpoint that is whole, and remove what interrupted uploads left.

    Args:
        store: Where they are.
        graph: The job.
        allow_dropped: State that the job has no place for may be given up.

    Raises:
        CheckpointError: If there are checkpoints, but none can be used.
        StateError: If it is of another job, or does not fit this one.
    """
    manifest, problems = store.latest_usable()
    if manifest is not None and manifest.job != graph.name:
        raise StateError(
            f"the checkpoints are of job {manifest.job!r}, not of {graph.name!r}; give another "
            "--state-dir, or start over with --fresh"
        )
    notes: list[str] = []
    if manifest is not None:
        notes = check_fit(graph, manifest, allow_dropped=allow_dropped)
        store.discard_newer(manifest.epoch)
    sweep(store)
    return Loaded(manifest, problems=problems, notes=notes)


def check_fit(graph: JobGraph, manifest: Manifest, *, allow_dropped: bool) -> list[str]:
    """Refuse a checkpoint that does not fit a job.

    Returns:
        What the user should know, one sentence each.

    Raises:
        StateError: Names the node, and what to do.
    """
    notes: list[str] = []
    where = f"checkpoint {manifest.epoch} of job {manifest.job!r}"
    for fit in compare(graph, manifest):
        if fit.verdict == "impossible":
            node = f"node {fit.node!r}: " if fit.node else ""
            raise StateError(f"{where} does not fit: {node}{fit.what}; or start over with --fresh")
        if fit.verdict == "dropped":
            if not allow_dropped:
                raise StateError(
                    f"{where} holds {fit.what} of node {fit.node!r}, which the job no longer has; "
                    "name it again with name=, or give it up with --allow-dropped-state"
                )
            notes.append(f"{fit.what} of node {fit.node!r} is given up")
        if fit.verdict == "migrated":
            notes.append(f"state of node {fit.node!r} is migrated: {fit.what}")
        if fit.verdict == "new":
            notes.append(f"node {fit.node!r} is new in this job: {fit.what}")
    return notes


def sweep(store: CheckpointStore) -> None:
    """Remove files that no checkpoint names; only between two attempts, when nobody uploads."""
    try:
        store.sweep()
    except OSError:
        pass  # they are in nobody's way; the next attempt tries again


async def discover_partitions(loaded: Loaded, graph: JobGraph) -> None:
    """Ask the sources what there is to read, and what they call now what a checkpoint knows.

    A bounded source that a checkpoint knows is not asked again: its end was fixed at the start.

    Raises:
        ConnectorError: If a source cannot be read, or not from this checkpoint.
    """
    tasks = loaded.manifest.tasks if loaded.manifest else []
    for node in graph.nodes:
        if not isinstance(node.body, Source):
            continue
        known: dict[str, None] = {}
        for task in tasks:
            if node.id in task.sources:
                task.sources[node.id] = node.body.adopt(task.sources[node.id])
                known.update(dict.fromkeys(task.sources[node.id]))
        if not (node.body.bounded and any(node.id in task.sources for task in tasks)):
            found = await node.body.discover()
            # What is not there now may come back, and is not new then.
            loaded.partitions[node.id] = list(dict.fromkeys([*found, *known]))


async def discover_new(source: Source[Any], known: Collection[str]) -> tuple[list[str], str | None]:
    """Look for partitions of a running source that nobody reads yet.

    Returns:
        Those that are not among the known; and what went wrong, or None. It is asked again.
    """
    try:
        found = await source.discover()
    except (StreamlineError, OSError) as error:
        return [], str(error)
    return [partition for partition in found if partition not in known], None


def complete_checkpoint(store: CheckpointStore, manifest: Manifest, retained: int) -> str | None:
    """Write the manifest, then remove checkpoints that are not wanted any more.

    Returns:
        What went wrong with the manifest, or None.
    """
    try:
        store.write_manifest(manifest)
    except CheckpointError as error:
        return str(error)
    keep = {file.digest for file in manifest.files()}
    try:
        store.discard_all_but(retained, keep)
    except OSError:
        pass  # the next one tries again
    return None
