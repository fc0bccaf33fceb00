"""Payload hashes, watermarks, late and future events, the clock, and the state after a batch."""

from __future__ import annotations

import zlib

from rollup_engine.route.state import NO_WATERMARK_MS
from tests.unit.route.specs import HOUR_MS, MINUTE_MS, NOW_MS, event, event_type, route


def payload(value: bytes, *neighbours: bytes) -> int:
    tables, _ = route([value, *neighbours])
    return int(tables["event:download"][0]["payload"])


def test_the_payload_hash_tells_mapped_values_apart_and_nothing_else() -> None:
    same = [event(), event(extra=1), event(id="2"), event(bytes=b"3256.0"), event(bytes=b"32.56e2"), event(data=None)]
    same.append(event(at="2022-08-14T17:14:31.1329+02:00"))
    assert len({payload(value) for value in same}) == 1
    other = [
        event(at="2022-08-14T15:14:31.133Z"),
        event(customer="d"),
        event(speed="slow"),
        event(speed=None),
        event(speed=""),
        event(speed="null"),
        event(data={"region": "fast"}, speed=None),
        event(bytes=3257),
        event(bytes=b"3256.1"),
        event(bytes=3256 + 10**18),
        event(bytes=None),
        event(bytes=0),
    ]
    assert len({payload(value) for value in [event(), *other]}) == len(other) + 1


def test_the_payload_hash_hangs_on_no_other_row_of_the_batch() -> None:
    neighbours = [
        event(bytes=10**30),
        event(bytes=b"0.5"),
        event(bytes=b"-0.5"),
        event(bytes=None),
        event(speed=1.5),
        b"",
    ]
    for value in (event(), event(bytes=0), event(bytes=None), event(bytes=-0.0), event(speed=...)):
        alone = payload(value)
        for neighbour in neighbours:
            assert payload(value, neighbour) == alone
        assert payload(value, *neighbours) == alone


TIMED = event_type(at="at", unit="s", grace_ms=10 * MINUTE_MS)


def test_the_watermark_is_the_largest_time_so_far_and_late_is_more_than_the_grace_behind_it() -> None:
    seconds = [NOW_MS // 1000 + delta for delta in (-3600, -3000, -3600, -3601, -2999, -3599, -3600, 0)]
    tables, state = route([event(at=at) for at in seconds], TIMED)
    rows = tables["event:download"]
    assert [row["watermark_ms"] // 1000 - NOW_MS // 1000 for row in rows] == [
        *(-3600, -3000, -3000, -3000),
        *(-2999, -2999, -2999, 0),
    ]
    assert [row["late"] for row in rows] == [False, False, False, True, False, False, True, False]
    assert [row["original"] is not None for row in rows] == [row["late"] for row in rows]
    assert rows[3]["original"] == event(at=seconds[3])
    assert state.watermarks == {"download": seconds[-1] * 1000}
    later, state = route([event(at=seconds[0])], TIMED, state=state)
    assert later["event:download"][0]["late"]
    assert state.watermarks == {"download": seconds[-1] * 1000}


def test_without_grace_whatever_is_behind_is_late() -> None:
    tables, _ = route([event(at=10), event(at=10), event(at=9)], TIMED.model_copy(update={"grace_ms": 0}))
    assert [row["late"] for row in tables["event:download"]] == [False, False, True]


def test_with_unlimited_grace_nothing_is_late() -> None:
    tables, _ = route([event(at=10**9), event(at=0)], TIMED.model_copy(update={"grace_ms": None}))
    assert [row["late"] for row in tables["event:download"]] == [False, False]


def test_a_future_event_moves_no_watermark_and_keeps_its_bytes() -> None:
    at = NOW_MS // 1000
    values = [event(at=at - 60), event(at=at + 3_000), event(at=at + 300.132), event(at=at + 300.133), event(at=at)]
    tables, state = route(values, TIMED)
    rows = tables["event:download"]
    assert [row["future"] for row in rows] == [False, True, False, True, False]
    assert [row["watermark_ms"] - NOW_MS for row in rows] == [-60_132, -60_132, 300_000, 300_000, 300_000]
    assert [row["original"] for row in rows] == [None, values[1], None, values[3], None]
    assert state.watermarks == {"download": NOW_MS + 300_000}
    only, state = route([values[1]], TIMED)
    assert not only["event:download"][0]["late"]
    assert state.watermarks == {"download": NO_WATERMARK_MS}


def test_future_is_measured_against_the_earlier_of_record_time_and_now() -> None:
    at = NOW_MS // 1000
    values = [event(at=at - 3_000)] * 2 + [event(at=at + 1_000)] * 2
    times_ms = [NOW_MS - HOUR_MS, NOW_MS, NOW_MS, NOW_MS + HOUR_MS]
    tables, _ = route(values, TIMED, times_ms=times_ms)
    assert [row["future"] for row in tables["event:download"]] == [True, False, True, True]


def test_watermarks_are_kept_per_event_type_and_by_good_rows_only() -> None:
    at = NOW_MS // 1000
    a = event_type("a", match={"kind": "a"}, unit="s")
    b = event_type("b", match={"kind": "b"}, unit="s")
    values = [event(at=at - 100, kind="a"), event(at=at, kind="b"), event(at=at - 50, kind="a", id="")]
    _, state = route([*values, event(at=at - 10, kind="c")], a, b)
    assert state.watermarks == {"a": (at - 100) * 1000, "b": at * 1000}


def test_the_clock_is_the_running_maximum_of_record_times() -> None:
    """Whatever ours says: a worker whose clock is behind must not make ids age in leaps once it is set right."""
    times_ms = [NOW_MS - 500, NOW_MS - 900, NOW_MS - 400, NOW_MS + 900, -1, NOW_MS - 100]
    tables, state = route([event()] * 6, times_ms=times_ms)
    rows = tables["event:download"]
    assert [row["clock_ms"] - NOW_MS for row in rows] == [-500, -500, -400, 900, 900, 900]
    assert [row["record_ms"] for row in rows] == times_ms
    assert state.clock_ms == NOW_MS + 900
    later, state = route([event()], times_ms=[NOW_MS - 300], state=state)
    assert later["event:download"][0]["clock_ms"] == state.clock_ms == NOW_MS + 900


def test_a_record_of_the_far_future_makes_the_clock_run_ahead_two_hours_at_most() -> None:
    _, state = route([event()] * 2, times_ms=[NOW_MS + 10 * 365 * 86_400_000, NOW_MS])
    assert state.clock_ms == NOW_MS + 2 * 3_600_000


def test_the_clock_moves_with_records_that_are_rejected_or_unmatched_too() -> None:
    only = event_type(match={"kind": "a"})
    times_ms = [NOW_MS - 300, NOW_MS - 200, NOW_MS - 250]
    tables, state = route([b"", event(), event(kind="a")], only, times_ms=times_ms)
    assert tables["event:download"][0]["clock_ms"] == NOW_MS - 200
    assert state.clock_ms == NOW_MS - 200


def test_the_state_counts_records_and_knows_the_last_one() -> None:
    values = [event(), None]
    _, state = route(values, first_offset=5)
    assert (state.records, state.last_offset, state.last_crc) == (2, 6, 0)
    _, state = route([event(id="9")], first_offset=9, state=state)
    assert (state.records, state.last_offset, state.last_crc) == (3, 9, zlib.crc32(event(id="9")))
    assert state.received == {"download": 3}
