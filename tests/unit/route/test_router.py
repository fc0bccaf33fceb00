"""The router record by record: a bad one is one rejected row, whose it is and what it carries; what a good one is."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping

import polars as pl
import pytest

from rollup_engine.config.model import Aggregate
from rollup_engine.packing import Packed, pack
from rollup_engine.route.router import ORIGINAL_BYTES_MAX, Router
from rollup_engine.route.state import NO_WATERMARK_MS, RouteState
from rollup_engine.runtime.memory import MemoryRecord
from tests.unit.route.specs import NOW_MS, a_sum, event, event_type, one, route

MESSAGE_BYTES_MAX = 2 << 20  # of the internal topics, and of one request

BAD: dict[str, tuple[bytes | None, str]] = {
    "tombstone": (None, "malformed_json"),
    "empty": (b"", "malformed_json"),
    "cut off": (event()[:-1], "malformed_json"),
    "trailing": (event() + b"x", "malformed_json"),
    "NaN": (event(bytes=b"NaN"), "malformed_json"),
    "Infinity": (event(bytes=b"-Infinity"), "malformed_json"),
    "invalid UTF-8": (event(speed=b'"\xff"'), "malformed_json"),
    "lone surrogate": (event(speed=b'"\\ud800"'), "malformed_json"),
    "list": (b"[" + event() + b"]", "not_an_object"),
    "5,000 digits": (event(bytes=b"9" * 5_000), "number_too_long"),
    "1,000 levels": (event(extra=b"[" * 1_000 + b"]" * 1_000), "nested_too_deep"),
    "100,000 levels": (event(extra=b"[" * 100_000 + b"]" * 100_000), "nested_too_deep"),
    "10 MB": (event(extra="x" * 10_000_000), "record_too_large"),
    "no id": (event(id=...), "missing_id"),
    "null id": (event(id=None), "missing_id"),
    "empty id": (event(id=""), "missing_id"),
    "boolean id": (event(id=True), "invalid_id"),
    "fractional id": (event(id=1.5), "invalid_id"),
    "object as id": (event(id={"a": 1}), "invalid_id"),
    "id with U+0000": (event(id="a\x00b"), "invalid_id"),
    "id too long": (event(id="x" * 65_537), "invalid_id"),
    "no customer": (event(customer=...), "missing_customer"),
    "empty customer": (event(customer=""), "missing_customer"),
    "list as customer": (event(customer=["c"]), "invalid_customer"),
    "customer with U+0000": (event(customer="\x00"), "invalid_customer"),
    "no time": (event(at=...), "invalid_timestamp"),
    "time as a number": (event(at=1_660_490_071), "invalid_timestamp"),
    "time without offset": (event(at="2022-08-14T15:14:31"), "invalid_timestamp"),
    "30 February": (event(at="2022-02-30T15:14:31Z"), "invalid_timestamp"),
    "time with U+0000": (event(at="2022\x00"), "invalid_timestamp"),
    "second 60": (event(at="2016-12-31T23:59:60Z"), "invalid_timestamp"),
    "object as group": (event(speed={"a": 1}), "invalid_group_column"),
    "list as group": (event(speed=[]), "invalid_group_column"),
    "group with U+0000": (event(speed="\x00"), "invalid_group_column"),
    "group too long": (event(speed="é" * 32_769), "invalid_group_column"),
    "parent is text": (event(data="eu"), "invalid_group_column"),
    "parent is a list": (event(data=[]), "invalid_group_column"),
    "text as number": (event(bytes="3256"), "invalid_number"),
    "boolean as number": (event(bytes=True), "invalid_number"),
    "37 digits": (event(bytes=10**36), "invalid_number"),
    "1e400": (event(bytes=b"1e400"), "invalid_number"),
    "10 decimals": (event(bytes=b"0.0000000001"), "invalid_number"),
    "below minimum": (event(bytes=-1), "below_minimum"),
    "just below minimum": (event(bytes=b"-0.000000001"), "below_minimum"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_one_rejected_row_and_its_neighbours_are_well_formed(name: str) -> None:
    value, reason = BAD[name]
    tables, state = route([event(id="before"), value, event(id="after")], first_offset=10)
    assert set(tables) == {"event:download", "rejected"}
    assert [(row["offset"], row["id"]) for row in tables["event:download"]] == [(10, "before"), (12, "after")]
    (row,) = tables["rejected"]
    raw = value or b""
    assert (row["reason"], row["event"], row["primary"], row["offset"]) == (reason, "download", True, 11)
    assert 0 < len(row["detail"]) <= 500
    assert "\x00" not in row["detail"]
    assert row["original"] == raw[:ORIGINAL_BYTES_MAX]
    assert row["original_bytes"] == len(raw)
    assert row["original_sha256"] == hashlib.sha256(raw).hexdigest()
    assert row["record_ms"] == NOW_MS
    assert state.received == {"download": 3}


def test_all_kinds_of_bad_records_in_one_batch_are_each_one_row() -> None:
    values = [value for bad, _ in BAD.values() for value in (bad, event())]
    tables, state = route(values)
    assert [row["reason"] for row in tables["rejected"]] == [reason for _, reason in BAD.values()]
    assert [row["offset"] for row in tables["event:download"]] == list(range(1, len(values), 2))
    assert state.received == {"download": len(values)}


def test_a_batch_without_a_good_record_has_no_event_table() -> None:
    tables, state = route([event(id=""), b"", event(bytes="x")])
    assert [row["reason"] for row in tables["rejected"]] == ["missing_id", "malformed_json", "invalid_number"]
    assert set(tables) == {"rejected"}
    assert state.watermarks == {"download": NO_WATERMARK_MS}


def test_of_several_faults_the_first_in_a_fixed_order_is_named() -> None:
    everything = event(id="", customer="", at="", speed=[], bytes="x")
    tables, _ = route([everything, event(), event(customer=True, at="", bytes=-1), event(at="", bytes=-1, speed=[])])
    assert [row["reason"] for row in tables["rejected"]] == ["missing_id", "invalid_customer", "invalid_timestamp"]


def test_on_a_shared_topic_a_record_of_nobody_is_booked_under_the_topic() -> None:
    a = event_type("a", match={"kind": "a"})
    b = event_type("b", match={"kind": "b"})
    values = [b"{", event(kind="a", id=""), event(kind="b", id=""), event(kind="c", id=""), event(), b"[]"]
    tables, state = route(values, a, b)
    assert [(row["offset"], row["event"], row["reason"]) for row in tables["rejected"]] == [
        (0, "topic:raw", "malformed_json"),
        (1, "a", "missing_id"),
        (2, "b", "missing_id"),
        (5, "topic:raw", "not_an_object"),
    ]
    assert [(row["offset"], row["event"]) for row in tables["unmatched"]] == [(3, "topic:raw"), (4, "topic:raw")]
    assert state.received == {"topic:raw": 2, "a": 1, "b": 1}


def test_the_only_event_type_of_a_topic_owns_all_its_records() -> None:
    tables, state = route([b"{", event(kind="x"), event(kind="a")], event_type("a", match={"kind": "a"}))
    assert [row["event"] for row in tables["rejected"]] == ["a"]
    assert [row["event"] for row in tables["unmatched"]] == ["a"]
    assert state.received == {"a": 2}


@pytest.mark.parametrize(
    ("wanted", "takes", "passes_over"),
    [
        ("a", [b'"a"', b'"\\u0061"'], [b'"b"', b'"A"', b'" a"', b"null", b"{}", b'["a"]', b'""']),
        ("1", [b"1", b'"1"'], [b"1.0", b"true", b"10", b"1e0"]),
        ("1.50", [b"1.50", b'"1.50"'], [b"1.5", b"1.500"]),
        ("true", [b"true", b'"true"'], [b"false", b"1", b'"True"']),
        ("null", [b'"null"'], [b"null"]),
    ],
)
def test_match_compares_with_the_json_form(wanted: str, takes: list[bytes], passes_over: list[bytes]) -> None:
    only = event_type(match={"kind": wanted})
    tables, state = route([event(kind=value) for value in takes + passes_over] + [event()], only)
    assert len(tables["event:download"]) == len(takes)
    assert [row["offset"] for row in tables["unmatched"]] == list(range(len(takes), len(takes) + len(passes_over) + 1))
    assert state.received == {"download": len(takes)}


def test_a_match_takes_records_of_which_all_its_properties_fit() -> None:
    only = event_type(match={"kind": "a", "data.version": "2"})
    values = [event(kind="a", data={"version": 2}), event(kind="a", data={"version": 3}), event(kind="a", data=2)]
    tables, _ = route(values, only)
    assert [row["offset"] for row in tables["event:download"]] == [0]
    assert [row["offset"] for row in tables["unmatched"]] == [1, 2]


def test_a_record_that_two_event_types_take_is_primary_once() -> None:
    a = event_type("a", groups=["speed"], match={"kind": "a"})
    b = event_type("b", sums=[a_sum("bytes")])
    values = [event(kind="a", bytes="x"), event(kind="a"), event(), event(kind="a", speed=[]), event(kind="a", id="")]
    for events in ((a, b), (b, a)):
        tables, state = route(values, *events)
        rows = [*tables["event:a"], *tables["event:b"], *tables["rejected"]]
        assert sorted(row["offset"] for row in rows if row["primary"]) == [0, 1, 2, 3, 4]
        first = {row["offset"]: row.get("event") for row in rows if row["primary"]}
        assert first == {0: None, 1: None, 2: None, 3: "a", 4: "a"}
        assert [row["primary"] for row in tables["event:b"]] == [False, True, False]
        assert state.received == {"a": 4, "b": 5}


def test_an_event_and_its_rejection_go_where_the_record_alone_says() -> None:
    for partitions in (1, 3, 8):
        tables, _ = route(
            [event(id=str(n)) if n % 2 else b"" for n in range(50)], partitions=partitions, first_offset=7
        )
        assert all(row["to"] == row["id_hash"] % partitions for row in tables["event:download"])
        assert all(row["to"] == row["offset"] % partitions for row in tables["rejected"])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"true", "true"),
        (b"false", "false"),
        (b"1", "1"),
        (b"1.50", "1.50"),
        (b"1E+5", "1E+5"),
        (b"-0", "0"),
        (b"123456789012345678901234567890", "123456789012345678901234567890"),
        (b"null", None),
        (b'""', ""),
        (b'"null"', "null"),
        (b'"true"', "true"),
        (b'" a "', " a "),
        (b'"\\u00e9"', "é"),
        (b'"e\\u0301"', "e\u0301"),
        (b'"\\u0001\\n\\u001f\\u007f"', "\x01\n\x1f\x7f"),
        (b'"' + b"x" * 10_000 + b'"', "x" * 10_000),
        (b'"' + "é".encode() * 32_768 + b'"', "é" * 32_768),
    ],
    ids=range(17),
)
def test_group_values_are_text_in_their_json_form(value: bytes, text: str | None) -> None:
    row = one(event(speed=value, data=b'{"region":%s}' % value))
    assert row["t.speed"] == row["t.data.region"] == text
    others, _ = route([event(speed=value), event(speed="x"), event(speed=...)])  # in a column of several kinds too
    assert [row["t.speed"] for row in others["event:download"]] == [text, "x", None]


def test_ids_and_customers_may_be_whole_numbers() -> None:
    row = one(event(id=7, customer=10**30))
    assert (row["id"], row["customer"]) == ("7", "1" + "0" * 30)
    assert row["id_hash"] == one(event(id="7"))["id_hash"]


def test_values_at_the_minimum_are_counted_below_it_refused_for_each_rollup_that_says_so() -> None:
    least = "-12345678901234567890123456789012345.5"
    kept = event_type(sums=[a_sum("bytes", minimum=least)])
    values = [event(bytes=least.encode()), event(bytes=(least[:-1] + "6").encode()), event(bytes=None), event(bytes=0)]
    tables, _ = route(values, kept)
    assert [row["offset"] for row in tables["event:download"]] == [0, 2, 3]
    assert [(row["offset"], row["reason"]) for row in tables["rejected"]] == [(1, "below_minimum")]

    def aggregate(minimum: str, column: str) -> Aggregate:
        return a_sum("bytes", minimum=minimum).model_copy(update={"column": column})

    two = event_type(sums=[aggregate("-5", "low"), aggregate("0.5", "high")])
    tables, _ = route([event(bytes=-6), event(bytes=-5), event(bytes=0), event(bytes=0.5), event(bytes=7)], two)
    assert [row["offset"] for row in tables["event:download"]] == [3, 4]
    assert "-5" in tables["rejected"][0]["detail"]
    assert "0.5" in tables["rejected"][1]["detail"]


def test_the_scale_of_a_path_is_the_greatest_that_a_rollup_declares() -> None:
    values = [event(bytes=b"0.0001"), event(bytes=b"0.00010"), event(bytes=b"0.00001"), event(cost=b"0.5")]
    for scales in ((2, 4), (4, 2)):
        two = event_type(sums=[*(a_sum("bytes", scale=scale) for scale in scales), a_sum("cost", scale=0)])
        tables, _ = route([*values, event(cost=b"5.0")], two)
        assert [row["offset"] for row in tables["event:download"]] == [0, 1, 4]
        assert [row["reason"] for row in tables["rejected"]] == ["invalid_number"] * 2


def test_a_missing_or_null_number_adds_nothing_and_the_event_still_counts() -> None:
    tables, _ = route([event(bytes=None), event(bytes=...), event(bytes=0)])
    assert [row["n.bytes.lo"] for row in tables["event:download"]] == [None, None, 0]


def test_originals_are_capped_with_their_true_length_and_hash() -> None:
    raw = event(id="", extra="x" * 600_000)
    tables, _ = route([raw, b"y" * 10_000_000])
    for row, value in zip(tables["rejected"], (raw, b"y" * 10_000_000), strict=True):
        assert row["original"] == value[: 512 * 1024]
        assert (row["original_bytes"], row["original_sha256"]) == (len(value), hashlib.sha256(value).hexdigest())


@pytest.mark.parametrize("count", [1, 3, 4, 20])
@pytest.mark.parametrize("fault", ["no id", "future"])
def test_whatever_a_record_holds_its_rows_fit_one_message(count: int, fault: str) -> None:
    """Rows of one record travel in one packed record: twenty copies of a random megabyte would never be accepted."""
    noise = random.Random(1).randbytes(400_000).hex()
    changes: Mapping[str, object] = {"id": ""} if fault == "no id" else {"at": "2030-01-01T00:00:00Z"}
    records = [MemoryRecord(0, NOW_MS, event(**changes, extra=noise))]
    events = [event_type(f"e{number}") for number in range(count)]
    routed = Router("raw", events, 1).route(RouteState(), records, NOW_MS)
    rows = pl.concat([frame.select("original") for frame in routed.tables[0].values()])
    assert rows.height == count
    assert rows["original"].bin.size().min() == min(ORIGINAL_BYTES_MAX, 3 * ORIGINAL_BYTES_MAX // count)
    (message,) = pack(Packed("i", 1, "raw/0", 0, 1, NOW_MS, routed.tables[0]))
    assert len(message) < MESSAGE_BYTES_MAX


def test_a_record_of_kafkas_oldest_format_has_no_time_and_is_of_now() -> None:
    values = [event(id="a"), event(id="b"), event(id=""), b"{"]
    times: list[int] = [None, NOW_MS, None, None]  # type: ignore[list-item]
    tables, state = route(values, times_ms=times, state=RouteState(clock_ms=1))
    assert state.clock_ms == NOW_MS
    assert [row["future"] for row in tables["event:download"]] == [False, False]
    assert [row["record_ms"] for row in tables["rejected"]] == [NOW_MS, NOW_MS]
