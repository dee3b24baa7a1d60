"""1,000 seeds of a cluster's life; and that broken ones are noticed."""

import itertools
from typing import Any

import pytest

from streamline.cluster.keeper import Keeper
from streamline.cluster.master import Master
from streamline.state.savepoint import saved_epoch
from tests.simulation.cluster import Mortal, simulate
from tests.simulation.seeds import all_failures, is_noticed


@pytest.mark.timeout(900)
def test_every_seed_gives_the_results_of_the_undisturbed_run() -> None:
    found = all_failures(simulate, "tests.simulation.cluster")
    assert not found, "\n".join(found)


def test_a_seed_is_the_same_every_time() -> None:
    stories: list[list[str]] = [[], []]
    for story in stories:
        for seed in range(20, 25):
            simulate(seed, story.append)
    # Folders have names of their own.
    first, second = ([line.partition("/")[0] for line in story] for story in stories)
    assert first == second
    assert len(first) > 20


def test_it_notices_orders_that_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A master that has lost its memory of orders carries them out twice."""
    handle = Master.handle
    numbers = itertools.count()

    async def forgetful(self: Master, verb: str, arguments: dict[str, object]) -> object:
        if "operation" in arguments:
            arguments["operation"] = f"op-{next(numbers)}"
        return await handle(self, verb, arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Master, "handle", forgetful)
    assert is_noticed(simulate, 1_000)


def test_it_notices_a_process_that_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Keeper._start

    async def once(self: Keeper) -> bool:
        return not self.status and await start(self)

    monkeypatch.setattr(Keeper, "_start", once)
    assert is_noticed(simulate, 1_000)


def test_it_notices_a_savepoint_that_is_older_than_the_end_of_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that takes what the one before it had left for what it was to leave."""
    export = Mortal._export

    def lazy(self: Mortal, target: str) -> dict[str, Any]:
        found = saved_epoch(target)
        return export(self, target) if found is None else {"path": target, "epoch": found}

    monkeypatch.setattr(Mortal, "_export", lazy)
    assert is_noticed(simulate, 1_000)
