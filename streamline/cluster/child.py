"""A command in a session of its own: bounded in time and in what it prints, and gone as a whole.

For pip and for job files that are looked at: what is not ours may hang, print without end or leave
something behind. It does not know what the command is for.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_LOOK_EVERY_S = 0.2
MOST_PRINTED = 16 << 20
_TAIL = 4_000
_LEASH = "STREAMLINE_LEASH"


class OverLimitError(Exception):
    """It took too long, or printed too much; says which."""


async def run(
    *command: str, cwd: Path, log: Path, within_s: float, env: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a command to its end; what it has started ends with it.

    A command that calls :func:`end_with_parent` also ends if we are killed meanwhile.

    Args:
        command: The program and its arguments.
        cwd: Where it runs.
        log: A file for what it prints; it is removed afterwards.
        within_s: How long it may take.
        env: Its environment; ours if not given.

    Returns:
        Its exit status, and the end of what it printed.

    Raises:
        OverLimitError: If it took too long, or printed too much.
        OSError: If it cannot be started.
    """
    leash, ours = os.pipe()  # nobody else has our end: it is closed when we are gone
    try:
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=cwd,
                env={**(os.environ if env is None else env), _LEASH: str(leash)},
                pass_fds=[leash],
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(within_s):
                while not await _has_ended(process):
                    if log.stat().st_size > MOST_PRINTED:
                        raise OverLimitError(f"printed more than {MOST_PRINTED >> 20} MiB")
        except TimeoutError:
            raise OverLimitError(f"was not done within {within_s:g} s") from None
        finally:
            with suppress(ProcessLookupError):  # it, or what it has left behind
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        return process.returncode or 0, _end_of(log)
    finally:
        os.close(leash)
        os.close(ours)
        log.unlink(missing_ok=True)


def end_with_parent() -> None:
    """In a process that :func:`run` has started: end, with all of the session, if its parent does.

    A job's file that is looked at may never come to an end by itself.
    """
    leash = int(os.environ.pop(_LEASH))

    def watch() -> None:
        os.read(leash, 1)  # nothing ever comes
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="leash", daemon=True).start()


async def _has_ended(process: asyncio.subprocess.Process) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(_LOOK_EVERY_S):
            await process.wait()
    return process.returncode is not None


def _end_of(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        return file.read(_TAIL).decode(errors="replace").strip()
