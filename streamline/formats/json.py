"""Json: one JSON value per record, typed by a Record or as plain dicts and lists.

Many values are decoded in one call, which is three times as fast; what that would let pass (two
values on a line, one on two) is found and refused. Decoding and validation are msgspec's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar, cast, overload

import msgspec
import numpy as np

from streamline.batch import ColumnBatch, RowBatch
from streamline.errors import DecodeError, EncodeError
from streamline.formats.base import Format
from streamline.io import OnError

T = TypeVar("T")

_BREAK = ord("\n")
_WITHIN = b" \t\r\n"
_MAY_END = np.ones(256, dtype=np.bool_)
_MAY_END[list(_WITHIN + b"[{,:")] = False
_MAY_BEGIN = np.ones(256, dtype=np.bool_)
_MAY_BEGIN[list(_WITHIN + b"]},:")] = False


class Json(Format[T]):
    """JSON, one value per line in files.

    Args:
        type_: A Record class (or any type msgspec knows) to decode and validate to; without
            one, values are dicts, lists, strings and numbers.
        on_error: What happens to a value that cannot be decoded.

    Raises:
        UsageError: For an ``on_error`` that is none.

    >>> import streamline as sl
    >>> class Order(sl.Record):
    ...     user: str
    ...     coupon: str | None = None
    >>> sl.Json(Order).decode_many([b'{"user": "ada"}', b'{"user": "bob", "coupon": "X", "n": 1}'])
    [Order(user='ada', coupon=None), Order(user='bob', coupon='X')]
    >>> sl.Json().encode_many([{"a": 1}])
    [b'{"a":1}']
    """

    suffix = ".jsonl"

    @overload
    def __init__(self: Json[Any], type_: None = ..., *, on_error: OnError = ...) -> None: ...
    @overload
    def __init__(self: Json[T], type_: type[T], *, on_error: OnError = ...) -> None: ...
    def __init__(self, type_: Any = None, *, on_error: OnError = "fail") -> None:
        super().__init__(on_error)
        self.type_ = type_
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            Any if type_ is None else type_
        )
        self._encoder = msgspec.json.Encoder()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), self.type_, on_error=self.on_error), ()

    def decode_one(self, data: bytes) -> T:
        try:
            return cast(T, self._decoder.decode(data))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DecodeError(_explain(error)) from error

    def decode_many(self, data: Sequence[bytes]) -> list[T]:
        # Together it is three times as fast; values that are not one line each go alone.
        lines = b"\n".join(data)
        if len(data) > 1:
            try:
                values = self._decode_all(lines)
            except DecodeError:
                if lines.count(b"\n") == len(data) - 1:
                    raise
            else:
                # An empty last one is no line, and would make up for a value that is two.
                same = len(values) == len(data) and not lines.endswith(b"\n")
                if same and _one_each(lines, len(values)):
                    return values
        return [self.decode_one(item) for item in data]

    def decode_lines(self, data: bytes) -> list[T]:
        values = self._decode_all(data)
        if not _one_each(data, len(values)):
            lines = [stripped for line in data.split(b"\n") if (stripped := line.strip())]
            if not _one_each(b"\n".join(lines), len(values)):
                raise DecodeError("a line is not one JSON value")
        return values

    def _decode_all(self, data: bytes) -> list[T]:
        try:
            return cast(list[T], self._decoder.decode_lines(data))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DecodeError(_explain(error)) from error

    def decode_columns(self, data: bytes) -> ColumnBatch | None:
        is_record = isinstance(self.type_, type) and issubclass(self.type_, msgspec.Struct)
        if not is_record:
            return None
        return RowBatch(self.decode_lines(data)).to_columns()

    def encode_many(self, values: Sequence[T]) -> list[bytes]:
        try:
            return [self._encoder.encode(value) for value in values]
        except (TypeError, ValueError, OverflowError) as error:
            raise EncodeError(f"a value cannot be written as JSON: {error}") from error

    def encode_lines(self, values: Sequence[T]) -> bytes:
        try:
            return self._encoder.encode_lines(values)
        except (TypeError, ValueError, OverflowError) as error:
            raise EncodeError(f"a value cannot be written as JSON: {error}") from error

    def __repr__(self) -> str:
        return f"Json({'' if self.type_ is None else getattr(self.type_, '__name__', self.type_)})"


def _one_each(data: bytes, count: int) -> bool:
    """Whether values that were decoded together stand on a line each.

    The decoder takes a line break for any other space: two values may stand on one line, and
    one value on two. A break within a value has a bracket, a comma or a colon beside it. If
    none has, no value goes on over a break, and as many values as lines are one on each.
    """
    letters = np.frombuffer(data, dtype=np.uint8)
    breaks = np.flatnonzero(letters == _BREAK)
    if len(breaks) and breaks[-1] == len(letters) - 1:
        breaks = breaks[:-1]
    if len(breaks) + 1 != count:
        return count == 0
    if not len(breaks):
        return True
    if breaks[0] == 0:
        return False
    ends, begins = letters[breaks - 1], letters[breaks + 1]
    return bool(_MAY_END[ends].all() and _MAY_BEGIN[begins].all())


def _explain(error: Exception) -> str:
    text = str(error)
    return text[0].lower() + text[1:] if text else type(error).__name__
