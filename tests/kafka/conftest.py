"""One broker for the whole session, one topic for each test."""

import asyncio
import os
from itertools import count

import pytest

from streamline.testing.services import KafkaBroker
from tests.kafka import topics
from tests.services.started import started

_numbers = count()


@pytest.fixture(scope="session")
def kafka():
    broker = started(KafkaBroker())
    yield broker
    broker.close()


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
