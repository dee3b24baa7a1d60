"""From ``.window(...).aggregate/reduce/apply`` to the spec of the operator that does it.

It chooses the operator and how results are made of entries. Neither the cutting of time nor state
is touched here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from streamline.operators.aggregations import AggregateProgram, Collect, Named, Reduction
from streamline.operators.base import OperatorSpec
from streamline.operators.windows.aligned import AlignedSpec, Finish
from streamline.operators.windows.assigners import Session, Sliding, Tumbling, WindowBounds
from streamline.operators.windows.session import SessionSpec
from streamline.record import WindowResult, result_type
from streamline.state.backend import Entry
from streamline.user_code import user_error

Items = Iterable[tuple[Hashable, Entry]]


def window_aggregate(
    window: Tumbling | Sliding | Session, lateness_ms: int, aggregations: Named
) -> OperatorSpec:
    """One record per key and window: key, bounds, then the aggregations."""
    kind = result_type(WindowResult, tuple(name for name, _ in aggregations))

    def finish(program: AggregateProgram, items: Items, window: WindowBounds) -> list[Any]:
        return program.results(kind, items, *window)

    return _spec(window, lateness_ms, aggregations, finish)


def window_reduce(
    window: Tumbling | Sliding | Session, lateness_ms: int, function: Callable[[Any, Any], Any]
) -> OperatorSpec:
    """One value per key and window: its records reduced to one."""

    def finish(_: AggregateProgram, items: Items, __: WindowBounds) -> list[Any]:
        return [entry[1] for _, entry in items]

    return _spec(window, lateness_ms, (("reduce", Reduction(function)),), finish)


def window_apply(
    window: Tumbling | Sliding | Session,
    lateness_ms: int,
    function: Callable[[Any, WindowBounds, list[Any]], Iterable[Any]],
) -> OperatorSpec:
    """What the function yields for each key and window, given all its records."""
    return _spec(window, lateness_ms, (("apply", Collect()),), _Apply(function))


@dataclass(frozen=True)
class _Apply:
    function: Callable[[Any, WindowBounds, list[Any]], Iterable[Any]]

    def __call__(self, program: AggregateProgram, items: Items, window: WindowBounds) -> list[Any]:
        results: list[Any] = []
        for key, entry in items:
            try:
                results += self.function(key, window, list(entry[1]))
            except Exception as error:
                raise user_error(program.node, error, (key, *window, entry[1])) from error
        return results


def _spec(
    window: Tumbling | Sliding | Session, lateness_ms: int, aggregations: Named, finish: Finish
) -> OperatorSpec:
    if isinstance(window, Session):
        return SessionSpec(window, lateness_ms, aggregations, finish)
    return AlignedSpec(window, lateness_ms, aggregations, finish)
