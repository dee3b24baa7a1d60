"""``plan --from`` and ``--allow-dropped-state``: what becomes of state, told and then done."""

import json
from pathlib import Path

import pytest

from tests.cli.command import FAILED, USAGE, Cli

JOB = """
import streamline as sl
from streamline.connectors.datagen import GeneratorSource
from streamline.connectors.files import FileSink

def make(number, rng):
    return {{"k": number % 3, "n": number}}

def job(count: int) -> sl.Job:
    job = sl.Job("changing")
    stream = job.source("in", GeneratorSource(make, count=count)).key_by("k")
    stream.{operator}.sink("out", FileSink("out", format=sl.Json()))
    return job
"""
SUM = 'aggregate(total=sl.Sum("n"), name="sum")'


@pytest.fixture
def ran(cli: Cli) -> Cli:
    """A state folder with a checkpoint of a job that ran to its end."""
    cli.write("old.py", JOB.format(operator=SUM))
    cli.write("other.py", JOB.format(operator=SUM.replace('"sum"', '"other"')))
    cli.write("kind.py", JOB.format(operator='reduce(lambda a, b: b, name="sum")'))
    done = cli("run", "old.py", "-p", "count=300", "--engine", "inline", "--state-dir", "state")
    assert done.status == 0, done
    return cli


def told(cli: Cli, file: str, *options: str, path: str = "state") -> tuple[int, str]:
    done = cli("plan", file, "-p", "count=300", "--from", path, *options)
    assert done.stderr == "", done
    return done.status, done.stdout


def test_what_will_become_of_it_is_told(ran: Cli) -> None:
    status, same = told(ran, "old.py")
    assert status == 0
    assert same.startswith("checkpoint ")
    lines = [line.split()[:2] for line in same.splitlines()[1:]]
    assert lines == [["kept", "in"], ["kept", "sum"], ["kept", "out"]]
    status, other = told(ran, "other.py", "--json")
    found = json.loads(other)
    assert (status, found["job"]) == (0, "changing")
    verdicts = {one["node"]: one["verdict"] for one in found["nodes"]}
    assert verdicts == {"in": "kept", "other": "new", "sum": "dropped", "out": "kept"}
    status, kind = told(ran, "kind.py")
    assert status == FAILED
    assert "its kind was aggregate and is reduce now" in kind


def test_then_it_is_done(ran: Cli) -> None:
    begin = ("-p", "count=600", "--engine", "inline", "--from", "state", "--state-dir", "next")
    done = ran("run", "other.py", *begin)
    done.refuses(FAILED, "keyed state aggregate of node 'sum'", "--allow-dropped-state")
    done = ran("run", "kind.py", *begin, "--fresh")
    done.refuses(FAILED, "its kind was aggregate and is reduce now; give it another name=")
    done = ran("run", "other.py", *begin, "--fresh", "--allow-dropped-state")
    assert done.status == 0, done
    done.says("keyed state aggregate of node 'sum' is given up", "node 'other' is new in this job")


def test_nothing_to_compare_with(ran: Cli) -> None:
    given = ("plan", "old.py", "-p", "count=300", "--from")
    ran(*given, "nowhere").refuses(USAGE, "--from nowhere: there is no such folder")
    Path(ran.folder / "empty").mkdir()
    ran(*given, "empty").refuses(FAILED, "--from empty: there is no checkpoint; check the path")
