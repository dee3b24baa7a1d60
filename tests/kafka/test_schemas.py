"""Values with a schema registry, through a topic."""

import pytest

import streamline as sl
from streamline.connectors.kafka import KafkaSource
from streamline.errors import DecodeError
from tests.kafka.test_source import Reading, read
from tests.kafka.topics import send
from tests.registry import messages
from tests.registry.server import FIRST, SECOND


class Order(sl.Record):
    user: str
    amount: float
    note: str = "none"


def values(registry, schema, *orders):
    return sl.Avro(registry=registry.url, schema=schema, subject="orders").encode_many(orders)


def source(servers, topic, registry, **options):
    avro = sl.Avro(Order, registry=registry.url, schema=SECOND, **options)
    return KafkaSource(servers, topic=topic, format=avro, until="latest")


async def test_the_schema_changes_in_the_middle_of_a_topic(servers, topic, registry):
    await send(servers, topic, values(registry, FIRST, Order("a", 1.0), Order("b", 2.0)))
    await send(servers, topic, values(registry, SECOND, Order("c", 3.0, "new")))
    await send(servers, topic, values(registry, FIRST, Order("d", 4.0)))
    assert await read(source(servers, topic, registry)) == [
        Order("a", 1.0),
        Order("b", 2.0),
        Order("c", 3.0, "new"),
        Order("d", 4.0),
    ]


WRONG = [
    (b"\0\0\0\0\x63\x02a", "no schema 99"),
    (b"\0\0\0\0\x02\x02a", "schema 2 of the registry is not an Avro schema"),
    (b'{"user": "a", "amount": 1}', "does not begin with the number of a schema"),
]


@pytest.mark.parametrize(("wrong", "why"), WRONG, ids=["unknown id", "no schema", "no id"])
async def test_a_wrong_schema_is_told_with_its_place(servers, topic, registry, wrong, why):
    right = values(registry, FIRST, Order("a", 1.0))
    registry.schemas.append(("{", "AVRO"))
    await send(servers, topic, [*right, wrong, *right])
    with pytest.raises(DecodeError, match=f"{topic}/0, offset 1: .*{why}"):
        await read(source(servers, topic, registry))
    assert await read(source(servers, topic, registry, on_error="skip")) == [Order("a", 1.0)] * 2
    async with Reading(source(servers, topic, registry, on_error="dead_letter")) as reading:
        assert await reading.end() == [Order("a", 1.0)] * 2
        (letter,) = reading.letters
        assert (letter.partition, letter.offset, letter.data) == (f"{topic}/0", 1, wrong)
        assert why in letter.reason


async def test_protobuf_through_a_topic(servers, topic, registry):
    """One that is another message of the same schema is told with its place."""
    orders = sl.RegistryProtobuf(
        messages.Order, Order, registry=registry.url, subject="orders-value", on_error="dead_letter"
    )
    given = [Order("a", 1.0), Order("b", 2.0, "soon")]
    refund = sl.RegistryProtobuf(messages.Refund, registry=registry.url, subject="orders-value")
    (wrong,) = refund.encode_many([{"user": "c"}])
    await send(servers, topic, [*orders.encode_many(given), wrong])
    async with Reading(KafkaSource(servers, topic=topic, format=orders, until="latest")) as reading:
        assert await reading.end() == given
        (letter,) = reading.letters
        assert (letter.offset, letter.data) == (2, wrong)
        assert "not shop.Order but another message of schema 1" in letter.reason
