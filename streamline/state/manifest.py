"""What a checkpoint consists of: a Manifest of task snapshots and the files they refer to.

Pure: it turns into bytes and back and says which files are needed. The first line of the
bytes is text, so that ``head -1`` tells what the file is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from streamline.codec import decode, encode
from streamline.errors import CheckpointError
from streamline.keys import KeyGroupRange
from streamline.messages import MIN_TIMESTAMP

MANIFEST_VERSION = 1
_MAGIC = "streamline manifest"
DIGEST_BYTES = 16


def digest_of(data: bytes) -> str:
    """Checksum of some bytes: BLAKE2b, 16 bytes, as hex."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


@dataclass(frozen=True)
class StateFile:
    """A file of a key-value store as kept in the checkpoint store.

    Attributes:
        name: Its name in the store's folder.
        digest: Checksum of its bytes; its name in the checkpoint store.
        size_bytes: Its length.
    """

    name: str
    digest: str
    size_bytes: int


@dataclass(frozen=True)
class StateHandle:
    """The keyed state of one task in a checkpoint.

    Attributes:
        key_range: Key groups it holds.
        nodes: Nodes of the stage.
        files: Files of its key-value store.
        metadata: Which tables there are, with their namespaces.
    """

    key_range: KeyGroupRange
    nodes: list[str]
    files: list[StateFile]
    metadata: dict[str, Any]

    @property
    def size_bytes(self) -> int:
        """Of its files."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True)
class TaskSnapshot:
    """One task's part of a checkpoint.

    Attributes:
        node, index: The task.
        nodes: Nodes of its stage.
        parallelism: Of the stage, then.
        epoch: The checkpoint.
        key_range: Key groups it owned.
        operators: State that is not keyed, by node.
        sources: Positions of each partition, by source node.
        sinks: What sinks have prepared and not seen committed, by node.
        watermark: Event time of its inputs.
        state: Its keyed state, if it has any.
    """

    node: str
    index: int
    nodes: list[str]
    parallelism: int
    epoch: int
    key_range: KeyGroupRange
    operators: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    sinks: dict[str, list[Any]] = field(default_factory=dict)
    watermark: int = MIN_TIMESTAMP
    state: StateHandle | None = None


@dataclass(frozen=True)
class Manifest:
    """A complete checkpoint.

    Attributes:
        job: Name of the job.
        epoch: Its number.
        kind: ``checkpoint`` or ``savepoint``.
        created_ms: When, ms since the epoch.
        duration_ms: From trigger to here.
        max_parallelism: Number of key groups.
        nodes: Kind and parallelism of every node.
        tasks: The snapshots of all tasks.
        lineage: Names the life of the job, from its start from scratch over all restores.
    """

    job: str
    epoch: int
    kind: str
    created_ms: int
    duration_ms: int
    max_parallelism: int
    nodes: dict[str, dict[str, Any]]
    tasks: list[TaskSnapshot]
    lineage: str = ""

    def files(self) -> list[StateFile]:
        """All files it refers to, each once: tasks may share some."""
        files = (file for task in self.tasks if task.state for file in task.state.files)
        return list({file.digest: file for file in files}.values())

    @property
    def size_bytes(self) -> int:
        """Length of all its files together."""
        return sum(file.size_bytes for file in self.files())

    def to_bytes(self) -> bytes:
        """As bytes, with a checksum."""
        body = encode(self)
        head = f"{_MAGIC} {MANIFEST_VERSION} {digest_of(body)} {self.job} epoch {self.epoch}\n"
        return head.encode() + body

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Undo :meth:`to_bytes`.

        Raises:
            CheckpointError: If it is damaged, or was written by a newer version.
        """
        head, newline, body = data.partition(b"\n")
        words = head.decode(errors="replace").split(" ")
        if not newline or " ".join(words[:2]) != _MAGIC or len(words) < 4:
            raise CheckpointError(f"{where} is not a manifest or is cut off")
        if not words[2].isdigit() or int(words[2]) > MANIFEST_VERSION:
            raise CheckpointError(
                f"{where} was written by a newer streamline (format {words[2]}, this one knows "
                f"{MANIFEST_VERSION}); upgrade streamline, or start over with --fresh"
            )
        if digest_of(body) != words[3]:
            raise CheckpointError(f"{where} is damaged: its checksum does not fit")
        manifest = decode(body)
        if not isinstance(manifest, cls):
            raise CheckpointError(f"{where} does not hold a manifest")
        return manifest


def unneeded(discarded: Manifest, kept: Iterable[Manifest]) -> set[str]:
    """Digests of files that only the discarded checkpoint refers to."""
    needed = {file.digest for manifest in kept for file in manifest.files()}
    return {file.digest for file in discarded.files()} - needed
