"""Run an async test method: one event loop from its first line to its last.

And compare what it has read. The kits are plain classes that any test runner can call: none of
them needs a plugin for asyncio.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from functools import wraps
from typing import Any, TypeVar

from streamline.plural import counted

Kit = TypeVar("Kit")
_LONGEST_S = 60.0


def looped(test: Callable[[Kit], Coroutine[Any, Any, None]]) -> Callable[[Kit], None]:
    """Turn an async test of a kit into a plain one, which any test runner can call."""

    @wraps(test)
    def run(self: Kit) -> None:
        asyncio.run(asyncio.wait_for(test(self), _LONGEST_S))

    return run


def same_records(got: Iterable[object], wanted: Iterable[object], what: str) -> None:
    """Both hold the same records, equally often, in any order.

    Raises:
        AssertionError: Naming some that are missing and some that are too many.

    >>> same_records([2, 1], [1, 2], "numbers")
    """
    lost, extra = Counter(map(repr, wanted)), Counter(map(repr, got))
    lost, extra = lost - extra, extra - lost
    assert not lost and not extra, (
        f"{what}: {counted(sum(lost.values()), 'record')} missing ({list(lost)[:3]}), "
        f"{sum(extra.values())} wrong or twice ({list(extra)[:3]})"
    )
