"""Orders to the process of a job, over a loopback socket: length, then JSON.

The first message carries the token. Then each order has a number, and so has its answer; they
may overtake each other.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import struct
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec

from streamline.errors import ProtocolError, StreamlineError

Handler: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
_LENGTH = struct.Struct("<I")
_LIMIT = 16 << 20
_HELLO_LIMIT = 1024
_HELLO_S = 5.0


class OrderFailedError(StreamlineError):
    """The process of a job could not do what it was told; says why."""


class MasterGoneError(StreamlineError):
    """The process of a job went away, perhaps while it was doing something."""


async def _read(reader: asyncio.StreamReader, limit: int) -> Any:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > limit:
        raise ProtocolError(f"a message of {length} bytes is over the limit")
    try:
        return msgspec.json.decode(await reader.readexactly(length))
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"a message cannot be read: {error}") from error


def _write(writer: asyncio.StreamWriter, message: Any) -> None:
    data = msgspec.json.encode(message)
    writer.write(_LENGTH.pack(len(data)) + data)


class ControlServer:
    """Takes orders.

    Args:
        token: What whoever connects must know.
        handle: Called with an order and its arguments; its answer is sent back.

    Attributes:
        refused: How many strangers came.
    """

    def __init__(self, token: str, handle: Handler) -> None:
        self.refused = 0
        self._token = token
        self._handle = handle
        self._server: asyncio.Server | None = None
        self._at_work: set[asyncio.Task[None]] = set()
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def open(self) -> int:
        """Listen on loopback; the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Answer what is under way, then listen no more."""
        await asyncio.gather(*self._at_work, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        for writer in self._serving.values():
            writer.close()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        try:
            await self._talk(reader, writer)
        finally:
            del self._serving[task]
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HELLO_S):
                hello = await _read(reader, _HELLO_LIMIT)
            given = hello.get("token") if isinstance(hello, dict) else None
            if not isinstance(given, str) or not hmac.compare_digest(
                given.encode(), self._token.encode()
            ):
                raise ProtocolError("a stranger")
        except (ProtocolError, OSError, EOFError, TimeoutError):
            self.refused += 1
            return
        try:
            while True:
                order = await _read(reader, _LIMIT)
                task = asyncio.ensure_future(self._answer(order, writer))
                self._at_work.add(task)
                task.add_done_callback(self._at_work.discard)
        except (ProtocolError, OSError, EOFError):
            pass

    async def _answer(self, order: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        answer: dict[str, Any] = {"number": order.get("number")}
        try:
            answer["result"] = await self._handle(order["verb"], order["arguments"])
        except MasterGoneError:
            writer.close()  # as if we were gone already: it is asked again of the next process
            return
        except StreamlineError as error:
            answer["error"] = str(error)
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            answer["error"] = f"the job's process failed by {error!r}"
        if not writer.is_closing():
            _write(writer, answer)


class ControlClient:
    """Gives orders; made by :meth:`connect`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.gone = asyncio.Event()
        self._receiving = asyncio.ensure_future(self._receive())

    @classmethod
    async def connect(cls, port: int, token: str) -> ControlClient:
        """Connect.

        Raises:
            OSError: If nobody listens there.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        _write(writer, {"token": token})
        return cls(reader, writer)

    async def call(self, verb: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        """Give an order and wait for the answer.

        Raises:
            OrderFailedError: If it could not be done.
            MasterGoneError: If the process went away before it answered.
        """
        if self.gone.is_set():
            raise MasterGoneError("the job's process is gone")
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        _write(self._writer, {"number": number, "verb": verb, "arguments": arguments or {}})
        try:
            return await answer
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        """Let go of the connection."""
        self._writer.close()
        self._receiving.cancel()
        await asyncio.gather(self._receiving, return_exceptions=True)
        self._lost()

    async def _receive(self) -> None:
        try:
            while True:
                answer = await _read(self._reader, _LIMIT)
                waiting = self._waiting.get(answer["number"])
                if waiting is None or waiting.done():
                    continue
                if "error" in answer:
                    waiting.set_exception(OrderFailedError(answer["error"]))
                else:
                    waiting.set_result(answer["result"])
        except (ProtocolError, OSError, EOFError, KeyError, TypeError):
            self._writer.close()
        finally:
            self._lost()

    def _lost(self) -> None:
        self.gone.set()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(MasterGoneError("the job's process went away"))
