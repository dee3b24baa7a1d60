"""Records, and finding their types by name."""

import dataclasses
import enum
from typing import NamedTuple

import msgspec
import pytest

import streamline as sl
from streamline.errors import StateError
from streamline.record import KeyedResult, WindowResult, find_type, result_type, type_name


class Point(sl.Record):
    x: int
    y: int = 0

    class Inner(sl.Record):
        z: int


@dataclasses.dataclass
class Plain:
    a: int


def test_a_record_is_a_struct() -> None:
    assert Point(1) == Point(1, 0) != Point(1, 1)
    assert isinstance(Point(1), msgspec.Struct)
    assert repr(Point(1, 2)) == "Point(x=1, y=2)"


class Color(enum.Enum):
    RED = 1


class Pair(NamedTuple):
    a: int


@pytest.mark.parametrize("kind", [Point, Point.Inner, Plain, Color, Pair])
def test_a_type_is_found_by_its_name(kind: type) -> None:
    assert find_type(type_name(kind)) is kind


def test_a_type_made_inside_a_function_is_found_too() -> None:
    class Local(sl.Record):
        a: int

    assert "<locals>" in type_name(Local)
    assert find_type(type_name(Local)) is Local


@pytest.mark.parametrize(
    "name",
    [
        "nowhere:Point",
        "tests.unit.test_record:Gone",
        "tests.unit.test_record:pytest",
        "builtins:dict",  # a class, but nothing that the codec writes by name
        "subprocess:Popen",
        "",
        ":",
    ],
)
def test_an_unknown_type_is_an_error_with_the_remedy(name: str) -> None:
    with pytest.raises(StateError, match="is not known here; define it at the top level"):
        find_type(name)


def test_result_types_are_one_per_fields_and_found_again() -> None:
    kind = result_type(WindowResult, ("total", "n"))
    assert kind is result_type(WindowResult, ("total", "n"))
    assert kind is not result_type(WindowResult, ("n", "total"))
    assert kind.__struct_fields__ == ("key", "window_start", "window_end", "total", "n")
    assert find_type(type_name(kind)) is kind
    assert isinstance(kind("a", 0, 1, 2.0, 3), WindowResult)


@pytest.mark.parametrize(
    ("base", "fields"), [(WindowResult, ("key", "a", 0, 10)), (KeyedResult, ("key", "a"))]
)
def test_a_field_that_a_result_has_not_is_named_with_those_it_has(
    base: type[sl.Record], fields: tuple[object, ...]
) -> None:
    result = result_type(base, ("total",))(*fields[1:], 1.5)
    assert result.total == 1.5  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"key,.* total, not 'totals'"):
        result.totals  # type: ignore[attr-defined]  # noqa: B018
