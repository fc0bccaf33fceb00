"""Revisions, idempotency keys, months, and decimal text."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollup_engine.emit.months import month_of
from rollup_engine.emit.partials import build, revision
from rollup_engine.tables import Column, Schema

SCHEMA = Schema("r", ("g",), (Column("sum", "sum_n"), Column("max", "max_n")))


def totals(windows: list[int]) -> pl.DataFrame:
    count = len(windows)
    return pl.DataFrame(
        {
            "window_ms": pl.Series(windows, dtype=pl.Int64),
            "tuple_key": pl.Series(range(count), dtype=pl.UInt128),
            "external_customer_id": ["c"] * count,
            "count": pl.Series([1] * count, dtype=pl.Int128),
        }
    )


def test_revisions_rise_with_offset_and_generation() -> None:
    assert revision(1, 0) < revision(1, 1) < revision(1, (1 << 40) - 1) < revision(2, 0)
    for impossible in (-1, 1 << 40):
        with pytest.raises(OverflowError):
            revision(1, impossible)


def test_idempotency_keys_are_unique_and_repeatable() -> None:
    frames = [build(totals([0, 600_000]), SCHEMA, number) for number in (1, 2)]
    frames.append(build(totals([0, 600_000]), SCHEMA._replace(table="s"), 1))
    seen = pl.concat(frame.select("idempotency_key") for frame in frames)["idempotency_key"]
    assert seen.n_unique() == 6
    assert build(totals([0, 600_000]), SCHEMA, 1)["idempotency_key"].equals(frames[0]["idempotency_key"])


def test_a_sum_of_nothing_is_zero_and_the_greatest_of_nothing_is_null() -> None:
    row = build(totals([0]), SCHEMA, 1).row(0, named=True)
    assert (row["sum_n"], row["max_n"], row["g"]) == ("0", None, None)


@given(st.integers(946_684_800_000, 4_102_444_799_999))
def test_a_window_lies_in_its_month(window_ms: int) -> None:
    month = month_of(window_ms)
    assert month is not None
    start, end = (pl.Series([t]).str.to_datetime("%Y-%m-%dZ").dt.timestamp("ms")[0] for t in (month.start, month.end))
    assert start <= window_ms < end
    assert month.name == month.start[:7].replace("-", "")


def test_far_away_windows_have_no_month_of_their_own() -> None:
    assert month_of(946_684_800_000 - 1) is None
    assert month_of(4_102_444_800_000) is None
    december = month_of(4_102_444_799_999)
    assert december is not None
    assert december.end == "2100-01-01Z"
