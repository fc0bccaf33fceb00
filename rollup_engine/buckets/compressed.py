"""Streams to chunks of bytes, decompressed where the object's name ends in .gz or .zst.

Owns: bounded memory, whatever the stream claims to hold, and all that could be read of a broken one. Members (gzip)
and frames (zstd) that follow each other are one stream, as for `gzip -d` and `zstd -d`.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from rollup_engine.zstandard import zstd

CHUNK_BYTES = 1 << 20
WINDOW_LOG_MAX = 27  # 128 MiB, what `zstd -d` takes without --long: as much memory can a frame ask for
# zlib's Z_MEM_ERROR by its number and its text, zstd's memory_allocation, C++'s
_NO_MEMORY = re.compile(r"\bError -4\b|insufficient memory|not enough memory|out of memory|bad_alloc", re.IGNORECASE)


class BrokenStream(Exception):
    """The compressed stream is cut off or corrupt; everything before was given."""


class _Reader(Protocol):
    def read1(self, size: int, /) -> bytes: ...


def is_compressed(name: str) -> bool:
    return name.lower().endswith((".gz", ".zst"))


def no_memory(error: Exception) -> bool:
    """Whether a decompressor was refused memory, and says so as it does of broken data (zlib, zstd, Arrow's)."""
    return _NO_MEMORY.search(str(error)) is not None


def chunks(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """The content in chunks of `CHUNK_BYTES`, only the last one shorter, none empty: the same ones every time.

    Raises `BrokenStream`, `MemoryError`, and what `stream` raises.
    """
    if not is_compressed(name):
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
        return
    if not stream.read(1):
        raise BrokenStream("there is nothing in it")
    stream.seek(0)
    reader, broken = _decompressing(stream, name)
    missing = 0
    while not missing:
        parts: list[bytes] = []
        missing = CHUNK_BYTES
        failure: Exception | None = None
        try:
            while missing and (part := reader.read1(missing)):  # one step at a time: an error costs nothing before it
                parts.append(part)
                missing -= len(part)
        except broken as error:
            if no_memory(error):
                raise MemoryError(str(error)) from error
            failure = error
        if parts:
            yield b"".join(parts)
        if failure is not None:
            raise BrokenStream(str(failure).rstrip(".") or type(failure).__name__) from failure


def _decompressing(stream: BinaryIO, name: str) -> tuple[_Reader, tuple[type[Exception], ...]]:
    """What decompresses `stream`, and what it raises where that is broken."""
    if name.lower().endswith(".gz"):
        return gzip.GzipFile(fileobj=stream, mode="rb"), (EOFError, gzip.BadGzipFile, zlib.error)
    options = {int(zstd.DecompressionParameter.window_log_max): WINDOW_LOG_MAX}
    return zstd.ZstdFile(stream, options=options), (EOFError, zstd.ZstdError)
