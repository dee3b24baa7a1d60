"""Clocks."""

import pytest

from streamline.clock import Clock, ManualClock, SystemClock


def test_a_manual_clock_moves_when_told() -> None:
    clock = ManualClock(start_ms=1_000)
    assert (clock.now_ms(), clock.monotonic_s()) == (1_000, 0.0)
    clock.advance(ms=250)
    clock.advance(ms=0)
    assert (clock.now_ms(), clock.monotonic_s()) == (1_250, 0.25)


def test_a_manual_clock_cannot_go_back() -> None:
    clock = ManualClock()
    with pytest.raises(ValueError, match="cannot be moved back"):
        clock.advance(ms=-1)


def test_the_machines_clock() -> None:
    clock: Clock = SystemClock()
    first = clock.monotonic_s()
    assert clock.now_ms() > 1_700_000_000_000  # milliseconds, not seconds
    assert clock.monotonic_s() >= first
