"""State folders and checkpoints: what is damaged, full, taken or another's is said, not lost."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from streamline.state.manifest import MANIFEST_VERSION, Manifest
from tests.cli.command import FAILED, USAGE, Cli, Running, until
from tests.cli.disk import FULL, SmallDisk


def files_of(running: Running, epoch: int) -> dict[str, int]:
    """Files of keyed state that a checkpoint refers to, with their lengths; by digest."""
    path = running.manifest(epoch)
    manifest = Manifest.from_bytes(path.read_bytes(), str(path))
    return {file.digest: file.size_bytes for file in manifest.files()}


def path_of(running: Running, digest: str) -> Path:
    return running.state / "checkpoints" / "shared" / digest


def only_in_the_newest(running: Running) -> Path:
    """A file with something in it that the newest checkpoint has and the one before has not."""
    before, newest = running.epochs()[-2:]
    own = files_of(running, newest).keys() - files_of(running, before).keys()
    digest = max(own, key=lambda digest: files_of(running, newest)[digest])
    path = path_of(running, digest)
    assert path.stat().st_size
    return path


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    replace(path, bytes(data))


def cut(path: Path) -> None:
    """Keep the first half."""
    data = path.read_bytes()
    replace(path, data[: len(data) // 2])


def replace(path: Path, data: bytes) -> None:
    """Write anew, so that hard links to the file keep what they had."""
    path.unlink()
    path.write_bytes(data)


# ---------------------------------------------------------------------- going on, starting over


def test_a_killed_job_goes_on_with_the_same_command_and_says_so(running: Running) -> None:
    running.killed_half_way()
    done = running.finish("--json")
    done.says("info: continuing job 'running' from state")
    assert done.summary()["records_in"] == running.count - running.hold


def test_a_finished_job_starts_over_by_itself(running: Running) -> None:
    running.engine = "inline"
    running.finish()
    again = running.finish("--json")
    again.says("job 'running' had finished; it starts over")
    assert again.summary()["records_in"] == running.count


def test_fresh_starts_over(killed: Running) -> None:
    done = killed.finish("--fresh", "--json")
    assert "continuing" not in done.stderr
    assert done.summary()["records_in"] == killed.count


def test_other_parameters_than_before_are_pointed_out(killed: Running) -> None:
    killed.engine = "inline"
    killed.go.touch()
    done = killed.finish("-p", "hold=150")
    done.says("warning: the parameters are not those", "hold: 100 -> 150", "--fresh")


# ---------------------------------------------------------------------- whose folder


def test_the_folder_of_another_job_is_refused(killed: Running) -> None:
    killed.engine = "inline"  # no engine has a part in it
    before = killed.stored()
    done = killed.cli(*killed.of("other"))
    done.refuses(FAILED, "state belongs to job 'running', not to 'other'", "--state-dir")
    assert killed.stored() == before
    killed.finish()


def test_a_folder_that_is_not_ours_is_refused_and_left_alone(running: Running) -> None:
    running.state.mkdir()
    (running.state / "thesis.txt").write_text("ten years")
    running.go.touch()
    done = running.cli(*running.arguments, "--fresh")
    done.refuses(FAILED, "the folder state is", "not a streamline state folder", "thesis.txt")
    assert (running.state / "thesis.txt").read_text() == "ten years"


def test_a_file_in_place_of_the_folder_is_refused(running: Running) -> None:
    running.state.write_text("")
    done = running.cli(*running.arguments)
    done.refuses(USAGE, "--state-dir", "'state' is a file")


def test_a_folder_of_a_newer_version_is_refused(killed: Running) -> None:
    killed.engine = "inline"  # no engine has a part in it
    owner = killed.state / "job.json"
    text = owner.read_text()
    owner.write_text(json.dumps({**json.loads(text), "version": 99}))
    before = killed.stored()
    killed.go.touch()
    done = killed.cli(*killed.arguments)
    done.refuses(FAILED, "newer streamline", "layout 99", "upgrade", "--state-dir")
    assert killed.stored() == before
    owner.write_text(text)
    killed.finish()


def test_a_manifest_of_a_newer_version_is_refused(killed: Running) -> None:
    killed.engine = "inline"  # no engine has a part in it
    path = killed.manifest(killed.epochs()[-1])
    data = path.read_bytes()
    mine = f"streamline manifest {MANIFEST_VERSION} ".encode()
    assert data.startswith(mine)
    path.write_bytes(data.replace(mine, b"streamline manifest 99 ", 1))
    before = killed.stored()
    killed.go.touch()
    done = killed.cli(*killed.arguments)
    done.refuses(
        FAILED,
        f"{path.parent.name}/MANIFEST",
        "newer streamline",
        "format 99",
        "upgrade",
        "--fresh",
    )
    assert killed.stored() == before
    path.write_bytes(data)
    killed.finish()


def test_a_second_run_at_the_same_time_is_refused_and_names_the_first(running: Running) -> None:
    first = running.start()
    running.half(first)
    second = running.cli(*running.arguments)
    named = f"process {first.process.pid}"
    second.refuses(FAILED, "the state folder state is in use", named, "--state-dir")
    running.go.touch()
    assert first.end().status == 0
    assert running.results() == running.wanted()


# ---------------------------------------------------------------------- damaged checkpoints


@pytest.mark.parametrize(
    ("damage", "engine"), [(flip, "local"), (cut, "inline"), (Path.unlink, "inline")]
)
def test_a_damaged_file_in_the_newest_checkpoint(
    nearly: Running, damage: Callable[[Path], None], engine: str
) -> None:
    """The one before is used. What the newest one had committed must not appear twice."""
    nearly.engine = engine
    newest = nearly.epochs()[-1]
    damaged = only_in_the_newest(nearly)
    damage(damaged)
    done = nearly.finish("--json")
    done.says(f"warning: checkpoint {newest} cannot be used", damaged.name, "continuing job")
    assert done.summary()["records_in"] == nearly.count - nearly.hold


@pytest.mark.parametrize(("damage", "engine"), [(flip, "inline"), (cut, "local")])
def test_a_damaged_manifest_of_the_newest_checkpoint(
    nearly: Running, damage: Callable[[Path], None], engine: str
) -> None:
    nearly.engine = engine
    newest = nearly.epochs()[-1]
    damage(nearly.manifest(newest))
    done = nearly.finish()
    done.says(f"warning: checkpoint {newest} cannot be used", f"{newest:08d}/MANIFEST")


def test_all_checkpoints_damaged(killed: Running) -> None:
    killed.engine = "inline"  # no engine has a part in it
    epochs = killed.epochs()
    assert len(epochs) >= 2  # one more when it was killed before the oldest was given up
    files = {digest for epoch in epochs for digest, size in files_of(killed, epoch).items() if size}
    for digest in files:
        flip(path_of(killed, digest))
    before, results = killed.stored(), killed.results()
    killed.go.touch()
    done = killed.cli(*killed.arguments)
    done.refuses(FAILED, "no checkpoint can be used", "damaged", "--fresh")
    for epoch in epochs:
        assert f"checkpoint {epoch} " in done.stderr
    assert killed.stored() == before
    assert killed.results() == results
    killed.finish("--fresh")


# ---------------------------------------------------------------------- --from


@pytest.fixture
def second(killed: Running) -> Running:
    """A second run of the job that was killed, with a state folder of its own."""
    return Running(killed.cli, state="second")


def test_from_another_state_folder(killed: Running, second: Running) -> None:
    before = killed.stored()
    done = second.finish("--from", "state", "--json")
    done.says("beginning from the checkpoints in state")
    assert done.summary()["records_in"] == killed.count - killed.hold
    assert killed.stored() == before


@pytest.mark.parametrize("path", ["nowhere", "empty"])
def test_from_nothing(killed: Running, second: Running, path: str) -> None:
    second.engine = "inline"  # no engine has a part in it
    (killed.cli.folder / "empty").mkdir()
    killed.go.touch()
    done = killed.cli(*second.arguments, "--from", path)
    if path == "nowhere":
        done.refuses(USAGE, "--from nowhere", "no such folder")
    else:
        done.refuses(FAILED, "--from empty", "no checkpoint", "check the path")
    second.finish("--from", "state")


def test_from_with_checkpoints_of_its_own(killed: Running, second: Running) -> None:
    second.engine = "inline"  # no engine has a part in it
    shutil.copytree(killed.state, second.state)
    before = second.stored()
    assert before
    killed.go.touch()
    done = killed.cli(*second.arguments, "--from", "state")
    done.refuses(USAGE, "second has checkpoints of its own", "--fresh", "--state-dir")
    assert second.stored() == before
    second.finish("--from", "state", "--fresh")


@pytest.mark.parametrize("path", ["nowhere", "empty", "state"])
def test_fresh_with_a_wrong_from_forgets_nothing(killed: Running, path: str) -> None:
    """A slip of the pen in --from, or the folder itself, must not cost the checkpoints there are."""
    killed.engine = "inline"  # no engine has a part in it
    (killed.cli.folder / "empty").mkdir()
    before = killed.stored()
    killed.go.touch()
    done = killed.cli(*killed.arguments, "--fresh", "--from", path)
    done.refuses(FAILED if path == "empty" else USAGE, path)
    assert killed.stored() == before
    killed.finish()


# ---------------------------------------------------------------------- full disks


def test_a_disk_that_is_full_for_a_while(cli: Cli, disk: SmallDisk) -> None:
    """The job goes on, says which checkpoint is safe, and completes once there is room."""
    running = Running(cli, state="disk/state", every="500ms")
    said = cli.folder / "said"
    with said.open("w") as file:
        started = running.start(stderr=file)
    running.half(started)
    disk.fill()
    until(lambda: "the job goes on" in said.read_text(), "warning", started=started)
    started.signal(signal.SIGKILL)  # and at that very moment the power fails
    started.end()
    line = next(line for line in said.read_text().splitlines() if "the job goes on" in line)
    assert line.startswith("warning: checkpoint ")
    assert FULL in line
    assert f"the last complete one is {running.epochs()[-1]}" in line
    disk.free()
    running.finish().says("continuing job")


def test_a_disk_that_stays_full(cli: Cli, disk: SmallDisk) -> None:
    """After some attempts the job fails; what was complete is intact."""
    running = Running(cli, state="disk/state")
    started = running.start()
    running.half(started)
    disk.fill()
    done = started.end()
    done.refuses(FAILED, "checkpoint", FULL, "the last complete one is ")
    assert "Traceback" not in done.stderr
    epochs = running.epochs()
    assert f"the last complete one is {epochs[-1]}" in done.stderr
    disk.free()
    running.finish().says("continuing job")


def test_a_disk_that_is_full_before_the_start(cli: Cli, disk: SmallDisk) -> None:
    running = Running(cli, state="disk/state")
    disk.fill()
    running.go.touch()
    done = cli(*running.arguments)
    done.refuses(FAILED, "disk/state", FULL)
    assert "Traceback" not in done.stderr
    disk.free()
    running.finish()


def test_the_disk_of_the_sink_is_full(cli: Cli, disk: SmallDisk) -> None:
    running = Running(cli, output="disk/out")
    started = running.start("--max-restarts", 2)
    running.half(started)
    disk.fill()
    running.go.touch()
    done = started.end()
    done.refuses(FAILED, "sink 'results' cannot write disk/out", FULL)
    assert "Traceback" not in done.stderr
    assert sum(running.results().values()) == running.hold
    disk.free()
    running.finish().says("continuing job")
