"""Credits: nothing is spent that is not there, nothing comes back that was not given."""

import random

import pytest

from streamline.errors import InvariantError
from streamline.runtime.credits import Cost, Credits


def test_a_batch_costs_one_and_its_bytes() -> None:
    credits = Credits(batches=2, size_bytes=100)
    assert credits.spend(30) == Cost(1, 30)
    assert credits.left == Cost(1, 70)


@pytest.mark.parametrize(
    ("batches", "size_bytes", "spent", "next_size", "allowed"),
    [
        (2, 100, [], 100, True),
        (2, 100, [60], 40, True),
        (2, 100, [60], 41, False),
        (2, 100, [10, 10], 1, False),
        (2, 100, [], 0, True),
        (2, 100, [], 1_000, True),  # alone, an oversize batch passes
        (2, 100, [1], 1_000, False),  # not while anything else is under way
        (0, 100, [], 1, False),
    ],
)
def test_what_is_allowed(
    batches: int, size_bytes: int, spent: list[int], next_size: int, allowed: bool
) -> None:
    credits = Credits(batches=batches, size_bytes=size_bytes)
    for size in spent:
        credits.spend(size)
    assert credits.allow(next_size) is allowed
    if not allowed:
        before = credits.left
        with pytest.raises(InvariantError, match=f"batch of {next_size} bytes"):
            credits.spend(next_size)
        assert credits.left == before


def test_an_oversize_batch_is_charged_all_and_gives_all_back() -> None:
    credits = Credits(batches=4, size_bytes=100)
    cost = credits.spend(1_000_000)
    assert cost == Cost(1, 100)
    assert not credits.allow(1)
    credits.grant(cost)
    assert credits.left == credits.limit


@pytest.mark.parametrize("cost", [Cost(1, 0), Cost(0, 1)])
def test_more_than_was_given_cannot_come_back(cost: Cost) -> None:
    with pytest.raises(InvariantError, match="beyond"):
        Credits(batches=1, size_bytes=10).grant(cost)


@pytest.mark.parametrize("seed", range(20))
def test_the_sum_is_constant(seed: int) -> None:
    random_ = random.Random(seed)
    credits = Credits(batches=random_.randint(1, 5), size_bytes=random_.randint(1, 300))
    away: list[Cost] = []
    for _ in range(300):
        size = random_.randint(0, 400)
        if random_.random() < 0.6 and credits.allow(size):
            away.append(credits.spend(size))
        elif away:
            credits.grant(away.pop(random_.randrange(len(away))))
        assert min(credits.left) >= 0
        assert credits.left.batches + sum(c.batches for c in away) == credits.limit.batches
        assert credits.left.size_bytes + sum(c.size_bytes for c in away) == credits.limit.size_bytes
