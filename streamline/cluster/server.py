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
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from streamline.clock import SystemClock
from streamline.cluster.api import make_app
from streamline.cluster.client import known_cluster
from streamline.cluster.connections import Patience, Refusals, patient
from streamline.cluster.daemon import Daemon
from streamline.cluster.log import LogSettings
from streamline.errors import UsageError

DEFAULT_PORT = 8437


@dataclass(frozen=True)
class _Tls:
    context: ssl.SSLContext
    certificate: Path


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
    log: LogSettings,
    say: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT; then drain all jobs to a checkpoint.

    Args:
        folder: The data folder.
        host, port: Where to listen.
        token: Who has it is let in; the data folder's own if not given.
        certificate, key: For TLS.
        log: How logs of jobs are kept.
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
        asyncio.run(_serve(folder, listening, tls, token=token, log=log, say=say))


async def _serve(
    folder: Path,
    listening: socket.socket,
    tls: _Tls | None,
    *,
    token: str | None,
    log: LogSettings,
    say: Callable[[str], None],
) -> None:
    clock = SystemClock()
    daemon = Daemon(folder.absolute(), clock, log=log, say=say)
    if token is not None:
        daemon.token = token
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    url = f"{'http' if tls is None else 'https'}://{shown}:{port}"
    refusals = Refusals()
    config = uvicorn.Config(
        make_app(daemon, clock, refusals),
        http=patient(Patience(), refusals),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
    )
    config.load()
    config.ssl = (
        tls.context if tls is not None else None
    )  # it would load the files itself, and say what is wrong in its own way
    known = known_cluster()
    suspend = False
    try:
        daemon.start()
        try:
            _remember(known, url, daemon.token, tls.certificate if tls is not None else None)
        except OSError as error:
            say(
                f"{known} cannot be written ({error.strerror}): commands need --cluster {url}, and "
                f"STREAMLINE_TOKEN with what is in {folder / 'token'}"
            )
        say(f"cluster at {url}, data in {folder}")
        server = _Server(config)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, _end, daemon, server)
        await server.serve(sockets=[listening])
        suspend = True
        say("draining all jobs to a checkpoint; they go on when the cluster is started again")
    finally:
        _forget(known, url)
        await daemon.close(suspend=suspend)


def _end(daemon: Daemon, server: _Server) -> None:
    """Whoever is submitting a job is told at once; others are answered first."""
    daemon.take_no_more()
    server.stop()


def _tls(certificate: Path | None, key: Path | None) -> _Tls | None:
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
    return _Tls(context, certificate.absolute())


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends what is small at once only where it sees that this is TCP; or else each answer
    # of more than one piece waits for the other side's acknowledgement, 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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


def _remember(path: Path, url: str, token: str, certificate: Path | None) -> None:
    """Leave a note for the commands of the same user, so that they need neither."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        known = {"url": url, "token": token}
        json.dump(known | ({"ca": str(certificate)} if certificate is not None else {}), file)


def _forget(path: Path, url: str) -> None:
    try:
        if json.loads(path.read_text())["url"] == url:
            path.unlink()
    except (OSError, ValueError, KeyError):
        pass
