"""Events a second through `POST /v1/ingest`, with `serve` on one core, beside the same straight to the same Kafka.

`serve` has the first core for itself; broker, database and load generator have the others. The yardsticks run on that
first core as well, one after the other. A fixed number of requests is under way at once, each of 500 events; the next
is sent when one was answered, so latency is that of a server at its limit. What was acknowledged is then counted by the
engine and compared with a recount. (about a minute)
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import psutil

from benchmarks.beds import APACHE, EMBEDDED, PARTITIONS, TOPIC, Bed, bed, end_to_end, engine
from benchmarks.recount import EQUAL, check
from benchmarks.results import Figure, Row, Suite, console, medians
from benchmarks.traffic import Traffic
from rollup_engine.runtime import api_keys, processes, schema

BATCH = 500
LANES = 8  # requests under way at once
WARM_UP = 20
START_SECONDS = 30.0
YARDSTICK_SECONDS = 120
LABEL = "`serve`, POST /v1/ingest"
YARDSTICKS = {"send": "aiokafka, `send` for each event", "batches": "aiokafka, `send_batch` of 500"}
YAML = """\
event: usage
source: {topic: usage}
fields: {id: idempotency_key, timestamp: timestamp, external_customer_id: external_customer_id}
rollups:
  - group_by: [{path: properties.speed, as: speed}]
    aggregates: [{sum: properties.bytes, as: sum_bytes, minimum: 0}]
    emit_every: 5s
grace_period: unlimited
"""


def events(traffic: Traffic) -> list[bytes]:
    """The benchmarks' events in Orb's shape."""
    made = []
    for value in traffic.values():
        one = json.loads(value)
        properties = {"bytes": one["bytes"], "speed": one["speed"], "path": one["path"]}
        event = {
            "event_name": "usage",
            "idempotency_key": one["id"],
            "timestamp": one["at"],
            "external_customer_id": one["customer"],
            "properties": properties,
        }
        made.append(json.dumps(event, separators=(",", ":")).encode())
    return made


def row(what: str, count: int, seconds: float, latencies: list[float], cpu: float | None = None) -> Row:
    """`latencies` in seconds; of a request, or of a batch."""
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return {
        "what": what,
        "events/s": count / seconds,
        "p50, ms": 1e3 * cuts[49],
        "p99, ms": 1e3 * cuts[98],
        "of its core, %": None if cpu is None else 100 * cpu / seconds,
        "µs of CPU/event": None if cpu is None else 1e6 * cpu / count,
    }


def with_ratios(rows: list[Row]) -> list[Row]:
    """Each rate to that of `serve`, which comes first, and that of `serve` to each."""
    rate = rows[0]["events/s"]
    assert isinstance(rate, float)
    done = []
    for one in rows:
        own = one["events/s"]
        assert isinstance(own, float)
        ratio: dict[str, Figure] = {"serve to it": rate / own}
        what, events_s, *rest = one.items()
        done.append(dict([what, events_s]) | ratio | dict(rest))
    return done


@contextmanager
def serving(bed: Bed, core: int) -> Iterator[tuple[str, psutil.Process]]:
    """`serve` as a process of its own on one core: its address, and it."""
    port = processes.free_port()
    environment = os.environ | {
        "ROLLUP_KAFKA_BOOTSTRAP_SERVERS": bed.addresses.kafka,
        "ROLLUP_DATABASE_URL": bed.addresses.database,
        "ROLLUP_STATE_DIR": str(bed.directory),
        "ROLLUP_APP_ID": bed.settings.app_id,
        "ROLLUP_INGEST_RATE": "1000000/second",
        "ROLLUP_API_PORT": str(port),
        "ROLLUP_LOG_LEVEL": "WARNING",
    }
    log = bed.directory / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "rollup_engine", "serve"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        seen = psutil.Process(process.pid)
        seen.cpu_affinity([core])

        def listening() -> bool:
            return process.poll() is not None or _answers(port)

        if not processes.wait_until(listening, START_SECONDS) or process.poll() is not None:
            raise SystemExit(f"`serve` does not start: {processes.log_tail(log)}")
        yield f"http://127.0.0.1:{port}", seen
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def over_http(url: str, key: str, bodies: list[bytes], lanes: int = LANES) -> tuple[float, list[float]]:
    """Seconds for all of them, and each request's."""
    left, latencies = iter(bodies), list[float]()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=lanes)) as session:

        async def lane() -> None:
            for body in left:
                started = time.perf_counter()
                async with session.post(f"{url}/v1/ingest", data=body) as answer:
                    said = await answer.read()
                if answer.status != 200:
                    raise SystemExit(f"`serve` answered {answer.status}: {said.decode()[:500]}")
                latencies.append(time.perf_counter() - started)

        started = time.perf_counter()
        await asyncio.gather(*(lane() for _ in range(lanes)))
        return time.perf_counter() - started, latencies


async def through_serve(bed: Bed, made: list[bytes], core: int) -> Row:
    """All events, once, onto the raw topic."""
    async with engine(bed):  # the app id has to have run once: `serve` takes its YAML from Postgres
        pass
    async with schema.connected(bed.addresses.database, connections_max=1) as pool:
        key = await api_keys.create(pool, bed.settings.app_id, "bench", ["ingest"], None)
    parts = [made[start : start + BATCH] for start in range(0, len(made), BATCH)]
    bodies = [b'{"events":[' + b",".join(part) + b"]}" for part in parts]
    with serving(bed, core) as (url, process):
        await over_http(url, key, bodies[:WARM_UP])  # connects to Kafka; these come a second time below
        before = sum(process.cpu_times()[:2])
        seconds, latencies = await over_http(url, key, bodies)
        cpu = sum(process.cpu_times()[:2]) - before
    return row(LABEL, len(made), seconds, latencies, cpu)


def straight(bed: Bed, file: Path, variant: str, count: int, core: int) -> Row:
    """A yardstick, on a topic of its own."""
    topic = f"straight-{variant}"
    asyncio.run(bed.make_topic(topic))
    out = bed.directory / f"{variant}.json"
    command = [sys.executable, "-m", "benchmarks.yardsticks.straight", "--kafka", bed.addresses.kafka]
    command += ["--topic", topic, "--file", str(file), "--out", str(out), "--variant", variant]
    command += ["--partitions", str(PARTITIONS), "--batch", str(BATCH), "--lanes", str(LANES)]
    command += ["--idempotent"] if bed.kind == APACHE else []
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    psutil.Process(process.pid).cpu_affinity([core])
    try:
        status = process.wait(YARDSTICK_SECONDS)
    finally:
        process.kill()
    if status:
        raise SystemExit(f"The yardstick {variant!r} ended with {status}.")
    told = json.loads(out.read_text())
    return row(YARDSTICKS[variant], count, told["seconds"], told["latencies"])


def measured(kind: str, traffic: Traffic) -> list[Row]:
    """One run. Raises `SystemExit` where what was acknowledged is not what was counted."""
    here = psutil.Process()
    cores = here.cpu_affinity()
    if len(cores) < 2:
        raise SystemExit("This needs two cores: one for `serve`, another for what feeds it.")
    core, others = cores[0], cores[1:]
    made = events(traffic)
    here.cpu_affinity(others)  # what is started from here on inherits it
    try:
        with bed(kind, YAML) as services:
            asyncio.run(services.make_topic(TOPIC))
            rows = [asyncio.run(through_serve(services, made, core))]
            file = services.directory / "events.ndjson"
            file.write_bytes(b"\n".join(made))
            rows += [straight(services, file, variant, len(made), core) for variant in YARDSTICKS]
            here.cpu_affinity(cores)
            received = len(made) + min(WARM_UP * BATCH, len(made))
            asyncio.run(end_to_end(services, received))
            verdict = asyncio.run(check(services.addresses.database, traffic.totals(), received))
    finally:
        here.cpu_affinity(cores)
    if verdict != EQUAL:
        raise SystemExit(verdict)
    console.print(f"{kind}: every acknowledged event is in the totals, once.")
    return with_ratios(rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=int, default=150_000)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--kafka", choices=[EMBEDDED, APACHE], default=EMBEDDED)


def main(options: argparse.Namespace) -> list[Suite]:
    traffic = Traffic(options.events)
    rows = medians([measured(options.kafka, traffic) for _ in range(options.runs)])
    where = {EMBEDDED: "on the embedded broker", APACHE: "on Apache Kafka"}[options.kafka]
    size = sum(map(len, events(Traffic(1_000)))) // 1_000
    parameters: dict[str, Figure] = {
        "events": options.events,
        "bytes an event": size,
        "events a request": BATCH,
        "requests at once": LANES,
    }
    note = (
        "`serve` and each yardstick had one core; broker, database and load generator the others. A latency is that of"
        " one request, or of a batch until all of it is acknowledged, at full load. What was acknowledged over HTTP is"
        " in the totals, once, as a recount says."
    )
    return [Suite(f"ingest.{options.kafka}", f"Events over HTTP, {where}", parameters, rows, [note], options.runs)]
