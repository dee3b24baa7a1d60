"""Names that no other test, and no earlier run on the same server, has."""

import os
import re
from itertools import count

_numbers = count()


def new_name(kind: str) -> str:
    """A name for a topic, a job or a table."""
    return f"{kind}_{os.getpid()}_{next(_numbers)}"


def shown(value: object) -> str:
    """An id for a parameter that is the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:30]
