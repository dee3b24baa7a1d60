"""Decoder: what was read of a Kafka partition becomes a batch, and each bad value is told with its
offset."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from aiokafka import TopicPartition

import streamline as sl
from streamline.connectors.kafka.batches import Piece
from streamline.connectors.kafka.decode import Decoder
from streamline.errors import DecodeError
from tests.connectors.reading import reader_context

AT = TopicPartition("t", 0)


class N(sl.Record):
    n: int


def one(n):
    return b'{"n":%d}' % n


def pieces(*parts):
    """Each part: its offsets and values."""
    return [Piece(list(values), offsets, offsets[-1] + 1, []) for offsets, values in parts]


def decoded(parts, layout="rows", on_error="dead_letter", origins=False):
    letters = []
    context = replace(reader_context(layout=layout, dead_letters=letters), origins=origins)
    decoder = Decoder(sl.Json(N, on_error=on_error), metadata=False, context=context)
    batch = decoder.decode("t/0", AT, pieces(*parts))
    return batch, [(letter.offset, letter.data) for letter in letters], context.counters


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize(
    "values",
    [
        [one(1) + b"\n" + one(2), one(3), b""],
        [b"", one(1) + b"\n" + one(2), one(3)],
        [one(1) + b"\n" + one(2), b"", one(3)],
        [one(1) + b"\n" + one(2), b" ", one(3)],
    ],
)
def test_two_values_in_one_are_bad_whatever_stands_beside(layout, values):
    batch, letters, _ = decoded([(range(10, 13), values)], layout)
    assert [record.n for record in batch.to_rows().values] == [3]
    assert letters == [(10 + place, data) for place, data in enumerate(values) if data != one(3)]
    with pytest.raises(DecodeError, match=r"t/0, offset 1[01]: "):
        decoded([(range(10, 13), values)], layout, "fail")


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_offsets_over_several_pieces(layout):
    """Of two of them some records are gone, one is empty, and one holds a tombstone."""
    parts = [
        (range(5, 8), [one(0), b"bad", one(1)]),
        ([9, 12], [one(2), b"worse"]),
        (range(20, 23), [None, one(3), b"worst"]),
        ([40], [one(4)]),
    ]
    batch, letters, counters = decoded(parts, layout, origins=True)
    assert [record.n for record in batch.to_rows().values] == [0, 1, 2, 3, 4]
    assert letters == [(6, b"bad"), (12, b"worse"), (22, b"worst")]
    found = [batch.origins.of(row) for row in range(len(batch))]
    assert found == [(5, one(0)), (7, one(1)), (9, one(2)), (21, one(3)), (40, one(4))]
    assert batch.origins.take(np.array([4, 1])).of(0) == (40, one(4))
    assert counters.skipped == 1
    lengths = [len(value) for _, values in parts for value in values if value is not None]
    assert counters.bytes_in == sum(lengths)


def test_a_piece_is_cut_by_offsets():
    piece = Piece([b"a", b"b", b"c"], [3, 7, 9], 10, [])
    assert piece.between(0, None) is piece
    assert piece.between(4, 9).values == [b"b"]
    assert list(Piece([b"a", b"b"], range(3, 5), 5, []).between(4, None).offsets) == [4]
    records = [SimpleNamespace(offset=at, value=b"%d" % at) for at in (3, 7)]
    left = Piece.of(records, 10).between(7, 8)
    assert (left.values, left.offsets, left.records) == ([b"7"], [7], records[1:])
