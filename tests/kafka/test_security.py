"""User names and passwords: PLAIN and SCRAM, in and out, and what is told when they are wrong."""

import pytest

import streamline as sl
from streamline.connectors.kafka import KafkaSecurity, KafkaSink, KafkaSource
from streamline.errors import ConnectorError, UsageError
from streamline.testing.services import KafkaBroker
from tests.kafka.test_sink import Place
from tests.kafka.test_source import read
from tests.kafka.topics import create, read_all, send
from tests.services.started import started


@pytest.fixture(scope="module")
def guarded():
    broker = started(KafkaBroker(users={"ann": "secret"}))
    yield broker
    broker.close()


def ann(mechanism, password="secret"):
    return KafkaSecurity(mechanism=mechanism, username="ann", password=password)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
async def test_a_user_reads_and_writes(guarded, mechanism):
    topic = await create(guarded.servers, f"in-{mechanism}")
    await send(guarded.servers, topic, [b"1", b"2"])
    source = KafkaSource(
        guarded.sasl_servers,
        topic=topic,
        format=sl.Raw(),
        until="latest",
        security=ann(mechanism),
    )
    assert await read(source) == [b"1", b"2"]
    place = Place(guarded.sasl_servers, topic)
    writer = await place.writer(security=ann(mechanism))
    await writer.commit(await place.put(writer, 1, b"3"))
    await place.close()
    assert [one.value for one in await read_all(guarded.servers, topic)] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
async def test_a_wrong_password_is_told_and_not_tried_again(guarded, mechanism):
    source = KafkaSource(
        guarded.sasl_servers, topic="t", format=sl.Raw(), security=ann(mechanism, "wrong")
    )
    with pytest.raises(ConnectorError, match="refuses user name or password"):
        await source.discover()


async def test_a_mechanism_that_the_broker_does_not_know(guarded):
    source = KafkaSource(
        guarded.sasl_servers, topic="t", format=sl.Raw(), security=ann("SCRAM-SHA-512")
    )
    with pytest.raises(ConnectorError, match="does not know the SASL mechanism"):
        await source.discover()


def test_wrong_settings():
    with pytest.raises(UsageError, match="must be one of"):
        KafkaSecurity(mechanism="MAGIC")
    with pytest.raises(UsageError, match="needs username= and password="):
        KafkaSecurity(mechanism="PLAIN", username="ann")
    with pytest.raises(ConnectorError, match="certificate for Kafka cannot be used"):
        KafkaSecurity(tls=True, ca_file="nowhere.pem").options()


def test_passwords_are_not_shown():
    shown = repr(ann("PLAIN")) + repr(KafkaSink("s", topic="t", format=sl.Raw()).settings)
    assert "secret" not in shown
