"""The files below a directory, in the order of their names' bytes, a window of names in memory at a time.

A directory is read again for each window: with W names a window and N files in one directory, N / W times. That is
what a million files in one directory cost (half a minute, 30 MB); spread over directories, each is read once.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator

WINDOW = 100_000  # names
_HIDDEN = b"._"


def files(root: str, after: str = "") -> Iterator[str]:
    """Names, relative to `root`, of everything that is no directory, strictly after the name `after`.

    Links to directories are not followed. Hidden names are left out. Raises `OSError` where a directory cannot be
    read; one that is gone meanwhile, other than `root`, has no files.
    """
    return map(os.fsdecode, _below(os.fsencode(root).rstrip(b"/") + b"/", b"", os.fsencode(after)))


def _below(root: bytes, parent: bytes, after: bytes) -> Iterator[bytes]:
    last = b""
    while True:
        window = heapq.nsmallest(WINDOW, _entries(root, parent, after, last))
        for name in window:
            if name.endswith(b"/"):
                yield from _below(root, name, after)
            else:
                yield name
        if len(window) < WINDOW:
            return
        last = window[-1]


def _entries(root: bytes, parent: bytes, after: bytes, last: bytes) -> Iterator[bytes]:
    """Names in one directory after `last`, those of directories with a '/' at the end: in this order, what is below a
    directory stands exactly where the directory does."""
    try:
        scan = os.scandir(root + parent)
    except FileNotFoundError:
        if not parent:
            raise
        return
    with scan:
        for entry in scan:
            if entry.name[0] in _HIDDEN:
                continue
            is_directory = entry.is_dir(follow_symlinks=False)
            name = b"%b%b%b" % (parent, entry.name, b"/" if is_directory else b"")
            if name > last and (name > after or (is_directory and after.startswith(name))):
                yield name
