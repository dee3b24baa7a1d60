"""One simulated life of a cluster: daemon, processes of jobs and workers, decided by a seed.

Daemon, keepers, masters, engines, workers and tasks are the real ones. What is simulated is what
lies between them: processes, connections, time, and the disk's moments between two writes.

python -m tests.simulation.cluster SEED [LAST_SEED]      replays seeds and tells what happened
"""

import asyncio
import io
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from streamline.cluster.control import MasterGoneError, OrderFailedError
from streamline.cluster.daemon import Daemon
from streamline.cluster.files import JobFolder, MasterSettings
from streamline.cluster.jobs import (
    JobOptions,
    JobRecord,
    Verb,
    WrongStateError,
    submitted,
)
from streamline.cluster.journal import Entry, Journal
from streamline.cluster.machine import JobProcess, Machine, OrderLine
from streamline.cluster.master import Master, settings_of_engine
from streamline.cluster.submission import Submission
from streamline.config import RuntimeConfig
from streamline.engines.local import LocalEngine
from streamline.engines.statedir import StateDir
from streamline.errors import StreamlineError
from streamline.logs import JsonLog
from streamline.state.store import DirectoryStore
from tests.simulation.jobs import JOBS
from tests.simulation.ledger import Ledger
from tests.simulation.run import _compare, _memory_folder, undisturbed
from tests.simulation.seeds import replay
from tests.simulation.virtual import VirtualLoop
from tests.simulation.workers import Life, SimPool

LONGEST_S = 200.0
TROUBLES = ["worker", "master", "daemon", "suspend", "signal"]


class DaemonKilledError(BaseException):
    """The daemon dies right here."""


class OneLife(DirectoryStore):
    """The checkpoint store of a process: once that is dead, nothing is written any more."""

    def __init__(self, root: Path, life: Life) -> None:
        super().__init__(root)
        self._life = life

    def put_manifest(self, epoch: int, data: bytes) -> None:
        self._check()
        super().put_manifest(epoch, data)

    def put_file(self, source: Path, digest: str) -> None:
        self._check()
        super().put_file(source, digest)

    def remove(self, epoch: int, digests: set[str]) -> None:
        self._check()
        super().remove(epoch, digests)

    def sweep(self) -> None:
        self._check()
        super().sweep()

    def _check(self) -> None:
        if not self._life.alive:
            raise OSError("of a process that is dead")


class DeadlyJournal:
    """The daemon may die before or behind each write."""

    def __init__(self, real: Journal, world: "World", life: Life) -> None:
        self._real, self._world, self._life = real, world, life

    @property
    def size(self) -> int:
        return self._real.size

    def append(self, entry: Mapping[str, Any]) -> None:
        self._die_perhaps(f"before {entry['kind']}")
        self._real.append(entry)
        self._die_perhaps(f"behind {entry['kind']}")

    def replace(self, entries: Any) -> None:
        self._die_perhaps("before it is made smaller")
        found: list[Entry] = list(entries)
        self._real.replace(found)
        self._die_perhaps("behind that it was made smaller")

    def close(self) -> None:
        self._real.close()

    def _die_perhaps(self, where: str) -> None:
        world = self._world
        if self._life.alive and world.deaths and world.rng.random() < world.deadly:
            world.deaths -= 1
            world.tell(f"{world.at} the daemon is killed {where} in the journal")
            self._life.alive = False
            world.fallen.set()
        if not self._life.alive:
            raise DaemonKilledError


class Told(JsonLog):
    """The log of a job."""

    def __init__(self, world: "World") -> None:
        super().__init__(io.StringIO(), world.loop)
        self._world = world

    def say(self, level: str, text: str, **more: Any) -> None:
        self._world.tell(f"{self._world.at}     {level}: {text}")


class Mortal(Master):
    """It may die when it has left a savepoint, before it can say so."""

    on_saved: Callable[[], None]

    def _export(self, target: str) -> dict[str, Any]:
        found = super()._export(target)
        self.on_saved()
        return found


class SimMaster:
    """The process of a job."""

    def __init__(self, world: "World", folder: JobFolder, settings: MasterSettings) -> None:
        self.life = Life()
        self.lines: list[SimLine] = []
        self.pools: list[SimPool] = []
        self._world = world
        graph = world.job().graph()
        self.state = StateDir(folder.state, graph.name)
        if settings.origin and not self.state.has_checkpoint:
            self.state.begin_from(settings.origin, replace=False)
        store = OneLife(self.state.checkpoints, self.life)
        world.ledger.store = store
        given = settings_of_engine(settings, graph, self.state)
        given = world.configured(given)

        def engine(say: Callable[[str, str], None]) -> LocalEngine:
            return LocalEngine(
                given,
                say,
                clock=world.loop,
                jitter=world.rng.random,
                make_pool=self._pool(graph, store),
                run=world.new_run(),
                store=store,
            )

        self.master = Mortal(
            folder, settings, self.state, make_engine=engine, clock=world.loop, log=Told(world)
        )
        self.master.on_saved = self._saved
        self.running = asyncio.ensure_future(self._run())

    def _pool(self, graph: Any, store: OneLife) -> Any:
        def make(*args: Any, **options: Any) -> SimPool:
            pool = SimPool(self._world, self.life, graph, store, *args, **options)
            self.pools.append(pool)
            return pool

        return make

    async def _run(self) -> None:
        try:
            await self.master.run()
        except Exception as error:
            self._world.broken.append(error)
        if self.life.alive:
            self.die()

    def _saved(self) -> None:
        if self._world.dies_saving and self._world.rng.random() < 0.5:
            self._world.dies_saving -= 1
            self._world.tell(f"{self._world.at} the job's process dies behind a savepoint")
            self.die()

    def die(self) -> None:
        """Of whatever reason; the kernel closes its connections."""
        self.life.alive = False
        for pool in self.pools:
            pool.die()
        for line in self.lines:
            line.break_off()
        for order in self.master._orders.values():
            order.cancel()
        self.running.cancel()
        for task in self.master._engine._background:
            task.cancel()
        self.state.close()


class SimLine(OrderLine):
    """Orders may be lost on their way, so may answers, and some arrive twice."""

    def __init__(self, world: "World", master: SimMaster) -> None:
        self.gone = asyncio.Event()
        self._world, self._master = world, master
        master.lines.append(self)

    async def call(self, verb: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        world, rng = self._world, self._world.rng
        await self._pass(rng.random() * world.slow_s)
        if rng.random() < world.lose:
            self.break_off()  # lost before it was heard
        self._check()
        answer = asyncio.ensure_future(self._answer(verb, dict(arguments or {})))
        if rng.random() < world.repeat:
            again = asyncio.ensure_future(self._answer(verb, dict(arguments or {})))
            again.add_done_callback(lambda done: done.cancelled() or done.exception())
        gone = asyncio.ensure_future(self.gone.wait())
        try:
            await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
            if rng.random() < world.lose:
                self.break_off()  # lost after it was carried out
            if self.gone.is_set() or not answer.done():
                answer.cancel()
                raise MasterGoneError("the job's process went away")
            return answer.result()
        except asyncio.CancelledError:
            answer.cancel()
            raise
        finally:
            gone.cancel()

    async def _answer(self, verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._master.master.handle(verb, arguments)
        except MasterGoneError:
            self.break_off()
            raise
        except StreamlineError as error:
            raise OrderFailedError(str(error)) from error

    async def _pass(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.gone.wait()
        except TimeoutError:
            pass

    def _check(self) -> None:
        if self.gone.is_set() or not self._master.life.alive:
            self.gone.set()
            raise MasterGoneError("the job's process went away")

    def break_off(self) -> None:
        self.gone.set()

    async def close(self) -> None:
        self.break_off()


class SimProcess(JobProcess):
    """As a daemon sees it; the process itself is the world's."""

    def __init__(self, world: "World", folder: JobFolder) -> None:
        self._world, self._folder = world, folder
        self._started: SimMaster | None = None

    @property
    def _master(self) -> SimMaster | None:
        found = self._world.masters.get(self._folder.root)
        return found if found is not None and found.life.alive else None

    def is_run(self) -> bool:
        return self._master is not None

    async def connect(self) -> OrderLine | None:
        await asyncio.sleep(self._world.rng.random() * self._world.slow_s)
        master = self._master
        if master is None or self._world.rng.random() < self._world.lose:
            return None
        return SimLine(self._world, master)

    def start(self, settings: MasterSettings) -> None:
        self._started = SimMaster(self._world, self._folder, settings)
        self._world.masters[self._folder.root] = self._started
        if self._folder.end.exists():  # as its main() does
            self._started.die()

    def has_exited(self) -> bool:
        return self._started is not None and not self._started.life.alive

    async def reap(self) -> None:
        self._started = None

    def kill(self, *, stopped: bool = False) -> None:
        master = self._master
        if master is not None and not stopped:
            master.die()


class SimMachine(Machine):
    def __init__(self, world: "World") -> None:
        self._world = world

    def process(self, folder: JobFolder) -> JobProcess:
        return SimProcess(self._world, folder)

    async def look_at(self, folder: JobFolder, submission: Submission) -> dict[str, Any]:
        raise NotImplementedError("jobs are submitted as they are here")


class World:
    """Everything there is, for one seed."""

    def __init__(
        self, seed: int, loop: VirtualLoop, folder: Path, tell: Callable[[str], None]
    ) -> None:
        self.rng = rng = random.Random(seed)
        self.loop, self.folder, self.tell = loop, folder, tell
        self.shape = rng.randrange(len(JOBS))
        self.ledger = Ledger()
        self.masters: dict[Path, SimMaster] = {}
        self.pools: list[SimPool] = []
        self.broken: list[Exception] = []
        self.fallen = asyncio.Event()
        self.deadly = rng.choice([0.02, 0.1, 0.3])
        self.deaths = rng.randrange(6)
        self.dies_saving = rng.choice([0, 1, 3])
        self.lose = rng.choice([0.0, 0.02, 0.1])
        self.repeat = rng.choice([0.0, 0.2, 0.5])
        self.slow_s = rng.choice([0.001, 0.05, 0.5])
        self.drop = rng.choice([0.0, 0.0, 0.005])
        self._runs = 0
        self._batch_rows = rng.choice([2, 5, 20])
        self._every_ms = rng.choice([30, 100, 500])
        self.daemon: Daemon | None = None
        self._life = Life()
        self._up = asyncio.Event()
        self._suspending = False
        self._number = 0

    @property
    def at(self) -> str:
        return f"{self.loop.now:8.2f}"

    def job(self) -> Any:
        return JOBS[self.shape](self.ledger)

    def new_run(self) -> str:
        self._runs += 1
        return f"run{self._runs}"

    def configured(self, given: Any) -> Any:
        from dataclasses import replace

        config = RuntimeConfig(
            batch_rows=self._batch_rows,
            channel_batches=2,
            checkpoint_every_ms=self._every_ms,
            checkpoint_timeout_ms=5_000,
            tolerable_checkpoint_failures=1_000_000,
            check_invariants=True,
            restart_initial_ms=10,
            restart_max_ms=200,
            restart_budget=1_000,
            task_timeout_ms=3_000,
        )
        return replace(given, config=config)

    # ------------------------------------------------------------------ the daemon

    async def run_daemon(self) -> None:
        """One after the other, until everything is over."""
        while True:
            self._life = life = Life()
            self.fallen.clear()
            daemon = Daemon(self.folder / "data", self.loop, machine=SimMachine(self))
            daemon._journal = DeadlyJournal(daemon._journal, self, life)  # type: ignore[assignment]
            try:
                daemon.start()
                self.daemon = daemon
                self._up.set()
                await self.fallen.wait()
                self.daemon = None
                self._up.clear()
                if self._suspending:
                    await daemon.close(suspend=True)
            except DaemonKilledError:
                pass
            finally:
                self.daemon = None
                self._suspending = False
                self._up.clear()
                self._bury(daemon)
            await asyncio.sleep(self.rng.choice([0.01, 0.5, 3.0]))

    def _bury(self, daemon: Daemon) -> None:
        for keeper in daemon.keepers.values():
            keeper._running.cancel()
            if keeper._client is not None:
                keeper._client.gone.set()
        for task in daemon._operations.values():
            task.cancel()
        daemon._journal.close()
        daemon._lock.close()

    async def up(self) -> Daemon:
        await self._up.wait()
        assert self.daemon is not None
        return self.daemon

    # ------------------------------------------------------------------ the user

    async def submit(self, parallelism: int, origin: str) -> str:
        name = f"job-{self._number}"
        self._number += 1
        record = JobRecord(
            id=name,
            name=self.job().name,
            file="job.py",
            expose="job",
            params={},
            options=JobOptions(parallelism=parallelism, origin=origin),
            submitted_ms=self.loop.now_ms(),
        )
        folder = JobFolder(self.folder / "data" / "jobs" / name)
        while True:
            daemon = await self.up()
            if name in daemon.jobs.jobs:
                return name
            folder.source.mkdir(parents=True, exist_ok=True)
            (folder.source / "job.py").write_text("# it is built by the simulation\n")
            try:
                daemon._note(submitted(record))
                daemon._keep(daemon.jobs.jobs[name])
            except DaemonKilledError:
                await asyncio.sleep(0.01)

    async def ask(self, job: str, verb: Verb, arguments: dict[str, Any]) -> Any:
        """Ask until it was heard, then wait for what comes of it; None if it could not be."""
        asked = None
        before = set((await self.up()).jobs.operations)
        while True:
            daemon = await self.up()
            if asked is None:
                new = daemon.jobs.operations.keys() - before
                mine = [daemon.jobs.operations[one] for one in sorted(new)]
                if mine:
                    asked = mine[-1].id
                else:
                    try:
                        asked = daemon.ask(job, verb, arguments).id
                    except DaemonKilledError:
                        pass
                    except WrongStateError as error:
                        return str(error)
            else:
                found = daemon.jobs.operations[asked]
                if found.state != "pending":
                    self.tell(f"{self.at}   {verb}: {found.state} {found.result} {found.error}")
                    return found
            await asyncio.sleep(0.02)

    async def live(self) -> None:
        """Submit, do what the seed says, and wait for the end."""
        rng = self.rng
        job: str | None = await self.submit(rng.randint(1, 3), "")
        for step in range(rng.randrange(2, 7)):
            await asyncio.sleep(rng.random() * rng.choice([0.02, 0.1, 0.7]))
            verb = rng.choice(
                [*TROUBLES, "worker", "rescale", "rescale", "savepoint", "stop", "stop", "cancel"]
            )
            self.tell(f"{self.at} {verb}")
            if verb in TROUBLES:
                self.trouble(verb)
                continue
            meanwhile = asyncio.ensure_future(self._trouble(rng.randrange(3)))
            job = await self.order(job, verb, str(self.folder / f"saved-{step}"))
            await meanwhile
            if job is None:
                return
        await self._until_ended(job)

    async def _trouble(self, times: int) -> None:
        """Something dies while an order is carried out."""
        for _ in range(times):
            await asyncio.sleep(self.rng.random() * self.rng.choice([0.02, 0.1, 0.5]))
            kind = self.rng.choice(TROUBLES)
            self.tell(f"{self.at}   meanwhile: {kind}")
            self.trouble(kind)

    def trouble(self, kind: str) -> None:
        """A process dies, or the daemon is told to end."""
        if kind == "worker":
            for pool in self.pools[-1:]:
                if pool.workers:
                    pool.kill(self.rng.choice(sorted(pool.workers)))
        elif kind == "master":
            for master in self.masters.values():
                if master.life.alive:
                    master.die()
        elif kind == "signal":  # to the job's own process
            for master in self.masters.values():
                if master.life.alive:
                    master.master.suspend()
        else:
            if kind == "suspend":
                self._suspending = True
            else:
                self._life.alive = False
            self.fallen.set()

    async def order(self, job: str, verb: Verb, target: str) -> str | None:
        """Give an order, and look at what came of it.

        Returns:
            The job that runs now; None if it has finished.
        """
        rng = self.rng
        if verb == "rescale":
            parallelism = rng.randint(1, 3)
            arguments = {"parallelism": parallelism, "nodes": {}}
            found = await self.ask(job, "rescale", arguments)
            if getattr(found, "state", "") == "done":
                daemon = await self.up()
                assert found.result["parallelism"] == parallelism
                assert daemon.jobs.jobs[job].options.parallelism == parallelism
        elif verb == "savepoint":
            found = await self.ask(job, "savepoint", {"target": target})
            if getattr(found, "state", "") == "done":
                assert DirectoryStore(Path(target)).latest_usable()[0] is not None
        elif verb == "stop":
            found = await self.ask(job, "stop", {"savepoint": target})
            if getattr(found, "state", "") == "done":
                assert found.result["state"] in ("stopped", "finished")
                if found.result["state"] == "finished":
                    return None
                last = DirectoryStore(self.state_of(job) / "checkpoints").epochs()[-1]
                assert found.result["epoch"] == last, "it is not of the job's last checkpoint"
                assert DirectoryStore(Path(target)).epochs() == [last]
                return await self.submit(rng.randint(1, 3), found.result["path"])
            if getattr(found, "error", "").startswith("the job was stopped before it had a check"):
                assert not DirectoryStore(self.state_of(job) / "checkpoints").epochs()
                return await self.submit(rng.randint(1, 3), "")
        else:
            found = await self.ask(job, "cancel", {})
            if getattr(found, "state", "") == "done":
                assert found.result["state"] in ("canceled", "stopped", "finished")
                if found.result["state"] == "finished":
                    return None
                state = self.state_of(job)
                stored = DirectoryStore(state / "checkpoints").epochs()
                return await self.submit(rng.randint(1, 3), str(state) if stored else "")
        return job

    def state_of(self, job: str) -> Path:
        """Where a job's checkpoints are."""
        return JobFolder(self.folder / "data" / "jobs" / job).state

    async def _until_ended(self, job: str) -> None:
        while True:
            daemon = await self.up()
            record = daemon.jobs.jobs[job]
            if record.state is not None:
                assert record.state == "finished", (record.state, record.reason, record.trace)
                return
            await asyncio.sleep(0.1)


def simulate(seed: int, tell: Callable[[str], None] = lambda text: None) -> None:
    """Run the cluster that the seed picks, through all that the seed decides.

    Raises:
        AssertionError: If something was not as it was said to be.
        Difference: If the results are not those of the undisturbed run.
    """
    folder = Path(tempfile.mkdtemp(prefix="streamline-sim-", dir=_memory_folder()))
    loop = VirtualLoop(random.Random(seed).choice([0.0005, 0.002, 0.005]))
    asyncio.set_event_loop(loop)
    try:
        world = loop.run_until_complete(_run(seed, loop, folder, tell))
    finally:
        _end(loop)
        shutil.rmtree(folder, ignore_errors=True)
    _compare(
        world.ledger.results(),
        undisturbed(world.shape),
        f"seed {seed}, job {JOBS[world.shape].__name__}",
    )


async def _run(seed: int, loop: VirtualLoop, folder: Path, tell: Callable[[str], None]) -> World:
    world = World(seed, loop, folder, tell)
    daemons = asyncio.ensure_future(world.run_daemon())
    user = asyncio.ensure_future(world.live())
    await asyncio.wait([daemons, user], timeout=LONGEST_S, return_when=asyncio.FIRST_COMPLETED)
    for master in world.masters.values():
        if master.life.alive:
            master.die()
    if daemons.done():
        daemons.result()
    assert not world.broken, f"the process of a job failed: {world.broken}"
    assert user.done(), "it has not come to its end"
    user.result()
    return world


def _end(loop: VirtualLoop) -> None:
    while left := asyncio.all_tasks(loop):  # what is cancelled may begin something else
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    asyncio.set_event_loop(None)
    loop.close()


if __name__ == "__main__":
    replay(simulate, "tests.simulation.cluster")
