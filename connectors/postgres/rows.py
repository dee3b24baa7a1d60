"""Rows as the text that PostgreSQL's COPY reads, a column of a batch at a time.

The format: https://www.postgresql.org/docs/current/sql-copy.html, "Text Format".
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from streamline.errors import EncodeError

_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_NULL = "\\N"
_json = msgspec.json.Encoder()


def _text(value: str) -> str:
    if "\x00" in value:
        raise EncodeError(f"text with a NUL character cannot be stored: {value!r:.80}")
    return value.translate(_ESCAPES)


def _document(value: Any) -> str:
    try:
        return _text(_json.encode(value).decode())
    except (TypeError, ValueError) as error:
        raise EncodeError(f"a value cannot be written as JSON: {error} ({value!r:.80})") from error


def _float(value: float) -> str:
    # numpy's are floats too, with a repr of their own.
    return float.__repr__(value).replace("inf", "Infinity").replace("nan", "NaN")


_WRITERS: list[tuple[Any, Callable[[Any], str]]] = [
    (bool, lambda value: "t" if value else "f"),
    (int, str),
    (float, _float),
    (str, _text),
    (bytes | bytearray | memoryview, lambda value: "\\\\x" + bytes(value).hex()),
    (datetime.datetime | datetime.date | datetime.time, lambda value: value.isoformat()),
    (decimal.Decimal | uuid.UUID, str),
    (dict | list | tuple | set | frozenset | msgspec.Struct, _document),
]


def _writer_of(kind: type) -> Callable[[Any], str]:
    for kinds, write in _WRITERS:
        if issubclass(kind, kinds):
            return write
    if issubclass(kind, np.generic):
        return lambda value: _column([value.item()])[0]
    raise EncodeError(f"a value of type {kind.__name__} has no column type; make it a plain value")


def _column(values: Sequence[Any] | np.ndarray[Any, Any]) -> list[str]:
    """One column; mostly all values are of one type, and then nothing is asked of each."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    kinds = set(map(type, values))
    if len(kinds) == 1:
        kind = kinds.pop()
        if kind is type(None):
            return [_NULL] * len(values)
        if kind is int:
            return list(map(str, values))
        return list(map(_writer_of(kind), values))
    writers = {kind: _writer_of(kind) for kind in kinds if kind is not type(None)}
    return [_NULL if value is None else writers[type(value)](value) for value in values]


def encode_rows(columns: Sequence[Sequence[Any]]) -> bytes:
    r"""Rows, given by their columns, as text for COPY.

    Raises:
        EncodeError: If a value has no such text.

    >>> encode_rows([[1, 2], ["a\tb", None]])
    b'1\ta\\tb\n2\t\\N\n'
    """
    lines = map("\t".join, zip(*map(_column, columns), strict=True))
    try:
        return ("\n".join(lines) + "\n").encode()
    except UnicodeEncodeError as error:
        raise EncodeError(f"text with a lone surrogate cannot be stored: {error}") from error
