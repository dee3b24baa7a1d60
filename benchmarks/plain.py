"""What the jobs are measured against: loops over orjson and dicts, with no guarantee at all.

Called as ``python -m benchmarks.plain keyed|stateless INPUT OUTPUT``.
"""

import sys
from pathlib import Path
from typing import IO, Any

import orjson

SIZE_MS, EVERY_MS, DELAY_MS = 10_000, 5_000, 5_000
BATCH = 4_096


def keyed(source: IO[bytes], target: IO[bytes]) -> None:
    """Filter, key, sliding window."""
    windows: dict[int, dict[str, list[Any]]] = {}
    highest = 0
    loads, dumps = orjson.loads, orjson.dumps
    for number, line in enumerate(source):
        order = loads(line)
        amount = order["amount"]
        if not amount > 0:
            continue
        at, user = order["at"], order["user"]
        last = at - at % EVERY_MS
        for start in (last - EVERY_MS, last):
            window = windows.get(start)
            if window is None:
                window = windows[start] = {}
            entry = window.get(user)
            if entry is None:
                window[user] = [amount, 1]
            else:
                entry[0] += amount
                entry[1] += 1
        highest = max(highest, at)
        if number % BATCH == 0:
            fire(windows, highest - DELAY_MS, target, dumps)
    fire(windows, 1 << 62, target, dumps)


def fire(
    windows: dict[int, dict[str, list[Any]]], watermark: int, target: IO[bytes], dumps: Any
) -> None:
    """Write the windows that have ended."""
    for start in sorted(start for start in windows if start + SIZE_MS - 1 <= watermark):
        for user, (total, count) in windows.pop(start).items():
            result = {
                "key": user,
                "window_start": start,
                "window_end": start + SIZE_MS,
                "total": total,
                "orders": count,
            }
            target.write(dumps(result) + b"\n")


def stateless(source: IO[bytes], target: IO[bytes]) -> None:
    """One function for each record."""
    loads, dumps = orjson.loads, orjson.dumps
    for line in source:
        order = loads(line)
        result = {
            "user": order["user"],
            "cents": int(order["amount"] * 100),
            "at": order["at"],
        }
        target.write(dumps(result) + b"\n")


def main() -> None:
    """Run one of the loops."""
    name, source, target = sys.argv[1:]
    with (
        Path(source).open("rb", buffering=1 << 18) as reading,
        Path(target).open("wb", buffering=1 << 18) as writing,
    ):
        {"keyed": keyed, "stateless": stateless}[name](reading, writing)


if __name__ == "__main__":
    main()
