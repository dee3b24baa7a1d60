"""One broker for the whole session, one topic for each test."""

import asyncio
import os
from itertools import count

import pytest

from streamline.testing.services import KafkaBroker, ServiceUnavailableError
from tests.kafka import topics

_numbers = count()


def started(service):
    """A server that runs; without one, tests are skipped, but in CI they fail."""
    try:
        service.start()
    except ServiceUnavailableError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    return service


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
