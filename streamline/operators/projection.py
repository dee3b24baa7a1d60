"""Projection: what of a batch goes through a shuffle, when the operator behind looks at little.

Whole records are dear to send: they are encoded, decoded into new objects and freed again. An
aggregation that names fields needs these alone, and keys and event times travel anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from streamline.batch import Batch, Column, ColumnBatch, as_object_column
from streamline.expr import Expr
from streamline.operators.aggregations import AggregateInputs, AggregateProgram, Named

Project: TypeAlias = Callable[[Batch], Batch]


def projection_of(
    node: str, aggregations: Named, combine: Callable[[Batch], Batch | None] | None = None
) -> Project | None:
    """What sends only the inputs of some aggregations, or None if they may look at all.

    Args:
        node: Name of the node.
        aggregations: What looks at them.
        combine: Adds up a batch, or returns None if it is to go record by record.

    A function of the user's stays behind the shuffle: it is not to see records that are late.
    """
    program = AggregateProgram(node, aggregations)
    fields = [aggregation.field for aggregation in program.inputs]
    if not all(isinstance(field, str | Expr) for field in fields):
        return None

    def project(batch: Batch) -> Batch:
        if combine is not None and (combined := combine(batch)) is not None:
            return combined
        columns: dict[str, Column] = {}
        if isinstance(batch, ColumnBatch) and all(isinstance(field, str) for field in fields):
            for place, field in enumerate(fields):
                columns[str(place)] = batch.array(str(field))
        else:
            for place, values in enumerate(program.columns(batch)):
                columns[str(place)] = as_object_column(list(values))
        return ColumnBatch(
            columns,
            batch.timestamps,
            record_type=AggregateInputs,
            keys=batch.keys,
            groups=batch.groups,
            partition=batch.partition,
        )

    return project
