"""What a person sees while a job runs: one line on a terminal, plain lines elsewhere.

It reads a ``JobStatus`` that an engine keeps up to date, and works out rates. A terminal that is
gone ends the line, never the job.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from streamline.cli.streams import silence, tell
from streamline.coordinator.status import JobStatus
from streamline.plural import counted

_TERMINAL_EVERY_S = 0.2
_PIPE_EVERY_S = 5.0
_OLD_S = 86_400


class ProgressLine:
    """Shows a job's status on standard error from time to time.

    Args:
        status: The status, kept up to date by the engine.
        now_s: The time, for rates.
    """

    def __init__(self, status: JobStatus, now_s: Callable[[], float] = time.monotonic) -> None:
        self._status = status
        self._now_s = now_s
        self._console = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._began_s = now_s()
        self._last: tuple[float, int] = (self._began_s, 0)
        self._rate = 0.0

    @property
    def every_s(self) -> float:
        """How often ``show`` is to be called."""
        return _TERMINAL_EVERY_S if self._console.is_terminal else _PIPE_EVERY_S

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(Text(""), console=self._console, transient=True, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self) -> None:
        """Show how things stand."""
        line = self._line()
        if self._live is not None:
            self._refresh(line)
        else:
            self.say("info", line)

    def say(self, level: str, text: str) -> None:
        """Print a line that stays."""
        if self._live is None:
            tell(f"{level}: {text}")
            return
        style = {"warning": "yellow", "error": "red"}.get(level, "")
        try:
            self._console.print(Text(text, style=style))
        except OSError:
            silence(2)  # the terminal is gone; the job goes on

    def _refresh(self, line: str) -> None:
        assert self._live is not None
        try:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
        except OSError:
            silence(2)

    def _line(self) -> str:
        status, now = self._status, self._now_s()
        then, before = self._last
        if now > then:
            rate = max(0, status.records_in - before) / (now - then)
            self._rate = rate if self._rate == 0 else 0.6 * self._rate + 0.4 * rate
            self._last = (now, status.records_in)
        parts = [
            f"{status.name} {status.state}",
            f"{counted(status.records_in, 'record')} in ({self._rate:,.0f}/s)",
            f"{status.records_out:,} out",
        ]
        parts += side_counts(status)
        if status.watermark is not None:
            parts.append(_event_time(status.watermark))
        done = status.checkpoint
        if done is not None:
            age_s = max(0.0, time.time() - done.ended_ms / 1000)
            parts.append(f"checkpoint {done.epoch} ({done.duration_ms} ms, {age_s:.0f} s ago)")
        return " | ".join(parts)


def _event_time(watermark_ms: int) -> str:
    """How far behind the clock event time is; of old data, where it stands."""
    lag_s = time.time() - watermark_ms / 1000
    if abs(lag_s) < _OLD_S:
        return f"lag {lag_s:.1f} s"
    try:
        at = datetime.fromtimestamp(watermark_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"event time {watermark_ms} ms"
    return f"event time {at:%Y-%m-%d %H:%M:%S}"


def side_counts(status: JobStatus) -> list[str]:
    """What went another way than the rest, if anything did."""
    late, future = status.total("late"), status.total("future")
    skipped, dead = status.total("skipped"), status.total("dead_letters")
    return [
        *([f"{late:,} late"] if late else []),
        *([f"{skipped:,} skipped"] if skipped else []),
        *([counted(dead, "dead letter")] if dead else []),
        *([f"{future:,} too far ahead in time"] if future else []),
    ]
