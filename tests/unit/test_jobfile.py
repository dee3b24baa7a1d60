"""Job files: how they are found and read, parameters by annotation, errors with the user's line."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import streamline as sl
from streamline.errors import UsageError
from streamline.jobfile import JobFileError, JobSpec
from tests.unit.small import AnySink, AnySource

HEAD = "import streamline as sl\n"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Writes a job file; what reading it leaves behind is undone."""
    modules, path = set(sys.modules), list(sys.path)

    def write(text: str, name: str = "jobs.py") -> Path:
        file = tmp_path / name
        file.write_text(text)
        return file

    yield write
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def load(file: Path | str, **params: str) -> sl.Job:
    return JobSpec.from_file(str(file), params).load()


# ---------------------------------------------------------------------- finding the job


def test_a_job(write: Write) -> None:
    assert load(write(f"{HEAD}job = sl.Job('a')")).name == "a"


def test_a_function_and_another_name(write: Write) -> None:
    file = write(f"{HEAD}def job(): return sl.Job('a')\nother = sl.Job('b')")
    assert load(file).name == "a"
    assert load(f"{file}:other").name == "b"


def test_the_text_travels_not_the_file(write: Write) -> None:
    file = write(f"{HEAD}job = sl.Job('before')")
    spec = JobSpec.from_file(str(file), {})
    file.unlink()
    assert spec.load().name == "before"


def test_modules_beside_the_file_can_be_imported(write: Write) -> None:
    write("NAME = 'beside'", "neighbour_of_jobs.py")
    assert (
        load(write(f"{HEAD}import neighbour_of_jobs as n\njob = sl.Job(n.NAME)")).name == "beside"
    )


def test_a_path_with_a_colon(write: Write) -> None:
    assert load(write(f"{HEAD}job = sl.Job('a')", "odd:name.py")).name == "a"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("gone.py", r"'.*gone.py' does not exist; give the path of a Python file"),
        ("gone.py:job", r"'.*gone.py' does not exist"),
        ("", r"is a folder; give the path of a Python file"),
        ("latin.py", r"latin.py' cannot be read: 'utf-8' codec"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, target: str, said: str) -> None:
    (tmp_path / "latin.py").write_bytes(b"# \xff\n")
    with pytest.raises(UsageError, match=said):
        load(f"{tmp_path}/{target}" if target else str(tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"nothing named 'job'.*under the name job \(it has none\)"),
        (f"{HEAD}a = sl.Job('a')\ndef b(): ...", r"it has a, b: name one with FILE:NAME"),
        ("job = 5", r"'job' in .* must be a streamline Job or a function.*, not int"),
        ("def job(): return None", r"'job' in .* must be a streamline Job.*, not NoneType"),
        (f"{HEAD}class job: ...", r"'job' in .* must be a streamline Job.*, not job"),
    ],
)
def test_files_that_expose_no_job(write: Write, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load(write(text))


# ---------------------------------------------------------------------- parameters

TYPED = """
from pathlib import Path
from typing import Any, Literal
import streamline as sl
def job(s: str, i: int = 0, f: float = 0.0, b: bool = False, p: Path = Path(), n: int | None = 5,
        u=None, a: Any = None, t: list = [], lit: Literal["x"] = "x"):
    return sl.Job(f"{s}-{i}-{f}-{b}-{p.name}-{n}-{u}-{a}-{lit}".replace(" ", ""))
"""


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"s": "x"}, "x-0-0.0-False--5-None-None-x"),
        ({"s": "1", "i": "2", "f": "3"}, "1-2-3.0-False--5-None-None-x"),
        ({"s": "x", "b": "true"}, "x-0-0.0-True--5-None-None-x"),
        ({"s": "x", "b": "YES", "i": "-7"}, "x--7-0.0-True--5-None-None-x"),
        ({"s": "x", "b": "0"}, "x-0-0.0-False--5-None-None-x"),
        ({"s": "x", "p": "/tmp/data"}, "x-0-0.0-False-data-5-None-None-x"),
        ({"s": "x", "n": "7"}, "x-0-0.0-False--7-None-None-x"),
        ({"s": "x", "n": "none"}, "x-0-0.0-False--None-None-None-x"),
        ({"s": "x", "u": "5", "a": "6"}, "x-0-0.0-False--5-5-6-x"),
    ],
)
def test_parameters_by_their_annotations(write: Write, params: dict[str, str], name: str) -> None:
    assert load(write(TYPED), **params).name == name


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, r"job\(\) in .* needs a value for its parameter 's'; give -p s=VALUE"),
        ({"s": "x", "z": "1"}, r"has no parameter 'z'; its parameters are: s, i, f"),
        ({"s": "x", "i": "one"}, r"-p i=one: not a int"),
        ({"s": "x", "i": "1.5"}, r"-p i=1.5: not a int"),
        ({"s": "x", "f": ""}, r"-p f=: not a float"),
        ({"s": "x", "b": "maybe"}, r"-p b=maybe: not a bool \(write true or false\)"),
        ({"s": "x", "n": "x"}, r"-p n=x: not a int"),
        ({"s": "x", "t": "1"}, r"-p t=1: the parameter is a list, which the command line cannot"),
    ],
    ids=str,
)
def test_parameters_that_do_not_fit(write: Write, params: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load(write(TYPED), **params)


def test_annotations_written_as_text(write: Write) -> None:
    text = "from __future__ import annotations\n" + HEAD
    text += "def job(n: int, m: Nowhere = 1): return sl.Job(f'{n + 1}')"
    # One that cannot be resolved makes all of them text; then n stays a str and + fails.
    with pytest.raises(JobFileError, match="TypeError"):
        load(write(text), n="1")
    assert load(write(text.replace(", m: Nowhere = 1", "")), n="1").name == "2"


def test_a_function_that_takes_anything(write: Write) -> None:
    text = f"{HEAD}def job(a: int, **rest): return sl.Job(f'{{a + 1}}-{{rest[\"b\"]}}')"
    assert load(write(text), a="1", b="x").name == "2-x"


def test_a_job_takes_no_parameters(write: Write) -> None:
    with pytest.raises(UsageError, match=r"is a Job, not a function: it takes no parameters \(n\)"):
        load(write(f"{HEAD}job = sl.Job('a')"), n="1")


# ---------------------------------------------------------------------- errors in the file


def test_an_exception_names_the_line_and_shows_the_users_frames_only(write: Write) -> None:
    file = write("def deep():\n    return 1 / 0\n\ndef job():\n    return deep()\n")
    with pytest.raises(JobFileError) as error:
        load(file)
    assert str(error.value) == (
        f"the job file {file} raised ZeroDivisionError: division by zero (line 2)"
    )
    assert "return deep()" in error.value.trace
    assert "return 1 / 0" in error.value.trace
    assert "jobfile.py" not in error.value.trace


def test_an_exception_while_the_file_is_read(write: Write) -> None:
    with pytest.raises(JobFileError, match=r"raised KeyError: 'x' \(line 3\)"):
        load(write("\n\n{}['x']\n"))


def test_an_error_of_ours_comes_with_the_users_line(write: Write) -> None:
    with pytest.raises(JobFileError, match=r"the job name 'a b' must be .* \(jobs.py:3\)$"):
        load(write(f"{HEAD}\njob = sl.Job('a b')\n"))


def test_a_syntax_error(write: Write) -> None:
    file = write("x = 1\nif x\n    pass\n")
    with pytest.raises(JobFileError) as error:
        load(file)
    assert str(error.value) == f"{file}:2: expected ':'"
    assert "if x" in error.value.trace


def test_a_syntax_error_in_a_module_beside_it_names_that_module(write: Write) -> None:
    other = write("\n\ndef\n", "broken_neighbour.py")
    with pytest.raises(JobFileError) as error:
        load(write("import broken_neighbour\n"))
    assert f"{other}:3" in str(error.value)


@pytest.mark.parametrize("text", ["exit(3)", "def job():\n    raise SystemExit(3)"])
def test_exit_in_the_file_does_not_end_us(write: Write, text: str) -> None:
    with pytest.raises(JobFileError, match=r"jobs.py calls exit\(3\) while it is read"):
        load(write(text))


def test_ctrl_c_is_not_swallowed(write: Write) -> None:
    with pytest.raises(KeyboardInterrupt):
        load(write("raise KeyboardInterrupt"))


# ---------------------------------------------------------------------- a job without a file


def test_a_job_made_in_this_process_travels_pickled() -> None:
    offset = 5
    job = sl.Job("sent")
    job.source("in", AnySource()).map(lambda v: v + offset).sink("out", AnySink())
    found = JobSpec.from_job(job).load()
    assert found is not job
    assert found.graph().to_dict() == job.graph().to_dict()
    assert found.graph().node("map").body.function(1) == 6  # type: ignore[union-attr]


def test_a_job_that_cannot_be_pickled_says_what_to_do() -> None:
    job = sl.Job("stuck")
    handle = sys._getframe()
    job.source("in", AnySource()).map(lambda v: handle).sink("out", AnySink())
    with pytest.raises(UsageError, match=r"job 'stuck' cannot be sent .*put it into a file"):
        JobSpec.from_job(job)
