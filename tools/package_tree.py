"""Lay out the package as it is installed, with links, for tools that do not import it.

``connectors/`` is mapped to ``streamline.connectors`` by pyproject.toml; mypy and import-linter
look at folders only. Called as ``python -m tools.package_tree TARGET``.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(target: Path) -> None:
    """Make the tree anew."""
    shutil.rmtree(target, ignore_errors=True)
    package = target / "streamline"
    package.mkdir(parents=True)
    for path in (ROOT / "streamline").iterdir():
        if path.name != "__pycache__":
            (package / path.name).symlink_to(path)
    (package / "connectors").symlink_to(ROOT / "connectors")
    for name in ("examples", "benchmarks", "tools"):
        (target / name).symlink_to(ROOT / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
