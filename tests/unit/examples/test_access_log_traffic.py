"""The demo's traffic: its books add up and are what a reading of the records, independent of its making, gives."""

import json
from collections import Counter
from typing import Any

import pytest

from examples.access_log.convert import LOG_PATH, encode, events_of_log
from examples.access_log.traffic import MALFORMED, RAW_PARTITIONS, Traffic, demo_traffic


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return demo_traffic(LOG_PATH)


@pytest.fixture(scope="module")
def originals() -> dict[str, bytes]:
    return {event["id"]: encode(event) for event in events_of_log()}


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _object(record: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(record, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _accepted(event: dict[str, Any]) -> bool:
    """Whether the rollup YAML accepts a matching event; written from its text, for the fields of these events."""
    size = event.get("bytes_downloaded", 0)
    texts = [event.get(name) for name in ("id", "customer", "download_timestamp")]
    return (
        all(isinstance(text, str) and text and "\0" not in text for text in texts)
        and str(event["download_timestamp"]).endswith("+00:00")
        and type(size) is int
        and size >= 0
    )


def test_the_books_balance_and_cover_every_record(traffic: Traffic) -> None:
    books = traffic.expected_books
    assert books == {
        "received": 10_700,
        "counted": 10_000,
        "duplicate": 500,
        "conflicting": 100,
        "late": 0,
        "invalid": 100,
        "unmatched": 50,
    }
    parts = ("counted", "duplicate", "conflicting", "late", "invalid")
    assert books["received"] == sum(books[part] for part in parts)
    assert len(traffic.records) == books["received"] + books["unmatched"]


def test_judging_the_records_one_by_one_gives_the_books(traffic: Traffic) -> None:
    """In sending order; `test_conflicting_copies…` shows that no other order of the partitions changes it."""
    verdicts: Counter[str] = Counter()
    first: dict[str, tuple[object, ...]] = {}
    for _, record in traffic.records:
        event = _object(record)
        if event is not None and event.get("event_name") != "download":
            verdicts["unmatched"] += 1
        elif event is None or not _accepted(event):
            verdicts["invalid"] += 1
        else:
            mapped = tuple(
                event.get(name) for name in ("download_timestamp", "customer", "status", "method", "bytes_downloaded")
            )
            if event["id"] not in first:
                first[event["id"]] = mapped
                verdicts["counted"] += 1
            else:
                verdicts["duplicate" if first[event["id"]] == mapped else "conflicting"] += 1
    expected = {name: count for name, count in traffic.expected_books.items() if name not in ("received", "late")}
    assert verdicts == expected


def test_conflicting_copies_come_after_their_original_on_its_partition(
    traffic: Traffic, originals: dict[str, bytes]
) -> None:
    first_place = {record: place for place, record in reversed(list(enumerate(traffic.records)))}
    conflicting = 0
    for place, (partition, record) in enumerate(traffic.records):
        event = _object(record)
        if event is None or str(event.get("id")) not in originals or record == originals[event["id"]]:
            continue
        conflicting += 1
        assert first_place[partition, originals[event["id"]]] < place
        original = json.loads(originals[event["id"]])
        differing = {name for name in event if event[name] != original.get(name)}
        assert differing == {"bytes_downloaded"}
    assert conflicting == traffic.expected_books["conflicting"]


def test_every_event_of_the_log_is_sent_as_it_is(traffic: Traffic, originals: dict[str, bytes]) -> None:
    sent = Counter(record for _, record in traffic.records)
    copies = [sent[record] for record in originals.values()]
    assert min(copies) == 1
    assert sum(copies) == traffic.expected_books["counted"] + traffic.expected_books["duplicate"]


def test_duplicates_also_cross_partitions(traffic: Traffic, originals: dict[str, bytes]) -> None:
    real = set(originals.values())
    partitions_of: dict[bytes, set[int]] = {}
    for partition, record in traffic.records:
        if record in real:
            partitions_of.setdefault(record, set()).add(partition)
    assert any(len(partitions) > 1 for partitions in partitions_of.values())


def test_faults_are_spread_over_the_whole_stream_and_all_partitions(
    traffic: Traffic, originals: dict[str, bytes]
) -> None:
    real = set(originals.values())
    places = [place for place, (_, record) in enumerate(traffic.records) if record not in real]
    tenths = {place * 10 // len(traffic.records) for place in places}
    assert tenths == set(range(10))
    assert {traffic.records[place][0] for place in places} == set(range(RAW_PARTITIONS))
    per_partition = Counter(partition for partition, _ in traffic.records)
    assert all(2_400 < per_partition[partition] < 2_950 for partition in range(RAW_PARTITIONS))


@pytest.mark.parametrize("sort", MALFORMED)
def test_every_malformed_sort_is_refused_by_a_plain_reading_and_is_one_line(sort: str) -> None:
    well_formed = {**next(events_of_log()), "id": "4b1e8c1e-1f43-4f0e-9c3b-0d1a52b6d7aa", "bytes_downloaded": 5}
    assert _accepted(well_formed)
    record = MALFORMED[sort](dict(well_formed))
    event = _object(record)
    assert event is None or (event["event_name"] == "download" and not _accepted(event))
    assert b"\n" not in record


def test_each_malformed_sort_is_in_the_traffic(traffic: Traffic) -> None:
    records = [record for _, record in traffic.records]
    events = [event for event in map(_object, records) if event is not None and event.get("event_name") == "download"]
    undecodable = [record for record in records if _object(record) is None]
    assert any(record.endswith(b":NaN}") for record in undecodable)
    assert any(record[:1] == b"\xfb" for record in undecodable)
    assert any(b"[[[[" in record for record in records)
    assert any("id" not in event for event in events)
    assert any(event.get("id") == "" for event in events)
    assert any(isinstance(event.get("bytes_downloaded"), str) for event in events)
    assert any(type(size) is int and size < 0 for size in (event.get("bytes_downloaded") for event in events))
    assert any(event.get("download_timestamp") == "2015-05-17T10:05:03" for event in events)


def test_a_seed_repeats_itself_and_another_differs(traffic: Traffic) -> None:
    assert demo_traffic(LOG_PATH, seed=7).records == traffic.records
    other = demo_traffic(LOG_PATH, seed=8)
    assert other.records != traffic.records
    assert other.expected_books == traffic.expected_books
