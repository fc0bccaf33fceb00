"""Compressed streams: broken ones, bombs, and what a name says."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zlib

import pytest

from rollup_engine.buckets import compressed
from rollup_engine.buckets.compressed import WINDOW_LOG_MAX, BrokenStream, chunks
from rollup_engine.buckets.rows import Format
from tests.unit.buckets.objects import compress, read, zstd

GARBLED = b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 20
LINES = b"".join(b'{"id": "%d"}\n' % number for number in range(100_000))


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".GZ"])
def test_a_stream_cut_in_half_gives_what_is_in_its_first_half(suffix: str) -> None:
    data = compress(LINES, suffix.lower())
    found, damage = read("ndjson", data[: len(data) // 2], f"x.ndjson{suffix}")
    assert damage is not None
    assert len(found) > 25_000
    assert damage.line == found[-1].line + 1
    assert damage.reason.startswith(
        "the compressed data break off: Compressed file ended before the end-of-stream marker"
    )


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_flipped_byte_is_damage_and_not_an_event(suffix: str) -> None:
    data = bytearray(compress(LINES, suffix, parts=4))
    data[len(data) * 3 // 4 + 9] ^= 0x55
    found, damage = read("ndjson", bytes(data), f"x{suffix}")
    assert damage is not None
    assert damage.line > found[-1].line
    assert len(found) > 50_000
    assert [row.value for row in found[:50_000]] == LINES.splitlines()[:50_000]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("data", [b"", b"\x00", b'{"id": 1}\n', b"\x1f\x8b", GARBLED, b"\x28\xb5\x2f\xfd"])
def test_what_is_not_compressed_or_empty_is_damage_at_its_first_line(suffix: str, data: bytes) -> None:
    found, damage = read("ndjson", data, f"x{suffix}")
    assert (found, damage is not None and damage.line) == ([], 1)


def test_garbage_behind_the_last_member_is_damage() -> None:
    for suffix in (".gz", ".zst"):
        found, damage = read("ndjson", compress(b"1\n2\n", suffix) + b"garbage", f"x{suffix}")
        assert [row.value for row in found] == [b"1", b"2"]
        assert damage is not None
        assert damage.line == 3


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("format_", ["ndjson", "csv"])
def test_a_bomb_takes_no_memory(suffix: str, format_: str) -> None:
    """100 MB of zeros, without a line's end, in 0.1 MB."""
    member = compress(bytes(10_000_000), suffix)
    stream = member * 10
    tracemalloc.start()
    try:
        found, damage = read("csv" if format_ == "csv" else "ndjson", stream, f"x{suffix}")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12_000_000
    if format_ == "csv":
        assert (found, damage is not None and damage.line) == ([], 1)
    else:
        assert [row.why for row in found] == [
            ("record_too_large", "the record has 100,000,000 bytes; 1,048,576 are allowed")
        ]


def test_a_frame_that_asks_for_more_memory_than_allowed_is_refused() -> None:
    options = {zstd.CompressionParameter.window_log: WINDOW_LOG_MAX + 1, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    frame = compressor.compress(b"1\n" * 1000) + compressor.flush()
    with pytest.raises(BrokenStream, match="too much memory"):
        list(chunks(io.BytesIO(frame), "x.zst"))


@pytest.mark.parametrize(
    ("suffix", "error"),
    [
        (".gz", MemoryError()),
        (".gz", zlib.error("Error -4 while decompressing data: insufficient memory")),
        (".zst", zstd.ZstdError("Unable to decompress Zstandard data: Allocation error : not enough memory")),
    ],
)
@pytest.mark.parametrize("format_", ["ndjson", "csv"])
def test_no_memory_for_a_moment_is_no_damage(
    monkeypatch: pytest.MonkeyPatch, suffix: str, error: Exception, format_: Format
) -> None:
    class Starving:
        def read1(self, size: int) -> bytes:
            raise error

    monkeypatch.setattr(compressed, "_decompressing", lambda *_: (Starving(), (zlib.error, zstd.ZstdError)))
    with pytest.raises(MemoryError):
        read(format_, b"1", f"x{suffix}")


def test_gzip_takes_what_gzip_takes() -> None:
    """Zeros behind the last member (tar), a file name and a comment in the header, an empty member."""
    named = io.BytesIO()
    with gzip.GzipFile("name.ndjson", "wb", fileobj=named) as file:
        file.write(b"1\n")
    data = named.getvalue() + gzip.compress(b"") + gzip.compress(b"2\n") + bytes(512)
    assert b"".join(chunks(io.BytesIO(data), "x.gz")) == b"1\n2\n"
