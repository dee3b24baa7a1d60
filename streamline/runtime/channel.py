"""A channel between two tasks: Sender and Receiver, with credits between them.

The sender spends a credit for every batch before it is delivered; what it cannot pay for
waits in order in its outbox. Watermarks and barriers cost nothing, but never overtake.
How a message is delivered (a call, a socket) is the business of whoever connects the ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from streamline.batch import Batch
from streamline.errors import ChannelBrokenError, ChannelClosedError
from streamline.ids import ChannelId
from streamline.messages import Barrier, EndOfInput, Watermark
from streamline.runtime.credits import Cost, Credits

Message: TypeAlias = Batch | Watermark | Barrier | EndOfInput
Deliver: TypeAlias = Callable[[Message, Cost], None]

FREE = Cost(0, 0)


def _nothing() -> None:
    pass


class Sender:
    """The end that sends.

    Attributes:
        sent_bytes: Size of all batches that were delivered, as credits are spent by it.
    """

    def __init__(self, channel: ChannelId, credits: Credits, deliver: Deliver) -> None:
        self.channel = channel
        self.credits = credits
        self.sent_bytes = 0
        self.on_room: Callable[[], None] = _nothing
        self._deliver = deliver
        self._outbox: deque[Message] = deque()
        self._state = "open"
        self._why = ""

    @property
    def ready(self) -> bool:
        """Whether all that was sent has been delivered, so that more may follow."""
        return not self._outbox

    def send(self, message: Message) -> None:
        """Send, or keep in order until there is credit.

        Raises:
            ChannelClosedError: If this end was closed.
            ChannelBrokenError: If the other end went away.
        """
        if self._state != "open":
            self._refuse()
        self._outbox.append(message)
        self._drain()

    def grant(self, cost: Cost) -> None:
        """The receiver has consumed what cost that much."""
        self.credits.grant(cost)
        if self._outbox and self._state == "open":
            self._drain()
            if not self._outbox:
                self.on_room()

    def close(self) -> None:
        """Close this end; what is in the outbox is dropped."""
        self._state = "closed"
        self._outbox.clear()

    def break_off(self, why: Exception | None = None) -> None:
        """The other end went away; wakes whoever waits for room."""
        if self._state == "open":
            self._why = f": {why}" if why is not None else ""
            self._state = "broken"
            self._outbox.clear()
            self.on_room()

    def _refuse(self) -> None:
        if self._state == "closed":
            raise ChannelClosedError(f"channel {self.channel} was closed by its sender")
        raise ChannelBrokenError(f"the receiver of channel {self.channel} went away{self._why}")

    def _drain(self) -> None:
        outbox, credits = self._outbox, self.credits
        while outbox:
            message = outbox[0]
            if isinstance(message, Batch):
                size = message.size_bytes
                if not credits.allow(size):
                    return
                cost = credits.spend(size)
                self.sent_bytes += size
            else:
                cost = FREE
            outbox.popleft()
            self._deliver(message, cost)


class Receiver:
    """The end that receives.

    Attributes:
        received_bytes: Size of all batches that were received, as credits are spent by it.
    """

    def __init__(self, channel: ChannelId, grant: Callable[[Cost], None]) -> None:
        self.channel = channel
        self.received_bytes = 0
        self.on_message: Callable[[], None] = _nothing
        self._grant = grant
        self._queue: deque[tuple[Message, Cost]] = deque()
        self._state = "open"
        self._why = ""

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def readable(self) -> bool:
        """Whether ``receive`` has something to return or to raise."""
        return bool(self._queue) or self._state != "open"

    def push(self, message: Message, cost: Cost) -> None:
        """The transport brought a message; wakes the task."""
        if self._state == "open":
            self._queue.append((message, cost))
            self.on_message()

    def receive(self) -> Message | None:
        """The next message, or None; its credits go back to the sender.

        Raises:
            ChannelClosedError: If this end was closed.
            ChannelBrokenError: If the sender went away before EndOfInput.
        """
        if self._queue:
            message, cost = self._queue.popleft()
            if isinstance(message, Batch):
                self.received_bytes += message.size_bytes
                self._grant(cost)
            return message
        if self._state == "closed":
            raise ChannelClosedError(f"channel {self.channel} was closed by its receiver")
        if self._state == "broken":
            raise ChannelBrokenError(f"the sender of channel {self.channel} went away{self._why}")
        return None

    def close(self) -> None:
        """Close this end."""
        self._state = "closed"
        self._queue.clear()

    def break_off(self, why: Exception | None = None) -> None:
        """The sender went away; what has arrived can still be received. Wakes the task."""
        if self._state == "open":
            self._why = f": {why}" if why is not None else ""
            self._state = "broken"
            self.on_message()


def local_channel(channel: ChannelId, credits: Credits) -> tuple[Sender, Receiver]:
    """A channel inside one thread: sending is a call."""
    receiver = Receiver(channel, lambda cost: sender.grant(cost))
    sender = Sender(channel, credits, receiver.push)
    return sender, receiver
