"""Chance in tests that kill: other moments in each run of the tests, the same ones if asked."""

import os
import random

VARIABLE = "STREAMLINE_KILL_SEED"


def chance() -> random.Random:
    """A generator; its seed is printed, which pytest shows when the test fails."""
    seed = int(os.environ.get(VARIABLE, "0")) or random.SystemRandom().getrandbits(32)
    print(f"{VARIABLE}={seed}")
    return random.Random(seed)
