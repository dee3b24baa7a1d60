"""Kafka: reading, a window job from topic to topic, and how soon a result can be seen."""

import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from benchmarks.measure import START_MS, Result, folder, rounds, streamline
from streamline.testing.services import KafkaBroker

JOBS = Path(__file__).with_name("kafka_jobs.py")
RECORDS = 1_500_000
PARTITIONS = 4
_numbers = count()


@contextmanager
def _broker() -> Iterator[str]:
    with KafkaBroker() as broker:
        yield broker.servers


async def _topic(servers: str, partitions: int = PARTITIONS) -> str:
    name = f"bench-{next(_numbers)}"
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(name, partitions, 1)])
    await admin.close()
    return name


async def _fill(servers: str, records: int) -> str:
    """Orders as the file benchmarks have them, in record batches of 64 KiB."""
    topic, rng = await _topic(servers), random.Random(1)
    producer = AIOKafkaProducer(bootstrap_servers=servers, max_batch_size=1 << 16)
    await producer.start()
    open_batches = {number: producer.create_batch() for number in range(PARTITIONS)}
    for number in range(records):
        at = START_MS + number * 2 + rng.randrange(-2_000, 2_000)
        user, amount = rng.randrange(1_000), rng.random() * 100 - 5
        value = b'{"user":"u%d","amount":%.2f,"at":%d}' % (user, amount, at)
        partition = number % PARTITIONS
        batch = open_batches[partition]
        if batch.append(key=None, value=value, timestamp=at) is None:
            await producer.send_batch(batch, topic, partition=partition)
            batch = open_batches[partition] = producer.create_batch()
            batch.append(key=None, value=value, timestamp=at)
    for partition, batch in open_batches.items():
        await producer.send_batch(batch, topic, partition=partition)
    await producer.stop()
    return topic


def _loop(name: str, *arguments: str) -> float:
    command = [sys.executable, "-m", "benchmarks.kafka_loops", name, *arguments]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def reading() -> Result:
    """Reading and decoding, against getmany and orjson."""
    with _broker() as servers:
        topic = asyncio.run(_fill(servers, RECORDS))
        plain, ours = rounds(
            lambda: _loop("getmany", servers, topic), lambda: _loop("batches", servers, topic)
        )
    ratio = min(plain) / min(ours)
    rate, other = RECORDS / min(ours), RECORDS / min(plain)
    detail = f"{rate:,.0f} records/s decoded to Records, getmany and orjson {other:,.0f}"
    return Result("reading Kafka / getmany", f"{ratio:.2f}", ">= 3", ratio >= 3, detail)


def keyed() -> Result:
    """Kafka to sliding windows to Kafka exactly once, against a loop that promises nothing."""
    with _broker() as servers, folder() as work:
        topic = asyncio.run(_fill(servers, RECORDS))
        one = asyncio.run(_fill(servers, PARTITIONS))

        def ours(source: str) -> float:
            target = asyncio.run(_topic(servers))
            return streamline(
                "kafka_keyed", work, jobs=JOBS, servers=servers, source=source, target=target
            )[0]

        times = rounds(
            lambda: _loop("keyed", servers, topic, asyncio.run(_topic(servers))),
            lambda: ours(topic),
            lambda: ours(one),
        )
    start = min(times[2])
    seconds, plain = min(times[1]) - start, min(times[0])
    ratio = plain / seconds
    detail = (
        f"{RECORDS / seconds:,.0f} records/s, the loop {RECORDS / plain:,.0f}; start {start:.2f} s"
    )
    return Result("Kafka to Kafka / plain loop", f"{ratio:.2f}", ">= 0.5", ratio >= 0.5, detail)


def latency() -> Result:
    """From produce to a committed record at the other end, with a checkpoint every 200 ms."""
    with _broker() as servers, folder() as work:
        taken = asyncio.run(_latencies(servers, work))
    cuts = statistics.quantiles(taken, n=100)
    detail = (
        f"median {cuts[49]:.0f} ms, of {len(taken):,} records at 2,000/s; half a checkpoint "
        "interval is the median's share, the rest is prepare, manifest and commit"
    )
    return Result("latency to read_committed, p99", f"{cuts[98]:.0f} ms", "told", True, detail)


async def _latencies(servers: str, work: Path, *, seconds: float = 10.0) -> list[float]:
    source, target = await _topic(servers, 1), await _topic(servers, 1)
    command = [sys.executable, "-m", "streamline.cli.main", "run", f"{JOBS}:kafka_copy"]
    command += ["-p", f"servers={servers}", "-p", f"source={source}", "-p", f"target={target}"]
    command += ["--state-dir", str(work / "state"), "--checkpoint-every", "200ms"]
    process = await asyncio.to_thread(
        subprocess.Popen, command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    producer = AIOKafkaProducer(bootstrap_servers=servers, linger_ms=0)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await producer.start()
    await consumer.start()
    consumer.assign([TopicPartition(target, 0)])
    taken: list[float] = []
    done = asyncio.Event()

    async def write() -> None:
        began = time.time()
        for number in range(int(seconds * 200)):
            now = time.time()
            for _ in range(10):
                await producer.send(source, json.dumps({"sent": now}).encode())
            await asyncio.sleep(max(0, began + (number + 1) / 200 - time.time()))
        done.set()

    writing = asyncio.ensure_future(write())
    silent = 0
    while not done.is_set() or silent < 10:
        found = await consumer.getmany(timeout_ms=200)
        now = time.time()
        silent = 0 if found else silent + 1
        for records in found.values():
            taken += [(now - json.loads(record.value)["sent"]) * 1000 for record in records]
    await writing
    process.terminate()
    process.wait()
    await producer.stop()
    await consumer.stop()
    # The job was still starting when the first were sent.
    return taken[len(taken) // 4 :]
