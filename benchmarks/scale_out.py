"""What one more `route` and `work` process adds, until the cores are full.

All events lie on the topic. The rate is taken between 20 % and 90 % of them in the books, so that neither the start of
the processes nor the sharing out of partitions counts.
"""

import argparse
import asyncio

from benchmarks.beds import APACHE, EMBEDDED, PARTITIONS, TOPIC, Bed, bed
from benchmarks.recount import check
from benchmarks.results import Row, Suite, console, medians
from benchmarks.traffic import Traffic
from benchmarks.workers import Books, workers

PROCESSES = (1, 2, 4)
FIRST, LAST = 0.2, 0.9  # shares of the events between which the rate is taken


async def _rate(bed: Bed, traffic: Traffic, processes: int) -> tuple[float, str]:
    """Events a second with so many processes of each role, and the recount's verdict."""
    await bed.make_topic(TOPIC)
    await bed.feed(traffic.values())
    async with workers(bed) as running, Books.of(bed) as books:
        running.start("route", processes)
        running.start("work", processes)
        started = await books.reach(int(FIRST * traffic.events))
        before = await books.records()
        ended = await books.reach(int(LAST * traffic.events))
        done = await books.records() - before
        await books.shown(traffic.counted())
        await running.stop()
    verdict = await check(bed.addresses.database, traffic.totals(), traffic.events)
    return done / max(ended - started, 1e-9), verdict


def _one_run(kind: str, traffic: Traffic, counts: list[int]) -> list[Row]:
    rows: list[Row] = []
    for processes in counts:
        with bed(kind) as services:
            rate, verdict = asyncio.run(_rate(services, traffic, processes))
        rows.append({"route and work processes, each": processes, "events/s": rate, "recount": verdict})
        first = rows[0]["events/s"]
        assert isinstance(first, float)
        rows[-1]["to one of each"] = rate / first
        console.print(f"{processes} of each: {rate:,.0f} events/s, {verdict}")
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=int, default=3_000_000)
    parser.add_argument("--processes", default=",".join(map(str, PROCESSES)))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kafka", choices=[EMBEDDED, APACHE], default=APACHE)


def main(options: argparse.Namespace) -> list[Suite]:
    counts = [int(count) for count in options.processes.split(",")]
    traffic = Traffic(options.events)
    rows = medians([_one_run(options.kafka, traffic, counts) for _ in range(options.runs)])
    parameters = {"events": options.events, "raw partitions": PARTITIONS, "Kafka": options.kafka}
    notes = ["Broker and database share the cores with the processes."]
    return [Suite("scale_out", "Scale-out", parameters, rows, notes, options.runs)]
