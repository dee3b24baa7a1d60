"""One broker for the whole session, one topic for each test."""

import asyncio

import pytest

from tests.kafka import topics
from tests.names import new_name


@pytest.fixture
def servers(kafka):
    return kafka.servers


@pytest.fixture
def new_topic(servers):
    async def create(partitions=1, **config):
        return await topics.create(servers, new_name("topic"), partitions, **config)

    return create


@pytest.fixture
def topic(new_topic):
    return asyncio.run(new_topic())
