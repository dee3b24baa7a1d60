"""JobGraph: what is refused, naming the node and the remedy; and how a graph is shown."""

import pytest

import streamline as sl
from streamline.errors import GraphError
from streamline.graph import DEAD_LETTERS, Edge, JobGraph, Node, Partitioning
from tests.unit.small import AnySink, AnySource, Step, graph

LINE = "in -> map\nmap -> out"


def two_of_a_name() -> JobGraph:
    found = graph(LINE)
    found.nodes.append(Node("map", Step()))
    return found


def with_edge(*edge: str, text: str = LINE) -> JobGraph:
    found = graph(text)
    found.edges.append(Edge(*edge))
    return found


def with_parallelism(count: int) -> JobGraph:
    found = graph(LINE)
    found.node("map").parallelism = count
    return found


def dead_letters(*, made: bool, used: bool, main: bool = True) -> JobGraph:
    found = JobGraph("test", [Node("in", AnySource(dead_letters=made)), Node("out", AnySink())])
    found.edges = [Edge("in", "out")] if main else []
    if used:
        found.nodes.append(Node("bad", AnySink()))
        found.edges.append(Edge("in", "bad", tag=DEAD_LETTERS))
    return found


REFUSED: dict[str, tuple[JobGraph, str]] = {
    "empty": (JobGraph("test"), r"job 'test' is empty; start it with job\.source"),
    "twice": (two_of_a_name(), r"2 nodes named 'map'; give each a name of its own with name="),
    "edge to nowhere": (with_edge("map", "gone"), r"names 'gone', which is no node"),
    "edge from nowhere": (with_edge("gone", "map"), r"names 'gone', which is no node"),
    "no source": (graph("map -> out"), r"has no source; start with job\.source"),
    "goes nowhere": (graph("in -> map"), r"results of node 'map' \(step\) go nowhere.*\.sink"),
    "source goes nowhere": (
        JobGraph("test", [Node("in", AnySource())]),
        r"node 'in' \(source\) go nowhere.*\.sink",
    ),
    "no input": (graph("in -> out\nmap -> out"), r"node 'map' \(step\) has no input"),
    "cycle": (
        graph("in -> a\na -> b\nb -> c\nc -> a\nc -> out"),
        r"nodes a, b, c, out of job 'test' feed each other in a cycle.*cut one of the edges",
    ),
    "itself": (with_edge("map", "map"), r"cycle"),
    "too parallel": (with_parallelism(129), r"parallelism 129 of node 'map'.*128; lower it, or"),
    "not parallel at all": (with_parallelism(0), r"parallelism 0 of node 'map' must be between 1"),
    "no event times": (
        JobGraph(
            "test",
            [
                Node("in", AnySource(timed=False)),
                Node("win", Step("window", needs_timestamps=True)),
                Node("out", AnySink()),
            ],
            [Edge("in", "win"), Edge("win", "out")],
        ),
        r"node 'win' \(window\) needs event times.*add \.with_timestamps",
    ),
    "dead letters unheard": (
        dead_letters(made=True, used=False),
        r"source 'in' has a format with on_error=\"dead_letter\".*\.dead_letters\.sink",
    ),
    "dead letters never made": (
        dead_letters(made=False, used=True),
        r"dead letters of source 'in' are used, but.*give the format on_error=\"dead_letter\"",
    ),
    "only dead letters": (
        dead_letters(made=True, used=True, main=False),
        r"records of source 'in' go nowhere",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run_is_refused(name: str) -> None:
    found, said = REFUSED[name]
    with pytest.raises(GraphError, match=said):
        found.validate()


@pytest.mark.parametrize("parallelism", [0, -1, 129])
def test_the_default_parallelism_has_limits(parallelism: int) -> None:
    with pytest.raises(GraphError, match=f"parallelism {parallelism} of job 'test'.* 128"):
        graph(LINE).validate(parallelism)


@pytest.mark.parametrize(
    "found",
    [
        graph(LINE),
        graph("in -> out"),
        graph("in -> a\nin -> b\na -> out\nb -> out"),
        graph("in -> a hash\nin2 -> a broadcast\na -> out rebalance x1"),
        dead_letters(made=True, used=True),
        dead_letters(made=False, used=False),
    ],
)
def test_what_can_run_is_accepted(found: JobGraph) -> None:
    found.validate(1)
    found.validate(128)


@pytest.mark.parametrize(
    ("first", "second", "accepted"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_event_times_are_needed_on_every_way_in(first: bool, second: bool, accepted: bool) -> None:
    found = graph("in -> win\nin2 -> win\nwin -> out")
    found.node("in").body = AnySource(timed=first)
    found.node("in2").body = AnySource(timed=second)
    found.node("win").body = Step("window", needs_timestamps=True)
    if accepted:
        found.validate()
    else:
        with pytest.raises(GraphError, match="'win'"):
            found.validate()


def test_one_way_in_without_event_times_spoils_all_that_follows() -> None:
    found = graph("in -> union\nin2 -> union\nunion -> win\nwin -> out")
    found.node("in2").body = AnySource(timed=False)
    found.node("win").body = Step("window", needs_timestamps=True)
    with pytest.raises(GraphError, match="'win'"):
        found.validate()


def test_event_times_may_be_set_on_the_way() -> None:
    found = graph("in -> times\ntimes -> map\nmap -> win\nwin -> out")
    found.node("in").body = AnySource(timed=False)
    found.node("times").body = Step("timestamps", assigns_timestamps=True)
    found.node("win").body = Step("window", needs_timestamps=True)
    found.validate()


def test_topological_order_puts_each_behind_all_that_feed_it() -> None:
    found = graph("b -> c\nin -> a\na -> c\na -> b\nc -> out\nin -> out")
    order = [node.id for node in found.topological()]
    assert sorted(order) == sorted(node.id for node in found.nodes)
    for edge in found.edges:
        assert order.index(edge.source) < order.index(edge.target)


def test_lookups() -> None:
    found = graph(LINE)
    assert [edge.source for edge in found.inputs("map")] == ["in"]
    assert [edge.target for edge in found.outputs("map")] == ["out"]
    assert found.parallelism_of(found.node("map"), 3) == 3
    assert [node.kind for node in found.nodes] == ["source", "step", "sink"]
    with pytest.raises(KeyError):
        found.node("gone")


def spend() -> JobGraph:
    job = sl.Job("spend", max_parallelism=64)
    source = job.source("orders", AnySource(dead_letters=True), parallelism=2)
    source.dead_letters.sink("bad", AnySink())
    results = source.key_by("user").window(sl.Tumbling("10s")).aggregate(n=sl.Count(), name="#1")
    results.late.rebalance().sink("late", AnySink())
    results.sink("out", AnySink(), parallelism=1)
    return job.graph()


def test_to_dict() -> None:
    assert spend().to_dict() == {
        "name": "spend",
        "max_parallelism": 64,
        "nodes": [
            {"id": "orders", "kind": "source", "parallelism": 2},
            {"id": "bad", "kind": "sink", "parallelism": None},
            {"id": "key_by", "kind": "key_by", "parallelism": None},
            {"id": "#1", "kind": "window", "parallelism": None},
            {"id": "late", "kind": "sink", "parallelism": None},
            {"id": "out", "kind": "sink", "parallelism": 1},
        ],
        "edges": [
            edge("orders", "bad", tag="dead_letters"),
            edge("orders", "key_by"),
            edge("key_by", "#1", "hash"),
            edge("#1", "late", "rebalance", "late"),
            edge("#1", "out"),
        ],
    }


def edge(source: str, target: str, how: str = "forward", tag: str = "main") -> dict[str, str]:
    return {"source": source, "target": target, "partitioning": how, "tag": tag}


def test_to_mermaid() -> None:
    assert spend().to_mermaid() == (
        "flowchart LR\n"
        '    n0[("orders<br/><i>source</i>")]\n'
        '    n1[/"bad<br/><i>sink</i>"/]\n'
        '    n2["key_by<br/><i>key_by</i>"]\n'
        '    n3["#35;1<br/><i>window</i>"]\n'
        '    n4[/"late<br/><i>sink</i>"/]\n'
        '    n5[/"out<br/><i>sink</i>"/]\n'
        "    n0 -->|dead_letters| n1\n"
        "    n0 --> n2\n"
        "    n2 -->|hash| n3\n"
        "    n3 -->|rebalance, late| n4\n"
        "    n3 --> n5"
    )


@pytest.mark.parametrize("name", ['say "hi"', "<b>"])
def test_names_cannot_break_out_of_a_mermaid_label(name: str) -> None:
    found = graph("in -> out")
    found.nodes[1].id = name
    found.edges = [Edge("in", name)]
    label = found.to_mermaid().splitlines()[2]
    assert label.count('"') == 2
    assert "<b>" not in label


def test_partitionings_by_their_names() -> None:
    assert [str(how) for how in Partitioning] == ["forward", "hash", "broadcast", "rebalance"]
