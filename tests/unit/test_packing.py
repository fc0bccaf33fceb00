"""The bytes of records on internal topics."""

import io
import struct
import zlib

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from rollup_engine import packing
from rollup_engine.errors import PartitionHalted
from rollup_engine.packing import KEYS, PIECES, REST, TEXT, Packed, pack, unpack


@st.composite
def packed_records(draw: st.DrawFn) -> Packed:
    start = draw(st.integers(0, 1 << 40))
    length = draw(st.integers(0, 30))
    offsets = st.lists(st.integers(start, start + max(length, 1) - 1), max_size=40).map(sorted)
    tables = {}
    for name in draw(st.sets(st.sampled_from(("rejected", "event:a", "event:ü")))) if length else ():
        column = draw(offsets)
        tables[name] = pl.DataFrame(
            {
                "offset": pl.Series(column, dtype=pl.Int64),
                "key": pl.Series([offset << 80 for offset in column], dtype=pl.UInt128),
                "units": pl.Series([-offset * 10**20 for offset in column], dtype=pl.Int128),
                "id_hash": pl.Series([offset << 70 for offset in column], dtype=pl.UInt128),
                "late": pl.Series([offset % 2 > 0 for offset in column], dtype=pl.Boolean),
                "id": pl.Series([draw(st.none() | st.text(max_size=50)) for _ in column], dtype=pl.String),
                "text": pl.Series([draw(st.none() | st.text(max_size=50)) for _ in column], dtype=pl.String),
                "original": pl.Series([draw(st.none() | st.binary(max_size=50)) for _ in column], dtype=pl.Binary),
            }
        )
    return Packed(
        incarnation=draw(st.text(max_size=10)),
        generation=draw(st.integers(0, 1 << 20)),
        source=draw(st.text(max_size=10)),
        start=start,
        end=start + length,
        clock_ms=draw(st.integers(0, 1 << 50)),
        tables=tables,
    )


@given(packed_records(), st.integers(0, 6_000))
def test_any_cut_covers_the_same_rows_once(packed: Packed, bytes_max: int) -> None:
    values = pack(packed, bytes_max)
    parts = [unpack(value) for value in values]
    assert [part.start for part in parts] == [packed.start, *(part.end for part in parts[:-1])]
    assert parts[-1].end == packed.end
    for value, part in zip(values, parts, strict=True):
        assert (part.incarnation, part.generation, part.source) == (
            packed.incarnation,
            packed.generation,
            packed.source,
        )
        offsets = {offset for frame in part.tables.values() for offset in frame["offset"]}
        assert all(part.start <= offset < part.end for offset in offsets)
        assert len(value) <= bytes_max or len(offsets) <= 1, "too large, and could still be cut"
    for name, frame in packed.tables.items():
        found = [part.tables[name] for part in parts if name in part.tables]
        assert sum(one.height for one in found) == frame.height
        if frame.height:
            assert_frame_equal(pl.concat(found), frame, check_column_order=False)


def test_no_record_has_more_rows_than_the_next_stage_can_hand_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "RECORD_ROWS_MAX", 10)
    offsets = [*range(35), *[35] * 12]  # what one source record comes to is not cut
    packed = Packed("life", 3, "raw/0", 0, 40, 7, {"event:a": pl.DataFrame({"offset": offsets})})
    parts = [unpack(value) for value in pack(packed)]
    assert [offset for part in parts for offset in part.tables["event:a"]["offset"]] == offsets
    assert all(part.rows <= 10 or set(part.tables["event:a"]["offset"]) == {35} for part in parts)


@given(packed_records(), st.integers(0, 6_000))
def test_no_part_tells_a_clock_that_lies_ahead_of_it(packed: Packed, bytes_max: int) -> None:
    parts = [unpack(value) for value in pack(packed, bytes_max)]
    assert [part.clock_ms for part in parts] == [0] * (len(parts) - 1) + [packed.clock_ms]


def some_bytes() -> bytes:
    frame = pl.DataFrame({"offset": range(40), "text": [f"row {i}" for i in range(40)]})
    return pack(Packed("life", 3, "raw/0", 0, 40, 7, {"event:a": frame}))[0]


@given(st.data())
def test_corrupt_bytes_halt_the_partition(data: st.DataObject) -> None:
    value = bytearray(some_bytes())
    place = data.draw(st.integers(0, len(value) - 1))
    value[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(PartitionHalted):
        unpack(bytes(value))


@given(st.binary(max_size=64) | st.integers(0, len(some_bytes()) - 1).map(lambda size: some_bytes()[:size]))
def test_foreign_and_truncated_bytes_halt_the_partition(value: bytes) -> None:
    with pytest.raises(PartitionHalted, match="did not write"):
        unpack(value)


def test_another_version_is_named_as_foreign() -> None:
    with pytest.raises(PartitionHalted, match="newer engine"):
        unpack(bytes([packing.VERSION + 1]) + some_bytes()[1:])


@given(packed_records(), st.sets(st.sampled_from((KEYS, REST, TEXT))))
def test_only_the_pieces_wanted_are_read(packed: Packed, wanted: set[str]) -> None:
    (value,) = pack(packed)
    part = unpack(value, wanted)
    for name, frame in packed.tables.items():
        apart = {column: piece for piece, columns in PIECES.items() for column in columns}
        columns = [column for column in frame.columns if apart.get(column, REST) in wanted]
        if frame.height and columns:
            assert_frame_equal(part.tables[name], frame.select(columns), check_column_order=False)
        else:
            assert name not in part.tables


def test_a_record_of_the_version_before_is_still_read() -> None:
    frame = pl.DataFrame({"offset": [1, 2], "id": ["a", "b"], "id_hash": pl.Series([1, 2], dtype=pl.UInt128)})
    stream = io.BytesIO()
    frame.write_ipc_stream(stream, compression="zstd")
    header = msgspec.msgpack.encode(("life", 3, "raw/0", 1, 3, 7, [("event:a", len(stream.getvalue()))]))
    content = struct.pack(">I", len(header)) + header + stream.getvalue()
    value = struct.pack(">BI", 1, zlib.crc32(content)) + content
    found = unpack(value)
    assert (found.incarnation, found.generation, found.source, found.start, found.end) == ("life", 3, "raw/0", 1, 3)
    assert_frame_equal(found.tables["event:a"], frame, check_column_order=False)
    assert_frame_equal(unpack(value, (KEYS,)).tables["event:a"], frame.select("id_hash"))
    assert unpack(value, ()).tables == {}


def test_texts_of_digits_take_about_half_of_their_bytes() -> None:
    ids = [f"{number * 0x9E3779B97F4A7C15 % (1 << 64):016x}" for number in range(4_000)]
    (value,) = pack(Packed("life", 1, "raw/0", 0, 1, 7, {"event:a": pl.DataFrame({"id": ids})}))
    assert len(value) < 0.75 * 16 * len(ids)
