"""Barrier alignment, case by case.

A case lists what comes, in order: ``0:1`` is barrier 1 on input 0, ``0:end`` its end, ``abort1``
an epoch given up. Behind ``->`` stands what is answered: the epoch that is complete, or ``-``;
behind ``|`` the inputs that are blocked then.
"""

import pytest

from streamline.errors import InvariantError
from streamline.messages import Barrier, BarrierKind
from streamline.runtime.align import BarrierAligner

CASES = {
    "one input never waits": (1, "0:1 -> 1 |, 0:2 -> 2 |"),
    "two inputs": (2, "0:1 -> - | 0, 1:1 -> 1 |"),
    "any order": (3, "2:1 -> - | 2, 0:1 -> - | 0 2, 1:1 -> 1 |"),
    "epochs follow": (2, "0:1 -> - | 0, 1:1 -> 1 |, 1:2 -> - | 1, 0:2 -> 2 |"),
    "an input that ends is not waited for": (2, "0:1 -> - | 0, 1:end -> 1 |"),
    "ended before": (2, "1:end -> - |, 0:1 -> 1 |, 0:2 -> 2 |"),
    "all end without a barrier": (2, "0:end -> - |, 1:end -> - |"),
    "some end, the last brings it": (3, "0:end -> - |, 1:1 -> - | 1, 2:1 -> 1 |"),
    "a newer barrier gives the older up": (
        2,
        "0:1 -> - | 0, 1:2 -> - | 1, 0:2 -> 2 |, 0:3 -> - | 0",
    ),
    "the late copy of an older one": (3, "0:2 -> - | 0, 1:1 -> - | 0, 1:2 -> - | 0 1, 2:2 -> 2 |"),
    "aborted under way": (2, "0:1 -> - | 0, abort1 -> - |, 1:1 -> - |, 0:2 -> - | 0, 1:2 -> 2 |"),
    "aborted before it came": (2, "abort1 -> - |, 0:1 -> - |, 1:1 -> - |, 0:2 -> - | 0"),
    "an older abort changes nothing": (2, "0:2 -> - | 0, abort1 -> - | 0, 1:2 -> 2 |"),
    "a newer abort ends it too": (2, "0:1 -> - | 0, abort3 -> - |, 1:3 -> - |, 1:4 -> - | 1"),
    "epochs may be left out": (2, "0:5 -> - | 0, 1:5 -> 5 |, 0:9 -> - | 0, 1:9 -> 9 |"),
    "end after abort completes nothing": (2, "0:1 -> - | 0, abort1 -> - |, 1:end -> - |"),
}


def play(aligner: BarrierAligner, fact: str) -> Barrier | None:
    if fact.startswith("abort"):
        aligner.abort(int(fact[5:]))
        return None
    index, what = fact.split(":")
    if what == "end":
        return aligner.on_end(int(index))
    return aligner.on_barrier(int(index), Barrier(int(what)))


@pytest.mark.parametrize("name", CASES)
def test_alignment(name: str) -> None:
    inputs, text = CASES[name]
    aligner = BarrierAligner(inputs)
    for step in text.split(","):
        fact, expected = step.split("->")
        answer, blocked = expected.split("|")
        complete = play(aligner, fact.strip())
        assert str(complete.epoch if complete else "-") == answer.strip(), step
        found = [i for i in range(inputs) if aligner.is_blocked(i)]
        assert found == [int(word) for word in blocked.split()], step
        assert (aligner.aligning is not None) == bool(found), step


@pytest.mark.parametrize(
    ("before", "then"),
    [("0:1", "0:2"), ("0:end", "0:1"), ("0:2 1:2", "0:2"), ("0:2 1:2", "1:1")],
)
def test_what_cannot_be(before: str, then: str) -> None:
    aligner = BarrierAligner(2)
    for fact in before.split():
        play(aligner, fact)
    with pytest.raises(InvariantError):
        play(aligner, then)


def test_kind_and_drain_are_handed_on() -> None:
    aligner = BarrierAligner(2)
    barrier = Barrier(1, BarrierKind.SAVEPOINT, drain=True)
    aligner.on_barrier(0, barrier)
    assert aligner.aligning == barrier
    assert aligner.on_barrier(1, barrier) == barrier
