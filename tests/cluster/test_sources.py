"""Which files go along with a job's file."""

import sys

import pytest

from streamline.cluster.sources import files_of_folder, files_of_job
from streamline.cluster.submission import MOST_BYTES, Submission, pack, unpack
from streamline.errors import UsageError


def write(root, *names, **texts):
    """Files, by name with dots for what is in folders; empty ones by their path."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name, text in texts.items():
        (root / f"{name}.py").write_text(text)


def names(paths, root):
    return [str(path.relative_to(root)) for path in paths]


@pytest.mark.parametrize(
    "line",
    [
        "import rules",
        "import os, rules as other",
        "from rules import limit",
        "def late():\n    import rules",
        "try:\n    import rules\nexcept ImportError:\n    pass",
    ],
)
def test_a_module_that_is_imported(tmp_path, line):
    write(tmp_path, "other.py", "rules.txt", pipeline=line, rules="limit = 1")
    assert names(files_of_job(tmp_path / "pipeline.py"), tmp_path) == ["pipeline.py", "rules.py"]


def test_what_they_import_in_turn_also_in_a_circle(tmp_path):
    write(tmp_path, pipeline="import a", a="import b", b="import a, pipeline", c="")
    found = names(files_of_job(tmp_path / "pipeline.py"), tmp_path)
    assert found == ["a.py", "b.py", "pipeline.py"]


def test_of_a_package_all_is_taken(tmp_path):
    """What it imports of itself, and files that it reads."""
    write(tmp_path, "rules/__init__.py", "rules/deep/limits.json", "rules/__pycache__/x.pyc")
    write(tmp_path, "rules/.hidden", pipeline="from rules.deep import more", far="")
    (tmp_path / "rules" / "deep" / "more.py").write_text("from . import other\nimport far")
    found = names(files_of_job(tmp_path / "pipeline.py"), tmp_path)
    assert found == [
        "far.py", "pipeline.py", "rules/__init__.py", "rules/deep/limits.json",
        "rules/deep/more.py",
    ]  # fmt: skip


def test_a_folder_gives_way_to_a_package_from_elsewhere(tmp_path):
    """As it does when the job is run in place: a folder of data may have a package's name."""
    write(tmp_path, "numpy/data.csv", "mine/a.py", pipeline="import numpy\nimport mine.a")
    write(tmp_path, "streamline/__init__.py")
    (tmp_path / "mine" / "a.py").write_text("import streamline as sl")
    found = names(files_of_job(tmp_path / "pipeline.py"), tmp_path)
    assert found == ["mine/a.py", "pipeline.py"]


def test_what_is_installed_beside_it_stays(tmp_path, monkeypatch):
    """A virtual environment in the job's folder is on the path of whoever submits."""
    packages = tmp_path / "venv" / "lib" / "site-packages"
    write(tmp_path, "venv/pyvenv.cfg", "venv/lib/site-packages/dep.py", pipeline="import dep")
    monkeypatch.syspath_prepend(packages)
    assert str(packages) in sys.path
    assert names(files_of_job(tmp_path / "pipeline.py"), tmp_path) == ["pipeline.py"]


@pytest.mark.parametrize("text", ["import rules, oh no(", "import rules\0"])
def test_a_file_that_cannot_be_read_is_sent_alone(tmp_path, text):
    """Whoever runs it says what is wrong."""
    write(tmp_path, pipeline=text, rules="")
    assert names(files_of_job(tmp_path / "pipeline.py"), tmp_path) == ["pipeline.py"]


def test_a_folder(tmp_path):
    """All but what is hidden, compiled, or a virtual environment, whatever its name."""
    write(tmp_path, "job.py", "deep/in/it.txt", ".git/config", ".streamline/job/lock", ".env")
    write(tmp_path, "__pycache__/job.pyc", "env/pyvenv.cfg", "env/bin/python", "venv/notes.txt")
    found = names(files_of_folder(tmp_path), tmp_path)
    assert found == ["deep/in/it.txt", "job.py", "venv/notes.txt"]


def test_there_and_back(tmp_path):
    write(tmp_path, pipeline="import rules", rules="limit = 1")
    file, archive = pack(tmp_path / "pipeline.py")
    target = tmp_path / "target"
    target.mkdir()
    unpack(Submission(file, archive), target)
    assert {path.name: path.read_text() for path in target.iterdir()} == {
        "pipeline.py": "import rules", "rules.py": "limit = 1",
    }  # fmt: skip


def test_too_much(tmp_path):
    write(tmp_path, "rules/__init__.py", pipeline="import rules")
    for number in range(2_000):
        (tmp_path / "rules" / f"{number}").touch()
    why = r"pipeline.py with what it imports from beside it has 2002 files, more than the 2000"
    with pytest.raises(UsageError, match=why):
        pack(tmp_path / "pipeline.py")
    for number in range(2_000):
        (tmp_path / "rules" / f"{number}").unlink()
    with open("/dev/urandom", "rb") as noise:
        (tmp_path / "rules" / "model.bin").write_bytes(noise.read(MOST_BYTES))
    with pytest.raises(UsageError, match=r"larger than the 32 MiB .*rules/model.bin"):
        pack(tmp_path / "pipeline.py")
