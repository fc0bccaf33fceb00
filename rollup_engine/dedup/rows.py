"""The rows of one table out of several records, with what each has of its record.

That stands beside the frame, in numpy's arrays: a column more, or a filter over all columns, costs Polars some tenth of
a millisecond, which for the rows that come at a time is as much as to judge them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from rollup_engine.packing import PIECES, TEXT, Packed, unpack

if TYPE_CHECKING:
    from numpy.typing import NDArray

(ID,) = PIECES[TEXT]


class Part(NamedTuple):
    """The rows of `table` in one record. Those with an offset below `cut` were judged before."""

    packed: Packed
    table: str
    events_offset: int
    cut: int

    @property
    def frame(self) -> pl.DataFrame:
        """Without the texts of ids, which the record may have been read without."""
        frame = self.packed.tables[self.table]
        return frame.drop(ID) if ID in frame.columns else frame

    @property
    def ids(self) -> pl.Series:
        tables = self.packed.tables
        if ID not in tables[self.table].columns:
            tables = unpack(self.packed.value, (TEXT,)).tables
        return tables[self.table][ID]


@dataclass(frozen=True)
class Rows:
    """`frame` as the parts have it; per row the number of its part, and its place there."""

    frame: pl.DataFrame
    parts: Sequence[Part]
    part: "NDArray[np.intp]"
    place: "NDArray[np.intp]"

    @classmethod
    def of(cls, parts: Sequence[Part]) -> "Rows":
        frames = [part.frame for part in parts]
        heights = [frame.height for frame in frames]
        place = np.concatenate([np.arange(height) for height in heights])
        return cls(pl.concat(frames, how="diagonal"), parts, np.repeat(np.arange(len(parts)), heights), place)

    def fresh(self) -> "NDArray[np.bool_]":
        """Which were not judged before."""
        cuts = np.array([part.cut for part in self.parts])
        return self.frame["offset"].to_numpy() >= cuts[self.part]

    def where(self, chosen: "NDArray[np.bool_]", columns: Sequence[str] | None = None) -> "Rows":
        """Those chosen, with these columns, or all."""
        frame = self.frame if columns is None else self.frame[columns]
        if chosen.all():
            return replace(self, frame=frame)
        at = np.flatnonzero(chosen)
        return Rows(frame[at], self.parts, self.part[at], self.place[at])

    def events_offset(self) -> pl.Series:
        offsets = np.array([part.events_offset for part in self.parts])
        return pl.Series("events_offset", offsets[self.part])

    def source(self) -> pl.Series:
        return pl.Series("source", [part.packed.source for part in self.parts])[self.part]

    def ids(self) -> pl.Series:
        """The texts of their ids: of as few rows as are needed, for each part of theirs is read once more."""
        texts = np.empty(len(self.part), dtype=object)
        for number in np.unique(self.part).tolist():
            mine = self.part == number
            texts[mine] = self.parts[number].ids.to_numpy()[self.place[mine]]
        return pl.Series(ID, texts.tolist(), dtype=pl.String)

    def primary(self) -> "NDArray[np.bool_]":
        """Whether a row counts as its raw record, of which there may be more rows for other event types."""
        if "primary" in self.frame.columns:
            return self.frame["primary"].to_numpy()
        return np.ones(self.frame.height, dtype=np.bool_)
