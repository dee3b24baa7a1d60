"""Values as bytes, on the wire and on disk: MessagePack, never pickle.

A value comes back as it went: tuples stay tuples, sets sets, records their own class. Lists
of one record type take a faster road, typed by the record's annotations.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import inspect
import uuid
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgpack
import msgspec
import numpy as np

from streamline.errors import EncodeError, StateError
from streamline.exact import exact_check
from streamline.record import find_type, type_name

_TUPLE, _SET, _FROZENSET, _OBJECT, _BIGINT, _DATETIME, _DATE, _DECIMAL, _UUID, _ENUM, _DELTA = (
    range(1, 12)
)


_noted: set[type] = set()


def note_types(into: set[type]) -> set[type]:
    """Have the types of records that are encoded from now on noted in a set.

    Returns:
        The set in which they were noted so far.
    """
    global _noted
    before, _noted = _noted, into
    return before


def _default(value: Any) -> msgpack.ExtType:
    if isinstance(value, enum.Enum):
        _noted.add(type(value))
        return msgpack.ExtType(_ENUM, encode([type_name(type(value)), value.value]))
    if isinstance(value, tuple):
        if type(value) is not tuple and hasattr(value, "_asdict"):
            _noted.add(type(value))
            return msgpack.ExtType(_OBJECT, encode([type_name(type(value)), value._asdict()]))
        return msgpack.ExtType(_TUPLE, encode(list(value)))
    if isinstance(value, msgspec.Struct):
        _noted.add(type(value))
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        return msgpack.ExtType(_OBJECT, encode([type_name(type(value)), fields]))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        _noted.add(type(value))
        names = [field.name for field in dataclasses.fields(value)]
        fields = {name: getattr(value, name) for name in names}
        return msgpack.ExtType(_OBJECT, encode([type_name(type(value)), fields]))
    if isinstance(value, bool | np.bool_):
        raise EncodeError(f"{value!r} is a numpy bool; turn it into a bool first")
    if isinstance(value, np.generic | np.ndarray):
        raise EncodeError(
            f"{value!r:.80} is a numpy {type(value).__name__}; turn it into a Python value first "
            "(.item() or .tolist())"
        )
    for kinds, code, write in _WRITERS:
        if isinstance(value, kinds):
            return msgpack.ExtType(code, write(value))
    raise EncodeError(
        f"a value of type {type(value).__name__} cannot leave its process ({value!r:.80}); use a "
        "Record, a dataclass, a dict, a list, a tuple or a plain value"
    )


_WRITERS: list[tuple[Any, int, Callable[[Any], bytes]]] = [
    (int, _BIGINT, lambda v: str(int(v)).encode()),
    (frozenset, _FROZENSET, lambda v: encode(list(v))),
    (set, _SET, lambda v: encode(list(v))),
    (datetime.datetime, _DATETIME, lambda v: v.isoformat().encode()),
    (datetime.date, _DATE, lambda v: v.isoformat().encode()),
    (datetime.timedelta, _DELTA, lambda v: encode([v.days, v.seconds, v.microseconds])),
    (decimal.Decimal, _DECIMAL, lambda v: str(v).encode()),
    (uuid.UUID, _UUID, lambda v: v.bytes),
    (str, 0x20, lambda v: str(v).encode()),
    (dict, 0x21, lambda v: encode(dict(v))),
    (list, 0x22, lambda v: encode(list(v))),
    (float, 0x23, lambda v: encode(float(v))),
    (bytes | bytearray, 0x24, lambda v: bytes(v)),
]


def _rebuild(data: bytes) -> Any:
    name, fields = decode(data)
    cls = find_type(name)
    try:
        return cls(**fields)
    except TypeError:
        # It was written by an earlier version of the class, with fields that are given up.
        known = inspect.signature(cls).parameters
        return cls(**{name: value for name, value in fields.items() if name in known})


def _rebuild_enum(data: bytes) -> Any:
    name, value = decode(data)
    return find_type(name)(value)


_READERS: dict[int, Callable[[bytes], Any]] = {
    _TUPLE: lambda data: tuple(decode(data)),
    _SET: lambda data: set(decode(data)),
    _FROZENSET: lambda data: frozenset(decode(data)),
    _OBJECT: _rebuild,
    _ENUM: _rebuild_enum,
    _BIGINT: lambda data: int(data),
    _DATETIME: lambda data: datetime.datetime.fromisoformat(data.decode()),
    _DATE: lambda data: datetime.date.fromisoformat(data.decode()),
    _DELTA: lambda data: datetime.timedelta(*decode(data)),
    _DECIMAL: lambda data: decimal.Decimal(data.decode()),
    _UUID: lambda data: uuid.UUID(bytes=data),
    0x20: lambda data: data.decode(),
    0x21: lambda data: decode(data),
    0x22: lambda data: decode(data),
    0x23: lambda data: decode(data),
    0x24: lambda data: data,
}


def _ext_hook(code: int, data: bytes) -> Any:
    reader = _READERS.get(code)
    if reader is None:
        raise StateError(f"extension type {code} is of a newer version of streamline; upgrade")
    return reader(data)


def _big(value: Any) -> Any:
    """Wrap integers over 64 bits, which msgpack refuses without asking ``default``."""
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return msgpack.ExtType(_BIGINT, str(value).encode())
    if isinstance(value, list | tuple):
        return type(value)([_big(item) for item in value])
    if isinstance(value, dict):
        return {_big(key): _big(item) for key, item in value.items()}
    return value


def encode(value: Any) -> bytes:
    """Encode any value that a job may hold.

    Raises:
        EncodeError: If its type cannot be written; the message names it.
    """
    try:
        data: bytes = msgpack.packb(value, default=_default, strict_types=True, use_bin_type=True)
    except OverflowError:
        data = msgpack.packb(_big(value), default=_default, strict_types=True, use_bin_type=True)
    except UnicodeEncodeError as error:
        raise EncodeError(f"text with a lone surrogate cannot be written: {error}") from error
    except ValueError as error:
        raise EncodeError(f"the value cannot be written: {error}") from error
    return data


def decode(data: bytes | memoryview) -> Any:
    """Undo :func:`encode`; every type comes back as it went."""
    return msgpack.unpackb(data, ext_hook=_ext_hook, strict_map_key=False)


_encoder = msgspec.msgpack.Encoder()


@lru_cache(maxsize=256)
def _list_decoder(name: str) -> msgspec.msgpack.Decoder[list[Any]]:
    return msgspec.msgpack.Decoder(list[find_type(name)])  # type: ignore[misc]


def encode_list(values: list[Any]) -> tuple[str, bytes]:
    """Encode the values of a batch.

    Returns:
        The name of their record type when all share one whose annotations bring every value
        back as it went, or ``""``; and the bytes.

    Raises:
        EncodeError: If a value cannot leave its process.
    """
    if values and isinstance(values[0], msgspec.Struct):
        cls = type(values[0])
        check = exact_check(cls) if len(set(map(type, values))) == 1 else None
        try:
            if check is not None and check(values):
                return type_name(cls), _encoder.encode(values)
        except (TypeError, AttributeError, OverflowError):  # fields that break their annotations
            return "", encode(values)
    return "", encode(values)


def decode_list(name: str, data: bytes | memoryview) -> list[Any]:
    """Undo :func:`encode_list`.

    Raises:
        EncodeError: If a field holds what its annotation does not allow.
    """
    if not name:
        values: list[Any] = decode(data)
        return values
    try:
        return _list_decoder(name).decode(data)
    except msgspec.ValidationError as error:
        raise EncodeError(
            f"a {name.partition(':')[2]} was made in the job with a value that its annotation does "
            f"not allow: {error}"
        ) from error
