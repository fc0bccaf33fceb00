"""Events per second of the whole path, beside a plain drain of the same topic in the same run.

    python -m benchmarks.end_to_end [--events N] [--runs K] [--json FILE]

N events (170-byte JSON, 2 % duplicates, 4 raw partitions, 1,000 customers x 3 speeds, 2 hours of event time) lie on the
raw topic. The drain is one process that only fetches them. The engine runs `route` and `work` as processes, with
deduplication, durable hand-overs and the fenced transaction; its clock runs from all partitions being open until the
clean stop, when every total is in Postgres. A run counts only if totals and books equal the generator's recount.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import tempfile
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from rich.console import Console
from rich.table import Table

from rollup_engine.config.loader import load
from rollup_engine.config.settings import Settings
from rollup_engine.runtime import up
from rollup_engine.runtime.addresses import Addresses
from rollup_engine.runtime.kafka import KafkaLog, connection_options, consumer_options
from rollup_engine.runtime.postgres import at_ms
from rollup_engine.runtime.produce import produce
from rollup_engine.runtime.status import collect

TOPIC = "usage"
PARTITIONS = 4
WINDOW_MS = 600_000
FIRST_MS = 1_760_000_400_000
SPAN_MS = 7_200_000
YAML = f"""\
event: usage
source: {{topic: {TOPIC}}}
fields: {{id: id, timestamp: at, external_customer_id: customer}}
rollups:
  - group_by: [speed]
    aggregates: [{{sum: bytes, minimum: 0}}]
    emit_every: 5s
grace_period: unlimited
"""
console = Console()
Totals = dict[tuple[int, str, str], tuple[int, int]]


def generate(events: int, seed: int) -> tuple[list[tuple[int, bytes]], Totals]:
    """Raw records with their partition, and the exact totals per (window start, customer, speed)."""
    rng = random.Random(seed)
    counts: Counter[tuple[int, str, str]] = Counter()
    sums: Counter[tuple[int, str, str]] = Counter()
    records: list[tuple[int, bytes]] = []
    for number in range(events):
        if records and rng.random() < 0.02:
            records.append(
                (number % PARTITIONS, records[rng.randrange(max(0, len(records) - 50_000), len(records))][1])
            )
            continue
        at = FIRST_MS + number * SPAN_MS // events
        customer, speed, size = (
            f"customer-{rng.randrange(1000):04}",
            rng.choice(("fast", "slow", "free")),
            rng.randrange(10_000),
        )
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at // 1000)) + f".{at % 1000:03}Z"
        event = (
            f'{{"id":"{uuid.UUID(int=rng.getrandbits(128))}","customer":"{customer}","at":"{text}",'
            f'"bytes":{size},"speed":"{speed}","path":"/v1/objects/{rng.getrandbits(32):08x}"}}'
        )
        records.append((number % PARTITIONS, event.encode()))
        key = (at // WINDOW_MS * WINDOW_MS, customer, speed)
        counts[key] += 1
        sums[key] += size
    return records, {key: (count, sums[key]) for key, count in counts.items()}


async def drain(settings: Settings, kafka: str, events: int) -> float:
    """Seconds for one process to fetch everything with `getmany`, doing nothing with it."""
    async with KafkaLog.connect(connection_options(settings, kafka)) as log:
        consumer = AIOKafkaConsumer(**consumer_options(log.cluster))
        await consumer.start()
        try:
            consumer.assign([TopicPartition(TOPIC, partition) for partition in range(PARTITIONS)])
            await consumer.seek_to_beginning()
            started, fetched = time.perf_counter(), 0
            while fetched < events:
                batches = await consumer.getmany(timeout_ms=1000, max_records=20_000)
                fetched += sum(map(len, batches.values()))
            return time.perf_counter() - started
        finally:
            await consumer.stop()


def footprint(page: str) -> tuple[float, float]:
    """(CPU seconds, resident MB) of a role so far, by its own metrics page."""
    with urllib.request.urlopen(f"{page}/metrics", timeout=5) as answer:  # noqa: S310 - a loopback page of ours
        lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#"))
    return float(lines["process_cpu_seconds_total"]), float(lines["process_resident_memory_bytes"]) / 1e6


async def engine(settings: Settings, addresses: Addresses, events: int) -> dict[str, float]:
    """Seconds from all partitions open to all totals in Postgres; CPU seconds and memory of the roles."""
    config = load(settings.config_dir)
    async with up.engine(settings, config, str(settings.config_dir), addresses, drain=True) as (children, pool, _):
        await children.ready()
        started = time.perf_counter()
        before = {role: footprint(page) for role, page in children.pages.items()}
        status = await collect(pool, settings.app_id, None)
        while status.received < events:
            children.watch()
            await asyncio.sleep(0.2)
            status = await collect(pool, settings.app_id, None)
        used = {role: footprint(page) for role, page in children.pages.items()}
    figures = {"seconds": time.perf_counter() - started}
    for role, (cpu, resident) in used.items():
        figures |= {f"{role}_cpu_us_per_event": (cpu - before[role][0]) * 1e6 / events, f"{role}_mb": resident}
    return figures


async def check(database: str, expected: Totals, events: int) -> None:
    """Raises where any total, or the books, differ from the recount."""
    connection = await asyncpg.connect(database)
    rows = await connection.fetch(
        'SELECT "timestamp", external_customer_id, speed, count, sum_bytes FROM rollups.usage'
    )
    books = await connection.fetchrow("SELECT sum(counted), sum(duplicate), sum(records) FROM rollup_engine.books")
    await connection.close()
    found = {(at_ms(row[0]), row[1], row[2]): (row[3], int(row[4])) for row in rows}
    if found != expected:
        raise SystemExit(f"WRONG: {sum(found.get(k) != v for k, v in expected.items())} groups differ from the recount")
    counted = sum(count for count, _ in expected.values())
    if tuple(map(int, books)) != (counted, events - counted, events):
        raise SystemExit(f"WRONG: the books say {tuple(books)}, not {(counted, events - counted, events)}")


def run(events: int, seed: int) -> dict[str, float]:
    """One run on fresh services: seconds and events per second."""
    state_dir = Path(tempfile.mkdtemp(prefix="rollup-engine-bench-"))
    try:
        (state_dir / "rollups").mkdir()
        (state_dir / "rollups" / "usage.yaml").write_text(YAML)
        settings = Settings(
            kafka_bootstrap_servers=os.environ.get("KAFKA_BOOTSTRAP_SERVERS"),
            database_url=None,
            state_dir=state_dir,
            config_dir=state_dir / "rollups",
            app_id=f"bench-{seed}-{uuid.uuid4().hex[:8]}",
            log_level="WARNING",
        )
        records, expected = generate(events, seed)
        with up.services(settings) as addresses:
            asyncio.run(produce(settings, addresses.kafka, TOPIC, _feed(records)))
            records.clear()
            plain = asyncio.run(drain(settings, addresses.kafka, events))
            whole = asyncio.run(engine(settings, addresses, events))
            asyncio.run(check(addresses.database, expected, events))
        seconds = whole["seconds"]
        return {"drain": events / plain, "engine": events / seconds, "ratio": plain / seconds, **whole}
    finally:
        shutil.rmtree(state_dir, ignore_errors=True)


def _feed(records: list[tuple[int, bytes]]) -> Iterator[tuple[int | None, bytes]]:
    yield from records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=3_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    results = []
    for number in range(arguments.runs):
        results.append(run(arguments.events, number))
        console.print(f"run {number + 1}: {_line(results[-1])}")
    medians = {name: statistics.median(result[name] for result in results) for name in results[0]}
    shown = Table(
        title=f"{arguments.events:,} events, medians of {arguments.runs}; totals equal to the recount in every run"
    )
    for name in ("", "events/s", "ratio to the drain"):
        shown.add_column(name, justify="right" if name else "left")
    shown.add_row("plain aiokafka drain", f"{medians['drain']:,.0f}", "1.00")
    shown.add_row("rollup-engine, end to end", f"{medians['engine']:,.0f}", f"{medians['ratio']:.2f}")
    console.print(shown)
    for role in up.ROLES:
        cpu, resident = medians[f"{role}_cpu_us_per_event"], medians[f"{role}_mb"]
        console.print(f"{role}: {cpu:.1f} µs of CPU an event, {resident:,.0f} MB resident at the end")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"events": arguments.events, "medians": medians, "runs": results}, indent=2)
        )


def _line(result: dict[str, float]) -> str:
    return f"drain {result['drain']:,.0f}/s, engine {result['engine']:,.0f}/s, ratio {result['ratio']:.2f}"


if __name__ == "__main__":
    main()
