"""Random schedules of faults come to exactly what the recount says.

SIM_SCHEDULES sets how many seeds are run, SIM_FROM the first.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.simulation import many
from tests.simulation.oracle import CONFLICTING, COUNTED, DUPLICATE, INVALID, LATE, UNMATCHED

SCHEDULES = int(os.environ.get("SIM_SCHEDULES", "2000"))
FROM = int(os.environ.get("SIM_FROM", "1"))
PARTS = 10  # so that each is short enough to tell it from one that hangs
ENOUGH = 1_000  # schedules, to meet everything


@pytest.fixture(scope="module")
def outcomes() -> Iterator[Iterator[many.Found]]:
    """What slices of seeds come to, as they are run."""
    with closing(many.run_on_all_cores(iter(range(FROM, FROM + SCHEDULES)))) as running:
        yield running


@pytest.fixture(scope="module")
def found() -> many.Found:
    """In all, so far."""
    return many.Found()


@pytest.mark.parametrize("part", range(PARTS))
def test_schedules_are_exact(outcomes: Iterator[many.Found], found: many.Found, part: int) -> None:
    while found.schedules < (part + 1) * SCHEDULES // PARTS:
        more = next(outcomes)
        found.add(more)
        assert not more.violations, "\n".join(more.violations)


@pytest.mark.skipif(SCHEDULES < ENOUGH, reason="so few schedules need not meet everything")
def test_the_schedules_met_every_verdict_and_every_fault(found: many.Found) -> None:
    expected = {*many.FAULTS, COUNTED, DUPLICATE, CONFLICTING, LATE, INVALID, UNMATCHED}
    assert not expected - found.met.keys()
    assert found.ends.keys() == {"exact", "noticed"}


def test_a_seed_repeats_its_schedule_step_by_step() -> None:
    """In another process too, whose hashes of strings are others."""
    traces = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-m", "tests.simulation", "--seed", "4", "--trace"]
        traces.append(subprocess.run(command, env=environment, capture_output=True, check=True, timeout=120).stdout)
    assert traces[0] == traces[1]
    assert len(traces[0].splitlines()) > 50
