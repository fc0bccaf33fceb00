"""A disk that a row can fill up: a small tmpfs of its own, which takes root, or sudo without a password."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SmallDisk:
    """A mounted tmpfs."""

    path: Path

    @property
    def _filler(self) -> Path:
        return self.path / "filler"

    def fill(self) -> None:
        """Leave no room at all."""
        with self._filler.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16) if shutil.disk_usage(self.path).free >= 1 << 16 else bytes(1 << 12))
            except OSError:
                assert shutil.disk_usage(self.path).free < 1 << 12

    def empty(self) -> None:
        """Take away what filled it."""
        self._filler.unlink()

    def resize(self, size_mb: int) -> None:
        _as_root("mount", "-o", f"remount,size={size_mb}m", str(self.path))


@contextmanager
def small_disk(path: Path, size_mb: int) -> Iterator[SmallDisk]:
    """Mounted at `path`, which is made, and open to every user; unmounted at the end. An error where that cannot be
    done: the row that needs it has failed, not passed."""
    path.mkdir()
    _as_root("mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=1777", "tmpfs", str(path))
    try:
        yield SmallDisk(path)
    finally:
        _as_root("umount", "-l", str(path))  # lazily: a server may still have it open
        path.rmdir()


def _as_root(*command: str) -> None:
    full = command if os.geteuid() == 0 else ("sudo", "-n", *command)
    done = subprocess.run(full, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"A small disk cannot be had here, so this row is NOT tested: {full}: {done.stderr}"
