"""What of aiokafka's complaints reaches the log."""

import logging
import time
from collections.abc import Callable

import pytest

from rollup_engine.runtime.kafka_clients import _Sparse

NO_COORDINATOR = "Group Coordinator Request failed: %s"
LOGGER = "aiokafka.consumer.group_coordinator"


@pytest.fixture
def said_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], bool]:
    """Whether a complaint that comes so many seconds after the start gets through."""
    sparse, now = _Sparse(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def said(message: str, seconds: float) -> bool:
        now[0] = seconds
        return bool(sparse.filter(logging.LogRecord(LOGGER, logging.ERROR, __file__, 1, message, ("why",), None)))

    return said


def test_the_same_complaint_is_told_once_in_a_while(said_at: Callable[[str, float], bool]) -> None:
    told = [second for second in range(100) if said_at("Kafka is away: %s", second)]
    assert told == [0, 30, 60, 90]


def test_another_complaint_is_told_at_once(said_at: Callable[[str, float], bool]) -> None:
    assert said_at("Kafka is away: %s", 0.0)
    assert said_at("Kafka is odd: %s", 0.1)


def test_a_new_cluster_may_take_a_moment_to_name_the_groups_coordinator(said_at: Callable[[str, float], bool]) -> None:
    assert not any(said_at(NO_COORDINATOR, tenths / 10) for tenths in range(99))


def test_one_without_a_coordinator_for_long_is_told_of(said_at: Callable[[str, float], bool]) -> None:
    told = [tenths / 10 for tenths in range(1_000) if said_at(NO_COORDINATOR, tenths / 10)]
    assert told == [10, 40, 70]


def test_each_time_without_a_coordinator_counts_anew(said_at: Callable[[str, float], bool]) -> None:
    assert not said_at(NO_COORDINATOR, 0.0)
    assert not said_at(NO_COORDINATOR, 3_600.0)
    assert said_at(NO_COORDINATOR, 3_605.0) is False
    assert said_at(NO_COORDINATOR, 3_611.0) is True
