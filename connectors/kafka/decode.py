"""Decoder: the records of a partition as a batch, without those that are bad.

It knows the source's format and where records stand, for the words about a bad one; nothing of
consumers, offsets to go on from, or how they were fetched.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate, chain
from typing import Any

from aiokafka import TopicPartition

from streamline.batch import Batch, Origins, RowBatch
from streamline.connectors.kafka.batches import Piece
from streamline.connectors.kafka.record import KafkaRecord
from streamline.errors import DecodeError
from streamline.formats import Format
from streamline.io import DeadLetter, ReaderContext, leave_out


class Decoder:
    """Makes batches of what was fetched.

    Args:
        format: How a value is decoded.
        metadata: Hand over KafkaRecords, tombstones among them.
        context: Where bad records go and what is counted.
    """

    def __init__(self, format: Format[Any], *, metadata: bool, context: ReaderContext) -> None:
        self._format = format
        self._metadata = metadata
        self._context = context

    def decode(self, name: str, at: TopicPartition, pieces: list[Piece]) -> Batch | None:
        """The records as a batch; None if nothing of them is left.

        Args:
            name: Of the partition, as in ``batch.partition``.
            at: The same for Kafka.
            pieces: The records; with all of them, if there is to be metadata.

        Raises:
            DecodeError: For a bad record, when the format says so.
        """
        values = list(chain.from_iterable(piece.values for piece in pieces))
        offsets: Callable[[int], int] = _Offsets(pieces).at
        counters = self._context.counters
        try:
            counters.bytes_in += len(b"".join(values))  # the quickest way to their length
        except TypeError:  # there is a tombstone among them
            there = [place for place, value in enumerate(values) if value is not None]
            counters.bytes_in += sum(len(values[place]) for place in there)
            if not self._metadata:
                counters.skipped += len(values) - len(there)
                values = [values[place] for place in there]
                offsets = _through(there, offsets)
        if self._metadata:
            records = list(chain.from_iterable(piece.records for piece in pieces))
            return self._with_metadata(name, at, records)
        try:
            if self._context.layout == "columns" and values:
                lines = b"\n".join(values)
                one_each = lines.count(b"\n") == len(values) - 1  # else one may be two
                columns = self._format.decode_columns(lines) if one_each else None
                if columns is not None and len(columns) == len(values):
                    return self._mark(name, columns, values, offsets)
            return self._mark(name, RowBatch(self._format.decode_many(values)), values, offsets)
        except DecodeError:
            bad: set[int] = set()

            def without(place: int, data: bytes, why: str) -> None:
                bad.add(place)
                self._bad(name, offsets(place), data, why)

            found = RowBatch(self._format.decode_each(values, without))
            good = [place for place in range(len(values)) if place not in bad]
            left = [values[place] for place in good]
            return self._mark(name, found, left, _through(good, offsets))

    def _mark(
        self, name: str, batch: Batch, values: list[Any], offsets: Callable[[int], int]
    ) -> Batch | None:
        batch.partition = name
        if self._context.origins:
            batch.origins = Origins(name, lambda place: (offsets(place), values[place] or b""))
        return batch if len(batch) else None

    def _with_metadata(self, name: str, at: TopicPartition, rows: list[Any]) -> Batch | None:
        topic, number = at
        given = [row for row in rows if row.value is not None]
        bad: set[int] = set()

        def without(place: int, data: bytes, why: str) -> None:
            bad.add(given[place].offset)
            self._bad(name, given[place].offset, data, why)

        try:
            values = iter(self._format.decode_many([row.value for row in given]))
        except DecodeError:
            values = iter(self._format.decode_each([row.value for row in given], without))
        rows = [row for row in rows if row.offset not in bad]
        records = [
            KafkaRecord(
                None if row.value is None else next(values),
                row.key,
                list(row.headers),
                row.timestamp,
                topic,
                number,
                row.offset,
            )
            for row in rows
        ]
        read = [row.value for row in rows]
        return self._mark(name, RowBatch(records), read, lambda place: int(rows[place].offset))

    def _bad(self, name: str, offset: int, data: bytes, reason: str) -> None:
        letter = DeadLetter(reason, self._context.node, name, offset, data)
        leave_out(self._context, letter, self._format.on_error, f"{name}, offset {offset}")


class _Offsets:
    """Where the records of some pieces stand; of few it is asked at all."""

    def __init__(self, pieces: list[Piece]) -> None:
        self._pieces = pieces
        self._ends: list[int] = []

    def at(self, place: int) -> int:
        """The offset of the record at a place in all of them."""
        if not self._ends:
            self._ends = list(accumulate(len(piece.values) for piece in self._pieces))
        number = bisect_right(self._ends, place)
        before = self._ends[number - 1] if number else 0
        return self._pieces[number].offsets[place - before]


def _through(places: list[int], offsets: Callable[[int], int]) -> Callable[[int], int]:
    """Offsets of those that are left, of the records at some places."""
    return lambda place: offsets(places[place])
