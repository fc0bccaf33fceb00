"""The simulation goes red for every guard that is taken away: one guard, one small change of its code, at a time.

Each mutant names a seed that shows it. Where a change elsewhere has made that schedule another one, the search goes on
from there. A guard whose code has changed is reported as such: this list then needs the new text.
"""

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from rollup_engine import exchange
from rollup_engine.dedup import stage as dedup_stage
from rollup_engine.dedup import verdicts
from rollup_engine.dedup.deduplicator import DedupState
from rollup_engine.dedup.stage import DedupPartition
from rollup_engine.exchange import Marks
from rollup_engine.route.router import Router
from rollup_engine.route.stage import RoutePartition
from rollup_engine.runtime.memory import MemorySink
from rollup_engine.topology import Topology
from rollup_engine.windows import stage as windows_stage
from rollup_engine.windows.accumulator import Accumulator
from rollup_engine.windows.stage import RollupPartition
from tests.simulation.schedule import Simulation

SCHEDULES_MAX = 400


@dataclass(frozen=True)
class Change:
    """`old`, which stands once in the source of `owner.name`, becomes `new`."""

    owner: Any
    name: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """The changes that take a guard away, and a seed that is known to show it."""

    guard: str
    seed: int
    changes: tuple[Change, ...]


def without(guard: str, owner: Any, name: str, old: str, new: str, *more: Change, seed: int = 1) -> Mutant:
    return Mutant(guard, seed, (Change(owner, name, old, new), *more))


COMPARE_AND_SET = "(row.epoch, row.version) != (claim.position.epoch, claim.position.version)"
ADVANCE_DEDUP = "self._claim = await self._sink.advance(self._claim, position, state, outcome.writes)"
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
        seed=2,
    ),
    without("a mark never goes back", exchange, "accept", "max(mark, end)", "end", seed=2),
    without("nothing is taken past a hole", exchange, "accept", "start > mark", "False", seed=34),
    without("a receiver waits at a hole", Marks, "admit", "if not ahead._refused:", "if True:", seed=94),
    without(
        "a hole that stays open is an alarm", Marks, "watch", "if elapsed_ms - ", "if False and elapsed_ms - ", seed=34
    ),
    without(
        "a mark begins at the sender's first position",
        DedupPartition,
        "_first_mark",
        "sender.first_offset",
        "0",
        seed=2,
    ),
    without(
        "every destination gets a record, rows or not",
        exchange,
        "send_to_all",
        "for to in range(partitions)",
        "for to in tables",
    ),
    without("an idle sender sends an empty record", RoutePartition, "tick", ">= self._idle_ms", "< 0", seed=382),
    without(
        "a row carries the events offset it comes from",
        dedup_stage,
        "deduplicate",
        "pl.lit(offset, dtype=pl.Int64)",
        "pl.lit(records[0][0], dtype=pl.Int64)",
        seed=5,
    ),
    without("a cut record's clock is not its first part's", exchange, "pack", "clock_ms=0, ", "", seed=49),
]
RULE_2 = [
    without(
        "an advance needs the epoch",
        MemorySink,
        "advance",
        COMPARE_AND_SET,
        "row.version != claim.position.version",
        seed=4,
    ),
    without(
        "an advance needs the version",
        MemorySink,
        "advance",
        COMPARE_AND_SET,
        "row.epoch != claim.position.epoch",
        seed=6,
    ),
    without("a claim raises the epoch", MemorySink, "claim", "row.epoch + 1", "row.epoch", seed=4),
    without("writes belong to the transaction", MemorySink, "advance", "raise ClaimLost", "pass", seed=4),
    without(
        "route advances once all is acknowledged",
        exchange,
        "send",
        "raise failed.exceptions[0] from None",
        "pass",
        seed=3,
    ),
    without(
        "dedup's marks are part of its advance",
        dedup_stage,
        "deduplicate",
        "dict(marks.by_source)",
        "dict(state.marks)",
        seed=2,
    ),
    without("rollup's marks are part of its advance", windows_stage, "state_of", "dict(marks.by_source)", "{}", seed=4),
    without(
        "a store ahead of the sink is discarded",
        DedupPartition,
        "_catch_up",
        "store.clear()",
        "pass",
        Change(DedupPartition, "_process", ADVANCE_DEDUP, f"{STORE}; {ADVANCE_DEDUP}"),
        seed=8,
    ),
    without(
        "a store behind the sink is brought up",
        DedupPartition,
        "_replay",
        "while position < to:",
        "while False:",
        seed=10,
    ),
    without(
        "bounds are read under the claim",
        DedupPartition,
        "open",
        f"{CLAIM_DEDUP}\n    {BOUNDS}",
        f"{BOUNDS}\n    {CLAIM_DEDUP}",
        seed=233,
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
        "if seen_ms >= at_ms - horizon_ms",
        "if runs[-1][1] >= at_ms - horizon_ms",
        seed=3,
    ),
    without(
        "late ids are not remembered",
        verdicts,
        "judge",
        "return LATE, runs",
        "return LATE, renewed(runs, payload, at_ms)",
        seed=14,
    ),
    without(
        "duplicates come before late ones",
        verdicts,
        "judge",
        "if inside is not None:",
        "if inside is not None and not late:",
        seed=11,
    ),
    without(
        "the clock is a running maximum", Router, "route", ".cum_max().clip(lower_bound=state.clock_ms)", "", seed=49
    ),
    without(
        "the watermark outlives a claim",
        Router,
        "route",
        "watermarks = dict(state.watermarks)",
        "watermarks = {}",
        seed=14,
    ),
    without(
        "ids live for a horizon", DedupState, "expired_before_ms", "return -horizon_ms + min(", "return min(", seed=5
    ),
    without(
        "a backlog holds deletion back",
        DedupState,
        "expired_before_ms",
        "self.idle.get(source, 0) if source in raw else fastest",
        "fastest",
        seed=102,
    ),
    without(
        "nothing is deleted before all raw partitions are known",
        DedupState,
        "expired_before_ms",
        " or not self.clocks.keys() >= set(raw)",
        "",
        seed=137,
    ),
]
ROLLUPS = [
    without(
        "totals are read back", Accumulator, "totals", "before = [read_back]", "before = [read_back.clear()]", seed=8
    ),
    without(
        "revisions rise",
        RollupPartition,
        "_emit",
        "max(self._revision_offset, self._position - 1)",
        "max(self._revision_offset, 0)",
        seed=5,
    ),
    without(
        "a worker with an older YAML stops", Topology, "check_generation", "met > self.generation", "False", seed=132
    ),
]


MUTANTS = [*RULE_1, *RULE_2, *RULE_3, *ROLLUPS]


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The engine without the guard."""
    with ExitStack() as undo:
        for change in mutant.changes:
            function = getattr(change.owner, change.name)
            source = textwrap.dedent(inspect.getsource(function))
            assert source.count(change.old) == 1, f"{change.name} no longer says {change.old!r} once: adapt this mutant"
            made: dict[str, Any] = {}
            code = compile(source.replace(change.old, change.new), f"<without: {mutant.guard}>", "exec")
            exec(code, function.__globals__, made)  # noqa: S102 - our own source, with one guard taken out
            setattr(change.owner, change.name, made[change.name])
            undo.callback(setattr, change.owner, change.name, function)
        yield


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.guard)
def test_the_simulation_goes_red_without(mutant: Mutant) -> None:
    Simulation(mutant.seed).run()  # and is not red with it
    with applied(mutant):
        for seed in range(mutant.seed, mutant.seed + SCHEDULES_MAX):
            try:
                Simulation(seed).run()
            except Exception:  # noqa: BLE001 - a violation, or a stage that breaks: red either way
                return
    pytest.fail(f"{SCHEDULES_MAX} schedules show nothing wrong without this guard: {mutant.guard}")
