"""kill -9 all over a run of a million records, and what is left over.

A moment is told by how much of the results stands in part files, not by the clock: however fast
the machine is, the kills lie one after another from the beginning of the run to near its end.
"""

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.chance import chance
from tests.processes.runner import Run, results

KILLS = 20
SPREAD = 0.85
"""The last kill is before this part of the results is there."""
EARLY_S = (0.02, 0.6)
BEHIND_S = (0.0, 0.05)
OFTEN = "40ms"


@pytest.fixture(scope="module")
def wanted(large: Path, tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    run = Run("tumbling", tmp_path_factory.mktemp("golden"), input=large)
    run.finish()
    return results(run.output)


def written(folder: Path) -> int:
    """Bytes of results that stand there."""
    return sum(path.stat().st_size for path in folder.glob("part-*"))


def moments(rng: random.Random, whole: int, output: Path) -> Iterator[float]:
    """When to kill next: how many bytes of results are to be there.

    Each moment is looked for in what was still to come at the one before, so that the run gets on in
    between, also where a busy machine had a checkpoint bring much at once.
    """
    for left in range(KILLS, 0, -1):
        there = written(output)
        step = max(0.0, SPREAD * whole - there) / left
        yield there + min(2 * rng.random(), left) * step


def wait_until_written(run: Run, count: float, rng: random.Random) -> None:
    """Until so much of the results is there, and a little longer: in between two checkpoints."""
    end = time.monotonic() + 60
    while written(run.output) < count:
        assert run.process.poll() is None, run.process.communicate()
        assert time.monotonic() < end, "no more results within a minute"
        time.sleep(0.003)  # another process is being watched; nothing tells us
    goes_on_for(run, rng.uniform(*BEHIND_S))


def goes_on_for(run: Run, seconds: float) -> None:
    """Let it run; it must not have ended by then."""
    with pytest.raises(subprocess.TimeoutExpired):
        run.process.wait(seconds)


def restarted(run: Run, killed: set[int]) -> list[psutil.Process]:
    """Its workers, once there are both again; one that was killed is seen for a while yet."""
    end = time.monotonic() + 20
    while len(workers := [one for one in run.workers() if one.pid not in killed]) < 2:
        assert run.process.poll() is None, run.process.communicate()
        assert time.monotonic() < end, "the workers do not come back"
        time.sleep(0.003)
    return workers


@pytest.mark.timeout(300)
def test_one_worker_is_killed_all_over_a_run(
    large: Path, wanted: Counter[str], tmp_path: Path
) -> None:
    rng = chance()
    options = ["--max-restarts", "50"]
    run = Run(
        *("tumbling_slowly", tmp_path),
        input=large,
        parallelism=2,
        checkpoint_every=OFTEN,
        options=options,
    )
    killed: set[int] = set()
    whole = sum(len(line) + 1 for line in wanted.elements())
    for moment in moments(rng, whole, run.output):
        wait_until_written(run, moment, rng)
        victim = rng.choice(restarted(run, killed))
        victim.send_signal(signal.SIGKILL)
        killed.add(victim.pid)
    summary = run.finish()
    assert len(killed) == KILLS
    restarts = summary["restarts"]
    assert isinstance(restarts, int) and KILLS / 2 <= restarts <= KILLS  # two may be one restart
    assert results(run.output) == wanted


@pytest.mark.timeout(300)
def test_everything_is_killed_all_over_a_run(
    large: Path, wanted: Counter[str], tmp_path: Path
) -> None:
    rng = chance()

    def start() -> Run:
        parallelism = rng.randint(1, 3)
        return Run(
            *("tumbling_slowly", tmp_path),
            input=large,
            parallelism=parallelism,
            checkpoint_every=OFTEN,
        )

    def kill(run: Run) -> None:
        run.kill()
        assert run.end()[0] == -signal.SIGKILL

    seen = []
    whole = sum(len(line) + 1 for line in wanted.elements())
    for index, moment in enumerate(moments(rng, whole, tmp_path / "out")):
        if index % 5 == 0:  # also while it starts and restores
            run = start()
            run.wait_for("lock")
            goes_on_for(run, rng.uniform(*EARLY_S) / (index / 5 + 1))
            kill(run)
        run = start()
        wait_until_written(run, moment, rng)
        kill(run)
        seen.append(written(run.output))
    assert seen == sorted(seen)
    assert len(set(seen)) > KILLS / 2  # it got on in between
    run = start()
    run.finish()
    assert results(run.output) == wanted


def test_a_dead_worker_is_noticed_within_a_second(large: Path, tmp_path: Path) -> None:
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
