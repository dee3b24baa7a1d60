"""The plan: which nodes share a task, how many tasks, channels and key ranges there are."""

import pytest

import streamline as sl
from streamline.errors import GraphError
from streamline.graph import JobGraph, Partitioning
from streamline.ids import TaskId
from streamline.plan import ExecutionPlan, make_plan
from tests.unit.small import AnySink, AnySource, graph, plan


def shape(found: ExecutionPlan) -> str:
    """The stages as ``a+b x2``."""
    return ", ".join(f"{'+'.join(s.node_ids)} x{s.parallelism}" for s in found.stages)


@pytest.mark.parametrize(
    ("text", "parallelism", "stages"),
    [
        ("in -> a\na -> out", 1, "in+a+out x1"),
        ("in -> a\na -> out", 3, "in+a+out x3"),
        ("in -> a hash\na -> out", 2, "in x2, a+out x2"),
        ("in -> a hash\na -> out", 1, "in+a+out x1"),  # alone, all keys are its own
        ("in -> a broadcast\na -> out", 1, "in+a+out x1"),
        ("in -> a rebalance\na -> out", 2, "in x2, a+out x2"),
        ("in -> a x1\na -> out", 2, "in x2, a x1, out x2"),
        ("in -> a x4\na -> out x4", 2, "in x2, a+out x4"),
        ("in -> a\nin2 -> a\na -> out", 1, "in x1, in2 x1, a+out x1"),
        ("in -> a\nin -> b\na -> out\nb -> out2", 2, "in+a+b+out+out2 x2"),
        ("in -> a\nin -> b\na -> out\nb -> out", 2, "in+a+b x2, out x2"),
        ("in -> a hash\nin -> b\na -> out\nb -> out2", 2, "in+b+out2 x2, a+out x2"),
    ],
)
def test_chains(text: str, parallelism: int, stages: str) -> None:
    assert sorted(shape(plan(text, parallelism)).split(", ")) == sorted(stages.split(", "))


@pytest.mark.parametrize("parallelism", [1, 2, 5])
def test_every_node_and_every_edge_is_somewhere_once(parallelism: int) -> None:
    text = "in -> a hash\nin -> b x3\na -> c\nb -> c rebalance\nc -> out x1\nin2 -> b"
    written = graph(text)
    found = make_plan(written, parallelism)
    nodes = [node.id for stage in found.stages for node in stage.nodes]
    assert sorted(nodes) == sorted(node.id for node in written.nodes)
    edges = [edge for stage in found.stages for edge in stage.inner]
    edges += [cross.edge for cross in found.edges]
    assert sorted(map(str, edges)) == sorted(map(str, written.edges))


@pytest.mark.parametrize(
    ("text", "parallelism", "how", "channels"),
    [
        ("in -> a hash\na -> out", 2, Partitioning.HASH, ["0:0-0", "0:0-1", "0:1-0", "0:1-1"]),
        ("in -> a\nin2 -> a\na -> out", 2, Partitioning.FORWARD, ["0:0-0", "0:1-1"]),
        ("in -> a x3\na -> out x3", 1, Partitioning.REBALANCE, ["0:0-0", "0:0-1", "0:0-2"]),
        ("in -> a broadcast x1\na -> out x1", 2, Partitioning.BROADCAST, ["0:0-0", "0:1-0"]),
    ],
)
def test_channels(text: str, parallelism: int, how: Partitioning, channels: list[str]) -> None:
    found = plan(text, parallelism)
    first = found.edges[0]
    assert first.partitioning == how
    assert [f"{c.edge}:{c.source}-{c.target}" for c in found.channels(first)] == channels


def test_channels_have_different_ids() -> None:
    found = plan("in -> a hash\nin -> b hash\na -> out rebalance\nb -> out", 3)
    ids = [channel for edge in found.edges for channel in found.channels(edge)]
    assert len(ids) == len(set(ids))
    assert [edge.number for edge in found.edges] == list(range(len(found.edges)))


def test_a_stream_joined_with_itself_has_two_edges() -> None:
    job = sl.Job("twice")
    source = job.source("in", AnySource())
    source.union(source).sink("out", AnySink())
    found = make_plan(job.graph(), 2)
    assert [len(found.channels(edge)) for edge in found.edges] == [2, 2]


@pytest.mark.parametrize("parallelism", [1, 2, 3, 100])
def test_the_tasks_of_a_stage_own_all_key_groups(parallelism: int) -> None:
    found = plan("in -> a hash\na -> out", parallelism, max_parallelism=100)
    stage = next(stage for stage in found.stages if "a" in stage.node_ids)
    owned = [g for task in stage.tasks() for g in range(*found.key_range(task))]
    assert owned == list(range(100))


def test_the_same_graph_gives_the_same_plan() -> None:
    text = "in -> a hash\na -> out x1\nin -> out2"
    assert plan(text, 2).to_dict() == plan(text, 2).to_dict()


def test_a_graph_that_cannot_run_has_no_plan() -> None:
    with pytest.raises(GraphError, match="is empty"):
        make_plan(JobGraph("test"))


def test_lookups() -> None:
    found = plan("in -> a hash\na -> out", 2)
    assert found.tasks() == [TaskId(node, i) for node in ("in", "a") for i in range(2)]
    assert [edge.target for edge in found.outputs("in")] == ["a"]
    assert [edge.source for edge in found.inputs("a")] == ["in"]
    stages = [(s.is_source, s.has_sink) for s in found.stages]
    assert stages == [(True, False), (False, True)]


def test_to_dict() -> None:
    assert plan("in -> a hash\na -> out", 2).to_dict() == {
        "job": "test",
        "max_parallelism": 128,
        "stages": [
            {
                "id": "in",
                "nodes": ["in"],
                "parallelism": 2,
                "tasks": [
                    {"task": "in[0]", "key_groups": [0, 64]},
                    {"task": "in[1]", "key_groups": [64, 128]},
                ],
            },
            {
                "id": "a",
                "nodes": ["a", "out"],
                "parallelism": 2,
                "tasks": [
                    {"task": "a[0]", "key_groups": [0, 64]},
                    {"task": "a[1]", "key_groups": [64, 128]},
                ],
            },
        ],
        "edges": [{"source": "in", "target": "a", "partitioning": "hash", "channels": 4}],
    }
