"""The layout of entries in the key-value store."""

import random

import pytest

from streamline.errors import StateError
from streamline.keys import key_group
from streamline.state.encoding import (
    VALUE_VERSION,
    decode_entry,
    encode_entry,
    groups_range,
    key_of,
    namespace_range,
    state_id,
    state_of,
    stored_key,
    stored_keys,
)

LOW, HIGH = -(1 << 63), (1 << 63) - 1
NAMESPACES = [LOW, LOW + 1, -1, 0, 1, HIGH - 1, HIGH]
STATES = [0, 1, 7, (1 << 32) - 2, (1 << 32) - 1]
KEYS = [
    0,
    -1,
    LOW,
    HIGH,
    1 << 63,
    (1 << 64) - 1,
    "",
    "k",
    "ü",
    b"",
    b"\xff" * 9,
    None,
    2.5,
    ("a", 1),
]


@pytest.mark.parametrize(
    "keys",
    [
        KEYS,
        [key for key in KEYS if type(key) is int],
        [key for key in KEYS if isinstance(key, str | bytes | None)],
        [True, False, 2.0, -0.0, (1.0, True), ((), None)],
        ["only"],
        [],
    ],
)
@pytest.mark.parametrize("groups", [1, 3, 128, 32768])
def test_stored_keys_are_the_stored_key_of_each(keys, groups):
    for namespace in NAMESPACES:
        found = stored_keys(5, namespace, keys, groups)
        assert found == [stored_key(5, namespace, key, groups) for key in keys]


@pytest.mark.parametrize("seed", range(20))
def test_stored_keys_are_the_stored_key_of_each_at_random(seed):
    rng = random.Random(seed)
    makers = [
        lambda: rng.randrange(LOW, 1 << 64),
        lambda: str(rng.random()),
        lambda: rng.randbytes(rng.randrange(9)),
        lambda: (rng.randrange(9), str(rng.random())),
    ]
    some = rng.sample(makers, rng.randrange(1, 5))
    keys = [rng.choice(some)() for _ in range(50)]
    state, namespace = rng.randrange(1 << 32), rng.randrange(LOW, HIGH + 1)
    found = stored_keys(state, namespace, keys, 128)
    assert found == [stored_key(state, namespace, key, 128) for key in keys]
    assert [key_of(stored) for stored in found] == keys
    assert {state_of(stored) for stored in found} == {state}


def test_equal_keys_are_stored_under_one_key():
    assert stored_key(1, 0, True, 128) == stored_key(1, 0, 1, 128) == stored_key(1, 0, 1.0, 128)
    assert stored_key(1, 0, (1.0, 2), 128) == stored_key(1, 0, (True, 2.0), 128)
    assert stored_key(1, 0, "1", 128) != stored_key(1, 0, b"1", 128)


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("state", STATES)
def test_a_range_covers_exactly_its_namespace(state, namespace):
    for groups in (1, 3):
        for group in range(groups):
            start, stop = namespace_range(group, state, namespace)
            for other_state in STATES:
                for other in NAMESPACES:
                    for key in KEYS:
                        stored = stored_key(other_state, other, key, groups)
                        mine = (other_state, other) == (state, namespace)
                        mine = mine and key_group(key, groups) == group
                        assert (start <= stored < stop) == mine


def test_ranges_of_namespaces_stand_in_the_order_of_their_numbers():
    ranges = [
        namespace_range(group, state, namespace)
        for group in (0, 1, 65534)
        for state in STATES
        for namespace in NAMESPACES
    ]
    assert all(start < stop for start, stop in ranges)
    assert all(left[1] <= right[0] for left, right in zip(ranges, ranges[1:]))


def test_a_range_of_groups_covers_their_namespaces_and_no_others():
    start, stop = groups_range(3, 5)
    for group in range(8):
        for state in STATES:
            for namespace in NAMESPACES:
                first, last = namespace_range(group, state, namespace)
                if 3 <= group < 5:
                    assert start <= first and last <= stop
                else:
                    assert last <= start or stop <= first


def test_the_number_of_a_state_is_fixed_for_ever():
    assert state_id("sum", "totals") == 0x100611D2
    assert state_id("a", "x") != state_id("a", "y") != state_id("b", "x")


def test_the_layout_is_fixed_for_ever():
    stored = stored_key(0x01020304, -2, "k", 128)
    assert stored[2:].hex() == "01020304" + "7ffffffffffffffe" + "a16b"
    assert int.from_bytes(stored[:2], "big") == key_group("k", 128)


@pytest.mark.parametrize("values", [[], [1], [None, 2.5, "x"], [[1, [2]], {"a": {3: b"x"}}]])
def test_an_entry_comes_back_with_another_stamp(values):
    data = encode_entry([17, *values])
    assert data[0] == VALUE_VERSION
    assert decode_entry(data, 4) == [4, *values]


@pytest.mark.parametrize("version", [0, VALUE_VERSION + 1, 255])
def test_another_version_of_an_entry_is_refused(version):
    data = bytes([version]) + encode_entry([0, 1])[1:]
    with pytest.raises(StateError, match=f"format {version}, this streamline knows"):
        decode_entry(data, 0)
