"""Who gets what: tasks to workers, partitions to readers, old state to new tasks. Pure.

It is the one place that knows how a checkpoint of any parallelism is dealt out to tasks of
another. It reads manifests and plans; it moves no files, and starts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streamline.ids import NodeId, TaskId
from streamline.plan import ExecutionPlan, Stage
from streamline.runtime.control import TaskRestore
from streamline.state.manifest import Manifest, TaskSnapshot


def place_tasks(plan: ExecutionPlan, workers: Sequence[int]) -> dict[TaskId, int]:
    """Put task ``i`` of every stage on worker ``i``, round and round."""
    return {task: workers[task.index % len(workers)] for task in plan.tasks()}


def workers_needed(plan: ExecutionPlan) -> int:
    """As many workers as the widest stage has tasks."""
    return max(stage.parallelism for stage in plan.stages)


def make_restores(
    plan: ExecutionPlan,
    manifest: Manifest | None,
    partitions: Mapping[NodeId, Sequence[str]],
    *,
    lineage: str = "",
) -> dict[TaskId, TaskRestore]:
    """With what each task begins.

    Args:
        plan: What is to be run now.
        manifest: The checkpoint to go on from, at whatever parallelism it was taken.
        partitions: For each source, the partitions there are now; those that the checkpoint
            knows go on at its positions, also when they are not listed here.
        lineage: Names the life of the job.
    """
    old = [] if manifest is None else manifest.tasks
    restores: dict[TaskId, TaskRestore] = {}
    for stage in plan.stages:
        operators = {
            str(node): states
            for node in stage.node_ids
            if (states := [task.operators[node] for task in old if node in task.operators])
        }
        positions = _positions(stage, old, partitions)
        for task in stage.tasks():
            owned = plan.key_range(task)
            restores[task] = TaskRestore(
                operators=operators,
                positions=positions[task.index],
                committables=_committables(stage, old, task),
                state=[
                    snapshot.state
                    for snapshot in old
                    if snapshot.state is not None
                    and snapshot.state.key_range.overlaps(owned)
                    and set(snapshot.state.nodes) & set(stage.node_ids)
                ],
                epoch=0 if manifest is None else manifest.epoch,
                lineage=lineage,
            )
    return restores


def _positions(
    stage: Stage, old: Sequence[TaskSnapshot], partitions: Mapping[NodeId, Sequence[str]]
) -> list[dict[str, dict[str, Any]]]:
    """Deal the partitions of a stage's source to its tasks, in order, one after the other."""
    dealt: list[dict[str, dict[str, Any]]] = [{} for _ in range(stage.parallelism)]
    if not stage.is_source:
        return dealt
    known: dict[str, Any] = dict.fromkeys(partitions.get(stage.id, ()))
    for task in old:
        known.update(task.sources.get(stage.id, {}))
    for place, (partition, position) in enumerate(sorted(known.items(), key=lambda item: item[0])):
        dealt[place % stage.parallelism].setdefault(stage.id, {})[partition] = position
    return dealt


def _committables(stage: Stage, old: Sequence[TaskSnapshot], task: TaskId) -> dict[str, list[Any]]:
    """Those of the old tasks whose index, modulo the parallelism of now, is this task's."""
    share = [one for one in old if one.index % stage.parallelism == task.index]
    return {
        str(node): [item for one in share for item in one.sinks.get(node, [])]
        for node in stage.node_ids
    }
