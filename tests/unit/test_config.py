"""Durations, and the defaults of a run."""

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from streamline.config import RuntimeConfig, duration_ms, positive_duration_ms
from streamline.errors import UsageError


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("500ms", 500),
        ("10s", 10_000),
        ("5m", 300_000),
        ("1h", 3_600_000),
        ("1d", 86_400_000),
        ("1.5s", 1_500),
        (" 2 s ", 2_000),
        ("0ms", 0),
        ("0.1s", 100),
        ("0.3s", 300),
        ("1.001s", 1_001),
        (timedelta(minutes=2), 120_000),
        (timedelta(microseconds=1_000), 1),
        (timedelta(0), 0),
    ],
)
def test_durations(value: Any, ms: int) -> None:
    found = duration_ms(value)
    assert (found, type(found)) == (ms, int)


def test_every_whole_number_of_ms_can_be_written_in_seconds() -> None:
    for ms in range(10_000):
        assert duration_ms(f"{ms // 1000}.{ms % 1000:03}s") == ms


@pytest.mark.parametrize(
    "value", ["", "5", "s", "5 minutes", "-5s", "1e3s", "5S", "1s 2s", 5, 5.0, None, b"5s", "٣"]
)
def test_what_is_no_duration_is_refused_with_an_example(value: Any) -> None:
    with pytest.raises(UsageError, match=r'idle_after=.* is not a duration.*"500ms"'):
        duration_ms(value, "idle_after")


@pytest.mark.parametrize("value", ["0.5ms", "0.0001s", timedelta(microseconds=1), -timedelta(1)])
def test_parts_of_a_millisecond_and_the_past_are_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="whole number of ms"):
        duration_ms(value)


@pytest.mark.parametrize("value", ["0s", timedelta(0)])
def test_zero_is_not_positive(value: Any) -> None:
    assert positive_duration_ms("1ms", "gap") == 1
    with pytest.raises(UsageError, match="gap=.* longer than zero"):
        positive_duration_ms(value, "gap")


def test_settings_are_frozen_and_documented() -> None:
    config = RuntimeConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.batch_rows = 1  # type: ignore[misc]
    for field in dataclasses.fields(config):
        assert field.name in (RuntimeConfig.__doc__ or ""), field.name
