"""What a person sees of jobs: tables on a terminal, plain text elsewhere.

It gets plain values, as the API tells them, and prints them. It calls no cluster and knows no
command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamline.plural import counted

Row = tuple[str, ...]
_STYLES = {"running": "green", "finished": "green", "failed": "red", "canceled": "dim"}
_STYLES |= {"stopped": "dim", "ended": "dim", "lost": "red"} | dict.fromkeys(
    ("waiting", "starting", "recovering", "rescaling", "stopping"), "yellow"
)
_NUMBERS = frozenset(("parallelism", "records in", "in", "out", "restarts", "worker", "pid"))
_PARTS = ("busy", "idle", "backpressured")


def show_jobs(jobs: Sequence[dict[str, Any]]) -> None:
    """Jobs, one a line."""
    rows = []
    for job in jobs:
        counts = (f"{job['records_in']:,}", f"{job['records_out']:,}", str(job["restarts"]))
        at = _time(job["submitted_ms"])
        rows.append((job["id"], job["name"], job["state"], str(job["parallelism"]), *counts, at))
    head = ("id", "name", "state", "parallelism", "records in", "out", "restarts", "submitted")
    show_table(head, rows)


def show_job(job: dict[str, Any]) -> None:
    """A job: its facts, its tasks and its workers."""
    _line(f"{job['id']}  {job['name']}  ", job["state"])
    facts = f"parallelism {job['parallelism']}, up {job['uptime_s']:.0f} s, "
    facts += f"{counted(job['restarts'], 'restart')}, {counted(job['records_in'], 'record')} in, "
    print(facts + f"{job['records_out']:,} out")
    done = job["last_checkpoint"]
    if done is not None:
        print(
            f"checkpoint {done['epoch']}: {done['age_s']:.1f} s ago, took "
            f"{done['duration_s']:.2f} s, {counted(done['size_bytes'], 'byte')}"
        )
    if job["last_error"]:
        print(f"last error: {job['last_error']}")
    if job["tasks"]:
        print()
        head = ("task", "state", "worker", "in", "out", "watermark", "busy", "idle", "blocked")
        show_table(head, [_task(task) for task in job["tasks"]])
    if job["workers"]:
        print()
        workers = [
            (str(one["id"]), "-" if one["pid"] is None else str(one["pid"]), one["state"])
            for one in job["workers"]
        ]
        show_table(("worker", "pid", "state"), workers)


def show_table(head: Row, rows: Sequence[Row]) -> None:
    """Rows below a head; never wrapped or cut, as ids are there to be copied."""
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for row in (head, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print("  ".join(cells).rstrip())
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in head:
        table.add_column(name, no_wrap=True, justify="right" if name in _NUMBERS else "left")
    for row in rows:
        table.add_row(
            *(
                Text(cell, _STYLES.get(cell, "") if name == "state" else "")
                for name, cell in zip(head, row, strict=True)
            )
        )
    console = Console(highlight=False)
    wide = console.options.update(max_width=10_000)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)


def _line(text: str, state: str) -> None:
    if sys.stdout.isatty():
        Console(highlight=False, soft_wrap=True).print(
            Text.assemble((text, "bold"), (state, _STYLES.get(state, "")))
        )
    else:
        print(text + state)


def _task(task: dict[str, Any]) -> Row:
    name = f"{task['node']}[{task['index']}]"
    counts = (f"{task['records_in']:,}", f"{task['records_out']:,}")
    reached = "-" if task["watermark"] is None else _time(task["watermark"])
    parts = tuple(f"{task[part]:.0%}" for part in _PARTS)
    return (name, task["state"], str(task["worker"]), *counts, reached, *parts)


def _time(ms: int) -> str:
    with suppress(OverflowError, OSError, ValueError):
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "seconds")
    return "-"
