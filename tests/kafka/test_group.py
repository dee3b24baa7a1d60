"""A job that tells a group how far it is: the lag is seen by what Kafka itself has noted."""

import asyncio

from aiokafka import TopicPartition

from tests.kafka.cases import JOBS
from tests.kafka.topics import admin_of, create, read_all, send
from tests.names import new_name
from tests.processes.runner import Run


def test_more_tasks_than_partitions_and_one_that_is_empty(servers, tmp_path):
    source, target = new_name("watched"), new_name("out")

    async def prepare():
        await create(servers, source, 2)
        await create(servers, target)
        await send(servers, source, [b"%d" % number for number in range(1_000)])

    async def noted():
        async with admin_of(servers) as admin:
            return await admin.list_consumer_group_offsets("watched")

    asyncio.run(prepare())
    params = {"servers": servers, "source": source, "target": target}
    run = Run("grouped", tmp_path, jobs=JOBS, params=params, parallelism=3)
    status, stdout, stderr = run.end()
    assert (status, '"restarts": 0' in stdout) == (0, True), stderr
    assert "not told" not in stderr
    assert len(asyncio.run(read_all(servers, target))) == 1_000
    assert asyncio.run(noted())[TopicPartition(source, 0)].offset == 1_000
