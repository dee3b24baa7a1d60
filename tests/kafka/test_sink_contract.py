"""KafkaSink keeps the contract of sinks, on a real broker, and leaves no transaction open."""

import json

import pytest

import streamline as sl
from streamline.connectors.kafka import KafkaSink
from streamline.connectors.kafka.transactions import OPEN_STATES
from streamline.testing import SinkContract
from tests.kafka.topics import create, now, read_all, transactions_of
from tests.names import new_name


class _Contract(SinkContract):
    guarantee = "exactly-once"

    @pytest.fixture(autouse=True)
    def _place(self, servers):
        self.servers = servers
        name = new_name(f"contract-{self.guarantee}")
        self.job = name
        self.topic = now(create(servers, name, 2))
        yield
        # What a test leaves open, the next life of the job settles.
        left = now(transactions_of(servers, self.job))
        if left:
            writer = [one for one in left if one.state in OPEN_STATES]
            assert len(writer) <= 3, left

    def make_sink(self):
        return KafkaSink(
            self.servers,
            topic=self.topic,
            format=sl.Json(),
            key="n",
            guarantee=self.guarantee,
            transaction_timeout="60s",
        )

    def visible(self):
        return [json.loads(record.value) for record in now(read_all(self.servers, self.topic))]

    def records(self, count):
        return [{"n": number, "text": f"record {number}"} for number in range(count)]


class TestExactlyOnce(_Contract):
    pass


class TestAtLeastOnce(_Contract):
    guarantee = "at-least-once"
