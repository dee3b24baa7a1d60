"""StateDir: the folder in which a job run on this machine keeps its checkpoints.

It sees to it that a folder is used by one run, of one job, of a version that can read it. What a
checkpoint consists of, and which one is gone on from, it does not know.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import IO, Any

from streamline.errors import CheckpointError, LockedError, StateError, UsageError
from streamline.state.manifest import Manifest
from streamline.state.store import CheckpointStore, DirectoryStore, open_store

LAYOUT_VERSION = 1


class StateDir:
    """One job's folder, locked while it is open.

        job.json        whose folder it is, and which version wrote it
        lock            held while a run is using the folder
        params.json     the parameters it was last run with
        finished        the job came to its end; the next run starts over
        checkpoints/    the checkpoint store, unless it is elsewhere
        live/           databases of running tasks; worthless after a crash

    Args:
        root: The folder; made if it is not there.
        job: The job's name.

    Raises:
        LockedError: If another run uses it.
        StateError: If it is another job's, of a newer version, or cannot be used.
    """

    def __init__(self, root: Path, job: str) -> None:
        self.root = root
        self.checkpoints = root / "checkpoints"
        self.live = root / "live"
        self._job = job
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._check_strangers()
            self._lock = self._take_lock()
        except OSError as error:
            raise StateError(f"the state folder {root} cannot be used: {error}") from error
        try:
            self._check_owner()
            shutil.rmtree(self.live, ignore_errors=True)
        except BaseException:
            self.close()
            raise

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from."""
        return any(self.checkpoints.glob("*/MANIFEST"))

    @property
    def finished(self) -> bool:
        """Whether the job came to its end in here."""
        return (self.root / "finished").exists()

    @property
    def params(self) -> dict[str, str]:
        """Parameters with which the job was last run."""
        try:
            found: dict[str, str] = json.loads((self.root / "params.json").read_text())
        except (OSError, ValueError):
            return {}
        return found

    @params.setter
    def params(self, params: dict[str, str]) -> None:
        try:
            (self.root / "params.json").write_text(json.dumps(params) + "\n")
        except OSError as error:
            raise StateError(f"the state folder {self.root} cannot be used: {error}") from error

    def start_over(self) -> None:
        """Forget all checkpoints.

        Raises:
            StateError: If they cannot be removed.
        """
        forgotten = self.live / "forgotten"
        try:
            self.live.mkdir(parents=True, exist_ok=True)
            if self.checkpoints.exists():
                self.checkpoints.rename(forgotten)
        except OSError as error:
            raise StateError(f"{self.checkpoints} cannot be removed: {error}") from error
        shutil.rmtree(forgotten, ignore_errors=True)
        (self.root / "finished").unlink(missing_ok=True)

    def begin_from(self, origin: str, *, replace: bool) -> None:
        """Bring another run's newest checkpoint, or a savepoint, into the folder.

        Only when it is found whole are the folder's own checkpoints given up.

        Args:
            origin: Folder or URL; also the state folder of a run.
            replace: Whether the folder's own checkpoints may be given up.

        Raises:
            UsageError: If that is not possible.
            CheckpointError: If there is nothing usable.
        """
        if self.has_checkpoint and not replace:
            raise UsageError(
                f"{self.root} has checkpoints of its own; give --fresh together with --from, or "
                "another --state-dir"
            )
        path = Path(origin)
        if path.resolve() in (self.root.resolve(), self.checkpoints.resolve()):
            raise UsageError(
                f"--from {origin} is the job's own state folder; leave --from out to go on from it"
            )
        source, manifest = newest_checkpoint(origin)
        folder = self.live / "from"
        folder.mkdir(parents=True)
        files = {file.digest: file for file in manifest.files()}
        for file in files.values():
            source.fetch(file, folder / file.digest)
        self.start_over()
        target = DirectoryStore(self.checkpoints)
        for digest in files:
            target.put_file(folder / digest, digest)
        target.write_manifest(manifest)

    def mark_finished(self) -> None:
        """Note that the job came to its end."""
        (self.root / "finished").touch()

    def close(self) -> None:
        """Remove what is worthless now and let others use the folder."""
        shutil.rmtree(self.live, ignore_errors=True)
        self._lock.close()

    def _take_lock(self) -> IO[str]:
        lock = (self.root / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().strip()
            lock.close()
            raise LockedError(
                f"the state folder {self.root} is in use by another run"
                + (f" (process {holder})" if holder else "")
                + "; wait for it, stop it, or give another --state-dir"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock

    def _check_strangers(self) -> None:
        """Refuse a folder that holds somebody else's files, before anything in it is touched."""
        if (self.root / "job.json").exists():
            return
        names = {path.name for path in self.root.iterdir()} - {".job.json"}
        lock = self.root / "lock"
        if lock.is_file() and (not lock.stat().st_size or lock.read_text("latin-1").isdigit()):
            names.discard("lock")  # ours, of a run that was killed right then
        if names:
            raise StateError(
                f"the folder {self.root} is not empty and not a streamline state folder (it "
                f"holds {min(names)}); give another --state-dir"
            )

    def _check_owner(self) -> None:
        file = self.root / "job.json"
        if not file.exists():
            text = json.dumps({"job": self._job, "version": LAYOUT_VERSION})
            temporary = self.root / ".job.json"
            temporary.write_text(text + "\n")
            temporary.replace(file)
            return
        try:
            found: dict[str, Any] = json.loads(file.read_text())
            job, version = found["job"], int(found["version"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(
                f"{file} cannot be read ({error}); give another --state-dir"
            ) from error
        if version > LAYOUT_VERSION:
            raise StateError(
                f"the state folder {self.root} is of a newer streamline (layout {version}; "
                f"this one knows {LAYOUT_VERSION}); upgrade, or give another --state-dir"
            )
        if job != self._job:
            raise StateError(
                f"the state folder {self.root} belongs to job {job!r}, not to {self._job!r}; give "
                "another --state-dir"
            )


def newest_checkpoint(origin: str) -> tuple[CheckpointStore, Manifest]:
    """The newest whole checkpoint in a savepoint, a store or a state folder.

    Raises:
        UsageError: If there is no such folder.
        CheckpointError: If there is nothing usable in it.
    """
    path = Path(origin)
    if "://" not in origin and not path.exists():
        raise UsageError(f"--from {origin}: there is no such folder")
    inner = path / "checkpoints"
    store = open_store(str(inner) if inner.is_dir() else origin)
    manifest, _ = store.latest_usable()
    if manifest is None:
        raise CheckpointError(f"--from {origin}: there is no checkpoint; check the path")
    return store, manifest
