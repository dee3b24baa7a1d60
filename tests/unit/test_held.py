"""Checkpoints of which another run has taken hold: nothing is completed or removed any more."""

from pathlib import Path

import pytest

from streamline.engines.statedir import StateDir
from streamline.errors import CheckpointError
from streamline.state.manifest import Manifest


def manifest(epoch: int) -> Manifest:
    return Manifest("spend", epoch, "checkpoint", 0, 0, 128, {}, [])


@pytest.mark.parametrize("note", [None, b"", b"[1]", b'{"job":"spend"}'])
def test_who_came_before_does_no_harm(tmp_path: Path, note: bytes | None) -> None:
    url = f"memory://{tmp_path}"
    first = StateDir(tmp_path / "a", "spend", url)
    first.store.write_manifest(manifest(1))
    (tmp_path / "file").write_text("x")
    if note is None:
        second = StateDir(tmp_path / "b", "spend", url)
        second.store.write_manifest(manifest(2))
        second.store.put_file(tmp_path / "file", "of a checkpoint under way")
    else:
        first.store.put_note(note)
    kept = first.store.epochs(), first.store.digests()
    with pytest.raises(CheckpointError, match=f"another run has taken over .* at {url}"):
        first.store.write_manifest(manifest(3))
    for remove in (
        lambda: first.store.discard_newer(0),
        lambda: first.store.remove(1, set()),
    ):
        with pytest.raises(PermissionError):
            remove()
    if note is None:
        with pytest.raises(PermissionError):
            first.store.sweep()
        second.store.discard_newer(1)
        assert second.store.epochs() == [1]
        second.close()
    else:
        assert (first.store.epochs(), first.store.digests()) == kept
    first.close()
