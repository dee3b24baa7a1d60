"""Record, the base of a user's typed values, and the registry that finds a type by name.

Values cross processes and rest on disk under the name of their type; the registry turns the
name back into the class without importing anything.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import sys
from functools import lru_cache
from typing import Any

import msgspec

from streamline.errors import StateError

_types: dict[str, type] = {}
_JOB_MODULE = "streamline_job_"
_RESULTS = "streamline.results"


def job_module(stem: str) -> str:
    """Name of the module that a job file of that name becomes."""
    return _JOB_MODULE + re.sub(r"\W", "_", stem)


def is_job_module(name: str) -> bool:
    """Whether a module is a job file."""
    return name.startswith(_JOB_MODULE)


def type_name(cls: type) -> str:
    """The name under which a type is found again: ``module:qualified name``."""
    return f"{cls.__module__}:{cls.__qualname__}"


class Record(msgspec.Struct):
    """A typed record: fields with annotations, validated when decoded.

    It is a ``msgspec.Struct``: small, fast, comparable, with defaults and keyword options.

    >>> class Order(Record):
    ...     user: str
    ...     amount: float = 0.0
    >>> Order("ada")
    Order(user='ada', amount=0.0)
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _types[type_name(cls)] = cls


class WindowResult(Record):
    """What a window emits: its key and bounds, then one field per aggregation.

    Attributes:
        key: The key that the records of the window share.
        window_start: First millisecond of the window, since the epoch.
        window_end: First millisecond behind the window.

    >>> import streamline as sl
    >>> from streamline.testing import Event, OperatorHarness
    >>> harness = OperatorHarness.of(
    ...     lambda clicks: clicks.key_by("user").window(sl.Tumbling("5s")).aggregate(n=sl.Count())
    ... )
    >>> harness.push(Event({"user": "ada"}, 12_000))
    >>> harness.end()
    >>> harness.values()
    [WindowResult[n](key='ada', window_start=10000, window_end=15000, n=1)]
    """

    key: Any
    window_start: int
    window_end: int

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a window result has the fields {', '.join(self.__struct_fields__)}, not {name!r}"
        )


class KeyedResult(Record):
    """What an aggregation without a window emits: the key, then one field per aggregation.

    Attributes:
        key: The key that the records share.

    >>> import streamline as sl
    >>> from streamline.testing import OperatorHarness
    >>> harness = OperatorHarness.of(lambda clicks: clicks.key_by("user").aggregate(n=sl.Count()))
    >>> harness.push({"user": "ada"})
    >>> harness.values()
    [KeyedResult[n](key='ada', n=1)]
    """

    key: Any

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"this result has the fields {', '.join(self.__struct_fields__)}, not {name!r}"
        )


_BASES: dict[str, type[Record]] = {cls.__name__: cls for cls in (WindowResult, KeyedResult)}


def find_type(name: str) -> type:
    """The class behind a name made by :func:`type_name`.

    A job file may have been given another name since: its types are found by theirs.

    Raises:
        StateError: If no such class is known in this process.
    """
    found = _types.get(name)
    if found is not None:
        return found
    module, _, path = name.partition(":")
    if module == _RESULTS:
        base, _, fields = path.removesuffix("]").partition("[")
        return result_type(_BASES[base], tuple(fields.split(",")) if fields else ())
    modules = [module]
    if is_job_module(module) and module not in sys.modules:
        modules += [other for other in sys.modules if is_job_module(other)]
    for candidate in modules:
        target: Any = sys.modules.get(candidate)
        for part in path.split("."):
            target = getattr(target, part, None)
        if isinstance(target, type) and _is_data(target):
            return target
    raise StateError(
        f"the type {path!r} of module {module!r} is not known here; define it at the top level of "
        "the job file, under the name it had when the value was written"
    )


def _is_data(cls: type) -> bool:
    """Whether making one of it from stored bytes can do nothing but hold values."""
    return (
        issubclass(cls, msgspec.Struct | enum.Enum)
        or dataclasses.is_dataclass(cls)
        or (issubclass(cls, tuple) and hasattr(cls, "_fields"))
    )


@lru_cache(maxsize=256)
def result_type(base: type[Record], fields: tuple[str, ...]) -> type[Record]:
    """The record type of an aggregation's results: the fields of ``base``, then ``fields``."""
    made: type[Any] = msgspec.defstruct(
        f"{base.__name__}[{','.join(fields)}]",
        [(field, Any) for field in fields],
        bases=(base,),
        module=_RESULTS,
    )
    _types[type_name(made)] = made
    return made
