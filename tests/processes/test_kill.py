"""kill -9 at random moments of a run over a million records, and what is left over."""

import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.processes.runner import Run, results

KILLS = 20
MOMENT_S = (0.02, 0.6)


@pytest.fixture(scope="module")
def wanted(large: Path, tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    run = Run("tumbling", tmp_path_factory.mktemp("golden"), input=large)
    run.finish()
    return results(run.output)


def seed() -> int:
    """A new one for each run of the tests, printed when one fails."""
    return int(os.environ.get("STREAMLINE_KILL_SEED", "0")) or random.SystemRandom().getrandbits(32)


def moment(run: Run, rng: random.Random) -> bool:
    """Let the run go on for a random time; false if it has ended by then."""
    import subprocess

    try:
        run.process.wait(rng.uniform(*MOMENT_S))
    except subprocess.TimeoutExpired:
        return True
    return False


@pytest.mark.timeout(300)
def test_one_worker_is_killed_at_random_moments(
    large: Path, wanted: Counter[str], tmp_path: Path
) -> None:
    rng = random.Random(number := seed())
    print(f"STREAMLINE_KILL_SEED={number}")
    killed = 0
    while killed < KILLS:
        folder = tmp_path / f"{killed}"
        run = Run("tumbling", folder, input=large, parallelism=2, options=["--max-restarts", "50"])
        while killed < KILLS and moment(run, rng):
            workers = run.workers()
            if workers:
                rng.choice(workers).send_signal(signal.SIGKILL)
                killed += 1
        run.finish()
        assert results(run.output) == wanted
    assert killed == KILLS


@pytest.mark.timeout(300)
def test_everything_is_killed_at_random_moments(
    large: Path, wanted: Counter[str], tmp_path: Path
) -> None:
    rng = random.Random(number := seed())
    print(f"STREAMLINE_KILL_SEED={number}")
    killed = 0
    while killed < KILLS:
        folder = tmp_path / f"{killed}"
        while True:
            run = Run("tumbling", folder, input=large, parallelism=rng.randint(1, 3))
            run.wait_for("lock")
            if killed == KILLS or not moment(run, rng):
                break
            run.kill()
            killed += 1
            assert run.end()[0] == -signal.SIGKILL
        run.finish()
        assert results(run.output) == wanted


def test_a_dead_worker_is_noticed_within_a_second(large: Path, tmp_path: Path) -> None:
    import time

    run = Run("tumbling", tmp_path, input=large, parallelism=2)
    run.wait_for("checkpoints/00000001/MANIFEST")
    run.workers()[0].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    assert run.process.stderr is not None
    while "was killed (SIGKILL)" not in run.process.stderr.readline():
        assert run.process.poll() is None
    assert time.monotonic() - killed < 1
    run.finish()


def test_a_worker_that_is_busy_does_not_count_as_dead(tmp_path: Path) -> None:
    """A user function that holds the interpreter's lock for two seconds."""
    (tmp_path / "in.txt").write_text("a\nb\n")
    (tmp_path / "job.py").write_text(
        "import re\n"
        "import streamline as sl\n"
        "from streamline.connectors.files import FileSink, FileSource\n"
        "def slow(line):\n"
        "    re.match(r'(a+)+$', 'a' * 26 + 'b')  # holds the lock all the time\n"
        "    return line\n"
        "job = sl.Job('busy')\n"
        f"source = FileSource({str(tmp_path / 'in.txt')!r}, format=sl.Text())\n"
        f"sink = FileSink({str(tmp_path / 'out')!r}, format=sl.Text())\n"
        "job.source('lines', source).map(slow).sink('out', sink)\n"
    )
    import subprocess
    import sys

    done = subprocess.run(
        [
            *(sys.executable, "-m", "streamline.cli.main", "run", str(tmp_path / "job.py")),
            *("--state-dir", str(tmp_path / "state"), "--checkpoint-every", "50ms"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "restart" not in done.stderr
    assert sum(results(tmp_path / "out").values()) == 2
