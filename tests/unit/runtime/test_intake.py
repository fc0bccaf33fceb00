"""Taking events with a Kafka that is slow, away, or fails for good: what is answered, what is held, what is renewed."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
)

from rollup_engine.errors import BrokerUnavailable, IntakeUnavailable
from rollup_engine.intake.door import Door, Judged, Request, Submitted
from rollup_engine.runtime import intake as intake_module
from rollup_engine.runtime import intake_connection
from rollup_engine.runtime.intake_producer import batches, fits
from tests.unit.route.specs import event
from tests.unit.runtime.fake_producer import Kafka

MB = 1 << 20


def submitted(key: str = "1", **changes: object) -> Submitted:
    return Submitted(event(id=key, **changes), "download", key)


async def test_it_returns_once_all_is_acknowledged() -> None:
    kafka = Kafka()
    intake = kafka.intake(ingest_timeout_s=5)
    assert (await intake.take([])).accepted == []
    assert kafka.tries == 0, "nothing to send, nothing to connect for"
    await intake.take([submitted()])
    (producer,) = kafka.made
    producer.answers = lambda future: None
    taking = asyncio.create_task(intake.take([submitted("2"), Submitted(b"", "download", "3"), submitted("4")]))
    while len(producer.sent) < 2:
        await asyncio.sleep(0)
    values, future = producer.sent[1]
    assert [json.loads(value)["id"] for value in values] == ["2", "4"]
    await asyncio.sleep(0.05)
    assert not taking.done()
    future.set_result(None)
    judged = await taking
    assert [one.key for one in judged.accepted] == ["2", "4"]
    assert [one.key for one, _ in judged.refused] == ["3"]
    await intake.close()
    assert producer.closed


async def test_what_comes_at_once_goes_together() -> None:
    kafka = Kafka()
    intake = kafka.intake(ingest_timeout_s=5)
    calls = [intake.take([submitted(f"{call}.{n}") for n in range(3)], "c" if call else "d") for call in range(40)]
    judged = await asyncio.gather(*calls)
    assert [len(one.accepted) for one in judged] == [0] + [3] * 39, "each by its own key's customer"
    ((values, _),) = kafka.made[0].sent
    assert len(values) == 39 * 3


async def test_what_is_judged_at_a_time_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "GROUP_EVENTS", 4)
    kafka = Kafka()
    intake = kafka.intake(ingest_timeout_s=5)
    await intake.take([submitted("before")])  # whoever comes just as it has connected may overtake those that waited
    judged = await asyncio.gather(*(intake.take([submitted(str(n))]) for n in range(9)))
    assert [one.accepted[0].key for one in judged] == [str(n) for n in range(9)]
    assert [len(values) for values, _ in kafka.made[0].sent[1:]] == [4, 4, 1]


async def test_no_acknowledgement_in_time() -> None:
    """Refused in time, and held until the answer comes; there is a limit to what is held."""
    kafka = Kafka()
    intake = kafka.intake(ingest_held_mb=16)
    await intake.take([submitted("0")])
    (producer,) = kafka.made
    producer.answers = lambda future: None
    large = [submitted(str(n), more="x" * 900_000) for n in range(10)]
    with pytest.raises(IntakeUnavailable, match=r"within 0\.1 s"):
        await intake.take(large)
    assert 9 * MB > producer.left_behind.total() > 8 * MB
    with pytest.raises(IntakeUnavailable, match="Too many events wait"):
        await intake.take(large)
    assert len(producer.sent) == 2, "of what is refused at once nothing is sent"
    producer.sent[1][1].set_result(None)
    await asyncio.sleep(0)
    assert producer.left_behind.total() == 0
    producer.answers = lambda future: future.set_result(None)
    await intake.take(large)
    assert len(kafka.made) == 1


async def test_waiting_requests_are_held_as_well() -> None:
    kafka = Kafka()
    intake = kafka.intake(ingest_held_mb=16)
    kafka.gate.clear()
    large = [submitted(str(n), more="x" * 900_000) for n in range(10)]
    first = asyncio.create_task(intake.take(large))
    await asyncio.sleep(0.02)
    with pytest.raises(IntakeUnavailable, match="Too many"):
        await intake.take(large)
    kafka.gate.set()
    assert len((await first).accepted) == 10
    await intake.take(large)


async def test_kafka_away_from_the_start_and_back() -> None:
    kafka = Kafka()
    intake = kafka.intake()
    kafka.away = BrokerUnavailable("nobody there")
    for _ in range(5):
        with pytest.raises(BrokerUnavailable):
            await intake.take([submitted()])
    assert kafka.tries == 1, "not asked by every request"
    kafka.away = None
    intake._connection._failed = None  # a second later
    await intake.take([submitted()])
    assert kafka.tries == 2


async def test_connecting_takes_longer_than_a_request_has() -> None:
    kafka = Kafka()
    intake = kafka.intake()
    kafka.gate.clear()
    for _ in range(2):
        with pytest.raises(IntakeUnavailable, match="does not answer"):
            await intake.take([submitted()])
    kafka.gate.set()
    await intake.take([submitted()])
    assert kafka.tries == 1, "the first attempt went on"


@pytest.mark.parametrize(
    ("error", "renewed"),
    [
        (OutOfOrderSequenceNumber(), True),
        (ProducerClosed(), True),
        (KafkaError("Unexpected error during batch delivery"), True),
        (NotLeaderForPartitionError(), False),
    ],
)
async def test_a_producer_that_failed_for_good_is_renewed(error: Exception, renewed: bool) -> None:
    kafka = Kafka()
    intake = kafka.intake()
    await intake.take([submitted()])
    (first,) = kafka.made
    first.answers = lambda future: future.set_exception(error)
    with pytest.raises(IntakeUnavailable, match="did not take"):
        await intake.take([submitted()])
    first.answers = lambda future: future.set_result(None)
    await intake.take([submitted()])
    assert (len(kafka.made), first.closed) == ((2, True) if renewed else (1, False))


async def test_a_kafka_that_moved_is_found_again() -> None:
    kafka = Kafka()
    intake = kafka.intake()
    await intake.take([submitted()])
    kafka.made[0].answers = lambda future: None
    kafka.address = "two:9092"
    with pytest.raises(IntakeUnavailable):
        await intake.take([submitted()])
    await intake.take([submitted()])
    assert [(one.address, one.closed) for one in kafka.made] == [("one:9092", True), ("two:9092", False)]


async def test_a_long_silence_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """And with it what it holds: the brokers may have other addresses by now."""
    kafka = Kafka()
    intake = kafka.intake()
    await intake.take([submitted()])
    kafka.made[0].answers = lambda future: None
    monkeypatch.setattr(intake_connection, "SILENCE_SECONDS_MAX", 0.1)
    with pytest.raises(IntakeUnavailable):
        await intake.take([submitted()])
    assert not kafka.made[0].closed
    async with asyncio.timeout(5):
        while not kafka.made[0].closed:
            await asyncio.sleep(0.01)
    await intake.take([submitted()])
    assert [one.closed for one in kafka.made] == [True, False]


async def test_what_a_closing_connection_holds_counts_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = Kafka()
    intake = kafka.intake(ingest_held_mb=16)
    await intake.take([submitted()])
    (producer,), ends = kafka.made, asyncio.Event()
    producer.answers, producer.close = lambda future: None, ends.wait  # type: ignore[method-assign,assignment]
    monkeypatch.setattr(intake_connection, "SILENCE_SECONDS_MAX", 0.0)
    large = [submitted(str(n), more="x" * 900_000) for n in range(10)]
    with pytest.raises(IntakeUnavailable, match="did not acknowledge"):
        await intake.take(large)
    await asyncio.sleep(0.01)
    with pytest.raises(IntakeUnavailable, match="Too many"):
        await intake.take(large)
    ends.set()
    await asyncio.sleep(0.01)
    await intake.take(large)
    assert len(kafka.made) == 2


async def test_a_full_house_looks_whether_kafka_moved() -> None:
    """Otherwise nobody would: nothing is sent any more that could time out."""
    kafka = Kafka()
    intake = kafka.intake(ingest_held_mb=16)
    await intake.take([submitted()])
    kafka.made[0].answers = lambda future: None
    large = [submitted(str(n), more="x" * 900_000) for n in range(10)]
    with pytest.raises(IntakeUnavailable, match="did not acknowledge"):
        await intake.take(large)
    kafka.address = "two:9092"
    with pytest.raises(IntakeUnavailable, match="Too many"):
        await intake.take(large)
    await asyncio.sleep(0.01)
    await intake.take(large)
    assert [one.address for one in kafka.made] == ["one:9092", "two:9092"]


async def test_a_topic_that_refuses_does_not_renew_the_connection_every_time() -> None:
    kafka = Kafka()
    intake = kafka.intake()
    await intake.take([submitted()])
    kafka.made[0].answers = lambda future: future.set_exception(MessageSizeTooLargeError())
    for words in ("did not take the events", "a moment ago", "a moment ago"):
        with pytest.raises(IntakeUnavailable, match=words):
            await intake.take([submitted()])
    assert [one.closed for one in kafka.made] == [True, False]


async def test_a_topic_of_small_batches() -> None:
    kafka = Kafka()
    intake = kafka.intake()
    await intake.take([submitted()])
    kafka.made[0].batch_bytes["raw"] = 1_000
    judged = await intake.take([submitted("1"), submitted("2", more="x" * 1_000)])
    assert [one.key for one in judged.accepted] == ["1"]
    assert "its topic takes 1,000" in judged.errors[1][0]
    assert len(kafka.made[0].sent[-1][0]) == 1


async def test_a_large_call_is_judged_beside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "GROUP_BYTES", 10_000)
    kafka, judge, calls = Kafka(), Door.judge, []

    def judged(door: Door, requests: list[Request], now_ms: int) -> list[Judged]:
        calls.append((len(requests), threading.current_thread() is threading.main_thread()))
        return judge(door, requests, now_ms)

    monkeypatch.setattr(Door, "judge", judged)
    intake = kafka.intake(ingest_timeout_s=5)
    sizes = (6_000, 3_000, 6_000, 20_000, 100)
    await asyncio.gather(*(intake.take([submitted(str(n), more="x" * n)]) for n in sizes))
    assert sorted(calls) == [(1, False), (1, True), (1, True), (2, True)], "groups are closed by bytes as well"


async def test_a_request_that_is_given_up_harms_no_other() -> None:
    kafka = Kafka()
    intake = kafka.intake(ingest_timeout_s=5)
    one, two = (asyncio.create_task(intake.take([submitted(key)])) for key in "12")
    await asyncio.sleep(0)
    one.cancel()
    assert len((await two).accepted) == 1
    assert intake._bytes == 0


def test_batches_hold_all_records_in_order_and_are_few() -> None:
    records = [b"x" * size for size in (10, 500, 0, 900, 40, 3_000, 1)]
    made = list(batches(records, 1_000))
    assert [record for batch, _ in made for record in batch] == records
    assert [len(batch) for batch, _ in made] == [3, 1, 1, 1, 1]
    assert all(size <= 1_000 or len(batch) == 1 for batch, size in made)
    assert [fits(record, 1_000) for record in records] == [True, True, True, False, True, False, True]
