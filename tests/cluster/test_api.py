"""The API: who may come in, what it says of itself, and that nothing makes it fall over."""

import contextlib
import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamline.cluster.submission import MOST_BYTES
from tests.cluster.running import JOBS, Cluster

SECONDS = 120


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.job = cluster.endless("--parallelism", "2")
        yield cluster


@pytest.fixture
def http(cluster):
    token = (cluster.data / "token").read_text().strip()
    with httpx.Client(
        base_url=cluster.url, headers={"Authorization": f"Bearer {token}"}, timeout=30
    ) as client:
        yield client


def problem(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["status"] == status
    assert found["type"] == "about:blank"
    return found["detail"]


def test_what_is_told_of_a_job(cluster, http):
    found = http.get(f"/v1/jobs/{cluster.job}").json()
    assert found["state"] == "running"
    assert (found["name"], found["parallelism"], found["restarts"]) == ("paced", 2, 0)
    assert {(task["node"], task["index"]) for task in found["tasks"]} == {
        ("numbers", 0), ("numbers", 1), ("window", 0), ("window", 1),
    }  # fmt: skip
    for task in found["tasks"]:
        assert task["state"] == "running"
        assert 0.9 <= task["busy"] + task["idle"] + task["backpressured"] <= 1.1
        assert task["records_in"] > 0
    assert len(found["workers"]) == 2
    assert found["last_checkpoint"]["epoch"] >= 1
    assert http.get(f"/v1/jobs/{cluster.job}/tasks").json()[0].keys() == found["tasks"][0].keys()
    graph = http.get("/v1/jobs/paced/graph").json()
    assert next(node["id"] for node in graph["graph"]["nodes"]) == "numbers"
    assert http.get("/v1/jobs/paced/exceptions").json() == {
        "last_error": "", "trace": "", "restarts": 0, "failures": [],
    }  # fmt: skip


NAMES = (
    "task_records_in_total", "task_records_out_total", "task_bytes_in_total",
    "task_bytes_out_total", "task_busy", "task_idle", "task_backpressured",
    "task_watermark_seconds", "task_watermark_lag_seconds", "task_alignment_seconds",
    "task_credits", "task_credits_limit", "task_state_entries", "task_state_bytes",
    "node_late_total", "node_skipped_total", "node_dead_letters_total", "node_future_total",
    "checkpoint_duration_seconds", "checkpoint_size_bytes", "checkpoint_age_seconds",
    "restarts_total", "refused_total",
)  # fmt: skip


def test_metrics(cluster, http):
    """Read as Prometheus reads them; all jobs together, and one alone."""
    state = f'streamline_job_state{{job="{cluster.job}",state="running"}} 1'
    for path in ("/metrics", f"/v1/jobs/{cluster.job}/metrics"):
        text = http.get(path).text
        assert state in text
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample)
        for name in NAMES:
            samples = found[f"streamline_{name}"]
            assert {sample.labels["job"] for sample in samples} == {cluster.job}, name
        window = {"job": cluster.job, "node": "window"}
        for name in ("task_records_in_total", "task_state_entries", "task_credits_limit"):
            of_node = "numbers" if name == "task_credits_limit" else "window"
            values = [
                sample.value
                for sample in found[f"streamline_{name}"]
                if sample.labels.items() >= {**window, "node": of_node}.items()
            ]
            assert len(values) == 2, name
            assert sum(values) > 0, name


def test_the_table_in_the_docs_has_all_metrics_there_are(cluster, http):
    documented = set()
    for line in Path("docs/cluster.md").read_text().partition("| metric |")[2].splitlines()[2:]:
        if not line.startswith("|"):
            break
        first = ""
        for name in re.findall(r"`(\w+)`", line.split("|")[1]):
            first = first or name
            # `checkpoint_duration_seconds`, `_size_bytes`: the same begin
            prefix = "_".join(first.split("_")[: 1 if name.startswith("_") else 0])
            documented.add(f"streamline_{prefix}{name}")
    text = http.get("/metrics").text
    told = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(text)
    }
    assert told == documented


def test_what_a_task_did_with_its_time(cluster, http):
    """As parts of its time, and in seconds; both tell the same."""
    for task in http.get(f"/v1/jobs/{cluster.job}/tasks").json():
        whole_s = task["busy_s"] + task["idle_s"] + task["backpressured_s"]
        assert whole_s > 0
        for part in ("busy", "idle", "backpressured"):
            assert task[f"{part}_s"] / whole_s == pytest.approx(task[part], abs=0.01)


def test_checkpoints(cluster, http):
    found = http.get(f"/v1/jobs/{cluster.job}/checkpoints").json()
    assert found
    epochs = [one["epoch"] for one in found]
    assert epochs == sorted(epochs)
    assert all(one["size_bytes"] > 0 and one["created_ms"] > 1e12 for one in found)


def test_who_may_come_in(cluster):
    bare = httpx.Client(base_url=cluster.url)
    with bare:
        assert "a token is needed" in problem(bare.get("/v1/jobs"), 401)
        assert problem(bare.get("/v1/openapi.json"), 401)
        assert problem(bare.get("/metrics"), 401)


def test_nothing_of_a_stranger_is_read(cluster, http):
    """His body may be large or none at all: it is his token that is wrong."""
    with httpx.Client(base_url=cluster.url) as bare:
        for body in (b"no json", b"x" * (MOST_BYTES + (1 << 17))):
            assert problem(bare.post("/v1/jobs", content=body), 401)
        wrong = bare.get("/v1/jobs", headers={"Authorization": "Bearer wrong"})
        assert "this token is wrong" in problem(wrong, 401)
    assert "streamline_wrong_tokens_total 1\n" in http.get("/metrics").text


def test_names_that_are_too_long(http):
    body = {"file": "a" * 400, "archive": "UEsFBgAAAAAAAAAAAAAAAAAAAAAAAA=="}
    assert "has no file" in problem(http.post("/v1/jobs", json=body), 400)
    body["origin"] = "relative"
    assert "give the whole path" in problem(http.post("/v1/jobs", json=body), 400)


def test_a_body_that_is_too_large(http):
    data = b"x" * (MOST_BYTES + (1 << 17))
    assert "at most" in problem(http.post("/v1/jobs", content=data), 413)
    pieces = (data[:1000] for _ in range(len(data) // 1000))
    assert "at most" in problem(http.post("/v1/jobs", content=pieces), 413)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"file": "a.py", "archive": "no zip"}, "the archive cannot be unpacked"),
        ({"file": "../a.py", "archive": "UEsFBgAAAAAAAAAAAAAAAAAAAAAAAA=="}, "has no file"),
        ({"file": "a.py", "archive": "", "parallelism": 0}, "parallelism"),
        ({"file": "a.py", "archive": "", "unknown": 1}, "unknown"),
    ],
)
def test_submissions_that_are_none(http, body, why):
    answer = http.post("/v1/jobs", json=body)
    assert why in problem(answer, 422 if answer.status_code == 422 else 400)


def test_verbs_that_make_no_sense(cluster, http):
    assert "there is no job" in problem(http.post("/v1/jobs/nobody/cancel"), 404)
    assert "there is no operation" in problem(http.get("/v1/operations/op-0"), 404)
    answer = http.post(f"/v1/jobs/{cluster.job}/rescale", json={})
    assert "give parallelism, or nodes" in problem(answer, 400)
    assert problem(http.get("/nowhere"), 404)
    assert problem(http.put("/v1/jobs"), 405)
    asked = http.post(f"/v1/jobs/{cluster.job}/rescale", json={"nodes": {"nobody": 2}})
    assert asked.status_code == 202
    operation = asked.json()
    while operation["state"] == "pending":
        operation = http.get(f"/v1/operations/{operation['id']}").json()
    assert "has no node 'nobody' to be rescaled" in operation["error"]


STRANGE = (
    b"",
    b"\0" * 40,
    b"\xff" * 40,
    b'\x10\0\0\0{"token": "no"}',
    b"GET / HTTP/1.1",
    b"\x08\0\0\0\0\0\0\0\x80",
    b"\0\0\0\0\0\x01\0\0" + b"x" * 100_000,
)


def test_strangers_at_every_socket_of_a_job(cluster, http):
    """What is cut off, too long, without the token or no order at all: refused, counted; and the
    job goes on."""
    before = http.get(f"/v1/jobs/{cluster.job}").json()
    (master,) = cluster.masters()
    processes = [psutil.Process(master), *psutil.Process(master).children()]
    ports = {
        one.laddr.port
        for process in processes
        for one in process.net_connections()
        if one.status == psutil.CONN_LISTEN
    }
    assert len(ports) == 4  # orders, the control of its workers, and each of these for its peers
    for port in sorted(ports):
        for said in STRANGE:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as stranger:
                with contextlib.suppress(OSError):  # it may be gone before we are done
                    stranger.sendall(said)
                    stranger.shutdown(socket.SHUT_WR)
                    while stranger.recv(1_000):
                        pass
    refused = before["refused"] + len(ports) * len(STRANGE)
    found = cluster.until(cluster.job, lambda found: found["refused"] >= refused)
    assert found["state"] == "running"
    assert found["restarts"] == before["restarts"]
    assert [one["pid"] for one in found["workers"]] == [one["pid"] for one in before["workers"]]
    seen = found["records_in"]
    cluster.until(cluster.job, lambda found: found["records_in"] > seen)
    text = http.get(f"/v1/jobs/{cluster.job}/metrics").text
    assert f'streamline_refused_total{{job="{cluster.job}"}} {refused}\n' in text


FUZZING = """
[[operations]]
include-name = "POST /v1/jobs"
# The other mode submits the example with each field at each of its limits: dozens of jobs.
phases.coverage.generation.mode = "negative"
"""


def test_fuzzed_from_its_own_document(tmp_path):
    """On a cluster of its own: it finds the job, submits the document's example, and does all to
    them that can be done."""
    with Cluster(tmp_path) as cluster:
        cluster.submit(JOBS / "paced.py", {"output": str(tmp_path / "out"), "count": "100000000"})
        token = (cluster.data / "token").read_text().strip()
        (tmp_path / "schemathesis.toml").write_text(FUZZING)
        checks = "not_a_server_error,status_code_conformance,content_type_conformance"
        command = [
            str(Path(sys.executable).with_name("st")),
            *("run", f"{cluster.url}/v1/openapi.json", "-H", f"Authorization: Bearer {token}"),
            *("--max-examples", "10", "--seed", "1", "--phases", "examples,coverage,fuzzing"),
            *("--checks", f"{checks},response_schema_conformance", "--no-color"),
            *("--report", "har", "--report-har-path", tmp_path / "har"),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-2_000:]
        har = json.loads((tmp_path / "har").read_text())["log"]["entries"]
        answers = {(one["request"]["method"], one["response"]["status"]) for one in har}
        assert answers >= {("POST", 201), ("POST", 422), ("GET", 200), ("DELETE", 200)}
        assert cluster.http.get("/v1/jobs").is_success


def test_too_many_wrong_tokens(tmp_path):
    """The caller has to wait; a right token does not help until then."""
    with Cluster(tmp_path) as cluster, httpx.Client(base_url=cluster.url) as guessing:
        wrong = {"Authorization": "Bearer wrong"}
        for _ in range(10):
            assert "this token is wrong" in problem(guessing.get("/v1/jobs", headers=wrong), 401)
        answer = guessing.get("/v1/jobs", headers=wrong)
        assert "too many wrong tokens" in problem(answer, 429)
        assert 0 < int(answer.headers["Retry-After"]) <= 61
