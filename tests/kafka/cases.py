"""Jobs from Kafka on, killed and gone on with, and what is to come of them."""

import asyncio
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil
from aiokafka import AIOKafkaProducer

from streamline.connectors.kafka.transactions import OPEN_STATES
from tests.kafka.topics import create, read_all, transactions_of
from tests.names import new_name
from tests.processes.runner import START_MS, Run

JOBS = Path(__file__).with_name("jobs.py")
RECORDS = int(os.environ.get("STREAMLINE_KAFKA_RECORDS", "500000"))
PARTITIONS = 4
RESTORE_POINTS = {  # of a sink, in their order
    "kafka": ["restore", "settled", "shut_out", "producing"],
    "postgres": ["held", "shut_out", "settled"],
}
WORKER_POINTS = ["barrier", "frozen", "flushed", "prepared", "snapshot", "commit", "committed"]


def _order(number, rng):
    at = START_MS + number * 2 + rng.randrange(-8_000, 8_000)
    return {
        "number": number,
        "user": f"u{rng.randrange(97)}",
        "amount": rng.randrange(100),
        "at": at,
    }


def fill(servers, records):
    rng, name = random.Random(1), f"orders-{os.getpid()}"
    made = [_order(number, rng) for number in range(records)]

    async def send():
        await create(servers, name, PARTITIONS)
        async with AIOKafkaProducer(bootstrap_servers=servers, max_batch_size=1 << 18) as out:
            waiting = []
            for partition in range(PARTITIONS):
                batch = out.create_batch()
                for one in made[partition::PARTITIONS]:
                    value = json.dumps(one).encode()
                    if batch.append(key=None, value=value, timestamp=one["at"]) is None:
                        waiting.append(await out.send_batch(batch, name, partition=partition))
                        batch = out.create_batch()
                        batch.append(key=None, value=value, timestamp=one["at"])
                waiting.append(await out.send_batch(batch, name, partition=partition))
            await asyncio.gather(*waiting)

    asyncio.run(send())
    sums = {}
    for one in made:
        if one["amount"] > 3:
            window = sums.setdefault((one["user"], one["at"] - one["at"] % 10_000), [0, 0])
            window[0] += one["amount"]
            window[1] += 1
    spend = Counter((user, start, *window) for (user, start), window in sums.items())
    copy = Counter((one["user"], one["number"]) for one in made)
    picked = Counter((one["user"], one["number"]) for one in made if one["number"] % 1000 != 7)
    return name, {"spend": spend, "copy": copy, "picky": picked}


class Case:
    """One run after the other of a job into a topic of its own."""

    def __init__(self, kafka, orders, folder, job="spend"):
        self.servers = kafka.servers
        self.source, wanted = orders
        self.wanted = wanted[job]
        self.folder, self.job = folder, job
        self.target = new_name("out")
        asyncio.run(create(self.servers, self.target, 3))

    def start(self, parallelism=2, crash="", options=(), state="state", **more):
        params = {"servers": self.servers, "source": self.source, "target": self.target, **more}
        return Run(
            self.job,
            self.folder,
            jobs=JOBS,
            params=params,
            parallelism=parallelism,
            crash=crash,
            checkpoint_every="200ms",
            options=options,
            state=state,
        )

    def killed(self, crash, parallelism=2):
        run = self.start(parallelism, crash)
        status, _, stderr = run.end()
        assert status == -signal.SIGKILL, stderr
        return run

    def seen(self):
        """What a consumer of committed records sees; keys have to be in their partition."""
        found, places = Counter(), {}
        for record in asyncio.run(read_all(self.servers, self.target)):
            value = json.loads(record.value)
            if self.job == "spend":
                row = (value["key"], value["window_start"], value["total"], value["count"])
            else:
                row = (value["user"], value["number"])
            found[row] += 1
            assert record.key.decode() == row[0]
            assert places.setdefault(record.key, record.partition) == record.partition
        return found

    def open_transactions(self):
        """Those that the broker has not ended."""
        found = asyncio.run(transactions_of(self.servers, self.job))
        return [one for one in found if one.state in OPEN_STATES]

    def check(self):
        found = self.seen()
        missing, wrong = self.wanted - found, found - self.wanted
        assert not missing, f"{missing.total()} are missing, such as {missing.most_common(3)}"
        assert not wrong, f"{wrong.total()} are wrong or twice, such as {wrong.most_common(3)}"
        assert not self.open_transactions()
        left = asyncio.run(transactions_of(self.servers, self.job))
        assert left, "the broker does not know the ids that the job has used"
        assert len(left) <= 12, left  # a bounded pool


def killed_in_restores(start, points):
    """Kill the whole of a job at each of these points of a restore, one life after the other.

    Each time it is restored at another parallelism. Then kill single workers there, until the
    job gives up. What the lives before have left is never settled to the end.
    """
    for life, point in enumerate(points):
        status, _, stderr = start((1, 3, 2)[life % 3], f"all:{point}@*").end()
        assert status == -signal.SIGKILL, (point, stderr)
    for life, point in enumerate(points[1:3]):
        status, _, stderr = start((3, 2)[life % 2], f"{point}@*", ["--max-restarts", "1"]).end()
        assert status == 1 and "gave up after 1 restart" in stderr, (point, stderr)


def ended(run, within_s):
    try:
        run.process.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def until_said(run, pattern):
    """The lines of a run's stderr up to the first that matches; none is read twice."""
    said = []
    for line in run.process.stderr:
        said.append(line)
        if re.search(pattern, line):
            return said
    raise AssertionError(f"it ended without saying {pattern!r}: {''.join(said)}")


def killed_at_random(start, rng, kills):
    """Start a job, kill all of it at some moment, and again, until it has come to its end.

    Returns:
        How often it was killed; it may end before so many.
    """
    killed = 0
    while True:
        if killed == kills:
            start(2).finish()
            return killed
        run = start(rng.randint(1, 3))
        run.wait_for("lock")
        if not ended(run, rng.uniform(0.4, 1.6)):
            run.kill()
        status, _, stderr = run.end()
        assert status in (0, -signal.SIGKILL), stderr  # it has not failed by itself
        killed += status != 0
        if status == 0 or (run.state / "finished").exists():
            return killed


def workers_killed_at_random(run, rng, kills, pause_s=(0.1, 0.8)):
    """Kill single workers of a run at some moments, until it has come to its end.

    Returns:
        How many were killed; it may end before there were so many.
    """
    killed = 0
    while killed < kills and not ended(run, rng.uniform(*pause_s)):
        workers = run.workers()
        if workers:
            rng.choice(workers).send_signal(signal.SIGKILL)
            killed += 1
    run.finish()
    return killed


def replaced_while_it_stands_still(start, within_s):
    """A whole run is stopped, another goes on from a copy of its state, and the first comes back.

    Args:
        start: Begins a run in a state folder of that name.
        within_s: For how long the first stands still at least.

    Returns:
        Exit status and stderr of the one that came back.
    """
    zombie = start("state")
    zombie.wait_for("checkpoints/*/MANIFEST")
    # The coordinator first, or it would replace workers that were stopped.
    tree = [psutil.Process(zombie.process.pid), *zombie.workers()]
    for process in tree:
        process.suspend()
    stopped_s = time.monotonic()
    shutil.copytree(zombie.state, zombie.folder / "other", ignore=shutil.ignore_patterns("live"))
    start("other").finish()
    ended(zombie, max(0.0, within_s - (time.monotonic() - stopped_s)))
    for process in reversed(tree):
        process.resume()
    status, _, stderr = zombie.end()
    return status, stderr
