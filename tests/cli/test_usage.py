"""What is wrong with a command or a job file is said in one sentence, before anything is touched.

Cases that are refused alike are given side by side: starting Python is what takes the time.
"""

import json
import re

import pytest

import streamline as sl
from tests.cli.command import JOBS, USAGE, Cli

# A job file with a parameter of each kind.
SMALL = """\
import streamline as sl
from pathlib import Path
from streamline.connectors.files import FileSink, FileSource

def job(input: str, output: Path, size: int = 3, part: float = 0.5, loud: bool = False) -> sl.Job:
    job = sl.Job("small", max_parallelism=16)
    lines = job.source("lines", FileSource(input, format=sl.Text()))
    lines.map(str.upper, name="upper").sink("out", FileSink(output, format=sl.Text()))
    return job
"""
GIVEN = ["-p", "input=in.txt", "-p", "output=out"]
Cases = list[tuple[list[str], list[str]]]


@pytest.fixture
def small(cli: Cli) -> Cli:
    cli.write("small.py", SMALL)
    cli.write("in.txt", "a\nb\n")
    return cli


def untouched(cli: Cli) -> bool:
    """Whether neither state nor results were begun."""
    return not (cli.folder / ".streamline").exists() and not (cli.folder / "out").exists()


def all_refused(cli: Cli, cases: Cases) -> None:
    """Each command is refused with words that say what, where, and what to do."""
    answers = cli.all(arguments for arguments, _ in cases)
    for done, (_, words) in zip(answers, cases, strict=True):
        done.refuses(USAGE, *words)
        assert done.stdout == ""
    assert untouched(cli)


# ---------------------------------------------------------------------- the command itself


def test_version(cli: Cli) -> None:
    done = cli("--version")
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout == f"streamline, version {sl.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["Usage: streamline", "run", "plan", "--debug", "--version"]),
        (["run", "--help"], ["Usage: streamline run", "--state-dir", "--fresh", "--from", "-p"]),
        (["plan", "-h"], ["Usage: streamline plan", "--json", "--mermaid", "FILE[:NAME]"]),
    ],
)
def test_help(cli: Cli, arguments: list[str], words: list[str]) -> None:
    done = cli(*arguments)
    assert (done.status, done.stderr) == (0, "")
    for word in words:
        assert word in done.stdout


def test_no_command_shows_the_help(cli: Cli) -> None:
    done = cli()
    assert done.status == USAGE
    said = (done.stdout + done.stderr).strip()
    assert said.startswith("Usage: streamline"), said
    assert re.search(r"^  run +Run the job in FILE on this machine\.$", said, re.MULTILINE), said


def test_a_wrong_command(small: Cli) -> None:
    all_refused(
        small,
        [
            (["rnu"], ["'rnu'", "streamline --help"]),
            (["run"], ["FILE[:NAME]", "streamline run --help"]),
            (["run", "small.py", "--frehs"], ["--frehs", "streamline run --help"]),
            (["run", "small.py", "other.py"], ["other.py", "streamline run --help"]),
            (["run", "small.py", "--engine", "cloud"], ["--engine", "cloud", "inline", "local"]),
            (["run", "small.py", "--engine", "ray"], ["ray", "not in this version", "local"]),
        ],
    )


# ---------------------------------------------------------------------- the job file


def test_a_wrong_job_file(small: Cli) -> None:
    (small.folder / "folder").mkdir()
    small.write("bare.py", "size = 1\n")
    small.write("none.py", "def job():\n    pass\n")
    small.write("exits.py", "import sys\nsys.exit(3)\n")
    small.write("idle.py", "import streamline as sl\njob = sl.Job('idle')\n")
    (small.folder / "latin.py").write_bytes(b"# \xe4\n")
    all_refused(
        small,
        [
            (["run", "nowhere.py"], ["'nowhere.py' does not exist", "give the path of a Python"]),
            (["run", "folder"], ["'folder' is a folder", "give the path of a Python file"]),
            (["run", "small.py:jbo"], ["small.py", "nothing named 'jbo'", "has job", "FILE:NAME"]),
            (["plan", "small.py:jbo"], ["small.py", "nothing named 'jbo'", "FILE:NAME"]),
            (["run", "bare.py"], ["bare.py", "nothing named 'job'", "a job file exposes a Job"]),
            (["run", "none.py"], ["'job' in", "none.py", "function that returns", "NoneType"]),
            (["run", "exits.py"], ["exits.py", "calls exit(3)"]),
            (["run", "latin.py"], ["latin.py", "cannot be read", "utf-8"]),
            (["run", "idle.py"], ["'idle' is empty", "job.source(", ".sink("]),
        ],
    )


@pytest.mark.parametrize(
    ("text", "words", "shown"),
    [
        ("def job(:\n", ["wrong.py:1", "invalid syntax"], "def job(:"),
        ("size = 1\nraise ValueError('no size')\n", ["ValueError: no size", "(line 2)"], "raise V"),
        ("import nothing_of_the_kind\n", ["No module named 'nothing_of_the_kind'"], "import not"),
        ("def job():\n    return 1 / 0\n", ["ZeroDivisionError", "(line 2)"], "return 1 / 0"),
        ("import streamline as sl\nsl.Tumbling('10 sec')\n", ["10 sec", "wrong.py:2"], ""),
        (
            "from streamline.connectors.files import FileSource\nFileSource(5, format=None)\n",
            ["FileSource(format=...)", "wrong.py:2"],
            "",
        ),
        (
            "import streamline as sl\nfrom streamline.connectors.files import FileSource\n"
            "FileSource(5, format=sl.Text())\n",
            ["wrong.py", "int", "3"],
            "",
        ),
    ],
    ids=["syntax", "raises", "import", "in job()", "of ours", "of a connector", "in a connector"],
)
def test_a_job_file_that_raises(cli: Cli, text: str, words: list[str], shown: str) -> None:
    """One sentence with the line; frames of the user's own code may stand above it, never ours."""
    cli.write("wrong.py", text)
    done = cli("run", "wrong.py")
    done.refuses(USAGE, *words)
    assert shown in done.stderr
    assert untouched(cli)


# ---------------------------------------------------------------------- parameters and options


def test_wrong_parameters(small: Cli) -> None:
    small.write("whole.py", "import streamline as sl\njob = sl.Job('whole')\n")
    run = ["run", "small.py", *GIVEN]
    all_refused(
        small,
        [
            (run[:-2], ["small.py", "'output'", "give -p output=VALUE"]),
            (["plan", "small.py"], ["small.py", "'input'", "give -p input=VALUE"]),
            ([*run, "-p", "sise=4"], ["small.py", "no parameter 'sise'", "input, output, size"]),
            ([*run, "-p", "size"], ["-p size", "NAME=VALUE"]),
            ([*run, "-p", "size=many"], ["-p size=many", "not a int"]),
            ([*run, "-p", "part=half"], ["-p part=half", "not a float"]),
            ([*run, "-p", "loud=maybe"], ["-p loud=maybe", "not a bool", "true or false"]),
            (["run", "whole.py", "-p", "size=3"], ["whole.py", "takes no parameters", "size"]),
        ],
    )


def test_wrong_options(small: Cli) -> None:
    run, plan = ["run", "small.py", *GIVEN], ["plan", "small.py", *GIVEN]
    all_refused(
        small,
        [
            ([*run, "--parallelism", "0"], ["parallelism 0", "'small'", "between 1 and", "16"]),
            ([*run, "--parallelism", "-1"], ["parallelism -1", "between 1 and", "16"]),
            ([*run, "--parallelism", "17"], ["parallelism 17", "max_parallelism, 16"]),
            ([*run, "--parallelism", "two"], ["'--parallelism'", "'two'", "run --help"]),
            ([*plan, "--parallelism", "17"], ["parallelism 17", "max_parallelism, 16"]),
            ([*run, "--checkpoint-every", "0s"], ["--checkpoint-every", "'0s'", "than zero"]),
            ([*run, "--checkpoint-every", "5"], ["--checkpoint-every", "'5'", '"500ms"']),
            ([*run, "--checkpoint-every", "soon"], ["--checkpoint-every", "'soon'", '"500ms"']),
            ([*run, "--table-entries", "0"], ["--table-entries", "0", "run --help"]),
            ([*run, "--max-restarts", "-1"], ["--max-restarts", "-1", "run --help"]),
        ],
    )


# ---------------------------------------------------------------------- plan


def test_plan_as_text(cli: Cli) -> None:
    done = cli("plan", JOBS, "-p", "output=out", "--parallelism", 2)
    assert (done.status, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["job", "running,", "4", "tasks"]
    assert ["running", "aggregate", "2", "by-rest", "(hash)"] in lines
    assert ["results", "sink", "2", "running", "(forward)"] in lines
    assert ["running[0],", "running[1]", "running", ">", "results", "0-63,", "64-127"] in lines
    assert all(line == line.rstrip() for line in done.stdout.splitlines())
    assert untouched(cli)


def test_plan_as_json(cli: Cli) -> None:
    done = cli("plan", f"{JOBS}:other", "-p", "output=out", "--parallelism", 3, "--json")
    assert (done.status, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["graph"]["name"] == found["plan"]["job"] == "other"
    ids = ["numbers", "by-rest", "running", "results"]
    assert [node["id"] for node in found["graph"]["nodes"]] == ids
    stages = {stage["id"]: stage for stage in found["plan"]["stages"]}
    assert [node for stage in stages.values() for node in stage["nodes"]] == ids
    groups = [task["key_groups"] for task in stages["running"]["tasks"]]
    assert len(groups) == 3
    assert groups[0][0] == 0
    assert groups[-1][1] == found["plan"]["max_parallelism"] == 128
    assert [end for _, end in groups[:-1]] == [start for start, _ in groups[1:]]
    assert untouched(cli)


def test_plan_as_mermaid(cli: Cli) -> None:
    done = cli("plan", JOBS, "-p", "output=out", "--mermaid")
    assert (done.status, done.stderr) == (0, "")
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[0].startswith("flowchart ")
    shown = dict(re.findall(r'^(\w+)\W+"([\w-]+)<br/>', "\n".join(lines[1:]), re.MULTILINE))
    assert list(shown.values()) == ["numbers", "by-rest", "running", "results"]
    arrows = [re.findall(r"\b(n\d+)\b", line) for line in lines if re.search("--.*>", line)]
    assert [[shown[end] for end in ends] for ends in arrows] == [
        ["numbers", "by-rest"],
        ["by-rest", "running"],
        ["running", "results"],
    ]
