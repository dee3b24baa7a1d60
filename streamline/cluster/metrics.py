"""Metrics of all jobs as Prometheus text.

It turns what ``status`` tells into text and keeps nothing. Times are in seconds. It asks no job
itself, and a name here is what dashboards and alarms of users go by: it stays. The text is put
together here, not by a client library, which took ten times as long for the tasks of twenty jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_API_COUNTERS = {
    "wrong_tokens": "Requests to the API with a wrong token.",
    "silent_connections": "Connections to the API that were ended because nothing came of them.",
}
_TASK_COUNTERS = {
    "records_in": "Records a task has taken.",
    "records_out": "Records a task has handed on.",
    "bytes_in": "Bytes a task has read from outside, or received, as credits count them.",
    "bytes_out": "Bytes a task has written to outside, or sent, as credits count them.",
}
_TASK_GAUGES = {
    "busy": "Part of its time that a task worked.",
    "idle": "Part of its time that a task waited for input.",
    "backpressured": "Part of its time that a task waited for those behind it.",
    "credits": "Batches that a task may send before it has to wait.",
    "credits_limit": "Batches that a task may send when all behind it have caught up.",
    "state_entries": "Entries of keyed state that a task holds in memory.",
    "state_bytes": "Keyed state of a task in its last checkpoint.",
    "source_lag": "Records that are there and that a source task has not read yet.",
    "source_lag_bytes": "Bytes that are there and that a source task has not read yet.",
}
_TASK_TIMES = {
    "busy_s": "Time that a task has worked.",
    "idle_s": "Time that a task has waited for input.",
    "backpressured_s": "Time that a task has waited for those behind it.",
}
_TASK_SECONDS = {
    "alignment_s": "From the first to the last barrier of the last checkpoint.",
    "watermark_lag_s": "How far the event time of a task is behind the clock.",
}
_NODE_COUNTERS = {
    "late": "Records that came too late for their windows.",
    "future": "Records too far ahead of the clock to move the watermark.",
    "skipped": "Records left out because of an error.",
    "dead_letters": "Records sent to dead letters.",
}
_CHECKPOINT_GAUGES = {
    "duration_s": "From trigger to manifest, of the last checkpoint.",
    "size_bytes": "Size of the last checkpoint.",
    "age_s": "Since the last checkpoint.",
}
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def as_text(jobs: Iterable[dict[str, Any]], counts: Mapping[str, int] | None = None) -> bytes:
    """What is told of jobs (see ``Daemon.describe``), for Prometheus.

    The format is that of text version 0.0.4: all samples of a metric stand together, behind two
    lines that say what it is.

    Args:
        jobs: The jobs.
        counts: ``wrong_tokens`` and ``silent_connections`` of the API, if they are to be told.
    """
    jobs = list(jobs)
    lines: list[str] = []
    for key, count in (counts or {}).items():
        lines += _family(f"{key}_total", "counter", _API_COUNTERS[key], [("", count)])
    lines += _of_jobs(jobs)
    tasks = [
        (_labels(job=job["id"], node=task["node"], index=task["index"]), task)
        for job in jobs
        for task in job["tasks"]
    ]
    for key, text in (_TASK_COUNTERS | _TASK_TIMES).items():
        lines += _family(f"task_{_in_seconds(key)}_total", "counter", text, _values(tasks, key))
    for key, text in (_TASK_GAUGES | _TASK_SECONDS).items():
        lines += _family(f"task_{_in_seconds(key)}", "gauge", text, _values(tasks, key))
    reached = [(labels, at_ms / 1000) for labels, at_ms in _values(tasks, "watermark")]
    text = "Event time a task has reached."
    lines += _family("task_watermark_seconds", "gauge", text, reached)
    nodes = [
        (_labels(job=job["id"], node=node), counted)
        for job in jobs
        for node, counted in job["counters"].items()
    ]
    for key, text in _NODE_COUNTERS.items():
        found = [(labels, counted.get(key, 0)) for labels, counted in nodes]
        lines += _family(f"node_{key}_total", "counter", text, found)
    lines.append("")
    return "\n".join(lines).encode()


def _of_jobs(jobs: list[dict[str, Any]]) -> list[str]:
    ids = [(_labels(job=job["id"]), job) for job in jobs]
    states = [(_labels(job=job["id"], state=job["state"]), 1) for job in jobs]
    lines = _family("job_state", "gauge", "1 for its state.", states)
    lines += _family("restarts_total", "counter", "Restarts.", _values(ids, "restarts"))
    lines += _family("refused_total", "counter", "Strangers refused.", _values(ids, "refused"))
    last = [(labels, job["last_checkpoint"]) for labels, job in ids if job["last_checkpoint"]]
    for key, text in _CHECKPOINT_GAUGES.items():
        lines += _family(f"checkpoint_{_in_seconds(key)}", "gauge", text, _values(last, key))
    return lines


def _values(told: list[tuple[str, dict[str, Any]]], key: str) -> list[tuple[str, float]]:
    """One thing that is told of each; nothing where it is not known."""
    return [(labels, one[key]) for labels, one in told if one[key] is not None]


def _in_seconds(key: str) -> str:
    return f"{key[:-2]}_seconds" if key.endswith("_s") else key


def _labels(**labels: object) -> str:
    inside = ",".join(f'{name}="{str(text).translate(_ESCAPES)}"' for name, text in labels.items())
    return f"{{{inside}}}"


def _family(name: str, kind: str, text: str, samples: Sequence[tuple[str, float]]) -> list[str]:
    """The lines of a metric; it is named even where there is no sample of it yet."""
    name = f"streamline_{name}"
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    lines += [f"{name}{labels} {value}" for labels, value in samples]
    return lines
