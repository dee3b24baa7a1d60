"""Checkpoints at a URL: a run goes on from there, also when its own folder is gone."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from streamline.engines.statedir import StateDir
from streamline.errors import StateError, UsageError
from streamline.state.store import open_store
from tests.cli.command import FAILED, USAGE, Cli, Running, until


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Behind fsspec like any other: local:// is its own name for what stands on this machine."""
    return f"local://{tmp_path}/elsewhere/job"


def test_killed_and_gone_on_with_on_another_machine(running: Running, url: str) -> None:
    """Of the first nothing is left but what is at the URL, and the results."""
    elsewhere = ("--checkpoint-dir", url)
    started = running.start(*elsewhere)
    until(
        lambda: sum(running.results().values()) == running.hold and len(epochs(url)) > 1,
        "half the results",
        started=started,
    )
    started.signal(signal.SIGKILL)
    started.end()
    assert not (running.state / "checkpoints").exists()
    shutil.rmtree(running.state)
    running.finish(*elsewhere).says(f"continuing job 'running' from {url}")
    # It has finished: on whatever machine it is run again, it starts over.
    shutil.rmtree(running.state)
    running.start(*elsewhere).end().says("had finished; it starts over")


def test_the_run_that_began_last_goes_on(cli: Cli, running: Running, url: str) -> None:
    """No lock reaches from one machine to another; the run from before must do no harm."""
    first = running.start("--checkpoint-dir", url)
    until(lambda: sum(running.results().values()) == running.hold, "half", started=first)
    second = Running(cli, state="another")
    started = second.start("--checkpoint-dir", url)
    done = first.end()
    done.refuses(FAILED, f"another run has taken over the checkpoints at {url}")
    running.go.touch()
    assert started.end().says(f"continuing job 'running' from {url}").status == 0
    assert running.results() == running.wanted()


def epochs(url: str) -> list[int]:
    return open_store(url).epochs()


def test_what_does_not_go_together_is_refused(cli: Cli, running: Running, url: str) -> None:
    running.finish("--checkpoint-dir", url)
    done = running.start().end()
    done.refuses(FAILED, f"goes with the checkpoints at {url}; give --checkpoint-dir {url}, or")
    cli.write("file", "")
    wrong = {
        "nonsense://bucket/job": "nothing is known at such an address",
        "file://job": "a file URL has a whole path",
        "gs://bucket/job": "gs:// needs a package that is missing",
        f"local://{cli.folder}/file/job": "checkpoints cannot be kept at",
    }
    for place, why in wrong.items():
        shutil.rmtree(running.state, ignore_errors=True)
        done = running.start("--checkpoint-dir", place).end()
        done.refuses(done.status, why)
        assert done.status in (FAILED, USAGE)
        assert running.results() == running.wanted()


def test_whose_checkpoints_they_are(tmp_path: Path) -> None:
    url = f"local://{tmp_path}/elsewhere"
    StateDir(tmp_path / "a", "spend", url).close()
    with pytest.raises(StateError, match=r"belong to job 'spend', not to 'other'; give another"):
        StateDir(tmp_path / "b", "other", url)
    StateDir(tmp_path / "c", "spend", f"{url}/").close()
    (tmp_path / "elsewhere" / "job.json").write_text("[1]")
    with pytest.raises(StateError, match=r"holds a job.json that is not of checkpoints"):
        StateDir(tmp_path / "d", "spend", url)
    (tmp_path / "elsewhere" / "job.json").unlink()
    (tmp_path / "elsewhere" / "00000001").mkdir()
    (tmp_path / "elsewhere" / "00000001" / "MANIFEST").touch()
    with pytest.raises(StateError, match=r"such as a savepoint; begin --from it"):
        StateDir(tmp_path / "e", "spend", url)  # nobody is to remove what is not his


def test_a_folder_that_has_its_own_checkpoints(tmp_path: Path) -> None:
    StateDir(tmp_path / "a", "spend").close()
    (tmp_path / "a" / "checkpoints" / "00000001").mkdir(parents=True)
    (tmp_path / "a" / "checkpoints" / "00000001" / "MANIFEST").touch()
    with pytest.raises(StateError, match=r"goes with the checkpoints in it; give no --checkpoint"):
        StateDir(tmp_path / "a", "spend", f"{tmp_path}/elsewhere")


def test_started_over(tmp_path: Path) -> None:
    """What is there goes, and the place stays the job's."""
    state = StateDir(tmp_path / "a", "spend", f"local://{tmp_path}/elsewhere")
    for epoch in (1, 2):
        state.store.put_manifest(epoch, b"x")
    file = tmp_path / "file"
    file.write_text("of no manifest")
    state.store.put_file(file, "d1")
    assert state.has_checkpoint
    state.mark_finished()
    assert state.finished
    state.start_over()
    assert not state.has_checkpoint
    assert not state.finished
    assert state.store.digests() == set()
    with pytest.raises(UsageError, match="the job's own"):
        state.begin_from(state.url, replace=False)
    state.close()
    assert json.loads((tmp_path / "elsewhere" / "job.json").read_text())["job"] == "spend"
