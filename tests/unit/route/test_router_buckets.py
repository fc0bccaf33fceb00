"""What buckets bring: rows that are no events, and cells in which every number is text."""

from __future__ import annotations

import json

import pytest

from rollup_engine.config.model import EventType
from rollup_engine.ports import MALFORMED_CSV, OBJECT_DAMAGED, Unreadable
from rollup_engine.route.router import Router
from rollup_engine.route.state import RouteState
from rollup_engine.runtime.memory import MemoryRecord
from tests.unit.route.specs import CSV, HOUR_MS, NOW_MS, a_sum, event, event_type, one, route

CELLS = event_type(at="ts", unit="ms", sums=[a_sum("bytes", minimum="0")], bucket=CSV)
DAY_MS = 24 * HOUR_MS
AS_JSON = CELLS.model_copy(update={"bucket": CSV.model_copy(update={"format": "ndjson"})})


def cell(value: str) -> bytes:
    return event(ts=str(NOW_MS), bytes=value)


def routed(*events: EventType) -> Router:
    return Router(CSV.topic, events, 1)


def test_what_is_unreadable_is_a_rejected_row_with_its_own_reason() -> None:
    records = [
        MemoryRecord(5, NOW_MS, cell("1")),
        Unreadable(6, NOW_MS, b"a,b,c", MALFORMED_CSV, "one cell more than the header has"),
        MemoryRecord(7, NOW_MS, b"{"),
        Unreadable(8, NOW_MS + 1, cell("2"), OBJECT_DAMAGED, "the object ends here"),
    ]
    after = routed(CELLS).route(RouteState(), records, NOW_MS)
    [tables] = after.tables.values()
    columns = ("offset", "event", "primary", "record_ms", "reason", "detail", "original", "original_bytes")
    rows = tables["rejected"].select(columns).rows()
    assert rows[0] == (6, "download", True, NOW_MS, "malformed_csv", "one cell more than the header has", b"a,b,c", 5)
    assert rows[1][4] == "malformed_json"
    assert rows[2][:5] == (8, "download", True, NOW_MS + 1, "object_damaged")
    assert rows[2][6] == cell("2"), "a row that is unreadable is no event, whatever its bytes are"
    assert tables["event:download"]["offset"].to_list() == [5]
    assert after.state.received == {"download": 4}
    assert (after.state.records, after.state.last_offset) == (4, 8)


def test_of_a_bucket_that_is_shared_it_is_booked_under_the_topic() -> None:
    shared = [event_type(name, match={"kind": name}, bucket=CSV) for name in ("a", "b")]
    after = routed(*shared).route(RouteState(), [Unreadable(0, NOW_MS, b"", OBJECT_DAMAGED, "empty")], NOW_MS)
    assert after.tables[0]["rejected"]["event"].to_list() == [f"topic:{CSV.topic}"]
    assert after.state.received == {f"topic:{CSV.topic}": 1}


def test_the_cells_of_a_csv_are_numbers_where_json_would_say_so() -> None:
    good = {"0": 0, "12": 12, "123456789012345678": 123456789012345678, "-0": 0, "1e3": 1000, "12.0": 12}
    for text, value in good.items():
        row = one(cell(text), CELLS)
        assert (row["n.bytes.lo"], row["timestamp_ms"]) == (value, NOW_MS)
        assert one(event(ts=NOW_MS, bytes=json.loads(text)), CELLS)["payload"] == row["payload"], "nothing else differs"
    for digits in ("1234567890123456789", "9999999999999999999"):  # 19 of them: beyond an Int64, some
        assert one(cell(digits), CELLS)["n.bytes.hi"] == int(digits[0])
    assert one(cell("0.50"), CELLS)["n.bytes.frac"] == 5 * 10**17
    assert one(event(ts=str(NOW_MS)), CELLS)["n.bytes.lo"] == 3256, "and a number is one still"


@pytest.mark.parametrize(
    "text",
    ["NaN", "0x1", "1_000", " 1", "1 ", "1\n", "1,5", "+1", "01", "1.", ".5", "1e", "", "\u0661", "true", "null"],
)
def test_other_text_is_no_number(text: str) -> None:
    tables, _ = route([cell("1"), cell(text), event(ts=text, bytes="1"), cell("2")], CELLS)
    assert [(row["offset"], row["reason"]) for row in tables["rejected"]] == [
        (1, "invalid_number"),
        (2, "invalid_timestamp"),
    ]
    assert repr(text) in tables["rejected"][0]["detail"]
    assert [row["n.bytes.lo"] for row in tables["event:download"]] == [1, 2]


def test_thousands_of_digits_are_refused_and_a_minimum_holds() -> None:
    tables, _ = route([cell("9" * 5_000), cell("-1"), cell("1e999999999")], CELLS)
    assert [row["reason"] for row in tables["rejected"]] == ["invalid_number", "below_minimum", "invalid_number"]


def test_of_any_other_source_text_is_no_number() -> None:
    for other in (AS_JSON, AS_JSON.model_copy(update={"bucket": None})):
        tables, _ = route([cell("1"), event(ts=NOW_MS, bytes="1")], other)
        assert [row["reason"] for row in tables["rejected"]] == ["invalid_timestamp", "invalid_number"]


def test_a_time_that_is_text_stays_text() -> None:
    by_text = event_type(bucket=CSV)
    assert one(event(), by_text)["timestamp_ms"] == NOW_MS
    tables, _ = route([event(at=str(NOW_MS))], by_text)
    assert [row["reason"] for row in tables["rejected"]] == ["invalid_timestamp"]


def test_the_future_of_a_buckets_row_is_as_of_its_reading() -> None:
    """What is read may be newer than the first listing of its name, whose time the record has."""
    rows = [(HOUR_MS, False), (DAY_MS, False), (DAY_MS + 299_000, False), (DAY_MS + 301_000, True)]
    records = [
        MemoryRecord(number, NOW_MS, event(id=str(number), ts=str(NOW_MS + ahead_ms), bytes="1"))
        for number, (ahead_ms, _) in enumerate(rows)
    ]
    after = routed(CELLS).route(RouteState(), records, NOW_MS + DAY_MS)
    assert after.tables[0]["event:download"]["future"].to_list() == [future for _, future in rows]
    assert after.state.watermarks == {"download": NOW_MS + DAY_MS + 299_000}
