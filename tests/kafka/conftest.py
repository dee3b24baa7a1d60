"""One broker for the whole session, one topic for each test."""

import asyncio
import os
from itertools import count

import pytest

from tests.kafka import topics

_numbers = count()


@pytest.fixture
def servers(kafka):
    return kafka.servers


@pytest.fixture
def new_topic(servers):
    async def create(partitions=1, **config):
        return await topics.create(
            servers, f"topic-{os.getpid()}-{next(_numbers)}", partitions, **config
        )

    return create


@pytest.fixture
def topic(new_topic):
    return asyncio.run(new_topic())
