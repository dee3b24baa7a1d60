"""Parallelism 1 is golden; 2 with checkpoints, killed at scripted points; restored at 3; equal."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.processes.conftest import Golden
from tests.processes.runner import START_MS, Run, results

JOBS = ["tumbling", "sliding", "sessions", "applied", "timers", "counts", "reduced"]
JOBS += ["columns", "in_batches"]
WORKER_POINTS = ["barrier", "frozen", "flushed", "prepared", "snapshot", "commit", "committed"]


def test_golden_is_right(golden: Golden, small: Path) -> None:
    """The golden results themselves, against a plain loop."""
    import json

    sums: dict[tuple[str, int], list[int]] = defaultdict(list)
    for line in small.read_text().splitlines():
        order = json.loads(line)
        if order["amount"] > 3:
            start = order["at"] - order["at"] % 10_000
            sums[order["user"], start].append(order["amount"])
    wanted = Counter(
        json.dumps(
            {
                "key": user,
                "window_start": start,
                "window_end": start + 10_000,
                "total": sum(amounts),
                "count": len(amounts),
                "mean": sum(amounts) / len(amounts),
            },
            separators=(",", ":"),
        )
        for (user, start), amounts in sums.items()
    )
    assert min(start for _, start in sums) > START_MS - 20_000
    assert golden("tumbling") == wanted


@pytest.mark.parametrize("job", JOBS)
def test_killed_at_2_and_restored_at_3(
    job: str, golden: Golden, small: Path, tmp_path: Path
) -> None:
    """Everything dies between the manifest and the commit of the second checkpoint."""
    run = Run(job, tmp_path, input=small, parallelism=2, crash="completed@2")
    status, _, stderr = run.end()
    assert status == -9, stderr
    again = Run(job, tmp_path, input=small, parallelism=3)
    again.finish()
    assert results(again.output) == golden(job)


@pytest.mark.parametrize("job", ["sliding", "sessions", "timers"])
@pytest.mark.parametrize("point", WORKER_POINTS)
def test_a_worker_dies_at_every_point(
    point: str, job: str, golden_of_few: Golden, few: Path, tmp_path: Path
) -> None:
    crash = f"{point}@2"
    run = Run(job, tmp_path, input=few, parallelism=2, checkpoint_every="30ms", crash=crash)
    summary = run.finish()
    assert summary["restarts"] in (1, 2)  # one worker or both reach the point
    assert results(run.output) == golden_of_few(job)


@pytest.mark.parametrize("point", [*(f"{point}@2" for point in WORKER_POINTS), "restore@0"])
def test_everything_dies_at_every_point(
    point: str, golden_of_few: Golden, few: Path, tmp_path: Path
) -> None:
    """``committed`` is between the commits of two tasks: the first of them takes all along."""
    often = "30ms"
    if point == "restore@0":
        first = Run("timers", tmp_path, input=few, checkpoint_every=often, crash="completed@2")
        assert first.end()[0] == -9
    run = Run(
        *("timers", tmp_path),
        input=few,
        parallelism=2,
        checkpoint_every=often,
        crash=f"all:{point}",
    )
    status, _, stderr = run.end()
    assert status == -9, stderr
    Run("timers", tmp_path, input=few, parallelism=3, checkpoint_every=often).finish()
    assert results(run.output) == golden_of_few("timers")


def test_everything_dies_between_two_renames(
    golden_of_few: Golden, few: Path, tmp_path: Path
) -> None:
    """Three tasks have each prepared a file; the one task that goes on dies behind the first."""
    died = tmp_path / "died"

    def start(parallelism: int, crash: str = "") -> Run:
        params = {"input": few, "output": tmp_path / "out", "died": died}
        return Run(
            *("torn", tmp_path),
            params=params,
            parallelism=parallelism,
            checkpoint_every="30ms",
            crash=crash,
        )

    assert start(3, "completed@2").end()[0] == -9
    prepared = len(list((tmp_path / "out" / ".pending").iterdir()))
    before = len(list((tmp_path / "out").glob("part-*")))
    assert prepared >= 3
    died.write_text("not yet")
    assert start(1).end()[0] == -9
    assert died.read_text() == "dead"
    assert len(list((tmp_path / "out").glob("part-*"))) == before + 1
    run = start(2)
    run.finish()
    assert results(run.output) == golden_of_few("tumbling")


@pytest.mark.parametrize("point", ["manifest", "completed"])
@pytest.mark.parametrize("epoch", [1, 3])
def test_everything_dies_around_the_manifest(
    point: str, epoch: int, golden: Golden, small: Path, tmp_path: Path
) -> None:
    crash = f"{point}@{epoch}"
    run = Run(  # often enough, so that it has three of them on a fast machine too
        "tumbling", tmp_path, input=small, parallelism=2, checkpoint_every="30ms", crash=crash
    )
    assert run.end()[0] == -9
    again = Run("tumbling", tmp_path, input=small, parallelism=1)
    again.finish()
    assert results(again.output) == golden("tumbling")


def test_it_dies_while_restoring(golden: Golden, small: Path, tmp_path: Path) -> None:
    assert Run("timers", tmp_path, input=small, parallelism=2, crash="completed@2").end()[0] == -9
    options = ["--max-restarts", "2"]
    stuck = Run(
        "timers", tmp_path, input=small, parallelism=2, crash="restore@0@process", options=options
    )
    status, _, stderr = stuck.end()
    assert status == 1
    assert "gave up after 2 restarts" in stderr
    Run("timers", tmp_path, input=small, parallelism=3).finish()
    assert results(stuck.output) == golden("timers")


def test_restored_at_every_parallelism(golden: Golden, small: Path, tmp_path: Path) -> None:
    for parallelism in (2, 3, 1, 2):
        run = Run("sessions", tmp_path, input=small, parallelism=parallelism, crash="completed@2")
        run.end()
    Run("sessions", tmp_path, input=small, parallelism=3).finish()
    assert results(run.output) == golden("sessions")
