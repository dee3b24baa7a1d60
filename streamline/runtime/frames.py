"""In-band messages as frames: MessagePack with a length in front, columns as raw buffers.

    u32 length of all that follows | u32 length of the header | header | raw buffers

The header is a MessagePack list that begins with the kind of frame and the channel.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any, TypeAlias

import msgpack
import numpy as np

from streamline.batch import Batch, Column, ColumnBatch, Origins, RowBatch, as_object_column
from streamline.codec import decode, decode_list, encode, encode_list
from streamline.errors import EncodeError, ProtocolError
from streamline.ids import ChannelId, Epoch
from streamline.messages import END_OF_INPUT, Barrier, BarrierKind, EndOfInput, Watermark
from streamline.record import find_type, type_name
from streamline.runtime.channel import FREE, Message
from streamline.runtime.credits import Cost

Buffers: TypeAlias = list[bytes | memoryview]
LENGTH = struct.Struct("<I")


class FrameKind(IntEnum):
    """What a frame carries."""

    ROWS = 1
    COLUMNS = 2
    WATERMARK = 3
    BARRIER = 4
    END_OF_INPUT = 5
    CREDIT = 6
    HELLO = 7


def pack(header: list[Any], buffers: Buffers | None = None) -> Buffers:
    """A frame as a list of buffers, to be written one after the other."""
    buffers = buffers or []
    head = msgpack.packb(header, use_bin_type=True)
    total = LENGTH.size + len(head) + sum(len(buffer) for buffer in buffers)
    return [LENGTH.pack(total) + LENGTH.pack(len(head)) + head, *buffers]


def unpack(frame: memoryview) -> tuple[list[Any], memoryview]:
    """Header and buffers of a frame (without its own length in front).

    Raises:
        ProtocolError: If it is not a frame.
    """
    try:
        (size,) = LENGTH.unpack_from(frame)
        header = msgpack.unpackb(frame[LENGTH.size : LENGTH.size + size], use_list=True)
    except (struct.error, ValueError, msgpack.UnpackException) as error:
        raise ProtocolError(f"a frame cannot be read: {error}") from error
    if not isinstance(header, list) or not header:
        raise ProtocolError("a frame without a header")
    return header, frame[LENGTH.size + size :]


def encode_message(channel: ChannelId, message: Message, cost: Cost) -> Buffers:
    """An in-band message as a frame.

    Raises:
        EncodeError: If a value of a batch cannot leave its process.
    """
    if isinstance(message, RowBatch):
        return _encode_rows(channel, message, cost)
    if isinstance(message, ColumnBatch):
        return _encode_columns(channel, message, cost)
    if isinstance(message, Watermark):
        return pack([FrameKind.WATERMARK, *channel, message.timestamp, message.idle])
    if isinstance(message, Barrier):
        kind = str(message.kind)
        return pack([FrameKind.BARRIER, *channel, message.epoch, kind, message.drain])
    return pack([FrameKind.END_OF_INPUT, *channel])


def encode_credit(channel: ChannelId, cost: Cost) -> Buffers:
    """Credits that go back to a sender."""
    return pack([FrameKind.CREDIT, *channel, *cost])


def decode_message(header: list[Any], body: memoryview) -> tuple[Message, Cost]:
    """Undo :func:`encode_message`.

    Raises:
        ProtocolError: If the frame is not what its header says.
    """
    try:
        kind, fields = header[0], header[4:]
        if kind == FrameKind.ROWS:
            return _decode_rows(fields, body)
        if kind == FrameKind.COLUMNS:
            return _decode_columns(fields, body)
        if kind == FrameKind.WATERMARK:
            return Watermark(fields[0], fields[1]), FREE
        if kind == FrameKind.BARRIER:
            return Barrier(Epoch(fields[0]), BarrierKind(fields[1]), fields[2]), FREE
        if kind == FrameKind.END_OF_INPUT:
            return END_OF_INPUT, FREE
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        SyntaxError,
    ) as error:
        raise ProtocolError(f"a frame is damaged: {error}") from error
    raise ProtocolError(f"a frame of unknown kind {kind}")


def _raw(column: Column) -> memoryview:
    """The bytes of an array, not copied."""
    return np.ascontiguousarray(column).data.cast("B")


def _common(batch: Batch) -> tuple[Buffers, list[int], bool, bool]:
    """What stands beside the values as buffers; their lengths; whether keys, whether origins."""
    buffers: Buffers = [_raw(batch.timestamps)]
    if batch.groups is not None:
        buffers.append(_raw(batch.groups))
    if batch.keys is not None:
        buffers.append(encode(batch.keys if isinstance(batch.keys, list) else list(batch.keys)))
    origins = batch.origins
    if origins is not None:
        found = [list(origins.of(row)) for row in range(len(batch))]
        buffers.append(encode([origins.partition, found]))
    sizes = [len(buffer) for buffer in buffers]
    return buffers, sizes, batch.keys is not None, origins is not None


def _read_common(
    count: int, sizes: list[int], keyed: bool, traced: bool, body: memoryview
) -> dict[str, Any]:
    start, parts = 0, []
    for size in sizes:
        parts.append(body[start : start + size])
        start += size
    if start > len(body) or sizes[0] != 8 * count:
        raise ProtocolError("a batch is shorter than its header says")
    common: dict[str, Any] = {"timestamps": np.frombuffer(parts[0], dtype=np.int64)}
    if keyed:
        common["groups"] = np.frombuffer(parts[1], dtype=np.uint16)
        common["keys"] = decode(parts[2])
    if traced:
        partition, found = decode(parts[-1])
        if len(found) != count:
            raise ProtocolError("a batch has another number of origins than records")
        common["origins"] = Origins(partition, lambda place: tuple(found[place]))
    common["rest"] = body[start:]
    return common


def _encode_rows(channel: ChannelId, batch: RowBatch, cost: Cost) -> Buffers:
    buffers, sizes, keyed, traced = _common(batch)
    name, values = encode_list(batch.values)
    header = [FrameKind.ROWS, *channel, *cost, len(batch), sizes, keyed, traced, name]
    return pack(header, [*buffers, values])


def _decode_rows(fields: list[Any], body: memoryview) -> tuple[Message, Cost]:
    batches, size, count, sizes, keyed, traced, name = fields
    common = _read_common(count, sizes, keyed, traced, body)
    values = decode_list(name, common.pop("rest"))
    if len(values) != count:
        raise ProtocolError("a batch has another number of values than its header says")
    return RowBatch(values, **common), Cost(batches, size)


def _encode_columns(channel: ChannelId, batch: ColumnBatch, cost: Cost) -> Buffers:
    buffers, sizes, keyed, traced = _common(batch)
    columns: list[list[Any]] = []
    for name, column in batch.columns.items():
        if column.dtype == object:
            data: bytes | memoryview = encode(column.tolist())
        elif column.dtype.kind not in "biuf":
            raise EncodeError(
                f"column {name!r} of type {column.dtype} cannot leave its process; make it one of "
                "numbers, bools or Python objects"
            )
        else:
            data = _raw(column)
        columns.append([name, column.dtype.str, len(data)])
        buffers.append(data)
    kind = "" if batch.record_type is dict else type_name(batch.record_type)
    common = [len(batch), sizes, keyed, traced]
    header = [FrameKind.COLUMNS, *channel, *cost, *common, kind, columns]
    return pack(header, buffers)


def _decode_columns(fields: list[Any], body: memoryview) -> tuple[Message, Cost]:
    batches, size, count, sizes, keyed, traced, kind, described = fields
    common = _read_common(count, sizes, keyed, traced, body)
    rest = common.pop("rest")
    columns: dict[str, Column] = {}
    start = 0
    for name, dtype, length in described:
        data = rest[start : start + length]
        start += length
        if np.dtype(dtype) == object:
            column: Column = as_object_column(decode(data))
        else:
            column = np.frombuffer(data, dtype=dtype)
        if len(column) != count:
            raise ProtocolError(f"column {name!r} has another length than its header says")
        columns[name] = column
    record_type = find_type(kind) if kind else dict
    timestamps = common.pop("timestamps")
    return ColumnBatch(columns, timestamps, record_type=record_type, **common), Cost(batches, size)


def is_end(message: Message) -> bool:
    """Whether nothing follows."""
    return isinstance(message, EndOfInput)
