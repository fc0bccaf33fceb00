"""Aggregates as column expressions: a commutative, associative merge of exact numbers.

A sum is `<name>.hi/.lo/.frac` (see `numbers`), each part summed as Int128. A min or max is `<name>.lo`, its whole part
as Int128, and `<name>.frac`. The same expressions take events to deltas and deltas to larger deltas.
"""

from collections.abc import Collection, Iterable, Sequence

import polars as pl

from rollup_engine import numbers
from rollup_engine.config.model import EventType, Rollup
from rollup_engine.tables import Schema


def expressions(kind: str, source: str, name: str, present: Collection[str]) -> list[pl.Expr]:
    """The aggregate `name` of the number columns `source`, as parts; for use in `group_by(...).agg`."""
    parts = [part for part in numbers.PARTS if f"{source}.{part}" in present]
    if not parts:
        return []
    if kind == "sum":
        return [pl.col(f"{source}.{part}").cast(pl.Int128).sum().alias(f"{name}.{part}") for part in parts]
    whole = numbers.whole(source, present)
    best = whole.min() if kind == "min" else whole.max()
    columns = [best.alias(f"{name}.lo")]
    if "frac" in parts:
        fraction = pl.col(f"{source}.frac").fill_null(0).filter(whole == best)
        columns.append((fraction.min() if kind == "min" else fraction.max()).cast(pl.Int128).alias(f"{name}.frac"))
    return columns


def from_events(event: EventType, rollup: Rollup, rows: pl.DataFrame) -> pl.DataFrame:
    """Counted rows to deltas: one per events offset, window and tuple. Columns `offset` (the events offset),
    window_ms, external_customer_id, the group columns, count (Int128) and the aggregates' parts."""
    groups = [pl.col("customer").alias("external_customer_id")]
    groups += [pl.col(f"t.{column.path}").alias(column.column) for column in rollup.group_by]
    start = pl.col("timestamp_ms").floordiv(rollup.window_ms) * rollup.window_ms
    aggregates = [pl.len().cast(pl.Int128).alias("count")]
    for aggregate in rollup.aggregates:
        aggregates += expressions(aggregate.kind, f"n.{aggregate.path}", aggregate.column, rows.columns)
    keys = [pl.col("events_offset").alias("offset"), start.alias("window_ms"), *groups]
    return rows.group_by(keys, maintain_order=True).agg(aggregates)


def merge(frames: Iterable[pl.DataFrame], schema: Schema, keys: Sequence[str]) -> pl.DataFrame:
    """Add up deltas by `keys`; other tuple columns are constant within them. Parts absent in some frames count as 0."""
    frame = pl.concat(frames, how="diagonal")
    constant = [name for name in schema.tuple_columns if name in frame.columns and name not in keys]
    aggregates = [pl.col(name).first() for name in constant]
    aggregates.append(pl.col("count").sum())
    for aggregate in schema.aggregates:
        aggregates += expressions(aggregate.kind, aggregate.name, aggregate.name, frame.columns)
    return frame.group_by(keys, maintain_order=True).agg(aggregates)
