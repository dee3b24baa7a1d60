"""Fit: whether aiokafka still has inside what ``batches`` uses.

All of it is looked at in a consumer itself, and one piece is read as ``batches`` would read it.
It knows nothing of sources: a reader asks, and takes ``getmany`` instead if it has to.
"""

from __future__ import annotations

from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer import fetcher as inside
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from streamline.connectors.kafka.batches import GapsError, pieces_of

USED = {
    "": ("_fetcher", "_client"),
    "_fetcher": (
        *("_records", "_notify", "_create_fetch_waiter", "_wait_consume_future"),
        *("_prefetch_backoff", "error_future"),
    ),
    "_client": ("cluster", "force_metadata_update", "_sync_task"),
    "_client.cluster": ("unauthorized_topics",),
}
"""What is used of a consumer, by the path to it."""
USED_OF = {
    inside.FetchResult: ("check_assignment", "has_more", "_update_position"),
    inside.FetchError: ("check_raise",),
}
"""What is used of what lies in ``_records``."""
_COMMITTED_ONLY = 1


def lacking(consumer: AIOKafkaConsumer) -> str:
    """The first thing that is not as it was, in words; empty if all is there."""
    for path, names in USED.items():
        place: Any = consumer
        for step in filter(None, path.split(".")):
            place = getattr(place, step)
        for name in names:
            if not hasattr(place, name):
                return f"{type(place).__name__} has no {name}"
    for kind, names in USED_OF.items():
        for name in names:
            if not hasattr(kind, name):
                return f"{kind.__name__} has no {name}"
    try:
        return _read_a_piece()
    except GapsError:
        return "a record batch does not say how many records it has"
    except (AttributeError, TypeError) as error:
        return str(error)


def _read_a_piece() -> str:
    """Read two transactions, the first of them aborted, and say what is wrong with what came."""
    data = b"".join([_batch(0, producer_id=1), _batch(2, producer_id=2)])
    if not isinstance(MemoryRecords(data).next_batch(), DefaultRecordBatch):
        return "a record batch is no DefaultRecordBatch"
    at = TopicPartition("fit", 0)
    fetched = inside.PartitionRecords(
        at, MemoryRecords(data), [(1, 0)], 0, None, None, True, _COMMITTED_ONLY
    )
    result = inside.FetchResult(at, assignment=None, partition_records=fetched, backoff=0)
    found = [
        (list(piece.offsets), piece.values, piece.next_offset)
        for piece in pieces_of(result._partition_records, whole=False)
    ]
    if found != [([], [], 2), ([2, 3], [b"value"] * 2, 4)] or fetched.next_fetch_offset != 4:
        return f"two record batches were read as {found}"
    return ""


def _batch(first: int, *, producer_id: int) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=1,
        producer_id=producer_id,
        producer_epoch=0,
        base_sequence=0,
        batch_size=1_000,
    )
    for place in range(2):
        builder.append(place, 1, None, b"value", [])
    data = builder.build()
    data[:8] = first.to_bytes(8, "big")  # the checksum does not cover the offset
    return bytes(data)
