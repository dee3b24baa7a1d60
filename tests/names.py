"""Names that no other test, and no earlier run on the same server, has."""

import os
from itertools import count

_numbers = count()


def new_name(kind: str) -> str:
    """A name for a topic, a job or a table."""
    return f"{kind}_{os.getpid()}_{next(_numbers)}"
