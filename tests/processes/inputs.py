"""Input files for the golden jobs whose results hang on the order of what they read.

Packed files are read by one reader from their beginning to their end, so what is late in one, or
follows what, is the same at every parallelism. Amounts are quarters: they add up exactly in any
order.
"""

import gzip
import json
import random
from pathlib import Path
from typing import Any

from tests.processes.runner import START_MS

DAY_MS = 86_400_000
SAFE = 15_000
"""From this record on event time is known, whatever the size of a batch."""


def _write(path: Path, records: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), 1))


def words(path: Path, count: int = 40_000) -> None:
    """Lines of three words, in three files."""
    rng = random.Random(11)
    for number in range(3):
        lines = [
            " ".join(f"Word{'abcdefghijkl'[rng.randrange(12)]}" for _ in range(3))
            for _ in range(count // 3)
        ]
        _write(path / f"{number}.txt.gz", lines)


def spend(path: Path, count: int = 80_000) -> None:
    """Orders and returns, nothing late, in three files."""
    rng = random.Random(12)
    for number in range(3):
        records = [
            {
                "user": f"u{rng.randrange(97)}",
                "amount": rng.randrange(-40, 1600) / 4,
                "at": START_MS + place * 9 - rng.randrange(4_000),
            }
            for place in range(count // 3)
        ]
        _write(path / f"{number}.jsonl.gz", records)


def clicks(path: Path, count: int = 60_000) -> None:
    """Clicks in one file; those that are late are late by a day."""
    rng = random.Random(13)
    records = []
    for number in range(count):
        late = DAY_MS if number > SAFE and number % 501 == 0 else 0
        at = START_MS + number * 40 - rng.randrange(4_000) - late
        user, page = rng.randrange(997), rng.randrange(9)
        records.append({"user": f"u{user}", "page": f"/{page}", "at": at})
    _write(path / "clicks.jsonl.gz", records)


def payments(path: Path, count: int = 60_000) -> None:
    """Payments, many of them very small or very large; each card in one file."""
    rng = random.Random(14)
    for number in range(3):
        records = [
            {
                "card": f"c{number}-{rng.randrange(199)}",
                "amount": rng.choice([0.25, 1.0, 20.5, 49.75, 700.0]),
                "at": START_MS + place * 300 - rng.randrange(4_000),
            }
            for place in range(count // 3)
        ]
        _write(path / f"{number}.jsonl.gz", records)


def mixed(path: Path, count: int = 80_000) -> None:
    """Orders in one file: some late by a day, some by half a minute, some broken."""
    rng = random.Random(15)
    records: list[Any] = []
    for number in range(count):
        late = 0
        if number > SAFE:
            late = DAY_MS if number % 301 == 0 else 30_000 if number % 97 == 0 else 0
        at = START_MS + number * 10 - rng.randrange(4_000) - late
        user, amount = rng.randrange(97), rng.randrange(100)
        records.append({"number": number, "user": f"u{user}", "amount": amount, "at": at})
        if number % 777 == 0:
            records.append(f'{{"number":{number},"user":"broken"')
    _write(path / "mixed.jsonl.gz", records)
