"""A long life on Kafka: whatever is asked and killed, what read_committed sees is exactly once."""

import asyncio
import json
import os
import random
import signal
from collections import Counter, defaultdict

import pytest

from tests.cluster.running import JOBS, Cluster
from tests.kafka.topics import create, producer_of, read_all, transactions_of
from tests.names import new_name

USERS, EACH = 50, 12_000


@pytest.fixture
def topics(kafka):
    """Orders in four partitions, and a place for results."""
    source, target = new_name("orders"), new_name("counts")
    rng = random.Random(3)

    async def fill():
        await create(kafka.servers, source, 4)
        await create(kafka.servers, target, 3)
        async with producer_of(kafka.servers, max_batch_size=1 << 18) as producer:
            for partition in range(4):
                users = [user for user in range(USERS) for _ in range(EACH // 4)]
                rng.shuffle(users)
                for first in range(0, len(users), 5_000):
                    batch = producer.create_batch()
                    for user in users[first : first + 5_000]:
                        value = b'{"user":"u%d","amount":%d}' % (user, user % 7)
                        assert batch.append(key=None, value=value, timestamp=None) is not None
                    await (await producer.send_batch(batch, source, partition=partition))

    asyncio.run(fill())
    return source, target


def test_rescaled_killed_stopped_changed(kafka, topics, tmp_path):
    source, target = topics
    params = [
        word
        for name, value in (("servers", kafka.servers), ("source", source), ("target", target))
        for word in ("-p", f"{name}={value}")
    ]
    with Cluster(tmp_path) as cluster:
        job = cluster.ok("submit", JOBS / "slow_copy.py", *params, "--checkpoint-every", "200ms")
        cluster.records(job, 1)
        cluster.ok("rescale", job, "--parallelism", "3")
        found = cluster.records(job, 1)
        os.kill(found["workers"][2]["pid"], signal.SIGKILL)
        cluster.until(job, lambda found: found["restarts"] == 1 and found["state"] == "running")
        cluster.kill()
        cluster.start()
        cluster.ok("rescale", job, "--parallelism", "2")
        os.kill(cluster.masters()[0], signal.SIGKILL)
        cluster.until(job, lambda found: found["restarts"] >= 1 and found["state"] == "running")
        cluster.records(job, 1)
        cluster.ok("stop", job, "--savepoint", "saved")
        changed = cluster.ok(
            "submit", JOBS / "changed_copy.py", *params, "--from", "saved", "--parallelism", "3"
        )
        cluster.until(changed, lambda found: found["state"] == "finished")
    counts = defaultdict(list)
    checked = Counter()
    for record in asyncio.run(read_all(kafka.servers, target)):
        value = json.loads(record.value)
        counts[value["key"]].append(value["count"])
        checked[value.get("checked", False)] += 1
    # Each order has moved its user's count on by one: none is missing, and none was counted twice.
    wanted = list(range(1, EACH + 1))
    assert {user for user, seen in counts.items() if sorted(seen) != wanted} == set()
    assert len(counts) == USERS
    assert checked[False]  # the changed job may have had nothing left to do
    states = {one.state for one in asyncio.run(transactions_of(kafka.servers, "copy"))}
    assert states <= {"Empty", "CompleteCommit", "CompleteAbort"}
