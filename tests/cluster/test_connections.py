"""Who connects to the API and says nothing, never ends or never reads: ended, counted, no hindrance."""

import asyncio
import contextlib
import socket
import time

import pytest
import uvicorn

from streamline.cluster.connections import Patience, Refusals, patient
from tests.cluster.running import Cluster

HEAD = b"GET / HTTP/1.1\r\nHost: here\r\n"
SHORT = Patience(head_s=0.2, stall_s=0.2, connections=4)
LARGE = 64 << 20


async def app(scope, receive, send):
    """Answers with much, or, where something is posted, once all of it is there."""
    while scope["method"] == "POST":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        if not message.get("more_body"):
            break
    size = LARGE if scope["method"] == "GET" else 2
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x" * size})


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):
        yield


@contextlib.asynccontextmanager
async def serving(patience):
    """A server with little patience, on a socket; where, and whom it has refused."""
    refusals = Refusals()
    config = uvicorn.Config(
        app, log_config=None, lifespan="off", http=patient(patience, refusals),
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(config)
    running = asyncio.ensure_future(server.serve(sockets=[listening]))
    try:
        yield listening.getsockname(), refusals
    finally:
        server.should_exit = True
        await running
        listening.close()


async def dripped(writer, data):
    """A byte now and then, until the other side has had enough."""
    for byte in data:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.01)


POST = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 100000\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "dripping"),
    [(b"", b""), (b"", HEAD * 100), (HEAD, b""), (POST, b""), (POST, b"x" * 1_000)],
    ids=["nothing", "a head in drops", "half a head", "no body", "a body in drops"],
)
async def test_what_never_comes_to_an_end_is_ended(said, dripping):
    async with serving(SHORT) as (address, refusals), asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(said)
        drops = asyncio.ensure_future(dripped(writer, dripping))
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        drops.cancel()
        assert refusals.count == 1
        writer.close()


async def test_an_answer_that_is_never_read():
    """It is not kept for ever, also not behind the end of the request."""
    async with serving(SHORT) as (address, refusals), asyncio.timeout(5):
        with socket.create_connection(address) as silent:
            silent.sendall(HEAD + b"Connection: close\r\n\r\n")
            while not refusals.count:
                await asyncio.sleep(0.01)


async def test_who_is_slow_but_reads_is_served():
    """For longer than it has patience with those who do nothing."""
    async with serving(SHORT) as (address, refusals), asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address, limit=1 << 16)
        for byte in HEAD + b"Connection: close\r\n\r\n":
            writer.write(bytes([byte]))
        seen, began = 0, time.monotonic()
        while data := await reader.read(4 << 20):
            seen += len(data)
            if time.monotonic() - began < 3 * SHORT.stall_s:
                await asyncio.sleep(0.02)
        assert seen > LARGE
        assert refusals.count == 0
        writer.close()


async def test_of_too_many_the_one_goes_that_has_been_silent_for_longest():
    async with serving(Patience(connections=4)) as (address, refusals), asyncio.timeout(5):
        others = [await asyncio.open_connection(*address) for _ in range(5)]
        assert await others[0][0].read() == b""
        assert refusals.count == 1
        reader, writer = others[-1]
        writer.write(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        for _, one in others:
            one.close()


def test_a_crowd_that_says_nothing_is_no_hindrance(tmp_path):
    """Nor does it take all the files that the daemon may have open."""
    with Cluster(tmp_path) as cluster, contextlib.ExitStack() as crowd:
        for number in range(600):
            stranger = socket.create_connection(("127.0.0.1", cluster.port))
            crowd.enter_context(stranger)
            stranger.sendall(HEAD[: number % len(HEAD)])
        took_s = []
        for _ in range(100):
            began = time.perf_counter()
            assert cluster.http.get("/v1/jobs").json() == []
            took_s.append(time.perf_counter() - began)
        assert sorted(took_s)[50] < 0.05
        text = cluster.http.get("/metrics").text
        (refused,) = (
            float(line.split()[1])
            for line in text.splitlines()
            if line.startswith("streamline_silent_connections_total ")
        )
        assert refused >= 600 - 256
