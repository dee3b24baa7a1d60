"""What a job may bring and take: packages of its own, memory; and a process that was stopped."""

import os
import signal
import zipfile

import psutil
import pytest

from tests.cluster.running import JOBS, Cluster, totals, wanted

NEEDY = """
import streamline as sl
import {module}
from streamline.connectors.collection import CollectionSource
from streamline.connectors.files import FileSink

def job(output: str) -> sl.Job:
    job = sl.Job("needy")
    stream = job.source("in", CollectionSource([1, 2])).map(lambda n: {module}.double(n))
    stream.sink("out", FileSink(output, format=sl.Json()))
    return job
"""


@pytest.fixture
def cluster(tmp_path):
    with Cluster(tmp_path) as cluster:
        yield cluster


def write_wheel(folder, name):
    """A wheel with one module, which doubles."""
    folder.mkdir()
    file = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr(f"{name}.py", "def double(n):\n    return 2 * n\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        tags = "Root-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: test\n{tags}")
        wheel.writestr(f"{info}/RECORD", "")
    return file


def test_requirements_of_a_jobs_own(cluster, tmp_path):
    """They come with the job's folder, are seen by its workers, and by nobody else."""
    module = "streamline_test_doubling"
    folder = tmp_path / "needy"
    wheel = write_wheel(folder, module)
    (folder / "job.py").write_text(NEEDY.format(module=module))
    (tmp_path / "needs.txt").write_text(f"./{wheel.name}\n")
    out = tmp_path / "out"
    status, _, err = cluster.run("submit", folder, "-p", f"output={out}")
    assert status == 2
    assert f"No module named '{module}'" in err
    job = cluster.ok("submit", folder, "-p", f"output={out}", "--requirements", "needs.txt")
    cluster.until(job, lambda found: found["state"] == "finished")
    lines = [line for path in out.glob("part-*") for line in path.read_text().split()]
    assert sorted(lines) == ["2", "4"]
    (tmp_path / "needs.txt").write_text("./not-there-1.0-py3-none-any.whl\n")
    status, out, err = cluster.run("submit", folder, "--requirements", "needs.txt")
    assert (status, out) == (2, "")
    assert err.splitlines()[-1] == "streamline: the requirements cannot be installed"
    assert "not-there" in err
    missing = cluster.refused("submit", folder, "--requirements", "nowhere.txt")
    assert "--requirements nowhere.txt cannot be read" in missing


def test_a_worker_that_takes_too_much_memory_is_replaced(cluster, tmp_path):
    """The job lives, and counts nothing twice: the record that made it grow is not at fault."""
    out = tmp_path / "out"
    params = ("-p", f"output={out}", "-p", "count=60000", "-p", "rate=15000")
    eats = ("-p", f"eaten={tmp_path / 'eaten'}")
    options = ("--checkpoint-every", "200ms", "--memory-limit", "300MiB")
    job = cluster.ok("submit", JOBS / "greedy.py", *params, *eats, *options)
    found = cluster.until(job, lambda found: found["state"] == "finished")
    assert found["restarts"] == 1
    assert "MiB of memory, more than the 300 MiB allowed" in cluster.ok("logs", job)
    assert totals(out) == wanted(60_000)
    say = cluster.refused("submit", JOBS / "greedy.py", *params, "--memory-limit", "much")
    assert "--memory-limit='much' is not a size" in say


@pytest.mark.parametrize("restarted", [False, True])
def test_a_jobs_process_that_was_stopped_is_replaced(cluster, tmp_path, restarted):
    """Also by a daemon that has never heard of it."""
    out = tmp_path / "out"
    params = ("-p", f"output={out}", "-p", "count=60000", "-p", "rate=15000")
    job = cluster.ok("submit", JOBS / "paced.py", *params, "--checkpoint-every", "200ms")
    cluster.records(job)
    (pid,) = cluster.masters()
    os.kill(pid, signal.SIGSTOP)
    if restarted:
        cluster.kill()
        cluster.start()
    psutil.Process(pid).wait(30)
    found = cluster.until(job, lambda found: found["state"] == "finished")
    assert found["restarts"] == (0 if restarted else 1)  # counted by the daemon that saw it
    assert totals(out) == wanted(60_000)
