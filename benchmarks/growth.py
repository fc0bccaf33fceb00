"""What an event costs as things grow: groups, remembered ids, events, raw partitions, rollups per event type.

One dimension at a time, the others as in the end-to-end benchmark, each point on fresh services and checked by the
recount. What should be flat, is flat: `cost` is seconds per event against the first point's.
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.beds import APACHE, EMBEDDED, PARTITIONS, TOPIC, Bed, bed, end_to_end, yaml
from benchmarks.recount import check
from benchmarks.remembered import prefill
from benchmarks.results import Figure, Row, Suite, console, medians
from benchmarks.traffic import WINDOW_MS, Traffic

EMIT_EVERY = "30s"  # the default: how often groups are written decides what many of them cost


@dataclass(frozen=True)
class Point:
    """One measurement."""

    traffic: Traffic
    partitions: int = PARTITIONS
    rollups: int = 1
    remembered: int = 0  # ids in the store before the first event


@dataclass(frozen=True)
class Dimension:
    """`sizes` of the full measurement; `point` says what a size means."""

    title: str
    sizes: tuple[int, ...]
    point: Callable[[int, Traffic], Point]
    note: str = ""


DIMENSIONS = {
    "groups": Dimension(
        "customers, each a group, all in one window",
        (10, 100, 1_000, 10_000, 100_000, 1_000_000),
        lambda size, plain: Point(replace(plain, customers=size, speeds=1, span_ms=WINDOW_MS)),
    ),
    "remembered-ids": Dimension(
        "ids remembered before the first event",
        (1_000_000, 10_000_000, 100_000_000),
        lambda size, plain: Point(plain, remembered=size),
        "The ids of before are written into the stores in the order of their keys, as large sorted files.",
    ),
    "events": Dimension(
        "events",
        (1_000_000, 3_000_000, 10_000_000, 30_000_000),
        lambda size, plain: Point(replace(plain, events=size)),
        "`work` fills its id stores' tables in memory and their cache, 400 MB at most, and keeps 1.5 bytes of filters"
        " for each id; the rest is what it has in hand.",
    ),
    "raw-partitions": Dimension("raw partitions", (1, 2, 4, 8, 16), lambda size, plain: Point(plain, partitions=size)),
    "rollups": Dimension("rollups per event type", (1, 2, 4, 8), lambda size, plain: Point(plain, rollups=size)),
}


async def _measured(bed: Bed, point: Point) -> dict[str, Figure]:
    events = point.traffic.events
    await bed.make_topic(TOPIC, point.partitions)
    await bed.feed(point.traffic.values(), partitions=point.partitions)
    if point.remembered:
        prefill(bed.settings, point.remembered, time.time_ns() // 1_000_000)
    run, expected = await end_to_end(bed, events), point.traffic.totals()
    verdict = await check(bed.addresses.database, expected, events, point.rollups)
    return {
        "groups": len(expected),
        "events/s": events / run.seconds,
        "µs/event": run.seconds * 1e6 / events,
        "route, MB": run.memory_mb["route"],
        "work, MB": run.memory_mb["work"],
        "recount": verdict,
    }


def _one_run(dimension: Dimension, sizes: Sequence[int], kind: str, plain: Traffic) -> list[Row]:
    rows: list[Row] = []
    for size in sizes:
        point = dimension.point(size, plain)
        with bed(kind, yaml(point.rollups, EMIT_EVERY)) as services:
            rows.append({dimension.title: size, **asyncio.run(_measured(services, point))})
        first, cost = rows[0]["µs/event"], rows[-1]["µs/event"]
        assert isinstance(first, float)
        assert isinstance(cost, float)
        rows[-1]["cost"] = cost / first
        console.print(f"{dimension.title} {size:,}: {cost:.1f} µs an event, {rows[-1]['recount']}")
    return rows


def measure(name: str, options: argparse.Namespace) -> Suite:
    dimension = DIMENSIONS[name]
    sizes = [int(size) for size in options.sizes.split(",")] if options.sizes else dimension.sizes
    plain = Traffic(options.events)
    parameters: dict[str, Figure] = {"events": options.events, "raw partitions": PARTITIONS, "Kafka": options.kafka}
    parameters["`emit_every`"] = EMIT_EVERY
    parameters.pop(name.replace("-", " "), None)  # it is the one that grows
    notes = ["`cost`: seconds per event against the first line's.", *([dimension.note] if dimension.note else [])]
    rows = medians([_one_run(dimension, sizes, options.kafka, plain) for _ in range(options.runs)])
    return Suite(f"growth.{name}", f"Growth: {name.replace('-', ' ')}", parameters, rows, notes, options.runs)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--of", default=",".join(DIMENSIONS), help=f"some of: {', '.join(DIMENSIONS)}")
    parser.add_argument("--sizes", help="instead of the dimension's own, for a small run: 10,1000")
    parser.add_argument("--events", type=int, default=1_000_000, help="per point (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kafka", choices=[EMBEDDED, APACHE], default=APACHE)


def main(options: argparse.Namespace) -> list[Suite]:
    names = options.of.split(",")
    if unknown := set(names) - DIMENSIONS.keys():
        raise SystemExit(f"There is no {', '.join(sorted(unknown))}. Choose of {', '.join(DIMENSIONS)}.")
    return [measure(name, options) for name in names]
