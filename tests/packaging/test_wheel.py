"""The wheel holds the packages, each once, and nothing else; it works without the repository."""

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

import pytest

import streamline as sl

ROOT = Path(__file__).resolve().parents[2]
# Not part of the sources: what is made from them, and what is hidden.
MADE = ("build", "dist", "demo-output", "__pycache__", "*.egg-info", ".*")


def run(*command: object, **options: object) -> str:
    """Standard output of a command that has to succeed."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=60, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def modules(root: Path = ROOT) -> dict[str, Path]:
    """All source files, by the path that they are to have in the wheel."""
    found = {}
    for top, inside in (("streamline", "streamline"), ("connectors", "streamline/connectors")):
        for path in (root / top).rglob("*.py"):
            found[f"{inside}/{path.relative_to(root / top).as_posix()}"] = path
    return found


def packages() -> set[str]:
    """Names of all folders with modules in them."""
    return {name.rpartition("/")[0].replace("/", ".") for name in modules()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that nothing older of ``build`` gets into the wheel, and nothing into there."""
    folder = tmp_path_factory.mktemp("wheel") / "source"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*MADE))
    for name in ("tests", "examples", "benchmarks"):
        assert (folder / name).is_dir(), "they must have a chance to get into it"
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    built = source.with_name("built")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", built, source)
    (path,) = built.iterdir()
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        return archive.namelist()


# ---------------------------------------------------------------------- what is in it


def test_its_name_and_version(wheel: Path) -> None:
    assert wheel.name == f"streamline_engine-{sl.__version__}-py3-none-any.whl"


def test_every_module_is_in_it_once_and_nothing_else(
    source: Path, wheel: Path, names: list[str]
) -> None:
    shipped = [name for name in names if ".dist-info/" not in name]
    wanted = modules(source)
    assert Counter(shipped) == Counter([*wanted, "streamline/py.typed"])
    with zipfile.ZipFile(wheel) as archive:
        for name, path in wanted.items():
            assert archive.read(name) == path.read_bytes(), name


def test_connectors_are_in_it_as_part_of_streamline(names: list[str]) -> None:
    for name in ("__init__", "collection", "stdout", "files/__init__", "files/source"):
        assert names.count(f"streamline/connectors/{name}.py") == 1


def test_what_is_at_its_top_level(names: list[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"streamline", f"streamline_engine-{sl.__version__}.dist-info"}


def test_license_types_and_description(wheel: Path, names: list[str]) -> None:
    info = f"streamline_engine-{sl.__version__}.dist-info"
    assert names.count("streamline/py.typed") == 1
    with zipfile.ZipFile(wheel) as archive:
        license = archive.read(f"{info}/licenses/LICENSE")
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        scripts = archive.read(f"{info}/entry_points.txt").decode().split()
    assert license == (ROOT / "LICENSE").read_bytes()
    assert b"Apache License" in license
    assert metadata["Name"] == "streamline-engine"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert str(metadata.get_payload()).startswith("# streamline\n")
    assert scripts == ["[console_scripts]", "streamline", "=", "streamline.cli.main:main"]


# ---------------------------------------------------------------------- pyproject


def test_every_folder_is_listed_in_pyproject() -> None:
    """A new one would be missing from the wheel, but not from an editable install."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = settings["packages"]
    assert listed == sorted(set(listed))
    assert set(listed) == packages()
    for package in listed:
        assert f"{package.replace('.', '/')}/__init__.py" in modules(), package


def test_what_builds_it_is_installed_for_development() -> None:
    """``build --no-isolation`` takes it from here; nothing is fetched."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (needed,) = project["build-system"]["requires"]
    assert needed in project["project"]["optional-dependencies"]["dev"]


# ---------------------------------------------------------------------- installed


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    target = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    pip = ["-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index"]
    run(sys.executable, *pip, "--target", target, wheel)
    return python


def elsewhere(python: Path, folder: Path, *arguments: object) -> str:
    """Run it outside of the repository.

    Dependencies are lent by our environment. Its ``.pth`` files do not count there, so that the
    editable install is out of reach.
    """
    paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return run(python, *arguments, cwd=folder, env=environment)


def test_every_package_can_be_imported_from_it(fresh: Path, tmp_path: Path) -> None:
    script = "import importlib, sys\nfor name in sys.argv[1:]:\n"
    script += "    print(importlib.import_module(name).__file__)\n"
    wanted = sorted(packages())
    assert "streamline.connectors.files" in wanted
    found = elsewhere(fresh, tmp_path, "-c", script, *wanted).splitlines()
    home = fresh.parents[1]
    assert len(found) == len(wanted)
    for name, path in zip(wanted, found, strict=True):
        assert Path(path).is_relative_to(home), path
        assert path.endswith(f"/{name.replace('.', '/')}/__init__.py")


def test_a_job_runs_from_it(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a\nb\n")
    (tmp_path / "job.py").write_text(
        "import streamline as sl\n"
        "from streamline.connectors.files import FileSink, FileSource\n"
        "job = sl.Job('small')\n"
        "lines = job.source('lines', FileSource('in.txt', format=sl.Text()))\n"
        "lines.map(str.upper).sink('out', FileSink('out', format=sl.Text()))\n"
    )
    elsewhere(fresh, tmp_path, "-m", "streamline.cli.main", "run", "job.py")
    (part,) = (tmp_path / "out").glob("part-*")
    assert part.read_text() == "A\nB\n"


def test_the_editable_install_takes_connectors_from_the_top_level(tmp_path: Path) -> None:
    script = "import streamline, streamline.connectors as c, streamline.connectors.files as f\n"
    script += "print(streamline.__file__, c.__file__, f.__file__)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = run(sys.executable, "-c", script, cwd=tmp_path, env=environment).split()
    places = ("streamline", "connectors", "connectors/files")
    assert [Path(path) for path in found] == [ROOT / place / "__init__.py" for place in places]
    assert not (ROOT / "streamline" / "connectors").exists()
