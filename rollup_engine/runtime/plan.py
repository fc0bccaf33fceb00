"""Capacity planning: what a load takes in cores, Kafka, disk, memory and Postgres, and what breaks first.

Owns: the constants, each with its unit and where it was measured, the sums made of them, and how they print. Must never
ask a service or the machine: the same words give the same plan everywhere. Sums are for the peak, held all day.
"""

import json
import math
from dataclasses import asdict, dataclass

from rich.console import Console

from rollup_engine.config.draft import WINDOW_MS
from rollup_engine.config.durations import DAY_MS, HOW_TO_WRITE, format_duration, parse_duration
from rollup_engine.dedup.stage import BATCH_ROWS_MAX, DedupPartition
from rollup_engine.errors import UsageError
from rollup_engine.route.stage import RoutePartition
from rollup_engine.runtime.kafka_clients import FETCH_BYTES_MAX
from rollup_engine.runtime.registry import events_kept_ms
from rollup_engine.runtime.screens import table
from rollup_engine.windows.accumulator import CACHE_ROWS_MAX
from rollup_engine.windows.stage import CHANGED_ROWS_MAX


@dataclass(frozen=True)
class Constant:
    """One figure that plans rest on. `source`: the benchmark that measured it; or that it was assumed."""

    value: float
    unit: str
    what: str
    source: str


ROUTE_US = Constant(2.8, "µs of CPU/event", "route", "benchmark end_to_end, the slower broker")
WORK_US = Constant(3.0, "µs of CPU/event", "work, one rollup", "benchmark end_to_end, the slower broker")
EVENT_BYTES = Constant(56, "bytes/event", "an event on the events topic, zstd", "benchmark footprint")
DELTA_BYTES = Constant(22, "bytes/event", "an event on a deltas topic at worst, zstd", "a record of 2,500, packed")
RECORD_BYTES = Constant(1_500, "bytes", "what a packed record adds to its rows", "a record of 1 delta, packed")
ID_BYTES = Constant(43, "bytes/id", "a remembered id on disk", "benchmark footprint")
FILTER_BYTES = Constant(1.5, "bytes/id", "filters and index of the id store", "its setting: 10 bits; a store of 100 M")
ROW_BYTES = Constant(210, "bytes/row", "a partial rollup with its index entry", "added up from the columns; no WAL")
GROUP_BYTES = Constant(300, "bytes/group", "a group in memory", "added up from the columns")
PROCESS_BYTES = Constant(150e6, "bytes", "a process without its data", "benchmark footprint")
STORE_CACHE_BYTES = Constant(64 << 20, "bytes", "the id stores' cache, of a process", "its setting")
STORE_BUFFER_BYTES = Constant(40 << 20, "bytes", "an id store's write buffers, of a partition", "its setting: eight")
BUSY = Constant(0.7, "of a core", "how full a process is planned; the rest catches up", "assumed")
REPLICAS = Constant(3, "copies", "Kafka's replication factor", "assumed")
BROKER_WRITES = Constant(100e6, "bytes/s", "what a broker writes, copies included", "assumed; measure yours")
BROKER_RECORDS = Constant(50_000, "records/s", "what a broker takes of packed records", "assumed; measure yours")
BROKER_DISK = Constant(4e12, "bytes", "disk of a broker", "assumed; what you rent")
WORKER_DISK = Constant(1e12, "bytes", "disk of a work process", "assumed; what you rent")
COPY_ROWS = Constant(50_000, "rows/s", "COPY into Postgres", "low on purpose; benchmark footprint measures yours")
COMMITS = Constant(1_000, "commits/s", "what a Postgres commits", "assumed; measure yours")
CONSTANTS = tuple(value for value in list(globals().values()) if isinstance(value, Constant))
PARTITIONS_MIN = 8  # the default


@dataclass(frozen=True)
class Load:
    """All above 0. `groups`: distinct (customer, grouping values) that a rollup sees in a window."""

    events_per_second: float
    groups: int
    dedup_horizon_ms: int
    bytes_per_event: int = 170
    rollups: int = 1
    emit_every_ms: int = 30_000


@dataclass(frozen=True)
class Need:
    what: str
    amount: float
    unit: str
    note: str


@dataclass(frozen=True)
class Limit:
    what: str
    load: float  # what is needed, over what one of it bears
    one_bears: str
    add: str


@dataclass(frozen=True)
class Plan:
    load: Load
    needs: tuple[Need, ...]
    limits: tuple[Limit, ...]  # what breaks first comes first


def load_of(
    events_per_second: float, groups: int, dedup_horizon: str, bytes_per_event: int, rollups: int, emit_every: str
) -> Load:
    """The words of the command line as a load. Raises `UsageError`, saying what to write."""
    numbers = {"events-per-second": events_per_second, "groups": groups, "bytes-per-event": bytes_per_event}
    for option, value in {**numbers, "rollups": rollups}.items():
        if not 0 < value <= 1e12:
            raise UsageError(f"--{option} {value} is no load. Write a number above 0, up to 10^12, such as 1000.")
    horizon_ms, emit_ms = _length_ms("--dedup-horizon", dedup_horizon), _length_ms("--emit-every", emit_every)
    return Load(events_per_second, groups, horizon_ms, bytes_per_event, rollups, emit_ms)


def _length_ms(option: str, text: str) -> int:
    try:
        if length_ms := parse_duration(text):
            return length_ms
    except ValueError as error:
        raise UsageError(f"{option}: {error}. {HOW_TO_WRITE}") from error
    raise UsageError(f"{option} {text} is no length of time. {HOW_TO_WRITE}")


def plan(load: Load) -> Plan:
    """What `load` needs, and its limits, the fullest first."""
    rate, rollups, emit_s = load.events_per_second, load.rollups, load.emit_every_ms / 1_000
    route, work = rate * ROUTE_US.value / 1e6, rate * WORK_US.value / 1e6 * rollups
    ids = rate * load.dedup_horizon_ms / 1_000
    id_disk, day_rows = ids * ID_BYTES.value, ROW_BYTES.value * 86_400
    works = math.ceil(max(work / BUSY.value, id_disk / WORKER_DISK.value))
    partitions = max(PARTITIONS_MIN, 1 << (2 * works - 1).bit_length())

    # Full batches, as under load: a flush of route is a record for every partition, a batch of dedup one per rollup.
    fetched = max(1, min(RoutePartition.records_max, FETCH_BYTES_MAX / load.bytes_per_event))
    flushes = rate / fetched
    rows = fetched / partitions  # of a packed record
    batches = rate / min(BATCH_ROWS_MAX, DedupPartition.records_max * rows)
    event_records, delta_records = flushes * partitions, batches * partitions * rollups
    raw = rate * load.bytes_per_event
    events = rate * EVENT_BYTES.value + event_records * RECORD_BYTES.value
    deltas = rate * rollups * DELTA_BYTES.value + delta_records * RECORD_BYTES.value
    total = raw + events + deltas
    kept_ms = events_kept_ms(load.dedup_horizon_ms)
    raw_disk, events_disk = raw * REPLICAS.value * DAY_MS / 1_000, events * REPLICAS.value * kept_ms / 1_000
    deltas_disk = deltas * REPLICAS.value * emit_s
    changed, in_window = min(load.groups, rate * emit_s), min(load.groups, rate * WINDOW_MS / 1_000)
    finals = rollups * in_window / (WINDOW_MS / 1_000)
    rows = rollups * changed / emit_s + finals
    commits = flushes + batches + partitions * rollups / emit_s
    each = math.ceil(partitions / works)  # partitions of one work process, of the events topic and of each deltas topic
    held = min(load.groups / partitions, CACHE_ROWS_MAX + CHANGED_ROWS_MAX) * each * rollups
    filters = ids / works * FILTER_BYTES.value
    memory = PROCESS_BYTES.value + STORE_CACHE_BYTES.value + each * STORE_BUFFER_BYTES.value + held * GROUP_BYTES.value
    memory += filters
    needs = (
        Need("route, CPU", route, "cores", "raw partitions: at least as many as processes"),
        Need("route, processes", math.ceil(route / BUSY.value), "", f"each planned {BUSY.value:.0%} full"),
        Need("work, CPU", work, "cores", "deduplication, rollups, id store"),
        Need("work, processes", works, "", f"each planned {BUSY.value:.0%} full"),
        Need("ROLLUP_PARTITIONS", partitions, "", "room to double the work processes; fixed once started"),
        Need("memory of a work process", memory, "B", "without what the system caches"),
        Need("filters of its id store", filters, "B", "part of its memory"),
        Need("its remembered ids on disk", id_disk / works, "B", f"{ids:,.0f} ids in all"),
        Need("Kafka, in", total, "B/s", "raw, events and deltas topics, before copies"),
        Need("Kafka, out", total, "B/s", "each read once, besides copies"),
        Need("Kafka, packed records", event_records + delta_records, "records/s", "grows with partitions squared"),
        Need("raw topics on disk", raw_disk, "B", f"{REPLICAS.value} copies, for each day kept"),
        Need("events topic on disk", events_disk, "B", f"{REPLICAS.value} copies, kept {format_duration(kept_ms)}"),
        Need("deltas topics on disk", deltas_disk, "B", f"{REPLICAS.value} copies, trimmed with every emission"),
        Need("Postgres, rows", rows, "rows/s", "partial rollups, the final ones included"),
        Need("Postgres, commits", commits, "commits/s", "one with every batch of every stage"),
        Need("Postgres, disk a day", finals * day_rows, "B", "the latest partial of each window and group"),
        Need("partials written a day", rows * day_rows, "B", "superseded ones are deleted, by default in 1h"),
    )
    disks = raw_disk + events_disk + deltas_disk
    brokers = max(total * REPLICAS.value / BROKER_WRITES.value, (event_records + delta_records) / BROKER_RECORDS.value)
    bears = f"{_amount(BROKER_WRITES.value, 'B/s')}, {_amount(BROKER_RECORDS.value, 'records/s')}"
    a_core, copies, commit = (
        f"{BUSY.value:g} cores",
        f"{COPY_ROWS.value:,.0f} rows/s",
        f"{COMMITS.value:,.0f} commits/s",
    )
    id_room, broker_room = _amount(WORKER_DISK.value, "B"), _amount(BROKER_DISK.value, "B")
    limits = (
        Limit("route", route / BUSY.value, a_core, "processes, up to one per raw partition"),
        Limit("work", work / BUSY.value, a_core, "processes, up to ROLLUP_PARTITIONS"),
        Limit("id store", id_disk / WORKER_DISK.value, id_room, "work processes with disks"),
        Limit("Kafka disk", disks / BROKER_DISK.value, broker_room, "brokers; or shorten the horizon"),
        Limit("Kafka writes", brokers, bears, "brokers; or app ids with fewer partitions"),
        Limit("Postgres rows", rows / COPY_ROWS.value, copies, "databases, one per app id; or emit less often"),
        Limit("Postgres commits", commits / COMMITS.value, commit, "databases, one per app id"),
    )
    return Plan(load, needs, tuple(sorted(limits, key=lambda limit: -limit.load)))


def _amount(value: float, unit: str) -> str:
    """`11.0 TB`, `2.8 cores`, `8`."""
    if unit.startswith("B"):
        power = min(5, max(0, int(math.log10(max(value, 1)) // 3)))
        return f"{value / 1_000**power:,.1f} {('', 'k', 'M', 'G', 'T', 'P')[power]}{unit}"
    exact = value >= 100 or value == int(value)
    return f"{value:,.0f} {unit}".rstrip() if exact else f"{value:,.2f} {unit}"


def show(made: Plan, form: str) -> None:
    """Print it: tables for people, JSON in base units, with every constant, for programs."""
    if form == "json":
        print(json.dumps({**asdict(made), "constants": [asdict(constant) for constant in CONSTANTS]}, indent=2))
        return
    console = Console()
    needs = [(need.what, _amount(need.amount, need.unit), need.note) for need in made.needs]
    console.print(table("What it takes", ["", "needed", ""], needs, numbers=["needed"]))
    limits = [(limit.what, f"{limit.load:,.2f}", limit.one_bears, limit.add) for limit in made.limits]
    console.print(table("What breaks first", ["", "of one", "one bears", "then add"], limits, numbers=["of one"]))
