"""map, filter and flat_map: neighbours are compiled to one loop over the rows of a batch.

The loop is generated source with one step a line, so that an exception's line number names
the step that raised and its frame holds the record, at no cost while all goes well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress
from types import TracebackType
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from streamline.batch import Batch, ColumnBatch, RowBatch, missing_field
from streamline.expr import Expr, as_function, col
from streamline.io import OnError
from streamline.operators.base import Operator, OperatorSpec, Output
from streamline.operators.refused import Refused
from streamline.user_code import user_error

RowKind: TypeAlias = Literal["map", "filter", "flat_map"]
Places: TypeAlias = npt.NDArray[np.intp]
RowFunction: TypeAlias = Callable[[Any], Any] | Expr | str


@dataclass(frozen=True)
class RowSpec(OperatorSpec):
    """One step on rows: a function, an expression or a field name, and how it is applied."""

    step: RowKind
    function: RowFunction
    on_error: OnError = "fail"

    @property
    def kind(self) -> str:
        return self.step

    @property
    def dead_letters(self) -> bool:
        return self.on_error == "dead_letter"

    @property
    def fuses(self) -> bool:
        """Whether it may share a loop with its neighbours."""
        return self.on_error == "fail"

    def build(self) -> Operator:
        return RowLoop([("", self)]) if self.fuses else GuardedRows(self)


class RowLoop(Operator):
    """Some steps on rows, run as one compiled loop per batch.

    Args:
        steps: Pairs of the node's name and its spec, in order.
    """

    def __init__(self, steps: list[tuple[str, RowSpec]]) -> None:
        self._steps = steps
        self._kinds = [spec.step for _, spec in steps]
        self._compiled: dict[bool, Callable[[list[Any]], tuple[list[Any], Any]]] = {}
        self._filename = f"<streamline rows {id(self):x}>"
        self._line_of_step: dict[int, int] = {}
        self._row_of_step: dict[int, str] = {}
        self._filters = [spec.function for _, spec in steps]
        self._on_columns = all(
            spec.step == "filter" and not callable(spec.function) for _, spec in steps
        )

    def process(self, batch: Batch, out: Output) -> None:
        if self._on_columns and isinstance(batch, ColumnBatch):
            kept = self._filter_columns(batch)
            if kept is not None:
                if len(kept):
                    out.emit(kept)
                return
        rows = batch.to_rows()
        values = rows.values
        by_item = isinstance(values[0], dict)
        run = self._compiled.get(by_item)
        if run is None:
            run = self._compiled[by_item] = self._compile(by_item)
        try:
            results, kept = run(values)
        except Exception as error:
            raise self._explain(error, values) from error
        if not results:
            return
        timestamps, origins = rows.timestamps, rows.origins
        if kept is not None:
            places = np.array(kept)
            if places.dtype == np.bool_:
                places = np.flatnonzero(places)
            timestamps = timestamps[places]
            if origins is not None:
                origins = origins.take(places)
        out.emit(RowBatch(results, timestamps, partition=rows.partition, origins=origins))

    def _filter_columns(self, batch: ColumnBatch) -> ColumnBatch | None:
        """What is left of it; None if something raises, which the rows are to tell."""
        for function in self._filters:
            expression = col(function) if isinstance(function, str) else function
            assert isinstance(expression, Expr)
            try:
                mask = expression.evaluate_columns(batch).astype(np.bool_)
            except Exception:  # noqa: BLE001 - the record that is to blame raises it again
                return None
            if not mask.all():
                batch = batch.where(mask)
            if not len(batch):
                break
        return batch

    def _compile(self, by_item: bool) -> Callable[[list[Any]], tuple[list[Any], Any]]:
        names: dict[str, Any] = {"compress": compress}
        calls: list[str] = []
        shape: bool | None = by_item
        row = "v"
        for number, (_, spec) in enumerate(self._steps):
            function = spec.function
            self._row_of_step[number] = row
            if isinstance(function, str):
                function = col(function)
            if isinstance(function, Expr):
                calls.append(function.source(row, names, by_item=shape))
            else:
                names[f"f{number}"] = function
                calls.append(f"f{number}({row})")
            if spec.step != "filter":
                shape = None  # a record may have become a dict, or the other way round
            if spec.step == "flat_map":
                row = f"v{number}"  # the record it came from is named if it raises half way
        if all(kind == "filter" for kind in self._kinds):
            lines = self._mask_lines(calls)
        elif self._kinds == ["map"]:
            lines = ["def run(rows):", f"    return [{calls[0]} for v in rows], None"]
            self._line_of_step = {2: 0}
        else:
            lines = self._loop_lines(calls)
        exec(compile("\n".join(lines), self._filename, "exec"), names)
        run: Callable[[list[Any]], tuple[list[Any], Any]] = names["run"]
        return run

    def _mask_lines(self, calls: list[str]) -> list[str]:
        lines = ["def run(rows):", "    mask = ["]
        self._line_of_step = {}
        for number, call in enumerate(calls):
            lines.append(f"        {'and ' if number else ''}{call}")
            self._line_of_step[len(lines)] = number
        return [
            *lines,
            "        for v in rows]",
            "    if all(mask):",
            "        return rows, None",
            "    return list(compress(rows, mask)), list(map(bool, mask))",
        ]

    def _loop_lines(self, calls: list[str]) -> list[str]:
        indexed = any(kind != "map" for kind in self._kinds)
        lines = ["def run(rows):", "    out = []", "    add = out.append"]
        if indexed:
            lines += ["    kept = []", "    keep = kept.append", "    for i, v in enumerate(rows):"]
        else:
            lines += ["    for v in rows:"]
        indent, row = " " * 8, "v"
        self._line_of_step = {}
        for number, (kind, call) in enumerate(zip(self._kinds, calls, strict=True)):
            if kind == "map":
                lines.append(f"{indent}{row} = {call}")
            elif kind == "filter":
                lines.append(f"{indent}if not {call}: continue")
            else:
                row = f"v{number}"
                lines.append(f"{indent}for {row} in {call}:")
                indent += " " * 4
            self._line_of_step[len(lines)] = number
        lines.append(f"{indent}add({row})")
        if indexed:
            lines.append(f"{indent}keep(i)")
        lines.append(f"    return out, {'kept' if indexed else 'None'}")
        return lines

    def _explain(self, error: Exception, values: list[Any]) -> Exception:
        """Name the step that raised and the record it was given."""
        step, record = 0, None
        trace: TracebackType | None = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self._filename:
                step = self._line_of_step.get(trace.tb_lineno, step)
                record = trace.tb_frame.f_locals.get(self._row_of_step[step], record)
            trace = trace.tb_next
        name, spec = self._steps[step]
        if not callable(spec.function) and isinstance(error, AttributeError | KeyError):
            fields = {spec.function} if isinstance(spec.function, str) else spec.function.fields()
            for field in sorted(fields):
                has = field in record if isinstance(record, dict) else hasattr(record, field)
                if not has:
                    error = missing_field([record], field)
        return user_error(name or self.context.node, error, record)


class GuardedRows(Operator):
    """One step on rows that goes on without the records on which its function raises.

    A record gives all its results or none.
    """

    def __init__(self, spec: RowSpec) -> None:
        self._spec = spec
        self._run = {"map": self._map, "filter": self._filter, "flat_map": self._flat_map}
        self._call = as_function(spec.function)

    def process(self, batch: Batch, out: Output) -> None:
        rows = batch.to_rows()
        refused = Refused(self.context, self._spec.on_error, rows)
        values, places = self._run[self._spec.step](rows.values, refused)
        refused.emit(out)
        if not values:
            return
        timestamps, origins = rows.timestamps, rows.origins
        if len(places) != len(rows) or self._spec.step == "flat_map":
            timestamps = timestamps[places]
            origins = None if origins is None else origins.take(places)
        out.emit(RowBatch(values, timestamps, partition=rows.partition, origins=origins))

    def _map(self, rows: list[Any], refused: Refused) -> tuple[list[Any], Places]:
        call = self._call
        results: list[Any] = []
        add = results.append
        for row, value in enumerate(rows):
            try:
                add(call(value))
            except Exception as error:  # noqa: BLE001 - the user's
                refused.add(row, value, error)
        return results, refused.others

    def _filter(self, rows: list[Any], refused: Refused) -> tuple[list[Any], Places]:
        call = self._call
        kept: list[int] = []
        keep = kept.append
        for row, value in enumerate(rows):
            try:
                if call(value):
                    keep(row)
            except Exception as error:  # noqa: BLE001 - the user's
                refused.add(row, value, error)
        return [rows[row] for row in kept], np.array(kept, dtype=np.intp)

    def _flat_map(self, rows: list[Any], refused: Refused) -> tuple[list[Any], Places]:
        call = self._call
        results: list[Any] = []
        counts: list[int] = []
        for row, value in enumerate(rows):
            count = 0
            try:
                found = list(call(value))
                results += found
                count = len(found)
            except Exception as error:  # noqa: BLE001 - the user's
                refused.add(row, value, error)
            counts.append(count)
        return results, np.repeat(np.arange(len(rows)), counts)
