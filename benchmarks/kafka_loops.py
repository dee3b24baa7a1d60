"""What the Kafka jobs are measured against, and reading alone; each in a process of its own.

Called as ``python -m benchmarks.kafka_loops getmany|batches|keyed SERVERS TOPIC [OUTPUT]``; prints
seconds from the first request to the last record.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

import streamline as sl
from benchmarks.kafka_jobs import Order
from benchmarks.plain import BATCH, DELAY_MS, EVERY_MS, SIZE_MS
from streamline.clock import SystemClock
from streamline.connectors.kafka import KafkaSource
from streamline.io import Counters, ReaderContext
from streamline.runtime.worker import tune_gc

PARTITIONS = 4


async def getmany(servers: str, topic: str) -> None:
    """Every record, decoded by orjson."""

    async def take(values: list[bytes], _: TopicPartition) -> None:
        for value in values:
            orjson.loads(value)

    await _consume(servers, topic, take)


async def batches(servers: str, topic: str) -> None:
    """Every record as the connector reads and decodes it."""
    source = KafkaSource(servers, topic=topic, format=sl.Json(Order), until="latest")
    reader = source.reader()
    await reader.open(
        ReaderContext(
            node="in",
            index=0,
            parallelism=1,
            batch_rows=4096,
            layout="rows",
            clock=SystemClock(),
            counters=Counters(),
            watermarks={},
            dead_letter=lambda letter: None,
        )
    )
    reader.assign(dict.fromkeys(await source.discover()))
    while reader.active:
        if reader.poll() is None:
            await reader.wait()
        else:
            await asyncio.sleep(0)  # as a task does between two batches
    await reader.close()


async def keyed(servers: str, topic: str, output: str) -> None:
    """Filter, key, sliding window, with no guarantee at all."""
    windows: dict[int, dict[str, list[float]]] = {}
    reached: dict[TopicPartition, int] = {}
    count = 0
    producer = AIOKafkaProducer(bootstrap_servers=servers, max_batch_size=1 << 18, linger_ms=5)
    await producer.start()

    async def fire(watermark: int) -> None:
        for start in sorted(start for start in windows if start + SIZE_MS - 1 <= watermark):
            batch = producer.create_batch()  # whole batches: send() takes ten times as long
            for user, (total, orders) in windows.pop(start).items():
                end = start + SIZE_MS
                result = {
                    "key": user,
                    "window_start": start,
                    "window_end": end,
                    "total": total,
                    "orders": orders,
                }
                value, key = orjson.dumps(result), user.encode()
                if batch.append(key=key, value=value, timestamp=end) is None:
                    await producer.send_batch(batch, output, partition=0)
                    batch = producer.create_batch()
                    batch.append(key=key, value=value, timestamp=end)
            await producer.send_batch(batch, output, partition=0)

    async def take(values: list[bytes], partition: TopicPartition) -> None:
        nonlocal count
        loads = orjson.loads
        highest = reached.get(partition, 0)
        for value in values:
            order = loads(value)
            amount = order["amount"]
            if not amount > 0:
                continue
            at, user = order["at"], order["user"]
            last = at - at % EVERY_MS
            for start in (last - EVERY_MS, last):
                window = windows.get(start)
                if window is None:
                    window = windows[start] = {}
                entry = window.get(user)
                if entry is None:
                    window[user] = [amount, 1]
                else:
                    entry[0] += amount
                    entry[1] += 1
            highest = max(highest, at)
        reached[partition] = highest
        count += len(values)
        if count >= BATCH and len(reached) == PARTITIONS:
            count = 0
            await fire(min(reached.values()) - DELAY_MS)

    await _consume(servers, topic, take)
    await fire(1 << 62)
    await producer.stop()


async def _consume(
    servers: str, topic: str, take: Callable[[list[bytes], TopicPartition], Awaitable[None]]
) -> None:
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=servers, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    left = sum((await consumer.end_offsets(consumer.assignment())).values())
    while left > 0:
        found = await consumer.getmany(timeout_ms=100, max_records=BATCH)
        for partition, records in found.items():
            left -= len(records)
            await take([record.value for record in records], partition)
    await consumer.stop()


def main() -> None:
    """Run the loop that is named."""
    name, *arguments = sys.argv[1:]
    loops: dict[str, Callable[..., Awaitable[None]]] = {
        "getmany": getmany,
        "batches": batches,
        "keyed": keyed,
    }

    async def measured() -> float:
        began = time.perf_counter()
        await loops[name](*arguments)
        return time.perf_counter() - began

    if name == "batches":
        tune_gc()  # as a worker does at its start
    try:
        import uvloop
    except ImportError:
        print(asyncio.run(measured()))
    else:
        print(uvloop.run(measured()))


if __name__ == "__main__":
    main()
