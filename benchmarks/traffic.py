"""The benchmarks' events: every one a function of its number alone, so any two runs see the same bytes.

Owns: what the events look like, their totals by construction, and the file they are kept in. About 170 bytes of JSON
each; one in fifty repeats one of the 50,000 before it. Nothing here is sent anywhere (`feeding`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "benchmarks"
WINDOW_MS = 600_000
FIRST_MS = 1_760_000_400_000  # the start of a window
SPAN_MS = 7_200_000
REPEATED_EVERY = 50
REPEATED_WITHIN = 50_000
SPEEDS = ("fast", "slow", "free")
BYTES_BELOW = 10_000
_CHUNK = 500_000
_CHAIN_MAX = 8  # a repeat may be of a repeat; beyond so many the event is its own

Key = tuple[int, str, str]  # window start (ms), customer, speed
Totals = dict[Key, tuple[int, int]]  # count, sum of bytes


@dataclass(frozen=True)
class Traffic:
    """`events` of them, spread evenly over `span_ms` of event time; customers × speeds × windows are the groups."""

    events: int
    customers: int = 1_000
    speeds: int = len(SPEEDS)
    span_ms: int = SPAN_MS
    seed: int = 1

    @property
    def file(self) -> Path:
        """One event a line, in order; written once, and kept for the next run."""
        name = f"{self.events}-{self.customers}-{self.speeds}-{self.span_ms}-{self.seed}.ndjson"
        path = CACHE / name
        if not path.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".unfinished")
            with unfinished.open("wb") as out:
                for lines in self._lines():
                    out.write(lines.encode())
            unfinished.rename(path)
        return path

    def values(self) -> Iterator[bytes]:
        """The events' JSON, in order."""
        with self.file.open("rb") as lines:
            for line in lines:
                yield line[:-1]

    def totals(self, first: int | None = None) -> Totals:
        """What must come out: count and sum of bytes per group, of the first so many events, each id once."""
        groups: dict[Key, tuple[int, int]] = {}
        for start in range(0, first or self.events, _CHUNK):
            frame = self._frame(start, min(start + _CHUNK, first or self.events)).filter(
                pl.col("n") == pl.col("origin")
            )
            window = pl.col("at_ms") // WINDOW_MS * WINDOW_MS
            found = frame.group_by(window.alias("w"), "customer", "speed").agg(pl.len(), pl.col("bytes").sum())
            for at, customer, speed, count, total in found.iter_rows():
                before = groups.get((at, customer, speed), (0, 0))
                groups[at, customer, speed] = before[0] + count, before[1] + total
        return groups

    def counted(self) -> int:
        """How many ids there are."""
        return sum(count for count, _ in self.totals().values())

    def _lines(self) -> Iterator[str]:
        for start in range(0, self.events, _CHUNK):
            frame = self._frame(start, min(start + _CHUNK, self.events)).select(
                self._random(pl.col("origin"), 6).alias("high"),
                self._random(pl.col("origin"), 7).alias("low"),
                "customer",
                pl.from_epoch("at_ms", time_unit="ms").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
                "bytes",
                "speed",
            )
            yield "".join(
                [
                    f'{{"id":"{high:016x}{low:016x}","customer":"{customer}","at":"{at}","bytes":{size},'
                    f'"speed":"{speed}","path":"/v1/objects/{low:016x}"}}\n'
                    for high, low, customer, at, size, speed in frame.iter_rows()
                ]
            )

    def _frame(self, start: int, end: int) -> pl.DataFrame:
        """Columns n, origin (the event that it repeats, or itself), at_ms, customer, speed, bytes."""
        frame = pl.select(pl.int_range(start, end, dtype=pl.UInt64).alias("n")).with_columns(
            pl.col("n").alias("origin")
        )
        for _ in range(_CHAIN_MAX):
            origin = pl.col("origin")
            back = self._random(origin, 2) % pl.min_horizontal(origin, pl.lit(REPEATED_WITHIN)) + 1
            repeats = (self._random(origin, 1) % REPEATED_EVERY == 0) & (origin > 0)
            frame = frame.with_columns(pl.when(repeats).then(origin - back).otherwise(origin).alias("origin"))
        origin = pl.col("origin")
        speed = (self._random(origin, 4) % self.speeds).cast(pl.Int64)
        return frame.select(
            "n",
            "origin",
            (FIRST_MS + origin * self.span_ms // self.events).cast(pl.Int64).alias("at_ms"),
            pl.format("customer-{}", (self._random(origin, 3) % self.customers).cast(pl.String).str.zfill(4)).alias(
                "customer"
            ),
            pl.lit(pl.Series(SPEEDS)).gather(speed).alias("speed"),
            (self._random(origin, 5) % BYTES_BELOW).cast(pl.Int64).alias("bytes"),
        )

    def _random(self, number: pl.Expr, stream: int) -> pl.Expr:
        """SplitMix64 of the number: the same on every machine and in every version."""
        mixed = number * 0x9E3779B97F4A7C15 + pl.lit(self.seed * 1_000 + stream, dtype=pl.UInt64) * 0xD1342543DE82EF95
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed // (1 << shift))) * factor
        return mixed ^ (mixed // (1 << 31))
