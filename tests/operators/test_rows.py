"""map, filter and flat_map in compiled loops against plain Python."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import streamline as sl
from streamline.batch import Batch, ColumnBatch, RowBatch
from streamline.clock import ManualClock
from streamline.config import RuntimeConfig
from streamline.errors import StreamlineError, UsageError, UserFunctionError
from streamline.keys import KeyGroupRange
from streamline.operators.base import OperatorContext
from streamline.operators.rows import RowLoop, RowSpec
from streamline.testing import OperatorHarness
from tests.operators.drive import NODE, Collected, cuts

Timed = tuple[Any, int]


class Point(sl.Record):
    x: int
    y: int


def loop(*steps: tuple[str, Any]) -> RowLoop:
    """A loop of steps (kind, function), named s0, s1 ..."""
    made = RowLoop([(f"s{n}", RowSpec(kind, f)) for n, (kind, f) in enumerate(steps)])  # type: ignore[arg-type]
    made.open(
        OperatorContext(
            node=NODE,
            index=0,
            parallelism=1,
            max_parallelism=128,
            key_range=KeyGroupRange(0, 128),
            clock=ManualClock(),
            config=RuntimeConfig(),
        )
    )
    return made


def batch_of(values: list[Any], times: list[int] | None = None) -> RowBatch:
    stamps = list(range(len(values))) if times is None else times
    return RowBatch(values, np.array(stamps, dtype=np.int64), partition="p")


def through(made: RowLoop, *batches: Batch) -> list[Timed]:
    out = Collected()
    for batch in batches:
        made.process(batch, out)
    assert {batch.partition for batch in out.batches} <= {"p"}
    return out.timed()


def plain(steps: list[tuple[str, Any]], rows: list[Timed]) -> list[Timed]:
    """The same, one step after the other."""
    for kind, function in steps:
        if isinstance(function, str):
            function = sl.col(function)
        if isinstance(function, sl.Expr):
            function = function.row_function()
        if kind == "map":
            rows = [(function(value), at) for value, at in rows]
        elif kind == "filter":
            rows = [(value, at) for value, at in rows if function(value)]
        else:
            rows = [(made, at) for value, at in rows for made in function(value)]
    return rows


def several(v: int) -> Iterator[int]:
    for n in range(v % 4):
        yield v + n


INT_STEPS: list[tuple[str, Any]] = [
    ("map", lambda v: v * 3 + 1),
    ("map", lambda v: -v),
    ("map", abs),
    ("filter", lambda v: v % 3),
    ("filter", lambda v: v > -20),
    ("filter", lambda v: None if v % 5 == 0 else "yes"),
    ("filter", lambda v: [v] if v % 7 else []),
    ("flat_map", several),
    ("flat_map", lambda v: (v, v + 1)),
    ("flat_map", lambda v: {v: 1}),
    ("flat_map", lambda v: []),
]

X, Y = sl.col("x"), sl.col("y")
FIELD_STEPS: list[tuple[str, Any]] = [
    ("filter", X > Y),
    ("filter", (X % 3 == 0) | (Y < 5)),
    ("filter", ~(X == 2) & (Y != 3)),
    ("filter", "x"),
    ("filter", X - Y),
    ("filter", lambda v: True),
]


def test_random_chains_give_what_plain_python_gives() -> None:
    for seed in range(400):
        r = random.Random(seed)
        pool = INT_STEPS[:-1] if r.random() < 0.9 else INT_STEPS
        steps = [r.choice(pool) for _ in range(r.randint(1, 6))]
        if sum(kind == "flat_map" for kind, _ in steps) > 4:
            continue
        rows = [(r.randint(-50, 50), r.randint(-1000, 1000)) for _ in range(r.randint(1, 30))]
        made = loop(*steps)
        batches = [
            batch_of([v for v, _ in rows[cut]], [at for _, at in rows[cut]])
            for cut in cuts(r, len(rows), 12)
        ]
        kept = [list(batch.values) for batch in batches]
        assert through(made, *batches) == plain(steps, rows), seed
        assert [batch.values for batch in batches] == kept  # a batch is never changed


@pytest.mark.parametrize("kind", ["record", "dict", "columns", "dict columns"])
def test_random_chains_of_expressions_and_functions(kind: str) -> None:
    for seed in range(150):
        r = random.Random(seed)
        steps = [r.choice(FIELD_STEPS) for _ in range(r.randint(1, 4))]
        if r.random() < 0.5:
            steps += [("map", r.choice([X * 2 + Y, X - 1, "y", X > 3, (X + Y) % 4]))]
            steps += [r.choice(INT_STEPS[:3])] if r.random() < 0.5 else []
        rows: list[Timed] = []
        for _ in range(r.randint(1, 20)):
            x, y = r.randint(0, 9), r.randint(0, 9)
            value = {"x": x, "y": y} if "dict" in kind else Point(x, y)
            rows.append((value, r.randint(-99, 99)))
        batch: Batch = batch_of([v for v, _ in rows], [at for _, at in rows])
        if "columns" in kind:
            batch = batch.to_columns()
        assert through(loop(*steps), batch) == plain(steps, rows), (seed, steps)


def test_filters_take_any_value_for_true_or_false() -> None:
    odd = [0, 1, -1, 0.0, 0.5, "", "a", None, [], [0], (), {}, {"a": 1}, False, True, float("nan")]
    expected = [value for value in odd if value]
    assert repr([v for v, _ in through(loop(("filter", lambda v: v)), batch_of(odd))]) == repr(
        expected
    )
    twice = loop(("filter", lambda v: v), ("filter", lambda v: v))
    assert repr([v for v, _ in through(twice, batch_of(odd))]) == repr(expected)
    mixed = loop(("map", lambda v: v), ("filter", lambda v: v))
    assert repr([v for v, _ in through(mixed, batch_of(odd))]) == repr(expected)
    wrapped = [{"f": value, "n": n} for n, value in enumerate(odd)]
    expected_numbers = [row["n"] for row in wrapped if row["f"]]
    for batch in (batch_of(wrapped), batch_of(wrapped).to_columns()):
        found = [v["n"] for v, _ in through(loop(("filter", "f")), batch)]
        assert found == expected_numbers, type(batch)


@pytest.mark.parametrize(
    "column", [[0, 3, -1], [0.0, 2.5, float("nan")], ["", "a", "b"], [True, False, True]]
)
def test_a_filter_by_a_field_of_columns_is_that_of_rows(column: list[Any]) -> None:
    rows = [{"f": value, "n": n} for n, value in enumerate(column)]
    by_rows = through(loop(("filter", "f")), batch_of(rows))
    by_columns = through(loop(("filter", "f")), batch_of(rows).to_columns())
    assert repr(by_rows) == repr(by_columns)
    assert [v["n"] for v, _ in by_rows] == [n for n, value in enumerate(column) if value]


def test_filters_of_columns_stay_columns() -> None:
    batch = batch_of([Point(n, 5) for n in range(10)]).to_columns()
    out = Collected()
    loop(("filter", X > Y), ("filter", X % 2 == 0)).process(batch, out)
    (found,) = out.batches
    assert isinstance(found, ColumnBatch)
    assert (found.array("x").tolist(), found.timestamps.tolist()) == ([6, 8], [6, 8])


def test_nothing_is_emitted_when_nothing_is_left() -> None:
    batch = batch_of([Point(1, 2)])
    assert through(loop(("filter", X > Y)), batch, batch.to_columns()) == []
    assert through(loop(("flat_map", lambda v: [])), batch) == []
    assert through(loop(("filter", lambda v: False), ("map", lambda v: v)), batch) == []


@pytest.mark.parametrize("between", [[], [("filter", lambda v: True)]])
def test_a_step_may_turn_dicts_to_records_before_an_expression(between: list[Any]) -> None:
    """Fused or not, an expression looks at the value that it is given."""
    steps = [("map", lambda v: Point(**v)), *between, ("filter", X > 1), ("map", Y)]
    rows = [({"x": n, "y": n * n}, n) for n in range(4)]
    assert through(loop(*steps), batch_of([v for v, _ in rows])) == plain(steps, rows)


def test_a_step_may_turn_records_to_dicts_before_an_expression() -> None:
    steps: list[tuple[str, Any]] = [
        ("map", lambda v: {"x": v.x, "y": v.y + 1}),
        ("filter", X > 1),
        ("map", "y"),
    ]
    rows = [(Point(n, n * n), n) for n in range(4)]
    assert through(loop(*steps), batch_of([v for v, _ in rows])) == plain(steps, rows)


def test_batches_of_dicts_and_of_records_may_follow_each_other() -> None:
    made = loop(("filter", X > 1), ("map", Y))
    batches = [batch_of([Point(2, 3), Point(0, 1)]), batch_of([{"x": 5, "y": 6}])]
    assert [value for value, _ in through(made, *batches, *batches)] == [3, 6, 3, 6]


def test_errors_name_the_step_the_record_and_the_line() -> None:
    for seed in range(200):
        r = random.Random(seed)
        steps = [r.choice(INT_STEPS[:6]) for _ in range(r.randint(0, 5))]
        place = r.randint(0, len(steps))
        seen: list[int] = []
        stop = r.randint(1, 8)

        def fails(v: int, seen: list[int] = seen, stop: int = stop) -> Any:
            seen.append(v)
            if len(seen) == stop:
                raise LookupError(f"no {v}")  # the very line
            return [v]

        kind = r.choice(["map", "filter", "flat_map"])
        after = [("filter", lambda v: True)] if kind == "map" else []
        steps[place:] = [(kind, fails), *after]
        rows = [r.randint(-50, 50) for _ in range(30)]
        before = [value for value, _ in plain(steps[:place], [(v, 0) for v in rows])]
        if len(before) < stop:
            continue
        made = loop(*steps)
        with pytest.raises(UserFunctionError) as error:
            through(made, batch_of(rows))
        record = before[stop - 1]
        assert (error.value.operator, error.value.record) == (f"s{place}", str(record)), seed
        text = str(error.value)
        assert re.search(r"at test_rows\.py:\d+ \(raise LookupError\(.*the very line\)", text)
        assert f"LookupError: no {record}" in text.replace("'", "")
        assert "<streamline" not in error.value.trace
        assert "in fails" in error.value.trace


def test_an_error_in_the_middle_of_a_flat_map_names_its_record() -> None:
    def half(v: int) -> Iterator[int]:
        yield v * 100
        raise LookupError("the other half")

    for steps in (
        [("flat_map", half)],
        [("flat_map", half), ("map", lambda v: v + 1)],
        [("flat_map", half), ("flat_map", lambda v: [v, v])],
    ):
        with pytest.raises(UserFunctionError, match="the other half") as error:
            through(loop(*steps), batch_of([7]))
        assert (error.value.operator, error.value.record) == ("s0", "7")


def test_a_flat_map_that_returns_no_iterable() -> None:
    made = loop(("map", lambda v: v), ("flat_map", lambda v: v))
    with pytest.raises(UserFunctionError, match="not iterable") as error:
        through(made, batch_of([7]))
    assert (error.value.operator, error.value.record) == ("s1", "7")


def test_a_single_map_names_the_record_too() -> None:
    with pytest.raises(UserFunctionError, match="ZeroDivisionError") as error:
        through(loop(("map", lambda v: 1 // v)), batch_of([2, 1, 0, 3]))
    assert (error.value.operator, error.value.record) == ("s0", "0")


@pytest.mark.parametrize("columns", [False, True])
def test_a_missing_field_is_named_with_those_there_are(columns: bool) -> None:
    batch: Batch = batch_of([Point(1, 2)])
    made = loop(("filter", X > 0), ("filter", sl.col("z") > 1))
    with pytest.raises(StreamlineError, match=r"'z'.*x, y"):
        through(made, batch.to_columns() if columns else batch)


def test_a_missing_key_of_one_dict_among_others() -> None:
    made = loop(("filter", X > 0), ("map", Y))
    with pytest.raises(UserFunctionError, match="'y'") as error:
        through(made, batch_of([{"x": 1, "y": 1}, {"x": 2}]))
    assert (error.value.operator, error.value.record) == ("s1", "{'x': 2}")


def test_a_lone_step_has_the_name_of_its_node() -> None:
    made = RowSpec("map", lambda v: 1 // v).build()
    made.open(loop(("map", abs)).context)
    with pytest.raises(UserFunctionError) as error:
        made.process(batch_of([0]), Collected())
    assert error.value.operator == NODE


def test_a_name_that_is_no_field_name() -> None:
    with pytest.raises(UsageError, match="not a field name"):
        through(loop(("map", sl.col("a b"))), batch_of([Point(1, 2)]))
    assert through(loop(("map", sl.col("a b"))), batch_of([{"a b": 3}])) == [(3, 0)]


class Ratio(sl.Record):
    a: int
    b: int


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize(
    "use",
    [
        lambda s: s.map(sl.col("a") / sl.col("b")),
        lambda s: s.filter(sl.col("a") > 0).filter(sl.col("a") / sl.col("b") > 0),
        lambda s: s.with_timestamps(sl.col("a") // sl.col("b")),
        lambda s: s.key_by(sl.col("a") // sl.col("b")).aggregate(n=sl.Count()),
        lambda s: s.key_by("a").aggregate(n=sl.Sum(sl.col("a") / sl.col("b"))),
        lambda s: s.key_by(lambda r: r.a // r.b).aggregate(n=sl.Count()),
    ],
)
def test_the_record_on_which_an_expression_raises_is_named(use: Any, columns: bool) -> None:
    """Not a line of a string that nobody wrote."""
    harness = OperatorHarness.of(use)
    rows = RowBatch([Ratio(1, 1), Ratio(2, 0), Ratio(3, 1)])
    with pytest.raises(
        UserFunctionError, match=r"ZeroDivisionError.*; the record is Ratio\(a=2, b=0\)"
    ) as told:
        harness.push_batch(rows.to_columns() if columns else rows)
    assert "<string>" not in str(told.value)
