"""The service: how long data stands still when something is killed; many jobs at once."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.measure import Result, folder
from streamline.testing.services.process import free_port

JOBS = Path(__file__).with_name("service_jobs.py")
KEYS = 1_000_000
MANY = 20
MINUTES = float(os.environ.get("STREAMLINE_BENCH_MINUTES", "10"))
_EVERY_S = 0.05


class Service:
    """A daemon on a folder, and its API."""

    def __init__(self, work: Path) -> None:
        self.data, self.home = work / "data", work / "home"
        self.port = free_port()
        self.process: subprocess.Popen[str] | None = None
        self.environment = {**os.environ, "XDG_STATE_HOME": str(self.home)}

    def command(self, *arguments: object) -> list[str]:
        """A command of ours."""
        return [sys.executable, "-m", "streamline.cli.main", *map(str, arguments)]

    def start(self) -> None:
        """Start a daemon, and wait until it listens."""
        where = ("--data-dir", self.data, "--listen", f"127.0.0.1:{self.port}")
        self.process = subprocess.Popen(
            self.command("cluster", "start", *where),
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert "cluster at" in line, line
        token = (self.data / "token").read_text().strip()
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )

    def kill(self) -> None:
        """kill -9 of the daemon."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()
        self.http.close()

    def end(self) -> None:
        """SIGTERM, and all that there is must go."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=120)
        self.http.close()

    def run(self, *arguments: object) -> str:
        """A command, and what it prints."""
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, env=self.environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def get(self, path: str) -> Any:
        """An answer of the API."""
        answer = self.http.get(path)
        answer.raise_for_status()
        return answer.json()

    def until(self, job: str, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Until something is so of a job."""
        while True:
            found: dict[str, Any] = self.get(f"/v1/jobs/{job}")
            assert found["state"] != "failed", found
            if reached(found):
                return found
            time.sleep(_EVERY_S)

    def process_of(self, job: str) -> int:
        """Process id of a job's coordinator."""
        address = json.loads((self.data / "jobs" / job / "master.json").read_text())
        return int(address["pid"])


@contextmanager
def service() -> Iterator[tuple[Service, Path]]:
    """A service that is gone afterwards."""
    with folder() as work:
        found = Service(work)
        found.start()
        try:
            yield found, work
        finally:
            found.end()


def standing_still() -> list[Result]:
    """A job with a million keys is rescaled, its worker, its process and the daemon are killed."""
    with service() as (found, work):
        stamps = work / "stamps"
        stamps.mkdir()
        job = _submit(found, work, stamps)
        found.until(job, lambda status: status["records_in"] >= KEYS * 1.1)

        def worker() -> None:
            pid = found.get(f"/v1/jobs/{job}")["workers"][0]["pid"]
            os.kill(pid, signal.SIGKILL)

        def daemon() -> None:
            found.kill()
            found.start()

        results = []
        for name, limit, act in (
            ("rescale from 1 to 2", 2.0, lambda: found.run("rescale", job, "--parallelism", 2)),
            ("rescale from 2 to 1", 2.0, lambda: found.run("rescale", job, "--parallelism", 1)),
            ("kill -9 of a worker", 2.0, worker),
            ("kill -9 of the job's process", 2.0, lambda: os.kill(found.process_of(job), 9)),
            ("kill -9 of the daemon, and another", 1.0, daemon),
        ):
            _settle(found, job)
            began = time.time()
            act()
            again, longest = _gap(stamps, began)
            parts = _parts(found, job, began)
            if act is daemon:  # nothing is ordered, and nothing should stop
                what, seconds, detail = "longest pause of data", longest, ""
            else:
                what, seconds = "until data flows again", again
                detail = f"data stood still for {longest:.2f} s; {parts}"
            results.append(
                Result(
                    f"{name}: {what}",
                    f"{seconds:.2f} s",
                    f"< {limit:g} s",
                    seconds < limit,
                    detail,
                )
            )
        found.run("cancel", job)
        return results


def _submit(found: Service, work: Path, stamps: Path) -> str:
    return found.run(
        *("submit", f"{JOBS}:counted", "-p", f"output={work / 'out'}"),
        *("-p", f"stamps={stamps}", "-p", f"keys={KEYS}", "--parallelism", 1),
    )


def _settle(found: Service, job: str) -> None:
    """Until it has run for a while and made some checkpoints since the last thing."""
    status = found.until(job, lambda status: status["state"] == "running")
    epoch = (status["last_checkpoint"] or {"epoch": 0})["epoch"]

    def settled(status: dict[str, Any]) -> bool:
        last = status["last_checkpoint"]
        return last is not None and last["epoch"] >= epoch + 5

    found.until(job, settled)


def _gap(stamps: Path, began: float) -> tuple[float, float]:
    """From an event to the first batch behind the longest gap since, and that gap; seconds."""
    time.sleep(4)
    times = sorted(float(line) for path in stamps.iterdir() for line in path.read_text().split())
    near = [at for at in times if at >= began - 0.2]
    gaps = [(after - before, after) for before, after in pairwise(near)]
    longest, after = max(gaps)
    return max(0.0, after - began), longest


def _parts(found: Service, job: str, began: float) -> str:
    """The parts of the time it took, as the job has logged them since."""
    log: str = found.get(f"/v1/jobs/{job}/logs")["text"]
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(began))
    told = [line for line in log.splitlines() if line > since and "running again after" in line]
    return told[-1].partition("running again after ")[2] if told else "a new process of the job"


def many_jobs() -> Result:
    """Jobs side by side for some minutes: what they hold in the end, and how the API answers."""
    with service() as (found, work):
        jobs = [
            found.run("submit", f"{JOBS}:small", "-p", f"output={work / f'out-{number}'}")
            for number in range(MANY)
        ]
        for job in jobs:
            found.until(job, lambda status: status["records_in"] > 0)
        latencies: list[float] = []
        held: list[tuple[int, int, int, int]] = []
        stop = threading.Event()

        def ask() -> None:
            number = 0
            paths = ("/v1/jobs", "/v1/jobs/{}", "/v1/jobs/{}/tasks", "/metrics")
            while not stop.wait(0.05):
                path = paths[number % len(paths)].format(jobs[number % len(jobs)])
                began = time.perf_counter()
                found.http.get(path).raise_for_status()
                latencies.append((time.perf_counter() - began) * 1000)
                number += 1

        asking = threading.Thread(target=ask)
        asking.start()
        end = time.monotonic() + MINUTES * 60
        while time.monotonic() < end:
            time.sleep(min(10.0, MINUTES * 6))
            held.append(_held(found))
        stop.set()
        asking.join()
        states = {found.get(f"/v1/jobs/{job}")["state"] for job in jobs}
        restarts = sum(found.get(f"/v1/jobs/{job}")["restarts"] for job in jobs)
        assert found.process is not None
        family = psutil.Process(found.process.pid).children(recursive=True)
        masters = [psutil.Process(found.process_of(job)) for job in jobs]
        family += [child for master in masters for child in [master, *master.children()]]
    _, alive = psutil.wait_procs(family, 5)
    third = len(held) // 3
    before = [max(one[place] for one in held[third : 2 * third]) for place in range(4)]
    after = [max(one[place] for one in held[2 * third :]) for place in range(4)]
    growth = after[0] / before[0] - 1
    p99 = sorted(latencies)[int(len(latencies) * 0.99)]
    ok = states == {"running"} and not restarts and not alive and growth < 0.03
    ok = ok and p99 < 50 and all(a <= 1.05 * b for a, b in zip(after[1:], before[1:], strict=True))
    detail = (
        f"{MANY} jobs for {MINUTES:g} min; from the second third to the last: memory "
        f"{before[0] / 1e6:.0f} to {after[0] / 1e6:.0f} MB ({growth:+.1%}), processes {before[1]} "
        f"to {after[1]}, files {before[2]} to {after[2]}, sockets {before[3]} to {after[3]}; "
        f"{len(alive)} processes left; median {sorted(latencies)[len(latencies) // 2]:.1f} ms of "
        f"{len(latencies):,} requests; {restarts} restarts"
    )
    return Result(f"{MANY} jobs at once, API p99", f"{p99:.0f} ms", "< 50 ms, no leak", ok, detail)


def _held(found: Service) -> tuple[int, int, int, int]:
    """Memory, processes, open files and sockets of the daemon and all below it."""
    assert found.process is not None
    memory = files = sockets = 0
    family = [psutil.Process(found.process.pid)]
    for path in found.data.glob("jobs/*/master.json"):
        master = psutil.Process(json.loads(path.read_text())["pid"])
        family += [master, *master.children()]
    for process in family:
        memory += process.memory_info().rss
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            try:
                target = str(descriptor.readlink())
            except OSError:
                continue  # closed just now
            files += target.startswith("/") and "/dev/" not in target
            sockets += target.startswith("socket:")
    return memory, len(family), files, sockets
