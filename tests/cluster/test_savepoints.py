"""Savepoints at URLs: left, looked at, begun from, by the service and by a run; and wrong ones."""

import pytest

from tests.cluster.running import JOBS, Cluster, totals, wanted

COUNT = 30_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def paced(out, count=COUNT, rate=1_000):
    given = {"output": out, "count": count, "rate": rate}
    return [word for name, value in given.items() for word in ("-p", f"{name}={value}")]


def test_left_at_a_url_and_begun_from(cluster, tmp_path):
    """file:// is a folder like any; local:// is reached through fsspec, as s3:// would be."""
    out, live, last = tmp_path / "out", f"file://{tmp_path}/live", f"local://{tmp_path}/last"
    every = ("--checkpoint-every", "100ms")
    job = cluster.ok("submit", JOBS / "paced.py", *paced(out), *every)
    cluster.records(job, 500)
    assert cluster.ok("savepoint", job, live) == live
    assert "holds a savepoint already" in cluster.refused("savepoint", job, live, status=1)
    cluster.records(job, 2_000)  # its first window is over, and stands in what it has written
    assert cluster.ok("stop", job, "--savepoint", last) == last
    plan = cluster.ok("plan", JOBS / "paced.py", *paced(out), "--from", last)
    assert "savepoint" in plan.splitlines()[0]
    assert "kept        window" in plan
    # One goes on in the service and the other here, from the same place: the one from before
    # begins again in another folder, where there is nothing of what has been read since.
    fast = paced(out, rate=100_000)
    goes_on = cluster.ok("submit", JOBS / "paced.py", *fast, "--from", last, "--parallelism", "2")
    here = ("run", JOBS / "paced.py", *paced(tmp_path / "here", rate=100_000), "--from", last)
    cluster.ok(*here, "--state-dir", tmp_path / "state")
    cluster.until(goes_on, lambda found: found["state"] == "finished")
    assert totals(out) == wanted(COUNT)
    rest, whole = totals(tmp_path / "here"), wanted(COUNT)
    assert rest.keys() == whole.keys()
    assert all(0 < rest[user] <= whole[user] for user in whole)
    assert sum(rest.values()) < COUNT
    # That of the running job is of its own moment, and stays where it is.
    again = ("submit", JOBS / "paced.py", *paced(tmp_path / "again", rate=100_000))
    from_live = cluster.ok(*again, "--from", live)
    cluster.until(from_live, lambda found: found["state"] == "finished")
    assert sum(rest.values()) <= sum(totals(tmp_path / "again").values()) <= COUNT


def test_wrong_urls(cluster, tmp_path):
    """One sentence, and the job goes on."""
    job = cluster.endless("--checkpoint-every", "100ms")
    file = (JOBS / "paced.py", *paced(tmp_path / "out"))
    (tmp_path / "file").touch()
    unknown = ("nonsense://bucket/job", "nothing is known at such an address")
    missing = ("gs://bucket/job", "gs:// needs a package that is missing")
    relative = ("file://saved", "a file URL has a whole path, such as file:///")
    unwritable = (f"local://{tmp_path}/file/job", "Not a directory")
    empty = (f"local://{tmp_path}/nothing", "no checkpoint; check the path")
    away = (f"file://{tmp_path}/nothing", "there is no such folder")
    for (url, why), *command in (
        (unknown, "savepoint", job),
        (unwritable, "savepoint", job),
        (relative, "stop", job, "--savepoint"),
        (unwritable, "stop", job, "--savepoint"),
        (missing, "submit", *file, "--from"),
        (empty, "submit", *file, "--from"),
        (unknown, "plan", *file, "--from"),
        (away, "run", *file, "--from"),
    ):
        status, said, err = cluster.run(*command, url)
        assert (status in (1, 2), said) == (True, ""), (command, url, said)
        assert err.startswith("streamline: ")
        assert len(err.splitlines()) == 1
        assert why in err
    found = cluster.records(job, 1)
    assert (found["restarts"], found["last_error"]) == (0, "")
    cluster.ok("cancel", job)
