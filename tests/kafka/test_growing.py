"""Partitions and topics that are made while a job runs are read by it, from their beginning."""

import asyncio
import signal

import pytest

from tests.kafka.cases import JOBS
from tests.kafka.topics import create, more_partitions, read_all, send
from tests.names import new_name
from tests.processes.runner import Run


@pytest.mark.timeout(120)
def test_partitions_and_topics_that_appear(kafka, tmp_path):
    servers, source, target = kafka.servers, new_name("growing"), new_name("out")
    wanted = []

    def put(topic, partition):
        values = [f"{topic[-6:]}/{partition}/{number}" for number in range(50)]
        wanted.extend(values)
        asyncio.run(send(servers, topic, [value.encode() for value in values], partition))

    def until_all_are_there():
        async def look():
            async with asyncio.timeout(40):
                while True:
                    found = sorted(one.value.decode() for one in await read_all(servers, target))
                    if len(found) >= len(wanted):
                        return found

        assert asyncio.run(look()) == sorted(wanted)

    for topic in (source, target):
        asyncio.run(create(servers, topic))
    put(source, 0)
    params = {"servers": servers, "source": source, "target": target}
    run = Run("growing", tmp_path, jobs=JOBS, params=params, parallelism=2)
    try:
        until_all_are_there()
        asyncio.run(more_partitions(servers, source, 3))
        put(source, 1)
        put(source, 2)
        until_all_are_there()
        asyncio.run(create(servers, f"{source}-too"))
        put(f"{source}-too", 0)
        until_all_are_there()
        run.process.send_signal(signal.SIGINT)
        assert run.end()[0] == 0
        until_all_are_there()
    finally:
        run.kill()
