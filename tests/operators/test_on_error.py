"""on_error: a job goes on without the records on which a function raises, and loses no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamline as sl
from streamline.batch import Batch, ColumnBatch, Origins, RowBatch
from streamline.connectors.files import FileSource
from streamline.errors import GraphError, JobFailedError, UsageError
from streamline.plan import make_plan
from streamline.testing import CollectingSink, Event, OperatorHarness, ScriptedSource, run_job

LINES = [b'{"n":1,"at":5}', b'{"n":0,"at":6}', b'{"n":"x","at":7}', b'{"n":4,"at":null}']
GOOD = [{"n": 1, "at": 5}, {"n": 4, "at": 8}]
RECORDS = [json.loads(line) for line in LINES[:3]] + [{"n": 4, "at": 8}]


def of_lines(lines: list[bytes]) -> Origins:
    return Origins("orders/3", lambda place: (100 + place, lines[place]))


def inverse(value: dict[str, Any]) -> float:
    return 8 / value["n"]


def half(value: dict[str, Any]) -> bool:
    return bool(8 / value["n"])


def both(value: dict[str, Any]) -> Any:
    yield value["n"]
    yield 8 / value["n"]


def inverses(values: list[dict[str, Any]]) -> list[float]:
    return [8 / value["n"] for value in values]


def inverse_columns(columns: Any) -> Any:
    return {"inverse": np.array([8 / n for n in columns["n"].tolist()])}


STEPS: dict[str, tuple[Any, list[Any]]] = {
    "map": (lambda s, how: s.map(inverse, on_error=how), [8.0, 2.0]),
    "expression": (lambda s, how: s.map(8 / sl.col("n"), on_error=how), [8.0, 2.0]),
    "filter": (lambda s, how: s.filter(half, on_error=how), GOOD),
    "flat_map": (lambda s, how: s.flat_map(both, on_error=how), [1, 8.0, 4, 2.0]),
    "map_batch": (lambda s, how: s.map_batch(inverses, on_error=how), [8.0, 2.0]),
    "map_columns": (
        lambda s, how: s.map_columns(inverse_columns, on_error=how),
        [{"inverse": 8.0}, {"inverse": 2.0}],
    ),
}


def harness(step: Any, how: str, records: list[Any], origins: Origins | None) -> OperatorHarness:
    made = OperatorHarness.of(lambda stream: step(stream, how))
    batch = RowBatch(records, np.arange(len(records)) + 10, partition="p", origins=origins)
    made.push_batch(batch)
    return made


@pytest.mark.parametrize("name", STEPS)
def test_the_bad_are_left_out_and_the_others_stay(name: str) -> None:
    step, wanted = STEPS[name]
    made = harness(step, "skip", RECORDS, None)
    assert made.values() == wanted
    assert [event.at for event in made.events()] == sorted([10, 13] * (len(wanted) // 2))
    assert made.values("dead_letters") == []


@pytest.mark.parametrize("name", STEPS)
def test_the_bad_become_dead_letters(name: str) -> None:
    step, wanted = STEPS[name]
    made = harness(step, "dead_letter", RECORDS, of_lines(LINES))
    assert made.values() == wanted
    letters = made.events("dead_letters")
    assert [letter.at for letter in letters] == [11, 12]
    zero, text = (letter.value for letter in letters)
    assert (zero.partition, zero.offset, zero.data) == ("orders/3", 101, LINES[1])
    assert (text.partition, text.offset, text.data) == ("orders/3", 102, LINES[2])
    assert "ZeroDivisionError" in zero.reason
    assert zero.node in zero.reason
    assert zero.trace.rstrip().endswith("division by zero")
    assert "TypeError" in text.trace
    assert "/streamline/operators" not in zero.trace
    if name != "expression":
        assert "test_on_error.py" in zero.trace


@pytest.mark.parametrize("name", STEPS)
def test_nothing_is_left(name: str) -> None:
    step, _ = STEPS[name]
    made = harness(step, "dead_letter", RECORDS[1:3], of_lines(LINES))
    assert made.values() == []
    assert len(made.values("dead_letters")) == 2


@pytest.mark.parametrize("name", STEPS)
def test_nothing_is_bad(name: str) -> None:
    step, wanted = STEPS[name]
    made = harness(step, "dead_letter", GOOD, None)
    assert made.values() == wanted
    assert made.values("dead_letters") == []


@pytest.mark.parametrize("name", STEPS)
def test_where_it_was_read_is_known_behind_other_steps(name: str) -> None:
    step, _ = STEPS[name]
    unwanted = {"n": 9, "at": 1}

    def steps(stream: Any, how: str) -> Any:
        kept = stream.filter(lambda value: value["n"] != 9).map(lambda value: dict(value))
        return step(kept.with_timestamps("at").filter(lambda value: True, on_error="skip"), how)

    lines = [b"unwanted", *LINES]
    made = harness(steps, "dead_letter", [unwanted, *RECORDS], of_lines(lines))
    assert [(one.offset, one.data) for one in made.values("dead_letters")] == [
        (102, LINES[1]),
        (103, LINES[2]),
    ]
    assert [event.at for event in made.events("dead_letters")] == [6, 7]


def test_columns_are_looked_at_as_rows() -> None:
    columns = {"n": np.array([1, 0, 4])}
    batch = ColumnBatch(columns, np.arange(3), record_type=dict, origins=of_lines(LINES))
    made = OperatorHarness.of(lambda stream: stream.filter(half, on_error="dead_letter"))
    made.push_batch(batch)
    assert made.values() == [{"n": 1}, {"n": 4}]
    assert [one.offset for one in made.values("dead_letters")] == [101]


def test_times_that_are_none() -> None:
    records = [{"at": 5}, {"at": None}, {"at": "7"}, {}, {"at": 8}]
    made = OperatorHarness.of(lambda stream: stream.with_timestamps("at", on_error="dead_letter"))
    made.push(*records)
    assert made.events() == [Event({"at": 5}, 5), Event({"at": 8}, 8)]
    assert [json.loads(one.data) for one in made.values("dead_letters")] == records[1:4]
    reasons = [one.reason for one in made.values("dead_letters")]
    assert "not None (NoneType)" in reasons[0]
    assert "has no field 'at'" in reasons[2]


def test_keys_that_are_none() -> None:
    job, totals, letters = sl.Job("keys"), CollectingSink(), CollectingSink()
    records = [Event({"k": "a", "n": 1}, 1), Event({"k": ["no"], "n": 2}, 2), Event({"n": 3}, 3)]
    keyed = job.source("in", ScriptedSource(records)).key_by("k", on_error="dead_letter")
    keyed.aggregate(n=sl.Sum("n")).sink("out", totals)
    keyed.dead_letters.sink("bad", letters)
    status = run_job(job)
    assert [(one.key, one.n) for one in totals.records] == [("a", 1)]
    assert [json.loads(one.data)["n"] for one in letters.records] == [2, 3]
    assert [(one.partition, one.offset) for one in letters.records] == [("", -1)] * 2
    assert status.total("dead_letters") == 2


def test_what_json_cannot_say_is_written_as_it_looks() -> None:
    made = OperatorHarness.of(lambda stream: stream.map(inverse, on_error="dead_letter"))
    made.push({1: {"a"}}, object, "\ud800", {(1, 2): 3})
    data = [one.data for one in made.values("dead_letters")]
    assert data[0] == b'{"1":["a"]}'
    assert b"class 'object'" in data[1]
    assert len(data) == 4


def test_functions_are_called_once() -> None:
    seen: list[int] = []

    def picky(value: int) -> int:
        seen.append(value)
        return 1 // (value % 3)

    made = OperatorHarness.of(lambda stream: stream.map(picky, on_error="skip"))
    made.push(*range(10))
    assert seen == list(range(10))
    assert len(made.values()) == 6


def test_a_batch_function_that_fails_on_good_records_too_fails() -> None:
    def odd(values: list[int]) -> list[int]:
        if len(values) > 1:
            raise ValueError("too many")
        return values

    made = OperatorHarness.of(lambda stream: stream.map_batch(odd, on_error="skip"))
    with pytest.raises(sl.StreamlineError, match="too many"):
        made.push(1, 2)


def picked(path: Path, how: Any, parallelism: int | None = None) -> tuple[sl.Job, Any, Any]:
    job, out, bad = sl.Job("picked"), CollectingSink(), CollectingSink()
    source = FileSource(path, format=sl.Json(on_error="dead_letter"))
    lines = job.source("lines", source, parallelism=parallelism)
    mapped = lines.rebalance().map(inverse, on_error=how)
    mapped.sink("out", out)
    lines.dead_letters.union(mapped.dead_letters).sink("bad", bad)
    return job, out, bad


@pytest.mark.parametrize("parallelism", [1, 3])
def test_a_file_to_its_dead_letters(tmp_path: Path, parallelism: int) -> None:
    """Also the place behind an undecodable line is right, in another task and after crashes."""
    path = tmp_path / "in.jsonl"
    lines = [b"no json" if n % 7 == 3 else b'{"n":%d}' % (n % 5) for n in range(200)]
    path.write_bytes(b"\n".join(lines))
    wanted, at = {}, 0
    for line in lines:
        if line in (b"no json", b'{"n":0}'):
            wanted[at] = line
        at += len(line) + 1
    job, out, bad = picked(path, "dead_letter", 1)
    assert make_plan(job.graph(), parallelism).stages[0].origins
    run_job(job, parallelism=parallelism, faults=3, folder=tmp_path / "state")
    assert {one.offset: one.data for one in bad.records} == wanted
    assert len(bad.records) == len(wanted)
    assert {one.partition for one in bad.records} == {str(path)}
    assert sorted(out.records) == sorted(
        8 / json.loads(line)["n"] for line in lines if line not in (b"no json", b'{"n":0}')
    )


def test_a_function_that_may_not_raise_ends_the_job() -> None:
    job, out = sl.Job("strict"), CollectingSink()
    job.source("in", ScriptedSource([{"n": 0}])).map(inverse).sink("out", out)
    with pytest.raises(JobFailedError, match="ZeroDivisionError"):
        run_job(job)


def test_who_asks_for_origins() -> None:
    def wanted(build: Any) -> bool:
        job = sl.Job("plan")
        source = job.source("in", FileSource("in.jsonl", format=sl.Json(dict[str, Any])))
        for stream in build(source):
            stream.sink(f"out-{len(job.graph().nodes)}", CollectingSink())
        return make_plan(job.graph()).stages[0].origins

    def mapped(stream: Any, how: str = "dead_letter") -> Any:
        stream = stream.map(inverse, on_error=how)
        return [stream, stream.dead_letters] if how == "dead_letter" else [stream]

    assert wanted(lambda source: mapped(source))
    assert wanted(lambda source: mapped(source.map(dict).rebalance().filter("n").broadcast()))
    assert not wanted(lambda source: mapped(source, "skip"))
    assert not wanted(lambda source: mapped(source.key_by("n").aggregate(n=sl.Count())))


def test_dead_letters_have_to_go_somewhere() -> None:
    job = sl.Job("unheard")
    mapped = job.source("in", ScriptedSource([1])).map(inverse, on_error="dead_letter", name="inv")
    mapped.sink("out", CollectingSink())
    with pytest.raises(GraphError, match=r"map 'inv' has a function with on_error=.*go nowhere"):
        job.graph().validate()
    mapped.dead_letters.sink("bad", CollectingSink())
    job.graph().validate()


def test_dead_letters_of_what_makes_none() -> None:
    job = sl.Job("none")
    mapped = job.source("in", ScriptedSource([1])).map(inverse, name="inv")
    mapped.sink("out", CollectingSink())
    mapped.dead_letters.sink("bad", CollectingSink())
    with pytest.raises(GraphError, match=r"map 'inv' are used, but its function makes none"):
        job.graph().validate()


def test_only_dead_letters_are_used() -> None:
    job = sl.Job("only")
    mapped = job.source("in", ScriptedSource([1])).map(inverse, on_error="dead_letter", name="inv")
    mapped.dead_letters.sink("bad", CollectingSink())
    with pytest.raises(GraphError, match=r"records of map 'inv' go nowhere"):
        job.graph().validate()


@pytest.mark.parametrize("name", [*STEPS, "with_timestamps", "key_by"])
def test_a_wrong_word_is_refused_at_once(name: str) -> None:
    stream: Any = sl.Job("wrong").source("in", ScriptedSource([1]))
    others = {
        "with_timestamps": lambda s, how: s.with_timestamps("at", on_error=how),
        "key_by": lambda s, how: s.key_by("k", on_error=how),
    }
    step = others[name] if name in others else STEPS[name][0]
    with pytest.raises(UsageError, match="on_error='ignore' must be"):
        step(stream, "ignore")


def test_origins_follow_their_records() -> None:
    batch: Batch = RowBatch(list("abcd"), origins=of_lines([b"a", b"b", b"c", b"d"]))
    some = batch.take(np.array([3, 1])).with_timestamps(np.array([1, 2]))
    assert some.origins is not None
    assert [some.origins.of(row) for row in range(2)] == [(103, b"d"), (101, b"b")]
    parts = batch.split(np.array([0, 1, 0, 1]), 2)
    assert [part.origins.of(1) for part in parts if part and part.origins] == [
        (102, b"c"),
        (103, b"d"),
    ]
    assert batch.with_keys(list("abcd"), np.zeros(4, np.uint16)).origins is None


def test_a_batch_function_may_change_its_list() -> None:
    """Nobody else has it: not another branch, nor the call for the rest after a failure."""

    def halved(values: list[int]) -> list[int]:
        for place, value in enumerate(values):
            values[place] = 100 // value
        return values

    job, out, same = sl.Job("branches"), CollectingSink(), CollectingSink()
    numbers = job.source("in", ScriptedSource([Event(n, n) for n in (1, 0, 2, 4)]))
    numbers.map_batch(halved, on_error="skip").sink("out", out)
    numbers.map(int).sink("same", same)
    run_job(job)
    assert out.records == [100, 50, 25]
    assert same.records == [1, 0, 2, 4]
