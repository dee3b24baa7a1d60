"""A cluster as its users see it: a daemon in a process of its own, and the commands."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from unittest import mock

import httpx
import psutil

from streamline.cli.main import main
from streamline.cluster.submission import pack
from streamline.config import CHECKS_VARIABLE
from streamline.testing.services.process import free_port

JOBS = Path(__file__).with_name("jobs")
HERE = ("submit", "list", "status", "savepoint", "stop", "cancel", "rescale", "logs", "remove")
"""Commands that only call the API."""


class Cluster:
    """One data folder, and a daemon on it."""

    def __init__(self, folder):
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("STREAMLINE_") or name == CHECKS_VARIABLE
        } | {"XDG_STATE_HOME": str(folder / "home")}
        self.process = None
        self.http = None
        self.submitted = 0

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        jobs = [psutil.Process(pid) for pid in self.masters()]
        self.kill()
        workers = [child for job in jobs for child in job.children()]
        for job in jobs:
            job.kill()
        psutil.wait_procs([*jobs, *workers], 5)

    def start(self, *options):
        where = ("--data-dir", self.data, "--listen", f"127.0.0.1:{self.port}")
        self.process = subprocess.Popen(
            self.command("cluster", "start", *where, *options),
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )
        said = ""
        while "cluster at http" not in said.rpartition("streamline: ")[2]:
            line = self.process.stderr.readline()
            assert line, said
            said += line
        self.said = said
        self.http = self.client()

    def client(self, **options):
        """The API, for a moment: what commands do is tested by some, and takes longer."""
        token = (self.data / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, verify=False, **options)

    def command(self, *arguments):
        return [sys.executable, "-m", "streamline.cli.main", *map(str, arguments)]

    def kill(self, number=signal.SIGKILL):
        """End the daemon; what it said."""
        if self.http is not None:
            self.http.close()
        self.process.send_signal(number)
        said = self.said + self.process.communicate(timeout=40)[1]
        return self.process.returncode, said

    def run(self, *arguments, env=None):
        """A command: status, stdout and stderr.

        Most are called here, from their entry point on: a process for each would take as long as
        all the rest of a test.
        """
        if arguments and arguments[0] in HERE:
            return self._run_here(arguments, {**self.environment, **(env or {})})
        done = subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=90,
            env={**self.environment, **(env or {})},
            cwd=self.folder,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def _run_here(self, arguments, environment):
        out, err, status = io.StringIO(), io.StringIO(), None
        with (
            mock.patch.dict(os.environ, environment, clear=True),
            mock.patch.object(sys, "argv", ["streamline", *map(str, arguments)]),
            chdir(self.folder),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                main()
            except SystemExit as ended:
                status = ended.code
        return status, out.getvalue(), err.getvalue()

    def on_terminal(self, *arguments, columns=60):
        """A command whose standard output is a terminal; what it shows there."""
        master, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (24, columns))
        environment = {**self.environment, "TERM": "xterm-256color"}
        for name in ("NO_COLOR", "COLUMNS"):
            environment.pop(name, None)
        with subprocess.Popen(
            self.command(*arguments), stdout=terminal, env=environment, cwd=self.folder
        ) as process:
            os.close(terminal)
            shown = b""
            with suppress(OSError):  # that is how a terminal ends
                while piece := os.read(master, 65_536):
                    shown += piece
            os.close(master)
        assert process.returncode == 0, shown
        return shown.decode()

    def ok(self, *arguments):
        status, out, err = self.run(*arguments)
        assert status == 0, err
        return out.strip()

    def refused(self, *arguments, status=2, env=None):
        """What it says on stderr, which is one line."""
        if arguments[0] == "cluster":  # which is to end before it serves
            found, out, err = self._run_here(arguments, {**self.environment, **(env or {})})
        else:
            found, out, err = self.run(*arguments, env=env)
        assert (found, out) == (status, ""), (found, out, err)
        assert err.startswith("streamline: "), err
        return err

    def status(self, job):
        answer = self.http.get(f"/v1/jobs/{job}")
        assert answer.is_success, answer.text
        return answer.json()

    def submit(self, path, params, **options):
        """The id of a new job."""
        file, archive = pack(Path(path))
        body = {"file": file, "archive": archive, "params": params, **options}
        answer = self.http.post("/v1/jobs", json=body)
        assert answer.is_success, answer.text
        return answer.json()["id"]

    def until(self, job, reached, timeout_s=60.0):
        """Ask until something is so of a job."""
        end = time.monotonic() + timeout_s
        while True:
            found = self.status(job)
            if reached(found):
                return found
            assert time.monotonic() < end, found
            assert found["state"] not in ("failed", "canceled"), found
            time.sleep(0.03)

    def records(self, job, more=2_000):
        """Until it runs and has read so many records more than in an attempt before."""
        return self.until(
            job, lambda found: found["state"] == "running" and found["records_in"] >= more
        )

    def endless(self, *options, until=lambda found: found["last_checkpoint"] is not None):
        """The id of a new job that runs until it is told to end, once it has its checkpoint."""
        self.submitted += 1
        output = self.folder / f"out-{self.submitted}"
        given = ("-p", f"output={output}", "-p", "count=100000000")
        job = self.ok("submit", JOBS / "paced.py", *given, *options)
        self.until(job, until)
        return job

    def masters(self):
        """Processes of jobs."""
        found = []
        for path in self.data.glob("jobs/*/master.json"):
            pid = json.loads(path.read_text())["pid"]
            try:
                command = psutil.Process(pid).cmdline()
            except psutil.NoSuchProcess:
                continue
            if str(path.parent) in command:
                found.append(pid)
        return found


def totals(folder):
    """Counts per key in all files of a folder."""
    found = {}
    for path in folder.glob("part-*"):
        for line in path.read_text().splitlines():
            result = json.loads(line)
            found[result["key"]] = found.get(result["key"], 0) + result["count"]
    return found


def wanted(count):
    return {f"u{user}": len(range(user, count, 97)) for user in range(97)}
