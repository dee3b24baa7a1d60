"""RestartStrategy: how long is waited, and when it gives up."""

from typing import Any

import pytest

from streamline.coordinator.restart import RestartStrategy


def strategy(**settings: Any) -> RestartStrategy:
    defaults: dict[str, Any] = {
        "initial_ms": 100,
        "max_ms": 1_000,
        "budget": 10,
        "window_ms": 60_000,
        "jitter": lambda: 1.0,
    }
    return RestartStrategy(**{**defaults, **settings})


def test_the_wait_doubles_up_to_its_longest() -> None:
    restarts = strategy()
    waits = [restarts.delay_ms(now_ms=second * 1_000) for second in range(6)]
    assert waits == [100, 200, 400, 800, 1_000, 1_000]


@pytest.mark.parametrize(("jitter", "wait"), [(0.0, 50), (0.5, 75), (1.0, 100)])
def test_jitter_shortens_by_half_at_most(jitter: float, wait: int) -> None:
    assert strategy(jitter=lambda: jitter).delay_ms(0) == wait


def test_a_completed_checkpoint_makes_the_wait_short_again() -> None:
    restarts = strategy()
    assert [restarts.delay_ms(0), restarts.delay_ms(1)] == [100, 200]
    restarts.progressed()
    assert restarts.delay_ms(2) == 100


def test_progress_does_not_refill_the_budget() -> None:
    restarts = strategy(budget=2)
    for now_ms in (0, 1):
        assert restarts.delay_ms(now_ms) is not None
        restarts.progressed()
    assert restarts.delay_ms(2) is None


@pytest.mark.parametrize(
    ("failures", "given_up"),
    [
        ([0, 0, 0], [False, False, True]),
        ([0, 1_000, 61_000], [False, False, False]),  # the first is out of the window
        ([0, 1_000, 60_000], [False, False, True]),  # at its very edge it still counts
        ([0, 1, 2, 60_002], [False, False, True, False]),  # refusals are not restarts
    ],
)
def test_the_budget_of_two_in_a_minute(failures: list[int], given_up: list[bool]) -> None:
    restarts = strategy(budget=2)
    assert [restarts.delay_ms(now) is None for now in failures] == given_up


def test_very_many_failures_do_not_overflow() -> None:
    restarts = strategy(budget=1_000)
    assert [restarts.delay_ms(0) for _ in range(200)][-1] == 1_000


def test_the_budget_in_words() -> None:
    assert strategy(budget=3).budget == "3 restarts in 60 s"
