"""1,000 seeds; and that the simulation notices when the engine is broken."""

import pytest

from streamline.batch import RowBatch
from streamline.runtime.align import BarrierAligner
from tests.simulation.run import Difference, simulate
from tests.simulation.seeds import all_failures, is_noticed


@pytest.mark.timeout(900)
def test_every_seed_gives_the_results_of_the_undisturbed_run() -> None:
    found = all_failures(simulate, "tests.simulation")
    assert not found, "\n".join(found)


def test_a_seed_is_the_same_every_time() -> None:
    stories: list[list[str]] = [[], []]
    for story in stories:
        simulate(12, story.append)
    without_addresses = [[line.partition("rng=")[0] for line in story] for story in stories]
    assert without_addresses[0] == without_addresses[1]


def test_it_notices_when_nothing_is_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BarrierAligner, "is_blocked", lambda self, index: False)
    assert is_noticed(simulate, 60)


def test_it_notices_a_lost_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """One record is dropped on one way between two tasks: exactly that must be missed."""
    from streamline.runtime.channel import Receiver

    push, seen = Receiver.push, [0]

    def lossy(self: Receiver, message: object, cost: object) -> None:
        if isinstance(message, RowBatch) and len(message) > 1:
            seen[0] += 1
            if seen[0] == 9:
                mask = [True] * len(message)
                mask[0] = False
                import numpy as np

                message = message.where(np.array(mask))
        push(self, message, cost)  # type: ignore[arg-type]

    # The undisturbed run is made before anything is broken.
    simulate(2)
    monkeypatch.setattr(Receiver, "push", lossy)
    with pytest.raises(Difference, match="missing"):
        for seed in range(20):
            seen[0] = 0
            simulate(seed)
