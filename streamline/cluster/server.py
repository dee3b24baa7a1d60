"""The daemon's process: its socket, its signals, its end.

It binds the address, refuses one that strangers can reach without a token, and ends in order. It
knows how the API is served, not what it offers.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import signal
import socket
import ssl
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
        UsageError: If the port is in use, the address may not be listened at like that, or the
            files for TLS cannot be used.
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
    tls = _tls(certificate, key)
    listening = _listen(host, port)
    with listening:
        asyncio.run(_serve(folder, listening, tls, token=token, log_json=log_json, say=say))


async def _serve(
    folder: Path,
    listening: socket.socket,
    tls: ssl.SSLContext | None,
    *,
    token: str | None,
    log_json: bool,
    say: Callable[[str], None],
) -> None:
    clock = SystemClock()
    daemon = Daemon(folder.absolute(), clock, log_json=log_json, say=say)
    if token is not None:
        daemon.token = token
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    url = f"{'http' if tls is None else 'https'}://{shown}:{port}"
    config = uvicorn.Config(
        make_app(daemon, clock),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
    )
    config.load()
    config.ssl = tls  # it would load the files itself, and say what is wrong in its own way
    known = known_cluster()
    suspend = False
    try:
        daemon.start()
        try:
            _remember(known, url, daemon.token)
        except OSError as error:
            say(
                f"{known} cannot be written ({error.strerror}): commands need --cluster {url}, and "
                f"STREAMLINE_TOKEN with what is in {folder / 'token'}"
            )
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


def _tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # also what is wrong with what stands in them
        raise UsageError(
            f"--tls-cert {certificate} and --tls-key {key} cannot be used: "
            f"{error.strerror or error}"
        ) from error
    return context


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)  # who comes when we say where we are, waits until we serve
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
