"""Frames: every message comes back; bytes that are no frame are a ProtocolError and nothing else."""

import random
from typing import Any

import numpy as np
import pytest

import streamline as sl
from streamline.batch import Batch, ColumnBatch, Origins, RowBatch, as_column
from streamline.errors import EncodeError, ProtocolError, StateError
from streamline.ids import ChannelId
from streamline.keys import key_group
from streamline.messages import (
    END_OF_INPUT,
    MAX_TIMESTAMP,
    MIN_TIMESTAMP,
    Barrier,
    BarrierKind,
    Watermark,
)
from streamline.runtime.credits import Cost
from streamline.runtime.frames import (
    LENGTH,
    FrameKind,
    decode_message,
    encode_credit,
    encode_message,
    is_end,
    pack,
    unpack,
)

CHANNEL = ChannelId(3, 1, 70_000)
COST = Cost(1, 512)


class Order(sl.Record):
    user: str
    amount: float


class Loose(sl.Record):
    anything: Any


def wire(message: Any) -> bytes:
    return b"".join(encode_message(CHANNEL, message, COST))


def read(data: bytes) -> tuple[list[Any], Any, Cost]:
    """The frame in some bytes: header, message, cost."""
    (length,) = LENGTH.unpack_from(data)
    frame = memoryview(data)[LENGTH.size :]
    assert len(frame) == length
    header, body = unpack(frame)
    return header, *decode_message(header, body)


def keyed(batch: Batch, keys: list[Any]) -> Batch:
    return batch.with_keys(keys, np.array([key_group(k) for k in keys], dtype=np.uint16))


def columns(count: int = 3, **more: Any) -> ColumnBatch:
    found = {
        "i": np.arange(count, dtype=np.int64),
        "f": np.linspace(0, 1, count),
        "b": np.arange(count) % 2 == 0,
        "o": as_column([("t", i, {i}) for i in range(count)]),
        "u": np.arange(count, dtype=np.uint8),
        "h": np.arange(count, dtype=np.float32),
        **more,
    }
    return ColumnBatch(found, np.arange(count, dtype=np.int64) - 1, record_type=dict)


TIMES = np.array([MIN_TIMESTAMP, 5, MAX_TIMESTAMP])
ORDERS = [Order("ada", 1.5), Order("über", -1.0), Order("", 0.0)]

MESSAGES: dict[str, Any] = {
    "watermark": Watermark(1_700_000_000_000),
    "idle watermark": Watermark(MIN_TIMESTAMP, idle=True),
    "last watermark": Watermark(MAX_TIMESTAMP),
    "barrier": Barrier(7),
    "savepoint that drains": Barrier(1 << 40, BarrierKind.SAVEPOINT, drain=True),
    "end": END_OF_INPUT,
    "rows": RowBatch([1, "two", (3, None)], TIMES),
    "records": RowBatch(ORDERS, TIMES),
    "loose records": RowBatch([Loose((1, {2})), Loose(Order("a", 1.0))]),
    "keyed rows": keyed(RowBatch(ORDERS, TIMES), ["ada", ("über", 1), None]),
    "keyed by numbers": keyed(RowBatch([1, 2, 3]), [1, 2.5, True]),
    "columns": columns(),
    "keyed columns": keyed(columns(), ["a", "b", "c"]),
    "columns of records": RowBatch(ORDERS, TIMES).to_columns(),
    "one row": RowBatch(["x"]),
    "lists in a column": columns(2, o=as_column([[1, 2], [3, 4]])),
}


def look(message: Any) -> Any:
    """All there is to compare in a message."""
    if not isinstance(message, Batch):
        return message
    found: list[Any] = [type(message), message.timestamps.tolist()]
    found.append(None if message.keys is None else list(message.keys))
    found.append(None if message.groups is None else message.groups.tolist())
    if isinstance(message, ColumnBatch):
        found += [message.record_type, {n: c.dtype for n, c in message.columns.items()}]
        found.append({n: c.tolist() for n, c in message.columns.items()})
    return [*found, message.to_rows().values]


@pytest.mark.parametrize("name", MESSAGES)
def test_every_message_comes_back(name: str) -> None:
    message = MESSAGES[name]
    header, found, cost = read(wire(message))
    assert ChannelId(*header[1:4]) == CHANNEL
    assert look(found) == look(message)
    assert cost == (COST if isinstance(message, Batch) else Cost(0, 0))
    assert is_end(found) == (name == "end")


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_origins_come_along(layout: str) -> None:
    lines = [b"a", b"b", b"c"]
    origins = Origins("orders/1", lambda place: (10 + place, lines[place]))
    batch: Batch = RowBatch([{"n": 1}, {"n": 2}, {"n": 3}], origins=origins)
    if layout == "columns":
        batch = batch.to_columns()
    _, found, _ = read(wire(batch.take(np.array([2, 0]))))
    assert found.origins.partition == "orders/1"
    assert [found.origins.of(row) for row in range(2)] == [(12, b"c"), (10, b"a")]
    assert found.take(np.array([1])).origins.of(0) == (10, b"a")


def test_credit() -> None:
    data = b"".join(encode_credit(CHANNEL, Cost(2, 1 << 30)))
    header, _ = unpack(memoryview(data)[LENGTH.size :])
    assert header == [FrameKind.CREDIT, *CHANNEL, 2, 1 << 30]


def test_numeric_columns_are_not_copied_on_the_way_out() -> None:
    batch = columns()
    buffers = encode_message(CHANNEL, batch, COST)
    assert any(np.shares_memory(np.frombuffer(b, np.uint8), batch.columns["i"]) for b in buffers)


def test_columns_that_are_views_are_sent_as_what_they_show() -> None:
    batch = columns(6)
    part = ColumnBatch({"i": batch.columns["i"][::2]}, batch.timestamps[::2], record_type=dict)
    assert look(read(wire(part))[1]) == look(part)


@pytest.mark.parametrize(
    "column",
    [
        np.array(["a", "bcd", ""]),
        np.array([b"a", b"b", b"c"]),
        np.array([1, 2, 3], dtype="M8[ms]"),
        np.array([1, 2, 3], dtype=">i8"),
    ],
    ids=lambda column: str(column.dtype),
)
def test_other_columns_of_map_columns_come_through_or_say_why_not(column: Any) -> None:
    """map_columns may return any array."""
    batch = columns(3, other=column)
    try:
        data = wire(batch)
    except EncodeError:
        return
    assert read(data)[1].column("other") == column.tolist()


def test_a_value_that_cannot_leave_is_named() -> None:
    for batch in (RowBatch([object()]), columns(1, o=as_column([object()]))):
        with pytest.raises(EncodeError, match="type object cannot leave its process"):
            encode_message(CHANNEL, batch, COST)


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ([99, 0, 0, 0], b""),
        ([None, 0, 0, 0], b""),
        ([FrameKind.WATERMARK, 0, 0, 0], b""),
        ([FrameKind.BARRIER, 0, 0, 0, 1, "nonsense", False], b""),
        ([FrameKind.ROWS, 0, 0, 0], b""),
        ([FrameKind.ROWS, 0, 0, 0, 1, 1, 2, [16], False, ""], b"\0" * 16),
        ([FrameKind.ROWS, 0, 0, 0, 1, 1, 2, [16], False, ""], b"\0" * 16 + b"\x91\x01"),
        ([FrameKind.ROWS, 0, 0, 0, 1, 1, 2, [8], False, ""], b"\0" * 8 + b"\x92\x01\x02"),
        ([FrameKind.ROWS, 0, 0, 0, 1, 1, 2, [], False, ""], b"\x92\x01\x02"),
        ([FrameKind.ROWS, 0, 0, 0, 1, 1, 1, [8], True, ""], b"\0" * 8 + b"\x91\x01"),
        ([FrameKind.COLUMNS, 0, 0, 0, 1, 1, 1, [8], False, "", [["a", "<i8", 8]]], b"\0" * 12),
        ([FrameKind.COLUMNS, 0, 0, 0, 1, 1, 1, [8], False, "", [["a", "<i8", 16]]], b"\0" * 24),
        ([FrameKind.COLUMNS, 0, 0, 0, 1, 1, 1, [8], False, "", [["a", "zzz", 8]]], b"\0" * 16),
        ([FrameKind.COLUMNS, 0, 0, 0, 1, 1, 1, [8], False, "", [["a"]]], b"\0" * 16),
    ],
    ids=str,
)
def test_frames_that_lie_are_refused(header: list[Any], body: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_message(header, memoryview(body))


@pytest.mark.parametrize(
    "frame", [b"", b"\0", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\0\0\0\xc0", b"\1\0\0\0\x90"]
)
def test_what_is_no_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(memoryview(frame))


def harmed(random_: random.Random, data: bytes) -> bytes:
    """Bytes with a few things changed."""
    found = bytearray(data)
    for _ in range(random_.randint(1, 4)):
        place = random_.randrange(len(found) + 1)
        match random_.randrange(4):
            case 0 if place < len(found):
                found[place] ^= 1 << random_.randrange(8)
            case 1:
                del found[place : place + random_.randint(1, 8)]
            case 2:
                found[place:place] = random_.randbytes(random_.randint(1, 8))
            case _:
                del found[place:]
    return bytes(found)


@pytest.mark.parametrize("name", MESSAGES)
def test_harmed_frames_are_read_or_refused_but_nothing_else(name: str) -> None:
    data = wire(MESSAGES[name])[LENGTH.size :]
    refused = 0
    for seed in range(300):
        broken = harmed(random.Random(f"{name} {seed}"), data)
        try:
            header, body = unpack(memoryview(broken))
            message, _ = decode_message(header, body)
        except (ProtocolError, EncodeError, StateError):
            refused += 1  # also: a value that its type does not allow, a type nobody knows
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r} instead of ProtocolError") from error
        else:
            if isinstance(message, Batch) and message.keys is not None:
                assert len(message.keys) == len(message), f"seed {seed}"
                assert message.groups is not None
                assert len(message.groups) == len(message), f"seed {seed}"
    assert refused > 10, "the harm does not reach what is checked"


def test_garbage_is_refused() -> None:
    for seed in range(500):
        random_ = random.Random(seed)
        garbage = random_.randbytes(random_.randint(0, 200))
        with pytest.raises(ProtocolError):
            header, body = unpack(memoryview(garbage))
            decode_message(header, body)


def test_a_header_is_packed_with_its_lengths() -> None:
    (data,) = pack([1, "a"])
    assert data == LENGTH.pack(4 + 4) + LENGTH.pack(4) + b"\x92\x01\xa1a"
