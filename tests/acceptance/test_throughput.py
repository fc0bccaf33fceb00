"""The end-to-end rate against a plain drain of the same topic in the same run: not below half of the recorded ratio.

A ratio, so that a slow machine slows both; the best of a few runs, so that a moment's noise does not count. To record
another: `python -m benchmarks end_to_end --events 600000 --only engine,drain`, and `benchmarks/recorded.json`.
"""

import json
import time
from pathlib import Path

import pytest

from benchmarks.beds import EMBEDDED
from benchmarks.end_to_end import LABEL, one_run
from benchmarks.recount import EQUAL
from benchmarks.traffic import Traffic

RECORDED = json.loads((Path(__file__).resolve().parents[2] / "benchmarks" / "recorded.json").read_text())
TRIES = 3
LAST_TRY_SECONDS = 25.0  # no further one is begun after so long


def ratio(events: int) -> float:
    """Of one run, whose totals and books must be exact."""
    rows = {row["what"]: row for row in one_run(EMBEDDED, Traffic(events), frozenset({"engine", "drain"}))}
    engine = rows[LABEL]
    assert engine["recount"] == EQUAL
    found = engine["to the drain"]
    assert isinstance(found, float)
    return found


@pytest.mark.slow
def test_not_below_half_of_the_recorded_ratio() -> None:
    wanted, started = RECORDED["to_the_drain"] / 2, time.monotonic()
    found = [ratio(RECORDED["events"])]
    while max(found) < wanted and len(found) < TRIES and time.monotonic() - started < LAST_TRY_SECONDS:
        found.append(ratio(RECORDED["events"]))
    assert max(found) >= wanted, f"ratios to the drain {found}; at least {wanted} is wanted"
