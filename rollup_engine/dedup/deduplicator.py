"""The core of the second stage, the only judge: rows of the events topic to verdicts, deltas, books, dead letters.

Pure: (state, records, remembered ids) -> outcome. Nothing is written here; the stage writes the outcome in the order
of rule 2. A record's rows are cut by the marks first; rows that are cut still renew their ids, but get no verdict.
"""

import zlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import polars as pl

from rollup_engine import keys
from rollup_engine.config.model import Config, EventType
from rollup_engine.dedup import letters
from rollup_engine.dedup.rows import Part, Rows
from rollup_engine.dedup.verdicts import (
    CODES,
    COUNTED,
    DUPLICATE,
    FUTURE,
    INVALID,
    UNMATCHED,
    VERDICTS,
    Lookup,
    Puts,
    judge_frame,
)
from rollup_engine.exchange import NO_CLOCK_MS, Marks
from rollup_engine.packing import Packed
from rollup_engine.progress import Books, Writes
from rollup_engine.route.router import EVENT, REJECTED
from rollup_engine.route.router import UNMATCHED as UNMATCHED_TABLE
from rollup_engine.windows import aggregates

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    tables: dict[str, list[Part]] = {}
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
        for name in packed.tables:
            tables.setdefault(name, []).append(Part(packed, name, offset, taken.cut))
    books = _Ledger()
    dead: list[pl.DataFrame] = []
    puts: Puts = [], []
    deltas: dict[str, pl.DataFrame] = {}
    for event in config.events:
        if parts := tables.get(EVENT + event.event):
            rows = Rows.of(parts)
            judged = judge_frame(rows.frame, lookup, event.horizon_ms)
            _extend(puts, judged.puts)
            fresh = rows.fresh()
            rows, verdicts = rows.where(fresh), judged.codes[fresh]
            books.add(event.event, rows, verdicts)
            if (dying := verdicts > CODES[DUPLICATE]).any():
                refused = rows.where(dying)
                frame = refused.frame.hstack([refused.source(), refused.ids()])
                dead.append(letters.from_verdicts(event, frame, _names(verdicts[dying])))
            if (counted := verdicts == CODES[COUNTED]).any():
                deltas.update(_deltas(event, rows.where(counted, _mapped(rows.frame.columns))))
    if parts := tables.get(REJECTED):
        rows = Rows.of(parts)
        rows = rows.where(rows.fresh())
        books.add_unjudged(rows, INVALID)
        dead.append(letters.from_rejected(rows.frame.hstack([rows.source()])))
    if parts := tables.get(UNMATCHED_TABLE):
        rows = Rows.of(parts)
        books.add_unjudged(rows.where(rows.fresh()), UNMATCHED)
    dead = [frame for frame in dead if frame.height]
    writes = Writes(books=books.entries(), dead_letters=letters.combined(dead) if dead else None)
    last_offset, last = records[-1] if records else (state.last_offset, None)
    state = msgspec.structs.replace(
        state,
        marks=dict(marks.by_source),
        clocks=clocks,
        empty=empty,
        idle=idle,
        last_offset=last_offset,
        last_crc=zlib.crc32(last.value) if last is not None else state.last_crc,
    )
    return Outcome(state, puts, writes, deltas)


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


def _names(verdicts: "NDArray[np.uint8]") -> list[str]:
    return [VERDICTS[code] for code in verdicts.tolist()]


def _mapped(columns: Sequence[str]) -> list[str]:
    """Those of an event type's columns that its deltas come of."""
    return ["timestamp_ms", "customer", *(name for name in columns if name.startswith(("t.", "n.")))]


def _deltas(event: EventType, counted: Rows) -> dict[str, pl.DataFrame]:
    deltas = {}
    frame = counted.frame.hstack([counted.events_offset()])
    for rollup in event.rollups:
        columns = ["external_customer_id", *(column.column for column in rollup.group_by)]
        found = aggregates.from_events(event, rollup, frame)
        deltas[rollup.table] = found.with_columns(keys.tuple_key(columns).alias("tuple_key"))
    return deltas


class _Ledger:
    """Counts verdicts per event type and source."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counter[str]] = {}

    def add(self, event: str, rows: Rows, verdicts: "NDArray[np.uint8]", kinds: Sequence[str] = VERDICTS) -> None:
        """`verdicts`: per row the number of its one among `kinds`."""
        place = rows.part * len(kinds) + verdicts
        size = len(rows.parts) * len(kinds)
        counts, records = np.bincount(place, minlength=size), np.bincount(place[rows.primary()], minlength=size)
        for at in np.flatnonzero(counts).tolist():
            part, kind = divmod(at, len(kinds))
            counter = self._counts.setdefault((event, rows.parts[part].packed.source), Counter())
            counter[INVALID if kinds[kind] == FUTURE else kinds[kind]] += int(counts[at])
            counter["records"] += int(records[at])

    def add_unjudged(self, rows: Rows, kind: str) -> None:
        """Rows that came to this kind without a verdict, of any event types."""
        names = rows.frame["event"].to_numpy()
        for name in sorted(set(names)):
            of_it = rows.where(names == name)
            self.add(name, of_it, np.zeros(of_it.frame.height, dtype=np.uint8), (kind,))

    def entries(self) -> tuple[Books, ...]:
        return tuple(Books(event, source, **counter) for (event, source), counter in sorted(self._counts.items()))
