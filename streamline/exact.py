"""Which values a record's annotations bring back exactly, looked at a column at a time.

Typed decoding makes what the annotation says: an int in a ``float`` field comes back as a
float, a tuple in a ``Sequence`` as a list. Where the annotations allow such a difference the
types of a batch's values are compared first; all else costs nothing here. It knows no bytes.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any, TypeAlias

import msgspec

Check: TypeAlias = Callable[[list[Any]], bool]
"""Whether some values of one annotation come back exactly."""
Part: TypeAlias = Callable[[list[Any]], Iterable[Any]]
"""A part of each of them: a field, or all items."""

_UTC_OR_NONE = frozenset({None, datetime.UTC})
_SCALARS: dict[str, type] = {
    "NoneType": type(None),
    "BoolType": bool,
    "IntType": int,
    "FloatType": float,
    "StrType": str,
    "BytesType": bytes,
    "DateType": datetime.date,
    "DateTimeType": datetime.datetime,
    "TimeDeltaType": datetime.timedelta,
    "UUIDType": uuid.UUID,
    "DecimalType": decimal.Decimal,
    "TimeType": datetime.time,
    "ByteArrayType": bytearray,
    "MemoryViewType": memoryview,
}
_SEQUENCES: dict[str, type] = {
    "ListType": list,
    "SetType": set,
    "FrozenSetType": frozenset,
    "VarTupleType": tuple,
}
# A type checker takes an int for a float, and a datetime for a date.
_PLAIN = set(_SCALARS.values()) - {float, datetime.date, datetime.datetime}


class _NotTypedError(Exception):
    """The annotation alone does not say how a value is brought back."""


@lru_cache(maxsize=1024)
def exact_check(cls: type) -> Check | None:
    """What tells whether records of a class come back exactly by their annotations.

    Values that break their annotation, other than by the types that Python takes for one
    another, are not looked for: decoding finds them. A subclass of int or str, and a bool, in a
    field of that type passes.

    Returns:
        The check, or None if some field's annotation never suffices.

    >>> class Order(msgspec.Struct):
    ...     amount: float
    >>> check = exact_check(Order)
    >>> check([Order(1.0), Order(2.0)]), check([Order(1.0), Order(2)])
    (True, False)
    """
    try:
        _, check = _shape(msgspec.inspect.type_info(cls), frozenset())
    except (_NotTypedError, TypeError):
        return None
    return check or (lambda values: True)


def _shape(info: Any, around: frozenset[type]) -> tuple[set[type], Check | None]:
    """The types that values of an annotation have, and what is to be checked about them."""
    kind = type(info).__name__
    if kind in _SCALARS:
        of = _SCALARS[kind]
        return {of}, _in_utc if of is datetime.datetime else None
    if kind == "EnumType":
        return {info.cls}, None
    if kind == "LiteralType":
        return set(map(type, info.values)), None
    if kind in _SEQUENCES:
        return {_SEQUENCES[kind]}, _part_of(chain.from_iterable, info.item_type, around)
    if kind == "TupleType":
        items = [
            _part_of(_each(itemgetter(place)), item, around)
            for place, item in enumerate(info.item_types)
        ]
        return {tuple}, _all_of([_as_long_as(len(items)), *items])
    if kind == "DictType":
        keys = _part_of(chain.from_iterable, info.key_type, around)
        return {dict}, _all_of([keys, _part_of(_all_values, info.value_type, around)])
    if kind in ("StructType", "DataclassType") and info.cls not in around:
        inside = around | {info.cls}
        fields = [
            _part_of(_each(attrgetter(field.name)), field.type, inside) for field in info.fields
        ]
        return {info.cls}, _all_of(fields)
    if kind == "UnionType":
        return _union([_shape(member, around) for member in info.types])
    raise _NotTypedError(kind)


def _union(members: list[tuple[set[type], Check | None]]) -> tuple[set[type], Check | None]:
    allowed = set().union(*(types for types, _ in members))
    checks = [_only(types, check) for types, check in members if check is not None]
    return allowed, _all_of(checks)


def _part_of(part: Part, info: Any, around: frozenset[type]) -> Check | None:
    """The check of a part of each value, with that of its types where these may differ."""
    types, check = _shape(info, around)
    if check is None:
        if all(of in _PLAIN or issubclass(of, enum.Enum) for of in types):
            return None
        return lambda values: types.issuperset(map(type, part(values)))

    def checked(values: list[Any]) -> bool:
        parts = list(part(values))
        return types.issuperset(map(type, parts)) and check(parts)

    return checked


def _in_utc(values: list[Any]) -> bool:
    """Moments come back in UTC."""
    return set(map(attrgetter("tzinfo"), values)) <= _UTC_OR_NONE


def _all_values(values: list[Any]) -> Iterable[Any]:
    return chain.from_iterable(map(dict.values, values))


def _each(getter: Callable[[Any], Any]) -> Part:
    return lambda values: map(getter, values)


def _as_long_as(count: int) -> Check:
    return lambda values: set(map(len, values)) <= {count}


def _only(types: set[type], check: Check) -> Check:
    """The check of those values that have certain types."""
    return lambda values: check([value for value in values if type(value) in types])


def _all_of(checks: Iterable[Check | None]) -> Check | None:
    wanted = [check for check in checks if check is not None]
    if not wanted:
        return None
    return lambda values: all(check(values) for check in wanted)
