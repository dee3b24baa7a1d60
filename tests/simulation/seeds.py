"""Many seeds of a simulation: run all, look for one that fails, replay one by a command."""

import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, TypeAlias

SEEDS = int(os.environ.get("STREAMLINE_SIM_SEEDS", "1000"))
CHUNK = 50
Simulate: TypeAlias = Callable[..., Any]
"""Takes a seed, and what its story is told to; raises if the run went wrong."""


def all_failures(simulate: Simulate, module: str) -> list[str]:
    """Run all seeds, side by side in processes.

    Args:
        simulate: A function at the top level of a module.
        module: What ``python -m`` replays a seed with.

    Returns:
        For each seed that fails, why, and the command.
    """
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        chunks = pool.map(partial(_failures, simulate, module), range(0, SEEDS, CHUNK))
        return [text for texts in chunks for text in texts]


def _failures(simulate: Simulate, module: str, first: int) -> list[str]:
    found = []
    for seed in range(first, min(first + CHUNK, SEEDS)):
        error = failure(simulate, seed)
        if error is not None:
            found.append(f"seed {seed}: {error!r:.300}\n  replay: python -m {module} {seed}")
    return found


def failure(simulate: Simulate, seed: int) -> BaseException | None:
    """What a seed fails by."""
    try:
        simulate(seed)
    except BaseException as error:  # a task of the simulation may have been cancelled
        return error
    return None


def is_noticed(simulate: Simulate, seeds: int) -> bool:
    """Whether any seed fails; the first that does is enough."""
    for seed in range(seeds):
        error = failure(simulate, seed)
        if error is not None:
            print(f"seed {seed}: {error!r:.200}")
            return True
    return False


def replay(simulate: Simulate, module: str) -> None:
    """Replay the seeds that the command line names, and tell what happened."""
    first = int(sys.argv[1])
    last = int(sys.argv[2]) if len(sys.argv) > 2 else first
    failed = 0
    for seed in range(first, last + 1):
        story: list[str] = []
        try:
            simulate(seed, story.append)
        except BaseException:
            failed += 1
            print("\n".join(story))
            traceback.print_exc()
            print(f"seed {seed} failed; replay: python -m {module} {seed}")
        else:
            if first == last:
                print("\n".join(story))
    print(f"seeds: {last - first + 1}, failed: {failed}")
    sys.exit(1 if failed else 0)
