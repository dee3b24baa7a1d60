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
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from benchmarks.measure import START_MS, Result, folder, rounds, streamline
from streamline.testing.services import KafkaBroker

JOBS = Path(__file__).with_name("kafka_jobs.py")
QUIX = Path(__file__).with_name("quix.py")
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


async def _fill(servers: str, records: int, *, keyed: bool = False) -> str:
    """Orders as the file benchmarks have them, in record batches of 64 KiB."""
    topic, rng = await _topic(servers), random.Random(1)
    producer = AIOKafkaProducer(bootstrap_servers=servers, max_batch_size=1 << 16)
    await producer.start()
    open_batches = {number: producer.create_batch() for number in range(PARTITIONS)}
    for number in range(records):
        at = START_MS + number * 2 + rng.randrange(-2_000, 2_000)
        user, amount = rng.randrange(1_000), rng.random() * 100 - 5
        value = b'{"user":"u%d","amount":%.2f,"at":%d}' % (user, amount, at)
        partition = (user if keyed else number) % PARTITIONS
        key = b"u%d" % user if keyed else None
        batch = open_batches[partition]
        if batch.append(key=key, value=value, timestamp=at) is None:
            await producer.send_batch(batch, topic, partition=partition)
            batch = open_batches[partition] = producer.create_batch()
            batch.append(key=key, value=value, timestamp=at)
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


def _run(servers: str, work: Path, job: str, source: str) -> float:
    target = asyncio.run(_topic(servers))
    return streamline(job, work, jobs=JOBS, servers=servers, source=source, target=target)[0]


def _against_loop(job: str, wanted: float, name: str) -> Result:
    with _broker() as servers, folder() as work:
        topic = asyncio.run(_fill(servers, RECORDS))
        one = asyncio.run(_fill(servers, PARTITIONS))
        times = rounds(
            lambda: _loop("keyed", servers, topic, asyncio.run(_topic(servers))),
            lambda: _run(servers, work, job, topic),
            lambda: _run(servers, work, job, one),
        )
    start = min(times[2])
    seconds, plain = min(times[1]) - start, min(times[0])
    ratio = plain / seconds
    detail = (
        f"{RECORDS / seconds:,.0f} records/s, the loop {RECORDS / plain:,.0f}; start {start:.2f} s"
    )
    return Result(name, f"{ratio:.2f}", f">= {wanted}", ratio >= wanted, detail)


def keyed() -> Result:
    """Kafka to sliding windows to Kafka exactly once, against a loop that promises nothing."""
    return _against_loop("kafka_keyed", 0.5, "Kafka to Kafka / plain loop")


def columns() -> Result:
    """The same on columns."""
    return _against_loop("kafka_columns", 1.5, "Kafka to Kafka on columns / plain loop")


def beside_quix() -> Result:
    """The same beside Quix Streams, which finds its records by key already; rates."""
    name, wanted = "Kafka to Kafka / Quix Streams", "told"
    python = _quix()
    if python is None:
        return Result(name, "-", wanted, True, "Quix Streams cannot be installed here")
    fewer = RECORDS // 30
    with _broker() as servers, folder() as work:
        few = asyncio.run(_fill(servers, fewer, keyed=True))
        many = asyncio.run(_fill(servers, RECORDS, keyed=True))
        one = asyncio.run(_fill(servers, PARTITIONS, keyed=True))

        def quix(guarantee: str) -> float:
            target = asyncio.run(_topic(servers))
            command = [str(python), str(QUIX), guarantee, servers, few, target, str(fewer)]
            done = subprocess.run(
                [*command, str(work / target)], check=True, stdout=subprocess.PIPE
            )
            return float(done.stdout)

        times = rounds(
            lambda: quix("exactly-once"),
            lambda: quix("at-least-once"),
            lambda: _run(servers, work, "kafka_keyed", many),
            lambda: _run(servers, work, "kafka_keyed", one),
        )
    once, least = fewer / min(times[0]), fewer / min(times[1])
    ours = RECORDS / (min(times[2]) - min(times[3]))
    detail = (
        f"{ours:,.0f} records/s exactly once; Quix Streams {once:,.0f} exactly once, {least:,.0f} "
        f"at least once ({ours / least:.0f} times); of {RECORDS:,} and {fewer:,} records, start "
        "subtracted"
    )
    return Result(name, f"{ours / once:.0f}", wanted, True, detail)


def _quix() -> Path | None:
    """The interpreter of an environment with Quix Streams, made if need be."""
    home = Path("build/quix")
    python = (home / "bin" / "python").absolute()
    ready = home / ".installed"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "quixstreams>=3.20,<4"]
        if subprocess.run(install, check=False).returncode != 0:
            return None
        ready.touch()
    return python


def latency() -> Result:
    """From produce to a committed record at the other end, with a checkpoint every 200 ms."""
    with _broker() as servers, folder() as work:
        taken, parts = asyncio.run(_latencies(servers, work))
    cuts = statistics.quantiles(taken, n=100)
    shown = ", ".join(f"{name} {value:.0f}" for name, value in parts.items())
    detail = (
        f"median {cuts[49]:.0f} ms, of {len(taken):,} records at 2,000/s; the parts of the mean "
        f"of {statistics.fmean(taken):.0f} ms: {shown}"
    )
    return Result("latency to read_committed, p99", f"{cuts[98]:.0f} ms", "told", True, detail)


@dataclass
class _Epoch:
    """When the parts of a checkpoint began, in seconds since the epoch; as the job noted it."""

    prepare: float
    prepared: float
    commit: float
    committed: float


async def _latencies(
    servers: str, work: Path, *, seconds: float = 20.0
) -> tuple[list[float], dict[str, float]]:
    """Milliseconds that records took, and the means of their parts."""
    source, target = await _topic(servers, 1), await _topic(servers, 1)
    notes = work / "notes"
    command = [sys.executable, "-m", "streamline.cli.main", "run", f"{JOBS}:kafka_copy"]
    command += ["-p", f"servers={servers}", "-p", f"source={source}", "-p", f"target={target}"]
    command += ["-p", f"notes={notes}"]
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
    seen: list[tuple[float, float]] = []
    done = asyncio.Event()

    async def write() -> None:
        while not notes.exists():  # the job is starting
            await producer.send_and_wait(source, json.dumps({"sent": time.time()}).encode())
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
            seen += [(json.loads(record.value)["sent"], now) for record in records]
    await writing
    process.terminate()
    process.wait()
    await producer.stop()
    await consumer.stop()
    epochs = _read_notes(notes)
    seen = [pair for pair in seen if pair[0] > epochs[4].prepare]  # warm
    taken = [(now - sent) * 1000 for sent, now in seen]
    parts: dict[str, list[float]] = {}
    for sent, now in seen:
        epoch = next((one for one in epochs if one.prepare >= sent), None)
        if epoch is None or epoch.committed > now + 0.1:
            continue
        marks = [sent, epoch.prepare, epoch.prepared, epoch.commit, epoch.committed, now]
        names = ["wait for the checkpoint", "flush", "snapshot and manifest", "commit", "seen"]
        for name, (first, last) in zip(names, pairwise(marks), strict=True):
            parts.setdefault(name, []).append((last - first) * 1000)
    return taken, {name: statistics.fmean(values) for name, values in parts.items()}


def _read_notes(path: Path) -> list[_Epoch]:
    marks = [json.loads(line) for line in path.read_text().splitlines()]
    prepares = [mark for mark in marks if mark[0] == "prepare"]
    commits = [mark for mark in marks if mark[0] == "commit"]
    return [
        _Epoch(prepare[1], prepare[2], commit[1], commit[2])
        for prepare, commit in zip(prepares, commits, strict=False)
    ]
