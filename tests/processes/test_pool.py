"""The pool of worker processes by itself: strangers, starts that fail, more workers than cores."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest

from streamline.config import RuntimeConfig
from streamline.engines import pool as pools
from streamline.engines.pool import ProcessPool, exit_of
from streamline.jobfile import JobSpec
from streamline.runtime.link import WorkerSettings
from tests.processes.runner import Run, results


def pool(folder: Path, lost: list[tuple[int, str]]) -> ProcessPool:
    settings = WorkerSettings(
        worker=-1,
        token=b"secret",
        host="",
        port=0,
        spec=JobSpec("job.py", "", "job", {}),
        fingerprint={},
        config=RuntimeConfig(),
        directory="",
        checkpoints=str(folder / "checkpoints"),
    )
    return ProcessPool(
        settings,
        folder,
        on_ready=lambda worker: None,
        on_lost=lambda worker, how: lost.append((worker, how)),
        on_message=lambda worker, message: None,
    )


@pytest.mark.parametrize("said", [b"", b"\x00\x00", b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1"])
def test_a_stranger_who_stays_does_not_hold_up_the_end(said: bytes, tmp_path: Path) -> None:
    async def scene() -> None:
        ours = pool(tmp_path, [])
        await ours.open()
        reader, writer = await asyncio.open_connection("127.0.0.1", ours._port)
        writer.write(said)
        await writer.drain()
        while not ours._serving and not ours.refused:
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await ours.close()
            with suppress(ConnectionResetError):  # it was hung up on, one way or the other
                assert await reader.read() == b""
        writer.close()

    asyncio.run(scene())


def test_a_stranger_who_says_nothing_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_HELLO_WITHIN_S", 0.01)

    async def scene() -> None:
        ours = pool(tmp_path, [])
        await ours.open()
        reader, writer = await asyncio.open_connection("127.0.0.1", ours._port)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        assert ours.refused == 1
        writer.close()
        await ours.close()

    asyncio.run(scene())


def test_a_worker_that_cannot_be_started_is_a_lost_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools.sys, "executable", str(tmp_path / "no-such-python"))
    lost: list[tuple[int, str]] = []

    async def scene() -> None:
        ours = pool(tmp_path, lost)
        await ours.open()
        ours.ensure([0])
        async with asyncio.timeout(5):
            while not lost:
                await asyncio.sleep(0)
        await ours.close()

    asyncio.run(scene())
    ((worker, how),) = lost
    assert worker == 0
    assert how.startswith("could not be started: ")


def test_waiting_for_processes_leaves_threads_for_others() -> None:
    """More waits than the event loop's own pool has threads."""

    async def scene() -> list[int]:
        processes = [
            pools.subprocess.Popen(["sh", "-c", "read line"], stdin=pools.subprocess.PIPE)
            for _ in range((os.cpu_count() or 1) + 6)
        ]
        exits = [exit_of(process) for process in processes]
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(lambda: 7) == 7
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        return await asyncio.gather(*exits)

    assert set(asyncio.run(scene())) == {1}


def test_more_workers_than_the_event_loop_has_threads(small: Path, tmp_path: Path) -> None:
    run = Run("tumbling", tmp_path, input=small, parallelism=(os.cpu_count() or 1) + 6)
    summary = run.finish()
    assert summary["restarts"] == 0
    assert results(run.output)
