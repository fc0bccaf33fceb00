"""Every guard of the engine, as the small change of its code or of an SQL statement that takes it away.

What shows that a guard is missing: the simulation, by a seed that is known to show it; or, where the simulation cannot
see it (another guard stands behind it, or the guard is SQL), a test of the suite. Where a change elsewhere has made a
seed's schedule another one, the search goes on from there. A guard whose code has changed is reported as such: this
list then needs the new text.
"""

from dataclasses import dataclass
from typing import Any

from rollup_engine import exchange
from rollup_engine.dedup import stage as dedup_stage
from rollup_engine.dedup import verdicts
from rollup_engine.dedup.deduplicator import DedupState
from rollup_engine.dedup.stage import DedupPartition
from rollup_engine.exchange import Marks
from rollup_engine.route import stage as route_stage
from rollup_engine.route.router import Router
from rollup_engine.route.stage import RoutePartition
from rollup_engine.runtime import sql
from rollup_engine.runtime.memory import MemorySink
from rollup_engine.runtime.postgres import PostgresSink
from rollup_engine.topology import Topology
from rollup_engine.windows.accumulator import Accumulator
from rollup_engine.windows.stage import RollupPartition

SINK_TESTS = "tests/contract/test_sink_contract.py"
FAULT_TESTS = "tests/contract/test_postgres_faults.py"


@dataclass(frozen=True)
class Change:
    """`old`, which stands once in the source of `owner.name`, or in the SQL of that name, becomes `new`."""

    owner: Any  # a class or module; a dictionary of named queries
    name: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """The changes that take a guard away, and what is known to show it: a `test` of the suite, otherwise a `seed`."""

    guard: str
    changes: tuple[Change, ...]
    seed: int = 1
    test: str = ""


def without(
    guard: str, owner: Any, name: str, old: str, new: str, *more: Change, seed: int = 1, test: str = ""
) -> Mutant:
    return Mutant(guard, (Change(owner, name, old, new), *more), seed, test)


PROGRESS = sql.queries("progress")
COMPARE_AND_SET = "(row.epoch, row.version) != (claim.position.epoch, claim.position.version)"
ADVANCE_DEDUP = "self._claim = await self._sink.advance(self._claim, position, state, outcome.writes)"
JUDGE = "outcome = deduplicate(self._state, self._marks, batch, config, self._store.get)"
COVERED = "covered = {**self._state.covered, **{rollup.table: position for rollup in config.rollups}}"
AFTER = "after = msgspec.structs.replace(outcome.state, generation=generation, covered=covered)"
STATE = "state = msgspec.to_builtins(after)"
STORE = "self._store.write(outcome.puts, position, self._incarnation)"
BOUNDS = "start, end = await self._log.bounds(self._topic, self._partition)"
CLAIM_DEDUP = "self._claim = await self._sink.claim(DEDUP, self.source, 0)"

RULE_1 = [
    without("rows below the mark are cut", exchange, "accept", "cut=mark", "cut=start"),
    without(
        "a record partly below the mark is cut, not dropped",
        exchange,
        "accept",
        "cut=mark",
        "cut=mark if start == mark else max(mark, end)",
    ),
    without("a mark never goes back", exchange, "accept", "max(mark, end)", "end"),
    without("nothing is taken past a hole", exchange, "accept", "start > mark", "False", seed=14),
    without("a receiver waits at a hole", Marks, "admit", "if not ahead._refused:", "if True:", seed=49),
    without(
        "a hole that stays open is an alarm", Marks, "watch", "if elapsed_ms - ", "if False and elapsed_ms - ", seed=14
    ),
    without(
        "a mark begins at the sender's first position",
        DedupPartition,
        "_first_mark",
        "sender.first_offset",
        "0",
    ),
    without(
        "every destination gets a record, rows or not",
        exchange,
        "send_to_all",
        "for to in range(partitions)",
        "for to in tables",
    ),
    without("an idle sender sends an empty record", RoutePartition, "tick", ">= self._idle_ms", "< 0", seed=17),
    without(
        "a row carries the events offset it comes from",
        dedup_stage,
        "deduplicate",
        "pl.lit(offset, dtype=pl.Int64)",
        "pl.lit(records[0][0], dtype=pl.Int64)",
    ),
    without(
        "a cut record's clock is not its first part's",
        exchange,
        "pack",
        ", clock_ms=min(0, packed.clock_ms)",
        "",
        seed=169,
    ),
]
RULE_2 = [
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
POSTGRES = [
    without(
        "Postgres: an advance needs the epoch",
        PROGRESS,
        "advance",
        "epoch = $4",
        "$4::bigint IS NOT NULL",
        test=f"{SINK_TESTS}::TestAdvance::test_a_claim_that_was_taken_over_changes_nothing[postgres]",
    ),
    without(
        "Postgres: an advance needs the version",
        PROGRESS,
        "advance",
        "version = $5",
        "$5::bigint IS NOT NULL",
        test=f"{SINK_TESTS}::TestAdvance::test_a_claim_advances_from_where_it_stands_only[postgres]",
    ),
    without(
        "Postgres: a claim raises the epoch",
        PROGRESS,
        "claim",
        "epoch = progress.epoch + 1",
        "epoch = progress.epoch",
        test=f"{SINK_TESTS}::TestClaims::test_of_claims_at_once_only_the_last_can_advance[postgres]",
    ),
    without(
        "Postgres: nothing is written without the row",
        PostgresSink,
        "_write",
        "raise ClaimLost",
        "pass",
        test=f"{SINK_TESTS}::TestAdvance::test_a_claim_that_was_taken_over_changes_nothing[postgres]",
    ),
    without(
        "Postgres: a COMMIT without an answer is read back",
        PostgresSink,
        "advance",
        "if unknown:",
        "if False:",
        test=f"{FAULT_TESTS}::TestAmbiguousCommit::test_the_advance_takes_place_once[lose the answer]",
    ),
    without(
        "Postgres: reading back waits for a COMMIT under way",
        PROGRESS,
        "position_settled",
        " FOR UPDATE",
        "",
        test=f"{FAULT_TESTS}::TestAmbiguousCommit::test_a_commit_under_way_is_waited_for",
    ),
]
RULE_3 = [
    without(
        "every copy renews the horizon",
        verdicts,
        "judge",
        "renewed(runs, payload, at_ms)\n    if future",
        "runs\n    if future",
        seed=2,
    ),
    without(
        "a conflict is with the earliest inside the horizon",
        verdicts,
        "judge",
        "for seen in inside if",
        "for seen, _ in runs if",
    ),
    without(
        "what other fields map is not compared", verdicts, "judge", "if comparable(seen, payload)", "if True", seed=5
    ),
    without(
        "late ids are not remembered",
        verdicts,
        "judge",
        "return LATE, runs",
        "return LATE, renewed(runs, payload, at_ms)",
        seed=49,
    ),
    without(
        "duplicates come before late ones",
        verdicts,
        "judge",
        "if inside:",
        "if inside and not late:",
        seed=3,
    ),
    without(
        "the clock is a running maximum", Router, "route", ".cum_max().clip(lower_bound=state.clock_ms)", "", seed=74
    ),
    without(
        "the watermark outlives a claim",
        Router,
        "route",
        "watermarks = dict(state.watermarks)",
        "watermarks = {}",
        seed=41,
    ),
    without(
        "ids live for a horizon", DedupState, "expired_before_ms", "return -horizon_ms + min(", "return min(", seed=2
    ),
    without(
        "a backlog holds deletion back",
        DedupState,
        "expired_before_ms",
        "self.idle.get(source, 0) if source in raw else fastest",
        "fastest",
        seed=199,
    ),
    without(
        "nothing is deleted before all raw partitions are known",
        DedupState,
        "expired_before_ms",
        " or not self.clocks.keys() >= set(raw)",
        "",
        seed=109,
    ),
]
ROLLUPS = [
    without(
        "totals are read back", Accumulator, "totals", "before = [read_back]", "before = [read_back.clear()]", seed=2
    ),
    without(
        "revisions rise",
        RollupPartition,
        "_write",
        "max(state.revision_offset + 1, to - 1)",
        "max(state.revision_offset, to - 1)",
    ),
    without(
        "a worker with an older YAML stops", Topology, "check_generation", "met > self.generation", "False", seed=273
    ),
]


MUTANTS = [*RULE_1, *RULE_2, *POSTGRES, *RULE_3, *ROLLUPS]
