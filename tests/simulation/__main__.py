"""Replay a seed and tell what happened: ``python -m tests.simulation SEED [LAST_SEED]``."""

import sys
import traceback

from tests.simulation.run import simulate


def main() -> None:
    first = int(sys.argv[1])
    last = int(sys.argv[2]) if len(sys.argv) > 2 else first
    failed = 0
    for seed in range(first, last + 1):
        story: list[str] = []
        try:
            simulate(seed, story.append)
        except Exception:
            failed += 1
            print("\n".join(story))
            traceback.print_exc()
            print(f"seed {seed} failed; replay: python -m tests.simulation {seed}")
        else:
            if first == last:
                print("\n".join(story))
    print(f"{last - first + 1} seeds, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
