"""Environment: what a job's processes import: the cluster's own packages, or some of the job's own.

A job with requirements gets a virtual environment. Its packages come first; behind them stand those
of the cluster, so that streamline itself and what it needs are there.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from pathlib import Path

from streamline.cluster import child
from streamline.cluster.files import JobFolder
from streamline.errors import StreamlineError

_WITHIN_S = 600.0
_BEHIND = "zz-streamline-cluster.pth"


class BrokenRequirementsError(StreamlineError):
    """What the job needs cannot be installed; ``trace`` is what pip said."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


def environment(folder: JobFolder) -> dict[str, str]:
    """Environment variables for a job's processes."""
    paths = [] if folder.environment.exists() else [str(Path(__file__).resolve().parents[2])]
    paths += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


async def install(folder: JobFolder, requirements: str) -> None:
    """Make a job's virtual environment.

    Args:
        folder: The job's; paths in the requirements are those beside its file.
        requirements: As in a requirements file.

    Raises:
        BrokenRequirementsError: If that cannot be.
    """
    listed = folder.root / "requirements.txt"
    listed.write_text(requirements)
    await _run(folder, sys.executable, "-m", "venv", "--without-pip", str(folder.environment))
    kind = "posix_prefix" if os.name == "posix" else "nt"
    variables = {"base": str(folder.environment), "platbase": str(folder.environment)}
    packages = Path(sysconfig.get_path("purelib", kind, variables))
    lines = [f"import site; site.addsitedir({str(path)!r})" for path in _own_packages()]
    (packages / _BEHIND).write_text("\n".join(lines) + "\n")
    await _run(
        folder,
        folder.python,
        *("-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"),
        *("install", "--requirement", str(listed)),
    )


def _own_packages() -> list[Path]:
    """Where the packages of this process come from."""
    found = [Path(path) for path in site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        found.append(Path(site.getusersitepackages()))
    package = Path(__file__).resolve().parents[2]
    return [path for path in dict.fromkeys([*found, package]) if path.is_dir()]


async def _run(folder: JobFolder, *command: str) -> None:
    log = folder.root / "install.log"
    try:
        status, words = await child.run(*command, cwd=folder.source, log=log, within_s=_WITHIN_S)
    except child.OverLimitError as error:
        raise BrokenRequirementsError(f"installing the requirements {error}") from None
    if status:
        raise BrokenRequirementsError("the requirements cannot be installed", words)
