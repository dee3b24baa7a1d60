"""The daemon's process: its socket, its signals, its end."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from streamline.clock import SystemClock
from streamline.cluster.api import make_app
from streamline.cluster.client import known_cluster
from streamline.cluster.daemon import Daemon
from streamline.errors import UsageError

DEFAULT_PORT = 8437


class _Server(uvicorn.Server):
    """Without uvicorn's own way with signals, which ends the process before jobs are drained."""

    def stop(self) -> None:
        """Answer what is under way, then return from ``serve``."""
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(
    folder: Path,
    host: str,
    port: int,
    *,
    token: str | None,
    certificate: Path | None,
    key: Path | None,
    log_json: bool,
    say: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT; then drain all jobs to a checkpoint.

    Args:
        folder: The data folder.
        host, port: Where to listen.
        token: Who has it is let in; the data folder's own if not given.
        certificate, key: For TLS.
        log_json: Logs of jobs are to have JSON lines.
        say: Told what the user should know.

    Raises:
        UsageError: If the port is in use, or the address may not be listened at like that.
        LockedError: If another daemon uses the data folder.
    """
    if not _is_loopback(host):
        if token is None:
            raise UsageError(
                f"--listen {host}: other machines could reach it; give the token they must have "
                "with --token-file"
            )
        if certificate is None:
            say(f"listening on {host} without TLS: whoever can listen in can read the token")
    listening = _listen(host, port)
    with listening:
        asyncio.run(_serve(folder, listening, token, certificate, key, log_json, say))


async def _serve(
    folder: Path,
    listening: socket.socket,
    token: str | None,
    certificate: Path | None,
    key: Path | None,
    log_json: bool,
    say: Callable[[str], None],
) -> None:
    clock = SystemClock()
    daemon = Daemon(folder.absolute(), clock, log_json=log_json)
    if token is not None:
        daemon.token = token
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    url = f"{'https' if certificate else 'http'}://{shown}:{port}"
    config = uvicorn.Config(
        make_app(daemon, clock),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
        ssl_certfile=None if certificate is None else str(certificate),
        ssl_keyfile=None if key is None else str(key),
    )
    known = known_cluster()
    suspend = False
    try:
        daemon.start()
        _remember(known, url, daemon.token)
        say(f"cluster at {url}, data in {folder}")
        server = _Server(config)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, server.stop)
        await server.serve(sockets=[listening])
        suspend = True
        say("draining all jobs to a checkpoint; they go on when the cluster is started again")
    finally:
        _forget(known, url)
        await daemon.close(suspend=suspend)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise UsageError(
            f"--listen {host}:{port} cannot be listened at: {error.strerror}; give another"
        ) from error
    return listening


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _remember(path: Path, url: str, token: str) -> None:
    """Leave a note for the commands of the same user, so that they need neither."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"url": url, "token": token}, file)


def _forget(path: Path, url: str) -> None:
    try:
        if json.loads(path.read_text())["url"] == url:
            path.unlink()
    except (OSError, ValueError, KeyError):
        pass
