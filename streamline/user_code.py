"""Errors of the user's functions: one sentence with the operator, the line and the record.

It tells the user's frames from ours, finds the record to blame, and shortens what it shows. What
then becomes of the job or the record is not decided here.
"""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamline.batch import Batch
from streamline.errors import UserFunctionError
from streamline.plural import counted

_PACKAGE = Path(__file__).resolve().parent
# In a checkout the connectors stand beside the package.
_OWN = (f"{_PACKAGE}/", f"{_PACKAGE.parent}/connectors/", "<streamline")
_RECORD_CHARS = 200


def is_ours(filename: str) -> bool:
    """Whether code is streamline's and not the user's."""
    return filename.startswith(_OWN)


def shorten(record: object, limit: int = _RECORD_CHARS) -> str:
    """A ``repr`` fit for a message."""
    try:
        text = repr(record)
    except Exception as error:  # noqa: BLE001 - a repr of the user's
        text = f"<{type(record).__name__} whose repr raised {error!r}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def user_error(
    operator: str, error: BaseException, record: object, *, meanwhile: str = ""
) -> UserFunctionError:
    """Wrap what a user's function raised.

    Args:
        operator: Name of the node that called it.
        error: What it raised.
        record: What it was given.
        meanwhile: What was being done, in place of the record.
    """
    if isinstance(error, UserFunctionError):
        return error
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not is_ours(frame.filename)
    ]
    where = ""
    if frames:
        last = frames[-1]
        line = (last.line or linecache.getline(last.filename, last.lineno or 0)).strip()
        where = f" at {Path(last.filename).name}:{last.lineno}" + (f" ({line})" if line else "")
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    trace = "Traceback (most recent call last):\n" + "".join(traceback.format_list(frames))
    trace += "".join(traceback.format_exception_only(error))
    return UserFunctionError(
        f"operator {operator!r} failed{where} with {said}; "
        + (meanwhile or f"the record is {shorten(record)}"),
        operator=operator,
        record=shorten(record),
        trace=trace,
    )


def blame(
    operator: str, error: Exception, batch: Batch, *, function: Callable[[Any], Any]
) -> UserFunctionError:
    """Wrap what was raised somewhere in a batch: for the first record on which it is again.

    Args:
        operator: Name of the node.
        error: What was raised.
        batch: All records.
        function: What is done with each.
    """
    for record in batch.to_rows().values:
        try:
            function(record)
        except Exception as found:  # noqa: BLE001 - the user's
            return user_error(operator, found, record)
    return user_error(
        operator, error, None, meanwhile=f"it was given {counted(len(batch), 'record')}"
    )
