"""Parquet against the values that were written: any table, any row groups, read on from any row, cut or garbled."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollup_engine.buckets import parquet
from rollup_engine.buckets.rows import Damaged, Row, rows
from rollup_engine.buckets.store import ObjectChanged
from tests.unit.buckets.objects import from_, read, same_damage

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, places=9).filter(lambda value: abs(value) < 10**29)
TYPES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.int8(), st.integers(-128, 127)),
    (pa.decimal128(38, 9), DECIMALS),
    (pa.decimal256(60, 9), DECIMALS),
    (pa.float64(), st.floats(allow_nan=False, allow_infinity=False)),
    (pa.bool_(), st.booleans()),
    (pa.string(), TEXT),
    (pa.large_string(), TEXT),
    (pa.dictionary(pa.int32(), pa.string()), TEXT),
    (pa.list_(pa.int64()), st.lists(st.none() | st.integers(0, 9), max_size=3)),
    (pa.struct([("x", pa.int64()), ("y", pa.list_(pa.string()))]), st.fixed_dictionaries(
        {"x": st.none() | st.integers(0, 9), "y": st.none() | st.lists(TEXT, max_size=2)})),
    (pa.map_(pa.string(), pa.int64()), st.dictionaries(TEXT, st.none() | st.integers(0, 9), max_size=2)),
]  # fmt: skip


def written(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def one_column(type_: pa.DataType, values: list[Any], **options: Any) -> bytes:
    return written(pa.table({"a": pa.array(values, type_)}), **options)


@contextmanager
def small_batches(rows_max: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "BATCH_ROWS_MAX", rows_max)
        yield


def decoded(found: list[Row]) -> list[Any]:
    return [json.loads(row.value, parse_float=Decimal) for row in found]


def plain(value: object, type_: pa.DataType) -> object:
    """What the JSON must say, with numbers as `json.loads(parse_float=Decimal)` gives them."""
    if pa.types.is_decimal(type_) and value is not None:
        return Decimal(str(value))
    return Decimal(repr(value)) if isinstance(value, float) else value


@given(data=st.data(), rows_max=st.integers(1, 4), group=st.integers(1, 7), from_line=st.integers(1, 12))
def test_rows_are_those_that_were_written(data: st.DataObject, rows_max: int, group: int, from_line: int) -> None:
    count = data.draw(st.integers(0, 11))
    chosen = data.draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=4))
    columns = [data.draw(st.lists(st.none() | of, min_size=count, max_size=count)) for _, of in chosen]
    names = [f"c{number}" for number in range(len(chosen))]
    arrays = [pa.array(values, type_) for values, (type_, _) in zip(columns, chosen, strict=True)]
    content = written(pa.table(arrays, names), row_group_size=group)
    with small_batches(rows_max):
        found, damage = read("parquet", content, "x.parquet", from_line)
    assert damage is None
    assert [row.line for row in found] == list(range(from_line, count + 1))
    assert [row.why for row in found] == [None] * len(found)
    expected = [
        {name: plain(values[row], type_) for name, values, (type_, _) in zip(names, columns, chosen, strict=True)}
        for row in range(from_line - 1, count)
    ]
    assert decoded(found) == expected


MICROSECONDS = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999))  # noqa: DTZ001


@settings(max_examples=30)
@given(at=st.lists(st.none() | MICROSECONDS, min_size=1, max_size=4), zone=st.sampled_from([None, "UTC", "Asia/Tokyo"]))
def test_timestamps_are_rfc_3339_in_utc(at: list[datetime | None], zone: str | None) -> None:
    ticks = [None if value is None else (value - datetime(1970, 1, 1)) // timedelta(microseconds=1) for value in at]  # noqa: DTZ001
    found, _ = read("parquet", one_column(pa.timestamp("us", zone), ticks), "x.parquet")
    texts = [row["a"] for row in decoded(found)]
    assert [text and text[-1] for text in texts] == [text and "Z" for text in texts]
    assert [text and datetime.fromisoformat(text) for text in texts] == [
        value and value.replace(tzinfo=UTC) for value in at
    ]


@pytest.mark.parametrize(
    ("type_", "value", "json_text"),
    [
        (pa.timestamp("ns"), 1_660_490_071_132_000_001, '"2022-08-14T15:14:31.132000001Z"'),
        (pa.timestamp("ns"), -1, '"1969-12-31T23:59:59.999999999Z"'),
        (pa.timestamp("ms", "Europe/Berlin"), 1_660_490_071_132, '"2022-08-14T15:14:31.132Z"'),
        (pa.timestamp("s"), -62_135_596_800, '"0001-01-01T00:00:00.000Z"'),
        (pa.timestamp("us"), 253_402_300_799_999_999, '"9999-12-31T23:59:59.999999Z"'),
        (pa.date32(), date(2022, 8, 14), '"2022-08-14"'),
        (pa.date64(), date(1, 1, 1), '"0001-01-01"'),
        (pa.time64("us"), time(15, 14, 31, 132), '"15:14:31.000132"'),
        (pa.time32("ms"), time(15, 14, 31), '"15:14:31.000"'),
        (pa.float32(), 0.1, "0.1"),
        (pa.float32(), 16777216.0, "16777216"),
        (pa.float16(), 0.5, "0.5"),
        (pa.float64(), 0.1, "0.1"),
        (pa.float64(), 1e22, "1e22"),
        (pa.float64(), -0.0, "-0.0"),
        (pa.decimal128(38, 10), Decimal("0.0000000001"), "1E-10"),
        (pa.decimal128(38, 0), Decimal(10**38 - 1), "9" * 38),
        (pa.uuid(), UUID("12345678-1234-5678-1234-567812345678").bytes, '"12345678-1234-5678-1234-567812345678"'),
        (pa.json_(), '{"x": 1}', '"{\\"x\\": 1}"'),
        (pa.list_(pa.struct([("t", pa.timestamp("s"))])), [{"t": 0}, None], '[{"t":"1970-01-01T00:00:00Z"},null]'),
        (pa.list_(pa.int64(), 2), [1, 2], "[1,2]"),
        (pa.struct([("f", pa.map_(pa.string(), pa.float32()))]), {"f": [("k", 0.1)]}, '{"f":{"k":0.1}}'),
        (pa.null(), None, "null"),
    ],
)
def test_what_each_type_becomes(type_: pa.DataType, value: object, json_text: str) -> None:
    found, damage = read("parquet", one_column(type_, [value]), "x.parquet")
    if pa.types.is_timestamp(type_) and type_.unit == "s":  # Parquet has no seconds
        json_text = json_text.replace(":00Z", ":00.000Z")
    if json_text.startswith("[{"):
        json_text = json_text.replace(":00Z", ":00.000Z")
    assert damage is None
    assert [(row.value.decode(), row.why) for row in found] == [(f'{{"a":{json_text}}}', None)]


@pytest.mark.parametrize(
    ("type_", "value", "why"),
    [
        (pa.float64(), float("nan"), "a is nan, which no JSON number can be"),
        (pa.float32(), float("-inf"), "a is -inf, which no JSON number can be"),
        (pa.list_(pa.float64()), [1.0, float("inf")], "a[] is inf, which no JSON number can be"),
        (pa.binary(), b"x", "a: it is binary; write it as a string (UTF8)"),
        (pa.binary(2), b"xx", "a: it is binary; write it as a string (UTF8)"),
        (pa.duration("us"), 1, "a: duration[us] has no JSON"),
        (pa.timestamp("ms"), 253_402_300_800_000, "a lies outside the years 1 to 9999"),
        (pa.timestamp("us"), -62_135_596_800_000_001, "a lies outside the years 1 to 9999"),
        (pa.date32(), 2_932_897, "a lies outside the years 1 to 9999"),
        (
            pa.map_(pa.int64(), pa.int64()),
            [(1, 2)],
            "a: it has keys of type int64, and those of a JSON object are text",
        ),
        (pa.map_(pa.string(), pa.int64()), [("k", 1), ("k", 2)], "a has a key twice"),
        (pa.struct([("x", pa.binary())]), {"x": b"\xff"}, "a.x: it is binary; write it as a string (UTF8)"),
    ],
)
def test_what_json_cannot_say_is_one_bad_row(type_: pa.DataType, value: object, why: str) -> None:
    content = one_column(type_, [None, value, None])
    found, damage = read("parquet", content, "x.parquet")
    assert damage is None
    assert [(row.line, row.why) for row in found] == [(1, None), (2, ("malformed_parquet", why)), (3, None)]
    assert why.encode() in found[1].value  # the rest of the row is there, and in its place what is wrong


def test_text_that_is_none_is_one_bad_row() -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xffa")]
    )
    keys = pa.MapArray.from_arrays([0, 1, 2], bad, pa.array([1, 2]))
    for column in (bad, keys):
        found, _ = read("parquet", written(pa.table({"a": column})), "x.parquet")
        assert [row.why for row in found] == [("malformed_parquet", "a is no UTF-8 text"), None]


TABLE = pa.table({"id": [f"id-{number}" for number in range(400)], "n": list(range(400))})
CONTENT = written(TABLE, row_group_size=100, write_page_checksum=True)


@given(cut=st.integers(0, len(CONTENT) - 1))
def test_a_file_cut_anywhere_is_damaged_at_its_first_row(cut: int) -> None:
    found, damage = read("parquet", CONTENT[:cut], "x.parquet")
    assert found == []
    assert damage is not None
    assert damage.line == 1


@settings(max_examples=200)
@given(at=st.integers(0, len(CONTENT) - 1), flip=st.integers(1, 255), from_line=st.integers(1, 401))
def test_a_flipped_byte_is_rows_or_damage_and_the_same_every_time(at: int, flip: int, from_line: int) -> None:
    content = bytearray(CONTENT)
    content[at] ^= flip
    found, damage = read("parquet", bytes(content), "x.parquet")
    resumed, again = read("parquet", bytes(content), "x.parquet", from_line)
    if damage is None or damage.line >= from_line:
        assert resumed == from_(found, from_line)
        assert same_damage(damage, again)


def test_rows_before_the_damage_are_given() -> None:
    third = pq.ParquetFile(io.BytesIO(CONTENT)).metadata.row_group(2).column(1)
    content = bytearray(CONTENT)
    content[third.dictionary_page_offset + third.total_compressed_size - 3] ^= 0xFF
    with small_batches(40):
        found, damage = read("parquet", bytes(content), "x.parquet")
    assert [row.line for row in found] == list(range(1, 201))
    assert damage is not None
    assert damage.line == 201
    assert "CRC" in damage.reason


def test_a_row_group_with_another_number_of_rows_than_it_says_is_damaged() -> None:
    """Otherwise every line behind it would have another number when reading goes on there."""
    hundred = b"\x16\xc8\x01"  # Thrift's compact form; its last place in the footer is that of the last row group
    at = CONTENT.rindex(hundred)
    found, damage = read("parquet", CONTENT[:at] + b"\x16\xca\x01" + CONTENT[at + 3 :], "x.parquet")
    assert len(found) == 400
    assert damage is not None
    assert (damage.line, damage.reason) == (401, "row group 3 has 100 rows, and says it has 101")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "x.parquet.gz",
            CONTENT,
            "a Parquet file is compressed in itself: .gz or .zst around it cannot be read in parts",
        ),
        ("x", b"", "the Parquet cannot be read: Parquet file size is 0 bytes"),
        ("x", written(pa.table([[1], [2]], ["a", "a"])), "two columns have one name, of ['a', 'a']"),
    ],
)
def test_what_is_no_parquet_is_damaged_at_its_first_row(name: str, content: bytes, reason: str) -> None:
    found, damage = read("parquet", content, name)
    assert found == []
    assert damage is not None
    assert (damage.line, damage.reason) == (1, reason)


class _Failing(io.BytesIO):
    """A stream that says the object has changed, from some read on."""

    reads_left = 10**9

    def read(self, size: int | None = -1) -> bytes:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise ObjectChanged("s3://bucket/x")
        return super().read(size)


class _Watched(io.BytesIO):
    """A stream that knows the largest number of bytes that was asked of it at once."""

    largest = 0

    def read(self, size: int | None = -1) -> bytes:
        self.largest = max(self.largest, len(self.getbuffer()) if size is None or size < 0 else size)
        return super().read(size)


def test_what_the_store_raises_comes_through_and_is_no_damage() -> None:
    for reads in range(20):
        stream = _Failing(CONTENT)
        stream.reads_left = reads
        try:
            count = sum(map(len, rows("parquet", stream, "x")))
        except ObjectChanged:
            continue
        except Damaged as damaged:  # pragma: no cover
            raise AssertionError(f"after {reads} reads") from damaged
        assert count == 400
        break
    assert 3 < reads < 19


@pytest.mark.parametrize(
    "error",
    [
        pa.ArrowMemoryError("malloc of size 30000064 failed"),
        OSError("ZSTD decompression failed: Allocation error : not enough memory"),
        OSError("Couldn't deserialize thrift: std::bad_alloc"),
    ],
)
def test_no_memory_for_a_moment_is_no_damage(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", fail)
    with pytest.raises(MemoryError):
        read("parquet", CONTENT, "x")


def test_a_row_group_is_never_held_as_a_whole() -> None:
    big = pa.table({"a": ["x" * 1000] * 20_000, "b": list(range(20_000))})
    content = written(big, row_group_size=20_000, use_dictionary=False, compression="none", data_page_size=100_000)
    stream = _Watched(content)
    before = pa.total_allocated_bytes()
    peak = 0
    for batch in rows("parquet", stream, "x"):
        assert sum(len(row.value) for row in batch) < 1_500_000
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert peak < 8_000_000
    assert stream.largest <= 1 << 20


def test_row_groups_before_the_line_are_not_read() -> None:
    stream = _Failing(CONTENT)
    assert sum(map(len, rows("parquet", stream, "x", 301))) == 100
    from_the_start = _Failing(CONTENT)
    assert sum(map(len, rows("parquet", from_the_start, "x"))) == 400
    assert 10**9 - stream.reads_left <= (10**9 - from_the_start.reads_left) // 2
