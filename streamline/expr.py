"""Expressions over fields: ``sl.col("amount") * 2``, on rows and on columns alike.

An expression is a description. For rows it becomes Python source that a chain compiles into
its loop; for columns it becomes numpy calls. It does not know who evaluates it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from streamline.batch import Batch, Column, ColumnBatch, RowBatch, as_column, missing_field
from streamline.errors import UsageError

_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    "&": operator.and_,
    "|": operator.or_,
}


_ARITHMETIC = frozenset(("+", "-", "*", "/", "//", "%"))
_INEXACT = frozenset(("/", ">", ">=", "<", "<=", "==", "!="))
_FLOAT_EXACT = 1 << 53
_WIDE: dict[str, npt.DTypeLike] = {"i": np.int64, "u": object, "f": np.float64}


class _ByRowsError(Exception):
    """Numpy would give another result than the rows do."""


class Expr:
    """A computation over the fields of one record; combine with the usual operators.

    ``&``, ``|`` and ``~`` stand for and, or and not.

    >>> big = (col("amount") * 2 > 10) & (col("user") != "bot")
    >>> big.row_function()({"amount": 6, "user": "ada"})
    True
    """

    def _source(self, row: str, by_item: bool | None, names: dict[str, Any]) -> str:
        """Python source that computes it from the variable ``row``; literals go to ``names``."""
        raise NotImplementedError

    def _columns(self, batch: ColumnBatch) -> Any:
        raise NotImplementedError

    def fields(self) -> frozenset[str]:
        """The fields it reads.

        >>> sorted((col("price") * col("count")).fields())
        ['count', 'price']
        """
        raise NotImplementedError

    def source(self, row: str, names: dict[str, Any], *, by_item: bool | None) -> str:
        """Python source of the value for one row.

        Args:
            row: The name of the variable that holds the row.
            names: Filled with what the source refers to besides the row.
            by_item: Rows are dicts, not records; None if that is only known of each row.

        >>> (col("price") * col("count")).source("row", {}, by_item=True)
        "(row['price'] * row['count'])"
        """
        return self._source(row, by_item, names)

    def row_function(self) -> Callable[[Any], Any]:
        """A function of one row, record or dict.

        >>> (col("amount") * 2).row_function()({"amount": 3})
        6
        """
        compiled = {flag: self._compile(by_item=flag) for flag in (False, True)}

        def evaluate(row: Any) -> Any:
            return compiled[isinstance(row, dict)](row)

        return evaluate

    def _compile(self, *, by_item: bool | None) -> Callable[[Any], Any]:
        names: dict[str, Any] = {}
        source = f"lambda row: {self._source('row', by_item, names)}"
        # What raises in it is told with the record, not as a line of ours.
        function: Callable[[Any], Any] = eval(compile(source, "<streamline expr>", "eval"), names)
        return function

    def evaluate(self, batch: Batch) -> list[Any]:
        """Its value for every record of a batch, as Python values.

        Raises:
            UsageError: If a record has no such field.

        >>> (col("n") + 1).evaluate(RowBatch([{"n": 1}, {"n": 2}]))
        [2, 3]
        """
        if isinstance(batch, ColumnBatch):
            values: list[Any] = self.evaluate_columns(batch).tolist()
            return values
        assert isinstance(batch, RowBatch)
        rows = batch.values
        if not rows:
            return []
        function = self._compile(by_item=isinstance(rows[0], dict))
        try:
            return [function(row) for row in rows]
        except (AttributeError, KeyError) as error:
            for name in sorted(self.fields()):
                if any(
                    (name not in row) if isinstance(row, dict) else not hasattr(row, name)
                    for row in rows
                ):
                    raise missing_field(rows, name) from error
            raise

    def evaluate_columns(self, batch: ColumnBatch) -> Column:
        """Its value for every record, as an array of shape ``(n,)``.

        What numpy would compute otherwise than Python is computed row by row, and so is what
        raises: the rows have the last word.

        Raises:
            UsageError: If there is no such column.

        >>> (col("n") * 2).evaluate_columns(RowBatch([{"n": 1}, {"n": 2}]).to_columns())
        array([2, 4])
        """
        try:
            with np.errstate(all="ignore"):  # floats overflow to inf, as they do in a row
                result = self._columns(batch)
        except UsageError:
            raise
        except Exception:  # noqa: BLE001 - the row that is to blame raises it again
            return as_column(self.evaluate(batch.to_rows()))
        if isinstance(result, np.ndarray):
            return result
        return as_column([result] * len(batch))

    def _binary(self, sign: str, other: Any) -> Expr:
        return _Binary(sign, self, as_expr(other))

    def _reflected(self, sign: str, other: Any) -> Expr:
        return _Binary(sign, as_expr(other), self)

    def __add__(self, other: Any) -> Expr:
        return self._binary("+", other)

    def __radd__(self, other: Any) -> Expr:
        return self._reflected("+", other)

    def __sub__(self, other: Any) -> Expr:
        return self._binary("-", other)

    def __rsub__(self, other: Any) -> Expr:
        return self._reflected("-", other)

    def __mul__(self, other: Any) -> Expr:
        return self._binary("*", other)

    def __rmul__(self, other: Any) -> Expr:
        return self._reflected("*", other)

    def __truediv__(self, other: Any) -> Expr:
        return self._binary("/", other)

    def __rtruediv__(self, other: Any) -> Expr:
        return self._reflected("/", other)

    def __floordiv__(self, other: Any) -> Expr:
        return self._binary("//", other)

    def __rfloordiv__(self, other: Any) -> Expr:
        return self._reflected("//", other)

    def __mod__(self, other: Any) -> Expr:
        return self._binary("%", other)

    def __rmod__(self, other: Any) -> Expr:
        return self._reflected("%", other)

    def __gt__(self, other: Any) -> Expr:
        return self._binary(">", other)

    def __ge__(self, other: Any) -> Expr:
        return self._binary(">=", other)

    def __lt__(self, other: Any) -> Expr:
        return self._binary("<", other)

    def __le__(self, other: Any) -> Expr:
        return self._binary("<=", other)

    def __eq__(self, other: object) -> Expr:  # type: ignore[override]
        return self._binary("==", other)

    def __ne__(self, other: object) -> Expr:  # type: ignore[override]
        return self._binary("!=", other)

    def __and__(self, other: Any) -> Expr:
        return self._binary("&", other)

    def __rand__(self, other: Any) -> Expr:
        return self._reflected("&", other)

    def __or__(self, other: Any) -> Expr:
        return self._binary("|", other)

    def __ror__(self, other: Any) -> Expr:
        return self._reflected("|", other)

    def __invert__(self) -> Expr:
        return _Not(self)

    def __neg__(self) -> Expr:
        return _Binary("-", as_expr(0), self)

    def __bool__(self) -> bool:
        raise UsageError(
            f"the expression {self} has no truth value by itself; join expressions with & | ~ "
            "instead of and, or, not"
        )

    __hash__ = object.__hash__


def _field(row: Any, name: str) -> Any:
    return row[name] if isinstance(row, dict) else getattr(row, name)


class _Column(Expr):
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"col({self.name!r})"

    def _source(self, row: str, by_item: bool | None, names: dict[str, Any]) -> str:
        if by_item is None:
            names["field"] = _field
            return f"field({row}, {self.name!r})"
        if by_item:
            return f"{row}[{self.name!r}]"
        if not self.name.isidentifier():
            raise UsageError(f"{self.name!r} is not a field name of a record")
        return f"{row}.{self.name}"

    def _columns(self, batch: ColumnBatch) -> Any:
        column = batch.array(self.name)
        # A Python number has 64 bits, however narrow the column is.
        wide = _WIDE.get(column.dtype.kind)
        return column if wide is None or column.dtype == wide else column.astype(wide)

    def fields(self) -> frozenset[str]:
        return frozenset({self.name})


class _Literal(Expr):
    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)

    def _source(self, row: str, by_item: bool | None, names: dict[str, Any]) -> str:
        name = f"literal_{len(names)}"
        names[name] = self.value
        return name

    def _columns(self, batch: ColumnBatch) -> Any:
        value = self.value
        if isinstance(value, str | bytes):
            if value[-1:] in ("\0", b"\0"):
                raise _ByRowsError  # numpy forgets zeros at the end
        elif isinstance(value, Iterable | np.generic):
            raise _ByRowsError  # numpy would deal its items out to the rows
        return value

    def fields(self) -> frozenset[str]:
        return frozenset()


class _Binary(Expr):
    def __init__(self, sign: str, left: Expr, right: Expr) -> None:
        self.sign, self.left, self.right = sign, left, right

    def __repr__(self) -> str:
        return f"({self.left} {self.sign} {self.right})"

    def _source(self, row: str, by_item: bool | None, names: dict[str, Any]) -> str:
        left = self.left._source(row, by_item, names)
        right = self.right._source(row, by_item, names)
        return f"({left} {self.sign} {right})"

    def _columns(self, batch: ColumnBatch) -> Any:
        return _combine(self.sign, self.left._columns(batch), self.right._columns(batch))

    def fields(self) -> frozenset[str]:
        return self.left.fields() | self.right.fields()


class _Not(Expr):
    def __init__(self, inner: Expr) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"~{self.inner}"

    def _source(self, row: str, by_item: bool | None, names: dict[str, Any]) -> str:
        return f"(not {self.inner._source(row, by_item, names)})"

    def _columns(self, batch: ColumnBatch) -> Any:
        return np.logical_not(self.inner._columns(batch))

    def fields(self) -> frozenset[str]:
        return self.inner.fields()


def _combine(sign: str, left: Any, right: Any) -> Any:
    """Apply an operator to columns or constants, with the result that single rows would have."""
    if sign in _INEXACT and not _exact(sign, left, right):
        raise _ByRowsError
    if sign in _ARITHMETIC:
        left, right = _number(left), _number(right)
        if sign in ("/", "//", "%") and np.any(np.equal(right, 0)):
            raise ZeroDivisionError(f"division by zero in an expression ({sign})")
        if sign in ("+", "-", "*", "//") and not _fits(sign, left, right):
            left, right = _as_objects(left), _as_objects(right)
    return _BINARY[sign](left, right)


def _number(value: Any) -> Any:
    """True and False count as 1 and 0, as in Python."""
    if isinstance(value, np.ndarray) and value.dtype == np.bool_:
        return value.astype(np.int64)
    return int(value) if isinstance(value, bool) else value


def _fits(sign: str, left: Any, right: Any) -> bool:
    """Whether whole numbers stay within 64 bits; floats always do."""
    bounds = []
    for value in (left, right):
        bound = _bound(value)
        if bound is None:
            return True
        bounds.append(bound)
    if sign == "//":
        return max(bounds) < 1 << 63  # -(1 << 63) // -1 does not
    worst = bounds[0] * bounds[1] if sign == "*" else bounds[0] + bounds[1]
    return max(worst, *bounds) < 1 << 63


def _exact(sign: str, left: Any, right: Any) -> bool:
    """Whether whole numbers that numpy turns into floats have one of their own."""
    whole = [value for value in (left, right) if _is_whole(value)]
    if not whole or (sign != "/" and len(whole) == 2):
        return True  # two are compared as they are
    return all((_bound(value) or 0) <= _FLOAT_EXACT for value in whole)


def _bound(value: Any) -> int | None:
    """The largest absolute value of whole numbers; None if it is something else."""
    if not _is_whole(value):
        return None
    if isinstance(value, np.ndarray):
        return max(abs(int(value.max())), abs(int(value.min())))
    return abs(int(value))


def _is_whole(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind == "i" and len(value) > 0
    return isinstance(value, int)


def _as_objects(value: Any) -> Any:
    return value.astype(object) if isinstance(value, np.ndarray) else value


def col(name: str) -> Expr:
    """The field ``name`` of each record, for use in expressions.

    It works on records and dicts alike, and on columns without making a row of any.

    >>> import streamline as sl
    >>> from streamline.testing import OperatorHarness
    >>> harness = OperatorHarness.of(
    ...     lambda orders: orders.filter((sl.col("amount") > 1) & ~sl.col("test")).map("amount")
    ... )
    >>> harness.push({"amount": 5, "test": False}, {"amount": 7, "test": True})
    >>> harness.values()
    [5]
    """
    return _Column(name)


def as_function(field: str | Expr | Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A field name, an expression or a function as a function of one record."""
    if isinstance(field, str):
        field = col(field)
    return field.row_function() if isinstance(field, Expr) else field


def as_expr(value: Any) -> Expr:
    """``value`` itself if it is an expression, or the constant."""
    return value if isinstance(value, Expr) else _Literal(value)
