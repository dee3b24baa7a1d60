"""key_by: gives each record its key and key group; the hash edge behind it does the rest.

Keys are made canonical and hashed a batch at a time, whole numbers in columns without a Python
object each. Who owns a key group, and where a record goes, it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamline.batch import Batch, ColumnBatch
from streamline.errors import StreamlineError, UsageError
from streamline.expr import Expr, as_function
from streamline.io import OnError
from streamline.keys import KeyGroups, canonical_key, canonical_keys, key_groups_of_ints
from streamline.operators.base import Operator, OperatorContext, OperatorSpec, Output
from streamline.operators.refused import attempt
from streamline.user_code import blame


@dataclass(frozen=True)
class KeyBySpec(OperatorSpec):
    """Key records by a field name, an expression or a function."""

    key: str | Expr | Callable[[Any], Hashable]
    on_error: OnError = "fail"

    @property
    def kind(self) -> str:
        return "key_by"

    @property
    def dead_letters(self) -> bool:
        return self.on_error == "dead_letter"

    def build(self) -> Operator:
        return KeyBy(self)


class KeyBy(Operator):
    """Sets ``keys`` and ``groups`` of every batch."""

    def __init__(self, spec: KeyBySpec) -> None:
        self._key = spec.key
        self._on_error: OnError = spec.on_error

    def open(self, context: OperatorContext) -> None:
        super().open(context)
        self._groups = KeyGroups(context.max_parallelism)

    def process(self, batch: Batch, out: Output) -> None:
        done = attempt(
            batch,
            self._keyed,
            context=self.context,
            on_error=self._on_error,
            explain=self._explain,
            out=out,
        )
        if done is not None:
            out.emit(done[1])

    def _keyed(self, batch: Batch) -> Batch:
        key = self._key
        keys: list[Hashable]
        if isinstance(key, str):
            if isinstance(batch, ColumnBatch) and batch.array(key).dtype == np.int64:
                column = batch.array(key)
                groups = key_groups_of_ints(column, self.context.max_parallelism)
                return batch.with_keys(column.tolist(), groups)
            keys = batch.column(key)
        elif isinstance(key, Expr):
            keys = key.evaluate(batch)
        else:
            keys = [key(value) for value in batch.to_rows().values]
        keys = canonical_keys(keys)
        if type(keys[0]) is int:
            return batch.with_keys(keys, self._groups.of(keys))
        found = self._groups.codes_of(keys)
        keyed = batch.with_keys(keys, found.groups[found.codes])
        keyed.codes = found
        return keyed

    def _explain(self, error: Exception, batch: Batch) -> Exception:
        """Find the record whose key cannot be computed or used."""
        node, key = self.context.node, self._key
        if isinstance(error, StreamlineError) and not callable(key):
            return UsageError(f"{node}: {error}")
        read = as_function(key)
        return blame(node, error, batch, function=lambda value: canonical_key(read(value)))
