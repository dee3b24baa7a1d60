"""User names and passwords: PLAIN and SCRAM, in and out, and what is told when they are wrong."""

import asyncio

import pytest
from aiokafka.protocol.admin import CreateAclsRequest

import streamline as sl
from streamline.connectors.kafka import KafkaSecurity, KafkaSink, KafkaSource
from streamline.errors import ConnectorError, UsageError
from streamline.testing.services import KafkaBroker
from tests.kafka.test_sink import Place
from tests.kafka.test_source import Reading, read
from tests.kafka.topics import admin_of, create, read_all, send
from tests.names import new_name
from tests.services.started import started


@pytest.fixture(scope="module")
def guarded():
    """Ann may do everything, Bob nothing."""
    authorizer = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    broker = started(
        KafkaBroker(
            users={"ann": "secret", "bob": "hidden"},
            tls=True,
            properties={
                "authorizer.class.name": authorizer,
                "super.users": "User:ANONYMOUS;User:ann",
            },
        )
    )
    yield broker
    broker.close()


def ann(mechanism, password="secret"):
    return KafkaSecurity(mechanism=mechanism, username="ann", password=password)


BOB = KafkaSecurity(mechanism="PLAIN", username="bob", password="hidden")


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


def by_tls(broker, topic, **options):
    login = {"tls": True, "mechanism": "SCRAM-SHA-512", "username": "ann", "password": "secret"}
    security = KafkaSecurity(**{**login, **options})
    return KafkaSource(
        broker.tls_servers, topic=topic, format=sl.Raw(), until="latest", security=security
    )


async def test_tls_with_a_user(guarded):
    topic = await create(guarded.servers, new_name("tls"))
    await send(guarded.servers, topic, [b"1", b"2"])
    assert await read(by_tls(guarded, topic, ca_file=guarded.ca_file)) == [b"1", b"2"]


async def test_a_certificate_that_is_not_trusted_is_told_at_once(guarded):
    message = "cannot be talked to by TLS: .*certificate verify failed.*; correct ca_file="
    async with asyncio.timeout(10):
        with pytest.raises(ConnectorError, match=message):
            await by_tls(guarded, "t").discover()
    # What was said of one attempt is not said of another, which got in.
    topic = await create(guarded.servers, new_name("tls"))
    assert await by_tls(guarded, topic, ca_file=guarded.ca_file).discover() == [f"{topic}/0"]


async def test_a_mechanism_that_the_broker_does_not_know(guarded):
    source = KafkaSource(
        guarded.sasl_servers, topic="t", format=sl.Raw(), security=ann("SCRAM-SHA-512")
    )
    with pytest.raises(ConnectorError, match="does not know the SASL mechanism"):
        await source.discover()


@pytest.fixture(scope="module")
def half(guarded):
    """The beginning of the names of topics with which Bob may do all, though nothing else."""
    topic, prefixed, everything, allow = 2, 4, 2, 3

    async def grant():
        async with admin_of(guarded.servers) as admin:
            request = CreateAclsRequest(topic, "half", prefixed, "User:bob", "*", everything, allow)
            answer = await admin._send_request(request)
            assert answer.creation_responses[0][0] == 0, answer

    asyncio.run(grant())
    return "half"


async def test_a_topic_that_may_not_be_read(guarded):
    topic = await create(guarded.servers, new_name("closed"))
    source = KafkaSource(guarded.sasl_servers, topic=topic, format=sl.Raw(), security=BOB)
    with pytest.raises(ConnectorError, match=f"does not let us use topic '{topic}'; grant the"):
        await source.discover()


@pytest.mark.parametrize("guarantee", ["exactly-once", "at-least-once"])
async def test_a_topic_that_may_not_be_written(guarded, guarantee):
    place = Place(guarded.sasl_servers, await create(guarded.servers, new_name("closed")))
    with pytest.raises(ConnectorError, match=f"not let us use topic '{place.topic}'; grant the"):
        await place.writer(security=BOB, guarantee=guarantee)
    await place.close()


async def test_transactions_that_may_not_be_used(guarded, half):
    place = Place(guarded.sasl_servers, await create(guarded.servers, new_name(half)))
    with pytest.raises(ConnectorError, match="does not let us use our transactional ids; grant"):
        writer = await place.writer(security=BOB)
        await place.put(writer, 1, b"1")
    await place.close()


async def test_a_group_that_may_not_be_used(guarded, half, caplog):
    """Reading does not need it, unless it begins there: its offsets are for monitoring."""
    topic = await create(guarded.servers, new_name(half))
    await send(guarded.servers, topic, [b"1"])
    options = {"format": sl.Raw(), "security": BOB, "group": "closed", "until": "latest"}
    source = KafkaSource(guarded.sasl_servers, topic=topic, **options)
    async with Reading(source) as reading:
        assert await reading.end() == [b"1"]
        await reading.reader.checkpoint_committed(reading.snapshot())
        await reading.reader._telling
    assert "does not let us use group 'closed'; grant the user Read" in caplog.text
    source = KafkaSource(guarded.sasl_servers, topic=topic, start="committed", **options)
    with pytest.raises(ConnectorError, match="does not let us use group 'closed'"):
        await read(source)


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
