"""Format, the seam between a connector's bytes and a job's values, and what to do with bad ones.

A format decodes a batch at a time. Only when that fails is each value looked at alone, to
find the bad one. Formats know nothing of files, topics or tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeAlias, TypeVar, cast

import msgspec

from streamline.batch import ColumnBatch
from streamline.errors import DecodeError, EncodeError
from streamline.io import OnError, checked_on_error

T = TypeVar("T")
BadValue: TypeAlias = Callable[[int, bytes, str], None]
"""Called with the place in the batch, the bytes and the reason of a value that is bad."""


def converted(plain: object, type_: type[T] | None) -> T:
    """A decoded value as one of a type, checked; as it is, if none is asked for.

    Raises:
        DecodeError: If it does not fit.
    """
    if type_ is None:
        return cast(T, plain)
    try:
        return msgspec.convert(plain, type_)
    except msgspec.ValidationError as error:
        raise DecodeError(str(error)) from error


class Format(ABC, Generic[T]):
    """How one value is written as bytes.

    Attributes:
        on_error: What happens to a value that cannot be decoded: ``"fail"`` stops the job,
            ``"skip"`` counts it and goes on, ``"dead_letter"`` sends it to a stream of its own.
        suffix: The usual ending of a file of such values, without compression.
        separator: What stands between two values in a file: a newline, or nothing when the
            values themselves tell where they end.
        in_files: Whether values that stand one after the other in a file can be told apart.
        padding: A line of nothing but these bytes is no value.

    >>> import streamline as sl
    >>> class Shouted(sl.Format[str]):
    ...     suffix = ".txt"
    ...     def decode_one(self, data): return data.decode().lower()
    ...     def decode_many(self, data): return [self.decode_one(item) for item in data]
    ...     def encode_many(self, values): return [value.upper().encode() for value in values]
    >>> Shouted().encode_lines(["so", "far"])
    b'SO\\nFAR\\n'
    >>> Shouted().decode_lines(b"SO\\nFAR\\n")
    ['so', 'far']
    """

    suffix: str = ""
    separator: bytes = b"\n"
    in_files: bool = True
    padding: bytes = b" \t\r\v\f"

    def __init__(self, on_error: OnError = "fail") -> None:
        self.on_error = checked_on_error(on_error)

    @abstractmethod
    def decode_one(self, data: bytes) -> T:
        """Decode one value.

        Raises:
            DecodeError: If the bytes are not such a value; the message says why.
        """

    @abstractmethod
    def decode_many(self, data: Sequence[bytes]) -> list[T]:
        """Decode several values, in order; any error means that some value is bad.

        Raises:
            DecodeError: As :meth:`decode_one`.
        """

    def decode_lines(self, data: bytes) -> list[T]:
        """Decode values that stand in one piece, separated by newlines; empty lines are none.

        It gives what the lines give one by one, whatever other lines stand beside them.

        Raises:
            DecodeError: As :meth:`decode_one`.
        """
        padding = self.padding
        return self.decode_many([line for line in data.split(b"\n") if line.strip(padding)])

    def decode_columns(self, data: bytes) -> ColumnBatch | None:
        """Like ``decode_lines``, as columns without timestamps; None if it has no columns.

        >>> import streamline as sl
        >>> class Order(sl.Record):
        ...     amount: int
        >>> sl.Json(Order).decode_columns(b'{"amount": 3}\\n{"amount": 4}\\n').columns
        {'amount': array([3, 4])}
        """
        return None

    @property
    def header(self) -> bytes | None:
        """The first line of a file, with its newline, if it is not a value.

        >>> import streamline as sl
        >>> sl.Json().header is None
        True
        """
        return None

    @abstractmethod
    def encode_many(self, values: Sequence[T]) -> list[bytes]:
        """Encode values, in order.

        Raises:
            EncodeError: If a value does not fit the format; the message shows it.
        """

    def encode_lines(self, values: Sequence[T]) -> bytes:
        """Encode values to one piece, each followed by the separator.

        Raises:
            EncodeError: As :meth:`encode_many`, and for a value that holds the separator.
        """
        separator = self.separator
        lines = b"".join([data + separator for data in self.encode_many(values)])
        self._check_lines(lines, values)
        return lines

    def _check_lines(self, lines: bytes, values: Sequence[T]) -> None:
        """Refuse a value that would come back as two."""
        if self.separator and lines.count(self.separator) != len(values):
            bad = next(v for v in values if self.separator in self.encode_many([v])[0])
            raise EncodeError(f"a value with a line break cannot be written as a line: {bad!r:.80}")

    def decode_each(self, data: Sequence[bytes], bad: BadValue) -> list[T]:
        """Decode what can be decoded; ``bad`` is called for each value that cannot.

        >>> import streamline as sl
        >>> sl.Json().decode_each([b"1", b"two"], lambda place, data, why: print(place, data))
        1 b'two'
        [1]
        """
        values: list[T] = []
        for place, item in enumerate(data):
            try:
                values.append(self.decode_one(item))
            except DecodeError as error:
                bad(place, item, str(error))
        return values

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
