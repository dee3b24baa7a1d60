"""Manifest: to bytes and back, and what is damaged or too new is said."""

import subprocess
from typing import Any

import pytest

from streamline.errors import CheckpointError
from streamline.keys import KeyGroupRange
from streamline.state.manifest import (
    Manifest,
    StateFile,
    StateHandle,
    TaskSnapshot,
    digest_of,
    unneeded,
)


def manifest(epoch: int = 7, *digests: str) -> Manifest:
    files = [StateFile(f"{place}.sst", digest, 10) for place, digest in enumerate(digests)]
    state = StateHandle(KeyGroupRange(0, 64), ["sum"], files, {"tables": [], "version": 1})
    task = TaskSnapshot(
        node="in",
        index=1,
        nodes=["in", "sum", "out"],
        parallelism=2,
        epoch=epoch,
        key_range=KeyGroupRange(64, 128),
        operators={"times": {"a.jsonl": 5}},
        sources={"in": {"a.jsonl": (10, True), "b.jsonl": None}},
        sinks={"out": [{"part": "part-1", "size": 1 << 70}]},
        watermark=5,
        state=state,
    )
    nodes = {"in": {"kind": "source", "parallelism": 2}}
    return Manifest("spend", epoch, "checkpoint", 1_700_000_000_000, 12, 128, nodes, [task])


def test_it_comes_back() -> None:
    found = Manifest.from_bytes(manifest(7, "d1").to_bytes(), "here")
    assert found == manifest(7, "d1")
    assert isinstance(found.tasks[0].key_range, KeyGroupRange)
    assert found.tasks[0].sources["in"]["a.jsonl"] == (10, True)


def test_its_first_line_tells_what_it_is() -> None:
    first = manifest().to_bytes().partition(b"\n")[0].decode()
    body = manifest().to_bytes().partition(b"\n")[2]
    assert first == f"streamline manifest 1 {digest_of(body)} spend epoch 7"


def test_the_digest_is_one_that_other_tools_compute() -> None:
    try:
        found = subprocess.run(
            ["b2sum", "-l", "128"], input=b"abc", capture_output=True, check=True, timeout=10
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        expected = "cf4ab791c62b8d2b2109c90275287816"
    else:
        expected = found.stdout.decode().split()[0]
    assert digest_of(b"abc") == expected == "cf4ab791c62b8d2b2109c90275287816"


def test_files_and_their_size() -> None:
    found = manifest(7, "a", "b")
    assert [file.digest for file in found.files()] == ["a", "b"]
    assert found.size_bytes == 20
    assert manifest(7, "a", "b", "a").size_bytes == 20  # two tasks may share a file
    assert Manifest("j", 1, "checkpoint", 0, 0, 128, {}, []).files() == []


def changed(place: int, data: bytes) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_any_damage_to_the_body_or_its_checksum_is_found() -> None:
    data = manifest().to_bytes()
    body = data.index(b"\n") + 1
    checksum = data.index(b" 1 ") + 3
    for place in [*range(checksum, checksum + 32), *range(body, len(data))]:
        with pytest.raises(CheckpointError, match="^here is damaged: its checksum does not fit"):
            Manifest.from_bytes(changed(place, data), "here")


def test_a_manifest_that_is_cut_off_anywhere_is_found() -> None:
    data = manifest().to_bytes()
    for length in range(len(data)):
        with pytest.raises(CheckpointError, match="^here is"):
            Manifest.from_bytes(data[:length], "here")


def test_damage_anywhere_gives_a_checkpoint_error_or_the_same_manifest() -> None:
    data = manifest().to_bytes()
    for place in range(len(data)):
        for bit in range(8):
            harmed = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
            try:
                assert Manifest.from_bytes(harmed, "here") == manifest()
            except CheckpointError:
                pass


@pytest.mark.parametrize("version", [b"2", b"10"])
def test_a_newer_version_says_so_and_what_to_do(version: bytes) -> None:
    data = manifest().to_bytes().replace(b"manifest 1 ", b"manifest " + version + b" ", 1)
    with pytest.raises(CheckpointError, match=r"written by a newer streamline.*upgrade") as error:
        Manifest.from_bytes(data, "here")
    assert "--fresh" in str(error.value)


def test_another_value_with_a_right_checksum_is_no_manifest() -> None:
    from streamline.codec import encode

    body = encode({"a": 1})
    data = f"streamline manifest 1 {digest_of(body)} j epoch 1\n".encode() + body
    with pytest.raises(CheckpointError, match="does not hold a manifest"):
        Manifest.from_bytes(data, "here")


@pytest.mark.parametrize(
    ("discarded", "kept", "expected"),
    [
        ("ab", [], "ab"),
        ("ab", ["bc"], "a"),
        ("ab", ["a", "b"], ""),
        ("", ["a"], ""),
        ("aa", ["b"], "a"),
    ],
)
def test_unneeded(discarded: str, kept: list[str], expected: str) -> None:
    found: Any = unneeded(manifest(1, *discarded), [manifest(2, *files) for files in kept])
    assert found == set(expected)
