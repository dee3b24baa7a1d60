"""union: several streams as one. The task's inputs do the merging; this only passes on."""

from __future__ import annotations

from dataclasses import dataclass

from streamline.batch import Batch
from streamline.operators.base import Operator, OperatorSpec, Output


@dataclass(frozen=True)
class UnionSpec(OperatorSpec):
    """Where several streams meet."""

    def build(self) -> Operator:
        return Union()


class Union(Operator):
    """Passes everything on."""

    def process(self, batch: Batch, out: Output) -> None:
        out.emit(batch)
