"""Jobs: a fold over entries; what cannot be done with a job is refused."""

import json
from dataclasses import asdict, replace

import pytest

from streamline.cluster.jobs import (
    JobOptions,
    JobRecord,
    Jobs,
    Operation,
    OtherBodyError,
    UnknownJobError,
    WrongStateError,
    ended,
    submitted,
)
from streamline.coordinator.lifecycle import JobState


def record(number=1, name="spend", key=""):
    return JobRecord(f"job-{number}", name, "job.py", "job", {"a": "1"}, JobOptions(), 5, key)


def asked(number, verb="stop", job="job-1"):
    return {"kind": "asked", "operation": asdict(Operation(f"op-{number}", job, verb, {}))}


def of(*entries):
    jobs = Jobs()
    for entry in entries:
        jobs.apply(entry)
    return jobs


def finished(number=1, state=JobState.FINISHED):
    return ended(
        f"job-{number}",
        state,
        at_ms=9,
        status={"records_in": 7},
        reason="because",
        trace="trace",
    )


def test_the_fewest_entries_give_the_same():
    options = {"kind": "options", "id": "job-2", "options": asdict(JobOptions(parallelism=4))}
    jobs = of(
        submitted(record(1)),
        submitted(record(2, key="k")),
        asked(1),
        options,
        asked(2, "rescale", "job-2"),
        {"kind": "answered", "id": "op-1", "result": {"state": "finished"}, "error": ""},
        finished(1),
    )
    again = of(*jobs.entries())
    assert again.jobs == jobs.jobs
    assert again.operations == jobs.operations
    assert jobs.jobs["job-1"].state is JobState.FINISHED
    assert jobs.jobs["job-2"].options.parallelism == 4
    assert [one.id for one in jobs.pending("job-2")] == ["op-2"]
    assert jobs.pending("job-1") == []
    assert jobs.submitted_with("k").id == "job-2"
    assert jobs.submitted_with("") is None


def test_found_by_id_or_name():
    jobs = of(submitted(record(1)), finished(1), submitted(record(2)))
    assert jobs.find("job-1").id == "job-1"
    assert jobs.find("spend").id == "job-2"  # the one that lives
    jobs.apply(finished(2))
    assert jobs.find("spend").id == "job-2"  # the newest
    with pytest.raises(UnknownJobError, match="there is no job 'other'"):
        jobs.find("other")
    jobs = of(submitted(record(1)), submitted(record(2)))
    with pytest.raises(UnknownJobError, match="several jobs are named 'spend': job-1, job-2; give"):
        jobs.find("spend")


def test_what_cannot_be_done_now():
    jobs = of(submitted(record()))
    job = jobs.find("job-1")
    for verb in ("stop", "cancel", "savepoint", "rescale"):
        jobs.check(job, verb)
    jobs.apply(asked(1, "rescale"))
    with pytest.raises(WrongStateError, match="being rescaled already"):
        jobs.check(job, "rescale")
    jobs.check(job, "savepoint")
    jobs.apply(asked(2, "stop"))
    for verb in ("stop", "savepoint"):
        with pytest.raises(WrongStateError, match="is being ended already"):
            jobs.check(job, verb)
    jobs.check(job, "cancel")
    jobs.apply(finished(1, JobState.STOPPED))
    with pytest.raises(WrongStateError, match="'job-1' is stopped: there is nothing to cancel"):
        jobs.check(job, "cancel")


def test_old_operations_are_forgotten_but_not_what_is_pending():
    jobs = of(submitted(record()), asked("pending"))
    for number in range(100):
        jobs.apply(asked(number, "savepoint"))
        jobs.apply({"kind": "answered", "id": f"op-{number}", "result": {}, "error": "no"})
    assert "op-pending" in jobs.operations
    assert 50 <= len(jobs.operations) <= 52
    assert jobs.operations["op-99"].state == "failed"


def test_of_ended_jobs_little_is_remembered():
    """There may be thousands, in memory, in the journal and in answers."""
    jobs = of(submitted(record()))
    for number in range(100):
        jobs.apply(asked(number, "savepoint"))
        jobs.apply({"kind": "answered", "id": f"op-{number}", "result": {}, "error": ""})
    task = {"node": "n", "index": 0}
    status = {"records_in": 7, "tasks": [task] * 1_000, "workers": [{}] * 1_000}
    status["last_error"] = reason = "x" * 100_000
    jobs.apply(
        ended("job-1", JobState.FAILED, at_ms=9, status=status, reason=reason, trace="t" * 100_000)
    )
    job = jobs.jobs["job-1"]
    assert (job.last_status["records_in"], job.last_status["tasks"]) == (7, [])
    assert job.params == {}
    assert len(jobs.operations) == 10
    assert "op-99" in jobs.operations
    size = sum(len(json.dumps(entry)) for entry in jobs.entries())
    assert size < 30_000
    # And of what an older version has written.
    old = submitted(record(2))
    old["job"] |= {"state": "failed", "last_status": status}
    del old["job"]["digest"]
    jobs.apply(old)
    assert jobs.jobs["job-2"].last_status["tasks"] == []


def test_a_key_with_something_else():
    jobs = of(submitted(replace(record(key="k"), digest="one")))
    assert jobs.submitted_with("k", "one").id == "job-1"
    with pytest.raises(OtherBodyError, match="'k' was given before, with what became job 'job-1'"):
        jobs.submitted_with("k", "two")
    old = submitted(record(key="k"))
    del old["job"]["digest"]  # an older version did not know of it
    assert of(old).submitted_with("k", "two").id == "job-1"


def test_removed():
    jobs = of(submitted(record(1)), submitted(record(2)), asked(1), finished(2))
    assert jobs.removable("job-2").id == "job-2"
    with pytest.raises(UnknownJobError, match="several jobs are named 'spend': job-1, job-2"):
        jobs.removable("spend")
    with pytest.raises(WrongStateError, match="'job-1' has not ended: stop or cancel it before"):
        jobs.removable("job-1")
    jobs.apply(finished(1))
    with pytest.raises(WrongStateError, match="has not ended"):
        jobs.removable("job-1")  # something is still to be answered
    jobs.apply({"kind": "answered", "id": "op-1", "result": {}, "error": ""})
    jobs.apply({"kind": "removed", "id": jobs.removable("job-1").id})
    again = of(*jobs.entries())
    for one in (jobs, again):
        assert list(one.jobs) == ["job-2"]
        assert one.operations == {}
        assert list(one.removed) == ["job-1"]
    jobs.apply({"kind": "cleared", "id": "job-1"})
    assert of(*jobs.entries()).removed == {}


def test_an_entry_of_another_kind():
    with pytest.raises(KeyError, match="unknown"):
        of({"kind": "unknown"})
