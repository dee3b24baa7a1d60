"""A running job is rescaled and copied; what comes out in the end is what it would have been."""

import asyncio
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Self

import pytest

import streamline as sl
from streamline.engines.local import LocalEngine, LocalSettings
from streamline.errors import GraphError, StateError, UsageError
from streamline.jobfile import JobSpec
from streamline.state.store import DirectoryStore

JOBS = Path(__file__).with_name("paced.py")
COUNT = 60_000


class Running:
    """A job on a LocalEngine in this process, with its own worker processes."""

    def __init__(self, folder: Path, *, every_ms: int = 100) -> None:
        self.folder = folder
        self.said: list[str] = []
        params = {"output": str(folder / "out"), "count": str(COUNT), "rate": "15000"}
        spec = JobSpec.from_file(f"{JOBS}:paced", params)
        given = LocalSettings(
            spec,
            spec.load().graph(),
            1,
            sl.RuntimeConfig(checkpoint_every_ms=every_ms),
            str(folder / "checkpoints"),
            folder / "live",
        )
        self.engine = LocalEngine(given, lambda level, text: self.said.append(text))

    async def __aenter__(self) -> Self:
        self.task = asyncio.ensure_future(self.engine.run())
        await self.until(lambda: self.engine.status.state == "running")
        return self

    async def __aexit__(self, *error: object) -> None:
        if not self.task.done():
            self.engine.cancel()
        await self.task

    async def until(self, reached: "object") -> None:
        async with asyncio.timeout(30):
            while not reached():  # type: ignore[operator]
                assert not self.task.done(), self.task.result()
                await asyncio.sleep(0.01)  # processes are being watched

    async def records(self, more: int) -> None:
        """Until so many more records have been read since now."""
        status = self.engine.status
        generation, before = status.generation, status.records_in
        await self.until(
            lambda: status.records_in >= more + (before if status.generation == generation else 0)
        )

    def totals(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for path in (self.folder / "out").glob("part-*"):
            for line in path.read_text().splitlines():
                result = json.loads(line)
                found[result["key"]] += result["count"]
        return dict(found)


WANTED = {f"u{user}": len(range(user, COUNT, 97)) for user in range(97)}


async def test_up_and_down_with_a_kill_in_between(tmp_path: Path) -> None:
    async with Running(tmp_path) as job:
        status = job.engine.status
        await job.records(3_000)
        pids = dict(status.workers)
        times = await job.engine.rescale(3, {})
        assert times.seconds < 10
        assert min(times.parts.values()) > 0
        assert sum(times.parts.values()) == pytest.approx(times.seconds)
        assert (status.parallelism, len(status.workers)) == (3, 3)
        assert pids.items() <= status.workers.items()  # the one there was is kept
        await job.records(3_000)
        os.kill(status.workers[1], signal.SIGKILL)
        await job.until(lambda: status.restarts == 1 and status.state == "running")
        await job.engine.rescale(2, {"window": 1})
        assert len(status.workers) == 2
        counts = Counter(task.partition("[")[0] for task in status.placement)
        assert counts["window"] == 1
        await job.task
    assert status.state == "finished"
    assert status.restarts == 1
    assert job.totals() == WANTED


async def test_what_cannot_run_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    async with Running(tmp_path) as job:
        generation = job.engine.status.generation
        with pytest.raises(GraphError, match="between 1 and its max_parallelism, 128"):
            await job.engine.rescale(129, {})
        with pytest.raises(UsageError, match="has no node 'nobody' to be rescaled; there are"):
            await job.engine.rescale(None, {"nobody": 2})
        assert job.engine.status.generation == generation
        first = asyncio.ensure_future(job.engine.rescale(2, {}))
        await asyncio.sleep(0)
        with pytest.raises(StateError, match="being rescaled already"):
            await job.engine.rescale(3, {})
        await first


async def test_a_job_that_cannot_run_at_the_new_parallelism_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Running(tmp_path) as job:
        status, load = job.engine.status, LocalEngine._load

        async def refuse(engine: LocalEngine, generation: int) -> None:
            if engine._parallelism == 2:
                raise RuntimeError("no room for two")
            await load(engine, generation)

        monkeypatch.setattr(LocalEngine, "_load", refuse)
        await job.records(2_000)
        with pytest.raises(StateError, match="went back to how it ran before: .*no room for two"):
            await job.engine.rescale(2, {})
        assert status.parallelism == 1
        assert any("going back to parallelism 1" in text for text in job.said)
        await job.task
    assert status.state == "finished"
    assert job.totals() == WANTED


async def test_a_savepoint_is_a_whole_checkpoint_somewhere_else(tmp_path: Path) -> None:
    async with Running(tmp_path) as job:
        await job.records(3_000)
        target = tmp_path / "saved"
        manifest = await job.engine.savepoint(str(target))
        assert manifest.kind == "savepoint"
        with pytest.raises(UsageError, match="holds a savepoint already"):
            await job.engine.savepoint(str(target))
        await job.records(3_000)
    found, problems = DirectoryStore(target).latest_usable()
    assert (found, problems) == (manifest, [])
    assert DirectoryStore(target).digests() == {file.digest for file in manifest.files()}


async def test_whoever_waits_is_told_when_the_job_ends(tmp_path: Path) -> None:
    async with Running(tmp_path, every_ms=60_000) as job:
        saving = asyncio.ensure_future(job.engine.savepoint(str(tmp_path / "saved")))
        rescaling = asyncio.ensure_future(job.engine.rescale(2, {}))
        await asyncio.sleep(0)
        job.engine.cancel()
        await job.task
        for waiting in (saving, rescaling):
            with pytest.raises(StateError, match="has ended before that: it is canceled"):
                await waiting
        with pytest.raises(StateError, match="only a running job can be rescaled"):
            await job.engine.rescale(2, {})
