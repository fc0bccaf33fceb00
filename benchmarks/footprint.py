"""What it takes to run: memory per role, idle CPU, bytes per id on disk and per event on the internal topics, rows a
second into Postgres and their share of the time, and how long starting takes.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.beds import EMBEDDED, TOPIC, Bed, bed, end_to_end, yaml
from benchmarks.recount import EQUAL, check
from benchmarks.results import Row, Suite, console, medians
from benchmarks.traffic import FIRST_MS, WINDOW_MS, Traffic
from rollup_engine.config.loader import load
from rollup_engine.emit import partials
from rollup_engine.progress import ROLLUP, Partials, Writes
from rollup_engine.runtime import schema
from rollup_engine.runtime.children import API, ROLES
from rollup_engine.runtime.embedded import adopt_broker
from rollup_engine.runtime.postgres import PostgresSink
from rollup_engine.runtime.template import TITLE
from rollup_engine.tables import Schema
from rollup_engine.topology import deltas_topic, events_topic
from tests.acceptance.cli import Engine

IDLE_SECONDS = 60.0  # two of the longest heartbeats
EMIT_EVERY, QUICK_EMIT_EVERY = "30s", "5s"  # the default; and one that makes idle roles wake up as often as any does
SETTLE_SECONDS = 5.0
COPY_ROWS = 250_000
TEMPLATE = TITLE.split()[-1]  # the process that the roles are forked from
HELP_TIMES = 5


def starting() -> list[Row]:
    """Start-up times, and what an idle `up` takes: itself and its roles, without broker and database."""
    command = [sys.executable, "-m", "rollup_engine", "--help"]
    helps = []
    for _ in range(HELP_TIMES):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        helps.append(time.perf_counter() - started)
    rows: list[Row] = [{"what": "`rollup-engine --help`", "unit": "s", "figure": sorted(helps)[HELP_TIMES // 2]}]
    return [*rows, *_idle(EMIT_EVERY), _idle(QUICK_EMIT_EVERY)[-1]]


def _idle(emit_every: str) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="rollup-engine-bench-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)  # PostgreSQL does not run as root
        (Path(directory) / "rollups").mkdir()
        (Path(directory) / "rollups" / "usage.yaml").write_text(yaml(emit_every=emit_every))
        engine = Engine(Path(directory), Path(directory) / "rollups", partitions="8")
        try:
            started = time.perf_counter()
            process = engine.start("up")
            process.says('"event": "ready"', times=2)
            seconds = time.perf_counter() - started
            process.says('"event": "listening"')
            parts = {"up": psutil.Process(process.popen.pid)}
            names = (TEMPLATE, *ROLES, API)
            parts |= {name: child for name in names if (child := process.child(name)) is not None}
            time.sleep(SETTLE_SECONDS)
            before = sum(_cpu(part) for part in parts.values())
            time.sleep(IDLE_SECONDS)
            used = (sum(_cpu(part) for part in parts.values()) - before) / IDLE_SECONDS
            memory = {name: part.memory_info().rss / 1e6 for name, part in parts.items()}
            once = {name: getattr(part.memory_full_info(), "pss", 0) / 1e6 for name, part in parts.items()}
            process.stop()
        finally:
            engine.close()
            if (broker := adopt_broker(engine.state_dir)) is not None:
                broker.stop()
    return [
        {"what": "`rollup-engine up`, until every stage is ready", "unit": "s", "figure": seconds},
        *({"what": f"`{name}`, resident, idle", "unit": "MB", "figure": size} for name, size in memory.items()),
        {"what": "all of `up`, resident, idle", "unit": "MB", "figure": sum(memory.values())},
        {"what": "the same, what they share counted once", "unit": "MB", "figure": sum(once.values()) or None},
        {"what": "of that, all but the API", "unit": "MB", "figure": sum(once.values()) - once[API] or None},
        {"what": f"all of `up`, idle, `emit_every` {emit_every}", "unit": "% of a core", "figure": 100 * used},
    ]


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def working(bed: Bed, traffic: Traffic) -> list[Row]:
    """At full rate: memory, bytes on topics and on disk, COPY."""
    await bed.make_topic(TOPIC)
    await bed.feed(traffic.values())
    run = await end_to_end(bed, traffic.events)
    verdict = await check(bed.addresses.database, traffic.totals(), traffic.events)
    if verdict != EQUAL:
        raise SystemExit(verdict)
    stored = sum(file.stat().st_size for file in (bed.directory / "ids").rglob("*.sst"))
    stored += sum(file.stat().st_size for file in (bed.directory / "ids").rglob("*.log"))
    rows: list[Row] = [
        {"what": f"`{role}`, resident, at full rate", "unit": "MB", "figure": mb} for role, mb in run.memory_mb.items()
    ]
    rows.append({"what": "a remembered id on disk", "unit": "bytes", "figure": stored / traffic.counted()})
    for name, topic in (
        ("events", events_topic(bed.settings.app_id)),
        ("deltas", deltas_topic(bed.settings.app_id, "usage")),
    ):
        size = await _bytes_of(bed, topic)
        rows.append({"what": f"an event on the {name} topic", "unit": "bytes", "figure": size / traffic.events})
    return [*rows, *await _copying(bed, run.seconds)]


async def _bytes_of(bed: Bed, topic: str) -> int:
    """Bytes of all records' values."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bed.addresses.kafka, max_partition_fetch_bytes=4 << 20)
    await consumer.start()
    try:
        ones = [TopicPartition(topic, partition) for partition in range(bed.settings.partitions)]
        consumer.assign(ones)
        await consumer.seek_to_beginning()
        ends, size = await consumer.end_offsets(ones), 0
        left = {one for one, end in ends.items() if end}
        while left:
            for one, records in (await consumer.getmany(timeout_ms=1_000)).items():
                size += sum(len(record.value) for record in records)
                if records[-1].offset + 1 >= ends[one]:
                    left.discard(one)
        return size
    finally:
        await consumer.stop()


async def _copying(bed: Bed, seconds: float) -> list[Row]:
    """Partial rollups a second into the table, by the sink's own transaction; and what share of the run that was."""
    (rollup,) = load(bed.settings.config_dir).rollups
    totals = pl.select(pl.int_range(COPY_ROWS, dtype=pl.Int64).alias("n")).select(
        pl.lit(FIRST_MS - WINDOW_MS).alias("window_ms"),
        pl.col("n").cast(pl.UInt128).alias("tuple_key"),
        pl.format("customer-{}", "n").alias("external_customer_id"),
        pl.lit("fast").alias("speed"),
        pl.col("n").alias("count"),
        pl.col("n").cast(pl.Int128).alias("sum_bytes.lo"),
    )
    frame = partials.build(totals, Schema.of(rollup), partials.revision(1, 0), 0)
    async with schema.connected(bed.addresses.database, connections_max=2) as pool:
        written = await pool.fetchval("SELECT count(*) FROM rollups.usage_aggregated")
        sink = PostgresSink(pool, "copying")
        claim = await sink.claim(ROLLUP, "copying/0", 0)
        started = time.perf_counter()
        await sink.advance(claim, 1, {}, Writes(partials=(Partials(rollup.table, frame),)))
        rate = COPY_ROWS / (time.perf_counter() - started)
    return [
        {"what": "partial rollups into Postgres", "unit": "rows/s", "figure": rate},
        {"what": "their share of the end-to-end time", "unit": "%", "figure": 100 * written / rate / seconds},
    ]


def _one_run(events: int) -> list[Row]:
    rows = starting()
    with bed(EMBEDDED) as services:
        rows += asyncio.run(working(services, Traffic(events)))
    console.print(f"{len(rows)} figures, on {os.cpu_count()} cores")
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=int, default=3_000_000, help="for what is measured at full rate")
    parser.add_argument("--runs", type=int, default=3)


def main(options: argparse.Namespace) -> list[Suite]:
    rows = medians([_one_run(options.events) for _ in range(options.runs)])
    parameters = {"events": options.events, "Kafka": EMBEDDED}
    notes = ["Idle: no events, every role ready, broker and database not counted."]
    return [Suite("footprint", "Footprint", parameters, rows, notes, options.runs)]
