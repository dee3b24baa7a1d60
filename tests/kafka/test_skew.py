"""Partitions that are far ahead in event time, and partitions that bring nothing, in whole jobs."""

import asyncio
import json
import signal
from collections import Counter

import pytest

from tests.kafka.cases import JOBS
from tests.kafka.topics import create, read_all, send_many
from tests.names import new_name
from tests.processes.runner import START_MS, Run

RECORDS = 30_000
HOUR_MS = 3_600_000
SKEW_MS = HOUR_MS // 2


def order(number, at):
    return {"number": number, "user": f"u{number % 7}", "amount": number % 100, "at": at}


def start(job, kafka, folder, source, target, **more):
    params = {"servers": kafka.servers, "source": source, "target": target, **more}
    return Run(job, folder, jobs=JOBS, params=params, parallelism=2, checkpoint_every="200ms")


@pytest.mark.timeout(120)
def test_a_partition_that_is_hours_ahead_waits_for_that_of_another_task(kafka, tmp_path):
    """Each partition spans six hours, the second of them begins three hours later."""
    servers, source, target = kafka.servers, new_name("skewed"), new_name("out")
    step_ms = 6 * HOUR_MS // RECORDS
    parts = [
        [order(number, START_MS + first_ms + number * step_ms) for number in range(RECORDS)]
        for first_ms in (0, 3 * HOUR_MS)
    ]

    async def prepare():
        await create(servers, source, 2)
        await create(servers, target, 2)
        await create(servers, f"{target}-order")
        for partition, orders in enumerate(parts):
            values = [json.dumps(one).encode() for one in orders]
            await send_many(servers, source, values, partition)

    asyncio.run(prepare())
    start("skewed", kafka, tmp_path, source, target, skew="30m").finish()
    wanted = Counter()
    for one in parts[0] + parts[1]:
        wanted[one["user"], one["at"] - one["at"] % 60_000] += one["amount"]
    found = Counter()
    for record in asyncio.run(read_all(servers, target)):
        value = json.loads(record.value)
        assert (value["key"], value["window_start"]) not in found
        found[value["key"], value["window_start"]] = value["total"]
    assert found == wanted, "nothing was late"
    # The one behind is read to where the other begins, and then they go on side by side.
    arrived = [
        json.loads(one.value)["at"] for one in asyncio.run(read_all(servers, f"{target}-order"))
    ]
    assert len(arrived) == 2 * RECORDS
    first_ahead_ms, last_behind_ms = parts[1][0]["at"], parts[0][-1]["at"]
    behind_ms, early = START_MS, 0
    for at in arrived:
        if at < first_ahead_ms:
            behind_ms = max(behind_ms, at)
        elif behind_ms < first_ahead_ms - 2 * SKEW_MS:
            early += 1
    # What was taken before anybody knew its time, and no more.
    assert early < RECORDS // 4, early
    assert last_behind_ms > first_ahead_ms


@pytest.mark.timeout(120)
def test_windows_close_while_a_partition_brings_nothing(kafka, tmp_path):
    """One partition stops, and two were empty from the first; the fourth goes on, far ahead."""
    servers, source, target = kafka.servers, new_name("quiet"), new_name("out")

    async def put(partition, first_ms):
        orders = [order(number, START_MS + first_ms + number * 1_000) for number in range(20)]
        await send_many(servers, source, [json.dumps(one).encode() for one in orders], partition)

    async def until_closed(at_ms):
        async with asyncio.timeout(40):
            while True:
                values = [json.loads(one.value) for one in await read_all(servers, target)]
                closed = [one["key"] for one in values if one["window_start"] == at_ms]
                if len(closed) == 7:  # of all users
                    return values

    async def prepare():
        await create(servers, source, 4)
        await create(servers, target)
        await put(0, 0)
        await put(3, 0)

    asyncio.run(prepare())
    run = start("quiet", kafka, tmp_path, source, target)
    try:
        asyncio.run(until_closed(START_MS))
        asyncio.run(put(3, 2 * HOUR_MS))
        values = asyncio.run(until_closed(START_MS + 2 * HOUR_MS))
        sums = Counter()
        for one in values:
            sums[one["window_start"]] += one["total"]
        assert sums[START_MS] == 2 * sum(range(10))
        assert sums[START_MS + 10_000] == 2 * sum(range(10, 20))
        assert sums[START_MS + 2 * HOUR_MS] == sum(range(10))
        run.process.send_signal(signal.SIGINT)
        assert run.end()[0] == 0
    finally:
        run.kill()
