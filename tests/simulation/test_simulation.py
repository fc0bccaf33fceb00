"""Random schedules of faults come to exactly what the recount says.

SIM_SCHEDULES sets how many seeds are run, SIM_FROM the first.
"""

import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.simulation.oracle import CONFLICTING, COUNTED, DUPLICATE, INVALID, LATE, UNMATCHED
from tests.simulation.schedule import Simulation

SCHEDULES = int(os.environ.get("SIM_SCHEDULES", "300"))
FROM = int(os.environ.get("SIM_FROM", "1"))
PARTS = 6
EVENTS = (  # must all have been met, or the schedules prove little
    "append to sim.events",
    "append to sim.deltas",
    "takes effect, the answer is lost",
    "is given up, still under way",
    "arrives late",
    "is killed",
    "is asked to stop",
    "StoreFault('before the write')",
    "StoreFault('after the write')",
    "but the claim was lost",
    "ended: ClaimLost",
    "is lost",
    "is rolled back",
    "generation 2",
    "the broker loses the last record",
)
met: Counter[str] = Counter()


@pytest.mark.parametrize("part", range(PARTS))
def test_schedules_are_exact(part: int) -> None:
    for seed in range(FROM + part, FROM + SCHEDULES, PARTS):
        simulation = Simulation(seed)
        met[simulation.run()] += 1
        trace = "\n".join(simulation.trace)
        met.update(event for event in EVENTS if event in trace)
        for books in simulation.engine.sink.books.values():
            met.update(kind for kind, count in vars(books).items() if isinstance(count, int) and count)


@pytest.mark.skipif(SCHEDULES < 300, reason="so few schedules need not meet everything")
def test_the_schedules_met_every_verdict_and_every_fault() -> None:
    expected = {"exact", "noticed", *EVENTS, COUNTED, DUPLICATE, CONFLICTING, LATE, INVALID, UNMATCHED}
    missing = expected - met.keys()
    assert not missing or not met, f"never met: {sorted(missing)}"


def test_a_seed_repeats_its_schedule_step_by_step() -> None:
    """In another process too, whose hashes of strings are others."""
    traces = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-m", "tests.simulation", "--seed", "4", "--trace"]
        traces.append(subprocess.run(command, env=environment, capture_output=True, check=True, timeout=120).stdout)
    assert traces[0] == traces[1]
    assert len(traces[0].splitlines()) > 50
