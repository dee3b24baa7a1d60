"""Schemas: what shape stored values have, so that a changed job can tell whether it reads them.

A *layout* says how the entries of one state are laid out: what its operator declares. A *record
schema* says which fields a type of the user's has; it is noted for every type that is met while
entries are written, so that it is known also where nobody declared it. Both are plain values, kept
in the checkpoint. Changed ones are compared here; entries are rewritten when they are restored.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import msgspec

from streamline.errors import StateError
from streamline.record import find_type, is_job_module, type_name
from streamline.state.manifest import digest_of

Layout: TypeAlias = dict[str, Any]
"""``kind``, and what else matters: ``type`` of values, ``slots`` of aggregations, a ``window``."""
Values: TypeAlias = list[Any]
Convert: TypeAlias = Callable[[Values], Values]
"""Turns the values of an entry, without its stamp, into those of another layout."""
Verdict: TypeAlias = Literal["migrated", "dropped", "impossible"]
Change: TypeAlias = tuple[Verdict, str]
_ANY = "any"
_REQUIRED = "required"
_USERS = ("streamline.results",)


# ---------------------------------------------------------------------- describing


def alternatives(annotation: Any) -> list[str]:
    """The types that an annotation allows, as text, sorted.

    >>> alternatives(int | None)
    ['None', 'int']
    >>> alternatives(dict[str, list[float]])
    ['dict[str, list[float]]']
    """
    if annotation in (Any, object):
        return [_ANY]
    if annotation is None or annotation is type(None):
        return ["None"]
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return alternatives(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return sorted({one for arg in typing.get_args(annotation) for one in alternatives(arg)})
    if origin is typing.Literal:
        return sorted({type(value).__name__ for value in typing.get_args(annotation)})
    if origin is not None:
        inner = [
            "..." if arg is Ellipsis else " | ".join(alternatives(arg))
            for arg in typing.get_args(annotation)
        ]
        return [f"{_class_text(origin)}[{', '.join(inner)}]"]
    if isinstance(annotation, type):
        return [_class_text(annotation)]
    return [_ANY]


def _class_text(cls: Any) -> str:
    module = getattr(cls, "__module__", "")
    name = getattr(cls, "__qualname__", str(cls))
    # A job file may be given another name.
    return name if module == "builtins" or is_job_module(module) else f"{module}.{name}"


@lru_cache(maxsize=1024)
def record_schema(cls: type) -> dict[str, Any]:
    """Fields of a record, dataclass or named tuple, or the values of an enumeration.

    Returns:
        ``fingerprint``, and ``fields``: by name, the types allowed and whether one must be given.
    """
    if issubclass(cls, enum.Enum):
        fields = {repr(member.value): {"type": [], _REQUIRED: False} for member in cls}
        return _with_fingerprint({"enum": True, "fields": fields})
    try:
        hints = typing.get_type_hints(cls, include_extras=False)
    except (NameError, TypeError):
        hints = {}
    fields = {
        name: {"type": alternatives(hints.get(name, Any)), _REQUIRED: required}
        for name, required in _fields(cls).items()
    }
    return _with_fingerprint({"fields": fields})


def _fields(cls: Any) -> dict[str, bool]:
    """Fields of a class, and whether one must be given."""
    if issubclass(cls, msgspec.Struct):
        return {field.name: field.required for field in msgspec.structs.fields(cls)}
    if dataclasses.is_dataclass(cls):
        missing = dataclasses.MISSING
        return {
            field.name: field.default is missing and field.default_factory is missing
            for field in dataclasses.fields(cls)
        }
    return {name: name not in cls._field_defaults for name in getattr(cls, "_fields", ())}


def _with_fingerprint(schema: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(schema, sort_keys=True)
    return {**schema, "fingerprint": digest_of(text.encode())}


def schemas_of(classes: Iterable[type]) -> dict[str, dict[str, Any]]:
    """Schemas of some types, by their names; our own come and go with our version alone."""
    return {
        type_name(cls): record_schema(cls)
        for cls in sorted(classes, key=type_name)
        if not cls.__module__.startswith("streamline.") or cls.__module__ in _USERS
    }


# ---------------------------------------------------------------------- comparing


def changes_of_types(stored: Mapping[str, Mapping[str, Any]]) -> list[Change]:
    """What has become of the types that stored values are made of."""
    changes: list[Change] = []
    for name, before in stored.items():
        _, _, path = name.partition(":")
        try:
            cls = find_type(name)
        except StateError:
            changes.append(
                ("impossible", f"values of type {path} are stored, which the job no longer has")
            )
            continue
        now = record_schema(cls)
        if now["fingerprint"] != before["fingerprint"]:
            changes += _changes_of_fields(path, before, now)
    return changes


def _changes_of_fields(
    path: str, before: Mapping[str, Any], now: Mapping[str, Any]
) -> list[Change]:
    changes: list[Change] = []
    old, new = before["fields"], now["fields"]
    gone, added = old.keys() - new.keys(), new.keys() - old.keys()
    if now.get("enum") or before.get("enum"):
        if gone:
            changes.append(("impossible", f"{path} no longer has the value {', '.join(gone)}"))
        return changes
    for name in sorted(gone):
        changes.append(("dropped", f"field {name} of the stored {path}"))
    for name in sorted(added):
        if new[name][_REQUIRED]:
            what = f"field {name} of {path} is new and has no default; give it one"
            changes.append(("impossible", what))
        else:
            changes.append(("migrated", f"field {name} of {path} is added with its default"))
    for name in sorted(old.keys() & new.keys()):
        was, now_is = old[name]["type"], new[name]["type"]
        changes += _change_of_type(f"field {name} of {path}", was, now_is)
    return changes


def _change_of_type(what: str, was: list[str], now_is: list[str]) -> list[Change]:
    if _ANY in was or _ANY in now_is or set(was) <= set(now_is):
        return []
    widened = {one for one in set(was) - set(now_is) if one == "int" and "float" in now_is}
    if set(was) - set(now_is) - widened:
        text = f"{what} was {' | '.join(was)} and is {' | '.join(now_is)} now"
        return [("impossible", f"{text}; give it another name")]
    return [("migrated", f"{what} was int and is read as float")]


def changes_of_layout(was: Layout, now: Layout) -> list[Change]:
    """What has become of the layout of one state; nothing if either is not known."""
    if not was or not now or was == now:
        return []
    if was["kind"] != now["kind"]:
        return [("impossible", f"it held a {was['kind']} and holds a {now['kind']} now")]
    changes: list[Change] = []
    for part, what in (("key", "its keys"), ("type", "its values")):
        if part in was and part in now:
            changes += _change_of_type(what, was[part], now[part])
    if was.get("window") != now.get("window"):
        text = f"its windows were {was.get('window')} and are {now.get('window')} now"
        changes.append(("impossible", f"{text}; give the node another name="))
    changes += _changes_of_slots(was.get("slots", []), now.get("slots", []))
    return changes


def _changes_of_slots(was: list[list[Any]], now: list[list[Any]]) -> list[Change]:
    old, new = ({name: kind for name, kind, _ in slots} for slots in (was, now))
    changes: list[Change] = []
    for name, kind in old.items():
        if name not in new:
            changes.append(("dropped", f"aggregation {name}"))
        elif new[name] != kind:
            text = f"aggregation {name} was {kind} and is {new[name]} now"
            changes.append(("impossible", f"{text}; give it another name"))
    for name in new.keys() - old.keys():
        what = f"aggregation {name} is added; it begins with the records from now on"
        changes.append(("migrated", what))
    if not changes and was != now:
        changes.append(("migrated", "its aggregations are in another order"))
    return changes


def converter(
    was: Layout, now: Layout, new: Callable[[], list[Any]] | None, *, first: int = 0
) -> Convert | None:
    """What turns stored values into the layout of now; None if they stay as they are.

    Args:
        was, now: Layouts, which :func:`changes_of_layout` finds possible.
        new: Makes an entry of no values, with its stamp.
        first: Where in the values the slots begin.
    """
    if not was or not now or was.get("slots") == now.get("slots") or new is None:
        return None
    places: dict[str, tuple[int, int]] = {}
    at = first
    for name, _, count in was["slots"]:
        places[name] = (at, count)
        at += count

    def convert(values: Values) -> Values:
        empty = new()[1:]
        made, slot = values[:first], 0
        for name, _, count in now["slots"]:
            if name in places:
                start, _ = places[name]
                made += values[start : start + count]
            else:
                made += empty[slot : slot + count]
            slot += count
        return made

    return convert
