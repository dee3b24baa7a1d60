"""Csv: comma-separated values, typed by a Record's annotations.

Reading and quoting is the standard library's; types are converted by msgspec. One line is one
record: a value with a line break cannot be written.
"""

from __future__ import annotations

import csv
import io
import typing
from collections.abc import Sequence
from enum import Enum
from typing import Any, TypeVar

import msgspec

from streamline.errors import DecodeError, EncodeError, UsageError
from streamline.formats.base import Format
from streamline.io import OnError
from streamline.plural import counted

T = TypeVar("T")


class Csv(Format[T]):
    """CSV, one record per line, columns in the order of the record's fields.

    Args:
        type_: A Record class; values are converted to its annotations, an empty one to None
            where that is allowed.
        header: Files begin with a line of field names, which is skipped and written.
        delimiter: What separates values.
        on_error: What happens to a line that cannot be decoded.

    Raises:
        UsageError: If ``type_`` is not a Record class.

    >>> import streamline as sl
    >>> class Order(sl.Record):
    ...     user: str
    ...     amount: float | None
    >>> orders = sl.Csv(Order)
    >>> orders.header, orders.encode_many([Order("ada", 2.5)])
    (b'user,amount\\n', [b'ada,2.5'])
    >>> orders.decode_many([b"bob,"])
    [Order(user='bob', amount=None)]
    """

    suffix = ".csv"

    def __init__(
        self,
        type_: type[T],
        *,
        header: bool = True,
        delimiter: str = ",",
        on_error: OnError = "fail",
    ) -> None:
        super().__init__(on_error)
        if not (isinstance(type_, type) and issubclass(type_, msgspec.Struct)):
            raise UsageError(f"Csv(...) needs a Record class, not {type_!r:.80}")
        self.type_ = type_
        self.has_header = header
        self.delimiter = delimiter
        # Between tabs stand values, though they be empty.
        self.padding = Format.padding.replace(delimiter.encode(), b"")
        self._fields = type_.__struct_fields__
        self._optional = _optional_fields(type_)

    @property
    def header(self) -> bytes | None:
        """The first line of a file, or None."""
        return self._write([self._fields]) if self.has_header else None

    def decode_one(self, data: bytes) -> T:
        return self.decode_many([data])[0]

    def decode_many(self, data: Sequence[bytes]) -> list[T]:
        try:
            lines = [line.decode() for line in data]
            rows = list(csv.reader(lines, delimiter=self.delimiter, strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise DecodeError(f"not a line of CSV: {error}") from error
        if len(rows) != len(data):  # the reader has joined lines to find the end of a quote
            raise DecodeError("not a line of CSV: a quote is not closed")
        return [self._convert(row) for row in rows]

    def encode_many(self, values: Sequence[T]) -> list[bytes]:
        return [self._write([self._row(value)]).rstrip(b"\n") for value in values]

    def encode_lines(self, values: Sequence[T]) -> bytes:
        lines = self._write([self._row(value) for value in values])
        self._check_lines(lines, values)
        return lines

    def _convert(self, row: list[str]) -> T:
        if len(row) != len(self._fields):
            raise DecodeError(
                f"{counted(len(row), 'value')} instead of {len(self._fields)} "
                f"({', '.join(self._fields)})"
            )
        given: dict[str, Any] = {
            name: None if value == "" and name in self._optional else value
            for name, value in zip(self._fields, row, strict=True)
        }
        try:
            return msgspec.convert(given, self.type_, strict=False)
        except msgspec.ValidationError as error:
            raise DecodeError(str(error)[0].lower() + str(error)[1:]) from error

    def _row(self, value: Any) -> list[Any]:
        try:
            if isinstance(value, dict):
                return [_plain(value[name]) for name in self._fields]
            return [_plain(getattr(value, name)) for name in self._fields]
        except (KeyError, AttributeError) as error:
            raise EncodeError(
                f"a value has not the fields {', '.join(self._fields)}: {value!r:.80}"
            ) from error

    def _write(self, rows: Sequence[Sequence[Any]]) -> bytes:
        text = io.StringIO()
        csv.writer(text, delimiter=self.delimiter, lineterminator="\n").writerows(rows)
        return text.getvalue().encode()


def _plain(value: Any) -> Any:
    """A member of an enum is written as its value."""
    return value.value if isinstance(value, Enum) else value


def _optional_fields(type_: type) -> frozenset[str]:
    """Fields that may be None: an empty value of theirs is None."""
    hints = typing.get_type_hints(type_)
    return frozenset(
        name
        for name in type_.__struct_fields__  # type: ignore[attr-defined]
        if hints.get(name) is Any or type(None) in typing.get_args(hints.get(name))
    )
