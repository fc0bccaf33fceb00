"""What one schedule works on, drawn from its seed: the YAML's content, and the raw records of every partition.

Nothing here knows of faults. Sizes are small on purpose: few ids, small windows and horizons, so that every kind of
duplicate, late, future and conflicting event meets every kind of fault within a few hundred steps.
"""

import json
from dataclasses import dataclass
from decimal import Decimal
from random import Random

from rollup_engine.config.model import Aggregate, Config, EventType, GroupColumn, Match, Rollup, Timestamp

RAW = "raw"
EPOCH_MS = 1_699_999_980_000  # a little before a window's start
MAX_FUTURE_MS = 3_000
IDLE_MS = 5_000
EMIT_EVERY_MS = 5_000


@dataclass(frozen=True)
class RawRecord:
    """One record that a producer sends; `timestamp_ms` is the log's time for it."""

    partition: int
    timestamp_ms: int
    value: bytes | None


@dataclass
class World:
    """The fixed part of a schedule."""

    raw_partitions: int
    partitions: int
    configs: list[Config]  # of generation 1, and of generation 2 where the YAML changes on the way
    records: list[RawRecord]
    first_offset: int  # of every raw partition: what was there before is gone
    record_bytes_max: int
    lossy: bool  # the broker may lose acknowledged records

    def rollups(self) -> dict[str, Rollup]:
        """By table, with every aggregate ever declared."""
        found: dict[str, Rollup] = {}
        for config in self.configs:
            for rollup in config.rollups:
                before = found.get(rollup.table, rollup)
                found[rollup.table] = max(before, rollup, key=lambda one: len(one.aggregates))
        return found


def make(rng: Random) -> World:
    """The world of a seed."""
    focus = rng.random() < 0.4  # on expiry: few ids, many copies
    config = _config(rng, focus)
    configs = [config] if rng.random() < 0.7 else [config, _changed(rng, config)]
    raw_partitions = rng.randint(1, 3)
    return World(
        raw_partitions=raw_partitions,
        partitions=rng.randint(1, 2) if focus else rng.randint(1, 3),
        configs=configs,
        records=_records(rng, config, raw_partitions, focus),
        first_offset=rng.choice((0, 0, 7)),
        record_bytes_max=rng.choice((2_500, 900_000, 900_000)),
        lossy=rng.random() < 0.15,
    )


def _config(rng: Random, focus: bool) -> Config:
    matched = rng.random() < 0.4
    horizon_ms = rng.choice((4_000, 9_000)) if focus else rng.choice((15_000, 10**9))
    grace_ms = rng.choice((None, 2_000, horizon_ms)) if horizon_ms < 10**9 else rng.choice((None, 5_000))
    names = ("download", "call") if matched and rng.random() < 0.5 else ("download",)
    events = tuple(
        EventType(
            event=name,
            topics=(RAW,),
            match=(Match(path="kind", value=name),) if matched else (),
            id_path="id",
            timestamp=Timestamp(path="at", unit="ms"),
            customer_path="customer",
            rollups=_rollups(rng, name),
            grace_ms=grace_ms,
            horizon_ms=horizon_ms,
            max_future_ms=MAX_FUTURE_MS,
        )
        for name in names
    )
    return Config(events=events)


def _changed(rng: Random, config: Config) -> Config:
    """Another YAML over the same paths: aggregates and rollups come and go."""
    return Config(events=tuple(e.model_copy(update={"rollups": _rollups(rng, e.event)}) for e in config.events))


def _rollups(rng: Random, event: str) -> tuple[Rollup, ...]:
    total = Aggregate(kind="sum", path="bytes", column="sum_bytes", minimum=Decimal(-100))
    least = Aggregate(kind="min", path="bytes", column="min_bytes")
    most = Aggregate(kind="max", path="bytes", column="max_bytes")
    by_speed = Rollup(
        name=event,
        table=event,
        group_by=(GroupColumn(path="speed", column="speed"),),
        aggregates=(total, least, most) if rng.random() < 0.5 else (total,),
        window_ms=10_000,
        emit_every_ms=EMIT_EVERY_MS,
    )
    by_customer = Rollup(
        name=f"{event}_all", table=f"{event}_all", aggregates=(total,), window_ms=60_000, emit_every_ms=EMIT_EVERY_MS
    )
    return (by_speed, by_customer) if rng.random() < 0.3 else (by_speed,)


def _records(rng: Random, config: Config, raw_partitions: int, focus: bool) -> list[RawRecord]:
    kinds = [match.value for event in config.events for match in event.match]
    count = rng.randint(5, 24)
    ids = rng.randint(1, 3) if focus else rng.randint(2, 12)
    conflicting, odd = rng.choice((0.0, 0.3)), rng.choice((0.0, 0.25))
    now_ms = EPOCH_MS
    first: dict[int, dict[str, object]] = {}
    records = []
    for _ in range(count):
        now_ms += rng.choice((0, 100, 1_000, 4_000)) if focus else rng.choice((0, 0, 100, 1_500, 3_000))
        number = rng.randrange(ids)
        event = dict(first.setdefault(number, _event(rng, number, now_ms, kinds)))
        if rng.random() < conflicting:
            event |= rng.choice(({"bytes": 7}, {"customer": "other"}, {"at": event["at"] + 1}))  # type: ignore[operator]
        elif focus and rng.random() < 0.5:
            first[number]["at"] = event["at"] = now_ms  # so that copies after the horizon are not all late
        value: bytes | None = json.dumps(event).replace('"DEC', "").replace('CED"', "").encode()
        if rng.random() < odd:
            value = _odd(rng, event)
        late_clock_ms = now_ms - rng.choice((0, 0, 0, 2_000))  # record times need not rise
        records.append(RawRecord(rng.randrange(raw_partitions), late_clock_ms, value))
    return records


def _event(rng: Random, number: int, now_ms: int, kinds: list[str]) -> dict[str, object]:
    event: dict[str, object] = {
        "id": f"id-{number}",
        "customer": rng.choice(("alice", "bob")),
        "at": now_ms + rng.choice((0, 0, -300, -4_000, -12_000, MAX_FUTURE_MS, MAX_FUTURE_MS + 4_000)),
        "speed": rng.choice(("fast", "slow", None, "")),
        "bytes": rng.choice((0, 5, -3, 2**53 + 1, 10**30, None, "DEC0.1CED", "DEC-2.75CED")),
    }
    if kinds:
        event["kind"] = rng.choice((*kinds, kinds[0]))
    return event


def _odd(rng: Random, event: dict[str, object]) -> bytes | None:
    """A record that is refused, or that no event type takes."""
    changes: tuple[dict[str, object], ...] = (
        {"id": ""},
        {"customer": None},
        {"bytes": -101},
        {"bytes": "many"},
        {"at": "yesterday"},
        {"kind": "something else"},
    )
    if rng.random() < 0.3:
        return rng.choice((b'{"id": ', b"", None, b"[1]"))
    return json.dumps(event | rng.choice(changes)).replace('"DEC', "").replace('CED"', "").encode()
