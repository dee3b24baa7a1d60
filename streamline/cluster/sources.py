"""The files of a job: its file and what that imports from beside it, or a folder with all in it.

They are found by reading, not by running: an import inside a function counts, one of a name that
is only known when the job runs does not. It knows nothing of how they travel.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from streamline.errors import UsageError


def files_of_folder(root: Path) -> list[Path]:
    """All files of a folder but what is hidden, compiled, or a virtual environment.

    Raises:
        UsageError: If it cannot be read.
    """

    def unreadable(error: OSError) -> None:
        raise UsageError(f"{root} cannot be read: {error}") from error

    found: list[Path] = []
    for place, folders, files in os.walk(root, onerror=unreadable):
        here = Path(place)
        folders[:] = [name for name in folders if _is_wanted(here / name)]
        found += [here / name for name in files if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def files_of_job(file: Path) -> list[Path]:
    """A job's file, and the modules and packages beside it that it imports, and these in turn.

    Of a package all files are taken: it may read what lies in it.

    Raises:
        UsageError: If one cannot be read.
    """
    root = file.parent
    found = {file}
    unread = [file]
    while unread:
        path = unread.pop()
        for name in _imported(path):
            new = [one for one in _beside(root, name) if one not in found]
            found.update(new)
            unread += [one for one in new if one.suffix == ".py"]
    return sorted(found)


def _is_wanted(folder: Path) -> bool:
    name = folder.name
    return not (name.startswith(".") or name == "__pycache__" or (folder / "pyvenv.cfg").exists())


def _imported(path: Path) -> set[str]:
    """First parts of the names of the modules that a file imports."""
    try:
        tree = ast.parse(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except (SyntaxError, ValueError):
        return set()  # whoever runs it says what is wrong, with the line
    return set(_names(tree))


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            yield node.module.partition(".")[0]


def _beside(root: Path, name: str) -> list[Path]:
    """The files of a module, if it is found in that folder before it is found elsewhere."""
    if name == "streamline":
        return []
    found = PathFinder.find_spec(name, [str(root)])
    if found is None:
        return []
    if found.origin is None:  # a folder without __init__.py, which gives way to all others
        elsewhere = PathFinder.find_spec(name)
        if elsewhere is not None and elsewhere.origin is not None:
            return []
        return files_of_folder(root / name)
    origin = Path(found.origin)
    return files_of_folder(origin.parent) if found.submodule_search_locations else [origin]
