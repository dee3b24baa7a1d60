"""``plan --from`` and ``--allow-dropped-state``: what becomes of state, told and then done."""

import json
from pathlib import Path
from typing import Any

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


# ---------------------------------------------------------------------- a record that changes

RECORDS = """
import streamline as sl
from streamline.connectors.datagen import GeneratorSource
from streamline.connectors.files import FileSink

class Seen(sl.Record):
    {fields}

class Remember(sl.ProcessFunction):
    seen = sl.ValueState(Seen)
    def process(self, value, ctx):
        before = self.seen.get()
        self.seen.set(Seen({first}))
        if before is not None:
            yield {{"n": value["n"], "before": {shown}}}

def make(number, rng):
    return {{"k": number, "n": number}}

def keep(value):
    return {{"k": value["k"] % 300, "n": value["n"]}}

def job(count: int) -> sl.Job:
    job = sl.Job("remembering")
    stream = job.source("in", GeneratorSource(make, count=count)).map(keep).key_by("k")
    stream.process(Remember(), name="remember").sink("out", FileSink("out", format=sl.Json()))
    return job
"""


def records(fields: str, first: str = 'value["n"]', shown: str = "before.n") -> str:
    return RECORDS.format(fields=fields, first=first, shown=shown)


def results(cli: Cli) -> list[dict[str, Any]]:
    files = (cli.folder / "out").glob("part-*")
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture
def remembering(cli: Cli) -> Cli:
    """One entry for each of 300 keys, and no output yet."""
    cli.write("old.py", records("n: int"))
    done = cli("run", "old.py", "-p", "count=300", "--engine", "inline", "--state-dir", "state")
    assert done.status == 0, done
    return cli


@pytest.mark.parametrize("engine", ["inline", "local"])
@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_field_with_a_default_is_added(remembering: Cli, engine: str, parallelism: int) -> None:
    """Also in a file of another name."""
    added = records("n: int\n    note: str = 'none'", shown="[before.n, before.note]")
    remembering.write("new.py", added)
    status, text = told(remembering, "new.py")
    assert status == 0
    how = "seen: field note of Seen is added with its default"
    assert ["migrated", "remember", how] in [line.split(None, 2) for line in text.splitlines()]
    run = ("run", "new.py", "-p", "count=600", "--engine", engine, "--from", "state")
    options = ("--parallelism", str(parallelism), "--state-dir", "next")
    done = remembering(*run, *options)
    assert done.status == 0, done
    done.says(f"state of node 'remember' is migrated: {how}")
    lines = results(remembering)
    assert sorted(line["n"] for line in lines) == list(range(300, 600))
    assert all(line["before"] == [line["n"] - 300, "none"] for line in lines)


@pytest.mark.parametrize(
    ("fields", "first", "why"),
    [
        ("n: str", 'str(value["n"])', "field n of Seen was int and is str now"),
        ("n: int\n    at: int", 'value["n"], 0', "field at of Seen is new and has no default"),
    ],
)
def test_a_change_that_cannot_be_read(remembering: Cli, fields: str, first: str, why: str) -> None:
    remembering.write("new.py", records(fields, first))
    status, text = told(remembering, "new.py")
    assert status == FAILED
    assert why in text
    given = ("-p", "count=600", "--engine", "inline", "--from", "state", "--state-dir", "next")
    remembering("run", "new.py", *given).refuses(FAILED, "does not fit", "'remember'", why)


def test_a_field_is_given_up(remembering: Cli) -> None:
    remembering.write("new.py", records("m: int = 0", shown="before.m"))
    given = ("-p", "count=600", "--engine", "inline", "--from", "state", "--state-dir", "next")
    done = remembering("run", "new.py", *given)
    done.refuses(FAILED, "field n of the stored Seen", "--allow-dropped-state")
    done = remembering("run", "new.py", *given, "--fresh", "--allow-dropped-state")
    assert done.status == 0, done
    assert {line["before"] for line in results(remembering)} == {0}


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_an_aggregation_is_added(ran: Cli, engine: str) -> None:
    """What the others have counted goes on; the new one begins with the records from now on."""
    added = 'aggregate(n=sl.Count(), total=sl.Sum("n"), name="sum")'
    ran.write("new.py", JOB.format(operator=added))
    status, text = told(ran, "new.py")
    how = "aggregate: aggregation n is added; it begins with the records from now on"
    assert (status, how in text) == (0, True)
    given = ("-p", "count=303", "--engine", engine, "--from", "state", "--state-dir", "next")
    done = ran("run", "new.py", *given)
    assert done.status == 0, done
    last = [line for line in results(ran) if "total" in line and "n" in line]
    totals = {key: sum(range(key, 303, 3)) for key in range(3)}
    assert {line["key"]: line["total"] for line in last} == totals
    assert {line["n"] for line in last} == {1}
