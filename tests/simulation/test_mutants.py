"""The simulation goes red for every guard that is taken away: one guard, one small change of its code, at a time.

Each mutant names a seed that shows it. Where a change elsewhere has made that schedule another one, the search goes on
from there. A guard whose code has changed is reported as such: this list then needs the new text.
"""

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from rollup_engine import exchange
from rollup_engine.dedup import deduplicator, verdicts
from rollup_engine.dedup import stage as dedup_stage
from rollup_engine.dedup.deduplicator import DedupState
from rollup_engine.dedup.memory import MemoryIds
from rollup_engine.dedup.stage import DedupPartition
from rollup_engine.exchange import Marks
from rollup_engine.route import router, stage as route_stage
from rollup_engine.route.router import Router
from rollup_engine.route.stage import RoutePartition
from rollup_engine.runtime.memory import MemorySink
from rollup_engine.topology import Topology
from rollup_engine.windows import accumulator, aggregates
from rollup_engine.windows import stage as windows_stage
from rollup_engine.windows.accumulator import Accumulator
from rollup_engine.windows.stage import RollupPartition
from tests.simulation.checks import Violation
from tests.simulation.schedule import Simulation

SCHEDULES_MAX = 400


@dataclass(frozen=True)
class Mutant:
    """`old` in the source of `owner.name` becomes `new`; `seed` is known to show it."""

    guard: str
    owner: Any
    name: str
    old: str
    new: str
    seed: int = 1


SEND_ROUTE = "await self._send(routed.tables, position, routed.state.clock_ms)"
ADVANCE_ROUTE = "self._claim = await self._sink.advance(self._claim, position, state, NOTHING)"
ADVANCE_DEDUP = "self._claim = await self._sink.advance(self._claim, position, state, outcome.writes)"
STORE = "self._store.write(outcome.puts, position, self._incarnation)"

MUTANTS = [
    # rule 1
    Mutant("rows below the mark are cut", exchange, "accept", "cut=mark", "cut=start"),
    Mutant("a record partly below the mark is cut, not dropped", exchange, "accept", "cut=mark", "cut=mark if start == mark else max(mark, end)"),
    Mutant("nothing is taken past a hole", exchange, "accept", "start > mark", "False"),
    Mutant("a receiver waits at a hole", Marks, "admit", "if not ahead._refused:", "if True:"),
    Mutant("a hole that stays open is an alarm", Marks, "watch", "if elapsed_ms - ", "if False and elapsed_ms - "),
    Mutant("a mark never goes back", exchange, "accept", "max(mark, end)", "end"),
    Mutant("a mark begins at the sender's first position", DedupPartition, "_first_mark", "sender.first_offset", "0"),
    Mutant("every destination gets a record, rows or not", exchange, "send_to_all", "for to in range(partitions)", "for to in tables"),
    Mutant("an idle sender sends an empty record", RoutePartition, "tick", ">= self._idle_ms", "< 0"),
    Mutant("rows carry the events offset they come from", dedup_stage, "deduplicate", "pl.lit(offset, dtype=pl.Int64)", "pl.lit(records[0][0], dtype=pl.Int64)"),
    Mutant("a split record's clock is not taken for its first part's", exchange, "pack", "clock_ms=0, ", ""),
    # rule 2
    Mutant("an advance needs the epoch", MemorySink, "advance", "(row.epoch, row.version) != (claim.position.epoch, claim.position.version)", "row.version != claim.position.version"),
    Mutant("an advance needs the version", MemorySink, "advance", "(row.epoch, row.version) != (claim.position.epoch, claim.position.version)", "row.epoch != claim.position.epoch"),
    Mutant("an advance needs either", MemorySink, "advance", "(row.epoch, row.version) != (claim.position.epoch, claim.position.version)", "False"),
    Mutant("a claim raises the epoch", MemorySink, "claim", "row.epoch + 1", "row.epoch"),
    Mutant("writes belong to the transaction", MemorySink, "advance", "raise ClaimLost", "pass"),
    Mutant("route sends before it advances", RoutePartition, "process", f"{SEND_ROUTE}\n    state: dict[str, object] = msgspec.to_builtins(routed.state)\n    {ADVANCE_ROUTE}", f"start = self._claim\n    state: dict[str, object] = msgspec.to_builtins(routed.state)\n    {ADVANCE_ROUTE}\n    self._claim, moved = start, self._claim\n    {SEND_ROUTE}\n    self._claim = moved"),
    Mutant("dedup's store is written after the advance", DedupPartition, "_process", ADVANCE_DEDUP, f"{STORE}\n    {ADVANCE_DEDUP}"),
    Mutant("a store behind the sink is brought up", DedupPartition, "_catch_up", "await self._replay(store, reader, position, to)", "pass"),
    Mutant("the store is brought up with ids and position in one write", DedupPartition, "_replay", "store.get), position, ", "store.get), store.position, "),
    Mutant("marks are part of dedup's advance", deduplicator, "deduplicate", "dict(marks.by_source)", "dict(state.marks)"),
    Mutant("marks are part of rollup's advance", windows_stage, "state_of", "dict(marks.by_source)", "{}"),
    Mutant("bounds are read under the claim", DedupPartition, "open", "self._claim = await self._sink.claim(DEDUP, self.source, 0)\n    start, end = await self._log.bounds(self._topic, self._partition)", "start, end = await self._log.bounds(self._topic, self._partition)\n    self._claim = await self._sink.claim(DEDUP, self.source, 0)"),
    # rule 3
    Mutant("copies that are cut renew their ids", deduplicator, "_judge", "found_keys = id_keys(rows)", 'rows = rows.filter("taken")\n    found_keys = id_keys(rows)'),
    Mutant("every copy renews the horizon", verdicts, "judge", "renewed(runs, payload, at_ms)\n    if future", "runs\n    if future"),
    Mutant("conflicting compares with the earliest inside the horizon", verdicts, "judge", "if seen_ms >= at_ms - horizon_ms", "if runs[-1][1] >= at_ms - horizon_ms"),
    Mutant("late ids are not remembered", verdicts, "judge", "return LATE, runs", "return LATE, renewed(runs, payload, at_ms)"),
    Mutant("duplicates are told before late ones", verdicts, "judge", "if inside is not None:", "if inside is not None and not late:"),
    Mutant("the clock is a running maximum", Router, "route", '.cum_max().clip(lower_bound=state.clock_ms).alias("clock_ms")', '.alias("clock_ms")'),
    Mutant("the watermark outlives a claim", Router, "route", "watermarks = dict(state.watermarks)", "watermarks = {}"),
    Mutant("ids live for a horizon beyond the slowest clock", DedupState, "expired_before_ms", "return slowest - horizon_ms", "return slowest"),
    Mutant("a source with a backlog holds deletion back", DedupState, "expired_before_ms", "self.empty.get(source, 0) > 1", "True"),
    Mutant("nothing is deleted before every source was heard of", DedupState, "expired_before_ms", "if not self.clocks.keys() >= set(raw):", "if not self.clocks:"),
    # rollup
    Mutant("totals are read back", Accumulator, "totals", "before = [read_back]", "before = [read_back.clear()]"),
    Mutant("revisions rise", RollupPartition, "_emit", "self._revision_offset = max(self._revision_offset, self._position - 1)", "self._revision_offset = 0"),
    Mutant("a worker with an older YAML stops", Topology, "check", "packed.generation > self.generation", "False"),
]


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    function = getattr(mutant.owner, mutant.name)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(mutant.old) == 1, f"{mutant.name} no longer holds the text of this guard once; adapt the mutant"
    made: dict[str, Any] = {}
    exec(compile(source.replace(mutant.old, mutant.new), f"<{mutant.guard}>", "exec"), function.__globals__, made)  # noqa: S102
    setattr(mutant.owner, mutant.name, made[mutant.name])
    try:
        yield
    finally:
        setattr(mutant.owner, mutant.name, function)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.guard)
def test_the_simulation_goes_red_without(mutant: Mutant) -> None:
    with applied(mutant):
        for seed in range(mutant.seed, mutant.seed + SCHEDULES_MAX):
            try:
                Simulation(seed).run()
            except Exception:  # noqa: BLE001 - a violation, or a stage that breaks: red either way
                return
    pytest.fail(f"{SCHEDULES_MAX} schedules show nothing wrong without the guard: {mutant.guard}")
