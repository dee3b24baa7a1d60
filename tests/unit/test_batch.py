"""RowBatch and ColumnBatch: the same tests for both, then going over from one to the other."""

from typing import Any

import numpy as np
import pytest

import streamline as sl
from streamline.batch import Batch, ColumnBatch, RowBatch, as_column, no_timestamps
from streamline.errors import InvariantError, UsageError
from streamline.messages import MIN_TIMESTAMP


class Order(sl.Record):
    user: str
    amount: float
    items: Any = None


class Empty(sl.Record):
    pass


VALUES = [Order("ada", 1.0, [1]), Order("bob", 2.5), Order("ada", 3.0, {"a": 1}), Order("", -4.0)]
TIMES = np.array([10, 20, 30, 40], dtype=np.int64)
GROUPS = np.array([3, 1, 3, 2], dtype=np.uint16)
KEYS = ["ada", "bob", "ada", ""]


def as_dict(order: Order) -> dict[str, Any]:
    return {"user": order.user, "amount": order.amount, "items": order.items}


def make(kind: str, *, keyed: bool = True) -> Batch:
    values: list[Any] = [as_dict(v) for v in VALUES] if "dicts" in kind else VALUES
    batch: Batch = RowBatch(values, TIMES, partition="p")
    if keyed:
        batch = batch.with_keys(KEYS, GROUPS)
    return batch.to_columns() if "columns" in kind else batch


KINDS = ["rows", "rows of dicts", "columns", "columns of dicts"]


def contents(batch: Batch) -> list[Any]:
    """All that is in a batch, row by row."""
    rows = batch.to_rows()
    values = [v if isinstance(v, dict) else as_dict(v) for v in rows.values]
    keys = [None] * len(rows) if rows.keys is None else list(rows.keys)
    groups = [None] * len(rows) if rows.groups is None else rows.groups.tolist()
    assert len(batch) == len(values) == len(keys) == len(groups)
    return list(zip(values, rows.timestamps.tolist(), keys, groups, strict=True))


ALL = contents(make("rows"))


@pytest.fixture(params=KINDS)
def batch(request: pytest.FixtureRequest) -> Batch:
    return make(request.param)


def test_contents(batch: Batch) -> None:
    assert contents(batch) == ALL
    assert batch.partition == "p"
    assert batch.size_bytes > 0


@pytest.mark.parametrize("mask", ["1111", "0101", "1000", "0000"])
def test_where(batch: Batch, mask: str) -> None:
    found = batch.where(np.array([bit == "1" for bit in mask]))
    assert contents(found) == [row for row, bit in zip(ALL, mask, strict=True) if bit == "1"]
    assert type(found) is type(batch)
    assert found.partition == "p"


@pytest.mark.parametrize("indices", [[0, 1, 2, 3], [3, 1], [2, 2, 0], []])
def test_take(batch: Batch, indices: list[int]) -> None:
    found = batch.take(np.array(indices, dtype=np.intp))
    assert contents(found) == [ALL[i] for i in indices]
    assert type(found) is type(batch)


@pytest.mark.parametrize(
    ("targets", "count"),
    [([0, 1, 0, 1], 2), ([0, 0, 0, 0], 3), ([2, 2, 2, 2], 3), ([3, 1, 3, 0], 5)],
)
def test_split(batch: Batch, targets: list[int], count: int) -> None:
    parts = batch.split(np.array(targets, dtype=np.intp), count)
    assert len(parts) == count
    for target, part in enumerate(parts):
        expected = [row for row, of in zip(ALL, targets, strict=True) if of == target]
        assert (contents(part) if part is not None else []) == expected
        assert part is None or len(part), "an empty part is none"


def test_a_batch_that_goes_to_one_target_is_not_copied(batch: Batch) -> None:
    assert batch.split(np.array([1, 1, 1, 1]), 2)[1] is batch


def test_with_keys_changes_nothing_else(batch: Batch) -> None:
    groups = np.array([9, 9, 9, 9], dtype=np.uint16)
    found = batch.with_keys([1, 2, 3, 4], groups)
    assert contents(found) == [(*row[:2], i + 1, 9) for i, row in enumerate(ALL)]
    assert contents(batch) == ALL


def test_with_timestamps_changes_nothing_else(batch: Batch) -> None:
    found = batch.with_timestamps(TIMES + 1)
    assert contents(found) == [(row[0], row[1] + 1, *row[2:]) for row in ALL]
    assert contents(batch) == ALL
    assert found.partition == "p"


@pytest.mark.parametrize("name", ["user", "amount", "items"])
def test_column(batch: Batch, name: str) -> None:
    found = batch.column(name)
    assert found == [row[0][name] for row in ALL]
    assert [type(value) for value in found] == [type(row[0][name]) for row in ALL]


def test_a_column_that_is_not_there_is_named_with_those_that_are(batch: Batch) -> None:
    with pytest.raises(UsageError, match=r"no field 'usr'.*user, amount, items"):
        batch.column("usr")


def test_to_rows_and_to_columns_and_back(batch: Batch) -> None:
    for there in (batch.to_rows(), batch.to_columns()):
        assert contents(there) == ALL
        assert contents(there.to_rows()) == contents(there.to_columns()) == ALL
        assert there.partition == "p"
    kind = batch.to_columns().record_type
    assert all(type(value) is kind for value in batch.to_columns().to_rows().values)


def test_conversion_to_what_it_is_already_is_free(batch: Batch) -> None:
    assert (batch.to_rows() if isinstance(batch, RowBatch) else batch.to_columns()) is batch


@pytest.mark.parametrize("kind", KINDS)
def test_without_keys(kind: str) -> None:
    batch = make(kind, keyed=False)
    for found in (batch.where(np.array([True] * 4)), batch.take(np.arange(4)), batch.to_rows()):
        assert found.keys is None
        assert found.groups is None


# ---------------------------------------------------------------------- columns


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 2], np.int64),
        ([1.0, 2.0], np.float64),
        ([True, False], np.bool_),
        ([1, 2.0], object),
        ([1, True], object),
        ([1, None], object),
        (["a", "b"], object),
        ([1 << 63, 1], object),
        ([[1, 2], [3, 4]], object),
        ([(1, 2)], object),
        ([], object),
    ],
    ids=repr,
)
def test_a_list_as_a_column_comes_back(values: list[Any], dtype: Any) -> None:
    column = as_column(values)
    assert column.dtype == dtype
    assert column.shape == (len(values),)
    assert column.tolist() == values
    assert [type(value) for value in column.tolist()] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1, 2], "type int have no columns; use a Record"),
        ([Order("a", 1.0), Empty()], "records of several types"),
        ([{"a": 1}, {"b": 1}], "dicts with different keys"),
        ([{"a": 1}, {"a": 1, "b": 2}], "dicts with different keys"),
    ],
    ids=repr,
)
def test_rows_without_one_shape_have_no_columns(values: list[Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        RowBatch(values).to_columns()


class ByName(sl.Record, kw_only=True):
    a: int
    b: float = 0.0


def test_records_that_take_their_fields_by_name_alone_come_back() -> None:
    values: list[Any] = [ByName(a=1), ByName(a=2, b=3.0)]
    assert RowBatch(values).to_columns().to_rows().values == values


def test_dicts_may_have_their_keys_in_any_order() -> None:
    values: list[Any] = [{"a": 1, "b": 2.0}, {"b": 3.0, "a": 4}]
    assert RowBatch(values).to_columns().to_rows().values == values


@pytest.mark.parametrize("values", [[], [{}, {}], [Empty(), Empty()]], ids=repr)
def test_records_without_fields_come_back_too(values: list[Any]) -> None:
    assert RowBatch(values).to_columns().to_rows().values == values


def test_columns_that_are_not_the_fields_of_their_record_are_named() -> None:
    batch = ColumnBatch({"user": as_column(["a"])}, no_timestamps(1), record_type=Order)
    with pytest.raises(UsageError, match="columns user are not the fields of Order"):
        batch.to_rows()


def test_rows_and_timestamps_must_be_as_many() -> None:
    with pytest.raises(InvariantError, match="2 records with 1 timestamps"):
        RowBatch([1, 2], no_timestamps(1))


def test_records_without_timestamps_are_before_all_time() -> None:
    assert RowBatch([1, 2]).timestamps.tolist() == [MIN_TIMESTAMP] * 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([{"a": 1}, {"b": 2}], r"a record has no field 'a'; it has b"),
        ([1], r"a value of type int has no field 'a' \(1\)"),
        ([None], r"a value of type NoneType has no field 'a'"),
        ([Order("a", 1.0)], r"Order has no field 'a'; it has user, amount, items"),
    ],
    ids=repr,
)
def test_the_record_that_lacks_a_field_is_described(values: list[Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        RowBatch(values).column("a")
