"""union: several streams as one. The task's inputs do the merging; this only passes on.

It is there so that several edges have one node to meet in. Watermarks are merged by the task
before they come here.
"""

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
