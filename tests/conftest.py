"""Shared by all tests."""

import asyncio
import inspect
import os

import pytest

from streamline.config import CHECKS_VARIABLE
from streamline.testing.services import KafkaBroker, PostgresServer
from tests.registry.server import Registry
from tests.services.started import started

os.environ.setdefault(CHECKS_VARIABLE, "1")  # whatever runs a job in processes of its own has it


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run a test that is a coroutine on an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(scope="session")
def kafka():
    """One broker for all tests; each makes topics of its own.

    It would make topics by itself, as brokers do unless they are told not to: nothing of ours
    may have it do so.
    """
    named = os.environ.get("STREAMLINE_TEST_KAFKA")
    properties = {} if named else {"auto.create.topics.enable": "true"}
    broker = started(KafkaBroker(properties=properties))
    yield broker
    broker.close()


@pytest.fixture
def registry():
    registry = Registry()
    yield registry
    registry.close()


@pytest.fixture(scope="session")
def postgres():
    """One server for all tests; each makes tables of its own."""
    server = started(PostgresServer())
    yield server
    server.close()


@pytest.fixture(scope="session")
def orders(kafka):
    """A topic of orders, and what the jobs are to make of them."""
    from tests.kafka.cases import RECORDS, fill

    return fill(kafka.servers, RECORDS)
