"""Operator, the running half of a node: it gets batches and watermarks and emits the same.

An operator belongs to one task and is only called by it. It sees neither channels nor
checkpoints nor other tasks; keyed state comes from the backend in its context.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, ClassVar

from streamline.batch import Batch
from streamline.clock import Clock
from streamline.config import RuntimeConfig
from streamline.io import Counters
from streamline.keys import KeyGroupRange
from streamline.messages import Watermark
from streamline.state.backend import StateBackend
from streamline.state.schema import Convert, Layout

MAIN = "main"
LATE = "late"
DEAD_LETTERS = "dead_letters"


class Output(ABC):
    """Where an operator's results go; in a chain it is the next operator."""

    @abstractmethod
    def emit(self, batch: Batch, tag: str = MAIN) -> None:
        """Hand on a batch that is not empty; side outputs have a tag of their own."""

    @abstractmethod
    def watermark(self, watermark: Watermark) -> None:
        """Hand on a watermark, to the main output and all side outputs."""


@dataclass
class OperatorContext:
    """What an operator is told when it is opened.

    Attributes:
        node: Name of the node in the job, for messages and for the names of state.
        index: Which parallel copy this is, of ``parallelism``.
        key_range: The key groups this task owns.
        clock: The time.
        counters: To be counted up.
        state: Keyed state, or None for operators that have none.
        config: Settings of the run.
        active_partitions: In a source's own task: the partitions that may still bring
            records, kept up to date; None anywhere else.
        partition_watermarks: In a source's own task: to be filled with the event time
            reached in each partition.
    """

    node: str
    index: int
    parallelism: int
    max_parallelism: int
    key_range: KeyGroupRange
    clock: Clock
    config: RuntimeConfig
    counters: Counters = field(default_factory=Counters)
    state: StateBackend | None = None
    active_partitions: AbstractSet[str] | None = None
    partition_watermarks: dict[str, int] = field(default_factory=dict)


class Operator(ABC):
    """The running object of one node in one task."""

    keyed = False
    """Whether it needs a state backend."""

    def open(self, context: OperatorContext) -> None:
        """Get ready; called once, before all else but ``__init__``."""
        self.context = context

    def records(self, batch: Batch) -> int:
        """How many records a batch stands for; more than it is long if they were added up."""
        return len(batch)

    @abstractmethod
    def process(self, batch: Batch, out: Output) -> None:
        """Take a batch, never an empty one, and emit what follows from it."""

    def on_watermark(self, watermark: Watermark, out: Output) -> None:
        """Event time has moved on: fire what is due, then hand the watermark on."""
        out.watermark(watermark)

    def next_clock_ms(self) -> int | None:
        """When ``on_clock`` wants to be called next (ms since the epoch), if at all."""
        return None

    def on_clock(self, now_ms: int, out: Output) -> None:
        """Processing time has reached what ``next_clock_ms`` asked for, or passed it."""

    def snapshot(self) -> Any:
        """State that is not keyed, for the codec, or None. Keyed state is the backend's."""
        return None

    def restore(self, states: list[Any]) -> None:
        """What ``snapshot`` returned in every task that ran the node, at any parallelism.

        Called after ``open`` and before the first batch.
        """

    def close(self) -> None:
        """Let go of everything; called once, last, also after an error."""


@dataclass(frozen=True)
class OperatorSpec(ABC):
    """The describing half of a node: frozen, it travels with the graph and builds operators.

    Attributes:
        assigns_timestamps: Records have event times behind it.
        needs_timestamps: Records must have event times in front of it.
        keyed: Records must have keys in front of it.
    """

    assigns_timestamps: ClassVar[bool] = False
    needs_timestamps: ClassVar[bool] = False
    keyed: ClassVar[bool] = False

    @property
    def dead_letters(self) -> bool:
        """Whether records on which a function of the user's raises become dead letters."""
        return False

    @abstractmethod
    def build(self) -> Operator:
        """A new operator for one task."""

    @property
    def kind(self) -> str:
        """What to call it in a plan: ``map``, ``filter``, ``window`` ..."""
        return type(self).__name__.removesuffix("Spec").lower()

    def layouts(self) -> dict[str, Layout]:
        """The keyed states it holds, by name, with how their entries are laid out."""
        return {}

    def converter(self, state: str, was: Layout) -> Convert | None:
        """What turns stored entries of a state into the layout of now; None if they stay.

        Args:
            state: Its name.
            was: Its layout when it was stored.
        """
        return None

    def projection(self, node: str) -> Callable[[Batch], Batch] | None:
        """What reduces a batch, before a shuffle, to what the operator looks at; None: nothing.

        It is left out where late records are wanted, which go on as they came.
        """
        return None
