"""A disk so small that a test can fill it and make room again."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MOUNT = ("mount", "-t", "tmpfs", "-o", "size=8m", "streamline-test")
FULL = os.strerror(errno.ENOSPC)


class SmallDisk:
    """A tmpfs of a few megabytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """Take all space there is."""
        with (self.folder / "ballast").open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC, error

    def free(self) -> None:
        """Give it back."""
        (self.folder / "ballast").unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """Mount one, and unmount it whatever happens; it is seen as ``folder``.

    Who is not root may mount in a namespace of his own, and look into it by ``/proc``.
    """
    place = folder.with_name(f"{folder.name}-mount")
    place.mkdir()
    if subprocess.run([*_MOUNT, place], capture_output=True).returncode == 0:
        folder.symlink_to(place)
        try:
            yield SmallDisk(folder)
        finally:
            subprocess.run(["umount", "--lazy", place], check=True)
        return
    script = f'{" ".join(_MOUNT)} "$0" && echo mounted && exec cat'
    own = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(place)]
    with subprocess.Popen(own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        said = holder.stdout.readline()
        assert said == "mounted\n", "full disks need root, or user namespaces, to be tested"
        folder.symlink_to(f"/proc/{holder.pid}/root{place}")
        yield SmallDisk(folder)
        # With the end of its standard input it ends, and with it its namespace and the disk.
