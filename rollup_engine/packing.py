"""A record of an internal topic, and its bytes.

    version, CRC-32 of the rest | length of the header | header | pieces of tables, each Arrow's stream in a zstd frame

A table is packed in pieces, so that whoever wants few of its columns reads only these. Arrow's reader trusts what it is
given, hence the checksum.
"""

import io
import struct
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
import polars as pl

from rollup_engine.errors import PartitionHalted
from rollup_engine.zstandard import zstd

VERSION = 2
RECORD_BYTES_MAX = 900_000  # below Kafka's default limit of 1 MiB a record
RECORD_ROWS_MAX = 8_000  # what one record comes to in the next stage cannot be cut: it must fit a record there too
KEYS, TEXT, REST = "keys", "text", "rest"
PIECES: Final = {KEYS: ("id_hash", "payload", "clock_ms", "future", "late"), TEXT: ("id",)}
"""Columns that are read without the others: ids are rebuilt from the first, and only dead letters need the text of an
id. All that are in neither are in `REST`."""
_ONE_TABLE_A_PIECE = 1  # the version before: all columns together, which Arrow compressed
# What higher levels save costs more than to send it. A text of digits shrinks by half, but with Huffman's codes only.
_COMPRESSORS = {piece: zstd.ZstdCompressor(level) for piece, level in ((KEYS, -1), (TEXT, 1), (REST, -1))}
_COMPAT = {TEXT: pl.CompatLevel.oldest()}  # one text after the other, without the 16 bytes a text of Arrow's views
_PREFIX = struct.Struct(">BI")  # version, checksum
_LENGTH = struct.Struct(">I")  # of the header


class _Header(msgspec.Struct, array_like=True):
    incarnation: str
    generation: int
    source: str
    start: int
    end: int
    clock_ms: int
    tables: list[tuple[str, int]]  # name and bytes, in the version before
    pieces: list[tuple[str, str, int]] = []  # of which table, which piece, and its bytes


@dataclass(frozen=True)
class Packed:
    """What one sender hands to one destination for source offsets [start, end)."""

    incarnation: str  # of the topic that carries it
    generation: int  # the YAML under which later stages evaluate it
    source: str
    start: int
    end: int
    clock_ms: int  # running maximum of the raw records' time up to `end`, 0: not told; NO_CLOCK_MS: no raw source
    tables: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    value: bytes = b""  # the record's bytes, where it was read from them

    @property
    def rows(self) -> int:
        return sum(frame.height for frame in self.tables.values())


def pack(packed: Packed, bytes_max: int = RECORD_BYTES_MAX) -> list[bytes]:
    """The record's bytes; several that cover the same range in turn where one would have too many bytes or rows."""
    value = _encoded(packed) if packed.rows <= RECORD_ROWS_MAX else b""
    middle = None if value and len(value) <= bytes_max else _middle(packed)
    if middle is None:  # it fits; or one source record's rows alone: nothing to cut
        return [value or _encoded(packed)]
    below, above = pl.col("offset") < middle, pl.col("offset") >= middle
    # The clock is known at the end only; taken for the middle's, it would age what the second part still needs.
    first = replace(packed, end=middle, clock_ms=min(0, packed.clock_ms))
    first = replace(first, tables={n: f.filter(below) for n, f in packed.tables.items()})
    second = replace(packed, start=middle, tables={n: f.filter(above) for n, f in packed.tables.items()})
    return pack(first, bytes_max) + pack(second, bytes_max)


def _encoded(packed: Packed) -> bytes:
    bodies: list[bytes] = []
    pieces: list[tuple[str, str, int]] = []
    for table, frame in packed.tables.items():
        if frame.height:
            for piece, part in _cut(frame).items():
                buffer = io.BytesIO()
                part.write_ipc_stream(buffer, compat_level=_COMPAT.get(piece))
                bodies.append(_COMPRESSORS[piece].compress(buffer.getbuffer(), zstd.ZstdCompressor.FLUSH_FRAME))
                pieces.append((table, piece, len(bodies[-1])))
    header = msgspec.msgpack.encode(
        _Header(
            packed.incarnation,
            packed.generation,
            packed.source,
            packed.start,
            packed.end,
            packed.clock_ms,
            [],
            pieces,
        )
    )
    content = b"".join((_LENGTH.pack(len(header)), header, *bodies))
    return _PREFIX.pack(VERSION, zlib.crc32(content)) + content


def _cut(frame: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The frame's pieces, those that it has columns for."""
    columns: dict[str, list[str]] = {}
    for column in frame.columns:
        piece = next((piece for piece, apart in PIECES.items() if column in apart), REST)
        columns.setdefault(piece, []).append(column)
    if len(columns) == 1:  # of deltas: a frame anew would be a tenth of what it takes to pack them
        return dict.fromkeys(columns, frame)
    return {piece: frame[wanted] for piece, wanted in columns.items()}


def _middle(packed: Packed) -> int | None:
    columns = [frame["offset"] for frame in packed.tables.values() if frame.height]
    offsets = pl.concat(columns or [pl.Series(dtype=pl.Int64)]).unique().sort()
    return int(offsets[offsets.len() // 2]) if offsets.len() > 1 else None


def unpack(value: bytes, wanted: Collection[str] = (KEYS, REST, TEXT)) -> Packed:
    """The inverse of `pack`; of the tables, these pieces. Raises `PartitionHalted` for bytes that no sender of this
    version, or of the one before, wrote."""
    try:
        version, checksum = _PREFIX.unpack_from(value)
        known = version in (VERSION, _ONE_TABLE_A_PIECE)
        if not known or checksum != zlib.crc32(memoryview(value)[_PREFIX.size :]):
            raise _foreign(value)
        start = _PREFIX.size + _LENGTH.size
        body = start + _LENGTH.unpack_from(value, _PREFIX.size)[0]
        header = msgspec.msgpack.decode(value[start:body], type=_Header)
        tables: dict[str, pl.DataFrame] = {}
        for table, size in header.tables:
            pieces = _cut(_read(value[body : body + size]))
            if parts := [pieces[piece] for piece in wanted if piece in pieces]:
                tables[table] = pl.concat(parts, how="horizontal")
            body += size
        for table, piece, size in header.pieces:
            if piece in wanted:
                part = _read(zstd.decompress(memoryview(value)[body : body + size]))
                tables[table] = tables[table].hstack(part) if table in tables else part
            body += size
    except (struct.error, msgspec.MsgspecError, pl.exceptions.PolarsError, zstd.ZstdError, OSError) as error:
        raise _foreign(value) from error
    return Packed(
        header.incarnation,
        header.generation,
        header.source,
        header.start,
        header.end,
        header.clock_ms,
        tables,
        value,
    )


def _read(stream: bytes) -> pl.DataFrame:
    return pl.read_ipc_stream(io.BytesIO(stream))


def _foreign(value: bytes | None) -> PartitionHalted:
    return PartitionHalted(
        cause=f"an internal topic holds a record that this engine did not write ({(value or b'')[:16]!r}…)",
        remedy="let nothing else write to internal topics; if a newer engine wrote it, run that version",
    )
