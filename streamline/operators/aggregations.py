"""Aggregations, built in and the user's own, and the loops that are generated for a set of them.

A set of aggregations shares one entry of a table: each has one or two slots in it. The loops
over a batch are generated source, with the built-in aggregations written out in line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from copy import deepcopy
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from streamline.batch import Batch, ColumnBatch
from streamline.errors import StreamlineError, UsageError
from streamline.expr import Expr, as_function
from streamline.record import Record
from streamline.state.backend import Entry, Table
from streamline.state.schema import Layout
from streamline.user_code import blame, user_error

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")
_PLAIN = frozenset({int, float, str, bytes, bool, type(None)})
Field: TypeAlias = str | Expr | Callable[[Any], Any] | None


class Aggregation(ABC, Generic[T, A, R]):
    """Turns many values into one result, one value at a time; also in parts that are merged.

    A subclass of the user's defines ``create``, ``add``, ``merge`` and ``result``. The
    accumulator may be changed in place by ``add``, and by ``merge`` its first argument only; it
    must be a value that can be stored: numbers, text, lists, dicts, records ...

    Args:
        field: What of a record is aggregated: a field name, an expression, a function, or the
            record itself if None.

    >>> import streamline as sl
    >>> from streamline.testing import OperatorHarness
    >>> class Longest(sl.Aggregation[str, str, str]):
    ...     def create(self): return ""
    ...     def add(self, acc, value): return max(acc, value, key=len)
    ...     def merge(self, acc, other): return max(acc, other, key=len)
    ...     def result(self, acc): return acc
    >>> harness = OperatorHarness.of(
    ...     lambda people: people.key_by("team").aggregate(longest=Longest("name"))
    ... )
    >>> harness.push({"team": 1, "name": "Ada"}, {"team": 1, "name": "Grace"})
    >>> [result.longest for result in harness.values()]
    ['Ada', 'Grace']
    """

    slots = 1

    def __init__(self, field: Field = None) -> None:
        self.field = field

    @abstractmethod
    def create(self) -> A:
        """An accumulator of no values."""

    @abstractmethod
    def add(self, acc: A, value: T) -> A:
        """The accumulator with one more value."""

    @abstractmethod
    def merge(self, acc: A, other: A) -> A:
        """One accumulator of the values of both; ``other`` must not be changed."""

    @abstractmethod
    def result(self, acc: A) -> R:
        """What is handed on."""

    def values(self, batch: Batch) -> list[Any] | None:
        """What of each record of a batch is aggregated; None if it does not matter.

        >>> import streamline as sl
        >>> sl.Sum("amount").values(sl.RowBatch([{"amount": 3}, {"amount": 4}]))
        [3, 4]
        """
        field = self.field
        if field is None:
            return batch.to_rows().values
        if isinstance(field, str):
            return batch.column(field)
        if isinstance(field, Expr):
            return field.evaluate(batch)
        return [field(value) for value in batch.to_rows().values]

    def _initial(self, slot: int, names: dict[str, Any]) -> list[str]:
        names[f"create{slot}"] = self.create
        return [f"create{slot}()"]

    def _add(self, slot: int, value: str, names: dict[str, Any]) -> list[str]:
        names[f"add{slot}"] = self.add
        return [f"e[{slot}] = add{slot}(e[{slot}], {value})"]

    def _merge(self, slot: int, names: dict[str, Any]) -> list[str]:
        names[f"merge{slot}"] = self._merge_apart
        return [f"a[{slot}] = merge{slot}(a[{slot}], e{slot})"]

    def _result(self, slot: int, names: dict[str, Any]) -> str:
        names[f"result{slot}"] = self._result_apart
        return f"result{slot}(e[{slot}])"

    def _result_apart(self, acc: A) -> R:
        """The result; what was handed on must not change with the next record."""
        result = self.result(acc)
        apart = id(result) != id(acc) or type(acc) in _PLAIN
        return result if apart else deepcopy(result)

    def _merge_apart(self, acc: A, other: A) -> A:
        """Merge; the result may be changed by the next merge, so it must not be ``other``."""
        merged = self.merge(acc, other)
        return deepcopy(merged) if merged is other else merged

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'' if self.field is None else repr(self.field)})"


class Count(Aggregation[Any, int, int]):
    """How many records.

    >>> import streamline as sl
    >>> from streamline.testing import OperatorHarness
    >>> harness = OperatorHarness.of(lambda words: words.key_by(len).aggregate(n=sl.Count()))
    >>> harness.push("so", "far", "no")
    >>> [(result.key, result.n) for result in harness.values()]
    [(2, 1), (3, 1), (2, 2)]
    """

    def __init__(self) -> None:
        super().__init__()

    def create(self) -> int:
        return 0

    def add(self, acc: int, value: Any) -> int:
        return acc + 1

    def merge(self, acc: int, other: int) -> int:
        return acc + other

    def result(self, acc: int) -> int:
        return acc

    def values(self, batch: Batch) -> list[Any] | None:
        return None

    def _initial(self, slot: int, names: dict[str, Any]) -> list[str]:
        return ["0"]

    def _add(self, slot: int, value: str, names: dict[str, Any]) -> list[str]:
        return [f"e[{slot}] += 1"]

    def _merge(self, slot: int, names: dict[str, Any]) -> list[str]:
        return [f"a[{slot}] += e{slot}"]

    def _result(self, slot: int, names: dict[str, Any]) -> str:
        return f"e[{slot}]"


class Sum(Aggregation[Any, Any, Any]):
    """The sum of a field, starting from 0.

    Sums of floats depend in their last digits on the order of the records; add up whole numbers
    (cents) where that matters.

    >>> import streamline as sl
    >>> from streamline.testing import OperatorHarness
    >>> harness = OperatorHarness.of(
    ...     lambda items: items.key_by("user").aggregate(
    ...         cents=sl.Sum(sl.col("price") * sl.col("n"))
    ...     )
    ... )
    >>> harness.push({"user": "ada", "price": 250, "n": 2}, {"user": "ada", "price": 99, "n": 1})
    >>> [result.cents for result in harness.values()]
    [500, 599]
    """

    def __init__(self, field: Field) -> None:
        super().__init__(field)

    def create(self) -> Any:
        return 0

    def add(self, acc: Any, value: Any) -> Any:
        return acc + value

    def merge(self, acc: Any, other: Any) -> Any:
        return acc + other

    def result(self, acc: Any) -> Any:
        return acc

    def _initial(self, slot: int, names: dict[str, Any]) -> list[str]:
        return ["0"]

    def _add(self, slot: int, value: str, names: dict[str, Any]) -> list[str]:
        return [f"e[{slot}] += {value}"]

    def _merge(self, slot: int, names: dict[str, Any]) -> list[str]:
        return [f"a[{slot}] += e{slot}"]

    def _result(self, slot: int, names: dict[str, Any]) -> str:
        return f"e[{slot}]"


class _Extreme(Aggregation[Any, Any, Any]):
    _sign = "<"

    def __init__(self, field: Field) -> None:
        super().__init__(field)

    def create(self) -> Any:
        return None

    def result(self, acc: Any) -> Any:
        return acc

    def merge(self, acc: Any, other: Any) -> Any:
        return acc if other is None else self.add(acc, other)

    def _initial(self, slot: int, names: dict[str, Any]) -> list[str]:
        return ["None"]

    def _add(self, slot: int, value: str, names: dict[str, Any]) -> list[str]:
        return [
            f"m = e[{slot}]",
            f"if m is None or {value} {self._sign} m: e[{slot}] = {value}",
        ]

    def _merge(self, slot: int, names: dict[str, Any]) -> list[str]:
        return [
            f"m = a[{slot}]",
            f"n = e{slot}",
            f"if m is None or (n is not None and n {self._sign} m): a[{slot}] = n",
        ]

    def _result(self, slot: int, names: dict[str, Any]) -> str:
        return f"e[{slot}]"


class Min(_Extreme):
    """The smallest value of a field.

    >>> import streamline as sl
    >>> from streamline.testing import OperatorHarness
    >>> harness = OperatorHarness.of(
    ...     lambda offers: offers.key_by("item").aggregate(least=sl.Min("price"))
    ... )
    >>> harness.push({"item": "tea", "price": 4}, {"item": "tea", "price": 3})
    >>> [result.least for result in harness.values()]
    [4, 3]
    """

    def add(self, acc: Any, value: Any) -> Any:
        return value if acc is None or value < acc else acc


class Max(_Extreme):
    """The largest value of a field.

    >>> import streamline as sl
    >>> from streamline.testing import OperatorHarness
    >>> harness = OperatorHarness.of(
    ...     lambda bids: bids.key_by("item").aggregate(most=sl.Max("price"))
    ... )
    >>> harness.push({"item": "vase", "price": 3}, {"item": "vase", "price": 9})
    >>> [result.most for result in harness.values()]
    [3, 9]
    """

    _sign = ">"

    def add(self, acc: Any, value: Any) -> Any:
        return value if acc is None or value > acc else acc


class Mean(Aggregation[Any, Any, float | None]):
    """The arithmetic mean of a field; None where a window has no values of it yet.

    That is so for windows that were stored before the aggregation was added to the job.

    >>> import streamline as sl
    >>> from streamline.testing import OperatorHarness
    >>> harness = OperatorHarness.of(
    ...     lambda readings: readings.key_by("room").aggregate(mean=sl.Mean("celsius"))
    ... )
    >>> harness.push({"room": "attic", "celsius": 20}, {"room": "attic", "celsius": 23})
    >>> [result.mean for result in harness.values()]
    [20.0, 21.5]
    """

    slots = 2

    def __init__(self, field: Field) -> None:
        super().__init__(field)

    def create(self) -> Any:
        return (0, 0)

    def add(self, acc: Any, value: Any) -> Any:
        return (acc[0] + value, acc[1] + 1)

    def merge(self, acc: Any, other: Any) -> Any:
        return (acc[0] + other[0], acc[1] + other[1])

    def result(self, acc: Any) -> float | None:
        return acc[0] / acc[1] if acc[1] else None

    def _initial(self, slot: int, names: dict[str, Any]) -> list[str]:
        return ["0", "0"]

    def _add(self, slot: int, value: str, names: dict[str, Any]) -> list[str]:
        return [f"e[{slot}] += {value}", f"e[{slot + 1}] += 1"]

    def _merge(self, slot: int, names: dict[str, Any]) -> list[str]:
        return [f"a[{slot}] += e{slot}", f"a[{slot + 1}] += e{slot + 1}"]

    def _result(self, slot: int, names: dict[str, Any]) -> str:
        return f"e[{slot}] / e[{slot + 1}] if e[{slot + 1}] else None"


class Collect(Aggregation[Any, list[Any], list[Any]]):
    """All values of a field, or all records, as a list, in the order in which they came.

    All of them are kept: of a window until it closes, without a window for ever.

    >>> import streamline as sl
    >>> from streamline.testing import OperatorHarness
    >>> harness = OperatorHarness.of(
    ...     lambda clicks: clicks.key_by("user").aggregate(pages=sl.Collect("page"))
    ... )
    >>> harness.push({"user": "ada", "page": "/"}, {"user": "ada", "page": "/cart"})
    >>> harness.values()[-1].pages
    ['/', '/cart']
    """

    def create(self) -> list[Any]:
        return []

    def add(self, acc: list[Any], value: Any) -> list[Any]:
        acc.append(value)
        return acc

    def merge(self, acc: list[Any], other: list[Any]) -> list[Any]:
        return acc + other

    def result(self, acc: list[Any]) -> list[Any]:
        return list(acc)

    def _initial(self, slot: int, names: dict[str, Any]) -> list[str]:
        return ["[]"]

    def _add(self, slot: int, value: str, names: dict[str, Any]) -> list[str]:
        return [f"e[{slot}].append({value})"]


class Reduction(Aggregation[Any, Any, Any]):
    """A user's ``reduce`` function as an aggregation; it must not change its arguments."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self._function = function

    def create(self) -> Any:
        return None

    def add(self, acc: Any, value: Any) -> Any:
        return value if acc is None else self._function(acc, value)

    def merge(self, acc: Any, other: Any) -> Any:
        return other if acc is None else self._function(acc, other)

    def result(self, acc: Any) -> Any:
        return acc

    def _result(self, slot: int, names: dict[str, Any]) -> str:
        return f"e[{slot}]"


Named: TypeAlias = tuple[tuple[str, Aggregation[Any, Any, Any]], ...]


def slots_layout(aggregations: Named) -> Layout:
    """How an entry of some aggregations is laid out."""
    slots = [[name, type(one).__name__, one.slots] for name, one in aggregations]
    return {"kind": "aggregate", "slots": slots}


class AggregateInputs(Record):
    """Marks a batch of columns that hold what aggregations look at, named by their place."""


class AggregatePartials(Record):
    """Marks a batch of columns that hold slots of entries, named by their place.

    Each row stands for the records of one key and slice; how many is in the column ``RECORDS``.
    """

    RECORDS: ClassVar[str] = "records"


class AggregateProgram:
    """The generated loops for a set of aggregations.

    Attributes:
        new: Makes an entry of no values.
        node: Name of the node.
    """

    new: Callable[[], Entry]

    def __init__(self, node: str, aggregations: Named) -> None:
        self.node = node
        self._aggregations = aggregations
        self._names: dict[str, Any] = {}
        self._slots: list[int] = []
        slot = 1
        for _, aggregation in aggregations:
            self._slots.append(slot)
            slot += aggregation.slots
        self._width = slot - 1
        self._needed = [index for index, (_, a) in enumerate(aggregations) if not _counts(a)]
        self._generate()

    @property
    def inputs(self) -> list[Aggregation[Any, Any, Any]]:
        """The aggregations that look at records at all."""
        return [self._aggregations[index][1] for index in self._needed]

    def columns(self, batch: Batch) -> list[Sequence[Any]]:
        """What of each record is aggregated, one list for each aggregation that looks at it.

        Raises:
            UsageError: If a field is missing.
            UserFunctionError: If a function of the user's raises.
        """
        if isinstance(batch, ColumnBatch) and batch.record_type is AggregateInputs:
            return [batch.column(str(place)) for place in range(len(self._needed))]
        columns: list[Sequence[Any]] = []
        for index in self._needed:
            columns.append(self.column(self._aggregations[index][1], batch))
        return columns

    def column(self, aggregation: Aggregation[Any, Any, Any], batch: Batch) -> list[Any]:
        """What of each record one of the aggregations looks at.

        Raises:
            UsageError: If a field is missing.
            UserFunctionError: If a function of the user's raises.
        """
        try:
            values = aggregation.values(batch)
        except StreamlineError as error:
            name = next(name for name, one in self._aggregations if one is aggregation)
            raise UsageError(f"{self.node}: aggregation {name!r}: {error}") from error
        except Exception as error:
            raise self._explain_field(aggregation, error, batch) from error
        assert values is not None
        return values

    def slots(self, batch: ColumnBatch) -> list[Sequence[Any]]:
        """The slots in a batch of partial results, in order."""
        return [batch.column(str(place)) for place in range(self._width)]

    def add_partials(
        self, table: Table, namespace: int, keys: Sequence[Hashable], slots: list[Sequence[Any]]
    ) -> None:
        """Merge partial results into the entries of one namespace."""
        space = table.space(namespace)
        self._add_partials(space, table.touch, table.stamp, namespace, keys, *slots)

    def add(
        self, table: Table, namespace: int, keys: Sequence[Hashable], columns: list[Sequence[Any]]
    ) -> None:
        """Add records to the entries of one namespace.

        Raises:
            UserFunctionError: If an aggregation cannot take a value.
        """
        try:
            self._add(table.space(namespace), table.touch, table.stamp, namespace, keys, *columns)
        except StreamlineError:
            raise
        except Exception as error:
            raise self._explain(error) from error

    def add_and_show(
        self,
        kind: type[Record] | None,
        table: Table,
        keys: Sequence[Hashable],
        columns: list[Sequence[Any]],
    ) -> list[Any]:
        """Add records to the entries of namespace 0; what each comes to with every record.

        Args:
            kind: Type of the results; None for the first aggregation's value alone.

        Raises:
            UserFunctionError: If an aggregation cannot take a value.
        """
        run = self._show_first if kind is None else self._show
        results: list[Any]
        try:
            results = run(kind, table.space(0), table.touch, table.stamp, keys, *columns)
        except StreamlineError:
            raise
        except Exception as error:
            raise self._explain(error) from error
        return results

    def add_one(self, entry: Entry, values: tuple[Any, ...]) -> None:
        """Add one record to one entry.

        Raises:
            UserFunctionError: If an aggregation cannot take a value.
        """
        try:
            self._add_one(entry, *values)
        except Exception as error:
            raise user_error(self.node, error, values) from error

    def merge(self, into: Entry, items: Iterable[Entry]) -> None:
        """Add entries into one.

        Raises:
            UserFunctionError: If an aggregation cannot merge.
        """
        merge = self._merge
        try:
            for entry in items:
                merge(into, entry)
        except Exception as error:
            raise user_error(self.node, error, into[1:]) from error

    def merge_all(
        self, merged: dict[Hashable, Entry], items: Iterable[tuple[Hashable, Entry]]
    ) -> None:
        """Add the entries of one slice into those of a window.

        Raises:
            UserFunctionError: If an aggregation cannot merge.
        """
        merge, new, get = self._merge, self.new, merged.get
        key: Hashable = None
        try:
            for key, entry in items:
                known = get(key)
                if known is None:
                    merged[key] = known = new()
                merge(known, entry)
        except StreamlineError:
            raise
        except Exception as error:
            raise user_error(self.node, error, {"key": key}) from error

    def results(
        self, kind: type[Record], items: Iterable[tuple[Hashable, Entry]], *bounds: int
    ) -> list[Any]:
        """Result records: key, bounds, then the aggregations."""
        try:
            results: list[Any] = self._results[len(bounds)](kind, items, *bounds)
        except Exception as error:
            raise self._explain(error) from error
        return results

    def _generate(self) -> None:
        names = self._names
        initial: list[str] = []
        adds: list[str] = []
        merges: list[str] = []
        results: list[str] = []
        for index, (_, aggregation) in enumerate(self._aggregations):
            slot = self._slots[index]
            initial += aggregation._initial(slot, names)
            adds += aggregation._add(slot, f"x{index}", names)
            merges += aggregation._merge(slot, names)
            results.append(aggregation._result(slot, names))
        xs = [f"x{index}" for index in self._needed]
        vs = [f"v{index}" for index in self._needed]
        es = [f"e{slot}" for slot in range(1, self._width + 1)]
        ps = [f"p{slot}" for slot in range(1, self._width + 1)]
        loop = f"for k, {', '.join(xs)} in zip(keys, {', '.join(vs)}):" if xs else "for k in keys:"
        source = [
            f"def new(): return [0, {', '.join(initial)}]",
            f"def add(space, touch, stamp, namespace, {', '.join(['keys', *vs])}):",
            "    get = space.get",
            f"    {loop}",
            "        e = get(k)",
            "        if e is None or e[0] != stamp:",
            "            e = touch(namespace, k, new)",
            *[f"        {line}" for line in adds],
            *_shows("show", f"kind(k, {', '.join(results)})", vs, loop, adds),
            *_shows("show_first", results[0], vs, loop, adds),
            f"def add_one({', '.join(['e', *xs])}):",
            *[f"    {line}" for line in adds],
            f"def add_partials(space, touch, stamp, namespace, keys, {', '.join(ps)}):",
            "    get = space.get",
            f"    for k, {', '.join(es)} in zip(keys, {', '.join(ps)}):",
            "        a = get(k)",
            "        if a is None or a[0] != stamp:",
            "            a = touch(namespace, k, new)",
            *[f"        {line}" for line in merges],
            "def merge(a, e):",
            f"    _, {', '.join(es)} = e",
            *[f"    {line}" for line in merges],
            "def results0(kind, items):",
            f"    return [kind(k, {', '.join(results)}) for k, e in items]",
            "def results2(kind, items, start, end):",
            f"    return [kind(k, start, end, {', '.join(results)}) for k, e in items]",
        ]
        exec(compile("\n".join(source), "<streamline aggregations>", "exec"), names)
        self.new = names["new"]
        self._merge = names["merge"]
        self._add = names["add"]
        self._add_partials = names["add_partials"]
        self._add_one = names["add_one"]
        self._show, self._show_first = names["show"], names["show_first"]
        self._results = {0: names["results0"], 2: names["results2"]}

    def _explain(self, error: Exception) -> Exception:
        """Find the record in the generated frame."""
        record: Any = None
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == "<streamline aggregations>":
                seen = trace.tb_frame.f_locals
                values = {
                    self._aggregations[index][0]: seen[f"x{index}"]
                    for index in self._needed
                    if f"x{index}" in seen
                }
                record = {"key": seen.get("k"), **values}
            trace = trace.tb_next
        return user_error(self.node, error, record)

    def _explain_field(
        self, aggregation: Aggregation[Any, Any, Any], error: Exception, batch: Batch
    ) -> Exception:
        field = aggregation.field
        assert field is not None, "a record itself cannot raise"
        return blame(self.node, error, batch, function=as_function(field))


def _shows(name: str, result: str, columns: list[str], loop: str, adds: list[str]) -> list[str]:
    """Source of a loop that adds records and hands on what each comes to."""
    return [
        f"def {name}(kind, space, touch, stamp, {', '.join(['keys', *columns])}):",
        "    get = space.get",
        "    out = []",
        "    show = out.append",
        f"    {loop}",
        "        e = get(k)",
        "        if e is None or e[0] != stamp:",
        "            e = touch(0, k, new)",
        *[f"        {line}" for line in adds],
        f"        show({result})",
        "    return out",
    ]


def _counts(aggregation: Aggregation[Any, Any, Any]) -> bool:
    return isinstance(aggregation, Count)
