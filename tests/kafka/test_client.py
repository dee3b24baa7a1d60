"""What is mended of aiokafka: connections that are gone on uvloop, topics made by asking."""

import asyncio
from contextlib import closing

import pytest
import uvloop
from aiokafka import errors
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.metadata import MetadataRequest

from streamline.connectors.kafka.client import OURS
from tests.kafka.topics import admin_of, producer_of
from tests.names import new_name


def test_a_connection_that_is_gone_is_told_as_such() -> None:
    """On uvloop a closed transport raises RuntimeError, and not OSError."""

    async def main() -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        connection = AIOKafkaConnection(host, port)
        connection._reader, connection._writer = await asyncio.open_connection(host, port)
        connection._read_task = asyncio.ensure_future(asyncio.Event().wait())
        connection._versions = {3: (0, 0)}
        with closing(server):
            connection._writer.transport.abort()
            while await connection._reader.read():
                pass
            with pytest.raises(errors.KafkaConnectionError, match="the handler is closed"):
                await connection.send(MetadataRequest([]))
        assert not connection.connected()

    uvloop.run(main())


async def test_only_our_clients_have_no_topics_made(servers):
    """The broker makes topics that are asked for; who else uses aiokafka may count on that."""
    theirs, ours = new_name("theirs"), new_name("ours")
    for name, topic in ((None, theirs), (OURS, ours)):
        named = {} if name is None else {"client_id": f"{name}test"}
        async with producer_of(servers, **named) as producer:
            await producer.client.add_topic(topic)
    async with admin_of(servers) as admin, asyncio.timeout(20):
        while theirs not in (topics := await admin.list_topics()):
            pass
    assert ours not in topics
