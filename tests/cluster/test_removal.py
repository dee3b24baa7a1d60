"""Jobs that have ended are removed: what is ours goes, what is the user's stays."""

import json
from dataclasses import replace

import httpx
import pytest

from streamline.clock import SystemClock
from streamline.cluster.daemon import Daemon
from streamline.cluster.jobs import JobOptions, JobRecord, WrongStateError, ended, submitted
from streamline.coordinator.lifecycle import JobState
from streamline.state.manifest import Manifest
from streamline.state.store import DirectoryStore
from tests.cluster.running import JOBS, Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def ended_job(cluster, output):
    job = cluster.submit(JOBS / "paced.py", {"output": str(output), "count": "97"})
    cluster.until(job, lambda found: found["state"] == "finished")
    return job


def stopped(cluster, **body):
    """A job, and where its savepoint is."""
    job = cluster.endless("--checkpoint-every", "200ms")
    asked = cluster.http.post(f"/v1/jobs/{job}/stop", json=body).json()
    cluster.until(job, lambda found: found["state"] == "stopped")
    while (asked := cluster.http.get(f"/v1/operations/{asked['id']}").json())["state"] == "pending":
        pass
    return job, asked["result"]["path"]


def test_what_is_ours_goes_and_what_is_the_users_stays(cluster, tmp_path):
    job, saved = stopped(cluster, savepoint=str(tmp_path / "saved"))
    refused = cluster.http.post(f"/v1/jobs/{job}/stop", json={"savepoint": "relative"})
    assert "give the whole path of a folder" in refused.json()["detail"]
    folder = cluster.data / "jobs" / job
    assert (folder / "state" / "checkpoints").is_dir()
    assert json.loads(cluster.ok("remove", job, "--json")) == {"id": job}
    assert not folder.exists()
    assert (tmp_path / "saved" / "1").parent.is_dir()
    assert "there is no job" in cluster.refused("remove", job)
    # Begun from what was saved of it, which is whole.
    params = {"output": str(tmp_path / "out"), "count": "100000000"}
    again = cluster.submit(JOBS / "paced.py", params, origin=saved)
    cluster.records(again, 1)
    refused = cluster.http.delete(f"/v1/jobs/{again}")
    assert refused.status_code == 409
    assert refused.json()["detail"] == (
        f"job {again!r} has not ended: stop or cancel it before it is removed"
    )
    cluster.ok("cancel", again)
    said = cluster.run("remove", again)
    assert said == (0, "", f"streamline: job {again} is removed\n")


def test_its_output_is_not_touched(cluster, tmp_path):
    """Also not where it was told to write beside its code: then nothing is removed at all."""
    first = ended_job(cluster, tmp_path / "out")
    second = ended_job(cluster, "beside")
    folder = cluster.data / "jobs" / second / "src" / "beside"
    assert list(folder.glob("part-*"))
    several = cluster.http.delete("/v1/jobs/paced")
    assert several.status_code == 404
    assert "several jobs are named 'paced'" in several.json()["detail"]
    refused = cluster.http.delete(f"/v1/jobs/{second}")
    assert refused.status_code == 409
    assert str(folder) in refused.json()["detail"]
    assert "is neither its code nor a part of its state; move it" in refused.json()["detail"]
    assert list(folder.glob("part-*"))
    folder.rename(tmp_path / "moved")
    for job in (first, second):
        assert cluster.http.delete(f"/v1/jobs/{job}").json() == {"id": job}
        assert cluster.http.get(f"/v1/jobs/{job}").status_code == 404
        assert not (cluster.data / "jobs" / job).exists()
    assert list((tmp_path / "out").glob("part-*"))
    assert list((tmp_path / "moved").glob("part-*"))


def record(number):
    return JobRecord(f"job-{number}", "job", "job.py", "job", {}, JobOptions(), 5)


async def test_a_job_that_another_begins_from_stays_until_it_has(tmp_path):
    daemon = Daemon(tmp_path, SystemClock())
    daemon._note(submitted(record(0)))
    daemon._note(ended("job-0", JobState.STOPPED, at_ms=9, status={}))
    first, second = (daemon.job_folder(f"job-{number}") for number in range(2))
    first.source.mkdir(parents=True)
    begins = JobOptions(origin=str(first.state))
    daemon._note(submitted(replace(record(1), options=begins)))
    with pytest.raises(WrongStateError, match="removed yet: job 'job-1' is to begin from it"):
        await daemon.remove("job-0")
    store = DirectoryStore(second.state / "checkpoints")
    store.write_manifest(Manifest("job", 1, "checkpoint", 1, 0, 128, {}, []))
    assert await daemon.remove("job-0") == "job-0"
    assert not first.root.exists()
    await daemon.close(suspend=False)


async def test_a_crash_in_the_midst_of_it_is_followed_by_the_rest(tmp_path):
    daemon = Daemon(tmp_path, SystemClock())
    folders = [daemon.job_folder(f"job-{number}") for number in range(3)]
    for number, folder in enumerate(folders):
        daemon._note(submitted(record(number)))
        daemon._note(ended(f"job-{number}", JobState.FINISHED, at_ms=9, status={}))
        (folder.state / "checkpoints").mkdir(parents=True)
        folder.settings.write_text("{}")
    daemon._note({"kind": "removed", "id": "job-1"})
    daemon._compact()  # also from a journal that was made smaller since
    await daemon.close(suspend=False)
    said = []
    for _ in range(2):
        daemon = Daemon(tmp_path, SystemClock(), say=said.append)
        assert list(daemon.jobs.jobs) == ["job-0", "job-2"]
        daemon.start()
        await daemon.close(suspend=False)
        assert [folder.root.exists() for folder in folders] == [True, False, True]
        assert daemon.jobs.removed == {}
    assert said == []


def test_nobody_without_the_token(cluster):
    with httpx.Client(base_url=cluster.url) as bare:
        assert bare.delete("/v1/jobs/any").status_code == 401
