"""EngineContract: one job file that every engine must run to the same results.

The jobs read and write files, so that an engine may run them in other processes. What they
must come to is computed here in plain loops.
"""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from streamline.coordinator.lifecycle import JobState
from streamline.coordinator.status import JobStatus
from streamline.testing.looped import same_records

_START_MS = 1_700_000_000_000
_ORDERS = 1_500
_JOBS = '''\
"""Jobs of the engine contract: read orders from files, write results to files."""

import numpy as np

import streamline as sl
from streamline.connectors.files import FileSink, FileSource
from streamline.testing import Crash, Event, Pause, ScriptedSource


class Order(sl.Record):
    user: str
    amount: int
    at: int


def orders(job: sl.Job, input: str) -> sl.Stream[Order]:
    source = FileSource(input, format=sl.Json(Order), split_bytes=4096)
    return job.source("orders", source).with_timestamps("at", max_out_of_orderness="10s")


class Totals(sl.ProcessFunction[str, Order, dict[str, object]]):
    total = sl.ValueState(int, 0)

    def process(self, value, ctx):
        self.total.set(self.total.get() + value.amount)
        ctx.set_timer(1_800_000_000_000)

    def on_timer(self, timestamp, ctx):
        yield {"user": ctx.key, "total": self.total.get()}


def changing(columns):
    """Tries to change what it was given, which other operators may be given too."""
    given = columns["amount"]
    changed = columns.get("changed", np.zeros(len(given), dtype=bool))
    try:
        given[:] = 0
        changed = ~changed
    except ValueError:
        pass
    return {"amount": given, "changed": changed}


def results(input: str, output: str) -> sl.Job:
    """Windows, timers, a running count behind a union and a rebalance, all of one source."""
    job = sl.Job("results")
    stream = orders(job, input)
    by_user = stream.filter(lambda order: order.amount > 9).key_by("user")
    windows = by_user.window(sl.Tumbling("5s")).aggregate(n=sl.Count(), total=sl.Sum("amount"))
    windows.sink("windows", FileSink(f"{output}/windows", format=sl.Json()))
    by_user.process(Totals()).sink("totals", FileSink(f"{output}/totals", format=sl.Json()))
    even = stream.filter(lambda order: order.amount % 2 == 0).rebalance()
    odd = stream.filter(lambda order: order.amount % 2 == 1)
    counts = even.map("amount").union(odd.map("amount")).key_by(lambda n: n).aggregate(n=sl.Count())
    counts.sink("counts", FileSink(f"{output}/counts", format=sl.Json()))
    columns = stream.map_columns(changing).rebalance().map_columns(changing)
    columns.sink("columns", FileSink(f"{output}/columns", format=sl.Json()))
    return job


def crashing(input: str, output: str) -> sl.Job:
    """A task fails in the middle; every number is counted once all the same."""
    job = sl.Job("crashing")
    numbers = list(range(50))
    script = [*numbers, Pause("20ms"), Crash("once"), *numbers, Pause(), Crash("again"), *numbers]
    counts = job.source("numbers", ScriptedSource(script)).key_by(lambda n: n)
    counts.aggregate(n=sl.Count()).sink("counts", FileSink(f"{output}/counts", format=sl.Json()))
    return job


def failing(input: str, output: str) -> sl.Job:
    """A function that fails for one record, each time."""
    job = sl.Job("failing")
    results = orders(job, input).map(lambda order: 100 // (order.amount - 50), name="divide")
    results.sink("out", FileSink(f"{output}/out", format=sl.Json()))
    return job
'''


class EngineContract(ABC):
    """Subclass it under a name that begins with ``Test``, and say how the engine runs a job.

    Attributes:
        parallelisms: At which the jobs are run.

    >>> from streamline.clock import ManualClock
    >>> from streamline.engines.inline import InlineEngine
    >>> from streamline.jobfile import JobSpec
    >>> from streamline.state.memory import MemoryStore
    >>> from streamline.state.store import DirectoryStore
    >>> class TestInline(EngineContract):
    ...     def run(self, target, params, *, parallelism, folder):
    ...         engine = InlineEngine(
    ...             JobSpec.from_file(target, params).load().graph(),
    ...             store=DirectoryStore(folder / "checkpoints"),
    ...             open_kv=MemoryStore.open,
    ...             directory=folder / "live",
    ...             parallelism=parallelism,
    ...             clock=ManualClock(),
    ...         )
    ...         return engine.run(200_000)
    >>> TestInline().test_a_function_that_always_fails_fails_the_job()
    """

    parallelisms: tuple[int, ...] = (1, 3)

    @abstractmethod
    def run(
        self, target: str, params: Mapping[str, str], *, parallelism: int, folder: Path
    ) -> JobStatus:
        """Run a job to its end, with few restarts and checkpoints far less than a second apart.

        Args:
            target: The job, as ``FILE:NAME``.
            params: Values for the function's parameters.
            parallelism: The job's default.
            folder: For checkpoints and live state.
        """

    # ------------------------------------------------------------------ tests

    def test_results_do_not_depend_on_the_engine_nor_on_parallelism(self) -> None:
        for parallelism in self.parallelisms:
            with TemporaryDirectory() as folder:
                root = Path(folder)
                orders = _write_orders(root / "orders.jsonl")
                status = self._run("results", root, parallelism)
                assert status.state == JobState.FINISHED, status.reason
                assert status.records_in == len(orders)
                what = f"at parallelism {parallelism}"
                same_records(_read(root / "windows"), _windows(orders), f"windows {what}")
                same_records(_read(root / "totals"), _totals(orders), f"totals {what}")
                amounts = [order["amount"] for order in orders]
                same_records(_read(root / "counts"), _counts(amounts), f"counts {what}")
                same = [{"amount": amount, "changed": False} for amount in amounts]
                same_records(_read(root / "columns"), same, f"columns {what}")
                _nothing_left(root)

    def test_a_task_that_fails_is_restarted_and_nothing_counts_twice(self) -> None:
        with TemporaryDirectory() as folder:
            root = Path(folder)
            status = self._run("crashing", root, self.parallelisms[-1])
            assert status.state == JobState.FINISHED, status.reason
            assert status.restarts == 2
            same_records(_read(root / "counts"), _counts([*range(50)] * 3), "counts")
            _nothing_left(root)

    def test_a_function_that_always_fails_fails_the_job(self) -> None:
        with TemporaryDirectory() as folder:
            root = Path(folder)
            _write_orders(root / "orders.jsonl")
            status = self._run("failing", root, self.parallelisms[-1])
            assert status.state == JobState.FAILED
            assert "divide" in status.reason and "ZeroDivisionError" in status.reason
            assert "order.amount - 50" in status.trace
            assert "amount=50" in status.reason, "the record is not named"

    # ------------------------------------------------------------------ inside

    def _run(self, job: str, root: Path, parallelism: int) -> JobStatus:
        file = root / "engine_jobs.py"
        file.write_text(_JOBS)
        params = {"input": f"{root}/orders.jsonl", "output": f"{root}"}
        return self.run(f"{file}:{job}", params, parallelism=parallelism, folder=root / "state")


def _write_orders(path: Path) -> list[dict[str, Any]]:
    """Orders of a minute or so, up to five seconds out of order."""
    rng = random.Random(5)  # noqa: S311 - chance is not secrecy
    orders = [
        {
            "user": f"u{rng.randrange(20)}",
            "amount": rng.randrange(100),
            "at": _START_MS + number * 50 + rng.randrange(-5_000, 5_000),
        }
        for number in range(_ORDERS)
    ]
    path.write_text("".join(json.dumps(order) + "\n" for order in orders))
    return orders


def _read(folder: Path) -> list[dict[str, Any]]:
    lines = [line for path in folder.glob("part-*") for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def _windows(orders: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: dict[tuple[str, int], list[int]] = {}
    for order in orders:
        if order["amount"] > 9:
            start = order["at"] - order["at"] % 5_000
            found.setdefault((order["user"], start), []).append(order["amount"])
    return [
        {
            "key": user,
            "window_start": start,
            "window_end": start + 5_000,
            "n": len(amounts),
            "total": sum(amounts),
        }
        for (user, start), amounts in found.items()
    ]


def _totals(orders: list[dict[str, Any]]) -> list[dict[str, Any]]:
    totals: Counter[str] = Counter()
    for order in orders:
        if order["amount"] > 9:
            totals[order["user"]] += order["amount"]
    return [{"user": user, "total": total} for user, total in totals.items()]


def _counts(values: list[int]) -> list[dict[str, Any]]:
    """A running count gives each number from one up to how often the value is there."""
    return [
        {"key": value, "n": n}
        for value, count in Counter(values).items()
        for n in range(1, count + 1)
    ]


def _nothing_left(root: Path) -> None:
    pending = [path for path in root.rglob(".pending") if path.is_dir()]
    assert not pending, f"not committed: {pending}"
