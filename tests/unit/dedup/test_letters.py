"""A person reads a dead letter: what was refused, why, by how much, and the original."""

import hashlib
import json

from rollup_engine.config.model import Aggregate, Config, EventType, GroupColumn, Rollup, Timestamp
from rollup_engine.dedup.deduplicator import DedupState, deduplicate
from rollup_engine.dedup.memory import MemoryIds
from rollup_engine.exchange import Marks
from rollup_engine.packing import KEYS, REST, Packed, pack, unpack
from rollup_engine.route.router import Router
from rollup_engine.route.state import RouteState
from rollup_engine.runtime.memory import MemoryRecord

HOUR_MS = 3_600_000
NOW_MS = 1_700_000_000_000  # 2023-11-14T22:13:20Z
EVENT = EventType(
    event="usage",
    kafka_topics=("raw",),
    id_paths=("id",),
    timestamp=Timestamp(path="at", unit="ms"),
    customer_path="customer",
    rollups=(
        Rollup(
            name="usage",
            table="usage",
            group_by=(GroupColumn(path="region", column="region"),),
            aggregates=(Aggregate(kind="sum", path="size", column="sum_size"),),
            window_ms=600_000,
            emit_every_ms=1000,
        ),
    ),
    grace_ms=12 * HOUR_MS,
    horizon_ms=24 * HOUR_MS,
    max_future_ms=300_000,
)


def letters(*events: bytes, of: EventType = EVENT) -> list[dict[str, object]]:
    records = [MemoryRecord(offset, NOW_MS, value) for offset, value in enumerate(events)]
    routed = Router("raw", [of], 1).route(RouteState(), records, NOW_MS)
    packed = Packed("life", 1, "raw/0", 0, len(events), routed.state.clock_ms, routed.tables[0])
    outcome = deduplicate(DedupState(), Marks({"raw/0": 0}), [(0, packed)], Config(events=(of,)), MemoryIds().get)
    frame = outcome.writes.dead_letters
    return [] if frame is None else frame.sort("source_offset").to_dicts()


def test_the_text_of_an_id_is_read_only_for_its_letter() -> None:
    """What the stage reads of a record is without it; each record's own is found again."""
    state, marks, store = DedupState(), Marks({"raw/0": 0, "raw/1": 0}), MemoryIds()
    records = []
    for offset, (source, events) in enumerate(
        [
            ("raw/0", [usage("a", NOW_MS), usage("b", NOW_MS)]),
            ("raw/1", [usage("c", NOW_MS), usage("b", NOW_MS, "2"), usage("a", NOW_MS, "2")]),
        ]
    ):
        raw = [MemoryRecord(place, NOW_MS, value) for place, value in enumerate(events)]
        routed = Router("raw", [EVENT], 1).route(RouteState(), raw, NOW_MS)
        (value,) = pack(Packed("life", 1, source, 0, len(events), routed.state.clock_ms, routed.tables[0]))
        records.append((offset, unpack(value, (KEYS, REST))))
        assert "id" not in records[-1][1].tables["event:usage"].columns
    outcome = deduplicate(state, marks, records, Config(events=(EVENT,)), store.get)
    assert outcome.writes.dead_letters is not None
    found = outcome.writes.dead_letters.sort("source_offset").select("source", "source_offset", "event_id").rows()
    assert found == [("raw/1", 1, "b"), ("raw/1", 2, "a")]


def usage(ident: str, at_ms: int, size: str = "1", region: str = "eu") -> bytes:
    return f'{{"id":"{ident}","at":{at_ms},"customer":"c","size":{size},"region":"{region}"}}'.encode()


def test_a_late_event_says_how_late() -> None:
    late = usage("b", NOW_MS - 14 * HOUR_MS)
    (letter,) = letters(usage("a", NOW_MS), late)
    assert (letter["outcome"], letter["reason"], letter["source"], letter["source_offset"]) == (
        "late",
        "late",
        "raw/0",
        1,
    )
    assert letter["detail"] == (
        "its time 2023-11-14T08:13:20.000Z is 14h behind the latest event of its raw partition"
        " (2023-11-14T22:13:20.000Z); grace_period allows 12h"
    )
    assert letter["original"] == late
    assert letter["original_bytes"] == len(late)
    assert letter["original_sha256"] == hashlib.sha256(late).hexdigest()


def test_a_future_event_is_invalid_and_does_not_move_the_watermark() -> None:
    (letter,) = letters(usage("a", NOW_MS + 10 * 365 * 24 * HOUR_MS), usage("b", NOW_MS))
    assert (letter["outcome"], letter["reason"]) == ("invalid", "future_timestamp")
    assert "is more than 5m (max_future) ahead of when it was recorded (2023-11-14T22:13:20.000Z)" in str(
        letter["detail"]
    )


def test_a_conflict_names_the_id_and_keeps_the_mapped_values() -> None:
    (letter,) = letters(usage("a", NOW_MS, "1.50"), usage("a", NOW_MS, "2.50", "us"))
    assert (letter["outcome"], letter["reason"], letter["event_id"]) == ("conflicting", "conflict", "a")
    assert letter["detail"] == "the id 'a' was seen before with other values; the first copy counts"
    assert json.loads(str(letter["mapped"])) == {
        "id": "a",
        "at": "2023-11-14T22:13:20.000Z",
        "customer": "c",
        "region": "us",
        "size": "2.5",
    }


def test_a_conflict_of_an_id_of_several_parts_names_and_maps_each() -> None:
    parts = EVENT.model_copy(update={"id_paths": ("region", "id")})
    (letter,) = letters(usage("3:a:", NOW_MS), usage("3:a:", NOW_MS, "2"), usage("3:a:", NOW_MS, "3", "us"), of=parts)
    assert (letter["reason"], letter["event_id"], letter["source_offset"]) == ("conflict", "2:eu:3:a:", 1)
    assert letter["detail"] == "the id 'eu', '3:a:' was seen before with other values; the first copy counts"
    mapped = json.loads(str(letter["mapped"]))
    assert (mapped["region"], mapped["id"], mapped["size"]) == ("eu", "3:a:", "2")


def test_a_rejected_record_keeps_its_bytes_and_reason() -> None:
    (letter,) = letters(b'{"id": "a", "at": ', usage("b", NOW_MS))
    assert (letter["outcome"], letter["reason"], letter["original"]) == (
        "invalid",
        "malformed_json",
        b'{"id": "a", "at": ',
    )


def test_counted_and_duplicate_events_leave_none() -> None:
    assert letters(usage("a", NOW_MS), usage("a", NOW_MS)) == []
