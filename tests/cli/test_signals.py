"""Ctrl-C and SIGTERM: one drains to a last checkpoint, two end at once; nothing is left over."""

import os
import pty
import signal

import psutil
import pytest

from tests.cli.command import CANCELED, Cli, Running, until

_AT_ONCE_S = 4.0  # less than any time that we wait for somebody to end by himself
DRAINING = "info: stopping: draining to a last checkpoint (Ctrl-C again ends at once)"
# A function of the user's that never returns: a drain cannot come to its end.
BUSY = """\
import pathlib, time
import streamline as sl
from streamline.connectors.collection import CollectionSource
from streamline.connectors.files import FileSink

def busy(number):
    if number == 3:
        pathlib.Path("busy").touch()
        while True:
            time.sleep(0.01)
    return number

job = sl.Job("busy")
job.source("numbers", CollectionSource(range(10))).map(busy, name="never").sink("out", FileSink("out", format=sl.Json()))
"""

# A source whose system is away: what there is to read is asked for without end.
AWAY = """\
import asyncio, pathlib
import streamline as sl
from streamline.connectors.collection import CollectionSource
from streamline.connectors.files import FileSink

class Away(CollectionSource):
    async def discover(self):
        pathlib.Path("asked").touch()
        await asyncio.Event().wait()

job = sl.Job("away")
job.source("numbers", Away(range(10))).sink("out", FileSink("out", format=sl.Json()))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_once_drains_and_the_same_command_goes_on(running: Running, number: int) -> None:
    # One checkpoint, long before: only the drain can have covered what came after it.
    running.every = "1h"
    started = running.start("--json")
    until(lambda: list(running.output.glob(".pending/*")), "a pending file", started=started)
    started.signal(number)
    done = started.end()
    assert done.status == 0, done
    done.says(DRAINING, "job 'running' stopped", "; the same command goes on from state\n")
    summary = done.summary()
    assert summary["state"] == "stopped"
    taken = summary["records_in"]
    assert running.epochs() == [1]
    assert sum(running.results().values()) == taken > 0
    again = running.finish("--json")
    again.says("continuing job 'running' from state")
    assert again.summary()["records_in"] == running.count - taken  # a drain repeats nothing


def test_twice_ends_at_once_and_loses_nothing(cli: Cli) -> None:
    cli.write("job.py", BUSY)
    started = cli.start("run", "job.py")
    until((cli.folder / "busy").exists, "busy function", started=started)
    workers = [process for process in started.processes() if process.pid != started.process.pid]
    assert workers
    started.signal(signal.SIGINT)
    assert next(line for line in started.process.stderr if "stopping" in line) == f"{DRAINING}\n"
    assert started.process.poll() is None
    started.signal(signal.SIGINT)
    done = started.end(timeout_s=_AT_ONCE_S)
    assert done.status == CANCELED, done
    assert "Traceback" not in done.stderr
    done.says("job 'busy' canceled")
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive


def test_twice_then_the_same_command_goes_on(running: Running) -> None:
    started = running.start()
    running.half(started)
    os.kill(started.process.pid, signal.SIGSTOP)  # so that both come before it can drain
    started.signal(signal.SIGINT)
    started.signal(signal.SIGTERM)
    os.kill(started.process.pid, signal.SIGCONT)
    done = started.end()
    assert done.status == CANCELED, done
    assert "Traceback" not in done.stderr
    running.finish().says("continuing job 'running' from state")


@pytest.mark.parametrize("moment", ["locked", "workers"])
def test_during_the_start(running: Running, moment: str) -> None:
    """Before the job runs there is nothing to drain."""
    started = running.start()
    reached = {
        "locked": (running.state / "job.json").exists,
        "workers": lambda: len(started.processes()) > 1,
    }[moment]
    until(reached, moment, started=started)
    started.signal(signal.SIGINT)
    done = started.end(timeout_s=_AT_ONCE_S)
    assert done.status in (0, CANCELED), done
    assert "Traceback" not in done.stderr
    running.finish()


def test_while_a_source_is_away(cli: Cli) -> None:
    cli.write("job.py", AWAY)
    started = cli.start("run", "job.py")
    until((cli.folder / "asked").exists, "a question", started=started)
    started.signal(signal.SIGINT)
    done = started.end(timeout_s=_AT_ONCE_S)
    assert done.status == 0, done
    assert "Traceback" not in done.stderr
    done.says("job 'away' stopped")


def test_ctrl_c_on_a_terminal_reaches_the_workers_too(cli: Cli) -> None:
    """A terminal signals the whole process group; the workers must not die of it."""
    running = Running(cli, every="1h")
    main, other = pty.openpty()
    try:
        started = cli.start(
            *running.arguments, stdin=other, start_new_session=True, preexec_fn=_own_terminal
        )
        until(lambda: list(running.output.glob(".pending/*")), "a pending file", started=started)
        os.write(main, b"\x03")
        done = started.end()
    finally:
        os.close(other)
        os.close(main)
    assert done.status == 0, done
    assert "Traceback" not in done.stderr
    assert "trying again" not in done.stderr
    done.says(DRAINING, "job 'running' stopped")
    assert sum(running.results().values()) > 0


def _own_terminal() -> None:
    """Make standard input the terminal that controls this session."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_the_inline_engine_goes_on_too(cli: Cli) -> None:
    running = Running(cli)
    started = running.start("--engine", "inline")
    running.half(started)
    started.signal(signal.SIGINT)
    done = started.end()
    assert "Traceback" not in done.stderr
    assert done.status in (0, CANCELED), done
    assert "the same command goes on" in done.stderr, done
    running.finish("--engine", "inline").says("continuing job 'running' from state")
