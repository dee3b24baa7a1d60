"""The installed command in a process of its own, and a look at what it says and leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.cli import jobs

COMMAND = str(Path(sys.executable).with_name("streamline"))
JOBS = jobs.__file__
ROOT = Path(__file__).resolve().parents[2]
MARK = "STREAMLINE_TEST_MARK"
FAILED, USAGE, CANCELED = 1, 2, 130
_END_S = 30.0
# A frame of ours in a traceback: the packages, wherever they are installed.
OUR_FRAMES = (f'"{ROOT}/streamline/', f'"{ROOT}/connectors/', "site-packages")


@dataclass(frozen=True)
class Done:
    """A process that has ended."""

    arguments: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    def says(self, *words: str) -> "Done":
        """Its standard error contains all of these."""
        for word in words:
            assert word in self.stderr, f"{word!r} is not said: {self}"
        return self

    def refuses(self, status: int, *words: str) -> "Done":
        """It ends with this status and, last, one sentence for a user, which has these words."""
        assert self.status == status, self
        said = [line for line in self.stderr.splitlines() if line.startswith("streamline: ")]
        assert len(said) == 1 and self.stderr.endswith(f"{said[0]}\n"), self
        for word in words:
            assert word in said[0], f"{word!r} is not said: {self}"
        return self

    def summary(self) -> dict[str, Any]:
        """Standard output, which is nothing but the summary as JSON."""
        found: dict[str, Any] = json.loads(self.stdout)
        return found


class Started:
    """A process under way."""

    def __init__(self, folder: Path, arguments: tuple[str, ...], **options: Any) -> None:
        self.arguments = arguments
        self.mark = uuid.uuid4().hex
        environment = {**os.environ, MARK: self.mark}
        environment.pop("PYTHONUNBUFFERED", None)  # as a user has it
        pipe = subprocess.PIPE
        streams = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, **options}
        self.process = subprocess.Popen(
            [COMMAND, *arguments], cwd=folder, env=environment, text=True, **streams
        )

    def processes(self) -> list[psutil.Process]:
        """All processes of this start that are there now, also those whose parent is gone."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def signal(self, number: int) -> None:
        """Signal the command, and only it."""
        self.process.send_signal(number)

    def end(self, timeout_s: float = _END_S) -> Done:
        """Wait for its end; nothing that it started may be left."""
        try:
            stdout, stderr = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"not ended: {self.process.communicate()}") from None
        until(lambda: not self.processes(), "the end of all its processes")
        done = Done(self.arguments, self.process.returncode, stdout or "", stderr or "")
        if "--debug" not in self.arguments:
            for frame in OUR_FRAMES:
                assert frame not in done.stderr, f"a traceback of ours: {done}"
        return done

    def kill(self) -> None:
        """End it with all that it started."""
        if self.process.poll() is None:
            self.process.kill()
        for process in self.processes():
            process.kill()

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self.mark
        except psutil.Error:
            return False


class Cli:
    """Gives commands in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Started] = []

    def start(self, *arguments: object, **options: Any) -> Started:
        """Begin a command."""
        started = Started(self.folder, tuple(str(argument) for argument in arguments), **options)
        self.started.append(started)
        return started

    def __call__(self, *arguments: object, **options: Any) -> Done:
        """Give a command and wait for its end."""
        return self.start(*arguments, **options).end()

    def all(self, commands: Iterable[Iterable[object]]) -> list[Done]:
        """Give several commands side by side, which saves half of the time."""
        started = [self.start(*arguments) for arguments in commands]
        return [each.end() for each in started]

    def close(self) -> None:
        """Nothing is left after a test that failed."""
        for started in self.started:
            started.kill()

    def write(self, name: str, text: str) -> Path:
        """A file in the folder."""
        path = self.folder / name
        path.write_text(text)
        return path


def until(
    reached: Callable[[], object],
    what: str,
    *,
    timeout_s: float = 20,
    started: Started | None = None,
) -> None:
    """Poll another process until something is so."""
    end = time.monotonic() + timeout_s
    while not reached():
        if started is not None and started.process.poll() is not None:
            raise AssertionError(f"ended before {what}: {started.process.communicate()}")
        assert time.monotonic() < end, f"no {what} in {timeout_s} s"
        time.sleep(0.01)  # another process is being watched; nothing tells us


class Running:
    """The job ``running`` of ``jobs.py`` in a folder: it waits half way for a file ``go``."""

    count, hold = 200, 100

    def __init__(
        self,
        cli: Cli,
        *,
        state: str = "state",
        output: str = "out",
        every: str = "50ms",
        engine: str = "local",
    ) -> None:
        self.cli = cli
        self.state = cli.folder / state
        self.output = cli.folder / output
        self.go = cli.folder / "go"
        self.every = every
        self.engine = engine
        self._given = {"state": state, "output": output}

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command; its paths are relative, so that the whole folder can be copied."""
        return self.of("job")

    def of(self, job: str) -> tuple[str, ...]:
        """The same for a job of another name."""
        return (
            *("run", f"{JOBS}:{job}", "-p", f"output={self._given['output']}", "-p", "go=go"),
            *("-p", f"count={self.count}", "-p", f"hold={self.hold}"),
            *("--state-dir", self._given["state"], "--checkpoint-every", self.every),
            *("--engine", self.engine),
        )

    def start(self, *more: object, **options: Any) -> Started:
        """Begin, or go on."""
        return self.cli.start(*self.arguments, *more, **options)

    def finish(self, *more: object, **options: Any) -> Done:
        """The same command, to its end; its result must be that of an undisturbed run."""
        self.go.touch()
        done = self.cli(*self.arguments, *more, **options)
        assert done.status == 0, done.stderr
        assert self.results() == self.wanted(), done.stderr
        return done

    def half(self, started: Started, *, checkpoints: int = 1) -> None:
        """Until all of the first half is in the results, and then some checkpoints."""
        until(
            lambda: sum(self.results().values()) == self.hold, "half the results", started=started
        )
        self.later(started, checkpoints)

    def later(self, started: Started, checkpoints: int) -> None:
        """Until there are so many checkpoints more."""
        last = max(self.epochs(), default=0)
        until(
            lambda: max(self.epochs(), default=0) >= last + checkpoints,
            "later checkpoint",
            started=started,
        )

    def killed_half_way(self, *, checkpoints: int = 1) -> None:
        """Run it to the half, and kill everything."""
        started = self.start()
        self.half(started, checkpoints=checkpoints)
        started.signal(signal.SIGKILL)
        assert started.end().status == -signal.SIGKILL

    def manifest(self, epoch: int) -> Path:
        """Where the manifest of a checkpoint is or was."""
        return self.state / "checkpoints" / f"{epoch:08d}" / "MANIFEST"

    def epochs(self) -> list[int]:
        """Epochs of the complete checkpoints, ascending."""
        found = (self.state / "checkpoints").glob("*/MANIFEST")
        return sorted(int(path.parent.name) for path in found if path.parent.name.isdigit())

    def stored(self) -> dict[str, bytes]:
        """Everything that the checkpoints consist of."""
        folder = self.state / "checkpoints"
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def results(self) -> Counter[str]:
        """All that readers of the output see, with how often."""
        found: Counter[str] = Counter()
        for path in self.output.glob("part-*"):
            found.update(path.read_text().splitlines())
        return found

    def wanted(self) -> Counter[str]:
        """The result of an undisturbed run, by a plain loop."""
        seen: Counter[int] = Counter()
        total: Counter[int] = Counter()
        found: Counter[str] = Counter()
        for number in range(self.count):
            rest = number % jobs.KEYS
            seen[rest] += 1
            total[rest] += number
            found[f'{{"key":{rest},"seen":{seen[rest]},"total":{total[rest]}}}'] += 1
        return found
