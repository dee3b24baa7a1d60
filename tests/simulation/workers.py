"""Simulated worker processes: real tasks and a real ``Worker`` each; messages take their time."""

import asyncio
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from streamline.graph import JobGraph
from streamline.ids import ChannelId
from streamline.runtime.channel import Message, Receiver, Sender
from streamline.runtime.credits import Cost, Credits
from streamline.runtime.link import Progress, TaskCommand, WorkerSettings
from streamline.runtime.worker import Worker
from streamline.state.memory import MemoryStore
from streamline.state.store import CheckpointStore
from tests.simulation.virtual import VirtualLoop

_PROGRESS_S = 0.2
_CONNECT_S = 10.0


class Life:
    """Whether a process is alive; what it wants to do afterwards does not happen."""

    def __init__(self) -> None:
        self.alive = True


class Way:
    """Messages from one place to another: late, in order, and sometimes lost."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, most_s: float, drop: float) -> None:
        self._loop, self._rng, self._most_s, self._drop = loop, rng, most_s, drop
        self._last = 0.0

    def send(self, life: Life, receive: Callable[[], None], *, may_drop: bool = False) -> None:
        if may_drop and self._rng.random() < self._drop:
            return
        at = self._loop.now + self._rng.random() * self._most_s
        self._last = at = max(at, self._last + 1e-7)
        self._loop.call_at(at, lambda: receive() if life.alive else None)


class SimWorker:
    """One worker process."""

    def __init__(self, pool: "SimPool", number: int) -> None:
        self.life = Life()
        self.number = number
        self.generation = 0
        self.ends: dict[tuple[int, ChannelId], tuple[int, Sender | Receiver]] = {}
        self._pool = pool
        rng, loop = pool.rng, pool.loop
        slow = rng.choice([0.005, 0.005, 0.05, 1.0 if rng.random() < 0.2 else 0.01])
        self.to, self.back = (Way(loop, rng, slow, pool.drop) for _ in range(2))
        self.worker = Worker(
            pool.settings_of(number),
            pool.graph,
            Channels(pool, self),
            self._send,
            clock=loop,
            open_kv=MemoryStore.open,
            store=pool.store,
        )
        self._report()

    def _send(self, message: Any) -> None:
        if self.life.alive:
            drops = not isinstance(message, Progress)
            self.back.send(
                self._pool.life,
                lambda: self._pool.on_message(self.number, message),
                may_drop=drops,
            )

    def _report(self) -> None:
        if self.life.alive:
            self._send(self.worker.progress())
            self._pool.loop.call_later(_PROGRESS_S, self._report)

    def die(self) -> None:
        """Without another word; those it was connected with are told by the kernel."""
        self.life.alive = False
        for running in self.worker._running.values():
            running.cancel()
        for (generation, channel), (peer, _) in self.ends.items():
            other = self._pool.workers.get(peer)
            if other is not None and (generation, channel) in other.ends:
                other.ends[generation, channel][1].break_off(None)


class Channels:
    """Channels between simulated workers."""

    def __init__(self, pool: "SimPool", worker: SimWorker) -> None:
        self.refused = 0
        self._pool, self._worker = pool, worker

    def begin(self, generation: int) -> None:
        for _, end in self._worker.ends.values():
            end.break_off()
        self._worker.ends.clear()
        self._worker.generation = generation

    def sender(self, channel: ChannelId, credits: Credits, worker: int) -> Sender:
        place = (self._worker.generation, channel)
        way = Way(self._pool.loop, self._pool.rng, 0.01, 0.0)

        def deliver(message: Message, cost: Cost) -> None:
            way.send(self._worker.life, lambda: self._to(worker, place, message, cost))

        made = Sender(channel, credits, deliver)
        self._worker.ends[place] = (worker, made)
        return made

    def receiver(self, channel: ChannelId, worker: int) -> Receiver:
        place = (self._worker.generation, channel)
        way = Way(self._pool.loop, self._pool.rng, 0.01, 0.0)

        def grant(cost: Cost) -> None:
            way.send(self._worker.life, lambda: self._back(worker, place, cost))

        made = Receiver(channel, grant)
        self._worker.ends[place] = (worker, made)
        return made

    def _to(self, worker: int, place: tuple[int, ChannelId], message: Message, cost: Cost) -> None:
        end = self._other(worker, place)
        if isinstance(end, Receiver):
            end.push(message, cost)

    def _back(self, worker: int, place: tuple[int, ChannelId], cost: Cost) -> None:
        end = self._other(worker, place)
        if isinstance(end, Sender):
            end.grant(cost)

    def _other(self, worker: int, place: tuple[int, ChannelId]) -> Sender | Receiver | None:
        other = self._pool.workers.get(worker)
        found = None if other is None else other.ends.get(place)
        return None if found is None else found[1]

    async def connect(self, peers: dict[int, tuple[str, int]]) -> None:
        generation = self._worker.generation
        until = self._pool.loop.now + _CONNECT_S
        while True:
            needed = {peer for peer, _ in self._worker.ends.values()}
            others = [self._pool.workers.get(peer) for peer in needed]
            if all(other is not None and other.generation >= generation for other in others):
                return
            if self._pool.loop.now > until:
                raise ConnectionError("no answer")
            await asyncio.sleep(0.01)


class SimPool:
    """The workers of one job's process; see ``ProcessPool``."""

    def __init__(
        self,
        world: Any,
        life: Life,
        graph: JobGraph,
        store: CheckpointStore,
        settings: WorkerSettings,
        live: Path,
        *,
        on_ready: Callable[[int], None],
        on_lost: Callable[[int, str], None],
        on_message: Callable[[int, Any], None],
    ) -> None:
        self.refused = 0
        self.addresses: dict[int, tuple[str, int]] = {}
        self.workers: dict[int, SimWorker] = {}
        self.loop, self.rng, self.drop = world.loop, world.rng, world.drop
        self.life, self.graph, self.store = life, graph, store
        self.on_message = on_message
        self._settings, self._live = settings, live
        self._on_ready, self._on_lost = on_ready, on_lost
        self._starting: set[int] = set()
        self._numbers = 0
        world.pools.append(self)

    @property
    def pids(self) -> dict[int, int]:
        return dict.fromkeys(self.workers, 1)

    @property
    def ready(self) -> list[int]:
        return sorted(self.workers)

    async def open(self) -> None:
        pass

    def settings_of(self, number: int) -> WorkerSettings:
        from dataclasses import replace

        self._numbers += 1
        directory = str(self._live / f"worker-{number}-{self._numbers}")
        return replace(self._settings, worker=number, directory=directory)

    def ensure(self, workers: list[int]) -> None:
        for number in workers:
            if number not in self.workers and number not in self._starting:
                self._starting.add(number)
                delay_s = self.rng.choice([0.05, 0.3, 2.0])
                self.loop.call_later(delay_s, self._start, number)

    def _start(self, number: int) -> None:
        if self.life.alive and number in self._starting and number not in self.workers:
            self._starting.discard(number)
            self.workers[number] = SimWorker(self, number)
            self.addresses[number] = ("", number)
            self._on_ready(number)

    def retire(self, workers: Iterable[int]) -> None:
        for number in workers:
            self._starting.discard(number)
            worker = self.workers.pop(number, None)
            if worker is not None:
                worker.die()

    def send(self, worker: int, message: Any) -> None:
        found = self.workers.get(worker)
        if found is not None and self.life.alive:
            drops = isinstance(message, TaskCommand)
            found.to.send(found.life, lambda: found.worker.take(message), may_drop=drops)

    def kill(self, number: int) -> None:
        """One dies; it is seen a little later."""
        worker = self.workers.get(number)
        if worker is None or not self.life.alive:
            return
        worker.die()
        del self.workers[number]

        self._starting.add(number)  # it is not started anew before it is missed

        def seen() -> None:
            self._starting.discard(number)
            if self.life.alive:
                self._on_lost(number, "was killed (SIGKILL)")

        self.loop.call_later(self.rng.random() * 0.1, seen)

    def die(self) -> None:
        """With the process above them."""
        self.life.alive = False
        for worker in self.workers.values():
            worker.die()
        self.workers.clear()

    async def close(self) -> None:
        for worker in self.workers.values():
            worker.die()
        self.workers.clear()
        self._starting.clear()
