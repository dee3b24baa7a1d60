"""Text and Raw: lines as they are.

Nothing is decoded but UTF-8. What a line means is for the job to say.
"""

from __future__ import annotations

from collections.abc import Sequence

from streamline.errors import DecodeError, EncodeError
from streamline.formats.base import Format


class Text(Format[str]):
    """UTF-8 text, one line per record, with the spaces it has; empty lines are left out.

    >>> Text().decode_lines("über\\nalles\\n".encode())
    ['über', 'alles']
    """

    suffix = ".txt"
    padding = b"\r"  # an empty line, where lines end in \r\n

    def decode_one(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise DecodeError(f"not UTF-8: {error}") from error

    def decode_many(self, data: Sequence[bytes]) -> list[str]:
        try:
            return [line.decode() for line in data]
        except UnicodeDecodeError as error:
            raise DecodeError(f"not UTF-8: {error}") from error

    def encode_many(self, values: Sequence[str]) -> list[bytes]:
        try:
            return [value.encode() for value in values]
        except AttributeError as error:
            bad = next(value for value in values if not isinstance(value, str))
            raise EncodeError(
                f"the text format writes str, not {type(bad).__name__} ({bad!r:.80})"
            ) from error
        except UnicodeEncodeError as error:
            raise EncodeError(f"text that is not valid Unicode: {error}") from error


class Raw(Format[bytes]):
    """Bytes, one line per record, without the newline; empty lines are left out.

    >>> Raw().decode_lines(b"\\xff\\n\\n \\n")
    [b'\\xff', b' ']
    """

    padding = b"\r"  # an empty line, where lines end in \r\n

    def decode_one(self, data: bytes) -> bytes:
        return data

    def decode_many(self, data: Sequence[bytes]) -> list[bytes]:
        return list(data)

    def encode_many(self, values: Sequence[bytes]) -> list[bytes]:
        for value in values:
            if not isinstance(value, bytes):
                raise EncodeError(
                    f"the raw format writes bytes, not {type(value).__name__} ({value!r:.80})"
                )
        return list(values)
