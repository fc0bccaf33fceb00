"""Events per second of the whole path, beside yardsticks on the same topic in the same run.

N events already lie on the raw topic. The engine runs `route` and `work` as processes, with deduplication, durable
hand-overs and the fenced transaction; its clock runs from all partitions being open until every total is in Postgres.
Its figure counts only where totals and books equal the recount.
"""

import argparse
import asyncio

from benchmarks.beds import APACHE, EMBEDDED, PARTITIONS, TOPIC, Bed, bed, end_to_end
from benchmarks.recount import check
from benchmarks.results import Row, Suite, console, medians
from benchmarks.traffic import Traffic
from benchmarks.yardsticks.running import YARDSTICKS, Outcome, run

ENGINES = {"engine": 1, "engine-2": 2}  # how many processes of each role
LABEL = "rollup-engine, end to end"
NAMES = (*ENGINES, *(yardstick.name for yardstick in YARDSTICKS))
EVENTS = 3_000_000
NOTE = (
    "`recount`: whether totals per window start, customer and speed, each id once, equal the recount; of the engine,"
    " its books too. Where a yardstick had fewer events, they were the first ones, on a topic of their own."
)


def one_run(kind: str, traffic: Traffic, only: frozenset[str]) -> list[Row]:
    """The engine and the chosen yardsticks: a row for each. The yardsticks share one topic; what is one process of each
    role follows them there, and others find the same events on a fresh one."""
    rows: list[Row] = []
    with bed(kind) as services:
        rows += asyncio.run(_yardsticks(services, traffic, only))
        if "engine" in only:
            rows.insert(0, asyncio.run(_engine(services, traffic, 1)))
    for name, number in ENGINES.items():
        if name in only and number > 1:
            with bed(kind) as services:
                asyncio.run(_fill(services, traffic))
                rows.insert(1 if "engine" in only else 0, asyncio.run(_engine(services, traffic, number)))
    return _with_ratios(rows)


async def _fill(bed: Bed, traffic: Traffic) -> None:
    await bed.make_topic(TOPIC)
    await bed.feed(traffic.values())


async def _yardsticks(bed: Bed, traffic: Traffic, only: frozenset[str]) -> list[Row]:
    await _fill(bed, traffic)
    rows: list[Row] = []
    for yardstick in YARDSTICKS:
        if yardstick.name in only:
            rows.append(_row(yardstick.label, await run(yardstick, bed, traffic, TOPIC)))
            console.print(_said(rows[-1]))
    return rows


async def _engine(bed: Bed, traffic: Traffic, processes: int) -> Row:
    measured = await end_to_end(bed, traffic.events, processes)
    verdict = await check(bed.addresses.database, traffic.totals(), traffic.events)
    label = LABEL if processes == 1 else f"{LABEL}, {processes} of each role"
    row = _row(label, Outcome(traffic.events, verdict, measured.seconds, sum(measured.memory_mb.values())))
    for role, cpu in measured.cpu.items():
        row[f"{role}, µs of CPU/event"] = cpu * 1e6 / traffic.events
    console.print(_said(row))
    return row


def _row(label: str, outcome: Outcome) -> Row:
    rate = outcome.events / outcome.seconds if outcome.seconds else None
    return {
        "what": label,
        "events": outcome.events,
        "events/s": rate,
        "to the drain": None,
        "to the engine": None,
        "memory, MB": outcome.memory_mb,
        "recount": outcome.verdict,
    }


def _with_ratios(rows: list[Row]) -> list[Row]:
    for column, against in (("to the drain", YARDSTICKS[0].label), ("to the engine", LABEL)):
        base = next((row["events/s"] for row in rows if row["what"] == against), None)
        for row in rows:
            rate = row["events/s"]
            if isinstance(base, float) and isinstance(rate, float):
                row[column] = rate / base
    return rows


def _said(row: Row) -> str:
    rate = row["events/s"]
    return f"{row['what']}: {f'{rate:,.0f} events/s, ' if isinstance(rate, float) else ''}{row['recount']}"


def measure(kind: str, traffic: Traffic, runs: int, only: frozenset[str]) -> Suite:
    """The suite of one kind of Kafka."""
    rows = medians([one_run(kind, traffic, only) for _ in range(runs)])
    name = {EMBEDDED: "the embedded broker", APACHE: "Apache Kafka"}[kind]
    size = traffic.file.stat().st_size / traffic.events
    return Suite(
        name=f"end_to_end.{kind}",
        title=f"End to end, on {name}",
        parameters={"events": traffic.events, "bytes an event": size, "raw partitions": PARTITIONS},
        rows=rows,
        runs=runs,
        notes=[NOTE],
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kafka", choices=[EMBEDDED, APACHE], default=EMBEDDED)
    parser.add_argument("--only", default=",".join(NAMES), help=f"some of {','.join(NAMES)}")


def main(options: argparse.Namespace) -> list[Suite]:
    only = frozenset(options.only.split(","))
    if unknown := only - set(NAMES):
        raise SystemExit(f"There is no {', '.join(sorted(unknown))}. Choose of {', '.join(NAMES)}.")
    return [measure(options.kafka, Traffic(options.events), options.runs, only)]
