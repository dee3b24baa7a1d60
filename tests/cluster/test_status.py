"""What is told of a job: every field there is, and where job, tasks and workers are meanwhile."""

import json
import os
import signal
import time
from pathlib import Path

import httpx
import psutil
import pytest

import tests.processes
from tests.cluster.running import Cluster

FORGETFUL = Path(tests.processes.__file__).with_name("forgetful.py")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def test_every_field(cluster):
    """As status --json has them; a number is of this job, and not only a number."""
    job = cluster.endless("--parallelism", "2", "--checkpoint-every", "200ms")
    found = cluster.until(job, lambda found: min(counts(found)) > 0)
    later = cluster.until(job, lambda later: later["records_in"] > found["records_in"])
    assert found["id"] == job
    wanted = {
        "name": "paced", "state": "running", "parallelism": 2, "generation": 1, "restarts": 0,
        "last_error": "",
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
    assert 0 < found["uptime_s"] < later["uptime_s"] < 120
    done = found["last_checkpoint"]
    assert done.keys() == {"epoch", "duration_s", "size_bytes", "age_s"}
    assert done["epoch"] >= 1
    assert 0 <= done["duration_s"] < 60
    assert 0 <= done["age_s"] < 60
    assert done["size_bytes"] > 0
    owners = [(task["node"], task["index"], task["worker"]) for task in found["tasks"]]
    assert owners == [("numbers", 0, 0), ("numbers", 1, 1), ("window", 0, 0), ("window", 1, 1)]
    for before, task in zip(found["tasks"], later["tasks"], strict=True):
        assert task["state"] == "running"
        assert task["records_in"] >= before["records_in"] > 0
        assert task["records_out"] >= before["records_out"] > 0
        assert 1_700_000_000_000 <= before["watermark"] <= task["watermark"] < 1_800_000_000_000
        parts = [task[part] for part in ("busy", "idle", "backpressured")]
        assert all(0 <= part <= 1 for part in parts)
        assert sum(parts) == pytest.approx(1, abs=0.05)
    workers = {one["id"]: one for one in found["workers"]}
    assert workers.keys() == {0, 1}
    (master,) = (psutil.Process(pid) for pid in cluster.masters() if job in cmdline(pid))
    children = {child.pid for child in master.children()}
    for worker in workers.values():
        assert worker.keys() == {"id", "pid", "state"}
        assert worker["state"] == "running"
        assert worker["pid"] in children
    cluster.ok("cancel", job)
    ended = cluster.status(job)
    assert ended.keys() == found.keys()
    assert (ended["state"], ended["tasks"], ended["workers"]) == ("canceled", [], [])


def counts(found):
    """Records in and out of all tasks."""
    return [task[name] for task in found["tasks"] for name in ("records_in", "records_out")]


def cmdline(pid):
    return " ".join(psutil.Process(pid).cmdline())


def test_a_job_without_a_checkpoint(cluster):
    """There is nothing to be told of one yet, nor of records."""
    job = cluster.endless("--checkpoint-every", "1h", until=lambda found: found["tasks"])
    found = cluster.status(job)
    assert found["last_checkpoint"] is None
    cluster.ok("cancel", job)


def test_recovering_after_a_worker_was_killed(cluster):
    """The job says so, its tasks wait, and the worker that is gone is not said to run."""
    job = cluster.endless("--parallelism", "2", "--checkpoint-every", "200ms")
    before = cluster.records(job)
    os.kill(before["workers"][1]["pid"], signal.SIGKILL)
    seen = watch(cluster, job, lambda found: found["state"] == "running" and found["restarts"])
    assert {one["state"] for one in seen} == {"running", "recovering"}
    recovering = [one for one in seen if one["state"] == "recovering"]
    assert {one["restarts"] for one in recovering} == {1}
    # A task may see the connection go before the worker is seen to go.
    assert any("worker 1 was killed (SIGKILL)" in one["last_error"] for one in recovering)
    tasks = {task["state"] for one in recovering for task in one["tasks"]}
    assert "waiting" in tasks
    assert tasks <= {"waiting", "starting", "running"}
    for one in recovering:
        kept, other = one["workers"]
        assert kept == before["workers"][0]
        assert other["state"] in ("lost", "starting", "running")
        assert (other["pid"] is None) == (other["state"] == "lost")
    replaced = [one["workers"][1] for one in recovering if one["workers"][1]["state"] == "starting"]
    assert replaced
    assert all(one["pid"] != before["workers"][1]["pid"] for one in replaced)
    after = cluster.records(job)
    assert (after["generation"], after["restarts"]) == (2, 1)
    assert {task["state"] for task in after["tasks"]} == {"running"}
    assert [one["state"] for one in after["workers"]] == ["running", "running"]
    cluster.ok("cancel", job)


def watch(cluster, job, over):
    """All that is told of a job until something is so."""
    headers = {"Authorization": f"Bearer {(cluster.data / 'token').read_text().strip()}"}
    end = time.monotonic() + 60
    seen = []
    with httpx.Client(base_url=cluster.url, headers=headers, timeout=30) as client:
        while not seen or not over(seen[-1]):
            assert time.monotonic() < end, json.dumps(seen[-1])
            seen.append(client.get(f"/v1/jobs/{job}").json())
    return seen


def test_rules_are_checked_if_the_clusters_environment_says_so(cluster, tmp_path):
    """As those of all tests do: a reader that goes on elsewhere than it should fails the job."""
    job = cluster.ok("submit", FORGETFUL, "-p", f"output={tmp_path}", "--checkpoint-every", "50ms")
    epoch = 2  # it has read all there is by then
    found = cluster.until(
        job, lambda found: (found["last_checkpoint"] or {}).get("epoch", 0) > epoch
    )
    os.kill(found["workers"][0]["pid"], signal.SIGKILL)
    failed = watch(cluster, job, lambda found: found["state"] == "failed")[-1]
    assert "numbers[0] reads all from 101, but the checkpoint says 100" in failed["last_error"]
