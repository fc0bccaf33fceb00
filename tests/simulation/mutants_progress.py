"""The guards of rule 2: only who holds the claim writes, and a session begins with what the last one ended with."""

from rollup_engine import exchange
from rollup_engine.dedup import stage as dedup_stage
from rollup_engine.dedup.stage import DedupPartition
from rollup_engine.route import stage as route_stage
from rollup_engine.route.stage import RoutePartition
from rollup_engine.runtime.memory import MemorySink
from rollup_engine.topology import Topology
from rollup_engine.windows.stage import RollupPartition
from tests.simulation.mutant import Change, without

COMPARE_AND_SET = "(row.epoch, row.version) != (claim.position.epoch, claim.position.version)"
ADVANCE_DEDUP = "self._claim = await self._sink.advance(self._claim, position, state, outcome.writes)"
JUDGE = "outcome = deduplicate(self._state, self._marks, batch, config, self._store.get)"
COVERED = "covered = {**self._state.covered, **{rollup.table: position for rollup in config.rollups}}"
AFTER = "after = msgspec.structs.replace(outcome.state, generation=generation, covered=covered)"
STATE = "state = msgspec.to_builtins(after)"
STORE = "self._store.write(*outcome.puts, position, self._incarnation)"
BOUNDS = "start, end = await self._log.bounds(self._topic, self._partition)"
CLAIM_DEDUP = "self._claim = await self._sink.claim(DEDUP, self.source, 0)"

PROGRESS = [
    without(
        "an advance needs the epoch",
        MemorySink,
        "advance",
        COMPARE_AND_SET,
        "row.version != claim.position.version",
        seed=2,
    ),
    without(
        "an advance needs the version",
        MemorySink,
        "advance",
        COMPARE_AND_SET,
        "row.epoch != claim.position.epoch",
        seed=17,
    ),
    without("a claim raises the epoch", MemorySink, "claim", "row.epoch + 1", "row.epoch", seed=2),
    without("writes belong to the transaction", MemorySink, "advance", "raise ClaimLost", "pass", seed=2),
    without(
        "route advances once all is acknowledged",
        exchange,
        "send",
        "raise failed.exceptions[0] from None",
        "pass",
        seed=2,
    ),
    without(
        "dedup's marks are part of its advance",
        dedup_stage,
        "deduplicate",
        "dict(marks.by_source)",
        "dict(state.marks)",
    ),
    without(
        "rollup's marks are part of its advance",
        RollupPartition,
        "_taken_in",
        "dict(self._marks.by_source)",
        "{}",
    ),
    without(
        "dedup advances once the deltas are acknowledged",
        DedupPartition,
        "_process",
        ADVANCE_DEDUP,
        "pass",
        Change(
            DedupPartition, "_process", JUDGE, f"{JUDGE}\n    {COVERED}\n    {AFTER}\n    {STATE}\n    {ADVANCE_DEDUP}"
        ),
    ),
    without(
        "a flush cut off is finished under its own YAML",
        RoutePartition,
        "_take_over",
        "reached > position",
        "False",
        seed=11,
    ),
    without(
        "a record is judged under its own YAML",
        DedupPartition,
        "_process",
        "config = await self._topology.config_of(generation)",
        "config = self._topology.config",
        seed=5,
    ),
    without(
        "a rollup's deltas cover from where they were told last",
        DedupPartition,
        "_process",
        "self._state.covered.get(rollup.table, 0)",
        "0",
        seed=16,
    ),
    without(
        "a raw topic's last record is still the one it was",
        route_stage,
        "check_last",
        "!= checksum",
        "!= checksum and False",
        seed=72,
    ),
    without(
        "ids are rebuilt from this life of the events topic",
        dedup_stage,
        "check_last",
        "!= checksum",
        "!= checksum and False",
        seed=43,
    ),
    without(
        "a record is of this life of its topic",
        Topology,
        "check",
        "packed.incarnation != expected",
        "False",
        test="tests/simulation/test_lives.py",
    ),
    without(
        "an internal topic holds what is next",
        dedup_stage,
        "check_held",
        "not start <= position <= end",
        "False",
        test="tests/unit/dedup/test_dedup_stage.py::test_a_position_outside_the_topic_halts",
    ),
    without(
        "a raw topic's end does not lie before what is next",
        RoutePartition,
        "open",
        "position > end",
        "False",
        test="tests/unit/route/test_route_stage.py::test_a_topic_made_again_stops_the_partition",
    ),
    without(
        "a raw topic's start does not lie beyond what is next",
        RoutePartition,
        "open",
        "position < start",
        "False",
        test="tests/unit/route/test_route_stage.py::test_records_gone_before_they_were_read_stop_the_partition",
    ),
    without(
        "a store ahead of the sink is discarded",
        DedupPartition,
        "_catch_up",
        "store.clear()",
        "pass",
        Change(DedupPartition, "_process", ADVANCE_DEDUP, f"{STORE}; {ADVANCE_DEDUP}"),
    ),
    without(
        "a store behind the sink is brought up",
        DedupPartition,
        "_catch_up",
        "position = max(store.position, log_start)",
        "position = to",
        seed=2,
    ),
    without(
        "ids that are gone and still needed halt",
        DedupPartition,
        "_catch_up",
        "store.position < log_start",
        "False",
        test="tests/unit/dedup/test_dedup_stage.py::test_ids_that_cannot_be_rebuilt_and_are_still_needed_halt_the_partition",
    ),
    without(
        "bounds are read under the claim",
        DedupPartition,
        "open",
        f"{CLAIM_DEDUP}\n    {BOUNDS}",
        f"{BOUNDS}\n    {CLAIM_DEDUP}",
        seed=75,
    ),
]
