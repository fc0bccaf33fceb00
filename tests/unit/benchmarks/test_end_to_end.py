"""Ratios of an end-to-end run, against its drain and its engine."""

import pytest

from benchmarks import end_to_end
from benchmarks.end_to_end import LABEL, YARDSTICKS
from benchmarks.yardsticks.running import Outcome

DRAIN, LOOP = YARDSTICKS[0].label, YARDSTICKS[1].label


def test_ratios_are_of_rates_not_of_seconds() -> None:
    rows = [
        end_to_end._row(LABEL, Outcome(1_000, "equal", 10.0, 300.0)),
        end_to_end._row(DRAIN, Outcome(1_000, "no totals", 2.0, 40.0)),
        end_to_end._row(LOOP, Outcome(500, "equal", 2.0, 50.0)),
    ]
    engine, drain, loop = end_to_end._with_ratios(rows)
    assert (engine["events/s"], drain["events/s"], loop["events/s"]) == (100.0, 500.0, 250.0)
    assert (engine["to the drain"], drain["to the drain"], loop["to the drain"]) == (0.2, 1.0, 0.5)
    assert (engine["to the engine"], drain["to the engine"], loop["to the engine"]) == (1.0, 5.0, 2.5)


def test_what_did_not_finish_has_no_figures() -> None:
    rows = [
        end_to_end._row(DRAIN, Outcome(1_000, "no totals", 2.0, 40.0)),
        end_to_end._row(LOOP, Outcome(1_000, "not done within 300 s")),
    ]
    _, loop = end_to_end._with_ratios(rows)
    assert loop["events/s"] is loop["to the drain"] is None
    assert loop["recount"] == "not done within 300 s"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(SystemExit, match="There is no loops"):
        end_to_end.main(end_to_end.argparse.Namespace(only="engine,loops", events=1, runs=1, kafka="embedded"))
