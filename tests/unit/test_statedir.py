"""StateDir: one run at a time, one job, one version, and no stranger's folder."""

import json
import os
from pathlib import Path

import pytest

from streamline.engines.statedir import LAYOUT_VERSION, StateDir
from streamline.errors import LockedError, StateError


def tree(root: Path) -> dict[str, str]:
    """Every file and what is in it."""
    return {
        str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()
    }


def test_a_new_folder_is_made_and_marked(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "er"
    StateDir(root, "spend").close()
    assert json.loads((root / "job.json").read_text()) == {
        "job": "spend",
        "version": LAYOUT_VERSION,
    }


def test_it_can_be_opened_again_by_the_same_job(tmp_path: Path) -> None:
    for _ in range(3):
        StateDir(tmp_path / "state", "spend").close()


def test_one_run_at_a_time(tmp_path: Path) -> None:
    first = StateDir(tmp_path, "spend")
    with pytest.raises(LockedError, match=f"in use by another run .process {os.getpid()}"):
        StateDir(tmp_path, "spend")
    first.close()
    StateDir(tmp_path, "spend").close()


def test_who_is_refused_does_not_disturb_who_is_running(tmp_path: Path) -> None:
    first = StateDir(tmp_path, "spend")
    first.live.mkdir()
    (first.live / "db").write_text("running")
    before = tree(tmp_path)
    for job in ("spend", "other"):
        with pytest.raises(LockedError):
            StateDir(tmp_path, job)
    assert tree(tmp_path) == before
    first.close()


def test_another_jobs_folder(tmp_path: Path) -> None:
    StateDir(tmp_path, "spend").close()
    with pytest.raises(StateError, match=r"belongs to job 'spend', not to 'clicks'; give another"):
        StateDir(tmp_path, "clicks")
    StateDir(tmp_path, "spend").close()  # the refused one has let go of the lock


def test_a_newer_version(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(json.dumps({"job": "spend", "version": LAYOUT_VERSION + 1}))
    with pytest.raises(StateError, match=r"of a newer streamline \(layout 2; .*upgrade"):
        StateDir(tmp_path, "spend")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"job": "spend", "version": "x"}', "\0"])
def test_a_mark_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.json").write_text(text)
    with pytest.raises(StateError, match=r"job.json cannot be read .*--state-dir"):
        StateDir(tmp_path, "spend")


def test_a_strangers_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(StateError, match=r"not a streamline state folder \(it holds thesis.txt\)"):
        StateDir(tmp_path, "spend")


@pytest.mark.parametrize("name", ["thesis.txt", "live/db", "lock"])
def test_a_strangers_folder_is_left_as_it_was(tmp_path: Path, name: str) -> None:
    """Also when its files happen to have our names."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").write_text("precious")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious, too")
    before = tree(tmp_path)
    with pytest.raises(StateError):
        StateDir(tmp_path, "spend")
    after = tree(tmp_path)
    assert {path: after.get(path) for path in before} == before


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be used"):
        StateDir(tmp_path / "file", "spend")


def test_live_state_does_not_outlive_the_run(tmp_path: Path) -> None:
    first = StateDir(tmp_path, "spend")
    (first.live / "task").mkdir(parents=True)
    first.close()
    assert not first.live.exists()
    (first.live / "of-a-crash").mkdir(parents=True)
    second = StateDir(tmp_path, "spend")
    assert not second.live.exists()
    second.close()


def test_checkpoints_and_the_end_are_remembered_until_started_over(tmp_path: Path) -> None:
    first = StateDir(tmp_path, "spend")
    assert (first.has_checkpoint, first.finished) == (False, False)
    (first.checkpoints / "00000001").mkdir(parents=True)
    assert not first.has_checkpoint  # without a manifest it is none
    (first.checkpoints / "00000001" / "MANIFEST").touch()
    first.mark_finished()
    first.close()

    second = StateDir(tmp_path, "spend")
    assert (second.has_checkpoint, second.finished) == (True, True)
    second.start_over()
    assert (second.has_checkpoint, second.finished) == (False, False)
    second.start_over()
    second.close()


def test_parameters_are_remembered(tmp_path: Path) -> None:
    first = StateDir(tmp_path, "spend")
    assert first.params == {}
    first.params = {"servers": "a:1", "topic": "x"}
    first.close()
    second = StateDir(tmp_path, "spend")
    assert second.params == {"servers": "a:1", "topic": "x"}
    second.close()
