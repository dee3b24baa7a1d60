"""Transport over real loopback sockets: who is let in, and channels from end to end.

Nothing sleeps: tests wait for what is to happen, under a limit that only a defect reaches.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from streamline.errors import ChannelBrokenError
from streamline.ids import ChannelId
from streamline.messages import END_OF_INPUT, Barrier, Watermark
from streamline.runtime.channel import Receiver, Sender
from streamline.runtime.credits import Cost, Credits
from streamline.runtime.frames import (
    LENGTH,
    FrameKind,
    encode_credit,
    encode_message,
    pack,
    unpack,
)
from streamline.runtime.transport import Exchange, proof
from tests.unit.small import rows

TOKEN = b"t" * 32
LIMIT = 1 << 20
CHANNEL = ChannelId(0, 0, 1)
HANGS_S = 10


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test to its end; what it leaves open or unhandled is an error."""
    problems: list[Any] = []

    async def guarded() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(context))
        async with asyncio.timeout(HANGS_S):
            await test

    asyncio.run(guarded())
    assert problems == []


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something is true."""
    while not condition():
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def exchanges(
    *tokens: bytes, limit: int = LIMIT
) -> AsyncIterator[tuple[list[Exchange], dict[int, tuple[str, int]]]]:
    """Workers 0, 1 ... with these tokens, all at generation 1, and their addresses."""
    found = [Exchange(token, worker, limit=limit) for worker, token in enumerate(tokens)]
    addresses = {}
    for worker, exchange in enumerate(found):
        addresses[worker] = await exchange.listen()
        exchange.begin(1)
    try:
        yield found, addresses
    finally:
        for exchange in found:
            await exchange.close()
        await asyncio.sleep(0)


def make_channel(
    a: Exchange, b: Exchange, batches: int = 2, size_bytes: int = 1 << 16
) -> tuple[Sender, Receiver]:
    """A channel from worker 0 to worker 1."""
    sender = a.sender(CHANNEL, Credits(batches=batches, size_bytes=size_bytes), 1)
    return sender, b.receiver(CHANNEL, 0)


async def connected(
    pair: list[Exchange], addresses: dict[int, tuple[str, int]], **credits: int
) -> tuple[Sender, Receiver]:
    ends = make_channel(pair[0], pair[1], **credits)
    await asyncio.gather(*[exchange.connect(addresses) for exchange in pair])
    return ends


async def receive(receiver: Receiver) -> Any:
    await until(lambda: receiver.readable)
    return receiver.receive()


# ---------------------------------------------------------------------- channels end to end


def test_messages_arrive_in_order_and_credits_come_back() -> None:
    async def test() -> None:
        async with exchanges(TOKEN, TOKEN) as (pair, addresses):
            sender, receiver = await connected(pair, addresses)
            sent = [rows("a"), Watermark(5), rows("b"), Barrier(1), rows("c"), END_OF_INPUT]
            for message in sent:
                sender.send(message)
            await until(lambda: len(receiver) == 4)
            assert not sender.ready  # c waits for credit
            found = [await receive(receiver) for _ in sent]
            assert [getattr(m, "values", m) for m in found] == [
                ["a"],
                Watermark(5),
                ["b"],
                Barrier(1),
                ["c"],
                END_OF_INPUT,
            ]
            await until(lambda: sender.credits.left == sender.credits.limit)
            assert sender.ready

    run(test())


def test_a_slow_receiver_holds_the_sender_back_and_wakes_it() -> None:
    async def test() -> None:
        async with exchanges(TOKEN, TOKEN) as (pair, addresses):
            sender, receiver = await connected(pair, addresses, batches=1)
            woken: list[str] = []
            sender.on_room = lambda: woken.append("room")
            for number in range(50):
                sender.send(rows(number))
            for number in range(50):
                assert (await receive(receiver)).values == [number]
                assert len(receiver) == 0  # never more than the one it has credit for
            await until(lambda: sender.credits.left == sender.credits.limit)
            assert woken == ["room"]

    run(test())


def test_channels_in_both_directions_share_a_connection() -> None:
    async def test() -> None:
        async with exchanges(TOKEN, TOKEN) as ((a, b), addresses):
            back = ChannelId(1, 1, 0)
            there = make_channel(a, b)
            other = b.sender(back, Credits(batches=1, size_bytes=100), 0), a.receiver(back, 1)
            await asyncio.gather(a.connect(addresses), b.connect(addresses))
            there[0].send(rows("there"))
            other[0].send(rows("back"))
            assert (await receive(there[1])).values == ["there"]
            assert (await receive(other[1])).values == ["back"]

    run(test())


def test_the_end_of_a_worker_breaks_both_ends_and_wakes_them() -> None:
    async def test() -> None:
        async with exchanges(TOKEN, TOKEN) as (pair, addresses):
            sender, receiver = await connected(pair, addresses, batches=1)
            woken: list[str] = []
            sender.on_room = lambda: woken.append("sender")
            sender.send(rows("a"))
            sender.send(rows("b"))
            await until(lambda: len(receiver) == 1)
            await pair[1].close()
            await until(lambda: woken == ["sender"])
            with pytest.raises(ChannelBrokenError):
                sender.send(rows("c"))
            assert [exchange.refused for exchange in pair] == [0, 0]  # peers, not strangers

    run(test())


def test_a_receiver_takes_what_came_and_then_says_broken() -> None:
    async def test() -> None:
        async with exchanges(TOKEN, TOKEN) as (pair, addresses):
            sender, receiver = await connected(pair, addresses)
            woken: list[str] = []
            sender.send(rows("a"))
            await until(lambda: len(receiver) == 1)
            receiver.on_message = lambda: woken.append("receiver")
            await pair[0].close()
            await until(lambda: woken == ["receiver"])
            assert receiver.receive().values == ["a"]  # type: ignore[union-attr]
            with pytest.raises(ChannelBrokenError):
                receiver.receive()

    run(test())


def test_three_workers() -> None:
    async def test() -> None:
        async with exchanges(TOKEN, TOKEN, TOKEN) as (workers, addresses):
            ends = {}
            for a in range(3):
                for b in range(3):
                    if a != b:
                        channel = ChannelId(0, a, b)
                        credits = Credits(batches=1, size_bytes=100)
                        ends[a, b] = (
                            workers[a].sender(channel, credits, b),
                            workers[b].receiver(channel, a),
                        )
            await asyncio.gather(*[worker.connect(addresses) for worker in workers])
            for pair, (sender, _) in ends.items():
                sender.send(rows(pair))
            for pair, (_, receiver) in ends.items():
                assert (await receive(receiver)).values == [pair]

    run(test())


# ---------------------------------------------------------------------- who is let in


def test_a_wrong_token_is_refused_and_counted() -> None:
    async def test() -> None:
        async with exchanges(TOKEN, b"wrong") as (pair, addresses):
            make_channel(pair[0], pair[1])
            connecting = asyncio.ensure_future(pair[0].connect(addresses))
            await until(lambda: pair[0].refused == 1 and pair[1].refused == 1)
            assert not connecting.done()
            connecting.cancel()

    run(test())


async def talk(address: tuple[str, int], *frames: bytes) -> bytes:
    """What a stranger hears who says something; ends when he is hung up on."""
    reader, writer = await asyncio.open_connection(*address)
    for frame in frames:
        writer.write(frame)
    heard = b""
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(1 << 16):
            heard += chunk
    writer.close()
    return heard


def hello(*words: Any) -> bytes:
    return b"".join(pack([FrameKind.HELLO, *words]))


NONCE = b"n" * 32


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0" * 64,
        b"\x04\0\0\0\0\0\0\0",
        LENGTH.pack(1025),
        LENGTH.pack(0xFFFFFFFF),
        hello("nonce", NONCE, "more"),
        hello("nonce", 5),
        hello("nonce"),
        hello("proof", NONCE, NONCE),
        hello("name", NONCE, [0, 1]),
        hello("name", 5, [0, 1]),
        hello("welcome", [0, 1]),
        hello(),
        b"".join(encode_credit(CHANNEL, Cost(1, 1))),
        b"".join(encode_message(CHANNEL, END_OF_INPUT, Cost(0, 0))),
    ],
    ids=lambda said: repr(said)[:40],
)
def test_a_stranger_is_refused_counted_and_told_nothing(said: bytes) -> None:
    async def test() -> None:
        async with exchanges(TOKEN) as ((exchange,), addresses):
            assert await talk(addresses[0], said) == b""
            await until(lambda: exchange.refused == 1)

    run(test())


def test_a_stranger_who_knows_the_protocol_but_not_the_token_hears_only_a_proof() -> None:
    async def test() -> None:
        async with exchanges(TOKEN) as ((exchange,), addresses):
            guess = proof(b"guess", "dialer", NONCE)
            heard = await talk(addresses[0], hello("nonce", NONCE), hello("name", guess, [1, 1]))
            header, _ = unpack(memoryview(heard)[LENGTH.size :])
            assert header[:2] == [FrameKind.HELLO, "proof"]
            await until(lambda: exchange.refused == 1)

    run(test())


def test_a_proof_cannot_be_sent_back_as_ones_own() -> None:
    """Reflection: what the acceptor proves is of no use to a dialer."""

    async def test() -> None:
        async with exchanges(TOKEN) as ((exchange,), addresses):
            reader, writer = await asyncio.open_connection(*addresses[0])
            writer.write(hello("nonce", NONCE))
            (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
            header, _ = unpack(memoryview(await reader.readexactly(length)))
            writer.write(hello("name", header[2], [1, 1]))
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            await until(lambda: exchange.refused == 1)

    run(test())


async def sneak_in(address: tuple[str, int], worker: int, generation: int) -> Any:
    """A connection by hand of someone who knows the token."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(hello("nonce", NONCE))
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    header, _ = unpack(memoryview(await reader.readexactly(length)))
    assert header[2] == proof(TOKEN, "acceptor", NONCE)
    writer.write(hello("name", proof(TOKEN, "dialer", header[3]), [worker, generation]))
    return reader, writer


@pytest.mark.parametrize(
    "said",
    [
        LENGTH.pack(LIMIT + 1),
        LENGTH.pack(8) + b"\xff" * 8,
        b"".join(pack([FrameKind.ROWS])),
        b"".join(pack([FrameKind.END_OF_INPUT, 9, 9, 9])),
        b"".join(pack([99, *CHANNEL])),
        b"".join(pack([FrameKind.WATERMARK, *CHANNEL])),
        b"".join(pack([FrameKind.CREDIT, *ChannelId(1, 1, 0), 1, 1])),
        b"".join(pack([FrameKind.CREDIT, *ChannelId(1, 1, 0)])),
        b"".join(pack([FrameKind.CREDIT, *ChannelId(1, 1, 0), "x", None])),
        b"".join(pack([FrameKind.END_OF_INPUT, [], 0, 0])),
    ],
    ids=lambda said: repr(said)[:40],
)
def test_a_peer_that_breaks_the_protocol_is_hung_up_on_and_its_channels_break(said: bytes) -> None:
    async def test() -> None:
        async with exchanges(TOKEN, TOKEN) as ((_, b), addresses):
            receiver = b.receiver(CHANNEL, 0)
            b.sender(ChannelId(1, 1, 0), Credits(batches=1, size_bytes=1), 0)
            connecting = asyncio.ensure_future(b.connect({}))
            reader, writer = await sneak_in(addresses[1], 0, 1)
            await connecting
            writer.write(said)
            await until(lambda: receiver.readable)
            with pytest.raises(ChannelBrokenError):
                receiver.receive()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()

    run(test())


def test_a_frame_up_to_the_limit_passes() -> None:
    async def test() -> None:
        async with exchanges(TOKEN, TOKEN) as (pair, addresses):
            sender, receiver = await connected(pair, addresses)
            sender.send(rows("x" * (LIMIT - 200)))
            assert len((await receive(receiver)).values[0]) == LIMIT - 200

    run(test())


def test_a_batch_over_the_frame_limit_breaks_the_channel() -> None:
    async def test() -> None:
        async with exchanges(TOKEN, TOKEN) as (pair, addresses):
            sender, receiver = await connected(pair, addresses)
            sender.send(rows("x" * LIMIT))
            await until(lambda: receiver.readable)
            with pytest.raises(ChannelBrokenError):
                receiver.receive()

    run(test())


# ---------------------------------------------------------------------- generations


def test_a_peer_of_an_older_generation_is_hung_up_on() -> None:
    async def test() -> None:
        async with exchanges(TOKEN) as ((exchange,), addresses):
            exchange.begin(5)
            exchange.receiver(CHANNEL, 1)
            reader, writer = await sneak_in(addresses[0], 1, 4)
            await reader.read()
            writer.close()

    run(test())


def test_a_peer_that_is_ahead_waits_for_us() -> None:
    async def test() -> None:
        async with exchanges(TOKEN, TOKEN) as ((a, b), addresses):
            a.begin(2)
            sender = a.sender(CHANNEL, Credits(batches=1, size_bytes=100), 1)
            connecting = asyncio.ensure_future(a.connect(addresses))
            await connecting
            sender.send(rows("early"))
            b.begin(2)
            receiver = b.receiver(CHANNEL, 0)
            await b.connect(addresses)
            assert (await receive(receiver)).values == ["early"]

    run(test())


def test_a_peer_that_was_ahead_and_left_again_breaks_its_channels() -> None:
    """Else we would wait for messages that cannot come."""

    async def test() -> None:
        async with exchanges(TOKEN, TOKEN) as ((a, b), addresses):
            a.begin(2)
            a.sender(CHANNEL, Credits(batches=1, size_bytes=100), 1)
            await a.connect(addresses)
            await a.close()
            b.begin(2)
            receiver = b.receiver(CHANNEL, 0)
            await b.connect({})
            await until(lambda: receiver.readable)
            with pytest.raises(ChannelBrokenError):
                receiver.receive()

    run(test())


def test_a_new_generation_breaks_the_channels_of_the_old() -> None:
    """Else what an old task still sends would arrive among the new attempt's records."""

    async def test() -> None:
        async with exchanges(TOKEN, TOKEN) as (pair, addresses):
            old_sender, old_receiver = await connected(pair, addresses)
            for exchange in pair:
                exchange.begin(2)
            sender, receiver = await connected(pair, addresses)
            with pytest.raises(ChannelBrokenError):
                old_sender.send(rows("old"))
            with pytest.raises(ChannelBrokenError):
                old_receiver.receive()
            sender.send(rows("new"))
            assert (await receive(receiver)).values == ["new"]

    run(test())


def test_a_worker_that_cannot_be_reached_is_an_os_error() -> None:
    async def test() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # bound but not listening: refused at once
            async with exchanges(TOKEN) as ((exchange,), _):
                exchange.sender(CHANNEL, Credits(batches=1, size_bytes=100), 1)
                with pytest.raises(OSError, match="(?i)connect"):
                    await exchange.connect({1: unused.getsockname()})

    run(test())
