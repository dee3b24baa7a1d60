"""The examples, and what goes to other sinks than the main one: golden at 1, killed at 2, equal."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.processes import inputs
from tests.processes.runner import JOBS, Run, results

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
Lines = Counter[str]


def as_they_are(lines: Lines) -> Lines:
    return lines


def pages_in_any_order(lines: Lines) -> Lines:
    """Sessions whose pages are sorted; the other lines as they are."""
    found: Lines = Counter()
    for line, times in lines.items():
        value = json.loads(line)
        if "pages" in value:
            value["pages"].sort()
        found[json.dumps(value)] += times
    return found


def last_of_each_window(lines: Lines) -> Lines:
    """A window that gives its result again has counted more by then; no result is there twice."""
    assert max(lines.values()) == 1
    last: dict[Any, Any] = {}
    found: Lines = Counter()
    for line in lines:
        value = json.loads(line)
        if "window_start" not in value:
            found[line] += 1
            continue
        window = value["key"], value["window_start"]
        last[window] = max(last.get(window, (0, "")), (value["count"], line))
    assert len(last) < len(lines) - sum(found.values()), "no window gave its result again"
    found.update(line for _, line in last.values())
    return found


@dataclass(frozen=True)
class Case:
    """A job, what it reads, what must be equal, and what its golden results must have in them."""

    target: str
    write: Callable[[Path], None]
    holds: dict[str, int]
    equal: Callable[[Lines], Lines] = as_they_are


CASES = {
    "word_count": Case(f"{EXAMPLES}/word_count.py:job", inputs.words, {"": 3 * 39_999}),
    "spend_per_user": Case(f"{EXAMPLES}/spend_per_user.py:job", inputs.spend, {"": 1_000}),
    "click_sessions": Case(
        f"{EXAMPLES}/click_sessions.py:job",
        inputs.clicks,
        {"sessions": 1_000, "late": 89},
        pages_in_any_order,
    ),
    "fraud_rule": Case(f"{EXAMPLES}/fraud_rule.py:job", inputs.payments, {"": 500}),
    "late": Case(
        f"{JOBS}:late",
        inputs.mixed,
        {"totals": 1_000, "late": 216, "broken": 103},
        last_of_each_window,
    ),
    "refused": Case(f"{JOBS}:refused", inputs.mixed, {"halves": 78_400, "refused": 1_600}),
}


@pytest.mark.parametrize("name", CASES)
def test_killed_at_2_and_restored_at_3(name: str, tmp_path: Path) -> None:
    """Everything dies between the manifest and the commit of the second checkpoint."""
    case = CASES[name]
    case.write(tmp_path / "in")
    file, _, job = case.target.rpartition(":")

    def start(folder: str, parallelism: int, crash: str = "") -> Run:
        return Run(
            job,
            tmp_path / folder,
            input=tmp_path / "in",
            jobs=Path(file),
            parallelism=parallelism,
            checkpoint_every="30ms",
            crash=crash,
        )

    golden = start("golden", 1)
    golden.finish()
    for sink, least in case.holds.items():
        assert sum(results(golden.output / sink).values()) >= least, sink
    assert start("out", 2, "completed@2").end()[0] == -9
    again = start("out", 3)
    again.finish()
    assert case.equal(results(again.output)) == case.equal(results(golden.output))
