"""Checkpoints: when one is due, who has answered, and what a failure means."""

from typing import Any

import pytest

from streamline.coordinator.checkpoints import Checkpoints
from streamline.errors import InvariantError
from streamline.ids import TaskId
from streamline.keys import KeyGroupRange
from streamline.state.manifest import TaskSnapshot

A, B = TaskId("a", 0), TaskId("b", 0)


def checkpoints(**settings: Any) -> Checkpoints:
    defaults = {"every_ms": 100, "timeout_ms": 1_000, "min_pause_ms": 0, "tolerable_failures": 2}
    return Checkpoints(**{**defaults, **settings})


def snapshot(task: TaskId, epoch: int) -> TaskSnapshot:
    return TaskSnapshot(task.node, task.index, [task.node], 1, epoch, KeyGroupRange(0, 128))


def run_one(found: Checkpoints, begin_ms: int, end_ms: int) -> int:
    epoch = found.begin(begin_ms, [A]).epoch
    found.on_snapshot(A, snapshot(A, epoch))
    assert found.complete(epoch, end_ms, 0) is not None
    return epoch


def test_one_checkpoint_from_trigger_to_manifest() -> None:
    found = checkpoints()
    pending = found.begin(100, [A, B], kind="savepoint", drain=True)
    assert (pending.epoch, pending.kind, pending.drain) == (1, "savepoint", True)
    assert found.on_snapshot(A, snapshot(A, 1)) is None
    assert not pending.writing
    assert found.on_snapshot(B, snapshot(B, 1)) is pending
    assert pending.writing
    assert set(pending.snapshots) == {A, B}
    assert found.complete(1, 150, 42) is pending
    assert found.completed is not None
    assert (found.completed.duration_ms, found.completed.size_bytes) == (50, 42)
    assert found.pending is None


def test_only_one_at_a_time() -> None:
    found = checkpoints()
    found.begin(0, [A])
    with pytest.raises(InvariantError, match="still under way"):
        found.begin(1, [A])


@pytest.mark.parametrize(
    ("task", "epoch"), [(A, 1), (TaskId("stranger", 0), 1), (B, 2), (B, 0)], ids=str
)
def test_answers_that_do_not_count(task: TaskId, epoch: int) -> None:
    """Twice the same, a stranger's, one of another epoch."""
    found = checkpoints()
    pending = found.begin(0, [A, B])
    found.on_snapshot(A, snapshot(A, 1))
    assert found.on_snapshot(task, snapshot(task, epoch)) is None
    assert pending.waiting == {B}


def test_what_was_given_up_is_not_completed() -> None:
    found = checkpoints()
    found.begin(0, [A])
    assert found.abort(1, 10)
    assert found.on_snapshot(A, snapshot(A, 1)) is None
    assert found.complete(1, 20, 0) is None
    assert found.completed is None


def test_epochs_grow_by_one_over_aborts_and_attempts() -> None:
    found = checkpoints()
    found.reset(0, 7)
    assert run_one(found, 0, 1) == 8
    found.begin(2, [A])
    found.abort(9, 3)
    found.begin(4, [A])
    found.reset(5, 8)  # the attempt failed; epoch 10 may have been seen by somebody
    assert found.pending is None
    assert run_one(found, 6, 7) == 11


@pytest.mark.parametrize(
    ("every_ms", "min_pause_ms", "begin_ms", "end_ms", "due_ms"),
    [
        (100, 0, 1_000, 1_010, 1_100),
        (100, 0, 1_000, 1_500, 1_500),  # took longer: the next at once
        (100, 50, 1_000, 1_500, 1_550),  # but for the pause
        (100, 50, 1_000, 1_010, 1_100),
        (None, 0, 1_000, 1_010, None),
    ],
)
def test_when_the_next_is_due(
    every_ms: int | None, min_pause_ms: int, begin_ms: int, end_ms: int, due_ms: int | None
) -> None:
    found = checkpoints(every_ms=every_ms, min_pause_ms=min_pause_ms)
    run_one(found, begin_ms, end_ms)
    assert found.next_due_ms() == due_ms
    if due_ms is None:
        assert not found.is_due(1 << 40)
    else:
        assert [found.is_due(due_ms - 1), found.is_due(due_ms)] == [False, True]


def test_the_first_is_due_one_interval_after_the_start() -> None:
    found = checkpoints()
    found.reset(5_000, 0)
    assert found.next_due_ms() == 5_100


def test_overdue_until_all_have_answered() -> None:
    found = checkpoints()
    assert not found.is_overdue(1 << 40)
    found.begin(500, [A])
    assert found.next_due_ms() == 1_500
    assert [found.is_overdue(1_499), found.is_overdue(1_500)] == [False, True]
    assert not found.is_due(1 << 40)
    found.on_snapshot(A, snapshot(A, 1))
    assert not found.is_overdue(1 << 40)  # the manifest is being written; it may not be undone


def test_failures_in_a_row_are_tolerated_up_to_a_number() -> None:
    found = checkpoints(tolerable_failures=2)
    answers = []
    for _ in range(3):
        answers.append(found.abort(found.begin(0, [A]).epoch, 0))
    assert answers == [True, True, False]


def test_success_forgives_the_failures_before_it() -> None:
    found = checkpoints(tolerable_failures=1)
    for _ in range(5):
        assert found.abort(found.begin(0, [A]).epoch, 0)
        run_one(found, 0, 0)


def test_an_abort_of_another_epoch_is_no_failure() -> None:
    found = checkpoints(tolerable_failures=0)
    pending = found.begin(0, [A])
    assert found.abort(pending.epoch - 1, 0)
    assert found.pending is pending


def test_one_that_was_asked_for_and_fails_is_begun_again_soon() -> None:
    found = checkpoints(every_ms=None)
    found.ask()
    found.begin(100, [A])
    assert found.abort(1, 150)
    assert not found.is_due(1_149)
    assert found.is_due(1_150)
    run_one(found, 1_150, 1_200)
    assert found.next_due_ms() is None


def test_one_that_was_asked_for_is_not_forgotten_with_the_attempt() -> None:
    found = checkpoints(every_ms=None)
    found.ask()
    found.begin(100, [A])
    found.forget()
    found.reset(200, 0)
    assert found.is_due(200)
