"""The core of the third stage: deltas to totals. Pure, and its memory is a bounded cache.

Between two emissions it holds only what changed since the last one; totals of before are a cache, and a group that is
not in it is read back from the sink, unless its window is so new that the sink can have no totals that the cache lacks.
So memory follows the changed groups, never the topic.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import polars as pl

from rollup_engine.clock import FIRST_MS
from rollup_engine.exchange import Marks
from rollup_engine.packing import Packed
from rollup_engine.ports import Span
from rollup_engine.tables import Schema
from rollup_engine.windows.aggregates import merge

KEYS = ("window_ms", "tuple_key")
CACHE_ROWS_MAX = 500_000
_FRAMES_MAX = 64  # merged once so many deltas records have gathered


class RollupState(msgspec.Struct, frozen=True):
    """What rollup keeps per deltas partition, in the sink's row."""

    marks: dict[str, int] = {}
    revision_offset: int = -1  # of the latest revision
    generation: int = 0  # of the YAML it was emitted under: revisions begin with it
    closed_ms: int = FIRST_MS  # windows that start before it are closed: what is written of them now is final
    unfinished: Span | None = None  # series of these whose latest partial may still not be final


@dataclass
class Accumulator:
    """Changes since the last emission, and a cache of the totals emitted."""

    schema: Schema
    cache: pl.DataFrame | None = None
    whole_from_ms: int | None = None  # of windows that start then or later, the cache lacks no totals; None: not known

    def __post_init__(self) -> None:
        self._frames: list[pl.DataFrame] = []

    def add(self, marks: Marks, records: Sequence[tuple[int, Packed]]) -> None:
        """Take in (deltas offset, record) pairs; `marks` cuts what was taken before."""
        for _, packed in records:
            taken = marks.take(packed.source, packed.start, packed.end)
            if taken is None:
                continue
            for frame in packed.tables.values():
                fresh = frame if packed.start >= taken.cut else frame.filter(pl.col("offset") >= taken.cut)
                if fresh.height:
                    self._frames.append(fresh)
        if len(self._frames) > _FRAMES_MAX:
            self._frames = [merge(self._frames, self.schema, KEYS)]

    def holds_more_than(self, rows_max: int) -> bool:
        """Whether more groups have changed; merges deltas only where they might."""
        if sum(frame.height for frame in self._frames) <= rows_max:
            return False
        self._frames = [merge(self._frames, self.schema, KEYS)]
        return self._frames[0].height > rows_max

    def changes(self) -> pl.DataFrame | None:
        """One row per changed group: what was added since the last emission. None where nothing changed."""
        if not self._frames:
            return None
        self._frames = [merge(self._frames, self.schema, KEYS)]
        return self._frames[0]

    def missing(self, changes: pl.DataFrame) -> pl.DataFrame:
        """The keys among `changes` whose totals must be read back."""
        old = changes if self.whole_from_ms is None else changes.filter(pl.col("window_ms") < self.whole_from_ms)
        wanted = old.select(KEYS)
        return wanted if self.cache is None else wanted.join(self.cache, on=KEYS, how="anti")

    def totals(self, changes: pl.DataFrame, read_back: pl.DataFrame) -> pl.DataFrame:
        """Cumulative totals of the changed groups, given those `read_back` for the missing ones."""
        before = [read_back]
        if self.cache is not None:
            before.append(self.cache.join(changes.select(KEYS), on=KEYS, how="semi"))
        return merge([changes, *(frame for frame in before if frame.height)], self.schema, KEYS)

    def emitted(self, totals: pl.DataFrame) -> None:
        """The totals are committed: forget the changes, keep the totals as far as the cache goes."""
        self._frames = []
        kept = [totals] if self.cache is None else [totals, self.cache.join(totals, on=KEYS, how="anti")]
        cache = pl.concat(kept, how="diagonal")
        self.cache, forgotten = cache.head(CACHE_ROWS_MAX), cache["window_ms"][CACHE_ROWS_MAX:]
        if forgotten.len() and self.whole_from_ms is not None:
            self.whole_from_ms = max(self.whole_from_ms, int(forgotten.to_numpy().max()) + 1)
