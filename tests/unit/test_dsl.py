"""The DSL: the graph each call builds, the names of nodes, and what is refused at once."""

from typing import Any

import pytest

import streamline as sl
from streamline.dsl.job import as_graph
from streamline.errors import GraphError, UsageError
from streamline.graph import Partitioning
from tests.names import shown
from tests.unit.small import AnySink, AnySource


def start() -> tuple[sl.Job, Any]:
    job = sl.Job("test")
    return job, job.source("in", AnySource())


def nodes(job: sl.Job) -> list[str]:
    return [node.id for node in job.graph().nodes]


def edges(job: sl.Job) -> list[str]:
    return [
        f"{e.source}-{e.target}"
        + ("" if e.partitioning == Partitioning.FORWARD else f" {e.partitioning}")
        + ("" if e.tag == "main" else f" {e.tag}")
        for e in job.graph().edges
    ]


def test_nodes_are_called_after_their_kind_and_numbered() -> None:
    job, stream = start()
    stream.map(str).map(str).filter(str).map(str, name="map-4").map(str).map(str)
    assert nodes(job) == ["in", "map", "map-2", "filter", "map-4", "map-3", "map-5"]


def test_every_operator_and_its_edge() -> None:
    job, s = start()
    s.map("a").filter(sl.col("a") > 1).flat_map(list).map_batch(list).map_columns(dict)
    s.with_timestamps("at").rebalance().map(str)
    s.broadcast().sink("all", AnySink())
    keyed = s.key_by("user")
    keyed.reduce(max)
    keyed.aggregate(n=sl.Count())
    windows = keyed.window(sl.Tumbling("1s")).aggregate(n=sl.Count())
    windows.late.sink("late", AnySink())
    s.union(windows, s.rebalance(), name="all-of-it")
    assert edges(job) == [
        "in-map",
        "map-filter",
        "filter-flat_map",
        "flat_map-map_batch",
        "map_batch-map_batch-2",
        "in-timestamps",
        "timestamps-map-2 rebalance",
        "in-all broadcast",
        "in-key_by",
        "key_by-reduce hash",
        "key_by-aggregate hash",
        "key_by-window hash",
        "window-late late",
        "in-all-of-it",
        "window-all-of-it",
        "in-all-of-it rebalance",
    ]


def test_parallelism_and_layout_reach_the_node() -> None:
    job = sl.Job("test")
    stream = job.source("in", AnySource(), parallelism=2, layout="columns")
    stream.map(str, parallelism=3).sink("out", AnySink(), parallelism=4)
    found = [(node.parallelism, node.layout) for node in job.graph().nodes]
    assert found == [(2, "columns"), (3, "rows"), (4, "rows")]


# ---------------------------------------------------------------------- names


def test_uid_renames_the_node_and_its_edges() -> None:
    job, stream = start()
    stream.map(str).uid("shout").sink("out", AnySink())
    assert nodes(job) == ["in", "shout", "out"]
    assert edges(job) == ["in-shout", "shout-out"]


def test_uid_after_the_stream_was_used() -> None:
    job, stream = start()
    mapped = stream.map(str)
    mapped.sink("out", AnySink())
    mapped.uid("shout").sink("out2", AnySink())
    assert edges(job) == ["in-shout", "shout-out", "shout-out2"]


def test_uid_to_the_name_it_has_is_nothing() -> None:
    job, stream = start()
    stream.map(str, name="a").uid("a")
    assert nodes(job) == ["in", "a"]


def test_a_name_that_uid_gave_up_is_free_again() -> None:
    job, stream = start()
    stream.map(str).uid("a").map(str)
    assert nodes(job) == ["in", "a", "map"]


def test_a_stream_made_before_uid_still_means_its_node() -> None:
    job, stream = start()
    mapped = stream.map(str)
    spread = mapped.rebalance()
    mapped.uid("shout")
    stream.map(str)  # takes the name that became free
    spread.sink("out", AnySink())
    assert edges(job)[-1] == "shout-out rebalance"


@pytest.mark.parametrize(
    "add",
    [
        lambda job, s: job.source("in", AnySource()),
        lambda job, s: s.map(str, name="in"),
        lambda job, s: s.map(str).uid("in"),
        lambda job, s: s.sink("in", AnySink()),
        lambda job, s: s.key_by("a", name="in"),
    ],
)
def test_a_name_that_is_taken_is_refused(add: Any) -> None:
    job, stream = start()
    with pytest.raises(GraphError, match="two nodes named 'in'; give each a name of its own"):
        add(job, stream)


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "a[0]", "a\nb", "a\0b", 5])
def test_a_name_that_cannot_be_used_is_refused(name: Any) -> None:
    _, stream = start()
    for add in (lambda: stream.map(str, name=name), lambda: stream.map(str).uid(name)):
        with pytest.raises(UsageError, match="must be text without slashes"):
            add()


# ---------------------------------------------------------------------- wrong arguments


@pytest.mark.parametrize("name", ["", ".hidden", "a b", "a/b", "../x", "a:b", None, 5])
def test_job_names(name: Any) -> None:
    with pytest.raises(UsageError, match="the job name"):
        sl.Job(name)


@pytest.mark.parametrize("count", [0, -1, (1 << 15) + 1])
def test_max_parallelism(count: int) -> None:
    with pytest.raises(UsageError, match=f"max_parallelism={count} must be between 1"):
        sl.Job("a", max_parallelism=count)


WRONG: list[tuple[str, Any]] = [
    (r"job\.source\('x', \.\.\.\) needs a Source", lambda j, s: j.source("x", AnySink())),
    (r"layout='both' must be", lambda j, s: j.source("x", AnySource(), layout="both")),
    (r"\.sink\('x', \.\.\.\) needs a Sink", lambda j, s: s.sink("x", AnySource())),
    (r"\.map\(\) needs a function, a field name or an expression", lambda j, s: s.map(5)),
    (r"\.filter\(\) needs a function", lambda j, s: s.filter(None)),
    (r"\.flat_map\(\) needs a function", lambda j, s: s.flat_map([1])),
    (r"\.map_batch\(\) needs a function, not 'a'", lambda j, s: s.map_batch("a")),
    (r"\.map_columns\(\) needs a function", lambda j, s: s.map_columns(5)),
    (r"key_by", lambda j, s: s.key_by(5)),
    (r"with_timestamps", lambda j, s: s.with_timestamps(5)),
    (r"reduce", lambda j, s: s.key_by("a").reduce("a")),
    (r"process", lambda j, s: s.key_by("a").process(5)),
    (r"\.window\(\) needs sl\.Tumbling", lambda j, s: s.key_by("a").window("10s")),
    (r"\.window\(\) needs", lambda j, s: s.key_by("a").window(sl.Tumbling)),
    (r"reduce", lambda j, s: s.key_by("a").window(sl.Tumbling("1s")).reduce(5)),
    (r"apply", lambda j, s: s.key_by("a").window(sl.Tumbling("1s")).apply(5)),
    (r"needs at least one aggregation", lambda j, s: s.key_by("a").aggregate()),
    (r"aggregate\(n=\.\.\.\) needs an aggregation", lambda j, s: s.key_by("a").aggregate(n=len)),
    (
        r"aggregate\(n=\.\.\.\) needs an aggregation",
        lambda j, s: s.key_by("a").window(sl.Tumbling("1s")).aggregate(n=sl.Count),
    ),
    (r"'key' is a field of every result", lambda j, s: s.key_by("a").aggregate(key=sl.Count())),
    (
        r"'window_end' is a field of every result",
        lambda j, s: s.key_by("a").window(sl.Tumbling("1s")).aggregate(window_end=sl.Count()),
    ),
    (r"max_out_of_orderness='x'", lambda j, s: s.with_timestamps("a", max_out_of_orderness="x")),
    (r"idle_after='0s' must be longer", lambda j, s: s.with_timestamps("a", idle_after="0s")),
    (r"max_future=5 is not", lambda j, s: s.with_timestamps("a", max_future=5)),
    (
        r"allowed_lateness='1'",
        lambda j, s: s.key_by("a").window(sl.Tumbling("1s"), allowed_lateness="1"),
    ),
    (r"size='0s'", lambda j, s: sl.Tumbling("0s")),
    (r"gap='x'", lambda j, s: sl.Session("x")),
    (r"stream of another job", lambda j, s: s.union(start()[1])),
]


@pytest.mark.parametrize(("said", "call"), WRONG, ids=[said for said, _ in WRONG])
def test_wrong_arguments_are_refused_at_once(said: str, call: Any) -> None:
    job, stream = start()
    with pytest.raises(UsageError, match=said):
        call(job, stream)


def test_window_kinds_keep_their_fields_apart() -> None:
    """Without a window, only ``key`` is taken."""
    _, stream = start()
    stream.key_by("a").aggregate(window_end=sl.Count())


@pytest.mark.parametrize("thing", [None, 5, sl.Job, start()[1]], ids=shown)
def test_what_is_no_job_has_no_graph(thing: Any) -> None:
    with pytest.raises(UsageError, match="expected a streamline Job, not"):
        as_graph(thing)


def test_a_job_says_what_it_is() -> None:
    job, stream = start()
    stream.sink("out", AnySink())
    assert repr(job) == "Job('test', 2 nodes)"
    assert as_graph(job) is job.graph()
    assert job.name == "test"


@pytest.mark.parametrize("how", ["rebalance", "broadcast"])
def test_a_partitioning_with_a_name_or_a_parallelism_is_a_node(how: str) -> None:
    job, stream = start()
    spread = getattr(stream, how)
    spread(name="named").map(str).sink("a", AnySink())
    spread(parallelism=3).map(str).sink("b", AnySink())
    spread().map(str).sink("c", AnySink())
    graph = job.graph()
    made = {node.id: node.parallelism for node in graph.nodes if "map" not in node.id}
    assert made == {"in": None, "named": None, how: 3, "a": None, "b": None, "c": None}
    assert [edge.target for edge in graph.edges if edge.partitioning.value == how] == [
        "named",
        how,
        "map-3",
    ]
