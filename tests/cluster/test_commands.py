"""The commands as a person has them: on a terminal, in a pipe, completed by a shell."""

import json
import re
import subprocess

import pytest
from click.testing import CliRunner

from streamline.cli.main import cli
from tests.cluster.running import Cluster

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.job = cluster.endless("--checkpoint-every", "200ms")
        yield cluster


@pytest.mark.parametrize("command", ["list", "status"])
def test_tables_on_a_terminal_and_plain_text_elsewhere(cluster, command):
    given = (command, *([cluster.job] if command == "status" else []))
    shown = cluster.on_terminal(*given)
    assert "\x1b[32mrunning\x1b[0m" in shown
    assert "────" in shown
    plain = cluster.ok(*given)
    assert "\x1b" not in plain
    assert "───" not in plain
    for text in (COLOURS.sub("", shown), plain):
        assert cluster.job in text  # whole, also where the terminal is narrow
        assert "running" in text
        if command == "status":
            assert "numbers[0]" in text
            assert "watermark" in text


def completed(cluster, words, *, shell="bash", env=None):
    environment = {
        "_STREAMLINE_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
        **(env or {}),
    }
    status, out, err = cluster.run(env=environment)
    assert (status, err) == (0, "")
    return out.split()


def test_a_shell_completes_ids_of_jobs(cluster):
    for verb in ("logs", "rescale"):
        assert f"plain,{cluster.job}" in completed(cluster, ["streamline", verb, "pac"])
    assert completed(cluster, ["streamline", "status", "nobody"]) == []
    assert "plain,rescale" in completed(cluster, ["streamline", "res"])


def test_completion_is_silent_without_a_cluster(cluster):
    for away in ("http://127.0.0.1:9", "nowhere"):
        env = {"STREAMLINE_CLUSTER": away}
        assert completed(cluster, ["streamline", "status", ""], env=env) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_for_shells(shell):
    done = CliRunner().invoke(cli, ["completion", shell])
    assert done.exit_code == 0
    assert f"_STREAMLINE_COMPLETE={shell}_complete" in done.output


def test_one_node_is_rescaled(cluster):
    cluster.ok("rescale", cluster.job, "--node", "window=2")
    found = cluster.records(cluster.job, 1)
    assert found["parallelism"] == 1
    tasks = {(task["node"], task["index"]) for task in found["tasks"]}
    assert tasks == {("numbers", 0), ("window", 0), ("window", 1), ("out", 0)}
    assert all(type(one["pid"]) is int for one in found["workers"])


PIPELINE = """
import streamline as sl
from rules import limit
from streamline.connectors.collection import CollectionSource
from streamline.connectors.files import FileSink

def small(n):
    from deep.more import offset
    return n < limit + offset()

def job(output: str) -> sl.Job:
    job = sl.Job("beside")
    stream = job.source("in", CollectionSource([1, 2, 3, 4])).filter(small)
    stream.sink("out", FileSink(output, format=sl.Json()))
    return job
"""


def test_what_stands_beside_a_jobs_file_goes_along(cluster, tmp_path):
    """As far as it is imported; what works in place works in the cluster, or it is told."""
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    (tmp_path / "rules.py").write_text("limit = 2\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "more.py").write_text(
        "from pathlib import Path\n"
        "def offset():\n"
        "    return int(Path(__file__).with_name('offset.txt').read_text())\n"
    )
    (tmp_path / "deep" / "offset.txt").write_text("1\n")
    command = ("submit", tmp_path / "pipeline.py", "-p", f"output={tmp_path / 'cluster'}")
    job = cluster.ok(*command)
    cluster.until(job, lambda found: found["state"] == "finished")
    cluster.ok("run", tmp_path / "pipeline.py", "-p", f"output={tmp_path / 'here'}")
    for place in ("cluster", "here"):
        lines = [
            one for path in (tmp_path / place).glob("part-*") for one in path.read_text().split()
        ]
        assert sorted(map(int, lines)) == [1, 2]
    dynamic = "import importlib\nlimit = importlib.import_module('more_rules').limit\n"
    (tmp_path / "rules.py").write_text(dynamic)
    (tmp_path / "more_rules.py").write_text("limit = 2\n")
    status, out, err = cluster.run(*command)
    assert (status, out) == (2, "")
    last = err.splitlines()[-1]
    assert "No module named 'more_rules'" in last
    assert "takes along what it imports by name from beside it; give a folder with a job.py" in last


def test_watching_outlives_the_daemon(cluster):
    """It waits while the cluster is away, goes on, and ends with the job."""
    job = cluster.endless("--checkpoint-every", "200ms")
    with subprocess.Popen(
        cluster.command("status", job, "--watch", "--json"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=cluster.environment,
    ) as watching:  # fmt: skip
        before = json.loads(watching.stdout.readline())
        cluster.kill()
        cluster.start()
        after = json.loads(watching.stdout.readline())
        while after["records_in"] <= before["records_in"]:
            after = json.loads(watching.stdout.readline())
        assert after["id"] == before["id"] == job
        cluster.ok("cancel", job)
        *_, last = watching.stdout
        assert json.loads(last)["state"] == "canceled"
        assert watching.stderr.read() == ""
    assert watching.returncode == 0
