"""reduce and aggregate on a keyed stream without windows: a running result for each record.

One entry of state for each key, in one loop that ``aggregations`` generates. It has no notion of
time, and gives a result for every record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from streamline.batch import Batch, RowBatch
from streamline.operators.aggregations import (
    AggregateProgram,
    Named,
    Reduction,
    slots_layout,
)
from streamline.operators.base import Operator, OperatorContext, OperatorSpec, Output
from streamline.operators.projection import Project, projection_of
from streamline.record import KeyedResult, result_type
from streamline.state.schema import Convert, Layout, converter


@dataclass(frozen=True)
class KeyedAggregateSpec(OperatorSpec):
    """For each record, the aggregations over its key's records so far."""

    keyed: ClassVar[bool] = True
    aggregations: Named

    @property
    def kind(self) -> str:
        return "aggregate"

    def build(self) -> Operator:
        return KeyedAggregate(self.aggregations)

    def layouts(self) -> dict[str, Layout]:
        return {"aggregate": slots_layout(self.aggregations)}

    def converter(self, state: str, was: Layout) -> Convert | None:
        program = AggregateProgram("", self.aggregations)
        return converter(was, self.layouts()[state], program.new)

    def projection(self, node: str) -> Project | None:
        return projection_of(node, self.aggregations)


@dataclass(frozen=True)
class ReduceSpec(OperatorSpec):
    """For each record, its key's records so far reduced to one."""

    keyed: ClassVar[bool] = True
    function: Callable[[Any, Any], Any]

    @property
    def kind(self) -> str:
        return "reduce"

    def build(self) -> Operator:
        return KeyedAggregate((("reduce", Reduction(self.function)),), reduce=True)

    def layouts(self) -> dict[str, Layout]:
        return {"aggregate": slots_layout((("reduce", Reduction(self.function)),))}


class KeyedAggregate(Operator):
    """Keeps one entry for each key and emits what it comes to after each record."""

    keyed = True

    def __init__(self, aggregations: Named, *, reduce: bool = False) -> None:
        self._aggregations = aggregations
        self._reduce = reduce
        self._kind = result_type(KeyedResult, tuple(name for name, _ in aggregations))

    def open(self, context: OperatorContext) -> None:
        super().open(context)
        assert context.state is not None
        self._table = context.state.table(context.node, "aggregate")
        self._program = AggregateProgram(context.node, self._aggregations)

    def process(self, batch: Batch, out: Output) -> None:
        assert batch.keys is not None
        columns = self._program.columns(batch)
        self._table.prefetch(0, batch.keys)
        kind = None if self._reduce else self._kind
        results = self._program.add_and_show(kind, self._table, batch.keys, columns)
        out.emit(RowBatch(results, batch.timestamps))
