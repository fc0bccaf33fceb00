"""Runs the yardsticks, each as a process of its own in the yardsticks' virtual environment, with a deadline.

Owns: which yardsticks there are, how many events each gets, and the verdict on what it hands back.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.beds import EMBEDDED, PARTITIONS, Bed
from benchmarks.recount import compared
from benchmarks.traffic import Traffic

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-bench" / "bin" / "python"  # `make bench` makes it
DEADLINE_SECONDS = 300
SLOW_EVENTS = 50_000
MEDIUM_EVENTS = 1_000_000
_NO_RETENTION = "its regrouping asks for the topic's `retention.ms`, which this broker does not tell"
_ENDS_EARLY = "reading a topic to its end, it leaves out the last records of this broker"


@dataclass(frozen=True)
class Yardstick:
    """`events_max`: slow ones get a topic with so many of the events, the first ones; events a second compare."""

    name: str
    label: str
    module: str
    variant: str = ""
    events_max: int | None = None
    counts: bool = True  # whether it has totals to compare
    not_embedded: str = ""  # why it cannot run on the embedded broker
    own_python: bool = True


YARDSTICKS = (
    Yardstick("drain", "plain aiokafka drain, no work", "drain", counts=False, own_python=False),
    Yardstick("loop", "hand-written loop, nothing durable", "loop"),
    Yardstick("faust", "Faust agent with Tables", "faust_tables", events_max=SLOW_EVENTS),
    Yardstick("quix", "quixstreams", "quix_tables", "", 4 * SLOW_EVENTS, not_embedded=_NO_RETENTION),
    Yardstick("bytewax", "bytewax, nothing durable", "bytewax_flow"),
    Yardstick("bytewax-recovery", "bytewax with recovery, 10 s epochs", "bytewax_flow", "recovery"),
    Yardstick("pathway", "pathway", "pathway_flow", "", MEDIUM_EVENTS, not_embedded=_ENDS_EARLY),
    Yardstick("duckdb", "DuckDB, batch from a file", "duckdb_batch"),
    Yardstick("polars", "Polars, batch from a file", "polars_batch"),
)


@dataclass(frozen=True)
class Outcome:
    """`verdict`: `equal`, `no totals`, `wrong: …`, or why it did not get that far; then there are no figures."""

    events: int
    verdict: str
    seconds: float | None = None
    memory_mb: float | None = None


async def run(yardstick: Yardstick, bed: Bed, traffic: Traffic, topic: str) -> Outcome:
    """On `topic`, which holds all of the traffic; or on one of its first events, made for it."""
    events = min(traffic.events, yardstick.events_max or traffic.events)
    if bed.kind == EMBEDDED and yardstick.not_embedded:
        return Outcome(events, f"cannot run on the embedded broker: {yardstick.not_embedded}")
    if yardstick.own_python and not PYTHON.exists():
        return Outcome(events, "not installed: run `make bench`")
    if events < traffic.events:
        topic = f"{topic}-{yardstick.name}"
        await bed.make_topic(topic)
        values = traffic.values()
        await bed.feed((next(values) for _ in range(events)), topic)
    with tempfile.TemporaryDirectory(prefix="rollup-engine-yardstick-") as directory:
        return _run(yardstick, bed, traffic, topic, events, Path(directory))


def _run(yardstick: Yardstick, bed: Bed, traffic: Traffic, topic: str, events: int, directory: Path) -> Outcome:
    out, log = directory / "out.json", directory / "log"
    (directory / "state").mkdir()
    python = str(PYTHON) if yardstick.own_python else sys.executable
    command = [python, "-m", f"benchmarks.yardsticks.{yardstick.module}", "--kafka", bed.addresses.kafka]
    command += ["--topic", topic, "--partitions", str(PARTITIONS), "--events", str(events)]
    command += ["--file", str(traffic.file), "--state", str(directory / "state"), "--out", str(out)]
    command += ["--variant", yardstick.variant]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + DEADLINE_SECONDS
    try:
        while process.poll() is None and not out.exists() and time.monotonic() < deadline:
            time.sleep(0.1)  # some never end by themselves; what they hand back is whole once it is there
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if not out.exists():
        late = process.returncode == -signal.SIGKILL
        why = f"not done within {DEADLINE_SECONDS} s" if late else f"failed: {_reason(log, process.returncode)}"
        return Outcome(events, why)
    told = json.loads(out.read_text())
    found = {(window, customer, speed): (count, size) for window, customer, speed, count, size in told["groups"]}
    verdict = compared(found, traffic.totals(events)) if yardstick.counts else "no totals"
    return Outcome(events, verdict, told["seconds"], told["memory_mb"])


def _reason(log: Path, status: int) -> str:
    """The last line of its output that names an error."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    return (errors or [f"exit status {status}"])[-1][:200].replace("|", "/")
