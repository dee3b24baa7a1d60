"""Expressions: rows, columns and plain Python give the same."""

import operator
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import streamline as sl
from streamline.batch import Batch, ColumnBatch, RowBatch, no_timestamps
from streamline.errors import UsageError
from streamline.expr import Expr, as_expr, col

Plain = Callable[[dict[str, Any]], Any]


class Row(sl.Record):
    a: int
    b: int
    x: float
    y: float
    s: str
    f: bool


def random_row(random_: random.Random) -> dict[str, Any]:
    return {
        "a": random_.randint(-50, 50),
        "b": random_.choice([-7, -3, -1, 1, 2, 5]),
        "x": random_.choice([-2.5, -0.5, 0.0, 0.25, 3.0, 100.0]),
        "y": random_.choice([-4.0, -0.5, 0.5, 8.0]),
        "s": random_.choice(["", "ada", "bob"]),
        "f": random_.random() < 0.5,
    }


NUMERIC = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
DIVISION = {"/": operator.truediv, "//": operator.floordiv, "%": operator.mod}
COMPARED = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


def random_number(random_: random.Random, depth: int) -> tuple[Expr | int | float, Plain]:
    """An expression that gives a number, and the same as a Python function."""
    if depth == 0 or random_.random() < 0.2:
        if random_.random() < 0.3:
            value = random_.choice([0, 1, 7, -2, 0.5, -1.25])
            return value, lambda row: value
        name = random_.choice("abxy")
        return col(name), lambda row: row[name]
    left, plain_left = random_number(random_, depth - 1)
    if random_.random() < 0.3:  # divide only by what is never zero
        name = random_.choice("by")
        apply = DIVISION[random_.choice(list(DIVISION))]
        return apply(left, col(name)), lambda row: apply(plain_left(row), row[name])
    right, plain_right = random_number(random_, depth - 1)
    apply = NUMERIC[random_.choice(list(NUMERIC))]
    return apply(left, right), lambda row: apply(plain_left(row), plain_right(row))


def random_condition(random_: random.Random, depth: int) -> tuple[Expr, Plain]:
    """An expression that is true or false, and the same as a Python function."""
    if depth == 0:
        if random_.random() < 0.3:
            word = random_.choice(["", "ada"])
            compare = random_.choice(list(COMPARED.values()))
            return compare(col("s"), word), lambda row: compare(row["s"], word)
        left, plain_left = random_number(random_, 2)
        right, plain_right = random_number(random_, 2)
        compare = random_.choice(list(COMPARED.values()))
        return (
            compare(as_expr(left), right),
            lambda row: compare(plain_left(row), plain_right(row)),
        )
    one, plain_one = random_condition(random_, depth - 1)
    if random_.random() < 0.2:
        return ~one, lambda row: not plain_one(row)
    other, plain_other = random_condition(random_, depth - 1)
    if random_.random() < 0.5:
        return one & other, lambda row: plain_one(row) and plain_other(row)
    return one | other, lambda row: plain_one(row) or plain_other(row)


def ways(expression: Expr, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The expression's values, by every way to compute them."""
    dicts, records = RowBatch(rows), RowBatch([Row(**row) for row in rows])
    function = expression.row_function()
    batches: dict[str, Batch] = {
        "dicts": dicts,
        "records": records,
        "columns": records.to_columns(),
        "columns of dicts": dicts.to_columns(),
    }
    found = {name: expression.evaluate(batch) for name, batch in batches.items()}
    found["function of dicts"] = [function(row) for row in rows]
    found["function of records"] = [function(row) for row in records.values]
    return found


@pytest.mark.parametrize("kind", ["number", "condition"])
@pytest.mark.parametrize("seed", range(60))
def test_rows_columns_and_python_agree(kind: str, seed: int) -> None:
    random_ = random.Random(seed)
    rows = [random_row(random_) for _ in range(30)]
    expression, plain = {"number": random_number, "condition": random_condition}[kind](random_, 3)
    expected = [plain(row) for row in rows]
    for way, found in ways(as_expr(expression), rows).items():
        assert found == pytest.approx(expected, rel=1e-12), f"{way}: {expression}"
        if kind == "condition":
            assert {type(value) for value in found} == {bool}, f"{way}: {expression}"


ROWS = [random_row(random.Random(seed)) for seed in range(8)]

CASES: list[tuple[Expr, Plain]] = [
    (2 + col("a"), lambda r: 2 + r["a"]),
    (2 - col("a"), lambda r: 2 - r["a"]),
    (2 * col("a"), lambda r: 2 * r["a"]),
    (2 / col("b"), lambda r: 2 / r["b"]),
    (7 // col("b"), lambda r: 7 // r["b"]),
    (7 % col("b"), lambda r: 7 % r["b"]),
    (-col("a"), lambda r: -r["a"]),
    (col("a") < 3, lambda r: r["a"] < 3),
    (True & col("f"), lambda r: r["f"]),
    (False | col("f"), lambda r: r["f"]),
    (~col("f"), lambda r: not r["f"]),
    (~col("s"), lambda r: not r["s"]),
    (~col("a"), lambda r: not r["a"]),
    (col("s") + "!", lambda r: r["s"] + "!"),
    (col("a") == col("b"), lambda r: r["a"] == r["b"]),
    (col("s") == "ada", lambda r: r["s"] == "ada"),
    (col("a") == "ada", lambda r: False),
    (col("s") != None, lambda r: True),  # noqa: E711
    (as_expr(5), lambda r: 5),
    (as_expr("text"), lambda r: "text"),
    (col("f") * 2, lambda r: r["f"] * 2),
    (col("f") + col("f"), lambda r: r["f"] + r["f"]),
    (col("f") - col("f"), lambda r: 0),
    ((col("a") > 0) + (col("x") > 0), lambda r: (r["a"] > 0) + (r["x"] > 0)),
    (col("a") * (1 << 62), lambda r: r["a"] * (1 << 62)),
    (col("x") * 1e308, lambda r: r["x"] * 1e308),
]


@pytest.mark.parametrize(("expression", "plain"), CASES, ids=[str(case[0]) for case in CASES])
def test_each_operator(expression: Expr, plain: Plain) -> None:
    expected = [plain(row) for row in ROWS]
    for way, found in ways(expression, ROWS).items():
        assert found == expected, way


BIG = 1 << 53


class Wide(sl.Record):
    i: int
    x: float
    s: str
    t: Any


WIDE = [
    {"i": i, "x": x, "s": s, "t": t}
    for i, x, s, t in (
        (BIG + 1, float(BIG), "x", ["a", "b"]),
        (-(1 << 63), float(1 << 62), "x\0", ["b"]),
        (BIG - 1, 3.0, "", ["a", "b"]),
    )
]


@pytest.mark.parametrize(
    ("expression", "plain"),
    [
        (col("i") == col("x"), lambda r: r["i"] == r["x"]),
        (col("x") < col("i"), lambda r: r["x"] < r["i"]),
        (col("i") > float(BIG), lambda r: r["i"] > float(BIG)),
        (col("x") == BIG + 1, lambda r: r["x"] == BIG + 1),
        (col("i") / 3, lambda r: r["i"] / 3),
        ((BIG + 1) / (col("i") - col("i") + 7), lambda r: (BIG + 1) / 7),
        (col("i") // -1, lambda r: r["i"] // -1),
        (col("i") % -1, lambda r: r["i"] % -1),
        (col("t") == ["a", "b"], lambda r: r["t"] == ["a", "b"]),
        (col("t") == ["a", "b", "c"], lambda r: False),
        (col("i") == (1, 2, 3), lambda r: False),
        (col("s") == "x\0", lambda r: r["s"] == "x\0"),
        (as_expr("x\0"), lambda r: "x\0"),
        (col("s") + "\0", lambda r: r["s"] + "\0"),
    ],
    ids=lambda value: repr(value) if isinstance(value, Expr) else "",
)
def test_what_numpy_computes_otherwise_is_as_in_rows(expression: Expr, plain: Plain) -> None:
    records = RowBatch([Wide(**row) for row in WIDE])
    expected = [plain(row) for row in WIDE]
    for batch in (RowBatch(WIDE), records, records.to_columns()):
        found = expression.evaluate(batch)
        assert found == expected
        assert list(map(type, found)) == list(map(type, expected))


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint8", "uint64", "float32", "bool"])
def test_narrow_columns_are_computed_as_the_python_numbers_they_are(dtype: str) -> None:
    values = np.array([1, 100, 120, 0], dtype=dtype)
    if dtype == "float32":
        values = values / np.float32(10)
    if dtype == "uint64":
        values = values + np.uint64((1 << 64) - 200)
    batch = ColumnBatch({"v": values}, no_timestamps(4), record_type=dict)
    for expression in (col("v") * 100, col("v") + col("v"), col("v") == 0.1, -col("v")):
        assert expression.evaluate(batch) == expression.evaluate(batch.to_rows())


@pytest.mark.parametrize("expression", [col("a") / (col("b") - col("b")), 1 // (col("a") * 0)])
def test_division_by_zero_is_an_error_either_way(expression: Expr) -> None:
    for batch in (RowBatch(ROWS), RowBatch(ROWS).to_columns()):
        with pytest.raises(ArithmeticError):
            expression.evaluate(batch)


def test_no_records_no_values() -> None:
    assert (col("a") + 1).evaluate(RowBatch([])) == []
    columns = RowBatch(ROWS).to_columns().where(np.zeros(len(ROWS), dtype=bool))
    assert (col("a") + 1).evaluate(columns) == []


def test_fields_are_all_that_are_read() -> None:
    assert (~(col("a") * 2 > col("b")) & (col("s") == "x")).fields() == {"a", "b", "s"}
    assert as_expr(1).fields() == set()


def test_how_it_reads() -> None:
    assert str((col("a") + 1 > 2) & ~col("f")) == "(((col('a') + 1) > 2) & ~col('f'))"


@pytest.mark.parametrize("batch", [RowBatch(ROWS), RowBatch([Row(**row) for row in ROWS])])
@pytest.mark.parametrize("columns", [False, True])
def test_a_field_that_is_not_there_is_named(batch: RowBatch, columns: bool) -> None:
    with pytest.raises(UsageError, match="no field 'amuont'.* a, b, x, y, s, f"):
        (col("a") + col("amuont")).evaluate(batch.to_columns() if columns else batch)


@pytest.mark.parametrize(
    "use",
    [
        lambda: bool(col("a") > 1),
        lambda: col("a") > 1 and col("b") > 1,
        lambda: not col("a"),
        lambda: 1 < col("a") < 3,
    ],
)
def test_and_or_not_are_refused_with_the_remedy(use: Callable[[], Any]) -> None:
    with pytest.raises(UsageError, match=r"no truth value by itself; join .* with & \| ~"):
        use()


def test_a_name_that_is_no_field_of_a_record() -> None:
    odd = {"first name": 1}
    assert col("first name").evaluate(RowBatch([odd])) == [1]
    with pytest.raises(UsageError, match="'first name'"):
        col("first name").evaluate(RowBatch([Row(1, 1, 1.0, 1.0, "", True)]))


def test_literals_are_values_not_source() -> None:
    nasty = "x'] + __import__('os').getcwd() + ['"
    assert (col("s") == nasty).evaluate(RowBatch([{"s": nasty}, {"s": ""}])) == [True, False]
    assert col(nasty).evaluate(RowBatch([{nasty: 1}])) == [1]
