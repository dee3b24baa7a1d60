"""map_batch: a user's function on whole batches, for models and numpy code.

It sees to it that there are as many results as records, and looks for the record to blame when the
function raises. How long a batch is, is not its business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streamline.batch import Batch, Column, ColumnBatch, RowBatch
from streamline.io import Layout, OnError
from streamline.operators.base import Operator, OperatorSpec, Output
from streamline.operators.refused import attempt
from streamline.user_code import user_error


@dataclass(frozen=True)
class MapBatchSpec(OperatorSpec):
    """A function of a list of values (rows) or of a dict of arrays (columns)."""

    function: Callable[[Any], Any]
    layout: Layout = "rows"
    on_error: OnError = "fail"

    @property
    def kind(self) -> str:
        return "map_batch"

    @property
    def dead_letters(self) -> bool:
        return self.on_error == "dead_letter"

    def build(self) -> Operator:
        return MapBatch(self)


def _locked(column: Column) -> Column:
    """The same memory, which cannot be written to through this array."""
    view = column.view()
    view.flags.writeable = False
    return view


class MapBatch(Operator):
    """Replaces the records of each batch by as many others, at the same event times."""

    def __init__(self, spec: MapBatchSpec) -> None:
        self._function = spec.function
        self._columns = spec.layout == "columns"
        self._on_error: OnError = spec.on_error

    def process(self, batch: Batch, out: Output) -> None:
        done = attempt(
            batch,
            self._result,
            context=self.context,
            on_error=self._on_error,
            explain=self._explain,
            out=out,
        )
        if done is None:
            return
        batch, result = done
        rest: Any = {"partition": batch.partition, "origins": batch.origins}
        if self._columns:
            out.emit(ColumnBatch(result, batch.timestamps, record_type=dict, **rest))
        else:
            out.emit(RowBatch(result, batch.timestamps, **rest))

    def _given(self, batch: Batch) -> Any:
        # In whichever process they are: others may be given the same list or arrays.
        if not self._columns:
            return list(batch.to_rows().values)
        return {name: _locked(column) for name, column in batch.to_columns().columns.items()}

    def _explain(self, error: Exception, batch: Batch) -> Exception:
        return user_error(self.context.node, error, self._given(batch))

    def _result(self, batch: Batch) -> Any:
        result = self._function(self._given(batch))
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
        return result
