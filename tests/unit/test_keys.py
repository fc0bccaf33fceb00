"""Keys: written-down bytes through the reference xxHash, golden values, and no two lists of parts in one key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import polars as pl
import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from rollup_engine import keys

# Computed with the reference library from the bytes that the comments write down.
GOLDEN_ID = 0x0FDDC6BA0F84CE16A76B893927A750DF  # 2i13:file_downloadafdb028a
GOLDEN_PAYLOAD = 0x9BB3DA7F05F15CEE  # 2p2,·1660490071132·617cb4de···3256, · for U+0000, of at and customer
GOLDEN_TUPLE = 0xB2D540E0ECD7112CE787DDC34AFC1E4D  # 1t14:download_speed4:fast20:external_customer_id8:617cb4de
GOLDEN_UNICODE_TUPLE = 0xE506A185AD79C1428FF0F4EDDEE54BAA  # 1t20:external_customer_id7:é, U+0001, a space, 字
GOLDEN_IDEMPOTENCY = 0x40383699191ACF372BB2BD904D09D47D  # 1k13:file_download13:1660489800000, the tuple, 2^40 + 7

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.sampled_from(
    ["", "-", "1:a", "null", "é"]
)
parts = texts | st.none()


def prefixed(part: str | None) -> bytes:
    return b"-" if part is None else b"%d:" % len(part.encode()) + part.encode()


def id_bytes(event: str, event_id: str) -> bytes:
    return b"2i" + prefixed(event) + event_id.encode()


def payload_bytes(values: Sequence[str | None]) -> bytes:
    nulls = "".join(f"{number}," for number, value in enumerate(values) if value is None)
    return "\0".join([f"2p{nulls}", *(value or "" for value in values)]).encode()


def tuple_bytes(columns: Mapping[str, str | None]) -> bytes:
    named = ((name, value) for name, value in sorted(columns.items()) if value is not None)
    return b"1t" + b"".join(prefixed(name) + prefixed(value) for name, value in named)


def idempotency_bytes(table: str, window_ms: int, tuple_key: int, revision: int) -> bytes:
    return b"1k" + prefixed(table) + b"".join(prefixed(str(part)) for part in (window_ms, tuple_key, revision))


def one(expression: pl.Expr, **columns: object) -> int:
    frame = pl.DataFrame({name: [value] for name, value in columns.items()}, schema=dict.fromkeys(columns, pl.String))
    return int(frame.select(expression.alias("key"))["key"][0])


def id_hash(event: str, event_id: str) -> int:
    return one(keys.id_hash(event, pl.col("id")), id=event_id)


FIELDS = ("at", "customer")


def payload_hash(values: Sequence[str | None]) -> int:
    return int(keys.payload_hash(FIELDS, [pl.Series([value], dtype=pl.String) for value in values])[0])


def tuple_key(columns: Mapping[str, str | None]) -> int:
    return one(keys.tuple_key(list(columns)), **columns)


def idempotency_key(table: str, window_ms: int, tuple_key: int, revision: int) -> int:
    schema = {"window_ms": pl.Int64, "tuple_key": pl.UInt128, "revision": pl.Int64}
    frame = pl.DataFrame({"window_ms": [window_ms], "tuple_key": [tuple_key], "revision": [revision]}, schema=schema)
    return int(frame.select(keys.idempotency_key(table).alias("key"))["key"][0])


@given(texts, texts)
def test_an_id_hash_is_xxh3_of_its_written_down_bytes(event: str, event_id: str) -> None:
    assert id_hash(event, event_id) == xxhash.xxh3_128_intdigest(id_bytes(event, event_id))


@given(st.lists(parts, min_size=1, max_size=6))
def test_a_payload_hash_is_xxh3_of_its_written_down_bytes(values: list[str | None]) -> None:
    fields = hashlib.sha256(b"2:at8:customer").digest()[6:8]
    assert payload_hash(values) == xxhash.xxh3_64_intdigest(payload_bytes(values)) >> 16 << 16 | int.from_bytes(
        fields, "big"
    )


@given(st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,9}", fullmatch=True), parts, min_size=1, max_size=5))
@example({"a": None})
def test_a_tuple_key_is_xxh3_of_its_written_down_bytes(columns: dict[str, str | None]) -> None:
    assert tuple_key(columns) == xxhash.xxh3_128_intdigest(tuple_bytes(columns))


@given(
    st.from_regex(r"[a-z_][a-z0-9_]{0,39}", fullmatch=True),
    st.integers(-(2**62), 2**62),
    st.integers(0, 2**128 - 1),
    st.integers(0, 2**63 - 1),
)
def test_an_idempotency_key_is_xxh3_of_its_written_down_bytes(
    table: str, window_ms: int, tuple_key: int, revision: int
) -> None:
    expected = xxhash.xxh3_128_intdigest(idempotency_bytes(table, window_ms, tuple_key, revision))
    assert idempotency_key(table, window_ms, tuple_key, revision) == expected


def test_golden_values_outlive_every_version_of_every_library() -> None:
    """Stored rows and remembered ids carry these. If this goes red, raise `keys.VERSION`, do not mend the test."""
    speed = {"external_customer_id": "617cb4de", "download_speed": "fast"}
    assert id_hash("file_download", "afdb028a") == GOLDEN_ID
    assert payload_hash(["1660490071132", "617cb4de", None, "", "3256"]) == GOLDEN_PAYLOAD
    assert tuple_key(speed) == GOLDEN_TUPLE
    assert tuple_key({"external_customer_id": "é\x01 字"}) == GOLDEN_UNICODE_TUPLE
    assert idempotency_key("file_download", 1660489800000, GOLDEN_TUPLE, (1 << 40) + 7) == GOLDEN_IDEMPOTENCY


@given(st.lists(parts, min_size=1, max_size=4), st.lists(parts, min_size=1, max_size=4))
@example([None], [""])
@example([None], ["-"])
@example(["a", "bc"], ["ab", "c"])
@example(["a", None], [None, "a"])
@example(["1:a", ""], ["", "1:a"])
@example([""], ["", ""])
@example(["é"], ["e\u0301"])
def test_different_parts_make_different_bytes(some: list[str | None], others: list[str | None]) -> None:
    assert (payload_bytes(some) == payload_bytes(others)) == (some == others)
    assert (payload_hash(some) == payload_hash(others)) == (some == others)


@given(
    st.dictionaries(st.sampled_from(["a", "b", "ab", "c"]), parts, min_size=1),
    st.dictionaries(st.sampled_from(["a", "b", "ab", "c"]), parts, min_size=1),
)
@example({"a": None}, {"a": ""})
@example({"a": "x", "b": None}, {"a": None, "b": "x"})
@example({"a": "bc"}, {"ab": "c"})
@example({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
def test_tuples_are_the_same_exactly_where_their_present_columns_are(
    some: dict[str, str | None], others: dict[str, str | None]
) -> None:
    def present(columns: dict[str, str | None]) -> dict[str, str]:
        return {name: value for name, value in columns.items() if value is not None}

    assert (tuple_key(some) == tuple_key(others)) == (present(some) == present(others))


def test_a_column_added_later_changes_no_old_key() -> None:
    before = {"external_customer_id": "c", "region": "eu"}
    assert tuple_key(before) == tuple_key({**before, "added": None}) == tuple_key({"added": None, **before})
    assert tuple_key(before) != tuple_key({**before, "added": ""})


def test_the_same_id_of_two_event_types_is_two_ids() -> None:
    assert id_hash("a", "1") != id_hash("b", "1")
    assert id_hash("a1:", "b") != id_hash("a", "1:b")


def test_a_payload_hash_looks_at_one_row_at_a_time() -> None:
    rows = [("x", None), ("x", ""), ("", None), (None, None), ("x", "y")]
    columns = [pl.Series(column, dtype=pl.String) for column in zip(*rows, strict=True)]
    assert keys.payload_hash(FIELDS, columns).to_list() == [payload_hash(row) for row in rows]
    assert keys.payload_hash(FIELDS, [columns[0], None])[0] == payload_hash(rows[0])


def test_hashes_look_at_one_row_at_a_time() -> None:
    frame = pl.DataFrame({"a": ["x", None, "x", ""], "b": ["y", "y", "y", None]})
    whole = frame.select(keys.tuple_key(["a", "b"]).alias("key"))["key"].to_list()
    assert whole == [tuple_key(row) for row in frame.to_dicts()]
    assert whole[0] == whole[2]


@given(st.lists(st.integers(0, 2**128 - 1), min_size=1, max_size=20), st.sampled_from([1, 2, 3, 8, 100]))
def test_a_partition_is_the_key_modulo_their_number(wanted: list[int], partitions: int) -> None:
    frame = pl.DataFrame({"key": pl.Series(wanted, dtype=pl.UInt128)})
    found = frame.select(keys.partition_of("key", partitions).alias("to"))["to"].to_list()
    assert found == [key % partitions for key in wanted]


@given(st.lists(st.integers(0, 3), max_size=20))
def test_spread_loses_no_row_and_keeps_their_order(to: list[int]) -> None:
    frame = pl.DataFrame({"row": range(len(to)), "to": to}, schema={"row": pl.Int64, "to": pl.UInt32})
    parts = keys.spread(frame, pl.col("to"))
    assert {part: rows.rows() for part, rows in parts.items()} == {
        part: [(row, part) for row, here in enumerate(to) if here == part] for part in set(to)
    }


@pytest.mark.parametrize("partitions", [1, 8, 64])
def test_ids_spread_evenly(partitions: int) -> None:
    frame = pl.DataFrame({"id": [f"event-{number}" for number in range(64_000)]})
    keyed = frame.select(keys.id_hash("file_download", pl.col("id")).alias("key"))
    sizes = [part.height for part in keys.spread(keyed, keys.partition_of("key", partitions)).values()]
    assert len(sizes) == partitions
    assert max(sizes) - min(sizes) < 0.25 * 64_000 / partitions
