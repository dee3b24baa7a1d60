"""A damaged checkpoint is noticed, the one before is used, and the output is still exact."""

from pathlib import Path

import pytest

from tests.processes.conftest import Golden
from tests.processes.runner import Run, results


def newest(folder: Path) -> Path:
    return max((folder / "state" / "checkpoints").glob("*/MANIFEST"))


@pytest.mark.parametrize("how", ["cut off", "changed", "no manifest", "cut manifest"])
def test_the_checkpoint_before_is_used(
    how: str, golden: Golden, small: Path, tmp_path: Path
) -> None:
    run = Run("sliding", tmp_path, input=small, parallelism=2, crash="committed@3@window")
    run.wait_for("checkpoints/00000003")
    run.kill()
    run.end()
    manifest = newest(tmp_path)
    before = sorted((tmp_path / "state" / "checkpoints").glob("*/MANIFEST"))
    assert len(before) >= 2  # a third is there if it was killed before it removed the first
    if how == "no manifest":
        manifest.unlink()
    elif how == "cut manifest":
        manifest.write_bytes(manifest.read_bytes()[:-100])
    else:
        other = before[-2].read_bytes()
        shared = (tmp_path / "state" / "checkpoints" / "shared").iterdir()
        mine = [
            file
            for file in shared
            if file.name.encode() in manifest.read_bytes() and file.name.encode() not in other
        ]
        victim = max(mine, key=lambda file: file.stat().st_size)
        data = bytearray(victim.read_bytes())
        victim.unlink()  # it may be linked to elsewhere
        data[len(data) // 2] ^= 1
        victim.write_bytes(data if how == "changed" else data[:-1])
    again = Run("sliding", tmp_path, input=small, parallelism=3)
    status, _, stderr = again.end()
    assert status == 0, stderr
    if how != "no manifest":
        assert f"checkpoint {int(manifest.parent.name)} cannot be used" in stderr
    assert results(again.output) == golden("sliding")
