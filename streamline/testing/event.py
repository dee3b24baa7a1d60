"""Event: a value and its event time, as tests write it down and get it back.

Scripts, the harness and the collecting sink share it, so that what goes in and what comes out can
be compared as plain pairs.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Event(NamedTuple, Generic[T]):
    """A value at a moment; equal to the plain pair of both.

    Attributes:
        value: The record.
        at: Its event time, ms since the epoch.

    >>> Event("tea", 1_000) == ("tea", 1_000)
    True
    """

    value: T
    at: int
