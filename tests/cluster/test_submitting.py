"""Submissions: the same twice, while much is sent, and when the daemon ends over them."""

import asyncio
import base64
import io
import random
import signal
import socket
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from streamline.clock import SystemClock
from streamline.cluster import example
from streamline.cluster.daemon import Daemon
from streamline.cluster.intake import EndingError
from streamline.cluster.submission import Submission, digest_of, unpack
from tests.cluster.running import Cluster


def packed(at=(1980, 1, 1, 0, 0, 0), **files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.py", at), text)
    return base64.b64encode(buffer.getvalue()).decode()


def body(code=example.CODE, **more):
    return {"file": "job.py", "archive": packed(job=code), **more}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def test_a_key_that_was_given_with_something_else(cluster):
    """Also behind a restart; and when nothing came of the first, the key is free."""
    key = {"Idempotency-Key": "mine"}
    broken = cluster.http.post("/v1/jobs", json=body("nothing"), headers=key)
    assert broken.status_code == 422
    first = cluster.http.post("/v1/jobs", json=body(), headers=key).json()["id"]
    touched = {"file": "job.py", "archive": packed((2020, 1, 1, 0, 0, 0), job=example.CODE)}
    for _ in range(2):
        for same in (body(), touched):
            answer = cluster.http.post("/v1/jobs", json=same, headers=key)
            assert (answer.status_code, answer.json()["id"]) == (201, first)
        other = cluster.http.post("/v1/jobs", json=body(parallelism=2), headers=key)
        assert other.status_code == 422
        assert other.headers["content-type"] == "application/problem+json"
        assert other.json()["detail"] == (
            f"the key 'mine' was given before, with what became job {first!r}, and that was "
            "something else; give another key"
        )
        cluster.kill()
        cluster.start()


def test_what_makes_submissions_differ():
    one = Submission("job.py", packed(job="x = 1"))
    assert digest_of(one) == digest_of(
        Submission("job.py", packed((2020, 1, 1, 0, 0, 0), job="x = 1"))
    )
    for other in (
        Submission("job.py", packed(job="x = 2")),
        Submission("job.py", packed(job="x = 1", more="")),
        Submission("job.py", packed(job="x = 1"), params={"a": "1"}),
        Submission("job.py", "no archive"),
        Submission("job.py", "another"),
    ):
        assert digest_of(other) != digest_of(one)
    assert digest_of(Submission("job.py", "no archive")) != digest_of(Submission("job.py", "other"))


def test_much_that_is_sent_does_not_hold_up_others(cluster):
    """It is read, unpacked and removed beside what else is asked."""
    noise = random.Random(1).randbytes(20 << 20)
    large = {"file": "job.py", "archive": packed(job="raise ValueError", data=noise)}
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(post, cluster, large, {})
        took_s = []
        while not sending.done():
            began = time.perf_counter()
            assert cluster.http.get("/v1/jobs").is_success
            took_s.append(time.perf_counter() - began)
        assert sending.result().status_code == 422
    assert len(took_s) > 10
    assert sorted(took_s)[len(took_s) * 9 // 10] < 0.05


async def test_unpacking_is_done_aside_and_is_over_when_it_is_given_up(tmp_path, monkeypatch):
    """Or else it would go on writing into a folder that is being removed."""
    begun, goes_on = threading.Event(), threading.Event()

    def held(submission, folder):
        begun.set()
        assert goes_on.wait(10)
        return unpack(submission, folder)

    monkeypatch.setattr("streamline.cluster.intake.unpack", held)
    daemon = Daemon(tmp_path, SystemClock())
    daemon.start()
    submitting = asyncio.ensure_future(daemon.submit(Submission(**body())))
    assert await asyncio.to_thread(begun.wait, 10)
    closing = asyncio.ensure_future(daemon.close(suspend=False))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not closing.done()
    assert list((tmp_path / "jobs").iterdir())
    goes_on.set()
    with pytest.raises(EndingError, match="the cluster is ending, and takes no job"):
        await submitting
    await closing
    assert list((tmp_path / "jobs").iterdir()) == []


WAITING = """
from pathlib import Path
import time
Path({place!r}).touch()
while True:
    time.sleep(0.1)
"""


def test_the_daemon_ends_over_a_submission(tmp_path):
    """Whoever submits is told; whoever is still sending is cut off. Nothing of it is left, and what
    was acknowledged before is there."""
    with Cluster(tmp_path) as cluster:
        job = cluster.http.post("/v1/jobs", json=body()).json()["id"]
        cluster.until(job, lambda found: found["state"] == "finished")
        place = tmp_path / "being-built"
        with ThreadPoolExecutor(2) as pool:
            waiting = body(WAITING.format(place=str(place)))
            answers = [
                pool.submit(post, cluster, waiting, {"Idempotency-Key": key} if key else {})
                for key in ("", "once")
            ]
            with socket.create_connection(("127.0.0.1", cluster.port)) as half:
                token = (cluster.data / "token").read_text().strip()
                half.sendall(
                    f"POST /v1/jobs HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {token}\r\n"
                    "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{".encode()
                )
                jobs = cluster.data / "jobs"
                while not (place.exists() and len(list(jobs.iterdir())) == 3):
                    assert not any(answer.done() for answer in answers)
                status, said = cluster.kill(signal.SIGTERM)
        assert status == 0, said
        assert "Traceback" not in said
        assert [path.name for path in jobs.iterdir()] == [job]
        for answer in answers:
            found = answer.result()
            assert found.status_code == 503
            assert "the cluster is ending, and takes no job" in found.json()["detail"]
        cluster.start()
        assert [one["id"] for one in cluster.http.get("/v1/jobs").json()] == [job]


def post(cluster, given, headers):
    with cluster.client() as client:
        return client.post("/v1/jobs", json=given, headers=headers)


def test_the_daemon_is_killed_over_a_submission(tmp_path):
    """The next one removes what is left, and knows of no job."""
    with Cluster(tmp_path) as cluster:
        place = tmp_path / "being-built"
        failed = []

        def submit():
            try:
                post(cluster, body(WAITING.format(place=str(place))), {})
            except httpx.HTTPError as error:
                failed.append(error)

        thread = threading.Thread(target=submit)
        thread.start()
        while not place.exists():
            pass
        cluster.kill()
        thread.join()
        assert len(failed) == 1
        assert list((cluster.data / "jobs").iterdir())
        cluster.start()
        while list((cluster.data / "jobs").iterdir()):
            pass
        assert cluster.http.get("/v1/jobs").json() == []
    gone = time.monotonic() + 10
    while any(
        str(tmp_path) in " ".join(process.info["cmdline"] or ())
        for process in psutil.process_iter(["cmdline"])
    ):
        assert time.monotonic() < gone, "the job's file is still looked at, by a process of its own"
