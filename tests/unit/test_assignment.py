"""Assignment: tasks to workers, partitions to readers, old state to new tasks."""

from typing import Any

import pytest

from streamline.coordinator.assignment import make_restores, place_tasks, workers_needed
from streamline.ids import TaskId
from streamline.keys import KeyGroupRange, owned_range
from streamline.state.manifest import Manifest, StateFile, StateHandle, TaskSnapshot
from tests.unit.small import plan

WIDE = plan("in -> sum hash\nsum -> out", 2)


def snapshot(node: str, index: int = 0, of: int = 1, **parts: Any) -> TaskSnapshot:
    return TaskSnapshot(node, index, [node], of, 7, owned_range(index, of, 128), **parts)


def manifest(*tasks: TaskSnapshot, max_parallelism: int = 128) -> Manifest:
    return Manifest("test", 7, "checkpoint", 0, 0, max_parallelism, {}, list(tasks))


def keyed(index: int, of: int, nodes: tuple[str, ...] = ("sum", "out")) -> TaskSnapshot:
    key_range = owned_range(index, of, 128)
    files = [StateFile("1.sst", f"{index}/{of}", 1)]
    state = StateHandle(key_range, list(nodes), files, {"tables": [{"node": nodes[0]}]})
    return snapshot(nodes[0], index, of, state=state)


def test_tasks_of_one_index_stand_together() -> None:
    placed = place_tasks(plan("in -> sum hash x3\nsum -> out rebalance x1", 2), [10, 11])
    assert {str(task): worker for task, worker in placed.items()} == {
        "in[0]": 10,
        "in[1]": 11,
        "sum[0]": 10,
        "sum[1]": 11,
        "sum[2]": 10,
        "out[0]": 10,
    }


def test_as_many_workers_as_the_widest_stage_has_tasks() -> None:
    assert workers_needed(plan("in -> sum hash x3\nsum -> out rebalance x1", 2)) == 3


def test_from_scratch() -> None:
    restores = make_restores(WIDE, None, {"in": ["a", "b", "c"]})
    assert set(restores) == set(WIDE.tasks())
    assert restores[TaskId("in", 0)].positions == {"in": {"a": None, "c": None}}
    assert restores[TaskId("in", 1)].positions == {"in": {"b": None}}
    assert not any(restore.restored for restore in restores.values())
    assert restores[TaskId("sum", 0)].positions == {}


@pytest.mark.parametrize("parallelism", range(1, 7))
def test_each_partition_is_dealt_once_at_its_own_position(parallelism: int) -> None:
    old = manifest(
        snapshot("in", 0, 2, sources={"in": {"b": 2, "d": 4}}),
        snapshot("in", 1, 2, sources={"in": {"a": 1, "gone": 9}}),
    )
    now = plan("in -> sum hash\nsum -> out", parallelism)
    restores = make_restores(now, old, {"in": ["a", "b", "c", "d"]})
    dealt = [
        pair
        for task, restore in restores.items()
        for pair in restore.positions.get("in", {}).items()
    ]
    # One the checkpoint knows goes on although nobody lists it; a new one begins.
    assert sorted(dealt) == [("a", 1), ("b", 2), ("c", None), ("d", 4), ("gone", 9)]
    counts = [len(restores[TaskId("in", i)].positions.get("in", {})) for i in range(parallelism)]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("before", [1, 2, 3, 5, 128])
@pytest.mark.parametrize("after", [1, 2, 4, 7])
def test_state_goes_to_whoever_owns_some_of_its_groups(before: int, after: int) -> None:
    old = manifest(*[keyed(index, before) for index in range(before)])
    now = plan("in -> sum hash\nsum -> out", after)
    restores = make_restores(now, old, {})
    for index in range(after):
        mine = owned_range(index, after, 128)
        stage = next(stage for stage in now.stages if "sum" in stage.node_ids)
        handles = restores[TaskId(stage.id, index)].state
        covered = {g for handle in handles for g in range(*handle.key_range)}
        assert covered >= set(range(*mine))
        for handle in handles:
            assert set(range(*handle.key_range)) & set(range(*mine))


def test_state_goes_to_the_stage_of_its_node_only() -> None:
    now = plan("in -> sum hash\nsum -> count hash\ncount -> out", 2)
    old = manifest(keyed(0, 1, ("sum",)), keyed(0, 1, ("count", "out")))
    restores = make_restores(now, old, {})
    assert [len(restores[TaskId(n, 0)].state) for n in ("in", "sum", "count")] == [0, 1, 1]
    assert restores[TaskId("sum", 1)].state[0].nodes == ["sum"]


@pytest.mark.parametrize("before", [1, 2, 3, 5, 7])
def test_committables_are_shared_out_by_index_and_none_is_left_out(before: int) -> None:
    old = manifest(
        *(snapshot("sum", i, before, sinks={"out": [f"{i}a", f"{i}b"]}) for i in range(before))
    )
    restores = make_restores(WIDE, old, {})
    now = WIDE.stage("sum").parallelism
    for index in range(now):
        share = [f"{i}{part}" for i in range(before) if i % now == index for part in "ab"]
        assert restores[TaskId("sum", index)].committables["out"] == share


def test_every_task_knows_from_which_checkpoint_it_goes_on() -> None:
    for old, epoch in ((None, 0), (manifest(), 7)):
        restores = make_restores(WIDE, old, {}, lineage="life")
        assert {(restore.epoch, restore.lineage) for restore in restores.values()} == {
            (epoch, "life")
        }


def test_every_task_sees_what_all_old_copies_of_an_operator_had() -> None:
    old = manifest(
        snapshot("in", 0, 2, operators={"in": 1}), snapshot("in", 1, 2, operators={"in": 2})
    )
    restores = make_restores(WIDE, old, {})
    assert restores[TaskId("in", 0)].operators == {"in": [1, 2]}
    assert restores[TaskId("in", 1)].operators == {"in": [1, 2]}
    assert restores[TaskId("sum", 0)].operators == {}
    assert all(restore.restored for restore in restores.values())


def test_ranges_of_the_plan_are_those_of_the_keys() -> None:
    assert WIDE.key_range(TaskId("sum", 1)) == KeyGroupRange(64, 128)
