"""A cluster with real processes: jobs go on whatever is killed, and nothing is lost or twice."""

import json
import os
import signal

import httpx
import psutil
import pytest

from tests.cluster.running import JOBS, Cluster, totals, wanted

COUNT = 150_000


@pytest.fixture
def cluster(tmp_path):
    with Cluster(tmp_path) as cluster:
        yield cluster


def submitted(cluster, file="paced.py", *options, count=COUNT, rate=15_000):
    out = cluster.folder / "out"
    params = ("-p", f"output={out}", "-p", f"count={count}", "-p", f"rate={rate}")
    return cluster.ok("submit", JOBS / file, *params, "--checkpoint-every", "200ms", *options)


def test_a_long_life(cluster):
    """Rescaled, killed in all its parts, stopped, changed: the result is as if nothing had been."""
    job = submitted(cluster, rate=4_000)  # it is not done before all that has been asked of it
    assert cluster.records(job)["parallelism"] == 1
    cluster.ok("rescale", job, "--parallelism", "3")
    found = cluster.records(job)
    assert (found["parallelism"], len(found["workers"])) == (3, 3)
    os.kill(found["workers"][1]["pid"], signal.SIGKILL)
    cluster.until(job, lambda found: found["restarts"] == 1 and found["state"] == "running")
    before = cluster.masters()
    cluster.kill()
    cluster.start()
    assert cluster.masters() == before  # it went on by itself, and was found
    cluster.ok("rescale", job, "--parallelism", "2")
    os.kill(before[0], signal.SIGKILL)
    found = cluster.until(job, lambda found: found["restarts"] >= 1 and found["state"] == "running")
    assert found["parallelism"] == 2
    assert cluster.masters() != before
    saved = cluster.ok("stop", job, "--savepoint", cluster.folder / "saved")
    assert saved == str(cluster.folder / "saved")
    assert cluster.status(job)["state"] == "stopped"
    assert cluster.masters() == []
    begin = ("--from", "saved", "--parallelism", "2")
    changed = submitted(cluster, "changed.py", *begin, rate=100_000)
    cluster.until(changed, lambda found: found["state"] == "finished")
    assert totals(cluster.folder / "out") == wanted(COUNT)
    # What had gone wrong is told for good: what the first daemon saw, and what it did not.
    told = cluster.http.get(f"/v1/jobs/{job}/exceptions").json()["failures"]
    assert any(one["error"].startswith("worker 1 ") for one in told[:-1])
    assert all(one["generation"] >= 1 for one in told)
    assert told[-1]["error"] == "the job's own process ended; see its log"
    times = [one["at_ms"] for one in told]
    assert times == sorted(times)


def test_the_daemon_drains_when_it_is_told_to_end(cluster):
    job = submitted(cluster, count=60_000)
    cluster.records(job)
    status, said = cluster.kill(signal.SIGTERM)
    assert status == 0, said
    assert "draining all jobs" in said
    assert cluster.masters() == []
    cluster.start()
    cluster.until(job, lambda found: found["state"] == "finished")
    assert totals(cluster.folder / "out") == wanted(60_000)


def test_a_signal_to_a_jobs_process_does_not_end_the_job(cluster):
    """As when the machine goes down: it drains, and the next process goes on from there."""
    job = submitted(cluster, count=60_000)
    cluster.records(job)
    (pid,) = cluster.masters()
    os.kill(pid, signal.SIGTERM)
    psutil.Process(pid).wait(20)
    cluster.until(job, lambda found: found["state"] == "finished")
    assert totals(cluster.folder / "out") == wanted(60_000)


def test_an_order_outlives_the_daemon(cluster):
    """What was asked for is done, though the daemon died before it could say so."""
    job = submitted(cluster, count=10_000_000)
    cluster.records(job)
    headers = {"Authorization": f"Bearer {(cluster.data / 'token').read_text().strip()}"}
    path = str(cluster.folder / "saved")
    asked = httpx.post(
        f"{cluster.url}/v1/jobs/{job}/stop", json={"savepoint": path}, headers=headers
    )
    assert asked.status_code == 202
    cluster.kill()
    cluster.start()
    cluster.until(job, lambda found: found["state"] == "stopped")
    operation = httpx.get(f"{cluster.url}/v1/operations/{asked.json()['id']}", headers=headers)
    assert operation.json()["state"] == "done"
    assert operation.json()["result"]["path"] == path


def test_a_savepoint_that_does_not_fit(cluster):
    """It is refused when the job is submitted, in one sentence, and no job comes of it."""
    job = submitted(cluster, count=10_000_000)
    cluster.records(job)
    cluster.ok("stop", job, "--savepoint", "saved")
    params = ("-p", f"output={cluster.folder / 'out'}", "-p", "count=1000")
    start = ("submit", JOBS / "misfit.py", *params, "--from", "saved")
    other = cluster.refused(*start, "-p", "kind=other")
    assert "does not fit: node 'window': its kind was window" in other
    assert "give it another name=" in other
    dropped = cluster.refused(*start, "-p", "kind=none")
    assert "does not fit: node 'window': the job has no place for keyed state" in dropped
    assert "name it again with name=, or give it up with --allow-dropped-state" in dropped
    (cluster.folder / "empty").mkdir()
    empty = cluster.refused(*start[:-1], "empty", "-p", "kind=none")
    assert "there is no checkpoint" in empty
    assert len(json.loads(cluster.ok("list", "--all", "--json"))) == 1
    accepted = cluster.ok(*start, "-p", "kind=none", "--allow-dropped-state")
    found = cluster.until(accepted, lambda found: found["state"] == "finished")
    assert found["records_in"] == 0  # it went on behind all there is for it
    assert "is given up" in cluster.ok("logs", accepted)


def test_what_a_job_prints_and_how_it_fails(cluster, tmp_path):
    (tmp_path / "failing.py").write_text(
        "import streamline as sl\n"
        "from streamline.connectors.collection import CollectionSource\n"
        "from streamline.connectors.stdout import StdoutSink\n"
        "def half(n):\n"
        "    print('halving', n, flush=True)\n"
        "    return 1 / n\n"
        "job = sl.Job('failing')\n"
        "job.source('n', CollectionSource([1, 0])).map(half).sink('out', StdoutSink(sl.Json()))\n"
    )
    job = cluster.ok("submit", tmp_path / "failing.py")
    while (found := cluster.status(job))["state"] != "failed":
        pass
    assert "ZeroDivisionError" in found["last_error"]
    told = cluster.http.get(f"/v1/jobs/{job}/exceptions").json()
    assert told["last_error"] == found["last_error"]
    assert [one["generation"] for one in told["failures"]] == [1, 2]
    for failure in told["failures"]:
        assert (failure["node"], failure["index"]) == ("n", 0)
        assert "ZeroDivisionError" in failure["error"]
        assert "return 1 / n" in failure["trace"]
        assert failure["at_ms"] > 1e12
    assert told["trace"] == told["failures"][-1]["trace"]
    log = cluster.ok("logs", job, "--follow")
    assert "halving 1" in log
    assert "failing.py:6 (return 1 / n)" in log
    lines = [json.loads(line) for line in cluster.ok("logs", job, "--json").splitlines()]
    assert {"job": job, "line": "halving 1"} in lines
    listed = json.loads(cluster.ok("list", "--all", "--json"))
    assert [one["id"] for one in listed] == [job]
    assert cluster.run("list")[1:] == (
        "",
        "streamline: no job is running; --all shows ended ones\n",
    )


def test_logs_as_json(tmp_path):
    """Every line is an object with job, generation, node and task, whoever wrote it."""
    (tmp_path / "talking.py").write_text(
        "import logging, sys\n"
        "import streamline as sl\n"
        "from streamline.connectors.collection import CollectionSource\n"
        "from streamline.connectors.stdout import StdoutSink\n"
        "def talk(n):\n"
        "    print('printed', n)\n"
        "    print('also', 'printed', file=sys.stderr)\n"
        "    logging.getLogger('mine').warning('logged %d', n)\n"
        "    return 1 / n\n"
        "job = sl.Job('talking')\n"
        "job.source('n', CollectionSource([2, 0])).map(talk).sink('out', StdoutSink(sl.Json()))\n"
    )
    cluster = Cluster(tmp_path)
    try:
        cluster.start("--log-json")
        job = cluster.ok("submit", tmp_path / "talking.py")
        while cluster.status(job)["state"] != "failed":
            pass
        lines = [json.loads(line) for line in cluster.ok("logs", job).splitlines()]
        daemon = [json.loads(line) for line in cluster.kill(signal.SIGTERM)[1].splitlines()]
    finally:
        cluster.__exit__()
    assert all(line.keys() >= {"time", "level", "text"} for line in daemon + lines)
    assert {line["job"] for line in lines} == {job}
    assert all(line.keys() >= {"generation", "node", "task"} for line in lines)
    said = {line["text"]: line for line in lines}
    for text, more in (
        ("printed 2", {"level": "info", "stream": "stdout"}),
        ("also printed", {"level": "info", "stream": "stderr"}),
        ("logged 2", {"level": "warning", "logger": "mine"}),
    ):
        assert said[text].items() >= {**more, "node": "n", "task": "n[0]"}.items()
        assert said[text]["generation"] >= 1
    assert any("ZeroDivisionError" in text for text in said)


def test_a_key_makes_one_job_of_two_submissions(cluster):
    first = submitted(cluster, "paced.py", "--key", "once", count=10_000_000)
    assert submitted(cluster, "paced.py", "--key", "once", count=10_000_000) == first
    assert len(json.loads(cluster.ok("list", "--json"))) == 1
    cluster.ok("cancel", first)
    assert cluster.status(first)["state"] == "canceled"


def test_told(cluster, tmp_path):
    """One sentence on stderr, nothing on stdout, and the exit status."""
    job = submitted(cluster, count=1_000, rate=100_000)
    cluster.until(job, lambda found: found["state"] == "finished")
    say = cluster.refused
    assert "there is no job 'nobody'; streamline list shows all" in say("status", "nobody")
    assert f"job {job!r} is finished: there is nothing to stop" in say("stop", job)
    assert "give --parallelism N, or --node NAME=N" in say("rescale", job)
    assert "--node window: give NAME=N" in say("rescale", job, "--node", "window")
    assert "the job file 'nowhere.py' does not exist" in say("submit", "nowhere.py")
    params = ("-p", "output=o", "-p", "count=1")
    assert "there is no such folder" in say(
        "submit", JOBS / "paced.py", *params, "--from", "nowhere"
    )
    assert "count" in say("submit", JOBS / "paced.py", "-p", "output=o")
    status, out, err = cluster.run("submit", JOBS / "broken.py")
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith("streamline: ")
    assert "nothing_of_the_kind" in err
    assert "streamline/cluster" not in err
    wrong = say("list", env={"STREAMLINE_TOKEN": "wrong"})
    assert "this token is wrong; give that of the cluster's data folder" in wrong
    away = say("list", "--cluster", "http://127.0.0.1:9", status=1)
    assert "the cluster at http://127.0.0.1:9 cannot be reached" in away
    assert "must begin with http" in say("list", "--cluster", "nowhere")
    used = say("cluster", "start", "--data-dir", "other", "--listen", cluster.url[7:])
    assert "cannot be listened at: Address already in use; give another" in used
    start = ("cluster", "start", "--data-dir", cluster.data, "--listen", "127.0.0.1:0")
    assert "is in use by another process" in say(*start, status=1)
    assert "--token-file" in say("cluster", "start", "--data-dir", "o", "--listen", "0.0.0.0:0")
    tls = ("cluster", "start", "--tls-cert", "short", "--tls-key", "short")
    (tmp_path / "short").write_text("short\n")
    assert "--tls-cert short and --tls-key short cannot be used" in say(*tls)
    many = ("cluster", "start", "--listen", "0.0.0.0:0", "--token-file", "short")
    assert "at least 16 characters" in say(*many)
    assert "give HOST:PORT" in say("cluster", "start", "--listen", "nowhere")


def test_a_note_for_the_commands_that_cannot_be_written(tmp_path):
    """The daemon serves all the same, and says how it is reached."""
    (tmp_path / "home").write_text("no folder")
    cluster = Cluster(tmp_path)
    try:
        cluster.start()
    finally:
        said = cluster.kill(signal.SIGTERM)[1]
        cluster.__exit__()
    assert "cluster.json cannot be written (Not a directory): commands need --cluster http" in said


def test_without_a_cluster(tmp_path):
    cluster = Cluster(tmp_path)
    assert "there is no cluster; start one with streamline cluster start" in cluster.refused("list")
