"""SchemaRegistry: schemas by number, over HTTP, and the five bytes that name one.

The wire format is Confluent's: a zero byte, the number of the schema (4 bytes, big-endian), then
the value. A schema is asked for once; numbers never change their meaning.
"""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from streamline.errors import ConnectorError, DecodeError, OutageError, UsageError

_PREFIX = struct.Struct(">bI")
_NOT_FOUND, _CONFLICT, _UNPROCESSABLE = 404, 409, 422
_TRIES = 3
_SERVER_ERROR = 500


@dataclass
class SchemaRegistry:
    """A schema registry that speaks Confluent's REST API.

    Args:
        url: Where it is, ``"http://localhost:8081"``.
        username, password: For basic authentication, if it wants one.
        timeout_s: How long to wait for an answer; the job stands still meanwhile, once for
            each schema.

    Raises:
        UsageError: For a url that does not begin with http.

    >>> SchemaRegistry("http://localhost:8081/").url
    'http://localhost:8081'
    """

    url: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout_s: float = 5.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(f"the schema registry's url must begin with http, not {self.url!r}")
        self.url = self.url.rstrip("/")
        self._known: dict[int, tuple[str, str]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": {}}

    def schema(self, number: int, kind: str = "AVRO") -> str:
        """The text of a schema; of Protobuf the compiled file in base64, if the registry has that.

        Args:
            number: Its number.
            kind: What it has to be: ``AVRO``, ``JSON`` or ``PROTOBUF``.

        Raises:
            DecodeError: If there is none of that number, or it is of another kind.
            OutageError: If the registry does not answer.
            ConnectorError: If it does not let us in.

        >>> registry = SchemaRegistry("http://localhost:8081")
        >>> registry.schema(7)  # doctest: +SKIP
        '"string"'
        """
        known = self._known.get(number)
        if known is None:
            # Text of this kind would have to be compiled; many registries do that.
            form = "?format=serialized" if kind == "PROTOBUF" else ""
            status, answer = self._ask(f"/schemas/ids/{number}{form}")
            if status == _NOT_FOUND:
                raise DecodeError(f"the schema registry at {self.url} has no schema {number}")
            # A registry names every kind but this one.
            found = str(answer.get("schemaType", "AVRO"))
            known = self._known[number] = found, self._text(status, answer, "schema")
        if known[0] != kind:
            raise DecodeError(
                f"schema {number} of the schema registry at {self.url} is of kind {known[0]}, not "
                f"{kind}"
            )
        return known[1]

    def register(self, subject: str, schema: str, kind: str) -> int:
        """The number of a schema under a subject; it is added if it is not there.

        Raises:
            ConnectorError: If the registry refuses it as incompatible, or does not let us in.
            OutageError: If it does not answer.

        >>> registry = SchemaRegistry("http://localhost:8081")
        >>> registry.register("orders-value", '"string"', "AVRO")  # doctest: +SKIP
        7
        """
        body = {"schema": schema, "schemaType": kind}
        status, answer = self._ask(f"/subjects/{quote(subject, safe='')}/versions", body)
        if status in (_CONFLICT, _UNPROCESSABLE):
            raise ConnectorError(
                f"the schema registry at {self.url} refuses the schema for subject {subject!r}: "
                f"{answer.get('message', status)}"
            )
        return int(self._text(status, answer, "id"))

    def _text(self, status: int, answer: dict[str, Any], name: str) -> str:
        if status != 200 or name not in answer:
            reason = answer.get("message", f"status {status}")
            kind = OutageError if status >= _SERVER_ERROR else ConnectorError
            raise kind(f"the schema registry at {self.url} answers: {reason}")
        return str(answer[name])

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        import urllib.error  # dear to import, and few jobs have a registry
        import urllib.request

        headers = {"Accept": "application/vnd.schemaregistry.v1+json"}
        if body is not None:
            headers["Content-Type"] = "application/vnd.schemaregistry.v1+json"
        if self.username is not None:
            pair = f"{self.username}:{self.password or ''}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        data = None if body is None else json.dumps(body).encode()
        reason: Exception | None = None
        for _ in range(_TRIES):
            request = urllib.request.Request(self.url + path, data=data, headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                    return response.status, json.loads(response.read())
            except urllib.error.HTTPError as error:
                try:
                    answer = json.loads(error.read())
                except ValueError:
                    answer = {"message": f"{error.code} {error.reason}"}
                return error.code, answer if isinstance(answer, dict) else {}
            except (OSError, ValueError) as error:
                reason = error
        raise OutageError(
            f"the schema registry at {self.url} cannot be asked: "
            f"{getattr(reason, 'reason', reason)}"
        ) from reason


def pack(number: int, value: bytes) -> bytes:
    """A value behind the number of its schema."""
    return _PREFIX.pack(0, number) + value


def unpack(data: bytes) -> tuple[int, bytes]:
    """The number of a value's schema, and the value.

    Raises:
        DecodeError: If it does not begin as it has to.
    """
    if len(data) < _PREFIX.size or data[0] != 0:
        raise DecodeError("the value does not begin with the number of a schema")
    _, number = _PREFIX.unpack_from(data)
    return number, data[_PREFIX.size :]
