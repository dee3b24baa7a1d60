"""Pace: whom each task waits for, and whom it does not."""

from streamline.coordinator.pace import Pace
from streamline.ids import NodeId, TaskId
from streamline.messages import MAX_TIMESTAMP, MIN_TIMESTAMP

IN = [TaskId(NodeId("in"), index) for index in range(3)]
OTHER = [TaskId(NodeId("other"), index) for index in range(2)]


def test_each_is_told_how_far_the_slowest_of_the_others_is() -> None:
    pace = Pace([IN])
    told = pace.on_reached({IN[0]: 30, IN[1]: 10, IN[2]: 20})
    assert told == {IN[0]: 10, IN[1]: 20, IN[2]: 10}


def test_two_at_the_same_place_wait_for_each_other() -> None:
    pace = Pace([IN])
    told = pace.on_reached({IN[0]: 10, IN[1]: 10, IN[2]: 20})
    assert told == dict.fromkeys(IN, 10)


def test_one_that_has_not_told_is_waited_for() -> None:
    pace = Pace([IN])
    assert pace.on_reached({IN[0]: 30, IN[1]: 10})[IN[0]] == MIN_TIMESTAMP
    assert pace.on_reached({IN[2]: 20})[IN[0]] == 10


def test_one_without_anything_to_read_is_not_waited_for() -> None:
    pace = Pace([IN])
    told = pace.on_reached({IN[0]: 30, IN[1]: MAX_TIMESTAMP, IN[2]: MAX_TIMESTAMP})
    assert told == {IN[0]: MAX_TIMESTAMP, IN[1]: 30, IN[2]: 30}
    # It has something again.
    assert pace.on_reached({IN[1]: 5}) == {IN[0]: 5, IN[1]: 30, IN[2]: 5}


def test_when_all_have_ended_nobody_waits() -> None:
    pace = Pace([IN])
    assert pace.on_reached(dict.fromkeys(IN, MAX_TIMESTAMP)) == dict.fromkeys(IN, MAX_TIMESTAMP)


def test_who_spoke_is_told_again_and_others_when_it_has_changed() -> None:
    pace = Pace([IN])
    pace.on_reached({IN[0]: 30, IN[1]: 10, IN[2]: 20})
    assert pace.on_reached({IN[0]: 31}) == {IN[0]: 10}
    assert pace.on_reached({IN[1]: 15}) == {IN[0]: 15, IN[1]: 20, IN[2]: 15}


def test_sources_do_not_wait_for_each_other() -> None:
    pace = Pace([IN, OTHER])
    assert set(pace.on_reached({IN[0]: 30, IN[1]: 10, IN[2]: 20})) == set(IN)
    assert pace.on_reached({OTHER[0]: 1, OTHER[1]: 2}) == {OTHER[0]: 2, OTHER[1]: 1}


def test_a_single_task_waits_for_nobody() -> None:
    alone = TaskId(NodeId("in"), 0)
    assert Pace([[alone]]).on_reached({alone: 5}) == {alone: MAX_TIMESTAMP}


def test_a_new_attempt_knows_nothing_of_the_last() -> None:
    pace = Pace([IN])
    pace.on_reached({IN[0]: 30, IN[1]: 10, IN[2]: 20})
    pace.reset()
    assert pace.on_reached({IN[0]: 1})[IN[0]] == MIN_TIMESTAMP
