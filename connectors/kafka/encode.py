"""Encoder: what of a batch becomes keys, values and headers; the functions are the user's.

An error names the record on which a function raised. It knows nothing of brokers, partitions or
transactions: what it makes is bytes.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

from streamline.errors import EncodeError, StreamlineError, UserFunctionError
from streamline.formats import Format

_OURS = str(Path(__file__).parent)
_SHOWN_CHARS = 200


class Encoder:
    """Makes of records what a topic takes.

    Args:
        what: Who encodes, for messages: ``sink 'out'``.
        format: How a value is encoded.
        key: A field or a function that gives the key; None for none.
        value: What of a record is written, if not all of it.
        headers: A function that gives names with bytes.
    """

    def __init__(
        self,
        what: str,
        *,
        format: Format[Any],
        key: str | Callable[[Any], Any] | None,
        value: Callable[[Any], Any] | None,
        headers: Callable[[Any], Any] | None,
    ) -> None:
        self._what = what
        self._format = format
        self._key = key
        self._value = value
        self._headers = headers

    def values(self, records: Sequence[Any]) -> list[bytes]:
        """The encoded values.

        Raises:
            UserFunctionError: If ``value=`` raised.
            EncodeError: If a value cannot be written in the format.
        """
        if self._value is not None:
            records = self._each("value", self._value, records)
        return self._format.encode_many(records)

    def headers(self, records: Sequence[Any]) -> list[Any] | None:
        """The headers of each record, or None without any.

        Raises:
            UserFunctionError: If ``headers=`` raised.
        """
        return None if self._headers is None else self._each("headers", self._headers, records)

    def keys(self, records: Sequence[Any]) -> list[bytes | None] | None:
        """The key of each record, or None without any.

        Raises:
            UserFunctionError: If ``key=`` raised.
            EncodeError: If there is no such field, or a key is of a wrong type.
        """
        key = self._key
        if key is None:
            return None
        if isinstance(key, str):
            get = itemgetter(key) if records and isinstance(records[0], dict) else attrgetter(key)
            try:
                found = [get(record) for record in records]
            except (AttributeError, KeyError):
                raise EncodeError(
                    f"{self._what}: key={key!r} is no field of every record"
                ) from None
        else:
            found = self._each("key", key, records)
        return [
            one.encode() if type(one) is str else one if type(one) is bytes else _key_bytes(one)
            for one in found
        ]

    def _each(self, name: str, function: Callable[[Any], Any], records: Sequence[Any]) -> list[Any]:
        try:
            return list(map(function, records))
        except StreamlineError:
            raise
        except Exception as error:
            raise self._failed(name, function, records, error) from error

    def _failed(
        self, name: str, function: Callable[[Any], Any], records: Sequence[Any], error: Exception
    ) -> UserFunctionError:
        """Say on which record a function raised: they are tried once more, one by one."""
        shown = "unknown"
        for record in records:
            try:
                function(record)
            except Exception:  # noqa: BLE001 - the user's
                shown = f"{record!r:.{_SHOWN_CHARS}}"
                break
        frames = [
            one
            for one in traceback.extract_tb(error.__traceback__)
            if not one.filename.startswith(_OURS)
        ]
        where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        trace = "Traceback (most recent call last):\n" + "".join(traceback.format_list(frames))
        trace += "".join(traceback.format_exception_only(error))
        return UserFunctionError(
            f"{self._what}: {name}= failed{where} with {said}; the record is {shown}",
            record=shown,
            trace=trace,
        )


def _key_bytes(key: Any) -> bytes | None:
    if key is None or isinstance(key, bytes):
        return key
    if isinstance(key, str):
        return key.encode()
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key).encode()
    raise EncodeError(f"a key must be bytes, str, int or None, not {key!r:.80}")
