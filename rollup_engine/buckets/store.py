"""Stores of objects: what the bucket source needs of S3 and of a directory.

Owns: the contract (list in name order, read one object at one etag), which errors there are, and which URL opens
which store. Must never: know formats of rows, Kafka or Postgres, or import a store's driver before it is asked for.

An object at one etag never changes, so a reader that names the etag reads the same bytes however often it begins anew.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import BinaryIO, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from rollup_engine.errors import UsageError

PAGE_MAX = 1000  # objects; what S3 gives per call


class Found(NamedTuple):
    """An object as a listing shows it. `name` is relative to the store's URL; `size` in bytes."""

    name: str
    etag: str
    size: int


class ObjectChanged(Exception):
    """The object under this name is another now: its etag is not the one asked for."""


class ObjectGone(Exception):
    """There is no object under this name any more, and the store itself is there: an outage is never taken for it."""


class Store(Protocol):
    """One bucket's prefix, or one directory. Safe to use from several threads, and for several objects, at once.

    Both verbs raise `errors.StoreUnavailable` for what may pass (network, 5xx, throttling), after a few tries of
    their own, and `errors.StoreRefused` for what will not (no permission, no such bucket, bad credentials).
    """

    url: str
    """The URL in full, ending in '/'; with an object's name appended, that object's."""

    unsettled: bool
    """Whether the last complete listing left out a file that was changed so recently that it may still be written."""

    def pages(self, after: str = "") -> AsyncIterator[list[Found]]:
        """Objects in the order of their names' UTF-8 bytes, strictly after the name `after`; no page is empty, none
        is longer than `PAGE_MAX`, and no more than one is held in memory.

        Left out: names with a part that begins with '.' or '_', and names that end in '/' (folders).
        """
        ...

    def open(self, name: str, etag: str) -> BinaryIO:
        """The object's bytes: seekable, buffered, for one thread at a time. Blocks: call it, and read, in a thread.

        Here and with every read: raises `ObjectChanged` or `ObjectGone` when it is not at `etag` (any longer); bytes
        of anything else are never returned.
        """
        ...

    async def close(self) -> None:
        """Let go of connections. Objects still open may fail to read from then on."""
        ...


def open_store(url: str) -> Store:
    """The store at `s3://bucket/prefix/` or `file:///directory/`. Raises `UsageError` for any other URL.

    Nothing is asked of it yet: that a bucket does not exist shows with the first listing. S3 takes AWS's own settings
    from the environment and AWS's files (AWS_ENDPOINT_URL, AWS_REGION, AWS_PROFILE, AWS_ACCESS_KEY_ID …).
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    plain = not (parts.query or parts.fragment)  # in a file's URL, '?' and '#' of a name are written %3F and %23
    if plain and parts.scheme == "s3" and parts.netloc:
        from rollup_engine.buckets.s3 import S3Store  # 30 MB of libraries: only for those who use it

        return S3Store(parts.netloc, parts.path.strip("/"))
    if plain and parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        from rollup_engine.buckets.directory import DirectoryStore

        return DirectoryStore(unquote(parts.path))
    raise UsageError(
        f"{url} names no bucket that can be read. Write s3://bucket/prefix/ (S3, or what speaks its protocol: set"
        " AWS_ENDPOINT_URL), or file:///directory/ with the directory's full path."
    )
