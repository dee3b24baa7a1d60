"""The keeper of a job, with a fake process and in virtual time."""

import asyncio

from streamline.cluster.files import JobFolder, MasterEnd, read_end, write_json
from streamline.cluster.jobs import JobOptions, JobRecord, Operation
from streamline.cluster.keeper import Keeper
from streamline.cluster.log import LogSettings
from streamline.cluster.machine import JobProcess
from streamline.errors import StateError
from tests.simulation.virtual import VirtualLoop

JOB = JobRecord("job-1", "job", "job.py", "job", {}, JobOptions(), 5)


class FakeProcess(JobProcess):
    """Comes up never, or ends the job at once; starting it may fail."""

    def __init__(self, folder, failures=(), ends=False):
        self.starts = self.kills = 0
        self._folder, self._failures, self._ends = folder, list(failures), ends
        self._running = False

    def is_run(self):
        return self._running

    async def connect(self):
        return None

    def start(self, settings):
        if self._failures:
            raise self._failures.pop(0)
        self.starts += 1
        self._running = not self._ends
        if self._ends:
            write_json(self._folder.end, MasterEnd(state="finished"))

    def has_exited(self):
        return not self._running

    async def reap(self):
        pass

    def kill(self, *, stopped=False):
        self.kills += 1
        self._running = False


def virtually(folder, test, **options):
    """Run a test with a keeper of its own."""
    loop = VirtualLoop(0.001)
    process = FakeProcess(folder, **options)
    try:
        return loop.run_until_complete(test(loop, process))
    finally:
        loop.close()


def keeper_of(loop, folder, process, on_end, said):
    return Keeper(
        JOB,
        folder,
        process,
        log=LogSettings(),
        token="",
        clock=loop,
        on_end=on_end,
        say=said.append,
    )


def test_a_process_that_does_not_come_up_is_canceled_and_no_other_is_started(tmp_path):
    folder = JobFolder(tmp_path)

    async def test(loop, process):
        ends = []
        keeper = keeper_of(loop, folder, process, ends.append, [])
        found = await keeper.carry_out(Operation("op-1", "job-1", "cancel", {}))
        assert found == {"state": "canceled"}
        assert process.starts == 1
        assert loop.now < 10
        assert [end.state for end in ends] == ["canceled"]
        assert read_end(folder.end).state == "canceled"
        await keeper.let_go()

    virtually(folder, test)


def test_trouble_that_is_not_the_jobs_is_told_and_tried_again(tmp_path):
    """Such as no more processes, or a journal on a full disk."""
    folder = JobFolder(tmp_path)
    said = []

    async def test(loop, process):
        refusals = [StateError("the journal is full")] * 2
        ended = asyncio.Event()

        def on_end(end):
            if refusals:
                raise refusals.pop()
            ended.set()

        keeper = keeper_of(loop, folder, process, on_end, said)
        async with asyncio.timeout(60):
            await ended.wait()
        assert process.starts == 1
        await keeper.let_go()

    again = [OSError(11, "Resource temporarily unavailable")] * 3
    virtually(folder, test, failures=again, ends=True)
    assert said == [
        "job job-1 cannot be looked after: [Errno 11] Resource temporarily unavailable; trying "
        "again",
        "job job-1 cannot be looked after: the journal is full; trying again",
    ]
