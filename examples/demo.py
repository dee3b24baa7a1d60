"""The demo: a million orders through examples/spend_per_user.py, by the real command line.

    make demo
    python -m examples.demo --events 5000000 --parallelism 2

Everything is written to ``demo-output/`` in the current folder. Orders that are there already
are used again; a run that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from examples.generate import generate

JOB = Path(os.path.relpath(Path(__file__).parent / "spend_per_user.py"))
_SHOWN = 8


def run(events: int, parallelism: int) -> int:
    """Make the orders, run the job, show results; the exit status of the job."""
    folder = Path("demo-output") / f"{events}-orders"
    orders, spend, state = folder / "orders", folder / "spend", folder / "state"
    if not orders.is_dir():
        print(f"writing {events:,} orders to {orders}", flush=True)
        generate(orders, events)
    # A state folder of its own: a demo of another size must not go on from this one.
    arguments = ["run", str(JOB), "-p", f"input={orders}", "-p", f"output={spend}"]
    arguments += ["--parallelism", str(parallelism), "--state-dir", str(state)]
    print(f"$ streamline {shlex.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "streamline.cli.main", *arguments]
    with subprocess.Popen(command) as process:  # noqa: S603 - our own command
        print(f"process {process.pid}: try kill -9 {process.pid} while it runs", flush=True)
        try:
            status = process.wait()
        except KeyboardInterrupt:  # the job has got it too, and ends with a last checkpoint
            process.wait()
            return 130
    if status < 0:
        print("the job was killed; give the same command again and it goes on", file=sys.stderr)
        return 128 - status
    if status > 0:
        print(f"the job failed with exit status {status}; see above", file=sys.stderr)
        return status
    print()
    show(first_results(sorted(spend.glob("part-*"))))
    print(f"\nAll results are in {spend}: part-* files, one for each checkpoint and task.")
    print(
        f"Try next: {python()} -m examples.demo --events 5000000\n"
        "  kill it while it runs, with the kill -9 that it names, and give the same command\n"
        "  again: it goes on from the last checkpoint, and every order is counted once.\n"
        "  Then docs/tutorial.md."
    )
    return 0


def python() -> str:
    """This Python as one would type it here."""
    given = Path(sys.executable)
    return str(given.relative_to(Path.cwd()) if given.is_relative_to(Path.cwd()) else given)


def first_results(parts: Sequence[Path]) -> list[dict[str, Any]]:
    """The first few results there are."""
    found: list[dict[str, Any]] = []
    for part in parts:
        with part.open() as lines:
            for line in lines:
                if len(found) == _SHOWN:
                    return found
                found.append(json.loads(line))
    return found


def show(results: Sequence[dict[str, Any]]) -> None:
    """Print results as a small table."""
    print(f"{'user':<10}{'window begins (UTC)':<21}{'total':>10}{'orders':>8}")
    for result in results:
        begins = datetime.fromtimestamp(result["window_start"] / 1000, UTC)
        total, orders = result["total"], result["orders"]
        print(f"{result['key']:<10}{begins:%Y-%m-%d %H:%M:%S}  {total:>10.2f}{orders:>8}")


def main() -> None:
    """Read the arguments and run; exits with the job's status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description="Run examples/spend_per_user.py on many generated orders.",
    )
    parser.add_argument("--events", type=int, default=1_000_000, help="how many (1000000)")
    parser.add_argument("--parallelism", type=int, default=1, help="tasks side by side (1)")
    given = parser.parse_args()
    if given.events < 1 or given.parallelism < 1:
        parser.error("--events and --parallelism must be at least 1")
    try:
        sys.exit(run(given.events, given.parallelism))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
