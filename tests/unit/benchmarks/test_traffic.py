"""The benchmarks' events and what they are said to come to: by a plain recount of the file."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from benchmarks import traffic
from benchmarks.recount import EQUAL, compared
from benchmarks.traffic import Totals, Traffic

EVENTS = 5_000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "CACHE", tmp_path)
    monkeypatch.setattr(traffic, "_CHUNK", 2_000)  # several chunks


def recounted(lines: list[bytes]) -> tuple[Totals, int]:
    """Totals of every id once, and how many lines repeat one."""
    seen: set[str] = set()
    totals: Totals = {}
    for line in lines:
        event = json.loads(line)
        if event["id"] not in seen:
            seen.add(event["id"])
            at_ms = int(datetime.fromisoformat(event["at"]).timestamp() * 1_000)
            key = at_ms // 600_000 * 600_000, event["customer"], event["speed"]
            count, size = totals.get(key, (0, 0))
            totals[key] = count + 1, size + event["bytes"]
    return totals, len(lines) - len(seen)


@pytest.mark.parametrize("first", [None, 1_000, 2_000, 3_777])
def test_totals_are_those_of_a_recount(first: int | None) -> None:
    events = Traffic(EVENTS)
    totals, repeats = recounted(list(events.values())[: first or EVENTS])
    assert events.totals(first) == totals
    assert 0.01 < repeats / (first or EVENTS) < 0.03


def test_the_same_events_every_time_and_others_by_another_seed() -> None:
    again = list(Traffic(EVENTS).values())
    Traffic(EVENTS).file.unlink()
    assert list(Traffic(EVENTS).values()) == again
    assert not set(again) & set(Traffic(EVENTS, seed=2).values())


def test_customers_and_speeds_bound_the_groups() -> None:
    events = Traffic(EVENTS, customers=10, speeds=1, span_ms=traffic.WINDOW_MS)
    assert len(events.totals()) == 10


def test_a_difference_is_told() -> None:
    right = Traffic(EVENTS).totals()
    key, (count, size) = next(iter(right.items()))
    assert compared(right, right) == EQUAL
    assert compared(right | {key: (count, size + 1)}, right).startswith("wrong: 1 of")
    assert compared({k: v for k, v in right.items() if k != key}, right).startswith("wrong: 1 of")
    assert compared(right | {(0, "nobody", "fast"): (1, 1)}, right).startswith("wrong: 1 of")
