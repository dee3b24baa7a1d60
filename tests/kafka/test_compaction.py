"""Topics that were compacted: records are gone from within record batches."""

import asyncio

import pytest
from aiokafka import TopicPartition

import streamline as sl
from streamline.connectors.kafka import KafkaSource
from streamline.testing.services import KafkaBroker
from tests.kafka.test_source import Reading, read
from tests.kafka.topics import create, producer_of, read_all
from tests.services.started import started

KEYS, ROUNDS = 7, 30
SOON = {"log.cleaner.enable": "true", "log.cleaner.backoff.ms": "50"}
COMPACT = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.01",
    "segment.bytes": "1048576",
    "segment.ms": "100",
    "min.compaction.lag.ms": "0",
}


@pytest.fixture(scope="module")
def broker():
    broker = started(KafkaBroker(properties=SOON))
    yield broker.servers
    broker.close()


async def written(producer, topic, numbers):
    """One record batch: keys that come again and again, and one in ten that is there once."""
    batch = producer.create_batch()
    for number in numbers:
        key = b"once %d" % number if number % 10 == 3 else b"key %d" % (number % KEYS)
        value = b"no json" if number % 100 == 33 else b"%d" % number
        assert batch.append(key=key, value=value, timestamp=None) is not None
    await (await producer.send_batch(batch, topic, partition=0))


async def by_getmany(servers, topic):
    """Offsets and values, by aiokafka alone."""
    found = await read_all(servers, topic, "read_uncommitted")
    return [(record.offset, record.value) for record in found]


async def compacted(servers, topic):
    """Write until the broker has taken most records out of their batches."""
    async with producer_of(servers) as producer, asyncio.timeout(120):
        number = 0
        while True:
            for _ in range(ROUNDS):
                await written(producer, topic, range(number, number + 100))
                number += 100
            left = await by_getmany(servers, topic)
            inside = [b - a for (a, _), (b, _) in zip(left, left[1:], strict=False)]
            if inside.count(1) < len(inside) / 2 and len(left) < number / 2:
                return


@pytest.fixture(scope="module")
def topic(broker):
    """A topic that was compacted, and goes on being so for a while."""

    async def make():
        name = await create(broker, "compacted", **COMPACT)
        await compacted(broker, name)
        return name

    return asyncio.run(make())


def source(servers, topic, **options):
    return KafkaSource(servers, topic=topic, format=sl.Json(**options), until="latest")


async def beside(servers, topic, reading):
    """What is there, and what a reading of ours gave; the broker did nothing meanwhile."""
    async with asyncio.timeout(90):
        while True:
            before = await by_getmany(servers, topic)
            found = await reading(before)
            if await by_getmany(servers, topic) == before:
                return before, found


async def test_what_is_left_is_read_with_its_offsets(broker, topic):
    async def ours(_):
        async with Reading(source(broker, topic, on_error="dead_letter")) as reading:
            await reading.end()
            assert reading.reader._fetched._with_gaps == {TopicPartition(topic, 0)}
            return reading.values, [(letter.offset, letter.data) for letter in reading.letters]

    left, (values, letters) = await beside(broker, topic, ours)
    assert values == [int(value) for _, value in left if value != b"no json"]
    assert letters == [(at, value) for at, value in left if value == b"no json"] != []


async def test_metadata_of_what_is_left(broker, topic):
    async def ours(_):
        return await read(source(broker, topic, on_error="skip").with_metadata())

    left, records = await beside(broker, topic, ours)
    found = [(record.offset, record.value) for record in records]
    assert found == [(at, int(value)) for at, value in left if value != b"no json"]


@pytest.mark.parametrize("part", [0.3, 0.6])
async def test_reading_goes_on_in_a_batch_with_gaps(broker, topic, part):
    def first(left):
        return left[int(len(left) * part)][0] - 1  # it may be one that is gone

    async def ours(left):
        positions = {f"{topic}/0": [first(left), left[-1][0] + 1, False]}
        given = source(broker, topic, on_error="skip")
        async with Reading(given, positions, restored=True) as reading:
            return await reading.end()

    left, found = await beside(broker, topic, ours)
    assert found == [int(value) for at, value in left if at >= first(left) and value != b"no json"]
