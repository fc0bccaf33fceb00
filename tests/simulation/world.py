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
SPEED, PLACE = GroupColumn(path="speed", column="speed"), GroupColumn(path="place", column="place")


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
    partitions: int  # of the events topic and of each deltas topic: the engine has one number for both
    configs: list[Config]  # of generation 1, and of each after it where the YAML changes on the way
    records: list[RawRecord]
    first_offset: int  # of every raw partition: what was there before is gone
    record_bytes_max: int
    lossy: bool = False  # the broker may lose acknowledged records
    remade: bool = False  # a topic is deleted and made again
    clock_set_back: bool = False  # far behind the records, now and then
    remapped: bool = False  # the YAMLs map different fields, or refuse different events

    def rollups(self, generations: int | None = None) -> dict[str, Rollup]:
        """By table, with every column ever declared, or declared by the first `generations`."""
        found: dict[str, Rollup] = {}
        for config in self.configs[:generations]:
            for rollup in config.rollups:
                before = found.get(rollup.table, rollup)
                groups = {column.column: column for column in (*before.group_by, *rollup.group_by)}
                numbers = {aggregate.column: aggregate for aggregate in (*before.aggregates, *rollup.aggregates)}
                ever = {"group_by": tuple(groups.values()), "aggregates": tuple(numbers.values())}
                found[rollup.table] = rollup.model_copy(update=ever)
        return found


def make(rng: Random) -> World:
    """The world of a seed."""
    aside = Random(rng.getstate()[1][1])  # draws nothing from `rng`: what the seeds of the mutants show stays
    focus = rng.random() < 0.4  # on expiry: few ids, many copies
    configs = [_config(rng, focus, ("shard", "id") if aside.random() < 0.25 else ("id",))]
    change = rng.random()
    remapped = change < 0.2
    for _ in range(rng.choice((1, 1, 2)) if change < 0.4 else 0):
        configs.append(_changed(rng, configs[0], remapped))
    raw_partitions = rng.choice((1, 1, 2, 2, 3, 3, 4))
    harm = rng.random()
    return World(
        raw_partitions=raw_partitions,
        partitions=rng.choice((1, 2)) if focus else rng.choice((1, 1, 2, 2, 3, 3, 4)),
        configs=configs,
        records=_records(rng, configs[0], raw_partitions, focus),
        first_offset=rng.choice((0, 0, 7)),
        record_bytes_max=rng.choice((2_500, 900_000, 900_000)),
        lossy=harm < 0.15,
        remade=0.15 <= harm < 0.25,
        clock_set_back=0.25 <= harm < 0.35,
        remapped=remapped,
    )


def _config(rng: Random, focus: bool, id_paths: tuple[str, ...]) -> Config:
    matched = rng.random() < 0.4
    horizon_ms = rng.choice((4_000, 9_000)) if focus else rng.choice((15_000, 10**9))
    grace_ms = rng.choice((None, 2_000, horizon_ms)) if horizon_ms < 10**9 else rng.choice((None, 5_000))
    names = ("download", "call") if matched and rng.random() < 0.5 else ("download",)
    events = tuple(
        EventType(
            event=name,
            kafka_topics=(RAW,),
            match=(Match(path="kind", value=name),) if matched else (),
            id_paths=id_paths,
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


def _changed(rng: Random, config: Config, remapped: bool) -> Config:
    """Another YAML: aggregates and rollups come and go; with `remapped`, so do the fields, and what is refused."""
    made = ((event, _remapped(rng, event.event) if remapped else _rollups(rng, event.event)) for event in config.events)
    return Config(events=tuple(event.model_copy(update={"rollups": rollups}) for event, rollups in made))


def _remapped(rng: Random, event: str) -> tuple[Rollup, ...]:
    """Other grouping columns, another minimum, perhaps no number at all."""
    groups = rng.choice(((), (SPEED,), (PLACE,), (SPEED, PLACE)))
    minimum = rng.choice((None, Decimal(0), Decimal(-100)))
    rollups = _rollups(rng, event)
    numbers = tuple(one.model_copy(update={"minimum": minimum}) for one in rollups[0].aggregates)
    first = {"group_by": groups, "aggregates": rng.choice((numbers, numbers, ()))}
    return (rollups[0].model_copy(update=first),)


def _rollups(rng: Random, event: str) -> tuple[Rollup, ...]:
    total = Aggregate(kind="sum", path="bytes", column="sum_bytes", minimum=Decimal(-100))
    least = Aggregate(kind="min", path="bytes", column="min_bytes")
    most = Aggregate(kind="max", path="bytes", column="max_bytes")
    by_speed = Rollup(
        name=event,
        table=event,
        group_by=(SPEED,),
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
    id_paths = config.events[0].id_paths
    count = rng.randint(5, 24)
    ids = rng.randint(1, 3) if focus else rng.randint(2, 12)
    conflicting, odd = rng.choice((0.0, 0.3)), rng.choice((0.0, 0.25))
    now_ms = EPOCH_MS
    first: dict[int, dict[str, object]] = {}
    records = []
    for _ in range(count):
        now_ms += rng.choice((0, 100, 1_000, 4_000)) if focus else rng.choice((0, 0, 100, 1_500, 3_000))
        number = rng.randrange(ids)
        event = dict(first.setdefault(number, _event(rng, number, now_ms, kinds) | _id(number, id_paths)))
        if rng.random() < conflicting:
            changes = {"bytes": 7}, {"customer": "other"}, {"place": "elsewhere"}, {"at": event["at"] + 1}  # type: ignore[operator]
            event |= rng.choice(changes)
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
        "customer": rng.choice(("alice", "bob")),
        "at": now_ms + rng.choice((0, 0, -300, -4_000, -12_000, MAX_FUTURE_MS, MAX_FUTURE_MS + 4_000)),
        "speed": rng.choice(("fast", "slow", None, "")),
        "place": rng.choice(("here", "there", None)),
        "bytes": rng.choice((0, 5, -3, 2**53 + 1, 10**30, None, "DEC0.1CED", "DEC-2.75CED")),
    }
    if kinds:
        event["kind"] = rng.choice((*kinds, kinds[0]))
    return event


def _id(number: int, id_paths: tuple[str, ...]) -> dict[str, object]:
    """The texts of two parts, set one after the other, are those of other numbers too."""
    if len(id_paths) == 1:
        return {"id": f"id-{number}"}
    return {"shard": "i" * (1 + number % 4), "id": "i" * (5 - number % 4 + number // 4)}


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
