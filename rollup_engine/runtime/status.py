"""How far everything is: the books per event type, lag, watermarks. Reads only."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import asyncpg
import msgspec
from aiokafka import TopicPartition

from rollup_engine.config.model import Config
from rollup_engine.errors import RollupError
from rollup_engine.progress import KINDS, ROUTE
from rollup_engine.route.state import NO_WATERMARK_MS, RouteState
from rollup_engine.runtime import bucket_status, sql
from rollup_engine.runtime.alarms import Halt, halts
from rollup_engine.runtime.bucket_status import BucketStatus
from rollup_engine.runtime.database import at_time
from rollup_engine.runtime.kafka import KafkaLog
from rollup_engine.topology import replays, split_source


@dataclass
class EventStatus:
    """One event type, or `topic:<name>` for what no event type can be charged with.

    received = counted + duplicate + conflicting + late + invalid, always. `routed` is route's own count of the same:
    equal once nothing is under way. `lag`: raw records not yet in the books; of a bucket, objects. `watermark`: RFC
    3339, of the slowest raw partition. `lost`: raw offsets that were gone before they could be read, as accepted.
    """

    received: int = 0
    counted: int = 0
    duplicate: int = 0
    conflicting: int = 0
    late: int = 0
    invalid: int = 0
    unmatched: int = 0
    routed: int = 0
    lag: int = 0
    watermark: str | None = None
    lost: int = 0


@dataclass
class Status:
    """What `status` shows. `generation` counts the YAML contents so far; `kafka` is False where no broker answered.
    `halted`: the partitions that stand still, with cause and remedy. `buckets`: how far each is listed and read, and
    what is wrong with its objects."""

    events: dict[str, EventStatus] = field(default_factory=dict)
    generation: int = 0
    kafka: bool = True
    halted: list[Halt] = field(default_factory=list)
    buckets: list[BucketStatus] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        halted = [{**asdict(halt), "since": halt.since.isoformat()} for halt in self.halted]
        return {**asdict(self), "halted": halted}

    @property
    def lag(self) -> int:
        return sum(event.lag for event in self.events.values())

    @property
    def received(self) -> int:
        return sum(event.received + event.unmatched for event in self.events.values())


async def collect(pool: "asyncpg.Pool[asyncpg.Record]", app_id: str, log: KafkaLog | None) -> Status:
    """The status of an app id; without `log`, lag is only what was routed and not yet booked."""
    try:
        latest = await pool.fetchrow(sql.queries("registry")["latest_generation"], app_id)
    except asyncpg.UndefinedTableError as error:
        raise RollupError(
            "This database has no rollup engine in it yet. Run `rollup-engine up` or `migrate`."
        ) from error
    if latest is None:
        raise RollupError(f"App id {app_id!r} has not run on this database yet. Start `rollup-engine up`.")
    config = Config.from_json(latest["config"])
    query = sql.queries("status")
    books = await pool.fetch(query["books"], app_id)
    positions = await pool.fetch(query["positions"], app_id)
    status = Status(generation=latest["generation"], kafka=log is not None, halted=await halts(pool, app_id))
    for event in config.events:
        status.events[event.event] = EventStatus()
    booked: dict[str, int] = {}
    for row in books:
        one = status.events.setdefault(row["event"], EventStatus())
        for kind in KINDS:
            setattr(one, kind, getattr(one, kind) + row[kind])
        one.received += sum(row[kind] for kind in KINDS if kind != "unmatched")
        booked[row["source"]] = booked.get(row["source"], 0) + row["records"]
    routes = {
        row["source"]: (row["next_offset"], msgspec.json.decode(row["state"], type=RouteState))
        for row in positions
        if row["stage"] == ROUTE
    }
    again = replays(app_id, config)
    ends = await _ends(log, [*config.kafka_topics, *again]) if log is not None else {}
    status.buckets = await bucket_status.collect(pool, app_id, config, positions)
    _add_watermarks(status, [state for source, (_, state) in routes.items() if split_source(source)[0] not in again])
    for source in routes.keys() | ends.keys():
        offset, state = routes.get(source, (0, RouteState()))
        for name, count in state.received.items():
            status.events.setdefault(name, EventStatus()).routed += count
        topic, _ = split_source(source)
        behind = 0  # a bucket's offsets are far apart: its lag is added below
        if topic not in config.buckets:
            start, end = ends.get(source, (offset, offset))
            behind = max(0, end - max(offset, start)) + max(0, state.records - booked.get(source, 0))
        for event in config.events:
            if topic in event.topics or (topic in again and again[topic].event == event.event):
                status.events[event.event].lag += behind
                status.events[event.event].lost += sum(gap_end - gap_start for gap_start, gap_end in state.gaps)
    for bucket in status.buckets:
        for event in config.events:
            if bucket.topic in event.topics:
                status.events[event.event].lag += bucket.lag
    return status


async def _ends(log: KafkaLog, topics: Iterable[str]) -> dict[str, tuple[int, int]]:
    wanted = [TopicPartition(topic, p) for topic in topics for p in range(await log.partitions(topic))]
    found = await log.all_bounds(wanted) if wanted else {}
    return {f"{one.topic}/{one.partition}": bounds for one, bounds in found.items()}


def _add_watermarks(status: Status, states: Iterable[RouteState]) -> None:
    slowest: dict[str, int] = {}
    for state in states:
        for name, watermark_ms in state.watermarks.items():
            if watermark_ms > NO_WATERMARK_MS:
                slowest[name] = min(watermark_ms, slowest.get(name, watermark_ms))
    for name, watermark_ms in slowest.items():
        at = at_time(watermark_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        status.events.setdefault(name, EventStatus()).watermark = at
