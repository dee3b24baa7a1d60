"""Make sample orders: a folder of JSON lines, the same ones for the same arguments.

Orders are dealt to several files, as a topic deals them to its partitions. Within a file they
are up to two seconds out of order, and one in fifty is a return with a negative amount, so
that a job has something to sort out. With ``--late`` some come ten minutes late.

    python -m examples.generate demo-output/orders --events 100000
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

from streamline.plural import counted

BEGIN_MS = 1_760_000_000_000
USERS = 1_000
FILES = 4
_JITTER_MS = 2_000
_LATE_MS = 600_000
_BLOCK = 100_000
_LINE = '{"user":"user-%03d","amount":%.2f,"at":%d}\n'


def generate(
    folder: Path, events: int, *, files: int = FILES, seed: int = 1, late: float = 0.0
) -> None:
    """Write orders, one for each millisecond of event time.

    The folder appears when it is complete: what was cut off is never taken for the whole.

    Args:
        folder: Where to; replaced if it is there.
        events: How many orders in all.
        files: How many files they are dealt to.
        seed: The same seed makes the same orders.
        late: Part of the orders, from 0 to 1, that come ten minutes late.
    """
    rng = np.random.default_rng(seed)
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    outputs = [(unfinished / f"orders-{number}.jsonl").open("w") for number in range(files)]
    for first in range(0, events, _BLOCK):
        numbers = np.arange(first, min(first + _BLOCK, events))
        count = len(numbers)
        users = rng.integers(0, USERS, count)
        # Quarters add up exactly in any order: two runs can be compared byte by byte.
        amounts = rng.integers(1, 1_600, count) / 4
        amounts[rng.random(count) < 0.02] *= -1
        at = BEGIN_MS + numbers - rng.integers(0, _JITTER_MS, count)
        at[rng.random(count) < late] -= _LATE_MS
        rows = list(zip(users.tolist(), amounts.tolist(), at.tolist(), strict=True))
        for number, output in enumerate(outputs):
            mine = rows[(number - first) % files :: files]
            output.write("".join([_LINE % row for row in mine]))
    for output in outputs:
        output.close()
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def main() -> None:
    """Read the arguments and write the files."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.generate", description="Make sample orders as JSON lines."
    )
    parser.add_argument("folder", type=Path, help="folder to write; replaced if it is there")
    parser.add_argument("--events", type=int, default=1_000_000, help="how many (1000000)")
    parser.add_argument("--files", type=int, default=FILES, help=f"in how many files ({FILES})")
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same orders (1)")
    parser.add_argument(
        "--late", type=float, default=0.0, help="part that comes ten minutes late, such as 0.001"
    )
    given = parser.parse_args()
    if given.events < 0 or given.files < 1 or not 0 <= given.late <= 1:
        parser.error("--events must not be negative, --files at least 1, --late from 0 to 1")
    generate(given.folder, given.events, files=given.files, seed=given.seed, late=given.late)
    print(f"{counted(given.events, 'order')} in {counted(given.files, 'file')} in {given.folder}")


if __name__ == "__main__":
    main()
