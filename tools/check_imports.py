"""Import rules that import-linter cannot say: who may import which module from outside.

Deciding code imports nothing that does; each foreign library has one place.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

DOING = {
    "asyncio", "threading", "time", "random", "socket", "subprocess", "os", "secrets",
    "ray", "rocksdict", "aiokafka", "uvloop", "click", "rich",
}  # fmt: skip
"""What code that decides must not import."""

PURE = [
    "streamline/batch.py",
    "streamline/cluster/jobs.py",
    "streamline/codec.py",
    "streamline/config.py",
    "streamline/coordinator/assignment.py",
    "streamline/coordinator/checkpoints.py",
    "streamline/coordinator/fit.py",
    "streamline/coordinator/instructions.py",
    "streamline/coordinator/job.py",
    "streamline/coordinator/lifecycle.py",
    "streamline/coordinator/pace.py",
    "streamline/coordinator/restart.py",
    "streamline/coordinator/status.py",
    "streamline/dsl",
    "streamline/exact.py",
    "streamline/expr.py",
    "streamline/graph.py",
    "streamline/ids.py",
    "streamline/io.py",
    "streamline/keys.py",
    "streamline/messages.py",
    "streamline/operators",
    "streamline/plan.py",
    "streamline/plural.py",
    "streamline/record.py",
    "streamline/runtime/align.py",
    "streamline/runtime/chain.py",
    "streamline/runtime/channel.py",
    "streamline/runtime/control.py",
    "streamline/runtime/credits.py",
    "streamline/runtime/deploy.py",
    "streamline/runtime/dispatch.py",
    "streamline/runtime/frames.py",
    "streamline/runtime/task.py",
    "streamline/runtime/watermarks.py",
    "streamline/state/backend.py",
    "streamline/state/encoding.py",
    "streamline/state/manifest.py",
    "streamline/state/schema.py",
    "streamline/state/task_state.py",
    "streamline/state/views.py",
]
"""Code that decides: facts in, answers out."""

HOME = {
    "rocksdict": ["streamline/state/rocksdb.py"],
    "aiokafka": ["connectors/kafka"],
    "psycopg": ["connectors/postgres"],
    "ray": ["streamline/engines/ray"],
    "click": ["streamline/cli"],
    "rich": ["streamline/cli"],
    "cloudpickle": ["streamline/jobfile.py"],
    "fsspec": ["streamline/state/store.py"],
    "zstandard": ["connectors/files"],
    "uvloop": ["streamline/runtime/worker.py"],
    "time": [
        "streamline/clock.py",
        "streamline/cli",
        "streamline/engines/inline.py",
        "streamline/testing/services",
    ],
}
"""The only places that may import a module."""


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            yield node.lineno, node.module


def within(path: str, places: list[str]) -> bool:
    """Whether a file is one of the places or lies in one."""
    return any(path == place or path.startswith(place + "/") for place in places)


def problems() -> Iterator[str]:
    """All broken rules, one sentence each."""
    for place in PURE:
        if not (ROOT / place).exists():
            yield f"tools/check_imports.py names {place}, which does not exist"
    for folder in ("streamline", "connectors"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            for line, module in imports(file):
                top = module.partition(".")[0]
                if top in DOING and within(path, PURE):
                    yield f"{path}:{line}: decides, so it must not import {module}"
                if top in HOME and not within(path, HOME[top]):
                    yield f"{path}:{line}: only {', '.join(HOME[top])} may import {top}"
            if "TYPE_CHECKING" in file.read_text(encoding="utf-8"):
                yield f"{path}: TYPE_CHECKING hides an import cycle; move what both need"


def main() -> None:
    """Print all problems; exit status 1 if there are any."""
    found = list(problems())
    for problem in found:
        print(problem)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
