"""What ingestion remembers for when Postgres is away."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from rollup_engine.api import outage
from rollup_engine.api.outage import KnownKeys, Outage
from rollup_engine.runtime.api_keys import ApiKey

KEY = ApiKey("0123456789ab", "name", frozenset({"ingest"}), None, datetime(2024, 1, 1, tzinfo=UTC))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its one element is the time."""
    now = [1_000.0]
    monkeypatch.setattr(outage.time, "monotonic", lambda: now[0])
    return now


def test_a_key_is_known_for_a_while(clock: list[float]) -> None:
    keys = KnownKeys()
    keys.put("a", KEY)
    clock[0] += outage.KEY_SECONDS_MAX - 1
    assert keys.get("a") is KEY
    assert keys.get("b") is None
    clock[0] += 1
    assert keys.get("a") is None


def test_a_key_that_is_no_longer_good_is_not_known(clock: list[float]) -> None:
    keys = KnownKeys()
    keys.put("a", KEY)
    keys.put("a", None)
    assert keys.get("a") is None


def test_how_many_are_known_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "KEYS_MAX", 2)
    keys = KnownKeys()
    for text in "abac":
        keys.put(text, KEY)
    assert [keys.get(text) is KEY for text in "abc"] == [True, False, True]


def test_one_at_a_time_finds_out_whether_it_is_over(clock: list[float]) -> None:
    now = Outage()
    assert not now.known()
    now.began()
    assert now.known()
    clock[0] += outage.PROBE_SECONDS
    assert [now.known() for _ in range(3)] == [False, True, True]
    now.over()
    assert not now.known()
