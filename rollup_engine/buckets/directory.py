"""Objects of a local directory tree, with the contract of `store.Store`.

Owns: what a file's etag is, and when a file counts as written. A file is taken to be whole once nothing has changed
it for 2 s: write under a name that begins with '.', then rename it, and no half a file is ever read.

Its etag is the time of its last change and its size, whatever disk it is on: a copy that keeps both (`cp -a`, a
restore) is the same object. So is, by this, another file that was given the same time to the nanosecond and the same
size. One that is open stays what it is under any of these; only reading that goes on later, after a new start of the
engine, would not notice.
"""

from __future__ import annotations

import asyncio
import io
import os
import stat
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from rollup_engine.buckets import listing
from rollup_engine.buckets.names import storable
from rollup_engine.buckets.store import PAGE_MAX, Found, ObjectChanged, ObjectGone
from rollup_engine.errors import StoreRefused, StoreUnavailable

SETTLED_SECONDS = 2.0
BUFFER_BYTES = 1 << 20


class DirectoryStore:
    """A directory and all below it. See `store.Store`."""

    def __init__(self, directory: str) -> None:
        self._root = directory.rstrip("/") + "/"
        self.url = Path(directory).as_uri().rstrip("/") + "/"
        self.unsettled = False

    async def pages(self, after: str = "") -> AsyncIterator[list[Found]]:
        unsettled: list[str] = []
        walk = self._walk(after, unsettled)
        while page := await asyncio.to_thread(lambda: list(islice(walk, PAGE_MAX))):
            yield page
        self.unsettled = bool(unsettled)

    def open(self, name: str, etag: str) -> BinaryIO:
        return cast("BinaryIO", io.BufferedReader(_File(self._root, name, etag), BUFFER_BYTES))

    async def close(self) -> None:
        pass

    def _walk(self, after: str, unsettled: list[str]) -> Iterator[Found]:
        try:
            root = _identity(self._root)
            for name in listing.files(self._root, after):
                try:
                    status = os.stat(self._root + name)  # noqa: PTH116 - a million of them
                except FileNotFoundError:  # gone meanwhile, or a link to nothing
                    continue
                if not stat.S_ISREG(status.st_mode):
                    continue
                if abs(time.time() - status.st_ctime) < SETTLED_SECONDS:
                    unsettled[:] = [name]
                else:
                    yield Found(storable(name, self.url), etag_of(status), status.st_size)
            if _identity(self._root) != root:  # what seemed to be gone meanwhile is perhaps there
                raise StoreUnavailable(f"{self._root} was mounted or replaced while it was listed. It is listed again.")
        except OSError as error:
            raise _verdict(error) from error


def etag_of(status: os.stat_result) -> str:
    """Changes whenever the file's bytes do: time of the last change (ns) and size, in hexadecimal."""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _identity(directory: str) -> tuple[int, int]:
    status = os.stat(directory)  # noqa: PTH116
    return status.st_dev, status.st_ino


def _verdict(error: OSError) -> Exception:
    """What the operating system's answer means for a directory, or a file that is there."""
    where = _text(error.filename or "the file")
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return StoreRefused(
            f"there is no directory {where}",
            "Make it, mount it, or correct `source.bucket`; it is tried again by itself.",
        )
    if isinstance(error, PermissionError):
        return StoreRefused(
            f"no permission to read {where}",
            "Let the engine's user read it (directories need r and x); it is tried again by itself.",
        )
    return StoreUnavailable(f"{where} cannot be read: {error.strerror}. It is tried again.")


def _text(path: str | bytes) -> str:
    """A path as text that can be logged and stored, whatever its bytes; without a '/' at the end."""
    return os.fsencode(path).decode("utf-8", "backslashreplace").rstrip("/") or "/"


class _File(io.RawIOBase):
    """One file at one etag: an open file stays what it is when another is renamed to its name, or it is deleted.

    It is gone only where the store's directory is there without it: both are asked of one open directory, so that one
    that is unmounted or renamed for a moment takes no file along.
    """

    def __init__(self, root: str, name: str, etag: str) -> None:
        path = root + name
        self._path, self._etag = path, etag
        try:
            directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise _verdict(error) from error
        try:
            self._file = io.FileIO(name, "rb", opener=partial(os.open, dir_fd=directory))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ObjectGone(path) from error
        except IsADirectoryError as error:
            raise ObjectChanged(path) from error
        except OSError as error:
            error.filename = path
            raise _verdict(error) from error
        finally:
            os.close(directory)
        self._check()

    def _check(self) -> None:
        if etag_of(os.fstat(self._file.fileno())) != self._etag:
            raise ObjectChanged(self._path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        try:
            count = self._file.readinto(buffer)
        except OSError as error:
            raise _verdict(error) from error
        self._check()  # after the bytes: what was read before a change was noticed is not handed out
        return count

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
