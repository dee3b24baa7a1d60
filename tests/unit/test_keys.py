"""Keys: hashes fixed for ever, one form for equal keys, and ranges that cover all groups."""

import enum
import os
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from streamline.errors import EncodeError
from streamline.keys import (
    KeyGroupRange,
    KeyGroups,
    canonical_key,
    decode_key,
    encode_key,
    encode_keys,
    key_group,
    key_groups_of_ints,
    owned_range,
    owner,
    owner_table,
    stable_hash,
)
from tests.names import shown

# State on disk depends on these numbers: a test that fails here is a broken release.
GOLDEN: list[tuple[Any, int, int]] = [
    ("", 15323888699908674443, 11),
    ("a", 12716725330347542558, 30),
    ("user-1", 10649564316186898921, 105),
    ("über", 8663089445532437003, 11),
    (0, 16294208416658607535, 47),  # the first output of splitmix64 seeded with 0
    (1, 10451216379200822465, 65),
    (-1, 16490336266968443936, 32),
    (42, 13679457532755275413, 21),
    (9223372036854775807, 3055647633038352039, 39),
    (-9223372036854775808, 5196802822362493915, 91),
    (1.5, 15973709854673595377, 113),
    (-0.25, 17006544894783642713, 89),
    (b"", 8797212068120657458, 50),
    (b"a", 4029498205139200767, 127),
    (None, 615228257941630379, 43),
    (("a", 1), 16624096644395507869, 29),
    ((), 3150459247528488279, 87),
    ((1, (2.5, None)), 11501172727099748175, 79),
    (float("inf"), 629771949403863703, 23),
]


@pytest.mark.parametrize(("key", "hashed", "group"), GOLDEN, ids=lambda value: repr(value))
def test_hashes_fixed_for_ever(key: Any, hashed: int, group: int) -> None:
    assert stable_hash(key) == hashed
    assert key_group(key) == group == hashed % 128


def test_hashes_do_not_depend_on_the_process() -> None:
    """Python's own hash of a str does."""
    code = "from streamline.keys import stable_hash; print(stable_hash(('user', 1)))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {f"{stable_hash(('user', 1))}\n".encode()}


class Number(enum.IntEnum):
    ONE = 1


class Color(str, enum.Enum):
    RED = "red"


class Word(str):
    pass


EQUAL = [
    (1, 1.0),
    (1, np.int64(1)),
    (1, Number.ONE),
    (0, -0.0),
    (1, True),
    (0, False),
    ((1,), (True,)),
    (1.5, np.float64(1.5)),
    ("red", Word("red")),
    ("red", Color.RED),
    ((1, "a"), (1.0, "a")),
    ((1, (2,)), (1, (2.0,))),
]


@pytest.mark.parametrize(("one", "other"), EQUAL, ids=repr)
def test_keys_equal_in_python_have_one_form(one: Any, other: Any) -> None:
    assert one == other
    assert encode_key(one) == encode_key(other)
    assert stable_hash(one) == stable_hash(other)
    form = canonical_key(other)
    assert form == one
    assert isinstance(form, type(one)), "not an int for a str"
    assert repr(form) == repr(one)


@pytest.mark.parametrize(
    ("one", "other"), [(1, 1.5), ("a", b"a"), ("1", 1), (None, 0), ((1,), 1), ((), None), ("", ())]
)
def test_different_keys_are_told_apart(one: Any, other: Any) -> None:
    assert encode_key(one) != encode_key(other)


@pytest.mark.parametrize("keys", [[1, True], [True, 1], [0, False], [(1,), (True,)]])
def test_the_group_of_a_key_does_not_depend_on_the_keys_before_it(keys: list[Any]) -> None:
    """Else two tasks would disagree about who owns it."""
    assert KeyGroups(128).of(keys).tolist() == [key_group(key) for key in keys]


@pytest.mark.parametrize(
    "key", ["", "é", 0, -(1 << 63), (1 << 64) - 1, 1.5, 1e300, b"\0", None, True, (1, ("a", None))]
)
def test_encoded_keys_come_back(key: Any) -> None:
    assert decode_key(encode_key(key)) == key


@pytest.mark.parametrize(
    "key", [[1], {"a": 1}, {1}, object(), 1j, (1, [2]), np.bool_(True)], ids=shown
)
def test_what_cannot_be_a_key_is_refused_by_its_type(key: Any) -> None:
    kind = type(key[1] if isinstance(key, tuple) else key).__name__
    for use in (stable_hash, encode_key):
        with pytest.raises(EncodeError, match=f"a key must be .* not {kind}"):
            use(key)


def test_what_equals_nothing_cannot_be_a_key() -> None:
    with pytest.raises(EncodeError, match="NaN"):
        encode_key(float("nan"))


@pytest.mark.parametrize("key", [1 << 64, -(1 << 63) - 1, (1 << 70,)])
def test_integers_over_64_bits_are_refused_with_the_remedy(key: Any) -> None:
    with pytest.raises(EncodeError, match="does not fit in 64 bits; use a str"):
        encode_key(key)


@pytest.mark.parametrize("max_parallelism", [1, 2, 100, 128, 1 << 15])
def test_a_column_of_ints_is_hashed_as_each_alone(max_parallelism: int) -> None:
    random_ = random.Random(max_parallelism)
    keys = [0, 1, -1, (1 << 63) - 1, -(1 << 63)]
    keys += [random_.randint(-(1 << 63), (1 << 63) - 1) for _ in range(500)]
    found = key_groups_of_ints(np.array(keys, dtype=np.int64), max_parallelism)
    assert found.dtype == np.uint16
    assert found.tolist() == [key_group(key, max_parallelism) for key in keys]


@pytest.mark.parametrize(
    "keys",
    [
        [1, -2, (1 << 64) - 1],
        ["a", "über", ""],
        ["a", None, b"a"],
        [1, "a"],
        [1.0, 2.5, 7],
        [(1, "a"), ()],
        [True, 1],
        [],
    ],
    ids=repr,
)
def test_many_keys_at_once_are_encoded_and_grouped_as_each_alone(keys: list[Any]) -> None:
    encoded, groups = encode_keys(keys, 128)
    assert encoded == [encode_key(key) for key in keys]
    assert groups.tolist() == [key_group(key) for key in keys]


def test_one_of_many_keys_that_cannot_be_encoded_is_named() -> None:
    with pytest.raises(EncodeError, match=f"the key {1 << 64} does not fit"):
        encode_keys([1, 1 << 64], 128)
    with pytest.raises(EncodeError, match="not list"):
        encode_keys([1, [2]], 128)  # type: ignore[list-item]


def test_the_memory_of_groups_is_bounded_and_does_not_change_them() -> None:
    groups = KeyGroups(128, capacity=10)
    keys = [f"k{i % 25}" for i in range(100)]
    for first in range(0, 100, 4):
        some = keys[first : first + 4]
        assert groups.of(some).tolist() == [key_group(key) for key in some]
        assert len(groups) < 10 + 4


def test_codes_handed_out_stay_true_when_all_is_forgotten() -> None:
    groups = KeyGroups(128, capacity=2)
    found = [groups.codes_of([f"k{number}", "again", b"k"]) for number in range(2000)]
    for number, one in enumerate(found):
        names = [one.names[code] for code in one.codes.tolist()]
        assert names == [f"k{number}", "again", b"k"]
        assert one.groups[one.codes].tolist() == [key_group(name) for name in names]
        assert one.kinds == {str, bytes}


def test_many_keys_have_codes() -> None:
    keys = [f"k{number % 5000}" for number in range(9000)]
    found = KeyGroups(128).codes_of(keys)
    assert [found.names[code] for code in found.codes.tolist()] == keys
    assert found.groups[found.codes].tolist() == [key_group(key) for key in keys]
    assert len(found.names) == 5000


def test_no_keys_no_groups() -> None:
    assert KeyGroups(128).of([]).shape == (0,)


def test_a_list_of_keys_is_grouped_as_each_alone() -> None:
    for keys in ([1, 2, -3], [1, 2.0, "a"], ["a", "b"], [1 << 63, 5], [(1, "a"), None, 2.5]):
        found = KeyGroups(128).of(keys)
        assert found.dtype == np.uint16
        assert found.tolist() == [key_group(key) for key in keys], keys


@pytest.mark.parametrize("max_parallelism", [1, 7, 100, 128])
def test_ranges_cover_all_groups_exactly_at_every_parallelism(max_parallelism: int) -> None:
    for parallelism in range(1, max_parallelism + 1):
        ranges = [owned_range(i, parallelism, max_parallelism) for i in range(parallelism)]
        covered = [group for range_ in ranges for group in range(*range_)]
        assert covered == list(range(max_parallelism))
        sizes = [len(range(*range_)) for range_ in ranges]
        assert max(sizes) - min(sizes) <= 1
        table = owner_table(parallelism, max_parallelism).tolist()
        for group in range(max_parallelism):
            index = owner(group, parallelism, max_parallelism)
            assert table[group] == index
            assert group in ranges[index]


@pytest.mark.parametrize("kind", ["ints", "strings"])
def test_keys_spread_evenly(kind: str) -> None:
    keys: list[Any] = list(range(12_800))
    if kind == "strings":
        keys = [f"user-{key}" for key in keys]
    counts = np.bincount([key_group(key) for key in keys], minlength=128)
    assert counts.min() > 50
    assert counts.max() < 170


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ((0, 10), (10, 20), False),
        ((0, 10), (9, 20), True),
        ((5, 6), (0, 128), True),
        ((0, 1), (127, 128), False),
    ],
)
def test_overlaps(one: tuple[int, int], other: tuple[int, int], overlap: bool) -> None:
    a, b = KeyGroupRange(*one), KeyGroupRange(*other)
    assert a.overlaps(b) == b.overlaps(a) == overlap
    assert overlap == bool(set(range(*a)) & set(range(*b)))


def test_a_range_contains_its_start_but_not_its_stop() -> None:
    range_ = KeyGroupRange(3, 5)
    assert [group for group in range(8) if group in range_] == [3, 4]
    assert "3" not in range_


@pytest.mark.parametrize("number", [1 << 63, (1 << 64) - (1 << 11), -(1 << 63), 1 << 62, 1 << 53])
def test_a_large_float_is_the_same_key_as_the_int_it_equals(number: int) -> None:
    assert type(canonical_key(float(number))) is int
    assert encode_key(float(number)) == encode_key(number)
    assert key_group(float(number)) == key_group(number)


@pytest.mark.parametrize("number", [float(1 << 64), -float(1 << 64), 1e300])
def test_a_float_that_no_int_key_equals_stays_one(number: float) -> None:
    assert type(canonical_key(number)) is float
    assert decode_key(encode_key(number)) == number
