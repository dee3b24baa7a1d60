"""Metrics have the values they should have: counted beside a job whose input is known."""

import json
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.running import JOBS, Cluster

START_MS = 1_700_000_000_000
USERS = 10


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def metrics(cluster):
    """All samples of a job as Prometheus reads them: by name and labels."""
    headers = {"Authorization": f"Bearer {(cluster.data / 'token').read_text().strip()}"}
    with httpx.Client(base_url=cluster.url, headers=headers, timeout=30) as client:

        def read(job):
            found = {}
            text = client.get(f"/v1/jobs/{job}/metrics").text
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    labels = dict(sample.labels)
                    assert labels.pop("job") == job
                    name = sample.name.removeprefix("streamline_")
                    places = [labels.pop(one) for one in ("node", "index") if one in labels]
                    found[(name, *places, *labels.values())] = sample.value
            return found

        def until(job, reached):
            end = time.monotonic() + 60
            while not reached(found := read(job)):
                assert time.monotonic() < end, found
            return found

        yield until


def line(number, **more):
    order = {"user": f"u{number % USERS}", "amount": number, "at": START_MS + 10 * number, **more}
    return json.dumps(order) + "\n"


def test_every_metric_has_its_value(cluster, metrics, tmp_path):
    """Good lines first, which bring event time on; then what goes astray."""
    source = tmp_path / "orders.jsonl"
    source.write_text("".join(map(line, range(1_000))))
    given = ("-p", f"input={source}", "-p", f"output={tmp_path / 'out'}")
    options = ("--parallelism", "2", "--checkpoint-every", "200ms")
    job = cluster.ok("submit", JOBS / "astray.py", *given, *options)

    def total(found, name):
        return sum(value for key, value in found.items() if key[0] == name)

    def of(found, name, node):
        return sum(value for key, value in found.items() if key[:2] == (name, node))

    def come(records):
        """So many have been read, and event time has reached the windows."""

        def reached(found):
            reached_s = [found.get(("task_watermark_seconds", "window", i), 0) for i in "01"]
            return (
                of(found, "task_records_in_total", "orders") == records
                and min(reached_s) == (START_MS + 9_990 - 1) / 1000
            )

        return reached

    metrics(job, come(1_000))
    far_ms = int(time.time() * 1000) + 86_400_000
    more = [line(number, at=START_MS) for number in range(5)]  # late
    more += [line(number, at=far_ms + number) for number in range(2)]  # ahead of time
    more += [line(990, amount=-1) for _ in range(3)]  # refused by a function
    more += ["no json\n"] * 4  # bad
    with source.open("a") as file:
        file.write("".join(more))
    found = metrics(
        job, lambda found: come(1_010)(found) and of(found, "node_late_total", "window") == 5
    )
    size = source.stat().st_size
    wanted = {
        ("node_late_total", "window"): 5,
        ("node_future_total", "timed"): 2,
        ("node_skipped_total", "known"): 3,
        ("node_dead_letters_total", "orders"): 4,
        ("task_bytes_in_total", "orders"): size,
        ("task_records_in_total", "window"): 1_007,
        ("task_records_out_total", "orders"): 1_007 + 4,  # to the windows, and to dead letters
        ("task_source_lag_bytes", "orders"): 0,
        ("restarts_total",): 0,
        ("refused_total",): 0,
    }
    for (name, *node), value in wanted.items():
        assert (of(found, name, *node) if node else total(found, name)) == value, name
        if name.startswith("node_"):
            assert total(found, name) == value  # and no other node has any
    assert ("job_state", "running") in found
    assert not any(key[0] == "task_source_lag" for key in found)  # nobody counts lines
    cluster.ok("stop", job)
    written = {
        name: sum(path.stat().st_size for path in (tmp_path / "out" / name).glob("part-*"))
        for name in ("broken", "totals")
    }
    assert min(written.values()) > 0
    # What one task has sent, the other has received. Dead letters are written where lines are read.
    sent = of(found, "task_bytes_out_total", "orders") - written["broken"]
    assert sent == of(found, "task_bytes_in_total", "window") > 0
    assert of(found, "task_bytes_out_total", "window") == written["totals"]


def test_what_a_task_does_and_holds(cluster, metrics):
    """Times, event time, checkpoints, credits and state of a job that works on."""
    job = cluster.endless("--parallelism", "2", "--checkpoint-every", "200ms")
    found = metrics(
        job, lambda found: all(found.get(("task_state_bytes", "window", i), 0) > 0 for i in "01")
    )
    now_s = time.time()
    for node in ("numbers", "window"):
        for index in "01":
            task = {
                key[0].removeprefix("task_"): value
                for key, value in found.items()
                if key[1:] == (node, index)
            }
            parts = [task[part] for part in ("busy", "idle", "backpressured")]
            assert all(0 <= part <= 1 for part in parts)
            assert sum(parts) == pytest.approx(1, abs=0.05)
            seconds = [task[f"{part}_seconds_total"] for part in ("busy", "idle", "backpressured")]
            assert min(seconds) >= 0
            assert 0 < sum(seconds) < 120
            assert task["busy_seconds_total"] > 0
            assert START_MS / 1000 < task["watermark_seconds"] < START_MS / 1000 + 86_400
            lag_s = now_s - task["watermark_seconds"]
            assert task["watermark_lag_seconds"] == pytest.approx(lag_s, abs=60)
            assert 0 <= task["alignment_seconds"] < 60
            assert 0 <= task["credits"] <= task["credits_limit"]
            assert task["credits_limit"] == (4 if node == "numbers" else 0)  # two channels of two
            assert (task["state_entries"] > 0) == (node == "window")
    assert 0 <= found[("checkpoint_duration_seconds",)] < 60
    assert 0 <= found[("checkpoint_age_seconds",)] < 60
    assert found[("checkpoint_size_bytes",)] > 0
    cluster.ok("cancel", job)
