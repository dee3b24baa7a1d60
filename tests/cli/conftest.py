"""Commands in a folder of their own, jobs that were killed half way, and small disks."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import Cli, Running, until
from tests.cli.disk import SmallDisk, small_disk


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    command = Cli(tmp_path)
    yield command
    command.close()


@pytest.fixture
def running(cli: Cli) -> Running:
    """A job that was never run."""
    return Running(cli)


@pytest.fixture(scope="session")
def _killed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cli = Cli(tmp_path_factory.mktemp("killed"))
    try:
        Running(cli).killed_half_way(checkpoints=2)
    finally:
        cli.close()
    return cli.folder


@pytest.fixture
def killed(cli: Cli, _killed_once: Path) -> Running:
    """A job that was killed half way, with all of its folder."""
    shutil.copytree(_killed_once, cli.folder, dirs_exist_ok=True)
    return Running(cli)


@pytest.fixture(scope="session")
def _whole_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cli = Cli(tmp_path_factory.mktemp("whole"))
    running = Running(cli, every="700ms")
    try:
        started = running.start()
        running.half(started, checkpoints=0)
        running.go.touch()
        until(lambda: running.results() == running.wanted(), "all results", started=started)
        assert started.end().status == 0
    finally:
        cli.close()
    (running.state / "finished").unlink()
    return cli.folder


@pytest.fixture
def nearly(cli: Cli, _whole_once: Path) -> Running:
    """A job that was killed right behind its last checkpoint.

    The newest checkpoint has committed the second half of the results, the one before the first.
    """
    shutil.copytree(_whole_once, cli.folder, dirs_exist_ok=True)
    return Running(cli)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk that can be filled, mounted at ``disk``."""
    with small_disk(tmp_path / "disk") as found:
        yield found
