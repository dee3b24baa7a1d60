"""Decoder: the records of a partition as a batch, without those that are bad.

It knows the source's format and where records stand, for the words about a bad one; nothing of
consumers, offsets to go on from, or how they were fetched.
"""

from __future__ import annotations

from typing import Any

from aiokafka import TopicPartition

from streamline.batch import Batch, Origins, RowBatch
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

    def decode(self, name: str, at: TopicPartition, rows: list[Any]) -> Batch | None:
        """The records as a batch; None if nothing of them is left.

        Args:
            name: Of the partition, as in ``batch.partition``.
            at: The same for Kafka.
            rows: Objects with ``offset``, ``timestamp``, ``key``, ``value`` and ``headers``.

        Raises:
            DecodeError: For a bad record, when the format says so.
        """
        values = [row.value for row in rows]
        counters = self._context.counters
        try:
            counters.bytes_in += len(b"".join(values))  # the quickest way to their length
        except TypeError:  # there is a tombstone among them
            counters.bytes_in += sum(len(value) for value in values if value is not None)
            if not self._metadata:
                rows = [row for row in rows if row.value is not None]
                counters.skipped += len(values) - len(rows)
                values = [row.value for row in rows]
        if self._metadata:
            return self._with_metadata(name, at, rows)
        try:
            if self._context.layout == "columns" and values:
                columns = self._format.decode_columns(b"\n".join(values))
                if columns is not None and len(columns) == len(values):
                    return self._mark(name, columns, rows)
            return self._mark(name, RowBatch(self._format.decode_many(values)), rows)
        except DecodeError:
            bad: set[int] = set()

            def leave_out(place: int, data: bytes, why: str) -> None:
                bad.add(place)
                self._bad(name, rows[place].offset, data, why)

            found = RowBatch(self._format.decode_each(values, leave_out))
            good = [row for place, row in enumerate(rows) if place not in bad]
            return self._mark(name, found, good)

    def _mark(self, name: str, batch: Batch, rows: list[Any]) -> Batch | None:
        batch.partition = name
        if self._context.origins:
            batch.origins = Origins(
                name, lambda place: (rows[place].offset, rows[place].value or b"")
            )
        return batch if len(batch) else None

    def _with_metadata(self, name: str, at: TopicPartition, rows: list[Any]) -> Batch | None:
        topic, number = at
        given = [row for row in rows if row.value is not None]
        bad: set[int] = set()

        def leave_out(place: int, data: bytes, why: str) -> None:
            bad.add(given[place].offset)
            self._bad(name, given[place].offset, data, why)

        try:
            values = iter(self._format.decode_many([row.value for row in given]))
        except DecodeError:
            values = iter(self._format.decode_each([row.value for row in given], leave_out))
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
        return self._mark(name, RowBatch(records), rows)

    def _bad(self, name: str, offset: int, data: bytes, reason: str) -> None:
        letter = DeadLetter(reason, self._context.node, name, offset, data)
        leave_out(self._context, letter, self._format.on_error, f"{name}, offset {offset}")
