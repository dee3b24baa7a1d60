"""Csv: comma-separated values, typed by a Record's annotations."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from streamline.errors import DecodeError, EncodeError, UsageError
from streamline.formats.base import Format, OnError

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
        self._fields = type_.__struct_fields__

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
        return [self._convert(row) for row in rows]

    def encode_many(self, values: Sequence[T]) -> list[bytes]:
        return [self._write([self._row(value)]).rstrip(b"\n") for value in values]

    def encode_lines(self, values: Sequence[T]) -> bytes:
        return self._write([self._row(value) for value in values])

    def _convert(self, row: list[str]) -> T:
        if len(row) != len(self._fields):
            raise DecodeError(
                f"{len(row)} values instead of {len(self._fields)} ({', '.join(self._fields)})"
            )
        given: dict[str, Any] = dict(zip(self._fields, row, strict=True))
        try:
            return msgspec.convert(given, self.type_, strict=False)
        except msgspec.ValidationError as first:
            empty = {name: None if value == "" else value for name, value in given.items()}
            try:
                return msgspec.convert(empty, self.type_, strict=False)
            except msgspec.ValidationError:
                raise DecodeError(str(first)[0].lower() + str(first)[1:]) from first

    def _row(self, value: Any) -> list[Any]:
        try:
            if isinstance(value, dict):
                return [value[name] for name in self._fields]
            return [getattr(value, name) for name in self._fields]
        except (KeyError, AttributeError) as error:
            raise EncodeError(
                f"a value has not the fields {', '.join(self._fields)}: {value!r:.80}"
            ) from error

    def _write(self, rows: Sequence[Sequence[Any]]) -> bytes:
        text = io.StringIO()
        csv.writer(text, delimiter=self.delimiter, lineterminator="\n").writerows(rows)
        return text.getvalue().encode()
