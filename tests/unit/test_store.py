"""The checkpoint store: a directory and an fsspec URL under the same tests."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest

from streamline.errors import CheckpointError
from streamline.keys import KeyGroupRange
from streamline.state.manifest import Manifest, StateFile, StateHandle, TaskSnapshot, digest_of
from streamline.state.store import CheckpointStore, DirectoryStore, RemoteStore, open_store


@dataclass
class Place:
    """A store, and a way to look at and harm what is in it."""

    store: CheckpointStore
    fs: Any
    root: str
    folder: Path

    def manifest_path(self, epoch: int) -> str:
        return f"{self.root}/{epoch:08d}/MANIFEST"

    def file_path(self, content: bytes) -> str:
        return f"{self.root}/shared/{digest_of(content)}"

    def upload(
        self, *contents: bytes, known: Sequence[StateFile] = (), suffix: str = ".sst"
    ) -> list[StateFile]:
        """Store files as a task would."""
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        for place, content in enumerate(contents):
            (folder / f"{place}{suffix}").write_bytes(content)
        return self.store.upload(folder, {file.name: file for file in known})

    def checkpoint(self, epoch: int, *contents: bytes) -> Manifest:
        """A complete checkpoint with these files."""
        manifest = make_manifest(epoch, self.upload(*contents))
        self.store.write_manifest(manifest)
        return manifest

    def cut(self, path: str) -> None:
        self.harm(path, self.fs.cat_file(path)[:-3])

    def flip(self, path: str) -> None:
        data = bytearray(self.fs.cat_file(path))
        data[-2] ^= 1
        self.harm(path, bytes(data))

    def remove(self, path: str) -> None:
        self.fs.rm_file(path)

    def harm(self, path: str, data: bytes) -> None:
        self.fs.rm_file(path)  # else the harm would reach the source, too: it may be linked
        self.fs.pipe_file(path, data)

    @property
    def files(self) -> set[str]:
        return self.store.digests()


def make_manifest(epoch: int, files: list[StateFile]) -> Manifest:
    state = StateHandle(KeyGroupRange(0, 128), ["sum"], files, {"tables": []})
    task = TaskSnapshot("sum", 0, ["sum"], 1, epoch, KeyGroupRange(0, 128), state=state)
    return Manifest("test", epoch, "checkpoint", 0, 0, 128, {}, [task])


@pytest.fixture(params=["directory", "remote"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    files = tmp_path / "files"
    files.mkdir()
    if request.param == "directory":
        root = tmp_path / "store"
        yield Place(DirectoryStore(root), fsspec.filesystem("file"), str(root), files)
        return
    name = uuid.uuid4().hex
    fs = fsspec.filesystem("memory")
    yield Place(RemoteStore(f"memory://{name}"), fs, f"/{name}", files)
    if fs.exists(f"/{name}"):
        fs.rm(f"/{name}", recursive=True)


def digests(*contents: bytes) -> set[str]:
    return {digest_of(content) for content in contents}


# ---------------------------------------------------------------------- what goes in comes out


def test_an_empty_store_has_nothing_to_go_on_from(place: Place) -> None:
    assert place.store.latest_usable() == (None, [])
    assert place.store.epochs() == []
    assert place.store.digests() == set()
    place.store.sweep()
    place.store.discard_all_but(2, set())


def test_a_checkpoint_comes_back(place: Place) -> None:
    place.checkpoint(1, b"one", b"two")
    newest = place.checkpoint(2, b"two", b"three")
    assert place.store.latest_usable() == (newest, [])
    assert place.store.epochs() == [1, 2]
    assert place.files == digests(b"one", b"two", b"three")


def test_files_come_back_by_their_digest(place: Place, tmp_path: Path) -> None:
    files = place.upload(b"one", b"")
    assert [(f.name, f.digest, f.size_bytes) for f in files] == [
        ("0.sst", digest_of(b"one"), 3),
        ("1.sst", digest_of(b""), 0),
    ]
    for name in ("table.sst", "CURRENT"):
        place.store.fetch(files[0], tmp_path / name)
        assert (tmp_path / name).read_bytes() == b"one"


def test_files_that_are_appended_to_are_copies(place: Place, tmp_path: Path) -> None:
    (file,) = place.upload(b"log")
    place.store.fetch(file, tmp_path / "MANIFEST-000005")
    with (tmp_path / "MANIFEST-000005").open("ab") as log:
        log.write(b" and more")
    assert b"".join(place.store.chunks(file.digest)) == b"log"


def test_known_files_are_not_stored_again(place: Place) -> None:
    known = [StateFile("7.sst", digest_of(b"old"), 3)]
    place.upload(b"old", b"new", known=known)
    assert place.files == digests(b"new")


def test_a_known_table_is_not_read_again(place: Place) -> None:
    """RocksDB takes no number twice: a table of one name and length is the same one."""
    known = [StateFile("0.sst", "a digest", 3), StateFile("1.sst", "another", 4)]
    first, other = place.upload(b"old", b"new", known=known)
    assert first == known[0]
    assert other == StateFile("1.sst", digest_of(b"new"), 3)
    assert place.files == digests(b"new")


def test_what_is_not_a_table_is_always_read(place: Place) -> None:
    known = [StateFile("0.log", "a digest", 3)]
    assert place.upload(b"new", known=known, suffix=".log")[0].digest == digest_of(b"new")


def test_the_same_upload_twice_is_one(place: Place) -> None:
    assert place.upload(b"one") == place.upload(b"one")
    assert place.files == digests(b"one")


# ---------------------------------------------------------------------- the manifest comes last


def test_files_without_a_manifest_are_no_checkpoint(place: Place) -> None:
    place.upload(b"one")
    assert place.store.latest_usable() == (None, [])


def test_a_folder_without_a_manifest_is_no_checkpoint(place: Place) -> None:
    found = place.checkpoint(1, b"one")
    path = f"{place.root}/00000002/.MANIFEST"
    place.fs.makedirs(f"{place.root}/00000002", exist_ok=True)
    place.fs.pipe_file(path, b"half")
    assert place.store.latest_usable() == (found, [])


def test_epochs_are_in_order_of_number_beyond_eight_digits_too(place: Place) -> None:
    for epoch in (99_999_999, 100_000_000, 3):
        place.checkpoint(epoch, b"one")
    assert place.store.epochs() == [3, 99_999_999, 100_000_000]


# ---------------------------------------------------------------------- damage


HARM: dict[str, tuple[str, str, str]] = {
    "manifest cut off": ("cut", "manifest", "damaged"),
    "manifest damaged": ("flip", "manifest", "damaged"),
    "manifest empty": ("empty", "manifest", "cut off"),
    "file cut off": ("cut", "file", "is damaged"),
    "file damaged": ("flip", "file", "is damaged"),
    "file missing": ("remove", "file", "cannot be read"),
}


def do_harm(place: Place, name: str, epoch: int, content: bytes) -> str:
    how, what, said = HARM[name]
    path = place.manifest_path(epoch) if what == "manifest" else place.file_path(content)
    if how == "empty":
        place.harm(path, b"")
    else:
        getattr(place, how)(path)
    return said


@pytest.mark.parametrize("name", HARM)
def test_a_damaged_checkpoint_is_passed_over_and_said(place: Place, name: str) -> None:
    good = place.checkpoint(1, b"content one")
    place.checkpoint(2, b"content two")
    said = do_harm(place, name, 2, b"content two")
    found, problems = place.store.latest_usable()
    assert found == good
    (problem,) = problems
    assert problem.startswith("checkpoint 2 cannot be used: ")
    assert said in problem


@pytest.mark.parametrize("name", HARM)
def test_when_none_can_be_used_it_says_why_and_what_to_do(place: Place, name: str) -> None:
    for epoch, content in ((1, b"content one"), (2, b"content two")):
        place.checkpoint(epoch, content)
        do_harm(place, name, epoch, content)
    with pytest.raises(CheckpointError, match="no checkpoint can be used: ") as error:
        place.store.latest_usable()
    for part in ("checkpoint 1", "checkpoint 2", "--fresh"):
        assert part in str(error.value)


def test_a_damaged_file_that_both_share_spoils_both(place: Place) -> None:
    place.checkpoint(1, b"shared by both")
    place.checkpoint(2, b"shared by both", b"own")
    place.flip(place.file_path(b"shared by both"))
    with pytest.raises(CheckpointError, match="no checkpoint can be used"):
        place.store.latest_usable()


def test_a_newer_version_is_not_passed_over(place: Place) -> None:
    """Going on from an older checkpoint would undo what the newer version did."""
    place.checkpoint(1, b"one")
    newer = make_manifest(2, []).to_bytes().replace(b"manifest 1 ", b"manifest 2 ", 1)
    place.store.put_manifest(2, newer)
    with pytest.raises(CheckpointError, match="newer streamline.*upgrade"):
        place.store.latest_usable()


def test_verify_names_each_file_once(place: Place) -> None:
    manifest = make_manifest(1, place.upload(b"same content", b"same content"))
    place.flip(place.file_path(b"same content"))
    assert len(place.store.verify(manifest)) == 1


def test_fetch_of_a_missing_or_cut_file_says_so(place: Place, tmp_path: Path) -> None:
    cut, missing = place.upload(b"to be cut", b"to be lost")
    place.cut(place.file_path(b"to be cut"))
    place.remove(place.file_path(b"to be lost"))
    with pytest.raises(CheckpointError, match="has 6 bytes, not 9"):
        place.store.fetch(cut, tmp_path / "a.sst")
    with pytest.raises(CheckpointError, match="is missing"):
        place.store.fetch(missing, tmp_path / "b.sst")


# ---------------------------------------------------------------------- what goes


def test_the_oldest_go_but_not_the_files_others_need(place: Place) -> None:
    place.checkpoint(1, b"a", b"b")
    place.checkpoint(2, b"b", b"c")
    place.checkpoint(3, b"c", b"d")
    place.store.discard_all_but(2, set())
    assert place.store.epochs() == [2, 3]
    assert place.files == digests(b"b", b"c", b"d")
    place.store.discard_all_but(1, set())
    assert place.files == digests(b"c", b"d")
    assert place.store.latest_usable()[1] == []


def test_files_of_a_checkpoint_under_way_stay(place: Place) -> None:
    place.checkpoint(1, b"a", b"b")
    place.checkpoint(2, b"c")
    place.store.discard_all_but(1, digests(b"a"))
    assert place.files == digests(b"a", b"c")


def test_nothing_goes_while_a_kept_one_cannot_be_read(place: Place) -> None:
    place.checkpoint(1, b"a")
    place.checkpoint(2, b"a", b"b")
    place.flip(place.manifest_path(2))
    place.store.discard_all_but(1, set())
    assert place.store.epochs() == [1, 2]
    assert place.files == digests(b"a", b"b")


def test_fewer_than_are_kept_all_stay(place: Place) -> None:
    place.checkpoint(1, b"a")
    place.store.discard_all_but(5, set())
    assert place.store.epochs() == [1]


def test_sweep_removes_what_no_manifest_names(place: Place) -> None:
    place.checkpoint(1, b"a")
    place.checkpoint(2, b"b")
    place.upload(b"left over")
    place.store.sweep()
    assert place.files == digests(b"a", b"b")


def test_sweep_does_nothing_while_a_manifest_cannot_be_read(place: Place) -> None:
    place.checkpoint(1, b"a")
    place.upload(b"left over")
    place.flip(place.manifest_path(1))
    place.store.sweep()
    assert place.files == digests(b"a", b"left over")


# ---------------------------------------------------------------------- one or the other alone


def test_an_upload_that_was_interrupted_leaves_nothing_behind(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    source = tmp_path / "source"
    source.write_bytes(b"data")
    store.put_file(source, digest_of(b"data"))
    (tmp_path / "store" / "shared" / f".{'0' * 32}.1").write_bytes(b"half")
    store.sweep()
    assert list((tmp_path / "store" / "shared").iterdir()) == []


def test_a_file_where_the_folder_should_be_says_so(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("in the way")
    store = DirectoryStore(tmp_path / "store")
    files = tmp_path / "files"
    files.mkdir()
    (files / "a.sst").write_bytes(b"a")
    with pytest.raises(CheckpointError, match="cannot be written"):
        store.write_manifest(make_manifest(1, []))
    with pytest.raises(CheckpointError, match="a.sst cannot be stored"):
        store.upload(files, {})


def test_open_store_by_path_or_url(tmp_path: Path) -> None:
    for url in (str(tmp_path), f"file://{tmp_path}"):
        store = open_store(url)
        assert isinstance(store, DirectoryStore)
        assert store.where(7) == f"{tmp_path}/00000007/MANIFEST"
    remote = open_store("memory://bucket/job")
    assert isinstance(remote, RemoteStore)
    assert remote.where(7) == "memory://bucket/job/00000007/MANIFEST"
