"""map_batch: a user's function on whole batches, for models and numpy code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streamline.batch import Batch, ColumnBatch, RowBatch
from streamline.io import Layout
from streamline.operators.base import Operator, OperatorSpec, Output
from streamline.operators.user_code import user_error


@dataclass(frozen=True)
class MapBatchSpec(OperatorSpec):
    """A function of a list of values (rows) or of a dict of arrays (columns)."""

    function: Callable[[Any], Any]
    layout: Layout = "rows"

    @property
    def kind(self) -> str:
        return "map_batch"

    def build(self) -> Operator:
        return MapBatch(self)


class MapBatch(Operator):
    """Replaces the records of each batch by as many others, at the same event times."""

    def __init__(self, spec: MapBatchSpec) -> None:
        self._function = spec.function
        self._columns = spec.layout == "columns"

    def process(self, batch: Batch, out: Output) -> None:
        given: Any = batch.to_columns().columns if self._columns else batch.to_rows().values
        try:
            result = self._function(given)
            if self._columns:
                lengths = {len(column) for column in result.values()}
            else:
                result = list(result)
                lengths = {len(result)}
            if lengths != {len(batch)}:
                raise ValueError(
                    f"map_batch must return one value per record: it got {len(batch)} and "
                    f"returned {', '.join(map(str, sorted(lengths)))}; use flat_map to change that"
                )
        except Exception as error:
            raise user_error(self.context.node, error, given) from error
        if self._columns:
            out.emit(
                ColumnBatch(result, batch.timestamps, record_type=dict, partition=batch.partition)
            )
        else:
            out.emit(RowBatch(result, batch.timestamps, partition=batch.partition))
