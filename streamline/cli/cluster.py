"""``streamline cluster`` and the commands that give orders to one.

Each command is one or a few calls of the API and how the answer is shown. What a cluster needs is
imported when a command is called: the others do without that extra.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from streamline.cli.completion import CA, ENDED, job_argument
from streamline.cli.options import job_arguments, parse_params
from streamline.cli.streams import tell
from streamline.cli.tables import show_job, show_jobs
from streamline.clock import SystemClock
from streamline.config import positive_duration_ms, size_bytes
from streamline.errors import UsageError
from streamline.logs import JsonLog

_EXTRA = (
    "the commands of a cluster need more; install it by: pip install 'streamline-engine[cluster]'"
)

_MISSING = (
    "a job's file takes along what it imports by name from beside it; give a folder with a job.py "
    "to send all in it, and --requirements for packages"
)


def _note_ca(context: click.Context, _: click.Parameter, value: str | None) -> None:
    context.meta[CA] = value


def at_cluster(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--cluster``, ``--ca`` and ``--json``."""
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)
    command = click.option(
        "--ca",
        metavar="FILE",
        help="The certificate by which an https cluster is known, or STREAMLINE_CA.",
        expose_value=False,
        callback=_note_ca,
    )(command)
    return click.option(
        "--cluster",
        metavar="URL",
        help="Where it is; STREAMLINE_CLUSTER, or your own on this machine, if not given.",
    )(command)


def _client(url: str | None) -> Any:
    try:
        from streamline.cluster.client import Client
    except ImportError as error:
        raise UsageError(_EXTRA) from error
    return Client(url, ca=click.get_current_context().meta.get(CA))


@click.group()
def cluster() -> None:
    """Run jobs as a service."""


@cluster.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".streamline-cluster"),
    show_default=True,
    help="Journal, checkpoints, savepoints, logs and token.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:8437",
    show_default=True,
    help="Where the API is; loopback unless you say otherwise.",
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the token that lets in; needed for other addresses than loopback.",
)
@click.option("--tls-cert", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.option("--tls-key", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.option("--log-json", is_flag=True, help="Logs, also those of jobs, have JSON lines.")
@click.option(
    "--log-size",
    metavar="SIZE",
    default="64MiB",
    show_default=True,
    help="So much is kept of each job's log.",
)
def start(
    data_dir: Path,
    listen: str,
    token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    log_json: bool,
    log_size: str,
) -> None:
    """Start the cluster's daemon, in the foreground.

    SIGTERM and Ctrl-C drain all jobs to a checkpoint; they go on when it is started again. When
    it is killed, jobs go on by themselves, and the next daemon on its folder takes them over.
    """
    try:
        from streamline.cluster.log import LogSettings
        from streamline.cluster.server import serve
    except ImportError as error:
        raise UsageError(_EXTRA) from error
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65_535:
        raise UsageError(f"--listen {listen}: give HOST:PORT, such as 127.0.0.1:8437")
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert and --tls-key go together")
    token = None
    if token_file is not None:
        try:
            token = token_file.read_text().strip()
        except OSError as error:
            raise UsageError(f"--token-file {token_file} cannot be read: {error}") from error
        if len(token) < 16:
            raise UsageError(f"--token-file {token_file}: a token has at least 16 characters")
    serve(
        data_dir,
        host.strip("[]") or "127.0.0.1",
        int(port),
        token=token,
        certificate=tls_cert,
        key=tls_key,
        log=LogSettings(log_json, size_bytes(log_size, "--log-size")),
        say=_json_teller() if log_json else lambda text: tell(f"streamline: {text}"),
    )


def _json_teller() -> Callable[[str], None]:
    log = JsonLog(sys.stderr, SystemClock())
    return lambda text: log.say("info", text)


@click.command()
@job_arguments
@click.option("--parallelism", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--checkpoint-every",
    default="1s",
    show_default=True,
    help='From one checkpoint to the next, such as "500ms" or "1m".',
)
@click.option(
    "--from",
    "origin",
    metavar="PATH",
    default="",
    help="Begin from this savepoint; on the cluster.",
)
@click.option(
    "--allow-dropped-state",
    is_flag=True,
    help="State that the job has no place for any more may be given up.",
)
@click.option(
    "--requirements",
    type=click.Path(dir_okay=False, path_type=Path),
    help="What pip is to install, in a virtual environment of the job's own.",
)
@click.option(
    "--memory-limit",
    metavar="SIZE",
    help='A worker process that holds more is replaced, such as "512MiB"; the job lives on.',
)
@click.option("--key", default="", help="Submitting again with the same key gives the same job.")
@at_cluster
def submit(
    target: str,
    params: tuple[str, ...],
    parallelism: int,
    checkpoint_every: str,
    origin: str,
    allow_dropped_state: bool,
    requirements: Path | None,
    memory_limit: str | None,
    key: str,
    cluster: str | None,
    as_json: bool,
) -> None:
    """Have the cluster run the job in FILE; prints the job's id.

    Modules and packages beside FILE that it imports go along. For a folder with a job.py in it,
    all of it does, but for what is hidden and virtual environments.
    """
    given = parse_params(params)
    every_ms = positive_duration_ms(checkpoint_every, "--checkpoint-every")
    limit = 0 if memory_limit is None else size_bytes(memory_limit, "--memory-limit")
    needed = ""
    if requirements is not None:
        try:
            needed = requirements.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--requirements {requirements} cannot be read: {error}") from error
    with _client(cluster) as client:
        from streamline.cluster.submission import pack

        path, colon, expose = target.rpartition(":")
        if not colon or Path(target).exists():
            path, expose = target, "job"
        file, archive = pack(Path(path))
        body: dict[str, Any] = {
            "file": file,
            "archive": archive,
            "expose": expose,
            "params": given,
            "parallelism": parallelism,
            "checkpoint_every_ms": every_ms,
            "allow_dropped_state": allow_dropped_state,
            "memory_limit_bytes": limit,
            "requirements": needed,
            "origin": str(Path(origin).absolute()) if origin and "://" not in origin else origin,
        }
        # A lost answer must not make two jobs of one.
        try:
            job = client.post("/v1/jobs", body, key or str(uuid.uuid4()))
        except UsageError as error:
            if "ModuleNotFoundError" in str(error):
                error.args = (f"{error}; {_MISSING}",)
            raise
        print(json.dumps(job) if as_json else job["id"])


@click.command("list")
@at_cluster
@click.option("--all", "also_ended", is_flag=True, help="Also jobs that have ended.")
def list_(cluster: str | None, as_json: bool, also_ended: bool) -> None:
    """List jobs."""
    with _client(cluster) as client:
        jobs = client.get("/v1/jobs", ended=str(also_ended).lower())
    if as_json:
        print(json.dumps(jobs, indent=2))
        return
    if not jobs:
        tell("streamline: no job is running" + ("" if also_ended else "; --all shows ended ones"))
        return
    show_jobs(jobs)


@click.command()
@job_argument()
@at_cluster
@click.option("--watch", is_flag=True, help="Show it again and again, until it ends.")
def status(job: str, cluster: str | None, as_json: bool, watch: bool) -> None:
    """Show a job: its state, tasks, workers and last checkpoint."""
    seen = False
    with _client(cluster) as client:
        while True:
            place = f"/v1/jobs/{_named(job)}"
            found = client.get_patiently(place, time.sleep) if seen else client.get(place)
            seen = watch
            if watch and sys.stdout.isatty():
                click.clear()
            if as_json:
                print(json.dumps(found, indent=None if watch else 2), flush=True)
            else:
                show_job(found)
                sys.stdout.flush()
            if not watch or found["state"] in ENDED:
                return
            time.sleep(1.0)


@click.command()
@job_argument(ended=False)
@click.argument("path", metavar="[DIR]", required=False)
@at_cluster
def savepoint(job: str, path: str | None, cluster: str | None, as_json: bool) -> None:
    """Leave a savepoint of a running job, in DIR or the data folder; prints where."""
    with _client(cluster) as client:
        asked = client.post(f"/v1/jobs/{_named(job)}/savepoint", {"path": _place(path)})
        result = client.wait(asked, time.sleep)
        print(json.dumps(result) if as_json else result["path"])


@click.command()
@job_argument(ended=False)
@click.option("--savepoint", "path", metavar="DIR", help="Leave a savepoint there.")
@click.option("--drain", is_flag=True, help="Drain to a last checkpoint: what happens anyway.")
@at_cluster
def stop(job: str, path: str | None, drain: bool, cluster: str | None, as_json: bool) -> None:
    """Drain a job to a last checkpoint, and end it."""
    del drain
    with _client(cluster) as client:
        result = client.wait(
            client.post(f"/v1/jobs/{_named(job)}/stop", {"savepoint": _place(path)}), time.sleep
        )
    if as_json:
        print(json.dumps(result))
    else:
        tell(f"streamline: job {job} is {result['state']}")
        if "path" in result:
            print(result["path"])


@click.command()
@job_argument(ended=False)
@at_cluster
def cancel(job: str, cluster: str | None, as_json: bool) -> None:
    """End a job at once."""
    with _client(cluster) as client:
        result = client.wait(client.post(f"/v1/jobs/{_named(job)}/cancel"), time.sleep)
    if as_json:
        print(json.dumps(result))
    else:
        tell(f"streamline: job {job} is {result['state']}")


@click.command()
@job_argument(ended=False)
@click.option("--parallelism", type=click.IntRange(1), help="The new default parallelism.")
@click.option("--node", "nodes", metavar="NAME=N", multiple=True, help="That of one operator.")
@at_cluster
def rescale(
    job: str, parallelism: int | None, nodes: tuple[str, ...], cluster: str | None, as_json: bool
) -> None:
    """Have a running job go on at another parallelism."""
    given: dict[str, int] = {}
    for one in nodes:
        name, equals, count = one.rpartition("=")
        if not equals or not count.isdigit() or not int(count):
            raise UsageError(f"--node {one}: give NAME=N, such as window=4")
        given[name] = int(count)
    if parallelism is None and not given:
        raise UsageError("rescale: give --parallelism N, or --node NAME=N")
    with _client(cluster) as client:
        body = {"parallelism": parallelism, "nodes": given}
        result = client.wait(client.post(f"/v1/jobs/{_named(job)}/rescale", body), time.sleep)
    if as_json:
        print(json.dumps(result))
    else:
        single = "".join(f", {name} at {count}" for name, count in result["nodes"].items())
        tell(
            f"streamline: job {job} runs at parallelism {result['parallelism']}{single} "
            f"(after {result['seconds']:.1f} s)"
        )


@click.command()
@job_argument(ended=True)
@at_cluster
def remove(job: str, cluster: str | None, as_json: bool) -> None:
    """Remove a job that has ended: its log, its checkpoints and its code.

    Savepoints that you have asked for, and what the job has written, stay.
    """
    with _client(cluster) as client:
        removed = client.delete(f"/v1/jobs/{_named(job)}")
    if as_json:
        print(json.dumps(removed))
    else:
        tell(f"streamline: job {removed['id']} is removed")


@click.command()
@job_argument()
@click.option("--follow", is_flag=True, help="Go on until the job ends.")
@at_cluster
def logs(job: str, follow: bool, cluster: str | None, as_json: bool) -> None:
    """Show what a job, its workers and its functions have printed."""
    with _client(cluster) as client, suppress(KeyboardInterrupt):
        offset = 0
        while True:
            state = client.get(f"/v1/jobs/{_named(job)}")["state"] if follow else "failed"
            piece = client.get(f"/v1/jobs/{_named(job)}/logs", offset=offset)
            offset = piece["next"]
            if as_json:
                for line in piece["text"].splitlines():
                    print(json.dumps({"job": job, "line": line}))
            else:
                print(piece["text"], end="", flush=True)
            if piece["text"]:
                continue
            if state in ENDED:
                return
            time.sleep(0.3)


def _named(job: str) -> str:
    """A job's name as a part of an address; names may have any letters."""
    return quote(job, safe="")


def _place(path: str | None) -> str | None:
    """A path as the cluster, whose working folder is another, must be told it."""
    if path is None or "://" in path:
        return path
    return str(Path(path).absolute())


COMMANDS = (cluster, submit, list_, status, savepoint, stop, cancel, rescale, logs, remove)
