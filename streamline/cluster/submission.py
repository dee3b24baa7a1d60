"""Submission: a job's code and how it is to be run, as it travels to the cluster.

It packs a folder and unpacks it again, within limits and never outside of its folder. It runs
nothing of what it carries.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from streamline.cluster.sources import files_of_folder, files_of_job
from streamline.errors import UsageError

MOST_BYTES = 32 << 20
_MOST_FILES = 2_000


@dataclass(frozen=True)
class Submission:
    """What is submitted.

    Attributes:
        file: The job's file, relative to the folder.
        archive: The folder, as a zip file in base64.
        expose: What the file exposes the job as.
        params: Values of its parameters.
        parallelism: Its default parallelism.
        checkpoint_every_ms: From one checkpoint to the next.
        origin: Savepoint or checkpoints to begin from.
        allow_dropped_state: State of it that the job has no place for may be given up.
        memory_limit_bytes: A worker process that holds more is replaced; 0 for no limit.
        requirements: What pip is to install for the job, as in a requirements file.
    """

    file: str
    archive: str
    expose: str = "job"
    params: dict[str, str] = field(default_factory=dict)
    parallelism: int = 1
    checkpoint_every_ms: int = 1_000
    origin: str = ""
    allow_dropped_state: bool = False
    memory_limit_bytes: int = 0
    requirements: str = ""


def pack(target: Path) -> tuple[str, str]:
    """A job's file with what it imports from beside it, or a folder with a ``job.py``.

    Returns:
        The name of the job's file, and the archive.

    Raises:
        UsageError: If there is nothing to be submitted, or too much.
    """
    if target.is_dir():
        root, file = target, "job.py"
        if not (target / file).is_file():
            raise UsageError(f"the folder {target} has no job.py; name the job's file")
        paths = files_of_folder(target)
    elif target.is_file():
        root, file, paths = target.parent, target.name, files_of_job(target)
    else:
        raise UsageError(f"the job file {str(target)!r} does not exist")
    if len(paths) > _MOST_FILES:
        with_it = "" if target.is_dir() else "with what it imports from beside it "
        raise UsageError(
            f"{target} {with_it}has {len(paths)} files, more than the {_MOST_FILES} allowed"
        )
    buffer = io.BytesIO()
    try:
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in paths:
                archive.write(path, path.relative_to(root))
    except OSError as error:
        raise UsageError(f"{target} cannot be read: {error}") from error
    data = base64.b64encode(buffer.getvalue()).decode()
    if len(data) > MOST_BYTES:
        largest = max(paths, key=lambda path: path.stat().st_size).relative_to(root)
        raise UsageError(
            f"{target} is larger than the {MOST_BYTES >> 20} MiB allowed (its largest file is "
            f"{largest}); have the job read such files from where they are"
        )
    return file, data


def digest_of(submission: Submission) -> str:
    """What tells a submission from others; the same files packed once more are the same.

    Of the files, names, sizes and checksums are looked at: an archive has times in it as well.
    """
    fields = asdict(submission)
    try:
        data = base64.b64decode(submission.archive, validate=True)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            fields["archive"] = sorted([one.filename, one.file_size, one.CRC] for one in infos)
    except Exception:  # noqa: BLE001 - whatever is wrong with it: the archive is told by its letters
        fields["archive"] = submission.archive
    text = json.dumps(fields, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def unpack(submission: Submission, folder: Path) -> list[str]:
    """Write a submission's files into an empty folder.

    Returns:
        Their names.

    Raises:
        UsageError: If the archive is none, leaves the folder, is too large, or lacks the file.
    """
    try:
        data = base64.b64decode(submission.archive, validate=True)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if len(infos) > _MOST_FILES or sum(one.file_size for one in infos) > 4 * MOST_BYTES:
                raise UsageError("the archive is too large")
            for info in infos:
                place = PurePosixPath(info.filename)
                if place.is_absolute() or ".." in place.parts or "\\" in info.filename:
                    raise UsageError(f"the archive has a file outside of it: {info.filename!r}")
            archive.extractall(folder)
    except UsageError:
        raise
    except Exception as error:  # what a damaged archive does to zipfile, zlib and lzma is open
        raise UsageError(f"the archive cannot be unpacked: {error}") from error
    inside = PurePosixPath(submission.file)
    try:
        found = (folder / inside).is_file()
    except OSError:  # such as of a name that is too long
        found = False
    if inside.is_absolute() or ".." in inside.parts or not found:
        raise UsageError(f"the archive has no file {submission.file!r}")
    return [info.filename for info in infos if not info.is_dir()]
