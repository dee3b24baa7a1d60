"""Every module opens with two to six lines: what it owns, and what it must not know."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FEWEST, MOST = 2, 6


def problems() -> Iterator[str]:
    """Modules that open with too little or too much, one sentence each."""
    for folder in ("streamline", "connectors"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            opening = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            count = sum(1 for line in opening.splitlines() if line.strip())
            if not FEWEST <= count <= MOST:
                yield (
                    f"{file.relative_to(ROOT)} opens with {count} of {FEWEST} to {MOST} lines; "
                    "say what the module owns, and what it must not know"
                )


def main() -> None:
    """Print all problems; exit status 1 if there are any."""
    found = list(problems())
    for problem in found:
        print(problem)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
