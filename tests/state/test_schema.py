"""Schemas: what is found out about changed types and layouts, and what becomes of entries."""

import dataclasses
import enum
from typing import Annotated, Any, Literal, NamedTuple

import pytest

import streamline as sl
from streamline.codec import decode, encode
from streamline.operators.aggregations import AggregateProgram, slots_layout
from streamline.record import type_name
from streamline.state.schema import (
    Change,
    alternatives,
    changes_of_layout,
    changes_of_types,
    converter,
    record_schema,
    schemas_of,
)


class Order(sl.Record):
    user: str
    amount: float = 0.0


class Point(NamedTuple):
    x: int
    y: int = 0


@dataclasses.dataclass
class Pair:
    one: int
    two: str = ""


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (None, ["None"]),
        (str | None, ["None", "str"]),
        (list[int | None], ["list[None | int]"]),
        (tuple[int, ...], ["tuple[int, ...]"]),
        (Annotated[int, "cents"], ["int"]),
        (Literal["a", "b"], ["str"]),
        (Any, ["any"]),
        (Order, [f"{__name__}.Order"]),
    ],
)
def test_types_as_text(annotation: Any, text: list[str]) -> None:
    assert alternatives(annotation) == text


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (Order, {"user": (["str"], True), "amount": (["float"], False)}),
        (Point, {"x": (["int"], True), "y": (["int"], False)}),
        (Pair, {"one": (["int"], True), "two": (["str"], False)}),
        (Colour, {"1": ([], False), "2": ([], False)}),
    ],
)
def test_schemas(cls: type, fields: dict[str, tuple[list[str], bool]]) -> None:
    found = record_schema(cls)["fields"]
    assert {name: (one["type"], one["required"]) for name, one in found.items()} == fields


def stored(cls: type, **fields: tuple[list[str], bool] | None) -> dict[str, Any]:
    """The schema of a class, as it might have been before: with other fields, or without some."""
    schema = record_schema(cls)
    before = dict(schema["fields"])
    for name, one in fields.items():
        if one is None:
            del before[name]
        else:
            before[name] = {"type": one[0], "required": one[1]}
    return {type_name(cls): {**schema, "fields": before, "fingerprint": "another"}}


OPTIONAL = "field amount of Order is added with its default"
MUST = "field user of Order is new and has no default; give it one"
OTHER = "field user of Order was bytes and is str now; give it another name"


@pytest.mark.parametrize(
    ("before", "changes"),
    [
        (schemas_of([Order, Point, Colour]), []),
        (stored(Order, amount=None), [("migrated", OPTIONAL)]),
        (stored(Order, user=None), [("impossible", MUST)]),
        (stored(Order, note=(["str"], False)), [("dropped", "field note of the stored Order")]),
        (stored(Order, user=(["bytes"], True)), [("impossible", OTHER)]),
        (
            stored(Order, amount=(["int"], True)),
            [("migrated", "field amount of Order was int and is read as float")],
        ),
        (stored(Order, amount=(["any"], True)), []),
        (
            stored(Colour, **{"3": ([], False)}),
            [("impossible", "Colour no longer has the value 3")],
        ),
        (
            {f"{__name__}:Gone": {"fingerprint": "", "fields": {}}},
            [("impossible", "values of type Gone are stored, which the job no longer has")],
        ),
    ],
)
def test_changed_types(before: dict[str, Any], changes: list[Change]) -> None:
    assert changes_of_types(before) == changes


@pytest.mark.parametrize(
    ("was", "now", "verdicts"),
    [
        (sl.ValueState(int), sl.ValueState(int), []),
        (sl.ValueState(int), sl.ValueState(float), ["migrated"]),
        (sl.ValueState(int), sl.ValueState(str), ["impossible"]),
        (sl.ValueState(int), sl.ListState(int), ["impossible"]),
        (sl.MapState(str, int), sl.MapState(str, int | None), []),  # type: ignore[arg-type]
        (sl.MapState(str, int), sl.MapState(int, int), ["impossible"]),
    ],
)
def test_changed_states(was: Any, now: Any, verdicts: list[str]) -> None:
    found = changes_of_layout(was.layout(), now.layout())
    assert [verdict for verdict, _ in found] == verdicts


def test_nothing_is_said_of_what_was_stored_without_a_layout() -> None:
    assert changes_of_layout({}, {"kind": "timers"}) == []


BEFORE = (("n", sl.Count()), ("mean", sl.Mean("v")), ("top", sl.Max("v")))


@pytest.mark.parametrize(
    ("now", "values", "verdicts"),
    [
        (BEFORE, [3, 6.0, 3, 9], []),
        ((BEFORE[2], BEFORE[0], BEFORE[1]), [9, 3, 6.0, 3], ["migrated"]),
        ((*BEFORE, ("sum", sl.Sum("v"))), [3, 6.0, 3, 9, 0], ["migrated"]),
        (BEFORE[1:], [6.0, 3, 9], ["dropped"]),
        ((("first", sl.Min("v")), BEFORE[2]), [None, 9], ["dropped", "dropped", "migrated"]),
        ((("n", sl.Max("v")),), None, ["impossible", "dropped", "dropped"]),
    ],
)
@pytest.mark.parametrize("first", [0, 2])
def test_changed_aggregations(
    now: Any, values: list[Any] | None, verdicts: list[str], first: int
) -> None:
    was_layout, layout = slots_layout(BEFORE), slots_layout(now)
    assert [verdict for verdict, _ in changes_of_layout(was_layout, layout)] == verdicts
    if values is None:
        return
    convert = converter(was_layout, layout, AggregateProgram("", now).new, first=first)
    front = ["in", "front"][:first]
    stored_values = [*front, 3, 6.0, 3, 9]
    made = stored_values if convert is None else convert(stored_values)
    empty = AggregateProgram("", now).new()[1:]
    wanted = [empty[at] if value in (0, None) else value for at, value in enumerate(values)]
    assert made == [*front, *wanted]


def test_another_window_is_another_state() -> None:
    was = {"kind": "aggregate", "slots": [], "window": "1000 ms long"}
    found = changes_of_layout(was, {**was, "window": "2000 ms long"})
    assert found == [
        (
            "impossible",
            "its windows were 1000 ms long and are 2000 ms long now; give the node another name=",
        )
    ]


def test_a_field_that_was_given_up_is_left_out_when_it_is_read() -> None:
    data = encode(Order("ada", 2.0))
    longer = data.replace(b"\xa6amount", b"\xa6remark")
    assert len(longer) == len(data)
    assert decode(longer) == Order("ada")
