"""What is added up in front of a shuffle gives what the records one by one would give."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamline as sl
from streamline.batch import Batch, ColumnBatch, RowBatch
from streamline.errors import UsageError
from streamline.ids import ChannelId
from streamline.keys import KeyGroups
from streamline.messages import MIN_TIMESTAMP
from streamline.operators import combine as combine_module
from streamline.operators.aggregations import (
    AggregatePartials,
    Aggregation,
    Count,
    Max,
    Mean,
    Min,
    Sum,
)
from streamline.operators.base import MAIN
from streamline.operators.combine import _PAUSE, Combiner
from streamline.operators.windows.assigners import Slices
from streamline.operators.windows.specs import window_aggregate
from streamline.runtime.channel import FREE
from streamline.runtime.frames import decode_message, encode_message, unpack
from tests.operators.drive import MAX_PARALLELISM, NODE, Collected, Setting, Tasks, cuts

ALL = (
    ("count", Count()),
    ("sum", Sum("amount")),
    ("least", Min("amount")),
    ("most", Max(sl.col("amount") * 2)),
    ("mean", Mean("price")),
    ("dearest", Max("price")),
)
GROUPS = KeyGroups(MAX_PARALLELISM)


class Item(sl.Record):
    amount: int
    price: float


def batch_of(
    values: list[Any], times: list[int], keys: list[Any], *, columns: bool = False
) -> Batch:
    """As key_by emits it."""
    batch: Batch = RowBatch(values, np.array(times, dtype=np.int64))
    if columns:
        batch = batch.to_columns()
    batch = batch.with_keys(keys, GROUPS.of(keys))
    if type(keys[0]) is not int:
        batch.codes = KeyGroups(MAX_PARALLELISM).codes_of(keys)
    return batch


def combiner(*aggregations: tuple[str, Aggregation[Any, Any, Any]], window: Any = None) -> Combiner:
    return Combiner(NODE, aggregations or ALL, Slices(window or sl.Tumbling("10ms")))


def arrived(batch: Batch) -> Batch:
    frame = b"".join(encode_message(ChannelId(0, 0, 0), batch, FREE))
    found = decode_message(*unpack(memoryview(frame)[4:]))[0]
    assert isinstance(found, ColumnBatch)
    return found


class Results(Collected):
    """Late records are no stream where they are combined or projected: nobody takes them."""

    def emit(self, batch: Batch, tag: str = MAIN) -> None:
        if tag == MAIN:
            super().emit(batch, tag)


def some(rng: random.Random, count: int) -> tuple[list[Item], list[int], list[str]]:
    # Quarters are added without rounding, in whatever order.
    items = [Item(rng.randrange(-50, 50), rng.randrange(400) / 4) for _ in range(count)]
    times = [number // 4 + rng.randrange(-12, 12) for number in range(count)]
    return items, times, [f"k{rng.randrange(3)}" for _ in range(count)]


@pytest.mark.parametrize("columns", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize("window", [sl.Tumbling("10ms"), sl.Sliding("9ms", "6ms", offset="2ms")])
@pytest.mark.parametrize("seed", range(6))
def test_windows_are_those_of_the_records(
    seed: int,
    window: Any,
    parallelism: int,
    columns: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also what is late, and what fires again within the allowed lateness."""
    monkeypatch.setattr(combine_module, "_PAUSE", 1)  # so that it changes often
    rng = random.Random(seed)
    items, times, keys = some(rng, 600)
    spec = window_aggregate(window, rng.choice([0, 5, 50]), ALL)
    combine = spec.projection(NODE)
    assert combine is not None
    alone, together = (
        Tasks(spec, Setting(tmp_path / name), parallelism) for name in ("alone", "together")
    )
    for task in together.tasks:
        task.out = Results()
    combined, reached = 0, MIN_TIMESTAMP
    for cut in cuts(rng, len(items), 60):
        alone.push(items[cut], times[cut], keys[cut])
        batch = combine(batch_of(items[cut], times[cut], keys[cut], columns=columns))
        assert isinstance(batch, ColumnBatch)
        combined += batch.record_type is AggregatePartials
        assert batch.groups is not None
        owners = together._owners[batch.groups]
        for task, part in zip(together.tasks, batch.split(owners, parallelism), strict=True):
            if part is not None:
                part = arrived(part)
                task.context.counters.records_in += task.operator.records(part)
                task.take(part)
        reached = max(reached, times[cut][-1] - rng.randrange(2, 12))
        alone.watermark(reached)
        together.watermark(reached)
    alone.end()
    together.end()
    assert combined > 3
    assert sorted(map(repr, together.timed())) == sorted(map(repr, alone.timed()))
    assert together.late == alone.late
    assert sum(task.context.counters.records_in for task in together.tasks) == len(items)
    alone.close()
    together.close()


def test_a_row_for_each_key_and_slice() -> None:
    items = [Item(1, 0.5), Item(2, 0.5), Item(3, 1.0), Item(4, 1.0)] * 3
    keys, times = ["a", "b", "a", "a"] * 3, [0, 3, 9, 10] * 3
    found = combiner()(batch_of(items, times, keys))
    assert isinstance(found, ColumnBatch)
    assert list(zip(found.keys or (), found.timestamps.tolist(), strict=True)) == [
        ("a", 0),
        ("b", 0),
        ("a", 10),
    ]
    assert found.groups is not None
    assert found.groups.tolist() == GROUPS.of(["a", "b", "a"]).tolist()
    columns = {name: column.tolist() for name, column in found.columns.items()}
    assert columns == {
        "records": [6, 3, 3],
        "0": [6, 3, 3],
        "1": [12, 6, 12],
        "2": [1, 2, 4],
        "3": [6, 4, 8],
        "4": [4.5, 1.5, 3.0],
        "5": [6, 3, 3],
        "6": [1.0, 0.5, 1.0],
    }
    assert found.columns["1"].dtype == np.int64


def values(*found: Any) -> list[dict[str, Any]]:
    return [{"it": one} for one in found] * 8


@pytest.mark.parametrize(
    ("aggregation", "items"),
    [
        (Sum("it"), values(1, 2.5)),  # 3.5 and not 3.5 by way of floats
        (Sum("it"), values(1 << 60, 1)),  # not exact as floats
        (Sum("it"), values(1 << 70, 1)),
        (Sum("it"), values(True, False)),
        (Sum("it"), values("a", "b")),
        (Min("it"), values("a", "b")),
        (Min("it"), values(float("nan"), 1.0)),
        (Max("it"), values(-0.0, 0.0)),
        (Max("it"), values(None, 1)),
    ],
)
def test_what_would_not_be_the_same_goes_as_it_is(
    aggregation: Aggregation[Any, Any, Any], items: list[Any]
) -> None:
    batch = batch_of(items, [1] * len(items), ["a"] * len(items))
    assert combiner(("it", aggregation))(batch) is None


@pytest.mark.parametrize(
    "keys", [[1, True], [1, 1 << 63], [("a", 1), ("a", 2)], ["a", None], [1.5, 2.5]]
)
def test_keys_of_which_two_kinds_may_be_equal_go_as_they_are(keys: list[Any]) -> None:
    batch = batch_of(values(1, 2), [1] * 16, keys * 8)
    assert combiner(("it", Sum("it")))(batch) is None


def test_a_record_without_a_time_is_told_of_behind_the_shuffle() -> None:
    batch = batch_of(values(1, 2), [1] * 15 + [MIN_TIMESTAMP], ["a"] * 16)
    assert combiner(("it", Sum("it")))(batch) is None


def test_a_missing_field_is_told_in_front_of_it() -> None:
    batch = batch_of(values(1), [1] * 8, ["a"] * 8)
    with pytest.raises(UsageError, match="under-test: aggregation 'it': a record has no field 'x'"):
        combiner(("it", Sum("x")))(batch)


@pytest.mark.parametrize("aggregation", [sl.Collect("it"), Sum(lambda record: record["it"])])
def test_what_cannot_be_added_up_as_columns(aggregation: Aggregation[Any, Any, Any]) -> None:
    """Nothing is combined, and a function of the user's stays behind the shuffle."""
    spec = window_aggregate(sl.Tumbling("10ms"), 0, (("count", Count()), ("it", aggregation)))
    project = spec.projection(NODE)
    if project is not None:
        found = project(batch_of(values(1, 2), [1] * 16, ["a"] * 16))
        assert isinstance(found, ColumnBatch)
        assert found.record_type is not AggregatePartials


def test_after_a_batch_that_was_not_worth_it_there_is_a_pause() -> None:
    one = combiner(("count", Count()))
    same = batch_of(values(1), [1] * 8, ["a"] * 8)
    different = batch_of(values(1), [1] * 8, [f"k{number}" for number in range(8)])
    assert one(same) is not None
    assert one(different) is None
    assert [one(same) for _ in range(_PAUSE)] == [None] * _PAUSE
    assert one(same) is not None


def test_values_that_cannot_be_added_up_are_looked_at_once_in_a_while() -> None:
    one = combiner(("it", Max("it")))
    text, numbers = (
        batch_of(found, [1] * 16, ["a"] * 16) for found in (values("a", "b"), values(1, 2))
    )
    assert one(text) is None
    assert [one(numbers) for _ in range(_PAUSE)] == [None] * _PAUSE
    assert one(numbers) is not None


def test_of_many_keys_only_those_that_are_here_count() -> None:
    batch = batch_of(values(1, 2), [1] * 16, ["a", "b"] * 8)
    memory = KeyGroups(MAX_PARALLELISM)
    memory.of([f"of long ago {number}" for number in range(10_000)])
    assert batch.keys is not None
    batch.codes = memory.codes_of(batch.keys)
    found = combiner(("it", Sum("it")))(batch)
    assert isinstance(found, ColumnBatch)
    assert dict(zip(found.keys or (), found.columns["0"].tolist(), strict=True)) == {
        "a": 8,
        "b": 16,
    }
    assert found.groups is not None
    assert found.groups.tolist() == GROUPS.of(list(found.keys or ())).tolist()


@pytest.mark.parametrize("keys", [[3, -(1 << 62)], [b"3", b"4"]])
def test_keys_that_are_no_text(keys: list[Any]) -> None:
    found = combiner(("it", Sum("it")))(batch_of(values(1, 2), [1] * 16, keys * 8))
    assert isinstance(found, ColumnBatch)
    assert dict(zip(found.keys or (), found.columns["0"].tolist(), strict=True)) == {
        keys[0]: 8,
        keys[1]: 16,
    }
    assert found.groups is not None
    assert found.groups.tolist() == GROUPS.of(list(found.keys or ())).tolist()


def test_a_slice_far_away_is_no_reason_for_a_large_table() -> None:
    one = combiner(("count", Count()))
    assert one(batch_of(values(1), [1] * 7 + [1 << 50], ["a"] * 8)) is None


def test_a_job_at_2_combines_and_gives_what_it_gives_at_1(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamline.testing import CollectingSink, ScriptedSource, run_job

    combined = []
    merged = Combiner.__call__

    def counted(self: Combiner, batch: Batch) -> Batch | None:
        found = merged(self, batch)
        combined.append(found is not None)
        return found

    monkeypatch.setattr(Combiner, "__call__", counted)
    found = []
    for parallelism in (1, 2, 3):
        job, out = sl.Job("combined"), CollectingSink()
        records = [{"key": n % 7, "at": n * 10, "amount": n % 11} for n in range(3000)]
        (
            job.source("in", ScriptedSource(records))
            .with_timestamps("at", max_out_of_orderness="1s")
            .key_by("key")
            .window(sl.Tumbling("1s"))
            .aggregate(count=sl.Count(), total=sl.Sum("amount"), mean=sl.Mean("amount"))
            .sink("out", out)
        )
        run_job(job, parallelism=parallelism)
        found.append(sorted(map(repr, out.records)))
    assert any(combined)
    assert found[0] == found[1] == found[2]
    assert len(found[0]) > 200
