"""The whole router against route by the book: any records, any batches, the same rows, books and state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from rollup_engine.config.model import EventType
from rollup_engine.ports import Record, Unreadable
from rollup_engine.route.router import Routed, Router
from rollup_engine.route.state import RouteState
from rollup_engine.runtime.memory import MemoryRecord
from tests.unit.route.naive import NaiveRouter, Row, groups, scales
from tests.unit.route.specs import CSV, HOUR_MS, MINUTE_MS, a_sum, event_type

NOW_MS = 1_660_490_071_132
PARTITIONS = 3

DOWNLOAD = event_type(
    groups=["speed", "data.region", "data.zone.name"],
    sums=[a_sum("bytes", minimum="0"), a_sum("data.cost", minimum="-1.5", scale=3)],
)
SETUPS: dict[str, list[EventType]] = {
    "one event type": [DOWNLOAD],
    "one of some records": [DOWNLOAD.model_copy(update={"match": event_type(match={"kind": "download"}).match})],
    "epoch and unlimited": [event_type(at="ts", unit="ms", grace_ms=None, sums=[a_sum("bytes", scale=0)])],
    "two that share records": [
        event_type("b_all", groups=["speed"], sums=[a_sum("bytes")]),
        event_type("a_some", match={"kind": "download"}, customer="data.owner", grace_ms=0, groups=["data.region"]),
        event_type("c_true", match={"kind": "true", "speed": "1"}, sums=[a_sum("bytes", scale=2)]),
    ],
    "a value and an object at once": [
        event_type("whole", groups=["data"]),
        event_type("inside", groups=["data.region", "data.zone.name"], sums=[a_sum("data.cost")]),
    ],
    "ids of several parts": [
        event_type("two", id_paths=["speed", "id"], sums=[a_sum("bytes")]),
        event_type("three", id_paths=["data.region", "id", "kind"]),
    ],
    "a bucket of csv": [
        event_type("cells", at="ts", unit="ms", groups=["speed"], sums=[a_sum("bytes", minimum="0")], bucket=CSV),
        event_type("some", match={"kind": "download"}, id_paths=["kind", "id"], sums=[a_sum("bytes")], bucket=CSV),
    ],
    "names that are no field's": [event_type(groups=['data."x\\y"', "data.région"], sums=[a_sum("bytes")])],
}


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def near_now(unit: int) -> st.SearchStrategy[int]:
    return st.sampled_from([-2 * HOUR_MS, -HOUR_MS, -1, 0, 1, 5 * MINUTE_MS, 6 * MINUTE_MS]).map(
        lambda delta: (NOW_MS + delta) * unit
    )


def moment(delta_ms: int) -> str:
    return quoted(datetime.fromtimestamp((NOW_MS + delta_ms) / 1000, UTC).isoformat(timespec="milliseconds"))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.sampled_from(
    ["", "a", "null", "true", "1", "é", "e\u0301", "\x00", "\x1f", "😀", "x" * 10_000, "y" * 65_537, "download"]
)
strings = st.one_of(
    texts.map(quoted),
    texts.map(json.dumps),
    st.sampled_from(['"\\ud800"', '"\\udc00x"', '"\\ud83d\\ude00"', '"\\u0041"']),
)
numbers = st.one_of(
    st.integers(-3, 100).map(str),
    st.sampled_from(
        ["-0", "-0.0", "0.1", "1.50", "1E+5", "1e-9", "1e-10", "1e400", "-1.500", "-1.501", "1e36", "1e35"]
    ),
    st.sampled_from(["9007199254740993", "9223372036854775808", "1e0000000000000003"]),
    st.integers(-(10**40), 10**40).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-9, max_value=9).map(str),
)
odd_numbers = ["1_000", " 1", "1 ", "+1", "01", "1.", ".5", "0x1", "NaN", "1,5", "1\n", "-", "[1]", "1e", "\u0661"]
numeric_texts = numbers.map(quoted) | st.sampled_from(odd_numbers).map(json.dumps)
constants = st.sampled_from(["null", "true", "false", "NaN", "Infinity"])
timestamps = st.one_of(
    st.integers(-2 * HOUR_MS, 2 * HOUR_MS).map(moment),
    near_now(1).map(lambda ms: quoted(datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))),
    st.sampled_from(
        ['"2022-02-30T00:00:00Z"', '"2022-08-14T15:14:31"', '"0001-01-01T00:00:00Z"', '"2022-08-14T24:00:00Z"']
    ),
    near_now(1).map(str),
)
leaves = strings | numbers | numeric_texts | constants | timestamps


def objects(values: st.SearchStrategy[str], names: Sequence[str]) -> st.SearchStrategy[str]:
    named = st.tuples(st.sampled_from([*map(quoted, names), '"b"', '"\\u0069d"', '"\\ud800"']), values)
    return st.lists(named, max_size=4).map(
        lambda pairs: "{{{}}}".format(", ".join(f"{name}: {value}" for name, value in pairs))
    )


trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]") | objects(inner, ["name", "x"]),
    max_leaves=5,
)
data = objects(strings | numbers | objects(strings, ["name"]), ["region", "zone", "cost", "owner", '"x\\y"', "région"])


ODD: dict[str, st.SearchStrategy[str]] = {
    "id": texts.map(quoted) | leaves,
    "at": timestamps | leaves,
    "ts": timestamps | leaves | near_now(1).map(str).map(quoted),
    "customer": texts.map(quoted) | leaves,
    "kind": constants | strings,
    "speed": leaves | trees,
    "bytes": numbers | numeric_texts | trees,
    "data": data | leaves,
    "extra": trees,
}
GOOD: dict[str, st.SearchStrategy[str]] = {
    "id": st.integers(0, 9).map(str) | st.sampled_from(['"a"', '"b"', '"\\u0061"']),
    "at": st.sampled_from([-2 * HOUR_MS, -HOUR_MS - 1, -HOUR_MS, 0, 1, 5 * MINUTE_MS, 6 * MINUTE_MS]).map(moment),
    "ts": near_now(1).map(str) | near_now(1).map(lambda ms: f"{ms}.5") | near_now(1).map(lambda ms: f'"{ms}"'),
    "customer": st.sampled_from(['"c"', '"d"', "7"]),
    "kind": st.sampled_from(['"download"', '"download"', "true", '"true"']),
    "speed": st.sampled_from(['"fast"', '""', "1", "true", "null", "1.50", '"null"']),
    "bytes": st.sampled_from(["0", "3256", "5e-1", "1e30", "null", "9007199254740993", '"12"', '"1.5"']),
    "data": st.sampled_from(["{}", "null", '{"region": "eu", "cost": -1.5, "zone": {"name": "x"}}', '{"owner": "o"}']),
}


@st.composite
def well_meant(draw: st.DrawFn) -> bytes:
    """An event of which up to two properties are missing, repeated or odd."""
    pairs = [(name, draw(values)) for name, values in GOOD.items()]
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        name = draw(st.sampled_from(sorted(ODD)))
        repeated = draw(st.booleans())
        pairs = [pair for pair in pairs if pair[0] != name or repeated]
        pairs += [(name, draw(ODD[name]))] if draw(st.sampled_from([True, True, False])) else []
    return "{{{}}}".format(", ".join(f"{quoted(name)}: {value}" for name, value in pairs)).encode()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    raw = draw(well_meant())
    at = draw(st.integers(0, len(raw)))
    damage = draw(st.sampled_from([b"", b"\xff", b"\xed\xa0\x80", b'"', b"\\", b"{", b"}", b",", b"\x00", b"0", b"e9"]))
    return raw[:at] + damage + raw[at + draw(st.integers(0, 2)) :]


garbage = (
    st.none() | st.binary(max_size=20) | trees.map(str.encode) | st.sampled_from([b"", b"\xef\xbb\xbf{}", b"[" * 500])
)
values = st.sampled_from([*[well_meant()] * 8, damaged(), garbage]).flatmap(lambda kind: kind)
record_times = near_now(1) | st.sampled_from([-(1 << 63), -1, 0, NOW_MS * 1000, (1 << 63) - 1])


@st.composite
def partitions(draw: st.DrawFn) -> list[MemoryRecord]:
    """Records of one raw partition; transactions leave gaps in its offsets."""
    offset, records = draw(st.integers(0, 5)), []
    for value in draw(st.lists(values, min_size=1, max_size=12)):
        records.append(MemoryRecord(offset, draw(record_times), value))
        offset += draw(st.sampled_from([1, 1, 1, 3]))
    return records


def rows_of(events: Sequence[EventType], routed: Routed) -> list[Row]:
    """Every row as a dictionary that says where it goes, in a form that no other row of its frame changes."""
    rows: list[Row] = []
    by_name = {f"event:{event.event}": event for event in events}
    for to, tables in routed.tables.items():
        for table, frame in tables.items():
            assert frame["offset"].is_sorted()  # the order of the log is what dedup judges by
            assert frame.height
            for row in frame.iter_rows(named=True):
                if table in by_name:
                    for path in scales(by_name[table]):
                        rest = 0 if row[f"n.{path}.lo"] is not None else None
                        row = {f"n.{path}.hi": rest, f"n.{path}.frac": rest, **row}
                    row = dict.fromkeys(("original", "original_bytes", "original_sha256")) | row
                if table == "rejected":
                    assert 0 < len(row.pop("detail")) <= 500
                rows.append({**row, "table": table, "to": to})
    return sorted(rows, key=lambda row: (row["offset"], row["table"], row.get("event", "")))


def topic_of(events: Sequence[EventType]) -> str:
    return events[0].bucket.topic if events[0].bucket else "raw"


def route(events: Sequence[EventType], batches: Sequence[Sequence[Record]]) -> tuple[list[Row], RouteState]:
    state, rows = RouteState(), []
    router = Router(topic_of(events), events, PARTITIONS)
    for batch in batches:
        routed = router.route(state, batch, NOW_MS)
        rows += rows_of(events, routed)
        state = routed.state
    return rows, state


def as_read(events: Sequence[EventType], records: Sequence[MemoryRecord]) -> list[MemoryRecord | Unreadable]:
    """A bucket has no tombstones, and some of its bytes are no events."""
    if events[0].bucket is None:
        return list(records)
    return [
        Unreadable(record.offset, record.timestamp, b"a,b", "malformed_csv", "one cell too many")
        if record.value is None
        else record
        for record in records
    ]


setups = st.sampled_from(sorted(SETUPS)).map(SETUPS.__getitem__)


@given(setups, partitions())
def test_the_router_is_route_by_the_book(events: list[EventType], read: list[MemoryRecord]) -> None:
    records = as_read(events, read)
    naive = NaiveRouter(topic_of(events), events, PARTITIONS, NOW_MS)
    for record in records:
        naive.feed(*record)
    rows, state = route(events, [records])
    expected = sorted(naive.rows, key=lambda row: (row["offset"], row["table"], row.get("event", "")))
    assert rows == expected
    assert (state.received, state.watermarks, state.clock_ms) == (naive.received, naive.watermarks, naive.clock_ms)
    assert (state.records, state.last_offset) == (len(records), records[-1].offset)
    matching = {row["offset"] for row in rows if row["table"] != "unmatched"}
    primary = [row["offset"] for row in rows if row.get("primary") or row["table"] == "unmatched"]
    assert sorted(primary) == [record.offset for record in records]  # each record is booked once, whoever shares it
    assert sum(state.received.values()) >= len(matching)


@given(setups, partitions(), st.data())
def test_how_a_partition_is_cut_into_batches_changes_nothing(
    events: list[EventType], read: list[MemoryRecord], data: st.DataObject
) -> None:
    records = as_read(events, read)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(records) - 1)))))
    batches = [records[start:end] for start, end in zip([0, *cuts], [*cuts, len(records)], strict=True)]
    batches = [batch for batch in batches if batch]
    whole_rows, whole_state = route(events, [records])
    cut_rows, cut_state = route(events, batches)
    assert cut_rows == whole_rows
    assert cut_state == whole_state


@given(partitions(), st.permutations(SETUPS["two that share records"]))
def test_the_order_in_which_files_are_read_changes_nothing(
    records: list[MemoryRecord], events: list[EventType]
) -> None:
    assert route(events, [records]) == route(SETUPS["two that share records"], [records])


@given(partitions(), partitions())
def test_a_rows_destination_hangs_on_nothing_but_its_record(
    records: list[MemoryRecord], others: list[MemoryRecord]
) -> None:
    """Neither on its neighbours nor on the state: a repeat after a crash goes where the first attempt went."""
    shifted = [MemoryRecord(record.offset + 1_000, record.timestamp, record.value) for record in records]
    events = SETUPS["two that share records"]

    def key(row: Row) -> object:
        return (row["offset"], row["table"], row.get("event"), row["to"])

    alone, _ = route(events, [shifted])
    behind, _ = route(events, [[*others, *shifted]])
    assert list(map(key, alone)) == [key(row) for row in behind if row["offset"] >= 1_000]
    for table in ("id_hash", "payload"):
        assert [row.get(table) for row in alone] == [row.get(table) for row in behind if row["offset"] >= 1_000]


def test_columns_have_the_types_that_later_stages_count_on() -> None:
    value = b'{"id":"1","at":"2022-08-14T15:14:31Z","customer":"c","bytes":1e30,"data":{"cost":0.5}}'
    tables = Router("raw", [DOWNLOAD], 1).route(RouteState(), [MemoryRecord(0, NOW_MS, value)], NOW_MS).tables
    schema = dict(tables[0]["event:download"].schema)
    assert groups(DOWNLOAD) == ["data.region", "data.zone.name", "speed"]
    assert schema == {
        "offset": pl.Int64,
        "id": pl.String,
        "timestamp_ms": pl.Int64,
        "customer": pl.String,
        **dict.fromkeys(["t.data.region", "t.data.zone.name", "t.speed"], pl.String),
        **dict.fromkeys(["n.bytes.hi", "n.bytes.lo", "n.data.cost.lo", "n.data.cost.frac"], pl.Int64),
        "id_hash": pl.UInt128,
        "payload": pl.UInt64,
        "primary": pl.Boolean,
        "record_ms": pl.Int64,
        "clock_ms": pl.Int64,
        "future": pl.Boolean,
        "watermark_ms": pl.Int64,
        "late": pl.Boolean,
    }
