"""Batch, the unit of work: RowBatch and ColumnBatch behind one interface.

Both carry event timestamps and, behind a key_by, keys and key groups. A batch is never
changed once it was handed on. It knows nothing of operators, channels or formats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from inspect import Parameter, signature
from operator import itemgetter
from typing import Any, Final, Self, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from streamline.errors import InvariantError, UsageError
from streamline.keys import KeyCodes
from streamline.messages import MIN_TIMESTAMP

Timestamps: TypeAlias = npt.NDArray[np.int64]
Groups: TypeAlias = npt.NDArray[np.uint16]
Mask: TypeAlias = npt.NDArray[np.bool_]
Column: TypeAlias = npt.NDArray[Any]

ROW_BYTES_ESTIMATE: Final = 128
"""Size of a row when nobody counted; channels inside a process spend their credits by it."""


class Origins:
    """Where each record of a batch was read; looked up only for records that are refused.

    Sources give it when ``ReaderContext.origins`` asks for it, because a function behind them
    sends what it raised on to dead letters. Behind a key_by there is none.

    Args:
        partition: The source partition all records came from.
        find: Gives offset and bytes of a record, by its place in the batch as it was read.
        places: Which of those records these are, in order; None for all.

    >>> lines = [b"a", b"b", b"c"]
    >>> Origins("x.txt", lambda place: (2 * place, lines[place])).take(np.array([2, 0])).of(0)
    (4, b'c')
    """

    __slots__ = ("_find", "_places", "partition")

    def __init__(
        self,
        partition: str,
        find: Callable[[int], tuple[int, bytes]],
        places: npt.NDArray[np.intp] | None = None,
    ) -> None:
        self.partition = partition
        self._find = find
        self._places = places

    def of(self, row: int) -> tuple[int, bytes]:
        """Offset and bytes of the record in that row."""
        return self._find(row if self._places is None else int(self._places[row]))

    def take(self, indices: npt.NDArray[np.intp]) -> Origins:
        """Those of the records at ``indices``, in that order."""
        places = indices if self._places is None else self._places[indices]
        return Origins(self.partition, self._find, places)


def no_timestamps(count: int) -> Timestamps:
    """Timestamps of records that have none yet, shape ``(count,)``."""
    return np.full(count, MIN_TIMESTAMP, dtype=np.int64)


class Batch(ABC):
    """Some records in order, all of one partition of the stream.

    Attributes:
        timestamps: Event times, ms since the epoch, int64, shape ``(n,)``.
        keys: Key of each record, or None before key_by.
        groups: Key group of each record, uint16, shape ``(n,)``, or None before key_by.
        partition: The source partition all records came from, or None once mixed.
        origins: Where each record was read, if that is wanted and known.
        codes: The keys once more, as numbers, where key_by has just set them and knows these.

    >>> import numpy as np
    >>> def total(batch: Batch) -> int:
    ...     return sum(batch.column("amount"))
    >>> rows = RowBatch([{"amount": 3}, {"amount": 4}], np.array([1_000, 2_000]))
    >>> total(rows), total(rows.to_columns())
    (7, 7)
    """

    __slots__ = ("codes", "groups", "keys", "origins", "partition", "timestamps")

    def __init__(
        self,
        timestamps: Timestamps,
        *,
        keys: Sequence[Hashable] | None = None,
        groups: Groups | None = None,
        partition: str | None = None,
        origins: Origins | None = None,
    ) -> None:
        self.timestamps = timestamps
        self.keys = keys
        self.groups = groups
        self.partition = partition
        self.origins = origins
        self.codes: KeyCodes | None = None

    def __len__(self) -> int:
        return len(self.timestamps)

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """About how much memory the records take.

        >>> RowBatch(["a", "b"]).size_bytes == 2 * ROW_BYTES_ESTIMATE
        True
        """

    @abstractmethod
    def to_rows(self) -> RowBatch:
        """The same records as rows; itself if it is rows already.

        >>> columns = {"n": np.array([1, 2])}
        >>> ColumnBatch(columns, np.array([0, 0]), record_type=dict).to_rows().values
        [{'n': 1}, {'n': 2}]
        """

    @abstractmethod
    def to_columns(self) -> ColumnBatch:
        """The same records as columns; itself if it is columns already.

        Raises:
            UsageError: If the rows are not records or dicts of one shape.

        >>> RowBatch([{"n": 1}, {"n": 2}]).to_columns().columns
        {'n': array([1, 2])}
        """

    @abstractmethod
    def column(self, name: str) -> list[Any]:
        """One field of every record, as a list of Python values.

        Raises:
            UsageError: If the records have no such field; the message lists those there are.

        >>> RowBatch([{"n": 1}, {"n": 2}]).column("n")
        [1, 2]
        """

    def where(self, mask: Mask) -> Self:
        """The records where ``mask`` (bool, shape ``(n,)``) is true.

        >>> RowBatch(["a", "b", "c"]).where(np.array([True, False, True])).values
        ['a', 'c']
        """
        return self.take(np.flatnonzero(mask))

    @abstractmethod
    def take(self, indices: npt.NDArray[np.intp]) -> Self:
        """The records at ``indices`` (intp, shape ``(m,)``), in that order.

        >>> RowBatch(["a", "b", "c"]).take(np.array([2, 0])).values
        ['c', 'a']
        """

    @abstractmethod
    def with_keys(self, keys: Sequence[Hashable], groups: Groups) -> Batch:
        """The same records under these keys; where they were read is not kept.

        Args:
            keys: One for each record.
            groups: Key group of each, uint16, shape ``(n,)``.

        >>> RowBatch([3, 4]).with_keys(["odd", "even"], np.array([7, 1], dtype=np.uint16)).keys
        ['odd', 'even']
        """

    @abstractmethod
    def with_timestamps(self, timestamps: Timestamps) -> Batch:
        """The same records at these event times: ms since the epoch, int64, shape ``(n,)``.

        >>> RowBatch(["a", "b"]).with_timestamps(np.array([1_000, 2_000])).timestamps
        array([1000, 2000])
        """

    def split(self, targets: npt.NDArray[np.intp], count: int) -> list[Batch | None]:
        """Split by target: element ``i`` of the result holds the records with target ``i``.

        Args:
            targets: For each record, where it goes, shape ``(n,)``.
            count: How many targets there are.

        >>> parts = RowBatch(["a", "b", "c"]).split(np.array([1, 0, 1]), 3)
        >>> [None if part is None else part.values for part in parts]
        [['b'], ['a', 'c'], None]
        """
        parts: list[Batch | None] = [None] * count
        # Narrow integers are sorted by radix: one pass, however many targets there are.
        narrow = targets.astype(np.uint16)
        order = np.argsort(narrow, kind="stable")
        ends = np.cumsum(np.bincount(narrow, minlength=count)).tolist()
        start = 0
        for target, end in enumerate(ends):
            if end - start == len(self):
                parts[target] = self
            elif end > start:
                parts[target] = self.take(order[start:end])
            start = end
        return parts


class RowBatch(Batch):
    """Records as a list of Python values.

    >>> batch = RowBatch(["a", "b"], np.array([1, 2]))
    >>> batch.where(np.array([False, True])).values
    ['b']
    """

    __slots__ = ("values",)

    def __init__(
        self,
        values: list[Any],
        timestamps: Timestamps | None = None,
        *,
        keys: Sequence[Hashable] | None = None,
        groups: Groups | None = None,
        partition: str | None = None,
        origins: Origins | None = None,
    ) -> None:
        super().__init__(
            no_timestamps(len(values)) if timestamps is None else timestamps,
            keys=keys,
            groups=groups,
            partition=partition,
            origins=origins,
        )
        if len(values) != len(self.timestamps):
            raise InvariantError(
                f"a batch of {len(values)} records with {len(self.timestamps)} timestamps"
            )
        self.values = values

    @property
    def size_bytes(self) -> int:
        return ROW_BYTES_ESTIMATE * len(self.values)

    def to_rows(self) -> RowBatch:
        return self

    def to_columns(self) -> ColumnBatch:
        values = self.values
        first = values[0] if values else None
        names: tuple[str, ...]
        kind: type
        if isinstance(first, msgspec.Struct):
            names, kind = first.__struct_fields__, type(first)
            if len(set(map(type, values))) > 1:
                raise UsageError("records of several types cannot stand in one batch of columns")
        elif isinstance(first, dict):
            names, kind = tuple(first), dict
            # Dicts are equal in whatever order their keys stand.
            if any(value.keys() != first.keys() for value in values):
                raise UsageError("dicts with different keys cannot stand in one batch of columns")
        elif first is None and not values:
            names, kind = (), dict
        else:
            raise UsageError(f"values of type {type(first).__name__} have no columns; use a Record")
        return ColumnBatch(
            {name: as_column(self.column(name)) for name in names},
            self.timestamps,
            record_type=kind,
            keys=self.keys,
            groups=self.groups,
            partition=self.partition,
            origins=self.origins,
        )

    def column(self, name: str) -> list[Any]:
        values = self.values
        try:
            if values and isinstance(values[0], dict):
                return [value[name] for value in values]
            return [getattr(value, name) for value in values]
        except (AttributeError, KeyError, TypeError) as error:
            raise missing_field(values, name) from error

    def take(self, indices: npt.NDArray[np.intp]) -> Self:
        pick = _picker(indices)
        return type(self)(
            pick(self.values),
            self.timestamps[indices],
            keys=None if self.keys is None else pick(self.keys),
            groups=None if self.groups is None else self.groups[indices],
            partition=self.partition,
            origins=None if self.origins is None else self.origins.take(indices),
        )

    def with_keys(self, keys: Sequence[Hashable], groups: Groups) -> RowBatch:
        return RowBatch(
            self.values, self.timestamps, keys=keys, groups=groups, partition=self.partition
        )

    def with_timestamps(self, timestamps: Timestamps) -> RowBatch:
        return RowBatch(
            self.values,
            timestamps,
            keys=self.keys,
            groups=self.groups,
            partition=self.partition,
            origins=self.origins,
        )


class ColumnBatch(Batch):
    """Records as columns: a dict of numpy arrays of equal length.

    Numbers and booleans have their own dtype; all else stands in object arrays. ``record_type``
    is what a row is: a Record class, or dict.

    Args:
        columns: By field name; arrays of shape ``(n,)``.
        timestamps: Event times, ms since the epoch, int64, shape ``(n,)``.
        record_type: What a row is.
        keys, groups, partition, origins: As of :class:`Batch`.

    >>> columns = {"user": np.array(["ada", "bob"], dtype=object), "amount": np.array([3, 4])}
    >>> batch = ColumnBatch(columns, np.array([1_000, 2_000]), record_type=dict)
    >>> batch.take(np.array([1])).to_rows().values
    [{'user': 'bob', 'amount': 4}]
    """

    __slots__ = ("columns", "record_type")

    def __init__(
        self,
        columns: dict[str, Column],
        timestamps: Timestamps,
        *,
        record_type: type,
        keys: Sequence[Hashable] | None = None,
        groups: Groups | None = None,
        partition: str | None = None,
        origins: Origins | None = None,
    ) -> None:
        super().__init__(timestamps, keys=keys, groups=groups, partition=partition, origins=origins)
        self.columns = columns
        self.record_type = record_type

    @property
    def size_bytes(self) -> int:
        return sum(
            column.nbytes if column.dtype != object else ROW_BYTES_ESTIMATE // 2 * len(column)
            for column in self.columns.values()
        )

    def to_rows(self) -> RowBatch:
        lists = [column.tolist() for column in self.columns.values()]
        rows: Iterable[tuple[Any, ...]] = zip(*lists, strict=True) if lists else [()] * len(self)
        values: list[Any]
        if self.record_type is dict:
            names = tuple(self.columns)
            values = [dict(zip(names, row, strict=True)) for row in rows]
        elif tuple(self.columns) == getattr(self.record_type, "__struct_fields__", None):
            kind = self.record_type
            if _takes_places(kind):
                values = [kind(*row) for row in rows]
            else:
                names = tuple(self.columns)
                values = [kind(**dict(zip(names, row, strict=True))) for row in rows]
        else:
            raise UsageError(
                f"the columns {', '.join(self.columns)} are not the fields of "
                f"{self.record_type.__name__}"
            )
        return RowBatch(
            values,
            self.timestamps,
            keys=self.keys,
            groups=self.groups,
            partition=self.partition,
            origins=self.origins,
        )

    def to_columns(self) -> ColumnBatch:
        return self

    def array(self, name: str) -> Column:
        """One column as the array it is, shape ``(n,)``.

        Raises:
            UsageError: If there is no such column.

        >>> RowBatch([{"n": 1}, {"n": 2}]).to_columns().array("n")
        array([1, 2])
        """
        try:
            return self.columns[name]
        except KeyError:
            raise UsageError(
                f"there is no field {name!r}; the columns are {', '.join(self.columns)}"
            ) from None

    def column(self, name: str) -> list[Any]:
        values: list[Any] = self.array(name).tolist()
        return values

    def take(self, indices: npt.NDArray[np.intp]) -> Self:
        return type(self)(
            {name: column[indices] for name, column in self.columns.items()},
            self.timestamps[indices],
            record_type=self.record_type,
            keys=None if self.keys is None else _picker(indices)(self.keys),
            groups=None if self.groups is None else self.groups[indices],
            partition=self.partition,
            origins=None if self.origins is None else self.origins.take(indices),
        )

    def with_keys(self, keys: Sequence[Hashable], groups: Groups) -> ColumnBatch:
        return ColumnBatch(
            self.columns,
            self.timestamps,
            record_type=self.record_type,
            keys=keys,
            groups=groups,
            partition=self.partition,
        )

    def with_timestamps(self, timestamps: Timestamps) -> ColumnBatch:
        return ColumnBatch(
            self.columns,
            timestamps,
            record_type=self.record_type,
            keys=self.keys,
            groups=self.groups,
            partition=self.partition,
            origins=self.origins,
        )


@lru_cache(maxsize=256)
def _takes_places(kind: type) -> bool:
    """Whether a record can be made of its fields in order, without their names."""
    return not any(
        parameter.kind is Parameter.KEYWORD_ONLY
        for parameter in signature(kind).parameters.values()
    )


def as_column(values: list[Any]) -> Column:
    """A list as a column: int64, float64 or bool if all are of that one type, else object."""
    kinds = set(map(type, values))
    if len(kinds) == 1:
        kind = next(iter(kinds))
        if kind is float:
            return np.array(values, dtype=np.float64)
        if kind is bool:
            return np.array(values, dtype=np.bool_)
        if kind is int:
            try:
                return np.array(values, dtype=np.int64)
            except OverflowError:
                pass
    return as_object_column(values)


def as_object_column(values: list[Any]) -> Column:
    """A list as a column of Python objects, also where these are lists themselves."""
    return np.fromiter(values, dtype=object, count=len(values))


def _picker(indices: npt.NDArray[np.intp]) -> Callable[[Sequence[Any]], list[Any]]:
    """What takes the items at some places out of a sequence; three times as fast as a loop."""
    places = indices.tolist()
    if len(places) < 2:
        return lambda items: [items[place] for place in places]
    pick = itemgetter(*places)
    return lambda items: list(pick(items))


def missing_field(values: Sequence[Any], name: str) -> UsageError:
    """The error for a field that some record lacks, naming those it has."""
    for value in values:
        if isinstance(value, dict):
            if name not in value:
                return UsageError(f"a record has no field {name!r}; it has {', '.join(value)}")
        elif not hasattr(value, name):
            fields = getattr(value, "__struct_fields__", None)
            if fields:
                kind = type(value).__name__
                return UsageError(f"{kind} has no field {name!r}; it has {', '.join(fields)}")
            return UsageError(
                f"a value of type {type(value).__name__} has no field {name!r} ({value!r:.80})"
            )
    return UsageError(f"field {name!r} cannot be read")
