"""Settings of a run and the one place where durations and sizes are parsed.

``RuntimeConfig`` is a frozen value that reaches every engine and task. It says how a job is run,
never what it does; settings of a connector or of the cluster are theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from streamline.errors import UsageError

Duration = timedelta | str
"""A ``timedelta`` or text such as ``"500ms"``, ``"10s"``, ``"5m"``, ``"1h"``, ``"1d"``."""

CHECKS_VARIABLE = "STREAMLINE_CHECK_INVARIANTS"
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_UNIT_BYTES = {
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(kB|MB|GB|KiB|MiB|GiB)\s*")
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*")


def duration_ms(value: Duration, what: str = "duration") -> int:
    """Parse a duration to whole milliseconds.

    Args:
        value: A ``timedelta``, or a number with a unit: ms, s, m, h or d.
        what: The parameter's name, for the error message.

    Raises:
        UsageError: If it is not a duration, negative, or not a whole number of milliseconds.

    >>> duration_ms("1.5s"), duration_ms(timedelta(minutes=2))
    (1500, 120000)
    """
    if isinstance(value, timedelta):
        ms = value / timedelta(milliseconds=1)
    else:
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise UsageError(
                f"{what}={value!r} is not a duration; write a timedelta or a number with a unit, "
                'such as "500ms", "10s", "5m", "1h" or "1d"'
            )
        ms = float(Decimal(match[1]) * _UNIT_MS[match[2]])
    if ms < 0 or ms != int(ms):
        raise UsageError(f"{what}={value!r} must be zero or a positive whole number of ms")
    return int(ms)


def positive_duration_ms(value: Duration, what: str) -> int:
    """Like :func:`duration_ms`, but zero is refused too.

    Raises:
        UsageError: As :func:`duration_ms`, and for zero.

    >>> positive_duration_ms("10s", "gap")
    10000
    """
    ms = duration_ms(value, what)
    if ms == 0:
        raise UsageError(f"{what}={value!r} must be longer than zero")
    return ms


def size_bytes(text: str, what: str) -> int:
    """Parse a size: a number with a unit.

    Raises:
        UsageError: If it is none, or zero.

    >>> size_bytes("512MiB", "limit"), size_bytes("1.5 GB", "limit")
    (536870912, 1500000000)
    """
    match = _SIZE.fullmatch(text)
    size = int(Decimal(match[1]) * _UNIT_BYTES[match[2]]) if match is not None else 0
    if not size:
        raise UsageError(
            f'{what}={text!r} is not a size; write a number with a unit, such as "512MiB" or "2GiB"'
        )
    return size


def checks_wanted(environment: Mapping[str, str]) -> bool:
    """Whether an environment asks for ``RuntimeConfig.check_invariants``.

    >>> checks_wanted({CHECKS_VARIABLE: "1"}), checks_wanted({CHECKS_VARIABLE: "0"})
    (True, False)
    """
    return environment.get(CHECKS_VARIABLE, "").lower() not in ("", "0", "false", "no", "off")


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """How a job is run; the same object reaches every engine and task.

    Attributes:
        batch_rows: Most records in one batch from a source.
        channel_batches: Credits of a channel, in batches.
        channel_bytes: Credits of a channel, in bytes; a larger batch passes alone.
        max_frame_bytes: Largest frame accepted from a socket.
        checkpoint_every_ms: From one trigger to the next; None turns checkpoints off.
        checkpoint_timeout_ms: A checkpoint not complete by then is aborted.
        checkpoint_min_pause_ms: At least so long between an end and the next trigger.
        tolerable_checkpoint_failures: So many in a row do not fail the job.
        retained_checkpoints: Completed checkpoints kept.
        table_entries: Entries of keyed state held in memory by one task.
        flush_slice_entries: Entries written to disk between two batches after a barrier.
        check_invariants: Assert the rules of docs/ARCHITECTURE.md while running.
        restart_initial_ms, restart_max_ms: Backoff before a restart: first, and longest.
        restart_budget, restart_window_ms: More restarts than that in the window fail the job.
        task_timeout_ms: Deploying is repeated when not confirmed by then.
        allow_dropped_state: Stored state that the job has no place for may be given up.
        worker_memory_bytes: A worker process that holds more is ended, and begun anew.

    >>> RuntimeConfig(checkpoint_every_ms=500, check_invariants=True).batch_rows
    4096
    """

    batch_rows: int = 4096
    channel_batches: int = 2
    channel_bytes: int = 8 << 20
    max_frame_bytes: int = 256 << 20
    checkpoint_every_ms: int | None = 1_000
    checkpoint_timeout_ms: int = 600_000
    checkpoint_min_pause_ms: int = 0
    tolerable_checkpoint_failures: int = 3
    retained_checkpoints: int = 2
    table_entries: int = 1_000_000
    flush_slice_entries: int = 500
    check_invariants: bool = False
    restart_initial_ms: int = 200
    restart_max_ms: int = 30_000
    restart_budget: int = 10
    restart_window_ms: int = 600_000
    task_timeout_ms: int = 60_000
    allow_dropped_state: bool = False
    worker_memory_bytes: int | None = None
