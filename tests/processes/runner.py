"""Runs jobs as a user does, by the command line, and looks at what is left over."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgpack
import psutil
import zstandard

JOBS = Path(__file__).with_name("jobs.py")
START_MS = 1_700_000_000_000


def write_orders(path: Path, count: int, *, users: int = 97, seed: int = 1) -> None:
    """Orders a millisecond apart, up to ten seconds out of order."""
    rng = random.Random(seed)
    with path.open("w") as file:
        for number in range(count):
            at = START_MS + number * 2 + rng.randrange(-8_000, 8_000)
            user, amount = rng.randrange(users), rng.randrange(100)
            file.write(f'{{"number":{number},"user":"u{user}","amount":{amount},"at":{at}}}\n')


def results(folder: Path) -> Counter[str]:
    """All that stands in the part files of a folder and the folders in it."""
    found: Counter[str] = Counter()
    for path in folder.rglob("part-*"):
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        elif path.suffix == ".zst":
            data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        if ".msgpack" in path.suffixes:
            unpacker = msgpack.Unpacker()
            unpacker.feed(data)
            found.update(repr(value) for value in unpacker)
        else:
            found.update(data.decode().splitlines())
    return found


class Run:
    """One start of ``streamline run``."""

    def __init__(
        self,
        job: str,
        folder: Path,
        *,
        input: Path | None = None,
        jobs: Path = JOBS,
        params: Mapping[str, object] | None = None,
        parallelism: int = 1,
        checkpoint_every: str = "100ms",
        state: str = "state",
        options: Sequence[str] = (),
        crash: str = "",
    ) -> None:
        self.folder = folder
        self.output = folder / "out"
        self.state = folder / state
        # All that it may leave lies here, and it is known by it; others may run beside it.
        self.temporary = folder / f"tmp-{state}"
        self.temporary.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "STREAMLINE_TEST_CRASH": crash,
            "TMPDIR": str(self.temporary),
        }
        if params is None:
            params = {"input": input, "output": self.output}
        given = [word for name, value in params.items() for word in ("-p", f"{name}={value}")]
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "streamline.cli.main", "run", f"{jobs}:{job}"),
                *given,
                "--json",
                *("--parallelism", str(parallelism), "--state-dir", str(self.state)),
                *("--checkpoint-every", checkpoint_every, *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.seen: dict[int, psutil.Process] = {}

    def workers(self) -> list[psutil.Process]:
        """The worker processes there are now."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.seen.update({process.pid: process for process in found})
        return found

    def wait_for(self, what: "str", timeout_s: float = 20) -> None:
        """Until a path below the state folder exists."""
        import time

        end = time.monotonic() + timeout_s
        while not list(self.state.glob(what)):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, f"no {what} in {timeout_s} s"
            self.workers()
            time.sleep(0.005)  # another process is being watched; nothing tells us

    def kill(self) -> None:
        """Kill the command line; its workers have to go with it."""
        self.workers()
        self.process.send_signal(signal.SIGKILL)

    def end(self, timeout_s: float = 60) -> tuple[int, str, str]:
        """Exit status, stdout and stderr; everything it started must be gone."""
        self.workers()
        try:
            stdout, stderr = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"not ended: {self.process.communicate()[1][-2000:]}") from None
        _, alive = psutil.wait_procs(list(self.seen.values()), timeout=5)
        assert not alive, f"still there: {alive}"
        self._no_process_left()
        return self.process.returncode, stdout, stderr

    def _no_process_left(self) -> None:
        """No process has the environment of this run, not even one that nobody saw start.

        Without one there is no socket of it either: the kernel has closed them.
        """
        mine = [process for process in psutil.process_iter() if self._is_mine(process)]
        _, alive = psutil.wait_procs(mine, timeout=5)
        listening = [
            connection.laddr
            for process in alive
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert not alive, f"still there: {alive}, listening at {listening}"

    def _is_mine(self, process: psutil.Process) -> bool:
        try:
            return (
                process.environ().get("TMPDIR") == str(self.temporary)
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return False  # of somebody else, or gone

    def finish(self) -> dict[str, object]:
        """It must end well; its summary. Nothing but results may be left over."""
        status, stdout, stderr = self.end()
        assert status == 0, stderr
        summary: dict[str, object] = json.loads(stdout)
        assert summary["state"] == "finished", stderr
        self.nothing_left()
        return summary

    def nothing_left(self) -> None:
        """No temporary file, no live state."""
        state = self.state
        assert not (state / "live").exists()
        assert not list(state.rglob(".*")), list(state.rglob(".*"))
        assert not list(self.temporary.iterdir()), list(self.temporary.iterdir())
        assert not list(self.output.rglob(".pending"))
        stored = {path.name for path in (state / "checkpoints" / "shared").glob("*")}
        manifests = list((state / "checkpoints").glob("*/MANIFEST"))
        named = b"".join(path.read_bytes() for path in manifests)
        assert all(name.encode() in named for name in stored), "files that no manifest names"
        assert 1 <= len(manifests) <= 2
