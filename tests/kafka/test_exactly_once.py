"""Kafka to Kafka, with everything killed that can be: what read_committed sees is the reference."""

import asyncio
import json
import os
import random
import signal
from collections import Counter
from itertools import count
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from streamline.connectors.kafka.transactions import OPEN_STATES
from tests.kafka.topics import create, now, read_all, transactions_of
from streamline.testing.services import KafkaBroker
from tests.processes.runner import START_MS, Run
from tests.services.started import started

JOBS = Path(__file__).with_name("jobs.py")
RECORDS = int(os.environ.get("STREAMLINE_KAFKA_RECORDS", "500000"))
PARTITIONS = 4
WORKER_POINTS = ["barrier", "frozen", "flushed", "prepared", "snapshot", "commit", "committed"]
_numbers = count()


def order(number, rng):
    at = START_MS + number * 2 + rng.randrange(-8_000, 8_000)
    return {
        "number": number,
        "user": f"u{rng.randrange(97)}",
        "amount": rng.randrange(100),
        "at": at,
    }


@pytest.fixture(scope="module")
def orders(kafka):
    """A topic of orders, and what the jobs are to make of them."""
    return fill(kafka.servers, RECORDS)


def fill(servers, records):
    rng, name = random.Random(1), f"orders-{os.getpid()}"
    made = [order(number, rng) for number in range(records)]

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
    return name, {"spend": spend, "copy": copy}


class Case:
    """One run after the other of a job into a topic of its own."""

    def __init__(self, kafka, orders, folder, job="spend"):
        self.servers = kafka.servers
        self.source, wanted = orders
        self.wanted = wanted[job]
        self.folder, self.job = folder, job
        self.target = f"out-{os.getpid()}-{next(_numbers)}"
        asyncio.run(create(self.servers, self.target, 3))

    def start(self, parallelism=2, crash="", options=(), state="state"):
        params = {"servers": self.servers, "source": self.source, "target": self.target}
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

    def check(self):
        found = self.seen()
        missing, wrong = self.wanted - found, found - self.wanted
        assert not missing, f"{missing.total()} are missing, such as {missing.most_common(3)}"
        assert not wrong, f"{wrong.total()} are wrong or twice, such as {wrong.most_common(3)}"
        left = asyncio.run(transactions_of(self.servers, self.job))
        assert not [one for one in left if one.state in OPEN_STATES]
        assert len(left) <= 12, left  # a bounded pool


@pytest.fixture
def case(kafka, orders, tmp_path):
    return lambda job="spend": Case(kafka, orders, tmp_path, job)


def test_nobody_is_killed(case):
    for job in ("spend", "copy"):
        one = case(job)
        one.folder = one.folder / job
        one.start(parallelism=3).finish()
        one.check()


@pytest.mark.parametrize("point", WORKER_POINTS)
def test_a_worker_dies_at_every_point(case, point):
    one = case("spend" if point in ("frozen", "flushed") else "copy")
    assert one.start(crash=f"{point}@2").finish()["restarts"] in (1, 2)
    one.check()


@pytest.mark.parametrize(
    ("point", "parallelism"),
    list(zip([*WORKER_POINTS, "manifest", "completed"], [1, 3] * 5, strict=False)),
)
def test_all_die_at_every_point_and_go_on_at_another_parallelism(case, point, parallelism):
    one = case()
    one.killed(f"{point}@2" if point in ("manifest", "completed") else f"all:{point}@2")
    one.start(parallelism).finish()
    one.check()


def test_all_die_in_the_middle_of_restoring(case):
    one = case()
    one.killed("completed@2")
    for _ in range(2):
        one.killed("all:restore@0")
    one.start().finish()
    one.check()


def test_all_die_between_the_commits_of_two_tasks(case):
    one = case("copy")
    one.killed("all:committed@2")
    one.start(3).finish()
    one.check()


def seed():
    """A new one for each run of the tests, printed when one fails."""
    return int(os.environ.get("STREAMLINE_KILL_SEED", "0")) or random.SystemRandom().getrandbits(32)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("job", ["spend", "copy"])
def test_everything_is_killed_at_random_moments(case, job):
    rng, one = random.Random(number := seed()), case(job)
    print(f"STREAMLINE_KILL_SEED={number}")
    for _ in range(10):
        run = one.start(rng.randint(1, 3))
        run.wait_for("lock")
        if not ended(run, rng.uniform(0.5, 2.0)):
            run.kill()
        if run.end()[0] == 0:
            break
    else:
        one.start(2).finish()
    one.check()


@pytest.mark.timeout(600)
def test_workers_are_killed_at_random_moments(case):
    rng, one = random.Random(number := seed()), case("copy")
    print(f"STREAMLINE_KILL_SEED={number}")
    run = one.start(2, options=["--max-restarts", "50"])
    killed = 0
    while killed < 20 and not ended(run, rng.uniform(0.1, 0.8)):
        workers = run.workers()
        if workers:
            rng.choice(workers).send_signal(signal.SIGKILL)
            killed += 1
    run.finish()
    one.check()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", ["killed", "paused"])
def test_the_broker_is_away_for_a_while(tmp_path, moment):
    """It is killed and started again twice, or stands still; the job bears with it."""
    broker = started(KafkaBroker())
    try:
        one = Case(broker, fill(broker.servers, 200_000), tmp_path, "copy")
        run = one.start(2)
        for _ in range(2):
            run.wait_for("checkpoints/*/MANIFEST")
            ended(run, 0.3)
            if moment == "killed":
                broker.kill()
                ended(run, 1)
                broker.start()
            else:
                broker.pause()
                ended(run, 2)
                broker.resume()
        run.finish()
        one.check()
    finally:
        broker.close()


def test_a_worker_stands_still_for_longer_than_it_may(case):
    """It is taken for dead and replaced, and what it had begun is aborted."""
    one = case("copy")
    run = one.start(2)
    run.wait_for("checkpoints/*/MANIFEST")
    run.workers()[0].suspend()
    assert run.finish()["restarts"] >= 1
    one.check()


def ended(run, within_s):
    import subprocess

    try:
        run.process.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True
