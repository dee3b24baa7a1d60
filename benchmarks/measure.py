"""Running things and taking their time; what all measurements share."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JOBS = Path(__file__).with_name("jobs.py")
START_MS = 1_700_000_000_000
ROUNDS = int(os.environ.get("STREAMLINE_BENCH_ROUNDS", "3"))


@dataclass(frozen=True)
class Result:
    """One figure.

    Attributes:
        name: What was measured.
        value: The figure, in words.
        wanted: What it should be.
        met: Whether it is.
        detail: What stands behind it.
    """

    name: str
    value: str
    wanted: str
    met: bool
    detail: str = ""


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder."""
    path = Path(tempfile.mkdtemp(prefix="streamline-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def write_orders(path: Path, count: int, *, users: int = 1_000) -> None:
    """Orders two milliseconds apart, up to two seconds out of order."""
    rng = random.Random(1)
    with path.open("w") as file:
        for number in range(count):
            at = START_MS + number * 2 + rng.randrange(-2_000, 2_000)
            amount = rng.random() * 100 - 5
            file.write(f'{{"user":"u{rng.randrange(users)}","amount":{amount:.2f},"at":{at}}}\n')


def plain(name: str, source: Path, work: Path) -> float:
    """Seconds that the plain loop takes, with its start."""
    command = [sys.executable, "-m", "benchmarks.plain", name, str(source), str(work / "plain")]
    began = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - began


def plain_twice(name: str, source: Path, work: Path) -> float:
    """Seconds that two plain loops take side by side, each over the whole source."""
    base = [sys.executable, "-m", "benchmarks.plain", name, str(source)]
    began = time.perf_counter()
    both = [subprocess.Popen([*base, str(work / f"plain-{number}")]) for number in range(2)]
    for process in both:
        assert process.wait() == 0
    return time.perf_counter() - began


def streamline(
    job: str,
    work: Path,
    *options: str,
    jobs: Path = JOBS,
    watch: Callable[[int], None] | None = None,
    **params: Any,
) -> tuple[float, dict[str, Any]]:
    """Seconds that ``streamline run`` takes, with its start, and its summary."""
    state = work / "state"
    shutil.rmtree(state, ignore_errors=True)
    given = [word for name, value in params.items() for word in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "streamline.cli.main", "run", f"{jobs}:{job}", *given]
    command += ["--state-dir", str(state), "--json", *options]
    if jobs == JOBS:
        command += ["-p", f"output={work / 'out'}"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while watch is not None and process.poll() is None:
        watch(process.pid)
        time.sleep(0.1)
    out, _ = process.communicate()
    seconds = time.perf_counter() - began
    summary: dict[str, Any] = json.loads(out)
    assert summary["state"] == "finished", summary
    return seconds, summary


def rounds(*measures: Callable[[], float]) -> list[list[float]]:
    """Take turns, so that the machine's moods hit all alike; times of each.

    The machine is shared: others only ever make a round longer, so the shortest is the truest.
    """
    taken: list[list[float]] = [[] for _ in measures]
    for _ in range(ROUNDS):
        for times, measure in zip(taken, measures, strict=True):
            times.append(measure())
    return taken
