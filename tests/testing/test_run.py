"""run_job with scripted sources and collecting sinks: whole jobs, crashes and continued runs."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

import streamline as sl
from streamline.connectors.collection import CollectionSource
from streamline.connectors.files import FileSink, FileSource
from streamline.errors import ConnectorError, JobFailedError, UsageError
from streamline.messages import MIN_TIMESTAMP
from streamline.testing import (
    CollectingSink,
    Crash,
    End,
    Event,
    ManualClock,
    Pause,
    ScriptedSource,
    ScriptItem,
    Watermark,
    run_job,
)


def windows(
    *scripts: list[ScriptItem[str]], bounded: bool = True
) -> tuple[sl.Job, CollectingSink[Any], CollectingSink[str]]:
    job, sink, late = sl.Job("windows"), CollectingSink[Any](), CollectingSink[str]()
    words = job.source("words", ScriptedSource(*scripts, bounded=bounded))
    results = words.key_by(lambda word: word).window(sl.Tumbling("10ms")).aggregate(n=sl.Count())
    results.map(lambda result: (result.key, result.window_start, result.n)).sink("out", sink)
    results.late.sink("late", late)
    return job, sink, late


def test_scripted_watermarks_decide_what_is_late() -> None:
    script = [Event("a", 5), Event("a", 25), Watermark(9), Event("a", 9), Event("a", 10)]
    job, sink, late = windows(script)
    status = run_job(job)
    assert sink.records == [("a", 0, 1), ("a", 10, 1), ("a", 20, 1)]
    assert late.records == ["a"]
    assert late.events == [("a", 9)]
    assert status.total("late") == 1


def test_the_slowest_partition_has_the_watermark() -> None:
    fast: list[ScriptItem[str]] = [Event("a", 5), Watermark(100), Pause("1s"), Event("a", 6)]
    slow: list[ScriptItem[str]] = [Event("b", 5), Watermark(4), Pause("2s"), Event("b", 200)]
    for parallelism in (1, 2, 3):
        job, sink, late = windows(fast, slow)
        run_job(job, parallelism=parallelism)
        assert sorted(sink.records) == [("a", 0, 2), ("b", 0, 1), ("b", 200, 1)]
        assert late.records == []


def test_an_ended_partition_holds_nobody_up() -> None:
    ends: list[ScriptItem[str]] = [Event("a", 5), End(), Event("a", 5)]
    goes_on: list[ScriptItem[str]] = [Pause("1s"), Watermark(50), Event("b", 5), Event("b", 60)]
    job, sink, late = windows(ends, goes_on)
    run_job(job)
    assert sink.records == [("a", 0, 1), ("b", 60, 1)]
    assert late.records == ["b"]


@pytest.mark.parametrize("pause", [[], [Pause("3s")]])
def test_a_crash_restarts_the_job_and_counts_nothing_twice(pause: list[Pause]) -> None:
    """With a pause there is a checkpoint to go back to, without it starts over."""
    script = [Event("a", 5), Watermark(9), Event("b", 11), *pause, Crash("x"), Event("a", 12)]
    job, sink, late = windows([*script, *pause, Crash("y"), Event("b", 5)])
    status = run_job(job)
    assert status.restarts == 2
    assert sorted(sink.records) == [("a", 0, 1), ("a", 10, 1), ("b", 10, 1)]
    assert late.records == ["b"]


def test_any_seed_of_faults_gives_the_same_result() -> None:
    def run(**settings: int) -> list[Any]:
        script = [[Event(f"w{n % 7}", n), Watermark(n - 5)] for n in range(60)]
        job, sink, late = windows([item for pair in script for item in pair])
        run_job(job, **settings)
        assert late.records == [] == sink.pending
        return sorted(sink.records)

    wanted = run()
    for seed in range(25):
        assert run(faults=seed, parallelism=1 + seed % 3) == wanted, seed


def test_an_unbounded_job_is_stopped_and_continued(tmp_path: Path) -> None:
    script: list[ScriptItem[str]] = [Event("a", 1), Watermark(10), Pause("5s"), Event("a", 11)]
    job, sink, _ = windows([*script, Watermark(30)], bounded=False)
    first = run_job(job, folder=tmp_path, until=lambda: len(sink.records) >= 1)
    assert (first.state, sink.records) == ("stopped", [("a", 0, 1)])
    second = run_job(job, folder=tmp_path, until=lambda: len(sink.records) >= 2)
    assert (second.state, sink.records) == ("stopped", [("a", 0, 1), ("a", 10, 1)])


def test_a_failed_job_raises_with_the_reason_and_the_trace() -> None:
    job = sl.Job("fails")
    numbers = job.source("in", CollectionSource([1, 0]))
    numbers.map(lambda n: 1 // n, name="divide").sink("out", CollectingSink())
    with pytest.raises(
        JobFailedError, match="job 'fails' failed: .*divide.*ZeroDivisionError"
    ) as e:
        run_job(job)
    assert "1 // n" in e.value.__notes__[0]


def test_the_clock_is_the_tests_own() -> None:
    clock = ManualClock(start_ms=1_000)
    job, sink = sl.Job("clock"), CollectingSink[int]()
    numbers = job.source("in", ScriptedSource([1, Pause("1m"), 2]))
    numbers.map(lambda _: clock.now_ms()).sink("out", sink)
    run_job(job, clock=clock)
    first, second = sink.records
    assert 1_000 <= first < 1_100
    assert second - first >= 60_000


def test_files_of_several_runs_of_one_folder_do_not_collide(tmp_path: Path) -> None:
    script = [1, Pause("5s"), 2, Pause("5s"), 3]
    job, seen = sl.Job("files"), CollectingSink[int]()
    numbers = job.source("in", ScriptedSource(script, bounded=False))
    numbers.sink("out", FileSink(tmp_path / "out", sl.Json()))
    numbers.sink("seen", seen)
    for count in (1, 2, 3):
        run_job(job, folder=tmp_path / "state", until=lambda c=count: len(seen.records) >= c)
    texts = [path.read_text() for path in (tmp_path / "out").glob("part-*")]
    assert sorted("".join(texts).split()) == ["1", "2", "3"]
    assert not (tmp_path / "out/.pending").exists()


def test_a_sink_starts_over_with_the_job() -> None:
    job, sink = sl.Job("again"), CollectingSink[int]()
    source = job.source("in", CollectionSource([1, 2]))
    source.sink("a", sink)
    source.map(lambda n: -n).sink("b", sink)
    for _ in range(2):
        run_job(job)
        assert sorted(sink.records) == [-2, -1, 1, 2]
    assert sink.events[0].at == MIN_TIMESTAMP


def test_copies_of_a_sink_share_what_is_collected() -> None:
    sink = CollectingSink[int]()
    for other in (copy.copy(sink), copy.deepcopy(sink), pickle.loads(pickle.dumps(sink))):
        job = sl.Job("copies")
        job.source("in", CollectionSource([1])).sink("out", other)
        run_job(job)
        assert sink.records == other.records == [1]


def test_a_sink_says_that_it_cannot_look_into_other_processes() -> None:
    import asyncio

    from streamline.io import WriterContext

    writer = CollectingSink[int]().writer()

    async def recover() -> None:
        await writer.open(WriterContext("j", "out", 0, 1, "r", True, ManualClock()))
        await writer.recover(["j/out/7"])

    with pytest.raises(ConnectorError, match="within one process only"):
        asyncio.run(recover())


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([Event("a", 1), "b"], r"with event times and without \('b'\)"),
        ([Watermark(2), Watermark(1)], "watermark 1 stands behind 2"),
        ([Watermark(2, idle=True)], "nothing of idleness"),
        ([Pause("soon")], "not a duration"),
    ],
)
def test_scripts_that_contradict_themselves(script: list[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ScriptedSource(script)


def test_files_that_appear_in_a_followed_folder_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    job, sink = sl.Job("following"), CollectingSink[str]()
    source = FileSource(tmp_path, sl.Text(), follow=True)
    job.source("lines", source).sink("out", sink)

    def appear() -> bool:
        (tmp_path / "b.txt").write_text("two\n")
        return len(sink.records) == 2

    run_job(job, until=appear)
    assert sorted(sink.records) == ["one", "two"]


def test_an_error_when_a_function_is_closed_is_told_and_ends_nothing() -> None:
    class Stubborn(sl.ProcessFunction[str, str, str]):
        def process(self, value: str, ctx: sl.ProcessContext[str]) -> list[str]:
            return [value]

        def close(self) -> None:
            raise RuntimeError("not now")

    job, sink = sl.Job("stubborn"), CollectingSink[str]()
    words = job.source("words", CollectionSource(["a", "b"])).key_by(lambda word: word)
    words.process(Stubborn()).sink("out", sink)
    assert run_job(job, parallelism=2).state == "finished"
    assert sorted(sink.records) == ["a", "b"]
