"""Standard output and standard error, which may be closed or full at any time.

Commands say things through it rather than by ``print``, so that a reader who has gone away does
not end what they are there to do.
"""

from __future__ import annotations

import os
import sys


def tell(text: str) -> None:
    """Print a line on standard error; a job must not fail because nobody can read it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        silence(2)


def silence(descriptor: int) -> None:
    """Send what is written from now on nowhere, also what Python flushes when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
