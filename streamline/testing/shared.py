"""Shared: an object that stays one and the same when what holds it is copied or pickled.

Jobs are copied on their way to tasks. What a test looks at afterwards must not be: within a
process every copy means the same object, in another process there is one of its own.
"""

from __future__ import annotations

import os
from itertools import count
from typing import Any, Self
from weakref import WeakValueDictionary

_numbers = count()


class Shared:
    """Base of what is shared by all copies of its holder in one process.

    >>> from copy import deepcopy
    >>> from pickle import dumps, loads
    >>> one = Shared()
    >>> deepcopy([one])[0] is one, loads(dumps(one)) is one
    (True, True)
    """

    def __init__(self) -> None:
        self._token = f"{os.getpid()}-{next(_numbers)}"
        _alive[self._token] = self

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, (type(self), self._token)


_alive: WeakValueDictionary[str, Shared] = WeakValueDictionary()


def _find(kind: type[Shared], token: str) -> Shared:
    found = _alive.get(token)
    if found is None:
        found = kind()
        found._token = token  # noqa: SLF001 - the other half of this class
        _alive[token] = found
    return found
