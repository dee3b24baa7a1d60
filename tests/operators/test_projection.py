"""What goes through a shuffle to an aggregation: the fields it looks at, and nothing else."""

import numpy as np
import pytest

import streamline as sl
from streamline.batch import RowBatch
from streamline.errors import UsageError
from streamline.ids import ChannelId
from streamline.keys import key_group
from streamline.operators.aggregations import AggregateInputs, AggregateProgram
from streamline.operators.projection import projection_of
from streamline.plan import make_plan
from streamline.runtime.channel import FREE
from streamline.runtime.deploy import projection
from streamline.runtime.frames import decode_message, encode_message, unpack
from streamline.testing import CollectingSink, Pause, ScriptedSource, run_job


class Order(sl.Record):
    user: str
    amount: float
    tags: list[str]
    note: str = ""


ORDERS = [Order(f"u{n % 3}", n * 1.5, [f"t{n}", "x"], "x" * 50) for n in range(6)]
KEYS = [order.user for order in ORDERS]
BATCH = RowBatch(
    ORDERS,
    np.arange(6),
    keys=KEYS,
    groups=np.array([key_group(key, 128) for key in KEYS], dtype=np.uint16),
)


def sent_and_arrived(batch):
    frame = b"".join(encode_message(ChannelId(0, 0, 0), batch, FREE))
    return batch, decode_message(*unpack(memoryview(frame)[4:]))[0]


@pytest.mark.parametrize("batch", [BATCH, BATCH.to_columns()], ids=["rows", "columns"])
@pytest.mark.parametrize("expressions", [False, True])
def test_what_is_aggregated_arrives_as_it_was(batch, expressions):
    wanted = [("total", sl.Sum("amount")), ("count", sl.Count()), ("tags", sl.Collect("tags"))]
    if expressions:
        wanted.append(("cents", sl.Max(sl.col("amount") * 100)))
    program = AggregateProgram("sum", tuple(wanted))
    for one in sent_and_arrived(projection_of("sum", tuple(wanted))(batch)):
        assert program.columns(one) == program.columns(BATCH)
        assert list(one.keys) == KEYS
        assert one.timestamps.tolist() == list(range(6))
        assert one.groups.tolist() == BATCH.groups.tolist()
        assert b"xxxx" not in b"".join(encode_message(ChannelId(0, 0, 0), one, FREE))


def test_a_count_sends_no_column():
    sent, arrived = sent_and_arrived(projection_of("n", (("count", sl.Count()),))(BATCH))
    assert sent.columns == arrived.columns == {}
    assert len(arrived) == 6
    assert arrived.record_type is AggregateInputs


@pytest.mark.parametrize("aggregation", [sl.Collect(), sl.Sum(lambda order: order.amount)])
def test_what_may_look_at_all_gets_all(aggregation):
    assert projection_of("sum", (("count", sl.Count()), ("it", aggregation))) is None


def test_a_missing_field_is_told_as_behind_the_shuffle():
    with pytest.raises(UsageError, match=r"sum: aggregation 'it': Order has no field 'price'"):
        projection_of("sum", (("it", sl.Sum("price")),))(BATCH)


def windowed(late):
    """Two records of the last second come when their window is long closed."""
    orders = [{"key": n % 7, "at": n * 100, "note": "x"} for n in range(100)]
    orders += [
        Pause("10ms"),
        {"key": 3, "at": 20, "note": "late"},
        {"key": 4, "at": 30, "note": "late"},
    ]
    job, out, lates = sl.Job("late"), CollectingSink(), CollectingSink()
    results = (
        job.source("in", ScriptedSource(orders))
        .with_timestamps("at", max_out_of_orderness="1s")
        .key_by("key")
        .window(sl.Tumbling("1s"))
        .aggregate(count=sl.Count(), last=sl.Max("at"))
    )
    results.sink("out", out)
    if late:
        results.late.sink("late", lates)
    return job, out, lates


@pytest.mark.parametrize("late", [False, True])
def test_only_where_nobody_wants_late_records(late):
    plan = make_plan(windowed(late)[0].graph(), 2)
    found = [projection(plan, edge) for edge in plan.edges]
    assert sum(one is not None for one in found) == (0 if late else 1)


@pytest.mark.parametrize("late", [False, True])
def test_results_are_the_same_whether_records_or_fields_are_sent(late):
    job, out, lates = windowed(late)
    run_job(job, parallelism=2)
    one_by_one, alone, _ = windowed(late)
    run_job(one_by_one, parallelism=1)
    assert len(out.records) > 50
    assert sorted(map(repr, out.records)) == sorted(map(repr, alone.records))
    if late:
        assert sorted(record["at"] for record in lates.records) == [20, 30]
        assert all(record["note"] == "late" for record in lates.records)
