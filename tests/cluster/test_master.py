"""The process of a job, with a fake engine: what becomes of orders when it goes, or comes anew."""

import asyncio

import pytest

from streamline.clock import SystemClock
from streamline.cluster.control import MasterGoneError
from streamline.cluster.files import JobFolder, MasterSettings, read_end
from streamline.cluster.master import Master
from streamline.coordinator.lifecycle import JobState
from streamline.coordinator.status import JobStatus
from streamline.engines.statedir import StateDir
from streamline.errors import StateError, UsageError
from streamline.state.manifest import Manifest
from streamline.state.savepoint import saved_epoch
from streamline.state.store import DirectoryStore


class FakeEngine:
    """Drains at once, to the next checkpoint; or ends as it is told."""

    parallelism, nodes = 1, {}

    def __init__(self, state, ends=JobState.STOPPED):
        self.status = JobStatus("job", JobState.RUNNING)
        self.drains = 0
        self._store = DirectoryStore(state.checkpoints)
        self._ends = ends
        self._over = asyncio.Event()

    async def run(self):
        await self._over.wait()
        return self.status

    async def until_running(self):
        pass

    def drain(self):
        self.drains += 1
        if self._ends == JobState.FAILED:
            self.status.reason = "it broke"
        else:
            write(self._store, (self._store.epochs() or [0])[-1] + 1)
        self._end(self._ends)

    def cancel(self):
        self._end(JobState.CANCELED)

    async def rescale(self, parallelism, nodes):
        await self._over.wait()
        raise StateError("the job has ended before that")

    def _end(self, state):
        self.status.state = state
        self._over.set()


def write(store, epoch):
    store.write_manifest(Manifest("job", epoch, "checkpoint", epoch, 0, 128, {}, []))


class Process:
    """One process of the job after the other, on the same folder."""

    def __init__(self, folder, **options):
        self.folder = JobFolder(folder / "job")
        self.folder.root.mkdir(exist_ok=True)
        self.state = StateDir(self.folder.state, "job")
        settings = MasterSettings(
            id="job-1", name="job", token="", path="", expose="job", params={}, parallelism=1,
            nodes={}, checkpoint_every_ms=1_000, origin="", allow_dropped_state=False,
            memory_limit_bytes=0, log_json=False,
        )  # fmt: skip
        self.engine = FakeEngine(self.state, **options)
        self.master = Master(
            self.folder,
            settings,
            self.state,
            make_engine=lambda say: self.engine,
            clock=SystemClock(),
        )
        self.running = asyncio.ensure_future(self.master.run())

    def order(self, verb, **arguments):
        arguments["operation"] = "op-1"
        return asyncio.ensure_future(self.master.handle(verb, arguments))

    async def end(self):
        await self.running
        self.state.close()
        return read_end(self.folder.end)

    def kill(self):
        """Before it has written how the job ended."""
        self.running.cancel()
        self.state.close()


async def test_what_a_killed_process_had_left_is_replaced_by_what_the_job_has_come_to(tmp_path):
    """Or else a job begun from there would write what lies between a second time."""
    target = str(tmp_path / "saved")
    first = Process(tmp_path)
    write(DirectoryStore(first.state.checkpoints), 4)
    first.running.cancel()  # it goes before it can write down the end
    order = first.order("stop", savepoint=target)
    await asyncio.sleep(0)
    first.master._ended.set()
    assert (await order)["epoch"] == 5
    first.kill()
    assert read_end(first.folder.end) is None
    second = Process(tmp_path)
    assert (await second.order("stop", savepoint=target)) == {
        "state": "stopped", "path": target, "epoch": 6,
    }  # fmt: skip
    await second.end()
    assert DirectoryStore(tmp_path / "saved").epochs() == [6]


async def test_a_savepoint_of_somebody_else_is_never_replaced(tmp_path):
    """Also not when the order comes a second time, as it does when the process dies over it."""
    write(DirectoryStore(tmp_path / "saved"), 3)
    for _ in range(2):
        process = Process(tmp_path)
        for verb, name in (("stop", "savepoint"), ("savepoint", "target")):
            with pytest.raises(UsageError, match="holds a savepoint already"):
                await process.order(verb, **{name: str(tmp_path / "saved")})
            process.master._orders.clear()
        assert process.engine.drains == 0
        process.kill()
    assert saved_epoch(str(tmp_path / "saved")) == 3


async def test_a_stop_counts_though_the_process_is_suspended_meanwhile(tmp_path):
    """The daemon ends over an order to stop: the savepoint is of the job's end, and it is one."""
    process = Process(tmp_path)
    order = process.order("stop", savepoint=str(tmp_path / "saved"))
    while not process.engine.drains:
        await asyncio.sleep(0)
    await process.master.handle("suspend", {})
    end = await process.end()
    assert end.state == "stopped"
    assert end.results == {"op-1": await order}


@pytest.mark.parametrize("how", ["order", "signal"])
async def test_a_process_that_is_suspended_is_not_the_end_of_the_job(tmp_path, how):
    process = Process(tmp_path)
    rescale = process.order("rescale", parallelism=2, nodes={})
    await asyncio.sleep(0)
    if how == "order":
        await process.master.handle("suspend", {})
    process.master.suspend()  # a second time is nothing new
    assert await process.end() is None
    assert process.engine.drains == 1
    with pytest.raises(MasterGoneError):  # the next process is asked
        await rescale
    for verb in ("cancel", "stop"):
        with pytest.raises(MasterGoneError):
            await process.master.handle(verb, {"operation": f"op-{verb}"})


async def test_a_job_that_fails_while_it_is_stopped_was_not_stopped(tmp_path):
    process = Process(tmp_path, ends=JobState.FAILED)
    write(DirectoryStore(process.state.checkpoints), 4)
    with pytest.raises(StateError, match="it is failed: it broke"):
        await process.order("stop", savepoint=str(tmp_path / "saved"))
    end = await process.end()
    assert end.state == "failed"
    assert "it is failed: it broke" in end.errors["op-1"]
    assert saved_epoch(str(tmp_path / "saved")) is None
