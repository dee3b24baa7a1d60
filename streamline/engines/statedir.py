"""StateDir: the folder in which a job run on this machine keeps its checkpoints.

It sees to it that a folder is used by one run, of one job, of a version that can read it. What a
checkpoint consists of, and which one is gone on from, it does not know.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import IO, Any

from streamline.errors import CheckpointError, LockedError, StateError, UsageError
from streamline.state.held import HeldStore
from streamline.state.manifest import Manifest
from streamline.state.store import NOTE, CheckpointStore, open_store

LAYOUT_VERSION = 1


class StateDir:
    """One job's folder, locked while it is open.

    job.json        whose folder it is, and which version wrote it
    lock            held while a run is using the folder
    params.json     the parameters it was last run with
    finished        the job came to its end; the next run starts over
    checkpoints/    the checkpoint store, unless it is elsewhere
    checkpoint-dir  where, if it is
    live/           databases of running tasks; worthless after a crash

    Args:
        root: The folder; made if it is not there.
        job: The job's name.
        checkpoints: Folder or URL where its checkpoints are kept, if not in there.

    Attributes:
        url: Where its checkpoints are kept.
        store: The same, open.

    Raises:
        LockedError: If another run uses it.
        StateError: If it is another job's, of a newer version, or cannot be used.
        UsageError: If there can be no checkpoints at that place.
    """

    def __init__(self, root: Path, job: str, checkpoints: str = "") -> None:
        self.root = root
        self.checkpoints = root / "checkpoints"
        self.live = root / "live"
        if checkpoints and "://" not in checkpoints:
            checkpoints = str(Path(checkpoints).absolute())
        self.url = checkpoints.rstrip("/") or str(self.checkpoints)
        self._holder = uuid.uuid4().hex
        self.store = open_store(self.url)
        if checkpoints:
            self.store = HeldStore(self.store, self.url, self._holder)
        self._job = job
        self._elsewhere = bool(checkpoints)
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._check_strangers()
            self._lock = self._take_lock()
        except OSError as error:
            raise StateError(f"the state folder {root} cannot be used: {error}") from error
        try:
            self._check_owner()
            self._check_place()
            shutil.rmtree(self.live, ignore_errors=True)
        except BaseException:
            self.close()
            raise

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from.

        Raises:
            StateError: If that cannot be said.
        """
        try:
            return bool(self.store.epochs())
        except OSError as error:
            raise self._unusable(error) from error

    @property
    def finished(self) -> bool:
        """Whether the job came to its end with these checkpoints."""
        if self._elsewhere:
            return bool(self._note().get("finished"))
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
            if self._elsewhere:
                self.store.discard_newer(0)
                self.store.sweep()
                self._mark(finished=False)
            elif self.checkpoints.exists():
                self.checkpoints.rename(forgotten)
        except OSError as error:
            raise StateError(f"{self.url} cannot be removed: {error}") from error
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
                f"{self.url if self._elsewhere else self.root} has checkpoints of its own; give "
                f"--fresh together with --from, or another {self._option}"
            )
        path = Path(origin.removeprefix("file://"))
        own = origin.rstrip("/") == self.url
        if own or path.resolve() in (self.root.resolve(), self.checkpoints.resolve()):
            raise UsageError(
                f"--from {origin} is the job's own state folder; leave --from out to go on from it"
            )
        source, manifest = newest_checkpoint(origin)
        folder = self.live / "from"
        folder.mkdir(parents=True)
        files = manifest.files()
        for file in files:
            source.fetch(file, folder / file.digest)
        self.start_over()
        try:
            for file in files:
                self.store.put_file(folder / file.digest, file.digest)
        except OSError as error:
            raise self._unusable(error) from error
        self.store.write_manifest(manifest)

    def mark_finished(self) -> None:
        """Note that the job came to its end."""
        if self._elsewhere:
            self._mark(finished=True)
        else:
            (self.root / "finished").touch()

    def close(self) -> None:
        """Remove what is worthless now and let others use the folder."""
        shutil.rmtree(self.live, ignore_errors=True)
        self._lock.close()

    @property
    def _option(self) -> str:
        return "--checkpoint-dir" if self._elsewhere else "--state-dir"

    def _unusable(self, error: OSError) -> StateError:
        return StateError(f"checkpoints cannot be kept at {self.url}: {error}")

    def _note(self) -> dict[str, Any]:
        """What stands beside checkpoints that are kept elsewhere; empty if nothing does."""
        try:
            data = self.store.get_note()
            found: dict[str, Any] = {} if data is None else {"job": "", **json.loads(data)}
        except OSError as error:
            raise self._unusable(error) from error
        except (ValueError, TypeError) as error:
            raise StateError(
                f"{self.url} holds a {NOTE} that is not of checkpoints; give another "
                "--checkpoint-dir"
            ) from error
        return found

    def _mark(self, *, finished: bool) -> None:
        note: dict[str, Any] = {"job": self._job, "version": LAYOUT_VERSION}
        note |= {"finished": finished, "holder": self._holder}
        try:
            self.store.put_note(json.dumps(note).encode() + b"\n")
        except OSError as error:
            raise self._unusable(error) from error

    def _check_place(self) -> None:
        """Refuse checkpoints of another job, or others than this folder has gone with."""
        record = self.root / "checkpoint-dir"
        known = record.read_text().strip() if record.exists() else ""
        given = self.url if self._elsewhere else ""
        if known != given and (known or any(self.checkpoints.glob("*/MANIFEST"))):
            where = f"at {known}" if known else "in it"
            what = f"--checkpoint-dir {known}" if known else "no --checkpoint-dir"
            raise StateError(
                f"the state folder {self.root} goes with the checkpoints {where}; give {what}, or "
                "another --state-dir"
            )
        if not self._elsewhere:
            return
        note = self._note()
        if not note and self.has_checkpoint:
            raise StateError(
                f"{self.url} holds checkpoints that are not a --checkpoint-dir's, such as a "
                "savepoint; begin --from it, with another --checkpoint-dir"
            )
        if note and note["job"] != self._job:
            raise StateError(
                f"the checkpoints at {self.url} belong to job {note['job']!r}, not to "
                f"{self._job!r}; give another --checkpoint-dir"
            )
        self._mark(finished=bool(note.get("finished")))
        record.write_text(given + "\n")

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
        UsageError: If there is no such folder, or it is no address.
        CheckpointError: If there is nothing usable in it, or it cannot be read.
    """
    path = Path(origin.removeprefix("file://"))
    if ("://" not in origin or path.is_absolute()) and not path.exists():
        raise UsageError(f"--from {origin}: there is no such folder")
    inner = path / "checkpoints"
    store = open_store(str(inner) if inner.is_dir() else origin)
    try:
        manifest, _ = store.latest_usable()
    except OSError as error:
        raise CheckpointError(f"--from {origin} cannot be read: {error}") from error
    if manifest is None:
        raise CheckpointError(f"--from {origin}: there is no checkpoint; check the path")
    return store, manifest
