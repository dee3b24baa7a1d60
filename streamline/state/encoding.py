"""How entries are laid out in the key-value store.

    key:   key group u16 | state id u32 | namespace i64, biased | encoded key   (big-endian)
    value: format version u8 | the entry's values, by the codec

One key group is one contiguous range, and so is each namespace of a state within it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from streamline.codec import decode, encode
from streamline.errors import StateError
from streamline.keys import decode_key, encode_key, encode_keys, key_group

VALUE_VERSION = 1
_VERSION = bytes([VALUE_VERSION])
_HEAD = struct.Struct(">HIQ")
_GROUP = struct.Struct(">H")
_TAIL = struct.Struct(">IQ")
_BIAS = 1 << 63
HEAD_BYTES = _HEAD.size


def state_id(node: str, name: str) -> int:
    """Number of a state in stored keys; the same for ever."""
    return zlib.crc32(f"{node}/{name}".encode())


def stored_key(state: int, namespace: int, key: Hashable, max_parallelism: int) -> bytes:
    """The stored key of an entry."""
    group = key_group(key, max_parallelism)
    return _HEAD.pack(group, state, namespace + _BIAS) + encode_key(key)


def stored_keys(
    state: int, namespace: int, keys: Sequence[Hashable], max_parallelism: int
) -> list[bytes]:
    """The stored keys of several entries of one namespace."""
    encoded, groups = encode_keys(keys, max_parallelism)
    tail = _TAIL.pack(state, namespace + _BIAS)
    heads = {group: _GROUP.pack(group) + tail for group in np.unique(groups).tolist()}
    return [heads[group] + data for group, data in zip(groups.tolist(), encoded, strict=True)]


def namespace_range(group: int, state: int, namespace: int) -> tuple[bytes, bytes]:
    """Start and end of a namespace within a key group."""
    start = _HEAD.pack(group, state, namespace + _BIAS)
    biased = namespace + _BIAS + 1
    if biased < 1 << 64:
        return start, _HEAD.pack(group, state, biased)
    if state + 1 < 1 << 32:
        return start, _GROUP.pack(group) + struct.pack(">I", state + 1)
    return start, _GROUP.pack(group + 1)


def groups_range(start: int, stop: int) -> tuple[bytes, bytes]:
    """Start and end of some key groups."""
    return _GROUP.pack(start), _GROUP.pack(stop)


def state_of(stored: bytes) -> int:
    """The state that a stored key belongs to."""
    state: int = _HEAD.unpack_from(stored)[1]
    return state


def key_of(stored: bytes) -> Hashable:
    """The key within a stored key."""
    return decode_key(stored[HEAD_BYTES:])


def encode_entry(entry: list[Any]) -> bytes:
    """An entry without its stamp."""
    return _VERSION + encode(entry[1:])


def decode_entry(data: bytes, stamp: int) -> list[Any]:
    """An entry with a stamp.

    Raises:
        StateError: If it was written by a newer version.
    """
    if data[0] != VALUE_VERSION:
        raise StateError(
            f"stored state has format {data[0]}, this streamline knows {VALUE_VERSION}; upgrade"
        )
    return [stamp, *decode(memoryview(data)[1:])]
