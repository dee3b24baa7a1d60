"""A long life on Kafka: whatever is asked and killed, what read_committed sees is exactly once."""

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from streamline.cluster.submission import pack
from tests.cluster.running import JOBS, Cluster
from tests.kafka.topics import create, producer_of, read_all, transactions_of
from tests.names import new_name

USERS, PARTITIONS = 20, 2
SEEDS = int(os.environ.get("STREAMLINE_CLUSTER_SEEDS", "20"))
AT_ONCE = 4
WITHIN_S = 90.0


class Feed:
    """Orders that come one after the other, in two partitions, until it is ended."""

    def __init__(self, servers, topic, seed):
        self.users = Counter()
        self._servers, self._topic = servers, topic
        self._rng = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._feed()))
        self._thread.start()

    async def _feed(self):
        async with producer_of(self._servers) as producer:
            while not self._over.is_set():
                for partition in range(PARTITIONS):
                    batch = producer.create_batch()
                    for user in self._rng.choices(range(USERS), k=20):
                        self.users[f"u{user}"] += 1
                        value = b'{"user":"u%d","amount":%d}' % (user, user % 7)
                        assert batch.append(key=None, value=value, timestamp=None) is not None
                    await (await producer.send_batch(batch, self._topic, partition=partition))
                await asyncio.sleep(0.05)

    def end(self):
        self._over.set()
        self._thread.join()


@pytest.fixture
def life_of(kafka):
    """Topics of a job, and what feeds it."""
    feeds = []

    def make(seed):
        source, target = new_name("orders"), new_name("counts")
        asyncio.run(create(kafka.servers, source, PARTITIONS))
        asyncio.run(create(kafka.servers, target, 1))
        feeds.append(Feed(kafka.servers, source, seed))
        return feeds[-1], {"servers": kafka.servers, "source": source, "target": target}

    yield make
    for feed in feeds:
        feed.end()


def check(feed, params):
    """Each order has moved its user's count on by one: none is missing, none counted twice.

    Returns:
        Of those written by the changed job: by user, how many it had seen itself.
    """
    feed.end()
    end = time.monotonic() + WITHIN_S
    while True:
        records = asyncio.run(read_all(params["servers"], params["target"]))
        if len(records) >= feed.users.total() or time.monotonic() > end:
            break
    counts, since = defaultdict(list), defaultdict(list)
    for record in records:
        value = json.loads(record.value)
        counts[value["key"]].append(value["count"])
        if "since" in value:
            since[value["key"]].append(value["since"])
    for user, count in feed.users.items():
        assert sorted(counts[user]) == list(range(1, count + 1)), user
    assert counts.keys() == feed.users.keys()
    # The field that was added began with its default.
    assert all(sorted(seen) == list(range(1, len(seen) + 1)) for seen in since.values())
    return since


def transactions(params, name):
    return {one.state for one in asyncio.run(transactions_of(params["servers"], name))}


def test_rescaled_killed_stopped_changed(life_of, tmp_path):
    feed, given = life_of(0)
    params = [word for name, value in given.items() for word in ("-p", f"{name}={value}")]
    with Cluster(tmp_path) as cluster:
        job = cluster.ok("submit", JOBS / "count_orders.py", *params, "--checkpoint-every", "200ms")
        cluster.records(job, 1)
        cluster.ok("rescale", job, "--parallelism", "3")
        found = cluster.records(job, 1)
        assert (found["parallelism"], len(found["workers"])) == (3, 3)
        os.kill(found["workers"][2]["pid"], signal.SIGKILL)
        cluster.until(job, lambda found: found["restarts"] == 1 and found["state"] == "running")
        masters = cluster.masters()
        cluster.kill()
        cluster.start()
        assert cluster.masters() == masters  # the job went on by itself, and was found
        cluster.ok("rescale", job, "--parallelism", "2")
        os.kill(masters[0], signal.SIGKILL)
        cluster.until(job, lambda found: found["restarts"] >= 1 and found["state"] == "running")
        found = cluster.records(job, 1)
        assert (found["parallelism"], len(found["workers"])) == (2, 2)
        assert cluster.masters() != masters
        cluster.ok("stop", job, "--savepoint", "saved")
        begin = (JOBS / "changed_orders.py", *params, "--from", "saved")
        plan = cluster.ok("plan", *begin)
        assert "seen: field since of Seen is added with its default" in plan
        changed = cluster.ok("submit", *begin, "--parallelism", "3")
        cluster.records(changed, 1)
        assert "state of node 'remember' is migrated" in cluster.ok("logs", changed)
        since = check(feed, given)
        cluster.until(changed, lambda found: lags(found) == [0])  # of three, one has no partition
        cluster.ok("stop", changed)
    assert len(since) == USERS
    assert all(0 < len(seen) < feed.users[user] for user, seen in since.items())
    assert transactions(given, "copy") <= {"Empty", "CompleteCommit", "CompleteAbort"}


def lags(found):
    """How far behind its sources are; each number once."""
    return sorted({task["source_lag"] for task in found["tasks"] if task["node"] == "orders"})


class Disturbed:
    """A cluster that is killed and started again while others use it."""

    def __init__(self, cluster):
        self.cluster = cluster
        self._lock = threading.Lock()  # no request is under way when it is killed; orders are
        token = (cluster.data / "token").read_text().strip()
        self._http = httpx.Client(
            base_url=cluster.url, headers={"Authorization": f"Bearer {token}"}, timeout=60
        )

    def close(self):
        self._http.close()

    def call(self, method, path, body=None):
        with self._lock:
            answer = self._http.request(method, f"/v1/{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def order(self, job, verb, body):
        """Something asked for, and what came of it."""
        asked = self.call("POST", f"jobs/{job}/{verb}", body)
        end = time.monotonic() + WITHIN_S
        while asked["state"] == "pending":
            assert time.monotonic() < end, asked
            time.sleep(0.05)
            asked = self.call("GET", f"operations/{asked['id']}")
        return asked

    def until(self, job, reached):
        end = time.monotonic() + WITHIN_S
        while True:
            found = self.call("GET", f"jobs/{job}")
            if reached(found):
                return found
            assert time.monotonic() < end, found
            assert found["state"] not in ("failed", "canceled"), found
            time.sleep(0.1)

    def kill(self):
        with self._lock:
            self.cluster.kill()
            self.cluster.start()
            self._http.get("/v1/jobs")


class Life:
    """One job's, in the order that a seed gives."""

    def __init__(self, seed, cluster, params):
        self.rng = random.Random(seed)
        self.cluster = cluster
        self.file = "count_orders.py"
        self.saved = cluster.cluster.folder / f"saved-{seed}"
        self.params = {**params, "name": f"copy-{seed}"}
        self.story = []
        self.rescaled = 0
        self.job = self.submit("")

    def submit(self, origin):
        file, archive = pack(JOBS / self.file)
        body = {
            "file": file, "archive": archive, "params": self.params, "origin": origin,
            "parallelism": self.rng.randint(1, 2), "checkpoint_every_ms": 200,
        }  # fmt: skip
        return self.cluster.call("POST", "jobs", body)["id"]

    def live(self):
        verbs = [self.rescale, self.worker, self.process, self.savepoint, self.stop]
        self.rng.shuffle(verbs)
        verbs.insert(self.rng.randrange(len(verbs) + 1), self.daemon)
        for verb in verbs:
            self.story.append(verb.__name__)
            if self.rng.random() < 0.7:  # or else at once, wherever it stands then
                self.cluster.until(self.job, lambda found: found["state"] == "running")
            verb()
        self.cluster.until(self.job, lambda found: found["records_in"] > 0)

    def rescale(self):
        wanted = self.rng.randint(1, 2)
        found = self.cluster.order(self.job, "rescale", {"parallelism": wanted})
        if found["state"] == "done":
            assert found["result"]["parallelism"] == wanted
            self.rescaled += 1
        else:  # something of it died meanwhile, perhaps of this test's own doing before
            assert "the job" in found["error"], found

    def worker(self):
        found = self.cluster.call("GET", f"jobs/{self.job}")
        self._end([one["pid"] for one in found["workers"]][-1:])

    def process(self):
        found = self.cluster.call("GET", f"jobs/{self.job}")
        workers = [one["pid"] for one in found["workers"]][:1]
        self._end([psutil.Process(pid).ppid() for pid in workers if psutil.pid_exists(pid)])

    def _end(self, pids):
        for pid in pids:
            try:
                if "streamline.cluster.master" in " ".join(psutil.Process(pid).cmdline()) or (
                    "streamline.runtime.worker" in " ".join(psutil.Process(pid).cmdline())
                ):
                    os.kill(pid, signal.SIGKILL)
            except (psutil.NoSuchProcess, ProcessLookupError):
                pass

    def daemon(self):
        self.cluster.kill()

    def savepoint(self):
        path = f"{self.saved}-live"
        found = self.cluster.order(self.job, "savepoint", {"path": path})
        assert found["state"] == "done", found
        assert found["result"]["path"] == path

    def stop(self):
        self.cluster.until(self.job, lambda found: found["last_checkpoint"] is not None)
        found = self.cluster.order(self.job, "stop", {"savepoint": str(self.saved)})
        assert found["state"] == "done", found
        assert found["result"]["state"] == "stopped"
        self.file = "changed_orders.py"
        self.job = self.submit(str(self.saved))


@pytest.mark.timeout(600)
def test_in_orders_that_seeds_give(life_of, tmp_path):
    """Several at once on one cluster, whose daemon dies once for each."""

    def live(seed):
        feed, params = life_of(seed)
        life = Life(seed, disturbed, params)
        try:
            life.live()
            assert check(feed, params)
            assert disturbed.order(life.job, "stop", {})["state"] == "done"
            return life.rescaled
        except BaseException as error:
            raise AssertionError(f"seed {seed} ({', '.join(life.story)}): {error!r}") from error

    with Cluster(tmp_path) as cluster:
        disturbed = Disturbed(cluster)
        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                lived = [pool.submit(live, seed) for seed in range(SEEDS)]
            failed = [str(one.exception()) for one in lived if one.exception() is not None]
            assert not failed, "\n".join(failed)
            assert sum(one.result() for one in lived) > SEEDS / 2  # most of them are not in vain
        finally:
            disturbed.close()
