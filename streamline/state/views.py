"""ValueState, ListState and MapState: state of one key, as a process function sees it.

As class attributes of a ProcessFunction they are declarations; the operator binds a copy of
each to its table and to the current key.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from copy import copy, deepcopy
from typing import Any, Generic, Self, TypeVar

from streamline.state.backend import Table
from streamline.state.schema import Layout, alternatives

V = TypeVar("V")
M = TypeVar("M")
_PLAIN = frozenset({int, float, str, bytes, bool, type(None)})


class Scope:
    """The key for which a function is being called."""

    __slots__ = ("key",)

    def __init__(self) -> None:
        self.key: Hashable = None


class StateView:
    """Base of the views: bound to a table and a scope."""

    _table: Table
    _scope: Scope

    def layout(self) -> Layout:
        """What it stores, for comparing with that of a changed job."""
        raise NotImplementedError

    def bind(self, table: Table, scope: Scope) -> Self:
        """A copy that works on a table, for the key of a scope."""
        bound = copy(self)
        bound._table = table
        bound._scope = scope
        return bound

    def clear(self) -> None:
        """Forget what is stored for the key."""
        self._table.delete(0, self._scope.key)

    def _entry(self) -> list[Any] | None:
        """The entry; what it holds is handed to the user, who may change it and set it again."""
        entry = self._table.get(0, self._scope.key)
        if entry is not None and type(entry[1]) not in _PLAIN:
            self._table.preserve(0, self._scope.key)
        return entry


class ValueState(StateView, Generic[V]):
    """One value for each key.

    Args:
        type_: Type of the value, for type checkers and readers.
        default: What ``get`` returns before anything was set; a copy of it for each call.

    >>> import streamline as sl
    >>> from streamline.testing import OperatorHarness
    >>> class EveryOther(sl.ProcessFunction[str, str, str]):
    ...     skip = sl.ValueState(bool, False)
    ...     def process(self, value, ctx):
    ...         if self.skip.get():
    ...             self.skip.clear()
    ...         else:
    ...             self.skip.set(True)
    ...             yield value
    >>> harness = OperatorHarness.of(lambda words: words.key_by(len).process(EveryOther()))
    >>> harness.push("so", "no", "far", "do")
    >>> harness.values()
    ['so', 'far', 'do']
    """

    def __init__(self, type_: type[V], default: V | None = None) -> None:
        self.type_ = type_
        self.default = default

    def layout(self) -> Layout:
        return {"kind": "value", "type": alternatives(self.type_)}

    def get(self) -> V | None:
        """The value, or the default."""
        entry = self._entry()
        if entry is not None:
            return entry[1]  # type: ignore[no-any-return]
        # What a key changes in place must not be there for another.
        return self.default if type(self.default) in _PLAIN else deepcopy(self.default)

    def set(self, value: V) -> None:
        """Store a value; one that is changed in place afterwards has to be set again."""
        entry = self._table.touch(0, self._scope.key, lambda: [0, None])
        entry[1] = value


class ListState(StateView, Generic[V]):
    """A list of values for each key.

    Args:
        type_: Type of the values, for type checkers and readers.

    >>> import streamline as sl
    >>> from streamline.testing import OperatorHarness
    >>> class Pairs(sl.ProcessFunction[str, str, list[str]]):
    ...     open_ones = sl.ListState(str)
    ...     def process(self, value, ctx):
    ...         self.open_ones.append(value)
    ...         if len(self.open_ones.get()) == 2:
    ...             yield self.open_ones.get()
    ...             self.open_ones.set([])
    >>> harness = OperatorHarness.of(lambda words: words.key_by(len).process(Pairs()))
    >>> harness.push("so", "far", "no")
    >>> harness.values()
    [['so', 'no']]
    """

    def __init__(self, type_: type[V]) -> None:
        self.type_ = type_

    def layout(self) -> Layout:
        return {"kind": "list", "type": alternatives(self.type_)}

    def get(self) -> list[V]:
        """The values, in the order in which they were added; a copy."""
        entry = self._entry()
        return [] if entry is None else list(entry[1])

    def append(self, value: V) -> None:
        """Add a value."""
        self._table.touch(0, self._scope.key, lambda: [0, []])[1].append(value)

    def set(self, values: list[V]) -> None:
        """Replace all values."""
        self._table.touch(0, self._scope.key, lambda: [0, []])[1] = list(values)


class MapState(StateView, Generic[M, V]):
    """A dict for each key: ``state[name]``, ``in``, ``len`` and iteration work as on a dict.

    Args:
        key_type: Type of the names in it, for type checkers and readers.
        value_type: Type of the values.

    >>> import streamline as sl
    >>> from streamline.testing import OperatorHarness
    >>> class Basket(sl.ProcessFunction[str, dict, dict]):
    ...     items = sl.MapState(str, int)
    ...     def process(self, value, ctx):
    ...         self.items[value["item"]] = self.items.get(value["item"], 0) + value["n"]
    ...         yield dict(self.items.items())
    >>> harness = OperatorHarness.of(lambda adds: adds.key_by("user").process(Basket()))
    >>> harness.push({"user": "ada", "item": "tea", "n": 1}, {"user": "ada", "item": "tea", "n": 2})
    >>> harness.values()
    [{'tea': 1}, {'tea': 3}]
    """

    def __init__(self, key_type: type[M], value_type: type[V]) -> None:
        self.key_type = key_type
        self.value_type = value_type

    def layout(self) -> Layout:
        types = {"key": alternatives(self.key_type), "type": alternatives(self.value_type)}
        return {"kind": "map", **types}

    def __getitem__(self, name: M) -> V:
        return self._map()[name]  # type: ignore[no-any-return]

    def __setitem__(self, name: M, value: V) -> None:
        self._table.touch(0, self._scope.key, lambda: [0, {}])[1][name] = value

    def __delitem__(self, name: M) -> None:
        if name not in self._map():
            raise KeyError(name)
        del self._table.touch(0, self._scope.key, lambda: [0, {}])[1][name]

    def __contains__(self, name: object) -> bool:
        return name in self._map()

    def __iter__(self) -> Iterator[M]:
        return iter(list(self._map()))

    def __len__(self) -> int:
        return len(self._map())

    def get(self, name: M, default: V | None = None) -> V | None:
        """The value under a name, or the default."""
        found: V | None = self._map().get(name, default)
        return found

    def items(self) -> list[tuple[M, V]]:
        """All pairs; a copy."""
        return list(self._map().items())

    def _map(self) -> dict[Any, Any]:
        entry = self._entry()
        return {} if entry is None else entry[1]
