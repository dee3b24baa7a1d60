"""What is told of a job, as plain values.

The shape that ``status --json``, the API and the metrics share. It computes from a ``JobStatus``
and the time, and asks nobody.
"""

from __future__ import annotations

from typing import Any

from streamline.coordinator.status import JobStatus
from streamline.messages import MAX_TIMESTAMP, MIN_TIMESTAMP


def describe(status: JobStatus, *, now_ms: int, began_ms: int, last_error: str) -> dict[str, Any]:
    """A job at a moment, as ``status --json`` shows it.

    Args:
        status: As its engine tells it.
        now_ms: The time.
        began_ms: When its process began.
        last_error: The last warning or error there was.
    """
    done = status.checkpoint
    return {
        "state": str(status.state),
        "parallelism": status.parallelism,
        "generation": status.generation,
        "restarts": status.restarts,
        "uptime_s": (now_ms - began_ms) / 1000,
        "records_in": status.records_in,
        "records_out": status.records_out,
        "last_checkpoint": None
        if done is None
        else {
            "epoch": done.epoch,
            "duration_s": done.duration_ms / 1000,
            "size_bytes": done.size_bytes,
            "age_s": (now_ms - done.ended_ms) / 1000,
        },
        "tasks": [
            _task(status, task, worker, now_ms=now_ms)
            for task, worker in sorted(status.placement.items())
        ],
        "workers": [
            {"id": worker, "pid": status.workers.get(worker), "state": str(state)}
            for worker, state in sorted(status.worker_states.items())
        ],
        "counters": status.counters,
        "refused": status.refused,
        "last_error": last_error,
    }


def _task(status: JobStatus, task: str, worker: int, *, now_ms: int) -> dict[str, Any]:
    node, _, index = task.removesuffix("]").rpartition("[")
    counted = status.tasks.get(task, {})
    up_ms = max(1, counted.get("up_ms", 0))
    idle = counted.get("idle_ms", 0) / up_ms
    blocked = counted.get("backpressured_ms", 0) / up_ms
    watermark = counted.get("watermark", MIN_TIMESTAMP)
    reached = watermark if MIN_TIMESTAMP < watermark < MAX_TIMESTAMP else None
    return {
        "node": node,
        "index": int(index),
        "state": str(status.task_states[task]),
        "worker": worker,
        "records_in": counted.get("records_in", 0),
        "records_out": counted.get("records_out", 0),
        "bytes_in": counted.get("bytes_in", 0),
        "bytes_out": counted.get("bytes_out", 0),
        "watermark": reached,
        "busy": round(max(0.0, 1 - idle - blocked), 3) if counted else 0.0,
        "idle": round(min(1.0, idle), 3),
        "backpressured": round(min(1.0, blocked), 3),
        **_seconds(counted),
        "watermark_lag_s": None if reached is None else (now_ms - reached) / 1000,
        "alignment_s": counted.get("alignment_ms", 0) / 1000,
        "credits": counted.get("credits", 0),
        "credits_limit": counted.get("credits_limit", 0),
        "state_entries": counted.get("state_entries", 0),
        "state_bytes": counted.get("state_bytes", 0),
        "source_lag": counted.get("source_lag"),
        "source_lag_bytes": counted.get("source_lag_bytes"),
    }


def _seconds(counted: dict[str, int]) -> dict[str, float]:
    """What a task has done with its time since its attempt began."""
    idle, blocked = counted.get("idle_ms", 0), counted.get("backpressured_ms", 0)
    busy = max(0, counted.get("up_ms", 0) - idle - blocked)
    return {"busy_s": busy / 1000, "idle_s": idle / 1000, "backpressured_s": blocked / 1000}
