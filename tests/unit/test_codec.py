"""The codec: every type comes back as it went, and what cannot go is named."""

import dataclasses
import datetime
import decimal
import enum
import random
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack
import numpy as np
import pytest

import streamline as sl
from streamline.codec import decode, decode_list, encode, encode_list
from streamline.errors import EncodeError, StateError
from tests.names import shown


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Name(enum.StrEnum):
    ADA = "ada"


class Pair(NamedTuple):
    left: Any
    right: Any


class Point(sl.Record):
    x: int
    y: float = 0.0


class Tagged(sl.Record):
    tags: tuple[str, ...]
    best: Point | None = None
    seen: set[int] = set()


class Loose(sl.Record):
    anything: Any


class Frozen(sl.Record, frozen=True):
    a: int


@dataclasses.dataclass(frozen=True)
class Plain:
    a: Any
    b: tuple[int, ...] = ()


UTC = datetime.UTC
ZONE = datetime.timezone(datetime.timedelta(hours=-3, minutes=30))

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    (1 << 63) - 1,
    -(1 << 63),
    (1 << 64) - 1,
    1 << 64,
    -(1 << 63) - 1,
    -(1 << 200),
    0.0,
    -1.5,
    1e300,
    float("inf"),
    "",
    "über",
    "\0",
    b"",
    b"\xff\0",
    [],
    [1, [2, []]],
    (),
    (1,),
    (1, (2, [3, (4,)])),
    {},
    {"a": 1, 2: "b", None: 3, 1.5: 4, True: 5},
    {(1, 2): "tuple key", frozenset({1}): "set key", Frozen(1): "record key"},
    {1 << 70: "big key"},
    set(),
    {1, "a", (2, 3)},
    frozenset({1, frozenset({2})}),
    datetime.datetime(2024, 2, 29, 12, 30, 45, 123456),
    datetime.datetime(2024, 2, 29, 12, 30, tzinfo=UTC),
    datetime.datetime(2024, 2, 29, 12, 30, tzinfo=ZONE),
    datetime.date(2024, 2, 29),
    datetime.timedelta(days=-1, seconds=5, microseconds=7),
    decimal.Decimal("1.10"),
    decimal.Decimal("-Infinity"),
    uuid.UUID(int=7),
    Color.RED,
    Level.HIGH,
    Name.ADA,
    Pair(1, (2,)),
    Pair(1 << 80, [Pair(1, 2)]),
    Point(1, 2.5),
    Tagged(("a", "b"), Point(1), {1, 2}),
    Loose((1, {2})),
    Loose(Loose(Plain(1 << 70, (1, 2)))),
    Plain([Point(1)]),
    [1 << 70, (1, Pair(1, 2))],
    {"deep": [{"er": ({"set": {1}},)}]},
]


def same(one: Any, other: Any) -> bool:
    """Equal, of the same types all the way down: 1, 1.0 and True are three values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, set | frozenset):
        return one == other and sorted(map(repr, one)) == sorted(map(repr, other))
    return repr(one) == repr(other) and one == other


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_type_comes_back_as_it_went(value: Any) -> None:
    assert same(decode(encode(value)), value)
    assert same(decode(encode([value, (value,)])), [value, (value,)])
    assert same(decode_list(*encode_list([value])), [value])


def random_value(random_: random.Random, depth: int) -> Any:
    simple = [v for v in VALUES if not isinstance(v, list | dict | Loose | Plain | Pair)]
    if depth == 0 or random_.random() < 0.3:
        return random_.choice(simple)
    parts = [random_value(random_, depth - 1) for _ in range(random_.randint(0, 4))]
    match random_.randrange(6):
        case 0:
            return parts
        case 1:
            return tuple(parts)
        case 2:
            return {random_.randint(-(1 << 66), 1 << 66): part for part in parts}
        case 3:
            return Plain(parts)
        case 4:
            return Pair(parts, None)
    return Loose({f"k{i}": part for i, part in enumerate(parts)})


@pytest.mark.parametrize("seed", range(40))
def test_random_nested_values_come_back(seed: int) -> None:
    random_ = random.Random(seed)
    values = [random_value(random_, 4) for _ in range(10)]
    assert same(decode(encode(values)), values)
    assert same(decode_list(*encode_list(values)), values)


class Secret:
    pass


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (object(), "type object"),
        (Secret(), "type Secret"),
        (1j, "type complex"),
        (len, "type builtin_function_or_method"),
        (Point, "type StructMeta"),
        (np.int64(1), "numpy int64.*item"),
        (np.float64(1), "numpy float64.*item"),
        (np.bool_(True), "numpy bool"),
        (np.zeros(3), "numpy ndarray.*tolist"),
        ("\ud800", "lone surrogate"),
    ],
    ids=shown,
)
def test_what_cannot_leave_its_process_is_named(value: Any, named: str) -> None:
    for nested in (value, [value], (value,), {"a": value}, Loose(value), {"a": {"b": (value,)}}):
        with pytest.raises(EncodeError, match=named):
            encode(nested)
        with pytest.raises(EncodeError, match=named):
            encode_list([nested])


def test_too_deep_is_an_error_of_ours() -> None:
    value: list[Any] = []
    for _ in range(2_000):
        value = [value]
    with pytest.raises(EncodeError, match="recursion"):
        encode(value)


def test_an_extension_of_a_newer_version_says_upgrade() -> None:
    with pytest.raises(StateError, match="extension type 99 is of a newer version.*upgrade"):
        decode(msgpack.packb(msgpack.ExtType(99, b"")))


def test_a_type_that_is_not_known_here_says_so() -> None:
    data = encode(Point(1)).replace(b"Point", b"Paint")
    with pytest.raises(StateError, match="'Paint' of module 'tests.unit.test_codec' is not known"):
        decode(data)


def test_bytes_cannot_call_any_class_there_is() -> None:
    """Checkpoints and frames are data: only records, dataclasses and the like are made."""
    object_code = msgpack.unpackb(encode(Point(1))).code
    forged = encode(["collections:Counter", {"a": 1}])
    with pytest.raises(StateError):
        decode(msgpack.packb(msgpack.ExtType(object_code, forged)))


# ---------------------------------------------------------------------- lists of one record type


def test_typed_records_take_the_fast_road() -> None:
    name, data = encode_list([Point(1, 2.0), Point(3)])
    assert name == "tests.unit.test_codec:Point"
    assert decode_list(name, data) == [Point(1, 2.0), Point(3)]


@pytest.mark.parametrize(
    "values",
    [[], [1, 2], [Point(1), 2], [Point(1), Frozen(2)], [Loose(1)], [{"a": 1}], [Point(1 << 70)]],
    ids=repr,
)
def test_all_else_takes_the_general_one(values: list[Any]) -> None:
    name, data = encode_list(values)
    assert name == ""
    assert same(decode_list(name, data), values)


def test_a_field_that_breaks_its_annotation_is_named_when_read() -> None:
    name, data = encode_list([Point("one")])  # type: ignore[arg-type]
    with pytest.raises(EncodeError, match=r"a Point was made .* `int`, got `str` .*x"):
        decode_list(name, data)


class Wide(sl.Record):
    number: float = 0.0
    maybe: float | None = None
    either: int | float | str = 0
    numbers: list[float] = []
    some: Sequence[int] = ()
    pair: tuple[int, float] = (0, 0.0)
    parts: dict[str, list[float]] = {}
    point: Point | None = None
    day: datetime.date | None = None
    moment: datetime.datetime | None = None
    color: Color = Color.RED


@pytest.mark.parametrize(
    ("value", "fast"),
    [
        (Wide(1.0), False),  # a tuple stands for a Sequence
        (Wide(some=[]), True),
        (Wide(1, some=[]), False),
        (Wide(some=[], maybe=2), False),
        (Wide(some=[], maybe=2.0), True),
        (Wide(some=[], either=2), True),
        (Wide(some=[], either=2.0), True),
        (Wide(some=[], numbers=[1.0, 2]), False),
        (Wide(some=[], numbers=[1.0, 2.0]), True),
        (Wide(some=[], pair=(1, 2)), False),
        (Wide(some=[], pair=(1, 2.0)), True),
        (Wide(some=[], parts={"a": [1.0], "b": [1]}), False),
        (Wide(some=[], parts={"a": [1.0], "b": []}), True),
        (Wide(some=[], point=Point(1, 2)), False),
        (Wide(some=[], point=Point(1, 2.0)), True),
        (Wide(some=[], day=datetime.datetime(2024, 2, 29)), False),
        (Wide(some=[], day=datetime.date(2024, 2, 29)), True),
        (Wide(some=[], moment=datetime.datetime(2024, 2, 29, tzinfo=ZONE)), False),
        (Wide(some=[], moment=datetime.datetime(2024, 2, 29, tzinfo=UTC)), True),
        (Wide(some=[], moment=datetime.datetime(2024, 2, 29)), True),
    ],
    ids=repr,
)
def test_what_annotations_would_change_goes_the_general_way(value: Any, fast: bool) -> None:
    """So it is the same behind a socket and behind a local channel."""
    for values in ([value], [Wide(some=[]), value]):
        name, data = encode_list(values)
        assert bool(name) is fast
        assert same(decode_list(name, data), values)


class Base(sl.Record):
    a: int


class Derived(Base):
    b: int


class Holder(sl.Record):
    item: Base


def test_a_record_in_a_field_of_its_base_keeps_its_own_class() -> None:
    assert decode_list(*encode_list([Holder(Derived(1, 2))])) == [Holder(Derived(1, 2))]
