"""Each example on its sample data, against results computed here in plain Python."""

import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

import streamline as sl
from examples import click_sessions, demo, fraud_rule, generate, spend_per_user, word_count
from streamline.coordinator.lifecycle import JobState
from streamline.engines.inline import InlineEngine
from streamline.state.memory import MemoryStore
from streamline.state.store import DirectoryStore

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ("word_count", "spend_per_user", "click_sessions", "fraud_rule")
parallelism = pytest.mark.parametrize("parallelism", [1, 2])


def run(job: sl.Job, folder: Path, parallelism: int, **config: Any) -> None:
    status = InlineEngine(
        job.graph(),
        store=DirectoryStore(folder / "checkpoints"),
        open_kv=MemoryStore.open,
        directory=folder / "live",
        parallelism=parallelism,
        config=sl.RuntimeConfig(check_invariants=True, **config),
    ).run()
    assert status.state == JobState.FINISHED, status.reason


def read(folder: Path | str) -> list[Any]:
    parts = sorted(Path(folder).glob("part-*"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def spend(orders: list[Any]) -> dict[tuple[str, int], tuple[float, int]]:
    totals: dict[tuple[str, int], tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for order in orders:
        if order["amount"] > 0:
            window = order["user"], order["at"] // 10_000 * 10_000
            total, count = totals[window]
            totals[window] = total + order["amount"], count + 1
    return dict(totals)


def lines(path: str | Path) -> list[Any]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@parallelism
def test_word_count(tmp_path: Path, parallelism: int) -> None:
    run(word_count.job(output=str(tmp_path / "out")), tmp_path, parallelism)
    found = Counter(re.findall(r"[a-z']+", Path(word_count.SAMPLE).read_text().lower()))
    results = [(result["key"], result["count"]) for result in read(tmp_path / "out")]
    assert sorted(results) == sorted((w, n + 1) for w in found for n in range(found[w]))
    assert dict(results) == dict(found)  # the last result of a word is its count


@parallelism
def test_spend_per_user(tmp_path: Path, parallelism: int) -> None:
    run(spend_per_user.job(output=str(tmp_path / "out")), tmp_path, parallelism)
    results = read(tmp_path / "out")
    assert all(r["window_end"] == r["window_start"] + 10_000 for r in results)
    found = {(r["key"], r["window_start"]): (r["total"], r["orders"]) for r in results}
    assert found == spend(lines(spend_per_user.SAMPLE))
    assert len(found) == len(results)


def sessions_and_late(clicks: list[Any], gap_ms: int) -> tuple[dict[Any, Any], list[Any]]:
    """Sessions by user and bounds, and the clicks that came too late, click by click."""
    watermark = 0
    late: list[Any] = []
    kept: dict[str, list[Any]] = defaultdict(list)
    for click in clicks:
        at = click["at"]
        near = [c["at"] for c in kept[click["user"]]]
        # With its neighbours it is a session, which is open for a minute after its end.
        start = end = at
        while grown := [t for t in near if start - gap_ms <= t <= end + gap_ms]:
            near = [t for t in near if t not in grown]
            start, end = min(start, *grown), max(end, *grown)
        if end + gap_ms - 1 + 60_000 <= watermark:
            late.append(click)
        else:
            kept[click["user"]].append(click)
        watermark = max(watermark, at - 5_001)
    found: dict[Any, Any] = {}
    for user, mine in kept.items():
        mine.sort(key=lambda click: click["at"])
        group: list[Any] = []
        for click, following in zip(mine, [*mine[1:], None], strict=True):
            group.append(click)
            if following is None or following["at"] - click["at"] > gap_ms:
                bounds = (user, group[0]["at"], group[-1]["at"] + gap_ms)
                found[bounds] = Counter(c["page"] for c in group)
                group = []
    return found, late


@parallelism
def test_click_sessions(tmp_path: Path, parallelism: int) -> None:
    # One record to a batch: the watermark goes forward with each, as the reference's does.
    clicks = lines(click_sessions.SAMPLE)
    wide = tmp_path / "clicks.jsonl"
    wide.write_text("".join(json.dumps(click).ljust(99) + "\n" for click in clicks))
    job = click_sessions.job(str(wide), str(tmp_path / "out"))
    run(job, tmp_path, parallelism, batch_rows=1)
    expected, late = sessions_and_late(clicks, 30_000)
    assert sorted(read(tmp_path / "out/late"), key=str) == sorted(late, key=str)
    assert len(late) == 4
    results = read(tmp_path / "out/sessions")
    assert len(results) > len(expected)  # some were given again, for clicks within the lateness
    last = {(r["key"], r["window_start"], r["window_end"]): Counter(r["pages"]) for r in results}
    final = {
        (user, start, end): pages
        for (user, start, end), pages in last.items()
        if not any(
            u == user and s <= start and end <= e and (s, e) != (start, end) for u, s, e in last
        )
    }
    assert final == expected
    assert all(r["clicks"] == len(r["pages"]) for r in results)


@parallelism
def test_fraud_rule(tmp_path: Path, parallelism: int) -> None:
    run(fraud_rule.job(output=str(tmp_path / "out")), tmp_path, parallelism)
    tried: dict[str, Any] = {}
    expected = []
    for payment in lines(fraud_rule.SAMPLE):
        small = tried.get(payment["card"])
        if small and payment["amount"] >= 500 and payment["at"] - small["at"] <= 60_000:
            expected.append({"card": payment["card"], "tried": small, "taken": payment})
        if payment["amount"] <= 1:
            tried[payment["card"]] = payment
    assert len(expected) > 5
    assert sorted(read(tmp_path / "out"), key=str) == sorted(expected, key=str)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_docstring_tells_how_to_run_it(name: str) -> None:
    text = (ROOT / "examples" / f"{name}.py").read_text()
    assert f"streamline run examples/{name}.py -p input=" in text
    assert " -p output=" in text


def run_python(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_on_the_command_line(tmp_path: Path) -> None:
    given = ["-p", f"input={fraud_rule.SAMPLE}", "-p", f"output={tmp_path / 'out'}"]
    file = str(ROOT / "examples" / "fraud_rule.py")
    done = run_python(tmp_path, "-m", "streamline.cli.main", "run", file, *given, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["state"] == "finished"
    assert summary["records_out"] == len(read(tmp_path / "out"))


def test_the_demo_can_be_repeated_and_counts_every_order(tmp_path: Path) -> None:
    # A shorter run of it, so that the second one finds orders and a finished job.
    for _ in range(2):
        done = run_python(tmp_path, "-m", "examples.demo", "--events", "20000")
        assert done.returncode == 0, done.stderr
        assert "user-" in done.stdout
    folder = tmp_path / "demo-output" / "20000-orders"
    orders = [order for file in (folder / "orders").iterdir() for order in lines(file)]
    assert len(orders) == 20_000
    results = read(folder / "spend")
    found = {(r["key"], r["window_start"]): (r["total"], r["orders"]) for r in results}
    assert len(found) == len(results)
    assert found == spend(orders)


def test_the_demo_fails_when_the_job_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "demo-output" / "5-orders" / "orders"
    folder.mkdir(parents=True)
    (folder / "orders-0.jsonl").write_text("not an order\n")
    monkeypatch.setattr(demo, "JOB", ROOT / "examples" / "spend_per_user.py")
    assert demo.run(5, 1) == 1
    error = capfd.readouterr().err
    assert "not an order" in error
    assert "exit status 1" in error


def test_generated_orders_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate.generate(tmp_path / name, 1_000, seed=seed, late=0.01)
    texts = {
        name: [file.read_bytes() for file in sorted((tmp_path / name).iterdir())] for name in "abc"
    }
    assert len(texts["a"]) == 4
    assert texts["a"] == texts["b"] != texts["c"]
    assert not list(tmp_path.glob(".*"))
