"""Router: each way of partitioning, and that control messages reach everybody."""

from typing import Any

import numpy as np
import pytest

from streamline.errors import InvariantError
from streamline.graph import Partitioning
from streamline.ids import ChannelId
from streamline.keys import key_group, owned_range
from streamline.messages import END_OF_INPUT, Barrier, Watermark
from streamline.runtime.channel import Receiver, local_channel
from streamline.runtime.credits import Credits
from streamline.runtime.dispatch import Router
from tests.unit.small import rows


def make(how: Partitioning, count: int, first: int = 0) -> tuple[Router, list[Receiver]]:
    ends = [
        local_channel(ChannelId(0, 0, i), Credits(batches=9, size_bytes=1 << 20))
        for i in range(count)
    ]
    router = Router(how, [sender for sender, _ in ends], max_parallelism=128, first=first)
    return router, [receiver for _, receiver in ends]


def received(receivers: list[Receiver]) -> list[list[Any]]:
    found: list[list[Any]] = []
    for receiver in receivers:
        found.append([])
        while len(receiver):
            message: Any = receiver.receive()
            found[-1] += message.values if hasattr(message, "values") else [message]
    return found


def keyed(keys: list[Any]) -> Any:
    return rows(*keys).with_keys(keys, np.array([key_group(k) for k in keys], dtype=np.uint16))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 128])
def test_hash_gives_each_key_to_the_owner_of_its_group(count: int) -> None:
    keys = [f"user-{i}" for i in range(200)]
    router, receivers = make(Partitioning.HASH, count)
    router.emit(keyed(keys))
    found = received(receivers)
    assert sorted(key for part in found for key in part) == sorted(keys)
    for index, part in enumerate(found):
        assert all(key_group(key) in owned_range(index, count, 128) for key in part)
        assert part == [key for key in keys if key in set(part)]  # in order


def test_hash_needs_keys() -> None:
    router, _ = make(Partitioning.HASH, 2)
    with pytest.raises(InvariantError, match="without keys"):
        router.emit(rows("a"))


def test_rebalance_goes_round_from_its_own_first() -> None:
    router, receivers = make(Partitioning.REBALANCE, 3, first=4)
    for value in "abcde":
        router.emit(rows(value))
    assert received(receivers) == [["c"], ["a", "d"], ["b", "e"]]


def test_broadcast_gives_all_to_all() -> None:
    router, receivers = make(Partitioning.BROADCAST, 3)
    router.emit(rows("a", "b"))
    assert received(receivers) == [["a", "b"]] * 3


def test_forward_has_one_channel() -> None:
    router, receivers = make(Partitioning.FORWARD, 1)
    router.emit(rows("a"))
    router.emit(rows("b"))
    assert received(receivers) == [["a", "b"]]


@pytest.mark.parametrize("how", list(Partitioning))
def test_control_goes_to_all(how: Partitioning) -> None:
    router, receivers = make(how, 3)
    messages = [Watermark(1), Barrier(1), END_OF_INPUT]
    for message in messages:
        router.control(message)
    assert received(receivers) == [messages] * 3


def test_ready_only_when_all_senders_are() -> None:
    router, receivers = make(Partitioning.BROADCAST, 2)
    for _ in range(10):
        router.emit(rows("a"))
    assert not router.ready
    received(receivers[:1])
    assert not router.ready
    received(receivers[1:])
    assert router.ready
