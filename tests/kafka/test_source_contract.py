"""KafkaSource keeps the contract of sources, on a real broker."""

import pytest

import streamline as sl
from streamline.connectors.kafka import KafkaSource
from streamline.testing import SourceContract
from tests.kafka.topics import create, now, producer_of, send, send_by
from tests.names import new_name


async def fill(servers, name):
    """Small record batches in two partitions, with aborted transactions among them."""
    await create(servers, name, 3)
    for first in range(0, 24, 4):
        values = [b"%d" % number for number in range(first, first + 4)]
        await send(servers, name, values, first // 4 % 2, linger_ms=50)
        async with producer_of(servers, transactional_id=f"t-{name}") as producer:
            await producer.begin_transaction()
            await send_by(producer, name, [b"-1"], first // 4 % 2)
            await producer.abort_transaction()


class _Contract(SourceContract[int]):
    keeps_batch_rows = False
    until = "latest"

    @pytest.fixture(autouse=True)
    def _place(self, servers):
        self.servers = servers
        self.topic = new_name("source")
        now(fill(servers, self.topic))

    def make_source(self):
        return KafkaSource(self.servers, topic=self.topic, format=sl.Json(int), until=self.until)

    def expected(self):
        return list(range(24))


class TestBounded(_Contract):
    pass


class TestUnbounded(_Contract):
    until = None
    quiet_waits = 8
