"""How old what SQL shows is: from an event's acknowledgement by Kafka until its group is visible in the view.

While traffic comes at a share of the full rate, a probe event every 100 ms goes to a window of its own, for a
customer of its own; how long it takes to show in the view is its freshness. The full rate is measured first, on the
same machine, with the same `emit_every`, for about as long, and with the load's sender beside the engine, as it is
then: what both can keep up, not what one works off alone.
"""

import argparse
import asyncio
import statistics
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import islice

import asyncpg
from aiokafka import AIOKafkaProducer

from benchmarks.beds import APACHE, EMBEDDED, PARTITIONS, TOPIC, Bed, bed, yaml
from benchmarks.results import Row, Suite, console, medians
from benchmarks.traffic import FIRST_MS, WINDOW_MS, Traffic
from benchmarks.workers import Books, workers

EMIT_EVERY_SECONDS = 1
PROBE_SECONDS = 0.1
WATCH_SECONDS = 0.025  # so much later a probe is seen, at most
SHARES = (0.8, 0.2)  # the greater one right after the full rate: the machine's own speed changes within minutes
WARM_SECONDS = 5.0
LATE_SECONDS = 60.0
FILE_EVENTS = 1_000_000
_WINDOW = datetime.fromtimestamp((FIRST_MS - WINDOW_MS) / 1e3, UTC)  # no traffic falls into it
_QUERY = 'SELECT external_customer_id FROM rollups.usage WHERE "timestamp" = $1 AND external_customer_id = ANY($2)'
_PROBE = '{"id":"%s","customer":"probe-%d","at":"%s","bytes":1,"speed":"fast"}'


class Probes:
    """Probe events on their way: when each was acknowledged, and when it was seen."""

    def __init__(self) -> None:
        self._acknowledged: dict[str, float] = {}
        self._seen: dict[str, float] = {}

    async def send(self, kafka: str, seconds: float) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all")
        await producer.start()
        try:
            ends, number = time.monotonic() + seconds, 0
            while time.monotonic() < ends:
                event = _PROBE % (uuid.uuid4(), number, _WINDOW.isoformat())
                await producer.send_and_wait(TOPIC, event.encode(), partition=number % PARTITIONS)
                self._acknowledged[f"probe-{number}"] = time.perf_counter()
                number += 1
                await asyncio.sleep(PROBE_SECONDS)
        finally:
            await producer.stop()

    async def watch(self, database: str) -> None:
        """Until cancelled."""
        connection = await asyncpg.connect(database)
        try:
            while True:
                awaited = list(self._acknowledged.keys() - self._seen.keys())
                rows = await connection.fetch(_QUERY, _WINDOW, awaited)
                now = time.perf_counter()
                self._seen |= {row[0]: now for row in rows}
                await asyncio.sleep(WATCH_SECONDS)
        finally:
            await connection.close()

    async def all_seen(self) -> None:
        deadline = time.monotonic() + LATE_SECONDS
        while self._acknowledged.keys() - self._seen.keys():
            if time.monotonic() > deadline:
                missing = len(self._acknowledged.keys() - self._seen.keys())
                raise SystemExit(f"{missing} probes were not to be seen within {LATE_SECONDS:.0f} s.")
            await asyncio.sleep(0.05)

    def seconds(self) -> list[float]:
        return sorted(max(0.0, self._seen[name] - at) for name, at in self._acknowledged.items())


@asynccontextmanager
async def _working(bed: Bed) -> AsyncIterator[None]:
    """The topic made and both roles at work on it; stopped cleanly after the block."""
    await bed.make_topic(TOPIC)
    async with workers(bed) as running:
        running.start("route")
        running.start("work")
        await running.ready(PARTITIONS)
        yield
        await running.stop()


async def _full_rate(bed: Bed, traffic: Traffic) -> float:
    """Events a second that are booked while they are sent as fast as that goes."""
    async with _working(bed), Books.of(bed) as books:
        started = time.perf_counter()
        await asyncio.gather(bed.feed(traffic.values()), books.reach(traffic.events))
        seconds = time.perf_counter() - started
    return traffic.events / seconds


async def _fresh(bed: Bed, rate: float, seconds: float) -> list[float]:
    """Freshness of every probe, sorted, at so many events a second for so long."""
    events, probes = int(rate * (seconds + WARM_SECONDS)), Probes()
    kept = Traffic(-(-events // FILE_EVENTS) * FILE_EVENTS)  # no file for every rate there may be
    values = islice(kept.values(), events)
    async with _working(bed):
        watching = asyncio.create_task(probes.watch(bed.addresses.database))
        load = asyncio.create_task(bed.feed(values, rate=rate))
        await asyncio.sleep(WARM_SECONDS)
        await probes.send(bed.addresses.kafka, seconds)
        await load
        await probes.all_seen()
        watching.cancel()
    return probes.seconds()


def _one_run(kind: str, seconds: float, traffic: Traffic) -> list[Row]:
    content = yaml(emit_every=f"{EMIT_EVERY_SECONDS}s")
    with bed(kind, content) as services:
        full = asyncio.run(_full_rate(services, traffic))
    console.print(f"full rate: {full:,.0f} events/s")
    rows: list[Row] = []
    for share in SHARES:
        with bed(kind, content) as services:
            found = asyncio.run(_fresh(services, share * full, seconds))
        percentiles = statistics.quantiles(found, n=100, method="inclusive")
        rows.append(
            {
                "load": f"{share:.0%} of the full rate",
                "events/s": share * full,
                "probes": len(found),
                "p50, s": percentiles[49],
                "p99, s": percentiles[98],
                "most, s": found[-1],
            }
        )
        console.print(f"{share:.0%}: p50 {percentiles[49]:.2f} s, p99 {percentiles[98]:.2f} s")
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=int, default=8_000_000, help="to measure the full rate with")
    parser.add_argument("--seconds", type=float, default=60.0, help="at each load")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kafka", choices=[EMBEDDED, APACHE], default=APACHE)


def main(options: argparse.Namespace) -> list[Suite]:
    traffic = Traffic(options.events)
    runs = [_one_run(options.kafka, options.seconds, traffic) for _ in range(options.runs)]
    parameters = {
        "`emit_every`, s": EMIT_EVERY_SECONDS,
        "seconds at each load": options.seconds,
        "Kafka": options.kafka,
    }
    notes = [
        "From Kafka's acknowledgement of an event to its group being in the view.",
        "The sender shares the cores: the full rate is what is booked while it sends as fast as it can.",
        f"{_each(runs)} The machine's speed changes meanwhile: what is 80% when it begins may soon be more.",
    ]
    return [Suite("freshness", "Freshness", parameters, medians(runs), notes, options.runs)]


def _each(runs: list[list[Row]]) -> str:
    """The p99 of every run at the greatest load, for the median says little of how far they are apart."""
    found = ", ".join(f"{rows[0]['p99, s']:.2f}" for rows in runs)
    return f"Run by run, p99 at {runs[0][0]['load']}: {found} s."
