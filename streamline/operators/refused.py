"""Records on which a function of the user's raised: the job fails, or goes on without them.

One way for all operators with ``on_error``: count, skip, or make a dead letter of it. Where dead
letters go then, it does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from streamline.batch import Batch, RowBatch
from streamline.io import DeadLetter, OnError
from streamline.operators.base import DEAD_LETTERS, OperatorContext, Output
from streamline.user_code import user_error

T = TypeVar("T")


class Refused:
    """What was refused of one batch, in order.

    Args:
        context: Of the operator; its counters are counted up.
        on_error: What becomes of such a record.
        batch: The batch as the operator was given it.
    """

    def __init__(self, context: OperatorContext, on_error: OnError, batch: Batch) -> None:
        self._context = context
        self._on_error = on_error
        self._batch = batch
        self._rows: list[int] = []
        self._letters: list[DeadLetter] = []

    @property
    def others(self) -> npt.NDArray[np.intp]:
        """Places of the records that were not refused."""
        return np.delete(np.arange(len(self._batch)), self._rows)

    def add(self, row: int, record: object, error: Exception) -> None:
        """Leave out the record in a row.

        Raises:
            UserFunctionError: If that is to end the job.
        """
        counters = self._context.counters
        if self._on_error == "fail":
            raise user_error(self._context.node, error, record) from error
        self._rows.append(row)
        if self._on_error == "skip":
            counters.skipped += 1
            return
        counters.dead_letters += 1
        explained = user_error(self._context.node, error, record)
        origins = self._batch.origins
        offset, data = (-1, _as_json(record)) if origins is None else origins.of(row)
        self._letters.append(
            DeadLetter(
                str(explained),
                self._context.node,
                "" if origins is None else origins.partition,
                offset,
                data,
                explained.trace,
            )
        )

    def emit(self, out: Output) -> None:
        """Send the dead letters on, each at the event time of its record."""
        if self._letters:
            batch = self._batch
            letters = RowBatch(
                list(self._letters), batch.timestamps[self._rows], partition=batch.partition
            )
            out.emit(letters, DEAD_LETTERS)


def attempt(
    batch: Batch,
    work: Callable[[Batch], T],
    *,
    context: OperatorContext,
    on_error: OnError,
    explain: Callable[[Exception, Batch], Exception],
    out: Output,
) -> tuple[Batch, T] | None:
    """Do something with a batch; if it raises, with the records of it that do not make it raise.

    To find these, each record is tried alone.

    Args:
        batch: The batch.
        work: What is done with it; a function of the whole batch, called again if it raised.
        context: Of the operator.
        on_error: What becomes of a record on which it raises.
        explain: Makes the error that ends the job.
        out: Where dead letters go.

    Returns:
        The batch that is left, and the result; None if nothing is left.

    Raises:
        UserFunctionError, UsageError: As ``explain`` says.
    """
    try:
        return batch, work(batch)
    except Exception as error:
        if on_error == "fail":
            raise explain(error, batch) from error
    refused = Refused(context, on_error, batch)
    for row in range(len(batch)):
        one = batch.take(np.array([row]))
        try:
            work(one)
        except Exception as error:  # noqa: BLE001 - the user's
            refused.add(row, one.to_rows().values[0], error)
    refused.emit(out)
    others = refused.others
    if not len(others):
        return None
    batch = batch.take(others)
    try:
        return batch, work(batch)
    except Exception as error:
        raise explain(error, batch) from error


def _as_json(record: Any) -> bytes:
    try:
        return msgspec.json.encode(record, enc_hook=repr)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return repr(record).encode(errors="replace")
