"""Merging watermarks, case by case.

``0=5`` is watermark 5 on input 0, ``0=5i`` the same idle, ``0=end`` its end. Behind ``->`` stands
what is handed on: ``-`` for nothing.
"""

import random

import pytest

from streamline.messages import MAX_TIMESTAMP, MIN_TIMESTAMP, Watermark
from streamline.runtime.watermarks import WatermarkMerger

CASES = {
    "one input": (1, "0=5 -> 5, 0=7 -> 7"),
    "the lowest counts": (2, "0=5 -> -, 1=3 -> 3, 1=9 -> 5, 0=6 -> 6"),
    "the same again is nothing new": (1, "0=5 -> 5, 0=5 -> -"),
    "never back on an input": (1, "0=5 -> 5, 0=4 -> -, 0=6 -> 6"),
    "an idle input is not waited for": (2, "0=5 -> -, 1=2i -> 5, 0=8 -> 8"),
    "busy again, behind: time stands still": (
        2,
        "0=5 -> -, 1=2i -> 5, 1=3 -> -, 0=8 -> -, 1=6 -> 6",
    ),
    "all idle: the highest, and idle": (2, "0=5i -> -, 1=3i -> 5i"),
    "all idle, one comes back behind": (2, "0=5i -> -, 1=3i -> 5i, 1=4 -> 5, 1=7 -> 7"),
    "idle from the start": (1, "0=mini -> mini, 0=5 -> 5"),
    "an input that ends": (2, "0=5 -> -, 1=end -> 5, 0=end -> end"),
    "ends while the other is silent": (2, "1=end -> -, 0=1 -> 1"),
}


def stamp(text: str) -> int:
    return {"min": MIN_TIMESTAMP, "end": MAX_TIMESTAMP}.get(text) or int(text)


def parse(text: str) -> Watermark | None:
    if text == "-":
        return None
    idle = text.endswith("i")
    return Watermark(stamp(text.removesuffix("i")), idle)


@pytest.mark.parametrize("name", CASES)
def test_merging(name: str) -> None:
    inputs, text = CASES[name]
    merger = WatermarkMerger(inputs)
    for step in text.split(","):
        fact, expected = (part.strip() for part in step.split("->"))
        index, what = fact.split("=")
        if what == "end":
            found = merger.end(int(index))
        else:
            given = parse(what)
            assert given is not None
            found = merger.update(int(index), given)
        if expected == "mini" and found is None:  # nothing said before means the same
            assert merger.merged.timestamp == MIN_TIMESTAMP
            continue
        assert found == parse(expected), step


def test_the_first_watermark_may_be_given() -> None:
    merger = WatermarkMerger(1, start=10)
    assert merger.update(0, Watermark(5)) is None
    assert merger.update(0, Watermark(11)) == Watermark(11)


def test_an_ended_input_does_not_end_time_for_one_that_is_idle() -> None:
    """Else all that the idle input brings when it is busy again would be late."""
    merger = WatermarkMerger(2)
    merger.update(0, Watermark(5))
    merger.update(1, Watermark(5, idle=True))
    merger.end(0)
    assert merger.merged.timestamp < MAX_TIMESTAMP
    merger.update(1, Watermark(7))
    assert merger.merged.timestamp == 7


@pytest.mark.parametrize("seed", range(20))
def test_never_back_and_never_ahead_of_a_busy_input(seed: int) -> None:
    random_ = random.Random(seed)
    inputs = random_.randint(1, 4)
    merger = WatermarkMerger(inputs)
    promised = [Watermark(MIN_TIMESTAMP)] * inputs
    last = merger.merged
    for _ in range(200):
        index = random_.randrange(inputs)
        time = max(promised[index].timestamp, last.timestamp, 0) + random_.randint(0, 5)
        promised[index] = Watermark(time, random_.random() < 0.3)
        found = merger.update(index, promised[index])
        assert merger.merged.timestamp >= last.timestamp
        assert found is None or found != last
        busy = [w.timestamp for w in promised if not w.idle]
        assert merger.merged.idle == (not busy)
        # An input that was idle may come back behind; then time waits for it.
        assert not busy or merger.merged.timestamp <= max(last.timestamp, min(busy))
        last = merger.merged
