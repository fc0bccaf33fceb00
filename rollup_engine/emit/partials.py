"""Partial rollups: the rows an emission writes, their revisions and idempotency keys. Pure.

Decimals travel as text, so that no float and no binary scale comes in between. A revision orders the partials of one
series: generation·2^40 + at least the last deltas offset read, and one more each time. The idempotency key is a hash of
table, window, tuple and revision.
"""

from collections.abc import Sequence
from decimal import Decimal

import polars as pl

from rollup_engine import keys, numbers
from rollup_engine.tables import Schema

OFFSET_BITS = 40


def revision(generation: int, last_offset: int) -> int:
    if not 0 <= last_offset < 1 << OFFSET_BITS:
        raise OverflowError(f"deltas offset {last_offset} does not fit a revision")
    return (generation << OFFSET_BITS) + last_offset


def build(totals: pl.DataFrame, schema: Schema, revision: int, closed_ms: int) -> pl.DataFrame:
    """Rows for `rollups.<table>_aggregated`: idempotency_key and tuple_key u128, window_ms i64, the tuple columns,
    count i64, aggregates as decimal text (null: no value), revision i64, final: whether the window starts before
    `closed_ms`; ordered by window and tuple."""
    columns = [pl.col("window_ms"), pl.col("tuple_key")]
    columns += [_text(name, totals) for name in schema.tuple_columns]
    columns.append(pl.col("count").cast(pl.Int64))
    frame = totals.select(columns)
    series = [_number(totals, kind, name) for kind, name in schema.aggregates]
    named = [pl.lit(revision, dtype=pl.Int64).alias("revision"), (pl.col("window_ms") < closed_ms).alias("final")]
    frame = frame.with_columns(*series, *named)
    return frame.with_columns(keys.idempotency_key(schema.table).alias("idempotency_key")).sort(
        "window_ms", "tuple_key"
    )


def _text(name: str, totals: pl.DataFrame) -> pl.Expr:
    return pl.col(name) if name in totals.columns else pl.lit(None, dtype=pl.String).alias(name)


def _number(totals: pl.DataFrame, kind: str, name: str) -> pl.Series:
    """A total as decimal text; a sum of nothing is 0, the least or greatest of nothing is null."""
    parts = [part for part in numbers.PARTS if f"{name}.{part}" in totals.columns]
    if not parts:
        return pl.Series(name, ["0" if kind == "sum" else None] * totals.height, dtype=pl.String)
    lo = totals[f"{name}.lo"]
    if kind == "sum":
        lo = lo.fill_null(0)
    if parts == ["lo"]:
        return lo.cast(pl.String).alias(name)
    hi, frac = (
        totals[f"{name}.{part}"].fill_null(0).to_list() if part in parts else [0] * totals.height
        for part in ("hi", "frac")
    )
    texts = [
        None if low is None else f"{numbers.decimal(high, low, rest):f}"
        for high, low, rest in zip(hi, lo.to_list(), frac, strict=True)
    ]
    return pl.Series(name, texts, dtype=pl.String)


def parse(rows: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Rows read back (window_ms, tuple_key, count i64, aggregates as decimal text) to totals in parts."""
    columns = [rows["window_ms"], rows["tuple_key"], rows["count"].cast(pl.Int128)]
    columns += [rows[name] for name in schema.tuple_columns if name in rows.columns]
    for kind, name in schema.aggregates:
        columns += _parts(rows[name], kind, name)
    return pl.DataFrame(columns)


def _parts(texts: pl.Series, kind: str, name: str) -> list[pl.Series]:
    if not texts.str.contains(r"\.|\d{37}").any():
        return [texts.cast(pl.Int128).alias(f"{name}.lo")]
    hi, lo, frac = zip(
        *((None,) * 3 if text is None else numbers.from_decimal(Decimal(text)) for text in texts), strict=True
    )
    parts: dict[str, Sequence[int | None]] = {"hi": hi, "lo": lo, "frac": frac}
    if kind != "sum":  # a min or max keeps its whole part in one column
        whole = [None if low is None else high * numbers.BASE + low for high, low in zip(hi, lo, strict=True)]
        parts = {"lo": whole, "frac": frac}
    return [pl.Series(f"{name}.{part}", values, dtype=pl.Int128) for part, values in parts.items()]
