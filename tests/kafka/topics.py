"""What tests do at a broker beside the connector: topics, records, transactions, offsets."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete

from streamline.connectors.kafka.client import NO_SECURITY
from streamline.connectors.kafka.transactions import Transactions


@asynccontextmanager
async def admin_of(servers, **options):
    admin = AIOKafkaAdminClient(bootstrap_servers=servers, **options)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


@asynccontextmanager
async def producer_of(servers, **options):
    producer = AIOKafkaProducer(bootstrap_servers=servers, **options)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def create(servers, name, partitions=1, **config):
    async with admin_of(servers) as admin:
        answer = await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=config)])
        assert all(error[1] == 0 for error in answer.topic_errors), answer
        async with asyncio.timeout(30):  # the broker answers before it can tell of it
            while (await admin.describe_topics([name]))[0]["error_code"] != 0:
                pass
    return name


async def more_partitions(servers, name, count):
    async with admin_of(servers) as admin:
        await admin.create_partitions({name: NewPartitions(count)})


async def delete_before(servers, name, offset, partition=0):
    async with admin_of(servers) as admin:
        await admin.delete_records({TopicPartition(name, partition): RecordsToDelete(offset)})


async def send(servers, name, values, partition=0, **options):
    """Send values in one go; returns when they are there."""
    async with producer_of(servers, **options) as producer:
        await send_by(producer, name, values, partition)


async def send_as_one(servers, name, values, partition=0):
    """Send values as one batch: a reader sees all of them or none."""
    async with producer_of(servers) as producer:
        batch = producer.create_batch()
        for value in values:
            assert batch.append(key=None, value=value, timestamp=None) is not None
        await (await producer.send_batch(batch, name, partition=partition))


async def send_many(servers, name, values, partition=0):
    """Send many values without keys, in whole batches."""
    async with producer_of(servers, max_batch_size=1 << 18) as producer:
        waiting, batch = [], producer.create_batch()
        for value in values:
            if batch.append(key=None, value=value, timestamp=None) is None:
                waiting.append(await producer.send_batch(batch, name, partition=partition))
                batch = producer.create_batch()
                batch.append(key=None, value=value, timestamp=None)
        waiting.append(await producer.send_batch(batch, name, partition=partition))
        await asyncio.gather(*waiting)


async def send_by(producer, name, values, partition=0):
    for value in values:
        keys = value if isinstance(value, dict) else {"value": value}
        await producer.send(name, partition=partition, **keys)
    await producer.flush()


async def read_all(servers, name, isolation="read_committed"):
    """All records of a topic that a consumer sees now, by partition and offset."""
    if isolation == "read_committed":
        await transactions_of(servers)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers, isolation_level=isolation, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        while not consumer.partitions_for_topic(name):
            await consumer._client.force_metadata_update()
            await consumer.topics()
        parts = [TopicPartition(name, one) for one in consumer.partitions_for_topic(name)]
        ends = await consumer.end_offsets(parts)
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        found = []
        while True:
            there = [await consumer.position(part) >= ends[part] for part in parts]
            if all(there):
                return found
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += records
    finally:
        await consumer.stop()


def now(coroutine):
    """Run a coroutine to its end from code that waits for nothing, in a loop on a thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result(60)


async def transactions_of(servers, job=None):
    """All transactions of a job, or of any, once those that are being ended have ended.

    The broker answers that one is ended when it has noted that it will be: the markers that let
    consumers see it are written a moment later.
    """
    transactions = Transactions(servers, NO_SECURITY)
    await transactions.open()
    try:
        async with asyncio.timeout(30):
            while True:
                found = await transactions.listed(job)
                if not any(one.state.startswith("Prepare") for one in found):
                    return found
    finally:
        await transactions.close()
