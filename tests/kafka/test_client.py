"""What is mended of aiokafka: connections that are gone, on uvloop."""

import asyncio
from contextlib import closing

import pytest
import uvloop
from aiokafka import errors
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.metadata import MetadataRequest

import streamline.connectors.kafka.client  # noqa: F401 - it is what is tested


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
