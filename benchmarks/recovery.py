"""What a crash, a lost disk and a takeover cost: seconds until the engine is where it would have been.

Killed: SIGKILL to `work` under load, started again a second later as `up` does, until the books have caught up with
what was sent. Rebuilt: the id stores deleted, the ids read back from the events topic. Taken over: a worker that
remembers no totals meets every open group again.
"""

import argparse
import asyncio
import shutil
import time
from itertools import islice

from benchmarks.beds import APACHE, EMBEDDED, PARTITIONS, TOPIC, Bed, bed, end_to_end
from benchmarks.recount import EQUAL, check
from benchmarks.results import Figure, Row, Suite, console, medians
from benchmarks.traffic import WINDOW_MS, Traffic
from benchmarks.workers import Books, Workers, until, workers

RESTART_SECONDS = 1.0
BEHIND_SECONDS = 1.0  # the books are caught up when they lag by no more than this much of the load


async def killed(bed: Bed, rate: float, seconds: float) -> Row:
    """SIGKILL to `work` a third of the way through a steady load."""
    await bed.make_topic(TOPIC)
    traffic, sent = Traffic(int(rate * seconds)), [0]
    async with workers(bed) as running, Books.of(bed) as books:
        running.start("route")
        work = running.start("work")
        await running.ready(PARTITIONS)
        load = asyncio.create_task(bed.feed(traffic.values(), rate=rate, on_sent=lambda n: sent.__setitem__(0, n)))
        await books.reach(int(rate * seconds / 3))
        work.kill()
        died = time.perf_counter()
        await asyncio.sleep(RESTART_SECONDS)
        running.start("work")
        await running.ready(0)
        opened = time.perf_counter() - died
        while await books.records() < sent[0] - rate * BEHIND_SECONDS:
            await asyncio.sleep(0.05)
        caught_up = time.perf_counter() - died
        await load
        await books.shown(traffic.counted())
        await running.stop()
    verdict = await check(bed.addresses.database, traffic.totals(), traffic.events)
    return {
        "what": f"`work` killed at {rate:,.0f} events/s, until caught up",
        "seconds": caught_up,
        "of them until all partitions were open": opened,
        "recount": verdict,
    }


async def rebuilt(bed: Bed, ids: int, processes: int) -> Row:
    """The id stores deleted, after so many events; against the same start with the stores in place."""
    await bed.make_topic(TOPIC)
    traffic = Traffic(ids)
    await bed.feed(traffic.values())
    async with workers(bed) as running, Books.of(bed) as books:
        running.start("route")
        work = running.start("work")
        await books.reach(ids)
        await work.stop()
        usual, usual_cpu = await _opened(running, processes)
        await asyncio.gather(*(worker.stop() for worker in running.all[-processes:]))
        shutil.rmtree(bed.directory / "ids")
        rebuild, rebuild_cpu = await _opened(running, processes)
        counted = traffic.counted()
        await books.shown(counted)
        await running.stop()
    verdict = await check(bed.addresses.database, traffic.totals(), ids)
    return {
        "what": f"{counted:,} ids rebuilt from the events topic, work processes: {processes}",
        "seconds": rebuild - usual,
        "of them until all partitions were open": rebuild,
        "a second": counted / (rebuild - usual) if rebuild > usual else None,
        "µs of CPU each": (rebuild_cpu - usual_cpu) / counted * 1e6,
        "recount": verdict,
    }


async def _opened(running: Workers, processes: int) -> tuple[float, float]:
    """Seconds from the start of so many `work` processes until they have every partition open; and of CPU, of all."""
    started = time.perf_counter()
    running.start("work", processes)
    wanted = 2 * running.bed.settings.partitions
    await until("every internal partition is open", lambda: running.open_partitions("work") >= wanted, 600)
    seconds = time.perf_counter() - started
    times = [worker.process.cpu_times() for worker in running.all[-processes:]]
    return seconds, sum(one.user + one.system for one in times)


async def taken_over(bed: Bed, groups: int) -> Row:
    """The second half of the events meets open groups that no process remembers; the first half's pace is the base."""
    await bed.make_topic(TOPIC)
    traffic = Traffic(4 * groups, customers=groups, speeds=1, span_ms=WINDOW_MS)  # 2 % of groups get none by half-time
    half = traffic.events // 2
    values = traffic.values()
    await bed.feed(islice(values, half))
    first = await end_to_end(bed, half)
    await bed.feed(values)
    second = await end_to_end(bed, traffic.events)
    verdict = await check(bed.addresses.database, traffic.totals(), traffic.events)
    more = second.seconds - first.seconds
    known = len(traffic.totals(half))
    found: dict[str, Figure] = {"what": f"{known:,} open groups taken over, beside the work itself", "seconds": more}
    return {**found, "a second": known / more if more > 0 else None, "recount": verdict}


def _one_run(options: argparse.Namespace) -> list[Row]:
    measurements = {
        "killed": lambda services: killed(services, options.rate, options.seconds),
        "rebuilt": lambda services: rebuilt(services, options.ids, 1),
        "rebuilt-by-two": lambda services: rebuilt(services, options.ids, 2),
        "taken_over": lambda services: taken_over(services, options.groups),
    }
    rows: list[Row] = []
    for name in options.of.split(","):
        with bed(options.kafka) as services:
            rows.append(asyncio.run(measurements[name](services)))
        console.print(f"{rows[-1]['what']}: {rows[-1]['seconds']:.1f} s, {rows[-1]['recount']}")
        assert rows[-1]["recount"] == EQUAL, rows[-1]
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--of", default="killed,rebuilt,rebuilt-by-two,taken_over", help="some of these (default: all)")
    parser.add_argument("--rate", type=float, default=20_000, help="events a second while `work` is killed")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long that load lasts")
    parser.add_argument("--ids", type=int, default=10_000_000)
    parser.add_argument("--groups", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kafka", choices=[EMBEDDED, APACHE], default=APACHE)


def main(options: argparse.Namespace) -> list[Suite]:
    rows = medians([_one_run(options) for _ in range(options.runs)])
    notes = ["A killed worker's partitions wait for Kafka's session timeout of 10 s before another gets them."]
    return [Suite("recovery", "Recovery", {"Kafka": options.kafka}, rows, notes, options.runs)]
