"""Objects to rows: the same bytes give the same rows, from whichever line reading goes on.

Owns: what a row and a damaged object are, and which format is read by which module. Must never: know where the bytes
come from, or judge whether a row is an event; what is wrong with its JSON is route's to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

from rollup_engine.route import decode

Format = Literal["ndjson", "csv", "parquet"]
KEPT_BYTES = 512 << 10  # of a row that is no event
ROWS_MAX = 20_000  # per batch


class Row(NamedTuple):
    """One row of an object.

    `line` counts from 1: the physical line it is on, or begins on (CSV; the header is line 1), or the row's number
    (Parquet). `value` is one JSON event; where `why` is set, (reason, sentence for people), the row is none, and
    `value` the bytes it was read from, the first 512 KiB of them.
    """

    line: int
    value: bytes
    why: tuple[str, str] | None = None


class Damaged(Exception):
    """The object cannot be read on: it is cut off, broken, or not of its format. Every row before it was given.

    `line` is the first that was not; `value` what could be read of it (may be empty, 512 KiB at the most).
    """

    def __init__(self, line: int, reason: str, value: bytes = b"") -> None:
        super().__init__(reason)
        self.line, self.reason, self.value = line, reason, value


def too_large(size: int) -> tuple[str, str]:
    """Why a row of `size` bytes is no event."""
    why = decode.too_large(size)
    return why.reason, why.detail


def rows(format_: Format, stream: BinaryIO, name: str, from_line: int = 1) -> Iterator[list[Row]]:
    """Batches of rows in line order, from `from_line` on: none empty, each of `ROWS_MAX` rows and a few MB at the most.

    `name` says by its ending whether the stream is compressed (.gz, .zst). Blocks: run each step in a thread, one at
    a time. Raises `Damaged` after the last good row, and what `stream` raises. `MemoryError` is the
    process's lack, never the object's damage: the same bytes are rows where there is memory.
    """
    if format_ == "ndjson":
        from rollup_engine.buckets.ndjson import rows as read
    elif format_ == "csv":
        from rollup_engine.buckets.csv import rows as read
    else:
        from rollup_engine.buckets.parquet import rows as read  # pyarrow: for those who use it
    return read(stream, name, from_line)
