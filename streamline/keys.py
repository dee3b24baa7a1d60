"""Keys: how they are encoded, hashed, grouped, and who owns which group.

The hash is ours and fixed for ever: state on disk and the owner of a key depend on it, so
it may not change between processes, Python versions or releases.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgpack
import numpy as np
import numpy.typing as npt

from streamline.errors import EncodeError

DEFAULT_MAX_PARALLELISM = 128
_MASK = (1 << 64) - 1
_LEAST_INT, _INT_LIMIT = -(1 << 63), 1 << 64  # what a key may be, as MessagePack has it
_PLAIN = (str, int, bytes, type(None))
_PLAIN_SET = frozenset(_PLAIN)
_packer = msgpack.Packer(use_bin_type=True, autoreset=True)


class KeyGroupRange(NamedTuple):
    """A contiguous range of key groups, ``start`` included, ``stop`` not."""

    start: int
    stop: int

    def __contains__(self, group: object) -> bool:
        return isinstance(group, int) and self.start <= group < self.stop

    def overlaps(self, other: KeyGroupRange) -> bool:
        """Whether the two have a group in common."""
        return self.start < other.stop and other.start < self.stop

    def common(self, other: KeyGroupRange) -> KeyGroupRange:
        """The groups that are in both; an empty range if none is."""
        start = max(self.start, other.start)
        return KeyGroupRange(start, max(start, min(self.stop, other.stop)))


def _mix(value: int) -> int:
    """Finalizer of splitmix64 (Steele, Lea, Flood: Fast splittable generators, 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def canonical_key(key: Hashable) -> Hashable:
    """The form under which a key is handed on and stored: keys equal in Python have one form.

    A bool or a float without a fraction becomes an int, inside tuples too; a member of an enum
    of strings or numbers its value.

    Raises:
        EncodeError: If the key is not str, int, float, bytes, bool, None or a tuple of those,
            or not a number.

    >>> canonical_key((True, 2.0, 2.5, "a"))
    (1, 2, 2.5, 'a')
    """
    kind = type(key)
    if kind in _PLAIN:
        return key
    if isinstance(key, float):
        if key != key:
            raise EncodeError("a key must not be NaN: it equals nothing, not even itself")
        return int(key) if key.is_integer() and _LEAST_INT <= key < _INT_LIMIT else float(key)
    if isinstance(key, tuple):
        return tuple(canonical_key(part) for part in key)
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, int | np.integer):
        return int(key)
    if isinstance(key, bytes):
        return bytes(key)
    raise EncodeError(
        f"a key must be str, int, float, bytes, bool, None or a tuple of those, "
        f"not {kind.__name__} ({key!r:.80}); key_by a field or turn the value into one of them"
    )


def encode_key(key: Hashable) -> bytes:
    """Encode a key as MessagePack in its canonical form; equal keys give equal bytes.

    Raises:
        EncodeError: If it cannot be a key, or is a whole number of more than 64 bits.

    >>> encode_key("ab").hex(), encode_key(7.0) == encode_key(7)
    ('a26162', True)
    """
    if type(key) not in _PLAIN:
        key = canonical_key(key)
    try:
        data: bytes = _packer.pack(key)
    except OverflowError as error:
        raise EncodeError(f"the key {key!r:.80} does not fit in 64 bits; use a str") from error
    return data


def decode_key(data: bytes) -> Hashable:
    """Undo :func:`encode_key`."""
    key: Hashable = msgpack.unpackb(data, use_list=False, strict_map_key=False)
    return key


def stable_hash(key: Hashable) -> int:
    """A 64-bit hash of a key, the same in every process and for ever.

    Integers that fit in 64 bits are mixed directly (so that a column of them can be hashed
    at once), all else by the CRC-32 of its encoding, mixed.
    """
    if type(key) is not int:
        key = canonical_key(key)
    if type(key) is int:
        return _mix(key & _MASK)
    return _mix(zlib.crc32(encode_key(key)))


def key_group(key: Hashable, max_parallelism: int = DEFAULT_MAX_PARALLELISM) -> int:
    """The key group of one key: 0 up to ``max_parallelism`` (excluded)."""
    return stable_hash(key) % max_parallelism


def canonical_keys(keys: list[Hashable]) -> list[Hashable]:
    """Many keys in their canonical form; the list itself if they all are already.

    Raises:
        EncodeError: As :func:`canonical_key`.
    """
    if _PLAIN_SET.issuperset(set(map(type, keys))):
        return keys
    return [canonical_key(key) for key in keys]


@dataclass(frozen=True)
class KeyCodes:
    """The keys of a batch as numbers: equal keys have equal codes.

    Attributes:
        codes: Code of each key, int64, shape ``(n,)``.
        names: The key behind each code.
        groups: The key group behind each code, uint16; it may be longer than ``names``.
        kinds: The types of all keys in ``names``.
    """

    codes: npt.NDArray[np.int64]
    names: Sequence[Hashable]
    groups: npt.NDArray[np.uint16]
    kinds: frozenset[type]


class KeyGroups(dict[Hashable, int]):
    """A bounded memory of key groups: ``memory[key]`` is the code of a key.

    Args:
        max_parallelism: Number of key groups.
        capacity: About how many keys are remembered before all are forgotten.
    """

    def __init__(self, max_parallelism: int, capacity: int = 1 << 18) -> None:
        super().__init__()
        self._max_parallelism = max_parallelism
        self._capacity = capacity
        self._names: list[Hashable]
        self._groups: npt.NDArray[np.uint16]
        self._kinds: set[type]
        self._forget()

    def __missing__(self, key: Hashable) -> int:
        code = len(self._names)
        group = stable_hash(key) % self._max_parallelism
        if code == len(self._groups):
            self._groups = np.concatenate([self._groups, np.empty_like(self._groups)])
        self._groups[code] = group
        self._kinds.add(type(key))
        self._names.append(key)
        self[key] = code
        return code

    def of(self, keys: Sequence[Hashable]) -> npt.NDArray[np.uint16]:
        """Key groups of a list of keys, shape ``(len(keys),)``."""
        if len(keys) and type(keys[0]) is int and set(map(type, keys)) == {int}:
            try:
                return key_groups_of_ints(np.array(keys, dtype=np.int64), self._max_parallelism)
            except OverflowError:
                pass  # one is above 63 bits: each by itself
        found = self.codes_of(keys)
        return found.groups[found.codes]

    def codes_of(self, keys: Sequence[Hashable]) -> KeyCodes:
        """The same keys as codes."""
        if len(self) >= self._capacity:
            self._forget()
        codes = np.array([self[key] for key in keys], dtype=np.int64)
        return KeyCodes(codes, self._names, self._groups, frozenset(self._kinds))

    def _forget(self) -> None:
        # What was handed out stays as it is.
        self.clear()
        self._names = []
        self._groups = np.empty(1024, dtype=np.uint16)
        self._kinds = set()


def key_groups_of_ints(keys: npt.NDArray[np.int64], max_parallelism: int) -> npt.NDArray[np.uint16]:
    """Key groups of a column of integers at once; equal to :func:`key_group` of each."""
    return _groups_of_hashes(keys.astype(np.int64).view(np.uint64), max_parallelism)


def _groups_of_hashes(
    value: npt.NDArray[np.uint64], max_parallelism: int
) -> npt.NDArray[np.uint16]:
    """Mix as :func:`_mix` does, a column at once."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value = value ^ (value >> np.uint64(31))
    return (value % np.uint64(max_parallelism)).astype(np.uint16)


def encode_keys(
    keys: Sequence[Hashable], max_parallelism: int
) -> tuple[list[bytes], npt.NDArray[np.uint16]]:
    """Encodings and key groups of many keys at once; equal to those of each."""
    pack = _packer.pack
    try:
        encoded = [pack(key) if type(key) in _PLAIN else encode_key(key) for key in keys]
    except OverflowError:
        encoded = [encode_key(key) for key in keys]  # says which
    kinds = set(map(type, keys))
    if kinds == {int}:
        hashes = np.array([key & _MASK for key in keys], dtype=np.uint64)  # type: ignore[operator]
    elif kinds <= {str, bytes, type(None)}:
        hashes = np.array([zlib.crc32(data) for data in encoded], dtype=np.uint64)
    else:
        groups = [key_group(key, max_parallelism) for key in keys]
        return encoded, np.array(groups, dtype=np.uint16)
    return encoded, _groups_of_hashes(hashes, max_parallelism)


def owned_range(index: int, parallelism: int, max_parallelism: int) -> KeyGroupRange:
    """The key groups that task ``index`` of ``parallelism`` owns.

    >>> [owned_range(i, 3, 128) for i in range(3)][1]
    KeyGroupRange(start=43, stop=86)
    """
    start = -(-index * max_parallelism // parallelism)
    stop = -(-(index + 1) * max_parallelism // parallelism)
    return KeyGroupRange(start, stop)


def owner(group: int, parallelism: int, max_parallelism: int) -> int:
    """The index of the task that owns a key group."""
    return group * parallelism // max_parallelism


def owner_table(parallelism: int, max_parallelism: int) -> npt.NDArray[np.intp]:
    """Owner of every key group, shape ``(max_parallelism,)``: index it with a column of groups."""
    return np.arange(max_parallelism, dtype=np.intp) * parallelism // max_parallelism
