"""Metrics of all jobs as Prometheus text.

It turns what ``status`` tells into text and keeps nothing. Times are in seconds. It asks no job
itself, and a name here is what dashboards and alarms of users go by: it stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_API_COUNTERS = {
    "wrong_tokens": "Requests to the API with a wrong token.",
    "silent_connections": "Connections to the API that were ended because nothing came of them.",
}
_TASK = ["job", "node", "index"]
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
    "duration_s": ("duration_seconds", "From trigger to manifest, of the last checkpoint."),
    "size_bytes": ("size_bytes", "Size of the last checkpoint."),
    "age_s": ("age_seconds", "Since the last checkpoint."),
}


class _Jobs(Collector):
    def __init__(self, jobs: Iterable[dict[str, Any]], counts: Mapping[str, int]) -> None:
        self._jobs = list(jobs)
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        for name, count in self._counts.items():
            yield CounterMetricFamily(f"streamline_{name}", _API_COUNTERS[name], count)
        up = GaugeMetricFamily("streamline_job_state", "1 for its state.", labels=["job", "state"])
        restarts = CounterMetricFamily("streamline_restarts", "Restarts.", labels=["job"])
        refused = CounterMetricFamily("streamline_refused", "Strangers refused.", labels=["job"])
        for job in self._jobs:
            up.add_metric([job["id"], job["state"]], 1)
            restarts.add_metric([job["id"]], job["restarts"])
            refused.add_metric([job["id"]], job["refused"])
        yield from (up, restarts, refused)
        yield from self._checkpoints()
        yield from self._tasks()
        yield from self._nodes()

    def _checkpoints(self) -> Iterator[Metric]:
        for key, (name, text) in _CHECKPOINT_GAUGES.items():
            family = GaugeMetricFamily(f"streamline_checkpoint_{name}", text, labels=["job"])
            for job in self._jobs:
                if job["last_checkpoint"] is not None:
                    family.add_metric([job["id"]], job["last_checkpoint"][key])
            yield family

    def _tasks(self) -> Iterator[Metric]:
        kinds: list[tuple[type[CounterMetricFamily | GaugeMetricFamily], dict[str, str]]] = [
            (CounterMetricFamily, _TASK_COUNTERS | _TASK_TIMES),
            (GaugeMetricFamily, _TASK_GAUGES | _TASK_SECONDS),
        ]
        for kind, named in kinds:
            for key, text in named.items():
                name = f"{key[:-2]}_seconds" if key.endswith("_s") else key
                family = kind(f"streamline_task_{name}", text, labels=_TASK)
                for job, task in self._all_tasks():
                    if task[key] is not None:
                        family.add_metric([job["id"], task["node"], str(task["index"])], task[key])
                yield family
        family = GaugeMetricFamily(
            "streamline_task_watermark_seconds", "Event time a task has reached.", labels=_TASK
        )
        for job, task in self._all_tasks():
            if task["watermark"] is not None:
                labels = [job["id"], task["node"], str(task["index"])]
                family.add_metric(labels, task["watermark"] / 1000)
        yield family

    def _nodes(self) -> Iterator[Metric]:
        for key, text in _NODE_COUNTERS.items():
            family = CounterMetricFamily(f"streamline_node_{key}", text, labels=["job", "node"])
            for job in self._jobs:
                for node, counted in job["counters"].items():
                    family.add_metric([job["id"], node], counted.get(key, 0))
            yield family

    def _all_tasks(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        for job in self._jobs:
            for task in job["tasks"]:
                yield job, task


def as_text(jobs: Iterable[dict[str, Any]], counts: Mapping[str, int] | None = None) -> bytes:
    """What is told of jobs (see ``Daemon.describe``), for Prometheus.

    Args:
        jobs: The jobs.
        counts: ``wrong_tokens`` and ``silent_connections`` of the API, if they are to be told.
    """
    registry = CollectorRegistry()
    registry.register(_Jobs(jobs, counts or {}))
    return generate_latest(registry)
