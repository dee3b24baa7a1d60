"""PostgresServer: a real PostgreSQL in a temporary folder, on loopback.

It knows where the server's programs are and how a cluster of databases is made, also when tests
run as root, which the server refuses. Tables are for the test to make.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from streamline.testing.services.process import (
    ServerProcess,
    Service,
    ServiceUnavailableError,
    free_port,
)

VARIABLE = "STREAMLINE_TEST_POSTGRES"
_USERS = ("postgres", "nobody")


class PostgresServer(Service):
    """A server of its own, or the one whose DSN ``STREAMLINE_TEST_POSTGRES`` holds.

    It needs the server's programs, such as Debian's ``postgresql``. PostgreSQL does not run as
    root; then it runs as the user ``postgres`` or ``nobody``. A server that the variable names
    can be neither stopped nor killed.

    Args:
        durable: Wait for the disk, as a test that kills the server needs it.
        password: What the user must know; without one everybody is let in.

    Attributes:
        dsn: How to connect.

    Raises:
        ServiceUnavailableError: On start, if it cannot be had.

    >>> from streamline.connectors.postgres import PostgresSink
    >>> server = PostgresServer(password="secret")  # nothing runs yet
    >>> sink = PostgresSink(server.dsn, table="spend")
    >>> with server:  # doctest: +SKIP
    ...     server.stop()
    ...     server.start()
    """

    def __init__(self, *, durable: bool = False, password: str | None = None) -> None:
        self._durable = durable
        self._password = password
        super().__init__(os.environ.get(VARIABLE) if password is None else None, VARIABLE)
        self._port = free_port()
        self.dsn = self._given or f"host=127.0.0.1 port={self._port} user=tests dbname=postgres"
        if password is not None:
            self.dsn += f" password={password}"

    def _create(self) -> ServerProcess:
        initdb, postgres = find_program("initdb"), find_program("postgres")
        become = _other_user()
        folder = self._folder = Path(tempfile.mkdtemp(prefix="streamline-postgres-"))
        data = folder / "data"
        if become is not None:
            os.chown(folder, become.pw_uid, become.pw_gid)
        give_up = None if become is None else _giving_up(become)
        command = [initdb, "-D", str(data), "-U", "tests", "-E", "UTF8", "--no-sync"]
        if self._password is None:
            command += ["-A", "trust"]
        else:
            secret = folder / "password"
            secret.write_text(self._password)
            secret.chmod(0o644)  # initdb may run as another user; the folder is gone with the test
            command += ["-A", "scram-sha-256", "--pwfile", str(secret)]
        done = subprocess.run(
            [*command, "--locale=C"], capture_output=True, check=False, preexec_fn=give_up, cwd="/"
        )
        if done.returncode != 0:
            words = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise ServiceUnavailableError(f"PostgreSQL's storage cannot be made: {words}")
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            "fsync": "on" if self._durable else "off",
            "max_connections": "50",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return ServerProcess(
            "PostgreSQL",
            [postgres, "-D", str(data), *options],
            log=folder / "postgres.log",
            port=self._port,
            ready=b"ready to accept connections",
            before=give_up,
            stop_signal=signal.SIGINT,
        )


def find_program(name: str) -> str:
    """Where a program of PostgreSQL's server stands.

    Raises:
        ServiceUnavailableError: If it is not installed.
    """
    found = shutil.which(name)
    if found is not None and Path(found).resolve().name == name:
        return found
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    if versions:
        return str(versions[0])
    if found is not None:
        return found
    raise ServiceUnavailableError(
        f"PostgreSQL for tests needs the server's program {name!r}; install PostgreSQL (Debian: "
        f"postgresql), or name a server in {VARIABLE}"
    )


def _other_user() -> pwd.struct_passwd | None:
    """Whom to run as: nobody else, unless we are root."""
    if os.geteuid() != 0:
        return None
    for name in _USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ServiceUnavailableError(
        f"PostgreSQL does not run as root, and there is none of the users {', '.join(_USERS)}"
    )


def _giving_up(user: pwd.struct_passwd) -> Callable[[], None]:
    def give_up() -> None:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)

    return give_up
