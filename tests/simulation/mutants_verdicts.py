"""The guards of rule 3, verdicts follow from the log, and those of the rollups made of what counts."""

from rollup_engine import keys
from rollup_engine.dedup import deduplicator, verdicts
from rollup_engine.dedup.deduplicator import DedupState
from rollup_engine.route.router import Router
from rollup_engine.topology import Topology
from rollup_engine.windows.accumulator import Accumulator
from rollup_engine.windows.stage import RollupPartition
from tests.simulation.mutant import Change, without

VERDICTS = [
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
        "the clock is a running maximum",
        Router,
        "route",
        "np.maximum.accumulate(np.minimum(record_ms, now_ms + CLOCK_AHEAD_MS)).clip(min=state.clock_ms)",
        "np.minimum(record_ms, now_ms + CLOCK_AHEAD_MS)",
        seed=74,
    ),
    without(
        "copies further apart than the horizon are no repeats",
        deduplicator,
        "judge_frame",
        "    plain &= (latest - earliest).view(np.uint64) <= horizon_ms  # up to 2^64 apart\n",
        "",
    ),
    without(
        "copies of other payloads are looked at one by one",
        deduplicator,
        "judge_frame",
        "    plain &= ~np.logical_or.reduceat(payload != payloads.repeat(copies), starts)\n",
        "",
    ),
    without(
        "an id is remembered as of its latest copy",
        deduplicator,
        "judge_frame",
        "    latest[seen.ids] = np.maximum(latest[seen.ids], seen.at_ms)\n",
        "",
    ),
    without(
        "a late id that stands alone is not remembered",
        deduplicator,
        "judge_frame",
        "put = (plain & (codes[starts] <= CODES[DUPLICATE])).tolist()",
        "put = plain.tolist()",
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
    without(
        "ids of several parts that read the same differ",
        keys,
        "joined",
        'texts += [pl.col(name).str.len_bytes(), pl.lit(":"), pl.col(name), pl.lit(":")]',
        "texts += [pl.col(name)]",
        Change(keys, "split", 'size, _, rest = rest.partition(b":")', 'size = b"1"'),
        seed=9,
    ),
]
ROLLUPS = [
    without(
        "totals are read back", Accumulator, "totals", "before = [read_back]", "before = [read_back.clear()]", seed=2
    ),
    without(
        "what a table holds as a session begins is read back",
        RollupPartition,
        "_new_from_ms",
        "FIRST_MS if last_ms is None else last_ms + 1",
        "FIRST_MS",
        seed=2,
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
