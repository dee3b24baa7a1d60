"""How long a job stood still while it was begun anew, in parts: a failure, or a rescale.

It holds moments and subtracts them. Who calls the clock, and what is done with the figures, is for
the engine to know.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Restarted:
    """When what happened, in seconds of a monotonic clock.

    Attributes:
        began: The failure was noticed, or the order was given.
        drained: Nothing of before runs any more.
        loading: All workers are there.
        deployed: The checkpoint is read, and tasks are told what to restore.
        running: All tasks run.
    """

    began: float
    drained: float = 0.0
    loading: float = 0.0
    deployed: float = 0.0
    running: float = 0.0

    @property
    def seconds(self) -> float:
        """All together."""
        return self.running - self.began

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of each part; together they are ``seconds``."""
        return {
            "drain_s": self.drained - self.began,
            "workers_s": self.loading - self.drained,
            "load_s": self.deployed - self.loading,
            "restore_s": self.running - self.deployed,
        }

    def __str__(self) -> str:
        parts = (f"{name.removesuffix('_s')} {s:.2f} s" for name, s in self.parts.items())
        return f"{self.seconds:.2f} s ({', '.join(parts)})"
