"""Chains: what is fused, one call per batch, side outputs, counters, state and clocks."""

from dataclasses import dataclass, field
from typing import Any

import pytest

import streamline as sl
from streamline.batch import Batch
from streamline.clock import ManualClock
from streamline.config import RuntimeConfig
from streamline.errors import EncodeError, UserFunctionError
from streamline.graph import Edge, JobGraph, Node
from streamline.io import Counters
from streamline.keys import KeyGroupRange
from streamline.messages import Watermark
from streamline.operators.base import Operator, OperatorContext, OperatorSpec, Output
from streamline.operators.rows import RowSpec
from streamline.plan import make_plan
from streamline.runtime.chain import Chain, Outlet, build_chain
from tests.unit.small import AnySink, AnySource, ListWriter, rows


@dataclass
class Probe(Operator):
    """Passes on, sends odd values aside, and remembers what it was asked."""

    calls: list[str] = field(default_factory=list)
    due: int | None = None

    def process(self, batch: Batch, out: Output) -> None:
        self.calls.append(f"process {len(batch)}")
        odd = [value for value in batch.to_rows().values if value % 2]
        out.emit(batch)
        if odd:
            out.emit(rows(*odd), "odd")

    def on_watermark(self, watermark: Watermark, out: Output) -> None:
        self.calls.append(f"watermark {watermark.timestamp}")
        out.watermark(watermark)

    def next_clock_ms(self) -> int | None:
        return self.due

    def on_clock(self, now_ms: int, out: Output) -> None:
        self.calls.append(f"clock {now_ms}")

    def snapshot(self) -> Any:
        return {"calls": len(self.calls)}

    def restore(self, states: list[Any]) -> None:
        self.calls.append(f"restore {states}")

    def close(self) -> None:
        self.calls.append("close")


@dataclass(frozen=True, eq=False)
class ProbeSpec(OperatorSpec):
    operator: Probe = field(default_factory=Probe)

    def build(self) -> Operator:
        return self.operator


def build(
    bodies: dict[str, Any], edges: list[tuple[str, ...]], outlets: list[Outlet] | None = None
) -> Chain:
    """A chain from ``src`` through some nodes; each edge is (source, target[, tag])."""
    graph = JobGraph("test", [Node("src", AnySource())])
    graph.nodes += [Node(name, body) for name, body in bodies.items()]
    graph.edges = [Edge(e[0], e[1], tag=e[2] if len(e) > 2 else "main") for e in edges]
    for outlet in outlets or []:  # something must follow, at another parallelism
        graph.nodes.append(Node(f"behind-{outlet.node}", AnySink(), parallelism=2))
        graph.edges.append(Edge(outlet.node, f"behind-{outlet.node}", tag=outlet.tag))
    chain = build_chain(make_plan(graph).stage("src"), outlets or [])
    chain.open(
        lambda node, counters, _: OperatorContext(
            node=node,
            index=0,
            parallelism=1,
            max_parallelism=128,
            key_range=KeyGroupRange(0, 128),
            clock=ManualClock(),
            config=RuntimeConfig(),
            counters=counters,
        )
    )
    return chain


def writer(chain: Chain, name: str = "out") -> ListWriter:
    found = chain.writers[name]
    assert isinstance(found, ListWriter)
    return found


ROWS = {
    "double": RowSpec("map", lambda v: v * 2),
    "big": RowSpec("filter", lambda v: v > 2),
    "twice": RowSpec("flat_map", lambda v: [v, -v]),
    "out": AnySink(),
}
LINE = [("src", "double"), ("double", "big"), ("big", "twice"), ("twice", "out")]


def test_neighbouring_row_steps_are_one_operator_and_one_call_per_batch() -> None:
    chain = build(ROWS, LINE)
    assert [member.nodes for member in chain._members] == [("double", "big", "twice")]
    chain.head.emit(rows(1, 2, 3))
    assert [batch.to_rows().values for batch in writer(chain).batches] == [[4, -4, 6, -6]]


def test_event_times_follow_their_records_through_a_fused_loop() -> None:
    chain = build(ROWS, LINE)
    chain.head.emit(rows(1, 2, 3, times=[10, 20, 30]))
    assert writer(chain).batches[0].timestamps.tolist() == [20, 20, 30, 30]


def test_counters() -> None:
    chain = build(ROWS, LINE)
    chain.head.emit(rows(1, 2, 3))
    found = {n: (c.records_in, c.records_out) for n, c in chain.counters.items()}
    assert found["src"] == (0, 3)
    assert found["double"][0] == 3
    assert found["twice"][1] == 4
    assert found["out"][0] == 4


def test_nothing_is_emitted_when_all_is_filtered_out() -> None:
    chain = build(ROWS, LINE)
    chain.head.emit(rows(0, 1))
    assert writer(chain).batches == []


def test_a_node_that_feeds_two_is_not_fused() -> None:
    bodies = {
        "double": RowSpec("map", lambda v: v * 2),
        "big": RowSpec("filter", lambda v: v > 2),
        "out": AnySink(),
        "out2": AnySink(),
    }
    edges = [("src", "double"), ("double", "big"), ("double", "out2"), ("big", "out")]
    chain = build(bodies, edges)
    assert [member.nodes for member in chain._members] == [("double",), ("big",)]
    chain.head.emit(rows(1, 2))
    assert writer(chain).values == [4]
    assert writer(chain, "out2").values == [2, 4]


def test_a_node_whose_results_also_leave_the_task_is_not_fused() -> None:
    left: list[Any] = []
    outlet = Outlet(
        "double", "main", lambda batch: left.append(batch.to_rows().values), left.append
    )
    chain = build(ROWS, LINE, [outlet])
    assert [member.nodes for member in chain._members] == [("double",), ("big", "twice")]
    chain.head.emit(rows(1, 2))
    assert left == [[2, 4]]
    assert writer(chain).values == [4, -4]


def test_side_outputs_go_to_their_own_takers_and_are_not_counted_as_results() -> None:
    bodies = {"probe": ProbeSpec(), "out": AnySink(), "out-odd": AnySink()}
    edges = [("src", "probe"), ("probe", "out"), ("probe", "out-odd", "odd")]
    chain = build(bodies, edges)
    chain.head.emit(rows(1, 2, 3))
    assert writer(chain).values == [1, 2, 3]
    assert writer(chain, "out-odd").values == [1, 3]
    assert chain.counters["probe"].records_out == 3


def test_a_row_step_behind_a_side_output() -> None:
    bodies = {
        "probe": ProbeSpec(),
        "double": RowSpec("map", lambda v: v * 2),
        "out": AnySink(),
        "out-odd": AnySink(),
    }
    edges = [("src", "probe"), ("probe", "out"), ("probe", "double", "odd"), ("double", "out-odd")]
    chain = build(bodies, edges)
    chain.head.emit(rows(2, 3))
    assert writer(chain).values == [2, 3]
    assert writer(chain, "out-odd").values == [6]


def test_watermarks_pass_every_operator_and_leave_by_every_outlet() -> None:
    seen: list[Watermark] = []
    probe = ProbeSpec()
    bodies = {"double": ROWS["double"], "probe": probe}
    edges = [("src", "double"), ("double", "probe")]
    outlet = Outlet("probe", "main", lambda batch: None, seen.append)
    chain = build(bodies, edges, [outlet])
    chain.head.watermark(Watermark(7, idle=True))
    assert probe.operator.calls == ["watermark 7"]
    assert seen == [Watermark(7, idle=True)]


def test_snapshot_restore_and_close_by_node() -> None:
    probe = ProbeSpec()
    bodies = {"double": ROWS["double"], "probe": probe, "out": AnySink()}
    chain = build(bodies, [("src", "double"), ("double", "probe"), ("probe", "out")])
    assert chain.snapshot() == {"probe": {"calls": 0}}
    chain.restore({"probe": [{"calls": 1}], "gone": [1]})
    chain.close()
    assert probe.operator.calls == ["restore [{'calls': 1}]", "close"]


def test_only_operators_whose_time_has_come_are_called() -> None:
    first, second = ProbeSpec(Probe(due=5)), ProbeSpec(Probe(due=9))
    bodies = {"first": first, "second": second, "out": AnySink()}
    chain = build(bodies, [("src", "first"), ("first", "second"), ("second", "out")])
    assert chain.next_clock_ms() == 5
    chain.on_clock(7)
    assert (first.operator.calls, second.operator.calls) == (["clock 7"], [])


def test_an_error_in_a_fused_loop_names_the_step_and_the_record() -> None:
    chain = build(
        {
            "double": RowSpec("map", lambda v: v * 2),
            "invert": RowSpec("map", lambda v: 1 / v),
            "out": AnySink(),
        },
        [("src", "double"), ("double", "invert"), ("invert", "out")],
    )
    with pytest.raises(UserFunctionError, match="'invert' failed.*ZeroDivisionError") as error:
        chain.head.emit(rows(3, 0))
    assert error.value.operator == "invert"
    assert error.value.record == "0"


def test_an_error_of_a_sink_names_it() -> None:
    class Refusing(ListWriter):
        def write(self, batch: Batch) -> None:
            raise EncodeError("a value cannot be written")

    class RefusingSink(AnySink):
        def writer(self) -> Any:
            return Refusing()

    chain = build({"out": RefusingSink()}, [("src", "out")])
    with pytest.raises(EncodeError, match=r"^sink 'out': a value cannot be written$"):
        chain.head.emit(rows(1))


def test_a_chain_of_the_dsl_gives_what_plain_python_gives() -> None:
    counters = Counters()
    job = sl.Job("test")
    stream = job.source("src", AnySource()).filter(lambda v: v % 3).map(lambda v: v + 1)
    stream.flat_map(range).filter(lambda v: v != 1).sink("out", AnySink())
    chain = build_chain(make_plan(job.graph()).stage("src"), [])
    assert counters == chain.counters["out"]
    chain.head.emit(rows(*range(10)))
    expected = [w for v in range(10) if v % 3 for w in range(v + 1) if w != 1]
    assert writer(chain).values == expected
