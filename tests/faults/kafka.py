"""Rows in which Kafka loses or changes what it held, or goes away under load."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from functools import partial

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError

from tests.acceptance.cli import until
from tests.faults.harness import PARTITIONS, Bed, Outcome, fault
from tests.faults.harness_recount import Raw, Recount, read_topic
from tests.faults.harness_worker import Worker

STAGES = ("route", "dedup", "rollup")
BEYOND = 10**9
PATIENCE_SECONDS = 60
STAMPED_MS = 1_660_492_800_000  # the end of the hour in which the events took place
POLL_SECONDS = 0.2
AWAY_SECONDS = 5.0
HOLE_SECONDS = 120.0  # a hole is an alarm after a minute


def events_topic(bed: Bed) -> str:
    return f"{bed.app_id}.events"


def deltas_topic(bed: Bed) -> str:
    return f"{bed.app_id}.deltas.file_download"


# the group's offsets


@fault("Kafka's group offsets deleted")
def offsets_deleted(bed: Bed) -> Outcome:
    return _with_other_offsets(bed, lambda: bed.kafka.delete_groups([f"{bed.app_id}.{stage}" for stage in STAGES]))


@fault("Kafka's group offsets set beyond the end", ci=True)
def offsets_beyond_the_end(bed: Bed) -> Outcome:
    return _with_other_offsets(bed, lambda: asyncio.run(_commit_beyond(bed)))


def _with_other_offsets(bed: Bed, change: Callable[[], object]) -> Outcome:
    events = bed.traffic()
    half = len(events) // 2
    workers = bed.start("route", "work")
    load = bed.load(events=events[:half])
    bed.until_booked(half // 2)
    load.done()
    for worker in workers:
        worker.kill()  # with work under way on each stage
    change()
    for worker in workers:
        bed.restart(worker, wait=False)
    bed.recovering()
    bed.load(events=events[half:])
    return bed.check()


async def _commit_beyond(bed: Bed) -> None:
    for stage, topic in zip(STAGES, (bed.topic, events_topic(bed), deltas_topic(bed)), strict=True):
        ones = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            consumer = AIOKafkaConsumer(
                bootstrap_servers=bed.kafka.servers, group_id=f"{bed.app_id}.{stage}", enable_auto_commit=False
            )
            await consumer.start()
            try:
                consumer.assign(ones)
                await consumer.commit(dict.fromkeys(ones, BEYOND))
                break
            except CommitFailedError:  # until Kafka has given up the members that died
                assert time.monotonic() < deadline
                await asyncio.sleep(POLL_SECONDS)
            finally:
                await consumer.stop()


# topics deleted, made again, changed


@fault("internal topic deleted and recreated while the engine is down, fewer records than the position", ci=True)
def events_topic_recreated_down(bed: Bed) -> Outcome:
    workers, expected = _half_done(bed)
    bed.stop()
    bed.kafka.recreate(events_topic(bed), PARTITIONS, retention_ms="-1")
    _, work = [bed.restart(worker) for worker in workers]
    bed.recovering()
    bed.load(seed=2)
    return _halted(bed, work, expected, "events", "ROLLUP_APP_ID")


@fault("internal topic recreated while the engine is down, more records than the position")
def events_topic_overtaken(bed: Bed) -> Outcome:
    """Route fills it past dedup's position, under the incarnation that the database knows: the rest is a hole."""
    workers, expected = _half_done(bed)
    bed.stop()
    longest = max(row["next_offset"] for row in _positions(bed, "dedup"))
    bed.kafka.recreate(events_topic(bed), PARTITIONS, retention_ms="-1")
    route = bed.restart(workers[0])
    load = bed.load(seed=2, over=30)
    until("it is longer than before", lambda: bed.kafka.end(events_topic(bed)) > longest, 300)
    load.stop()
    work = bed.restart(workers[1])
    bed.recovering()
    assert route.running
    return _halted(bed, work, expected, "events", "ROLLUP_APP_ID", seconds=HOLE_SECONDS)


@fault("internal topic deleted and recreated while the engine runs")
def events_topic_recreated_live(bed: Bed) -> Outcome:
    (_, work), expected = _half_done(bed)
    bed.kafka.recreate(events_topic(bed), PARTITIONS, retention_ms="-1")
    bed.recovering()
    bed.load(seed=2)
    return _halted(bed, work, expected, "events", "ROLLUP_APP_ID", seconds=HOLE_SECONDS)


@fault("deltas topic deleted and recreated while the engine is down")
def deltas_topic_recreated_down(bed: Bed) -> Outcome:
    workers, expected = _half_done(bed)
    bed.stop()
    bed.kafka.recreate(deltas_topic(bed), PARTITIONS, retention_ms="-1")
    _, work = [bed.restart(worker) for worker in workers]
    bed.recovering()
    bed.load(seed=2)
    work.halts("deltas", "ROLLUP_APP_ID")
    return bed.unharmed(expected, books=False)


@fault("raw topic deleted and recreated while the engine is down, fewer records than the position")
def raw_topic_recreated_down(bed: Bed) -> Outcome:
    workers, expected = _half_done(bed)
    bed.stop()
    bed.kafka.recreate(bed.topic, PARTITIONS)
    bed.load(seed=2, count=100).done()
    route, _ = [bed.restart(worker) for worker in workers]
    bed.recovering()
    return _halted(bed, route, expected, "raw partition", "made again")


@fault("raw topic deleted and recreated while the engine is down, more records than the position", ci=True)
def raw_topic_overtaken(bed: Bed) -> Outcome:
    workers, expected = _half_done(bed)
    bed.stop()
    bed.kafka.recreate(bed.topic, PARTITIONS)
    bed.load(seed=2).done()
    route, _ = [bed.restart(worker) for worker in workers]
    bed.recovering()
    return _halted(bed, route, expected, "raw partition", "made again")


@fault("raw topic deleted and recreated while the engine runs, fewer records than the position")
def raw_topic_recreated_live(bed: Bed) -> Outcome:
    (route, _), expected = _half_done(bed)
    bed.kafka.recreate(bed.topic, PARTITIONS)
    bed.recovering()
    bed.load(seed=2, count=100).done()
    return _halted(bed, route, expected, bed.topic)


@fault("raw topic deleted and recreated while the engine runs, more records than the position")
def raw_topic_overtaken_live(bed: Bed) -> Outcome:
    (route, _), expected = _half_done(bed)
    bed.kafka.recreate(bed.topic, PARTITIONS)
    bed.recovering()
    bed.load(seed=2).done()
    return _halted(bed, route, expected, bed.topic)


@fault("partition count of the events topic changed while the engine is down", ci=True)
def partitions_added_down(bed: Bed) -> Outcome:
    """Nobody starts on it, for ids would go elsewhere."""
    workers, expected = _half_done(bed)
    bed.stop()
    bed.kafka.add_partitions(events_topic(bed), PARTITIONS * 2)
    bed.recovering()
    for role in ("route", "work"):
        done = bed.engine.run(role)
        assert done.returncode != 0
        assert "should have 4 partitions" in done.stderr, done.stderr
        assert "ROLLUP_APP_ID" in done.stderr, done.stderr
    assert not any(worker.running for worker in workers)
    return bed.unharmed(expected)


@fault("partition count of the events topic changed while the engine runs")
def partitions_added_live(bed: Bed) -> Outcome:
    """Ids go where they went before; the partitions that came halt, and say so."""
    _, *workers = bed.start("route", "work", "work")
    load = bed.load(over=20)
    load.reaches(0.3)
    bed.kafka.add_partitions(events_topic(bed), PARTITIONS * 2)
    bed.recovering()
    until("an alarm", lambda: any("more partitions than the 4" in json.dumps(one.health) for one in workers))
    return bed.check()


@fault("partitions added to the raw topic under load")
def raw_partitions_added(bed: Bed) -> Outcome:
    """The one change of a count that is allowed: records of the new ones count from the first on."""
    bed.start("route", "work")
    first = bed.load(over=10)
    first.reaches(0.3)
    bed.kafka.add_partitions(bed.topic, PARTITIONS + 2)
    first.done()
    bed.recovering()
    bed.load(events=[(PARTITIONS + to % 2, value) for to, value in bed.traffic(seed=2)])
    return bed.check()


def _held(bed: Bed, topic: str) -> Sequence[Raw]:
    return [record for held in asyncio.run(read_topic(bed.kafka.servers, topic)).values() for record in held]


def _half_done(bed: Bed) -> tuple[list[Worker], Recount]:
    """A route and a work process that have worked everything off, and what that comes to."""
    workers = bed.start("route", "work")
    bed.load().done()
    expected = bed.recount()
    bed.all_there(expected)
    return workers, expected


def _positions(bed: Bed, stage: str) -> Sequence[dict[str, int]]:
    return bed.query("SELECT source, next_offset FROM rollup_engine.progress WHERE stage = $1", stage)


def _halted(bed: Bed, worker: Worker, expected: Recount, *words: str, seconds: float = 60) -> Outcome:
    """It says so, and nothing that came after is taken for a repeat, or booked at all."""
    worker.halts(*words, seconds=seconds)
    return bed.unharmed(expected)


# Kafka away


@fault("broker stopped (SIGTERM) and restarted under load", own_kafka=True)
def broker_stopped(bed: Bed) -> Outcome:
    return _broker_away(bed, bed.kafka.stop)


@fault("broker killed (SIGKILL) and restarted under load", own_kafka=True)
def broker_killed(bed: Bed) -> Outcome:
    return _broker_away(bed, bed.kafka.kill)


def _broker_away(bed: Bed, take_away) -> Outcome:  # type: ignore[no-untyped-def]  # a callable without arguments
    """Twice, the second time while the engine is still at what the first left behind."""
    bed.start("route", "work", "work")
    load = bed.load(over=30)
    for share in (0.3, 0.6):
        load.reaches(share)
        take_away()
        time.sleep(AWAY_SECONDS)  # the fault itself
        bed.kafka.resume()
    bed.recovering()
    load.done()
    assert load.failures, "nothing was under way when the broker went"
    return bed.check()


# time


@fault("events and raw records stamped years ago, internal topics with the usual retention", ci=True)
def stamped_years_ago(bed: Bed) -> Outcome:
    """Retention must not take for old what is new: internal records carry the time of their writing."""
    started_ms = time.time_ns() // 1_000_000
    bed.kafka.configure(bed.topic, retention_ms="-1", max_message_bytes=str(16 << 20))
    bed.start("route", "work")
    bed.load(record_ms=STAMPED_MS)
    outcome = bed.check(stop=False)
    for topic in (events_topic(bed), deltas_topic(bed)):
        records = until(f"{topic} holds something to look at", partial(_held, bed, topic))  # deltas are soon deleted
        old = [record for record in records if record.timestamp_ms < started_ms]
        assert not old, f"{len(old)} of {len(records)} records of {topic} are stamped before they were written"
    bed.stop()
    return outcome
