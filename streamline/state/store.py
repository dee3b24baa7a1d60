"""CheckpointStore: where checkpoints are kept, in a directory or behind any fsspec URL.

job.json                   whose they are, where that is not known by the folder around them
shared/<digest>            files of key-value stores, named after their content
<epoch>/MANIFEST           written last: a checkpoint without one does not exist
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from itertools import count
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from streamline.errors import CheckpointError, UsageError
from streamline.plural import counted
from streamline.state.manifest import DIGEST_BYTES, Manifest, StateFile, unneeded

_CHUNK = 1 << 20
_numbers = count()
P = ParamSpec("P")
R = TypeVar("R")
NOTE = "job.json"
_EPOCH = re.compile(r"\d{8,}")


class CheckpointStore(ABC):
    """Checkpoints of one job."""

    # ------------------------------------------------------------------ what a kind of store does

    @abstractmethod
    def put_file(self, source: Path, digest: str) -> None:
        """Store a file under its digest, whole or not at all."""

    @abstractmethod
    def get_file(self, digest: str, target: Path) -> None:
        """Bring a file to a local path, as a link or a copy."""

    @abstractmethod
    def chunks(self, digest: str) -> Iterator[bytes]:
        """The bytes of a stored file.

        Raises:
            OSError: If it is not there or cannot be read.
        """

    @abstractmethod
    def put_manifest(self, epoch: int, data: bytes) -> None:
        """Store a manifest, whole or not at all, durable when it returns."""

    @abstractmethod
    def get_manifest(self, epoch: int) -> bytes:
        """The bytes of a manifest.

        Raises:
            OSError: If it is not there or cannot be read.
        """

    @abstractmethod
    def epochs(self) -> list[int]:
        """Epochs that have a manifest, ascending."""

    @abstractmethod
    def remove(self, epoch: int, digests: set[str]) -> None:
        """Remove a manifest, then files."""

    @abstractmethod
    def digests(self) -> set[str]:
        """All files stored."""

    @abstractmethod
    def put_note(self, data: bytes) -> None:
        """Leave a note of whose checkpoints these are."""

    @abstractmethod
    def get_note(self) -> bytes | None:
        """The note that was left, if there is one.

        Raises:
            OSError: If that cannot be said.
        """

    @abstractmethod
    def where(self, epoch: int) -> str:
        """What to call a manifest in a message."""

    # ------------------------------------------------------------------ what all do

    def upload(self, directory: Path, known: Mapping[str, StateFile]) -> list[StateFile]:
        """Store the files of a folder, a copy of a key-value store.

        Args:
            directory: The folder.
            known: Files of an earlier copy of the same store, by name; they are stored already.
                A table of one name and length is the same one and is not read again: RocksDB
                numbers its tables and takes no number twice.

        Raises:
            CheckpointError: If one cannot be stored, such as on a full disk.
        """
        files: list[StateFile] = []
        stored = {file.digest for file in known.values()}
        for path in sorted(directory.iterdir()):
            try:
                same = known.get(path.name) if path.suffix == ".sst" else None
                if same is not None and same.size_bytes == path.stat().st_size:
                    files.append(same)
                    continue
                digest, size = _digest_file(path)
                if digest not in stored:
                    self.put_file(path, digest)
            except OSError as error:
                raise CheckpointError(
                    f"checkpoint file {path.name} cannot be stored: {error}"
                ) from error
            files.append(StateFile(path.name, digest, size))
        return files

    def fetch(self, file: StateFile, target: Path) -> None:
        """Bring a stored file to a local path; its length is checked.

        Raises:
            CheckpointError: If it is missing or has another length.
        """
        try:
            self.get_file(file.digest, target)
            size = target.stat().st_size
        except OSError as error:
            raise CheckpointError(f"checkpoint file {file.digest} is missing: {error}") from error
        if size != file.size_bytes:
            raise CheckpointError(
                f"checkpoint file {file.digest} has {counted(size, 'byte')}, not "
                f"{file.size_bytes:,}"
            )

    def write_manifest(self, manifest: Manifest) -> None:
        """Make a checkpoint complete; it is durable when this returns.

        Raises:
            CheckpointError: If it cannot be stored.
        """
        try:
            self.put_manifest(manifest.epoch, manifest.to_bytes())
        except OSError as error:
            raise CheckpointError(
                f"the manifest {self.where(manifest.epoch)} cannot be written: {error}"
            ) from error

    def read_manifest(self, epoch: int) -> Manifest:
        """Read a manifest.

        Raises:
            CheckpointError: If it is missing or damaged.
        """
        where = self.where(epoch)
        try:
            data = self.get_manifest(epoch)
        except OSError as error:
            raise CheckpointError(f"{where} cannot be read: {error}") from error
        return Manifest.from_bytes(data, where)

    def verify(self, manifest: Manifest) -> list[str]:
        """What is wrong with the files of a checkpoint, one sentence each.

        Raises:
            CheckpointError: If a file is there but cannot be read now.
        """
        problems: list[str] = []
        for file in manifest.files():
            try:
                found = hashlib.blake2b(digest_size=DIGEST_BYTES)
                for chunk in self.chunks(file.digest):
                    found.update(chunk)
            except FileNotFoundError:
                problems.append(f"file {file.digest} ({file.name}) cannot be read: it is missing")
                continue
            except OSError as error:  # that may pass; to go back for it would not
                raise CheckpointError(
                    f"checkpoint {manifest.epoch} cannot be read now: {error}"
                ) from error
            if found.hexdigest() != file.digest:
                problems.append(f"file {file.digest} ({file.name}) is damaged")
        return problems

    def latest_usable(self) -> tuple[Manifest | None, list[str]]:
        """The newest checkpoint that is whole, and what is wrong with those newer than it.

        Raises:
            CheckpointError: If there are checkpoints, but none can be used.
        """
        problems: list[str] = []
        for epoch in reversed(self.epochs()):
            try:
                manifest = self.read_manifest(epoch)
            except CheckpointError as error:
                if "newer streamline" in str(error):
                    raise
                problems.append(f"checkpoint {epoch} cannot be used: {error}")
                continue
            damaged = self.verify(manifest)
            if not damaged:
                return manifest, problems
            problems.append(f"checkpoint {epoch} cannot be used: {'; '.join(damaged)}")
        if problems:
            raise CheckpointError(
                "no checkpoint can be used: "
                + "; ".join(problems)
                + "; start over with --fresh, which reads everything again"
            )
        return None, []

    def discard_newer(self, epoch: int) -> None:
        """Remove what is newer than the checkpoint that is gone back to: it must never come back.

        Sinks have taken back by then, or will write again, what it had committed.
        """
        for newer in self.epochs():
            if newer > epoch:
                self.remove(newer, set())

    def discard_all_but(self, count: int, keep: set[str]) -> None:
        """Remove the oldest checkpoints until ``count`` are left.

        Args:
            count: How many newest ones stay.
            keep: Digests of files that are needed by a checkpoint under way.
        """
        epochs = self.epochs()
        kept = [self._try_read(epoch) for epoch in epochs[-count:]]
        if any(manifest is None for manifest in kept):
            return  # rather keep too much than lose a file of one that cannot be read now
        whole = [manifest for manifest in kept if manifest is not None]
        for epoch in epochs[:-count]:
            old = self._try_read(epoch)
            self.remove(epoch, set() if old is None else unneeded(old, whole) - keep)

    def sweep(self) -> None:
        """Remove files that no manifest names: what an interrupted upload left."""
        manifests = [self._try_read(epoch) for epoch in self.epochs()]
        if any(manifest is None for manifest in manifests):
            return
        needed = {file.digest for m in manifests if m is not None for file in m.files()}
        for digest in self.digests() - needed:
            self.remove(-1, {digest})

    def _try_read(self, epoch: int) -> Manifest | None:
        try:
            return self.read_manifest(epoch)
        except CheckpointError:
            return None


class DirectoryStore(CheckpointStore):
    """Checkpoints in a local folder; files are hard-linked where that works."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._shared = root / "shared"

    def put_file(self, source: Path, digest: str) -> None:
        self._shared.mkdir(parents=True, exist_ok=True)
        target = self._shared / digest
        # Tasks of one process may store files of equal content at the same time.
        temporary = self._shared / f".{digest}.{os.getpid()}.{next(_numbers)}"
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        try:
            _sync(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def get_file(self, digest: str, target: Path) -> None:
        source = self._shared / digest
        # RocksDB appends to its manifest and log files, so only tables may be linked.
        if target.suffix == ".sst":
            try:
                os.link(source, target)
                return
            except OSError:
                pass
        shutil.copyfile(source, target)

    def chunks(self, digest: str) -> Iterator[bytes]:
        with (self._shared / digest).open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def put_manifest(self, epoch: int, data: bytes) -> None:
        if self._shared.exists():
            _sync(self._shared)
        folder = self._root / f"{epoch:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / ".MANIFEST"
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / "MANIFEST")
        _sync(folder)
        _sync(self._root)

    def get_manifest(self, epoch: int) -> bytes:
        return (self._root / f"{epoch:08d}" / "MANIFEST").read_bytes()

    def epochs(self) -> list[int]:
        if not self._root.is_dir():
            return []
        found = [path for path in self._root.iterdir() if _EPOCH.fullmatch(path.name)]
        return sorted(int(path.name) for path in found if (path / "MANIFEST").exists())

    def remove(self, epoch: int, digests: set[str]) -> None:
        if epoch >= 0:
            folder = self._root / f"{epoch:08d}"
            (folder / "MANIFEST").unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
        for digest in digests:
            (self._shared / digest).unlink(missing_ok=True)

    def digests(self) -> set[str]:
        if not self._shared.is_dir():
            return set()
        return {path.name for path in self._shared.iterdir()}

    def put_note(self, data: bytes) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        temporary = self._root / f".{NOTE}"
        temporary.write_bytes(data)
        temporary.replace(self._root / NOTE)

    def get_note(self) -> bytes | None:
        note = self._root / NOTE
        return note.read_bytes() if note.exists() else None

    def where(self, epoch: int) -> str:
        return str(self._root / f"{epoch:08d}" / "MANIFEST")


def _told(method: Callable[P, R]) -> Callable[P, R]:
    """Have what a file system's own library raises come as the OSError that is promised."""

    @wraps(method)
    def tell(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}") from error

    return tell


class RemoteStore(CheckpointStore):
    """Checkpoints behind an fsspec URL, such as an object store; puts are whole or not at all."""

    def __init__(self, url: str) -> None:
        import fsspec  # costs a tenth of a second, so only where it is needed

        self._fs: Any
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._url = url

    @_told
    def put_file(self, source: Path, digest: str) -> None:
        self._fs.makedirs(f"{self._root}/shared", exist_ok=True)
        self._fs.put_file(str(source), f"{self._root}/shared/{digest}")

    @_told
    def get_file(self, digest: str, target: Path) -> None:
        self._fs.get_file(f"{self._root}/shared/{digest}", str(target))

    def chunks(self, digest: str) -> Iterator[bytes]:
        file = self._open(digest)
        with file:
            while chunk := self._read(file):
                yield chunk

    @_told
    def _open(self, digest: str) -> Any:
        return self._fs.open(f"{self._root}/shared/{digest}", "rb")

    @_told
    def _read(self, file: Any) -> bytes:
        data: bytes = file.read(_CHUNK)
        return data

    @_told
    def put_manifest(self, epoch: int, data: bytes) -> None:
        self._fs.makedirs(f"{self._root}/{epoch:08d}", exist_ok=True)
        self._fs.pipe_file(f"{self._root}/{epoch:08d}/MANIFEST", data)

    @_told
    def get_manifest(self, epoch: int) -> bytes:
        data: bytes = self._fs.cat_file(f"{self._root}/{epoch:08d}/MANIFEST")
        return data

    @_told
    def epochs(self) -> list[int]:
        found = self._fs.glob(f"{self._root}/*/MANIFEST")
        names = [path.rstrip("/").split("/")[-2] for path in found]
        return sorted(int(name) for name in names if _EPOCH.fullmatch(name))

    @_told
    def remove(self, epoch: int, digests: set[str]) -> None:
        paths = [f"{self._root}/shared/{digest}" for digest in digests]
        if epoch >= 0:
            paths.insert(0, f"{self._root}/{epoch:08d}/MANIFEST")
        for path in paths:
            if self._fs.exists(path):
                self._fs.rm_file(path)

    @_told
    def digests(self) -> set[str]:
        if not self._fs.exists(f"{self._root}/shared"):
            return set()
        return {path.rsplit("/", 1)[-1] for path in self._fs.find(f"{self._root}/shared")}

    @_told
    def put_note(self, data: bytes) -> None:
        self._fs.makedirs(self._root, exist_ok=True)
        self._fs.pipe_file(f"{self._root}/{NOTE}", data)

    @_told
    def get_note(self) -> bytes | None:
        if not self._fs.exists(f"{self._root}/{NOTE}"):
            return None
        data: bytes = self._fs.cat_file(f"{self._root}/{NOTE}")
        return data

    def where(self, epoch: int) -> str:
        return f"{self._url}/{epoch:08d}/MANIFEST"


def open_store(url: str) -> CheckpointStore:
    """The store at a path or URL.

    Raises:
        UsageError: If the URL cannot be one of a store, or a package is missing for it.
        CheckpointError: If it cannot be reached.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return DirectoryStore(Path(url))
    if scheme == "file":
        if not rest.startswith("/"):
            raise UsageError(f"{url}: a file URL has a whole path, such as file:///backup/{rest}")
        return DirectoryStore(Path(rest))
    try:
        return RemoteStore(url)
    except ImportError as error:
        raise UsageError(f"{url}: {scheme}:// needs a package that is missing ({error})") from error
    except ValueError as error:
        raise UsageError(f"{url}: nothing is known at such an address ({error})") from error
    except Exception as error:
        raise CheckpointError(f"{url} cannot be used: {type(error).__name__}: {error}") from error


def _digest_file(path: Path) -> tuple[str, int]:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def _sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
