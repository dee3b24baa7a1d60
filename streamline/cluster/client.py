"""Client: a cluster's REST API, for the commands.

It finds the cluster and its token, makes the calls, and turns what goes wrong into our own errors.
It imports nothing that runs jobs; what answers mean is for the commands to know.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from streamline.errors import JobFailedError, StreamlineError, UsageError

_TIMEOUT_S = 700.0  # requirements may have to be downloaded
_CONNECT_S = 10.0
_LOOK_EVERY_S = 0.05
_AWAY_S = 60.0


def known_cluster() -> Path:
    """Where the user's own cluster on this machine notes its address and token."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "streamline" / "cluster.json"


def _verification(ca: str | None) -> ssl.SSLContext:
    """What is checked of a cluster's certificate.

    Raises:
        UsageError: If the file with the one by which it is known cannot be used.
    """
    if ca is None:
        return httpx.create_ssl_context()
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:  # also what is wrong with what stands in it
        raise UsageError(f"--ca {ca} cannot be used: {error.strerror or error}") from error
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it may be the cluster's own
    return context


def _not_trusted(error: BaseException | None) -> str | None:
    """Why a certificate is not trusted, if that is what is wrong."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return None


class UnreachableError(StreamlineError):
    """The cluster does not answer."""


class Client:
    """Calls a cluster.

    Args:
        url: Where it is; that of ``STREAMLINE_CLUSTER``, or of the user's own cluster on this
            machine, if not given.
        timeout_s: How long an answer may take.
        ca: File with the certificate by which that of the cluster is known; that of
            ``STREAMLINE_CA``, or of the user's own cluster, if not given.

    Raises:
        UsageError: If there is no cluster to be called.
    """

    def __init__(
        self, url: str | None, timeout_s: float = _TIMEOUT_S, *, ca: str | None = None
    ) -> None:
        known: dict[str, str] = {}
        try:
            known = json.loads(known_cluster().read_text())
        except (OSError, ValueError):
            pass
        url = url or os.environ.get("STREAMLINE_CLUSTER") or known.get("url")
        if not url:
            raise UsageError(
                "there is no cluster; start one with streamline cluster start, or name one with "
                "--cluster URL or STREAMLINE_CLUSTER"
            )
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--cluster {url}: the address must begin with http:// or https://")
        self.url = url.rstrip("/")
        token = os.environ.get("STREAMLINE_TOKEN")
        ca = ca or os.environ.get("STREAMLINE_CA")
        if known.get("url") == self.url:
            token = known.get("token") if token is None else token
            ca = ca or known.get("ca")
        headers = {} if token is None else {"Authorization": f"Bearer {token.strip()}"}
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S)),
                verify=_verification(ca) if self.url.startswith("https://") else False,
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise UsageError(f"--cluster {url}, or STREAMLINE_TOKEN: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def get(self, path: str, **query: str | int) -> Any:
        """Ask for something.

        Raises:
            UsageError: If there is no such thing, or it is not ours to see.
            StreamlineError: If the cluster cannot be reached, or failed.
        """
        return self._call("GET", path, params=query)

    def post(self, path: str, body: dict[str, Any] | None = None, key: str = "") -> Any:
        """Have something done; errors as of :meth:`get`."""
        headers = {"Idempotency-Key": key} if key else {}
        return self._call("POST", path, json=body, headers=headers)

    def delete(self, path: str) -> Any:
        """Have something removed; errors as of :meth:`get`."""
        return self._call("DELETE", path)

    def wait(self, operation: dict[str, Any], pause: Callable[[float], None]) -> Any:
        """Wait until what was asked is done; what came of it.

        Args:
            operation: What was asked.
            pause: Waits so many seconds.

        Raises:
            JobFailedError: If it could not be done.
        """
        while operation["state"] == "pending":
            pause(_LOOK_EVERY_S)
            operation = self.get_patiently(f"/v1/operations/{operation['id']}", pause)
        if operation["state"] == "failed":
            raise JobFailedError(f"{operation['verb']} {operation['job']}: {operation['error']}")
        return operation["result"]

    def get_patiently(self, path: str, pause: Callable[[float], None], **query: str | int) -> Any:
        """As :meth:`get`; a cluster that is away for a minute at most is waited for.

        What was asked of it is done all the same, and so are its jobs.
        """
        waited_s = 0.0
        while True:
            try:
                return self.get(path, **query)
            except UnreachableError:
                if waited_s > _AWAY_S:
                    raise
                pause(1.0)
                waited_s += 1.0

    def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            if (why := _not_trusted(error)) is not None:
                raise UsageError(
                    f"the certificate of {self.url} is not trusted ({why}); give that of the "
                    "cluster, or of who has signed it, with --ca FILE or STREAMLINE_CA"
                ) from error
            raise UnreachableError(
                f"the cluster at {self.url} cannot be reached ({error}); is it running?"
            ) from error
        except httpx.InvalidURL as error:
            raise UsageError(f"--cluster {self.url}: {error}") from error
        if answer.is_success:
            try:
                return answer.json()
            except ValueError:
                raise StreamlineError(
                    f"{self.url} did not answer with JSON; is that a streamline cluster?"
                ) from None
        try:
            problem = answer.json()
            detail, trace = str(problem["detail"]), str(problem.get("trace", ""))
        except (ValueError, KeyError, TypeError):
            raise StreamlineError(
                f"{self.url} answered {answer.status_code}; is that a streamline cluster?"
            ) from None
        kind = UsageError if answer.status_code < 500 else StreamlineError
        failed = kind(detail)
        failed.trace = trace  # type: ignore[attr-defined]
        raise failed
