"""Replay a seed and tell what happened: ``python -m tests.simulation SEED [LAST_SEED]``."""

from tests.simulation.run import simulate
from tests.simulation.seeds import replay

if __name__ == "__main__":
    replay(simulate, "tests.simulation")
