"""Channels: order, credits, and how the two ends learn of each other's end."""

import random
from typing import Any

import pytest

from streamline.batch import ROW_BYTES_ESTIMATE, RowBatch
from streamline.errors import ChannelBrokenError, ChannelClosedError, InvariantError
from streamline.ids import ChannelId
from streamline.messages import END_OF_INPUT, Barrier, Watermark
from streamline.runtime.channel import Receiver, Sender, local_channel
from streamline.runtime.credits import Credits
from tests.unit.small import rows

CHANNEL = ChannelId(3, 0, 1)


def pair(batches: int = 2, size_bytes: int = 1 << 20) -> tuple[Sender, Receiver]:
    return local_channel(CHANNEL, Credits(batches=batches, size_bytes=size_bytes))


def short(message: Any) -> str:
    if isinstance(message, RowBatch):
        return "".join(message.values)
    return {Barrier: "B", Watermark: "W"}.get(type(message), "E" if message else "-")


def receive_all(receiver: Receiver) -> str:
    found = ""
    while len(receiver):
        found += short(receiver.receive())
    return found


def test_order_is_kept_and_credits_come_back() -> None:
    sender, receiver = pair()
    for message in (rows("a"), Watermark(1), rows("b"), Barrier(1), END_OF_INPUT):
        sender.send(message)
    assert sender.credits.left.batches == 0
    assert receive_all(receiver) == "aWbBE"
    assert sender.credits.left == sender.credits.limit


def test_both_ends_count_the_same_bytes() -> None:
    """Those of batches, whole also where one is larger than all credit; once they are delivered."""
    sender, receiver = pair(size_bytes=ROW_BYTES_ESTIMATE)
    sender.send(Watermark(1))
    sender.send(rows("a", "b", "c"))
    sender.send(rows("d"))
    assert sender.sent_bytes == 3 * ROW_BYTES_ESTIMATE  # the other waits for credit
    assert receiver.received_bytes == 0
    assert receive_all(receiver) == "Wabcd"
    assert sender.sent_bytes == receiver.received_bytes == 4 * ROW_BYTES_ESTIMATE


def test_barriers_and_watermarks_cost_nothing_but_never_overtake() -> None:
    sender, receiver = pair(batches=1)
    for message in (Barrier(1), rows("a"), Watermark(1), rows("b"), Barrier(2)):
        sender.send(message)
    assert not sender.ready  # b waits for credit, and the barrier behind it
    assert len(receiver) == 3
    assert short(receiver.receive()) == "B"
    assert not sender.ready  # a barrier gives no credit back
    assert receive_all(receiver) == "aWbB"
    assert sender.ready


def test_an_oversize_batch_passes_alone() -> None:
    sender, receiver = pair(batches=8, size_bytes=ROW_BYTES_ESTIMATE * 2)
    sender.send(rows("a"))
    sender.send(rows(*"bcdefg"))
    sender.send(rows("h"))
    assert len(receiver) == 1
    assert short(receiver.receive()) == "a"
    assert len(receiver) == 1  # the large one came, nothing beside it
    assert short(receiver.receive()) == "bcdefg"
    assert receive_all(receiver) == "h"


def test_room_and_messages_wake() -> None:
    woken: list[str] = []
    sender, receiver = pair(batches=1)
    sender.on_room = lambda: woken.append("room")
    receiver.on_message = lambda: woken.append("message")
    sender.send(rows("a"))
    assert woken == ["message"]
    sender.send(rows("b"))
    sender.send(rows("c"))
    assert woken == ["message"]
    receiver.receive()
    assert woken == ["message", "message"]  # b came; c still waits: no room yet
    receiver.receive()
    assert woken == ["message", "message", "message", "room"]


def test_nothing_to_receive_is_none() -> None:
    _, receiver = pair()
    assert receiver.receive() is None
    assert not receiver.readable


def test_a_closed_end_says_so_at_that_end() -> None:
    sender, receiver = pair()
    sender.close()
    with pytest.raises(ChannelClosedError, match="closed by its sender"):
        sender.send(rows("a"))
    receiver.close()
    assert receiver.readable
    with pytest.raises(ChannelClosedError, match="closed by its receiver"):
        receiver.receive()


def test_a_broken_sender_wakes_and_says_broken() -> None:
    woken: list[str] = []
    sender, _ = pair(batches=1)
    sender.on_room = lambda: woken.append("room")
    sender.send(rows("a"))
    sender.send(rows("b"))
    sender.break_off()
    sender.break_off()
    assert woken == ["room"]
    assert sender.ready  # nobody waits for what can never be delivered
    with pytest.raises(ChannelBrokenError, match="receiver of channel"):
        sender.send(rows("c"))


def test_a_broken_receiver_wakes_delivers_what_came_then_says_broken() -> None:
    woken: list[str] = []
    sender, receiver = pair()
    sender.send(rows("a"))
    receiver.on_message = lambda: woken.append("message")
    receiver.break_off()
    assert woken == ["message"]
    assert short(receiver.receive()) == "a"
    with pytest.raises(ChannelBrokenError, match="sender of channel"):
        receiver.receive()
    sender.send(rows("b"))  # comes too late to be taken
    assert len(receiver) == 0


@pytest.mark.parametrize("first", ["close", "break_off"])
def test_the_first_end_counts(first: str) -> None:
    sender, receiver = pair()
    for end in (sender, receiver):
        getattr(end, first)()
        end.break_off()
    error = ChannelClosedError if first == "close" else ChannelBrokenError
    with pytest.raises(error):
        sender.send(rows("a"))
    with pytest.raises(error):
        receiver.receive()


def test_credit_that_was_never_given_is_refused() -> None:
    sender, _ = pair()
    with pytest.raises(InvariantError):
        sender.grant(sender.credits.cost(1))


@pytest.mark.parametrize("seed", range(20))
def test_all_arrives_in_order_and_the_sum_is_constant(seed: int) -> None:
    random_ = random.Random(seed)
    sender, receiver = pair(random_.randint(1, 3), random_.randint(1, 5) * ROW_BYTES_ESTIMATE)
    sent, received = "", ""
    for number in range(200):
        if random_.random() < 0.5:
            kind = random_.choice("dddBW")
            if kind == "d":
                letter = chr(ord("a") + number % 26)
                count = random_.randint(1, 7)
                sender.send(rows(*letter * count))
                sent += letter * count
            else:
                sender.send(Barrier(number) if kind == "B" else Watermark(number))
                sent += kind
        elif len(receiver):
            received += short(receiver.receive())
        under_way = sum(cost.batches for _, cost in receiver._queue)
        assert sender.credits.left.batches + under_way == sender.credits.limit.batches
    assert received + receive_all(receiver) == sent
    assert sender.credits.left == sender.credits.limit
