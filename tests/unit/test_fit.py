"""Whether a checkpoint fits a job: node by node, and what is told of it."""

from pathlib import Path
from typing import Any

import pytest

import streamline as sl
from streamline.coordinator.durable import check_fit
from streamline.coordinator.fit import Fit, compare
from streamline.engines.statedir import newest_checkpoint
from streamline.errors import StateError
from streamline.graph import JobGraph
from streamline.keys import KeyGroupRange
from streamline.state.manifest import Manifest, StateHandle, TaskSnapshot
from streamline.testing import CollectingSink, ScriptedSource, run_job
from tests.processes.runner import write_orders

ALL = KeyGroupRange(0, 128)
KINDS = {"in": "source", "sum": "aggregate", "out": "sink"}


def job(**names: str) -> JobGraph:
    made = sl.Job("totals")
    stream = made.source(names.get("source", "in"), ScriptedSource([{"k": 1}]))
    if "filtered" in names:
        stream = stream.filter("k", name="some")
    totals = stream.key_by("k").aggregate(n=sl.Count(), name=names.get("sum", "sum"))
    if "reduced" in names:
        totals = totals.key_by("key").reduce(lambda a, b: b, name="last")  # type: ignore[assignment]
    totals.sink(names.get("sink", "out"), CollectingSink())
    return made.graph()


def snapshot(node: str, **parts: Any) -> TaskSnapshot:
    return TaskSnapshot(node, 0, [node], 1, 7, ALL, **parts)


def keyed(node: str, *states: str) -> TaskSnapshot:
    tables = [{"node": node, "state": state, "namespaces": []} for state in states]
    return snapshot(node, state=StateHandle(ALL, [node], [], {"tables": tables}))


def manifest(*tasks: TaskSnapshot, **settings: Any) -> Manifest:
    nodes = {name: {"kind": kind} for name, kind in settings.get("kinds", KINDS).items()}
    found = tasks or (
        snapshot("in", sources={"in": {"a": 1, "b": 2}}, operators={"in": 1}),
        keyed("sum", "aggregate"),
        snapshot("out", sinks={"out": ["prepared"]}),
    )
    named, most = settings.get("job", "totals"), settings.get("most", 128)
    return Manifest(named, 7, "savepoint", 0, 0, most, nodes, list(found))


def test_the_same_job() -> None:
    assert compare(job(), manifest()) == [
        Fit("in", "kept", "positions of 2 partitions and state of the operator"),
        Fit("sum", "kept", "keyed state aggregate"),
        Fit("out", "kept", "output that is not visible yet"),
    ]
    assert check_fit(job(), manifest(), allow_dropped=False) == []


def test_a_node_without_state_is_neither_here_nor_there() -> None:
    assert compare(job(filtered="yes"), manifest()) == compare(job(), manifest())


def test_a_new_node_is_told() -> None:
    assert Fit("last", "new", "it starts empty") in compare(job(reduced="yes"), manifest())
    notes = check_fit(job(reduced="yes"), manifest(), allow_dropped=False)
    assert notes == ["node 'last' is new in this job: it starts empty"]


@pytest.mark.parametrize(
    ("names", "node", "what"),
    [
        ({"source": "other"}, "in", "positions of 2 partitions and state of the operator"),
        ({"sum": "other"}, "sum", "keyed state aggregate"),
        ({"sink": "other"}, "out", "output that is not visible yet"),
    ],
)
def test_state_without_a_node_is_refused_unless_it_may_go(
    names: dict[str, str], node: str, what: str
) -> None:
    assert Fit(node, "dropped", what) in compare(job(**names), manifest())
    with pytest.raises(StateError, match=f"holds {what} of node '{node}'.*--allow-dropped-state"):
        check_fit(job(**names), manifest(), allow_dropped=False)
    notes = check_fit(job(**names), manifest(), allow_dropped=True)
    assert f"{what} of node '{node}' is given up" in notes


def test_a_state_of_a_node_that_stays() -> None:
    old = manifest(keyed("sum", "aggregate", "more"))
    assert compare(job(), old) == [
        Fit("sum", "kept", "keyed state aggregate"),
        Fit("sum", "dropped", "keyed state more"),
    ]


def test_what_left_nothing_is_no_obstacle() -> None:
    old = manifest(snapshot("x", sinks={"x": []}, operators={"x": 1}))
    assert [fit for fit in compare(job(), old) if fit.verdict == "dropped"] == []


@pytest.mark.parametrize(
    ("old", "said"),
    [
        (manifest(job="other"), "it is of job 'other', this is 'totals'"),
        (manifest(most=64), "it was taken with max_parallelism=64, the job now has 128"),
        (
            manifest(kinds={**KINDS, "sum": "reduce"}),
            "node 'sum': its kind was reduce and is aggregate now; give it another name=",
        ),
    ],
    ids=["job", "max_parallelism", "kind"],
)
def test_what_cannot_be(old: Manifest, said: str) -> None:
    assert any(fit.verdict == "impossible" for fit in compare(job(), old))
    with pytest.raises(StateError, match=f"does not fit: {said}; or start over with --fresh"):
        check_fit(job(), old, allow_dropped=True)


def test_states_are_called_in_the_plan_what_they_are_called_in_a_checkpoint(tmp_path: Path) -> None:
    """For every operator with keyed state: what it stored is kept by itself."""
    from tests.processes import jobs

    write_orders(tmp_path / "in.jsonl", 2_000)
    for kind in ("tumbling", "sliding", "sessions", "timers", "applied", "counts", "reduced"):
        made = getattr(jobs, kind)(str(tmp_path / "in.jsonl"), str(tmp_path / kind))
        folder = tmp_path / f"{kind}-state"
        run_job(made, folder=folder)
        _, found = newest_checkpoint(str(folder))
        verdicts = {fit.verdict for fit in compare(made.graph(), found)}
        assert verdicts == {"kept"}, kind
