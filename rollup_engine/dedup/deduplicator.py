"""The core of the second stage, the only judge: rows of the events topic to verdicts, deltas, books, dead letters.

Pure: (state, records, remembered ids) -> outcome. Nothing is written here; the stage writes the outcome in the order
of rule 2. A record's rows are cut by the marks first; rows that are cut still renew their ids, but get no verdict.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import polars as pl

from rollup_engine import keys
from rollup_engine.config.model import Config, EventType
from rollup_engine.dedup import letters
from rollup_engine.dedup.verdicts import (
    CONFLICTING,
    COUNTED,
    FUTURE,
    INVALID,
    JUDGED_BY,
    LATE,
    UNMATCHED,
    Lookup,
    Puts,
    judge_frame,
)
from rollup_engine.exchange import NO_CLOCK_MS, Marks, Packed
from rollup_engine.progress import Books, Writes
from rollup_engine.route.router import EVENT, REJECTED
from rollup_engine.route.router import UNMATCHED as UNMATCHED_TABLE
from rollup_engine.windows import aggregates


class DedupState(msgspec.Struct, frozen=True):
    """What dedup keeps per events partition, in the sink's row."""

    marks: dict[str, int] = {}
    clocks: dict[str, int] = {}  # running maximum of the raw records' time, per source
    empty: dict[str, int] = {}  # the fastest clock as a source's last record came; only where that was an empty one
    idle: dict[str, int] = {}  # and as the one before came, also empty: after that it had nothing to send for a while
    generation: int = 0  # of the last record judged
    covered: dict[str, int] = {}  # per rollup table ever declared: its deltas topic was told of events offsets below
    last_offset: int = -1  # of the last record judged, and its checksum: tells another life of the topic
    last_crc: int = 0

    def expired_before_ms(self, horizon_ms: int, raw: Collection[str]) -> int | None:
        """Ids last seen before this can serve no row any more: the slowest source's clock less the horizon.

        One that works off a backlog holds it back for as long as it takes; an idle one, or one that is not among the
        `raw` partitions there are, by one more horizon at most. None while some of `raw` were never heard of.
        """
        if not self.clocks or not self.clocks.keys() >= set(raw):
            return None
        fastest = max(self.clocks.values())
        return -horizon_ms + min(
            max(clock_ms, (self.idle.get(source, 0) if source in raw else fastest) - horizon_ms)
            for source, clock_ms in self.clocks.items()
        )


@dataclass(frozen=True)
class Outcome:
    """What one batch comes to. `deltas`: per rollup table, rows with `offset` (the events offset) and `tuple_key`."""

    state: DedupState
    puts: Puts
    writes: Writes
    deltas: Mapping[str, pl.DataFrame]


def deduplicate(
    state: DedupState,
    marks: Marks,
    records: Sequence[tuple[int, Packed]],
    config: Config,
    lookup: Lookup,
) -> Outcome:
    """Judge `records` (events offset, record), all of one generation, under its `config`. Moves `marks` along."""
    clocks, empty, idle = dict(state.clocks), dict(state.empty), dict(state.idle)
    tables: dict[str, list[pl.DataFrame]] = {}
    for offset, packed in records:
        taken = marks.take(packed.source, packed.start, packed.end)
        if taken is None:
            continue
        if packed.clock_ms != NO_CLOCK_MS:
            clocks[packed.source] = max(packed.clock_ms, clocks.get(packed.source, packed.clock_ms))
        if packed.end > taken.cut or packed.clock_ms == NO_CLOCK_MS:
            empty.pop(packed.source, None)
        elif packed.start == packed.end == taken.mark:  # one may come of a slow sender, a second only of an idle one
            if packed.source in empty:
                idle[packed.source] = empty[packed.source]
            empty[packed.source] = max(clocks.values())
        for name, frame in packed.tables.items():
            tables.setdefault(name, []).append(
                frame.with_columns(
                    pl.lit(packed.source).alias("source"),
                    pl.lit(offset, dtype=pl.Int64).alias("events_offset"),
                    (pl.col("offset") >= taken.cut).alias("taken"),
                )
            )
    books = _Ledger()
    dead: list[pl.DataFrame] = []
    puts: Puts = [], []
    deltas: dict[str, pl.DataFrame] = {}
    for event in config.events:
        if frames := tables.get(EVENT + event.event):
            rows = pl.concat(frames, how="diagonal")
            rows, new_puts = _judge(event, rows, lookup)
            _extend(puts, new_puts)
            books.add(rows, pl.lit(event.event), pl.col("verdict"))
            dead.append(letters.from_verdicts(event, rows.filter(pl.col("verdict").is_in([LATE, FUTURE, CONFLICTING]))))
            counted = rows.filter(pl.col("verdict") == COUNTED)
            if counted.height:
                deltas.update(_deltas(event, counted))
    if frames := tables.get(REJECTED):
        rows = pl.concat(frames).filter("taken")
        books.add(rows, pl.col("event"), pl.lit(INVALID))
        dead.append(letters.from_rejected(rows))
    if frames := tables.get(UNMATCHED_TABLE):
        rows = pl.concat(frames).filter("taken").with_columns(pl.lit(True).alias("primary"))
        books.add(rows, pl.col("event"), pl.lit(UNMATCHED))
    letters_frame = letters.combined(dead)
    writes = Writes(books=books.entries(), dead_letters=letters_frame if letters_frame.height else None)
    last_offset, last = records[-1] if records else (state.last_offset, None)
    state = msgspec.structs.replace(
        state,
        marks=dict(marks.by_source),
        clocks=clocks,
        empty=empty,
        idle=idle,
        last_offset=last_offset,
        last_crc=last.checksum if last is not None else state.last_crc,
    )
    return Outcome(state, puts, writes, deltas)


def remembered_by(table: str) -> list[str] | None:
    """The columns of a record's table that `remember` looks at; None: all, of one that it does not look at."""
    return list(JUDGED_BY) if table.startswith(EVENT) else None


def remember(records: Sequence[Packed], config: Config, lookup: Lookup) -> Puts:
    """The ids to store for records already judged: for rebuilding a store from the log, judging nothing."""
    puts: Puts = [], []
    for event in config.events:
        frames = [packed.tables[EVENT + event.event] for packed in records if EVENT + event.event in packed.tables]
        if frames:
            rows = pl.concat(frames, how="diagonal")
            _extend(puts, judge_frame(rows, lookup, event.horizon_ms).puts)
    return puts


def _extend(puts: Puts, more: Puts) -> None:
    """Ids of another event type, whose keys are others."""
    for column, values in zip(puts, more, strict=True):
        column.extend(values)


def _judge(event: EventType, rows: pl.DataFrame, lookup: Lookup) -> tuple[pl.DataFrame, Puts]:
    """Rows that the marks let through, with their `verdict`; and what to remember of all."""
    judged = judge_frame(rows, lookup, event.horizon_ms)
    rows = rows.with_columns(judged.verdicts.alias("verdict"))
    return rows if rows["taken"].all() else rows.filter("taken"), judged.puts


def _deltas(event: EventType, counted: pl.DataFrame) -> dict[str, pl.DataFrame]:
    deltas = {}
    for rollup in event.rollups:
        frame = aggregates.from_events(event, rollup, counted)
        columns = ["external_customer_id", *(column.column for column in rollup.group_by)]
        deltas[rollup.table] = frame.with_columns(keys.tuple_key(columns).alias("tuple_key"))
    return deltas


class _Ledger:
    """Counts verdicts per event type and source."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counter[str]] = {}

    def add(self, rows: pl.DataFrame, event: pl.Expr, verdict: pl.Expr) -> None:
        keyed = rows.select(event.alias("event"), "source", verdict.alias("verdict"), "primary")
        counts = keyed.group_by("event", "source", "verdict").agg(pl.len(), pl.col("primary").sum().alias("records"))
        for name, source, kind, count, records in counts.iter_rows():
            counter = self._counts.setdefault((name, source), Counter())
            counter[INVALID if kind == FUTURE else kind] += count
            counter["records"] += records

    def entries(self) -> tuple[Books, ...]:
        return tuple(Books(event, source, **counter) for (event, source), counter in sorted(self._counts.items()))
