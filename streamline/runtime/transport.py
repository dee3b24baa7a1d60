"""Channels between processes: one connection per pair of workers, all channels on it.

Both sides prove that they know the job's token before the first frame (challenge and HMAC in
both directions), and name worker and generation. Frames have a size limit. A stranger is
refused, counted and told nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from collections.abc import Callable
from typing import Any, cast

from streamline.errors import ProtocolError
from streamline.ids import ChannelId
from streamline.runtime.channel import Message, Receiver, Sender
from streamline.runtime.credits import Cost, Credits
from streamline.runtime.frames import (
    LENGTH,
    FrameKind,
    decode_message,
    encode_credit,
    encode_message,
    pack,
    unpack,
)

_HANDSHAKE_LIMIT = 1024
_NONCE_BYTES = 32
_CONNECT_TIMEOUT_S = 20  # workers of one attempt are deployed to within moments of each other


def proof(token: bytes, role: str, nonce: bytes) -> bytes:
    """What shows that one knows the token, without showing it."""
    return hmac.new(token, role.encode() + nonce, hashlib.sha256).digest()


class Connection(asyncio.Protocol):
    """One authenticated connection; frames in and out.

    Args:
        token: Shared secret of the job.
        me: This worker's number, and the generation it runs.
        dialed: Whether this side connected.
        on_open: Called with the peer's worker number and generation once both are proven.
        on_frame: Called with header and body of each frame after that.
        on_lost: Called once when the connection is gone.
        limit: Largest frame accepted, in bytes.
    """

    def __init__(
        self,
        token: bytes,
        me: tuple[int, int],
        *,
        dialed: bool,
        on_open: Callable[[Connection], None],
        on_frame: Callable[[Connection, list[Any], memoryview], None],
        on_lost: Callable[[Connection, Exception | None], None],
        limit: int,
    ) -> None:
        self.peer: tuple[int, int] = (-1, -1)
        self._token = token
        self._me = me
        self._dialed = dialed
        self._on_open = on_open
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._limit = limit
        self._nonce = os.urandom(_NONCE_BYTES)
        self._proven = False
        self._error: Exception | None = None
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is not a subclass
        self._transport.set_write_buffer_limits(high=1 << 30)  # credits bound what is in flight
        if self._dialed:
            self._write(pack([FrameKind.HELLO, "nonce", self._nonce]))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_lost(self, self._error or exc)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start = 0
        view = memoryview(buffer)
        try:
            while len(buffer) - start >= LENGTH.size:
                (length,) = LENGTH.unpack_from(buffer, start)
                if length > (self._limit if self._proven else _HANDSHAKE_LIMIT):
                    raise ProtocolError(f"a frame of {length} bytes is over the limit")
                end = start + LENGTH.size + length
                if len(buffer) < end:
                    break
                # Copied once: columns refer to it and outlive the receive buffer.
                self._take(memoryview(bytes(view[start + LENGTH.size : end])))
                start = end
        except Exception as error:  # noqa: BLE001 - whatever a peer sends costs it the connection
            view.release()
            self._buffer = bytearray()
            self.close(error)
            return
        view.release()
        del buffer[:start]

    def send(self, buffers: list[bytes | memoryview]) -> None:
        """Send a frame; dropped if the connection is gone (``on_lost`` tells)."""
        self._write(buffers)

    def pause(self) -> None:
        """Read nothing for now."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self, error: Exception | None = None) -> None:
        """Close; ``on_lost`` follows, with the error."""
        self._error = self._error or error
        if self._transport is not None:
            self._transport.abort() if error else self._transport.close()

    def _write(self, buffers: list[bytes | memoryview]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(buffers)

    def _take(self, frame: memoryview) -> None:
        header, body = unpack(frame)
        if self._proven:
            self._on_frame(self, header, body)
        else:
            self._handshake(header)

    def _handshake(self, header: list[Any]) -> None:
        """dialer: nonce -> acceptor: proof, nonce -> dialer: proof, name -> acceptor: name."""
        try:
            kind, step, *rest = header
            if kind != FrameKind.HELLO:
                raise ProtocolError("a frame before the handshake")
            if step == "nonce" and not self._dialed:
                (theirs,) = rest
                mine = proof(self._token, "acceptor", theirs)
                self._write(pack([FrameKind.HELLO, "proof", mine, self._nonce]))
            elif step == "proof" and self._dialed:
                given, theirs = rest
                self._check(given, "acceptor")
                mine = proof(self._token, "dialer", theirs)
                self._write(pack([FrameKind.HELLO, "name", mine, list(self._me)]))
            elif step == "name" and not self._dialed:
                given, peer = rest
                self._check(given, "dialer")
                # The dialer's generation: ours may be about to begin.
                self._write(pack([FrameKind.HELLO, "welcome", [self._me[0], peer[1]]]))
                self._open(peer)
            elif step == "welcome" and self._dialed:
                (peer,) = rest
                self._open(peer)
            else:
                raise ProtocolError(f"handshake step {step!r} out of turn")
        except (ValueError, TypeError) as error:
            raise ProtocolError(f"the handshake cannot be read: {error}") from error

    def _check(self, given: Any, role: str) -> None:
        wanted = proof(self._token, role, self._nonce)
        if not isinstance(given, bytes) or not hmac.compare_digest(given, wanted):
            raise ProtocolError("the peer does not know the token")

    def _open(self, peer: list[int]) -> None:
        worker, generation = peer
        self.peer = (int(worker), int(generation))
        self._proven = True
        self._on_open(self)


class Exchange:
    """All connections of one worker, and the channels on them, for one generation at a time.

    Args:
        token: Shared secret of the job.
        worker: This worker's number.
        limit: Largest frame accepted, in bytes.
    """

    def __init__(self, token: bytes, worker: int, *, limit: int) -> None:
        self.refused = 0
        self._token = token
        self._worker = worker
        self._limit = limit
        self._server: asyncio.Server | None = None
        self._generation = 0
        self._links: dict[int, Connection] = {}
        self._early: dict[int, Connection] = {}
        self._senders: dict[ChannelId, Sender] = {}
        self._receivers: dict[ChannelId, Receiver] = {}
        self._worker_of: dict[ChannelId, int] = {}
        self._linked = asyncio.Event()

    async def listen(self, host: str = "127.0.0.1") -> tuple[str, int]:
        """Accept connections; returns the address."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: self._connection(dialed=False), host, 0)
        address: tuple[str, int] = self._server.sockets[0].getsockname()[:2]
        return address

    def begin(self, generation: int) -> None:
        """Drop everything of the generation before; its channels break."""
        self._generation = generation
        for sender in self._senders.values():
            sender.break_off()
        for receiver in self._receivers.values():
            receiver.break_off()
        for link in [*self._links.values(), *self._early.values()]:
            if link.peer[1] != generation:
                link.close()
        self._links = {w: c for w, c in self._links.items() if c.peer[1] == generation}
        self._senders, self._receivers, self._worker_of = {}, {}, {}
        early = [link for link in self._early.values() if link.peer[1] == generation]
        self._early = {}
        for link in early:
            self._links[link.peer[0]] = link
        self._linked.clear()

    def sender(self, channel: ChannelId, credits: Credits, worker: int) -> Sender:
        """The sending end of a channel to a task in another worker."""

        def deliver(message: Message, cost: Cost) -> None:
            link = self._links.get(worker)
            if link is not None:
                link.send(encode_message(channel, message, cost))

        sender = Sender(channel, credits, deliver)
        self._senders[channel] = sender
        self._worker_of[channel] = worker
        return sender

    def receiver(self, channel: ChannelId, worker: int) -> Receiver:
        """The receiving end of a channel from a task in another worker."""

        def grant(cost: Cost) -> None:
            link = self._links.get(worker)
            if link is not None:
                link.send(encode_credit(channel, cost))

        receiver = Receiver(channel, grant)
        self._receivers[channel] = receiver
        self._worker_of[channel] = worker
        return receiver

    async def connect(self, peers: dict[int, tuple[str, int]]) -> None:
        """Connect to the workers that channels lead to; the lower number dials.

        Raises:
            OSError: If a worker cannot be reached.
        """
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await self._connect(peers)
        except TimeoutError as error:
            raise ConnectionError(f"no answer in {_CONNECT_TIMEOUT_S} s") from error

    async def _connect(self, peers: dict[int, tuple[str, int]]) -> None:
        needed = set(self._worker_of.values())
        loop = asyncio.get_running_loop()
        for worker in sorted(needed):
            if self._worker < worker and worker not in self._links:
                host, port = peers[worker]
                await loop.create_connection(lambda: self._connection(dialed=True), host, port)
        while not needed <= set(self._links):
            self._linked.clear()
            await self._linked.wait()
        for link in self._links.values():
            link.resume()

    async def close(self) -> None:
        """Close all."""
        if self._server is not None:
            self._server.close()
        for link in [*self._links.values(), *self._early.values()]:
            link.close()
        self._links.clear()
        self._early.clear()

    def _connection(self, *, dialed: bool) -> Connection:
        return Connection(
            self._token,
            (self._worker, self._generation),
            dialed=dialed,
            on_open=self._opened,
            on_frame=self._frame,
            on_lost=self._lost,
            limit=self._limit,
        )

    def _opened(self, link: Connection) -> None:
        worker, generation = link.peer
        link.pause()  # until the channels are there
        if generation == self._generation:
            self._links[worker] = link
            self._linked.set()
        elif generation > self._generation:
            self._early[worker] = link
        else:
            link.close()

    def _frame(self, link: Connection, header: list[Any], body: memoryview) -> None:
        if link.peer[1] != self._generation or self._links.get(link.peer[0]) is not link:
            return  # of an attempt that is over
        try:
            channel = ChannelId(*header[1:4])
        except TypeError as error:
            raise ProtocolError("a frame without a channel") from error
        if header[0] == FrameKind.CREDIT:
            sender = self._senders.get(channel)
            if sender is not None:
                sender.grant(Cost(header[4], header[5]))
            return
        receiver = self._receivers.get(channel)
        if receiver is None:
            raise ProtocolError(f"a frame for channel {channel}, which does not end here")
        receiver.push(*decode_message(header, body))

    def _lost(self, link: Connection, error: Exception | None) -> None:
        worker, generation = link.peer
        if worker < 0:
            self.refused += 1
            return
        if self._early.get(worker) is link:
            del self._early[worker]
        if self._links.get(worker) is link:
            del self._links[worker]
            for channel, other in self._worker_of.items():
                if other != worker or generation != self._generation:
                    continue
                if channel in self._senders:
                    self._senders[channel].break_off(error)
                else:
                    self._receivers[channel].break_off(error)
