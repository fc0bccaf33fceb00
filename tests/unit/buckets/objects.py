"""Making and reading objects in tests."""

from __future__ import annotations

import gzip
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from rollup_engine.buckets import compressed, csv, lines, ndjson, rows
from rollup_engine.buckets.rows import Damaged, Format, Row

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SUFFIXES = ("", ".gz", ".zst")


def compress(data: bytes, suffix: str, parts: int = 1) -> bytes:
    """`data` in `parts` members (gzip) or frames (zstd) that follow each other."""
    step = max(1, -(-len(data) // parts))
    cut = [data[start : start + step] for start in range(0, len(data), step)] or [b""]
    if suffix == ".gz":
        return b"".join(gzip.compress(part, 1, mtime=0) for part in cut)
    if suffix == ".zst":
        return b"".join(zstd.compress(part) for part in cut)
    return data


def read(format_: Format, data: bytes, name: str, from_line: int = 1) -> tuple[list[Row], Damaged | None]:
    """All rows, and the damage that ended them. Whatever else is raised is a bug."""
    found: list[Row] = []
    try:
        for batch in rows.rows(format_, io.BytesIO(data), name, from_line):
            assert batch
            assert len(batch) <= rows.ROWS_MAX
            found += batch
    except Damaged as damaged:
        return found, damaged
    return found, None


def same_damage(one: Damaged | None, other: Damaged | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.line, one.reason, one.value) == (other.line, other.reason, other.value)


def from_(found: Sequence[Row], line: int) -> list[Row]:
    return [row for row in found if row.line >= line]


@contextmanager
def small(chunk: int = 16, record: int = 24, kept: int = 10, batch: int = 3) -> Iterator[None]:
    """Limits so small that a few lines meet all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compressed, "CHUNK_BYTES", chunk)
        patch.setattr(lines, "RECORD_BYTES_MAX", record)
        patch.setattr(csv, "RECORD_BYTES_MAX", record)
        patch.setattr(csv, "BATCH_BYTES", 4 * record)
        patch.setattr(lines, "KEPT_BYTES", kept)
        patch.setattr(csv, "KEPT_BYTES", kept)
        for module in (ndjson, csv, rows):
            patch.setattr(module, "ROWS_MAX", batch)
        yield
