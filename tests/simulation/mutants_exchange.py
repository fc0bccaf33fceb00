"""The guards of rule 1: every row is taken in once, and nothing that was lost on the way is passed over."""

from rollup_engine import exchange, packing
from rollup_engine.dedup import stage as dedup_stage
from rollup_engine.dedup.stage import DedupPartition
from rollup_engine.exchange import Marks
from rollup_engine.route.stage import RoutePartition
from tests.simulation.mutant import Change, without

EXCHANGE = [
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
        "Part(packed, name, offset, taken.cut)",
        "Part(packed, name, records[0][0], taken.cut)",
    ),
    without(
        "a cut record's clock is not its first part's",
        packing,
        "pack",
        ", clock_ms=min(0, packed.clock_ms)",
        "",
        Change(exchange, "pack", ", clock_ms=min(0, packed.clock_ms)", ""),
        seed=820,
    ),
]
