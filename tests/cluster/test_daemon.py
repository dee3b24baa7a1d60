"""The daemon's own books, without processes: what it removes, and how often it writes all anew."""

import asyncio

from streamline.clock import SystemClock
from streamline.cluster.daemon import Daemon
from streamline.cluster.jobs import JobOptions, JobRecord, ended, submitted
from streamline.cluster.journal import Journal
from streamline.coordinator.lifecycle import JobState
from streamline.errors import StateError


def record(number):
    return JobRecord(f"job-{number}", "job", "job.py", "job", {}, JobOptions(), 5)


async def test_what_a_journal_that_was_lost_knew_of_is_left_alone(tmp_path):
    for name in ("a/state/checkpoints", "b", "unfinished/src"):
        (tmp_path / "jobs" / name).mkdir(parents=True)
    (tmp_path / "jobs/b/job.json").write_text("{}")
    said = []
    daemon = Daemon(tmp_path, SystemClock(), say=said.append)
    daemon.start()
    await daemon.close(suspend=False)
    assert {path.name for path in (tmp_path / "jobs").iterdir()} == {"a", "b"}
    assert sorted(said) == [
        f"{tmp_path / 'jobs' / name} is of no job that the journal knows; it is left as it is"
        for name in ("a", "b")
    ]


async def test_an_answer_that_cannot_be_noted_is_noted_later(tmp_path, monkeypatch):
    """What was asked of a job that has ended since, on a disk that is full for a while."""
    monkeypatch.setattr("streamline.cluster.daemon._PAUSE_S", 0.001)
    said = []
    daemon = Daemon(tmp_path, SystemClock(), say=said.append)
    daemon._note(submitted(record(1)))
    daemon._note(ended("job-1", JobState.STOPPED, at_ms=9, status={}))
    asked = {"id": "op-1", "job": "job-1", "verb": "stop", "arguments": {}}
    daemon._note({"kind": "asked", "operation": asked})
    append, full = daemon._journal.append, [True, True]

    def failing(entry):
        if full:
            full.pop()
            raise StateError("the journal cannot be written: No space left on device")
        append(entry)

    monkeypatch.setattr(daemon._journal, "append", failing)
    daemon.start()
    await asyncio.gather(*daemon._operations.values())
    assert daemon.jobs.operations["op-1"].state == "failed"
    assert said == ["stop job-1: the journal cannot be written: No space left on device; trying "
                    "again"] * 2  # fmt: skip
    await daemon.close(suspend=False)


async def test_the_journal_is_made_smaller_now_and_then_not_at_every_entry(tmp_path, monkeypatch):
    monkeypatch.setattr("streamline.cluster.daemon._COMPACT_BYTES", 20_000)
    replaced = []
    replace = Journal.replace

    def counted(self, entries):
        replaced.append(1)
        replace(self, entries)

    monkeypatch.setattr(Journal, "replace", counted)
    daemon = Daemon(tmp_path, SystemClock())
    for number in range(1_000):
        daemon._note(submitted(record(number)))
    assert 1 <= len(replaced) <= 8
    await daemon.close(suspend=False)
