"""Savepoints: a checkpoint copied to a place of its own, which nobody removes.

A savepoint is complete in itself: it names no file outside of its place. Which checkpoint is
copied, and when, is the engine's to decide.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from streamline.errors import CheckpointError, UsageError
from streamline.state.manifest import Manifest
from streamline.state.store import CheckpointStore, open_store

_PROBE = "probe"


def check_empty(target: str) -> None:
    """Refuse a place that holds checkpoints already.

    Raises:
        UsageError: If it does.
        CheckpointError: If it cannot be looked into.
    """
    if _epochs(target):
        raise UsageError(f"{target} holds a savepoint already; give another place")


def check_writable(target: str) -> None:
    """Find out whether a savepoint can be left in a place, before anything is given up for it.

    Raises:
        UsageError: If there can be none.
        CheckpointError: If it cannot be written to.
    """
    store = open_store(target)
    try:
        with tempfile.NamedTemporaryFile(prefix="streamline-") as probe:
            store.put_file(Path(probe.name), _PROBE)
        store.remove(-1, {_PROBE})
    except OSError as error:
        raise CheckpointError(f"the savepoint {target} cannot be written: {error}") from error


def saved_epoch(target: str) -> int | None:
    """The epoch of the savepoint in a place, if there is one.

    Raises:
        CheckpointError: If the place cannot be looked into.
    """
    epochs = _epochs(target)
    return epochs[-1] if epochs else None


def replace_savepoint(
    store: CheckpointStore, manifest: Manifest, target: str, *, scratch: Path
) -> Manifest:
    """As :func:`export_checkpoint`; an older savepoint in that place is given up.

    There is always a whole one in it, once there was one.

    Raises:
        CheckpointError: If it cannot be read or written.
    """
    copy = export_checkpoint(store, manifest, target, scratch=scratch)
    other = open_store(target)
    try:
        other.discard_newer(copy.epoch)
        other.discard_all_but(1, set())
    except OSError as error:
        raise CheckpointError(f"the savepoint {target} cannot be replaced: {error}") from error
    return copy


def export_checkpoint(
    store: CheckpointStore, manifest: Manifest, target: str, *, scratch: Path
) -> Manifest:
    """Copy a checkpoint with all its files; it is complete when this returns.

    Args:
        store: Where it is.
        manifest: Which.
        target: Folder or URL of the copy.
        scratch: A folder for what is under way.

    Returns:
        The manifest of the copy.

    Raises:
        CheckpointError: If it cannot be read or written.
    """
    copy = replace(manifest, kind="savepoint")
    other = open_store(target)
    scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=scratch, prefix="savepoint-"))
    try:
        for file in manifest.files():
            local = folder / file.digest
            store.fetch(file, local)
            other.put_file(local, file.digest)
            local.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"the savepoint {target} cannot be written: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    other.write_manifest(copy)
    return copy


def _epochs(target: str) -> list[int]:
    try:
        return open_store(target).epochs()
    except OSError as error:
        raise CheckpointError(f"{target} cannot be used for a savepoint: {error}") from error
