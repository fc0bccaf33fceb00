"""Revisions, idempotency keys, months, and decimal text."""

from fractions import Fraction

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollup_engine import numbers
from rollup_engine.clock import FIRST_MS, LAST_MS
from rollup_engine.emit.months import month_of
from rollup_engine.emit.partials import build, parse, revision
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
    frames = [build(totals([0, 600_000]), SCHEMA, number, 0) for number in (1, 2)]
    frames.append(build(totals([0, 600_000]), SCHEMA._replace(table="s"), 1, 0))
    seen = pl.concat(frame.select("idempotency_key") for frame in frames)["idempotency_key"]
    assert seen.n_unique() == 6
    assert build(totals([0, 600_000]), SCHEMA, 1, 0)["idempotency_key"].equals(frames[0]["idempotency_key"])


def test_final_is_what_is_written_of_a_closed_window() -> None:
    frame = build(totals([-600_000, 0, 600_000]), SCHEMA, 1, 600_000)
    assert frame["final"].to_list() == [True, True, False]


def test_a_sum_of_nothing_is_zero_and_the_greatest_of_nothing_is_null() -> None:
    row = build(totals([0]), SCHEMA, 1, 0).row(0, named=True)
    assert (row["sum_n"], row["max_n"], row["g"]) == ("0", None, None)


def parts(name: str, value: Fraction | None) -> dict[str, int | None]:
    """A total in the columns that an accumulator holds: for a sum hi, lo and frac, for a greatest value lo and frac."""
    if value is None:
        return {f"{name}.lo": None}
    whole, frac = divmod(int(value * numbers.BASE), numbers.BASE)
    if name.startswith("max"):
        return {f"{name}.lo": whole, f"{name}.frac": frac}
    return {f"{name}.hi": whole // numbers.BASE, f"{name}.lo": whole % numbers.BASE, f"{name}.frac": frac}


def fractions(digits: int) -> st.SearchStrategy[Fraction]:
    units = st.integers(-(10 ** (digits + 18)) + 1, 10 ** (digits + 18) - 1) | st.integers(-(10**20), 10**20)
    return units.map(lambda number: Fraction(number, 10**18))


@given(st.lists(st.tuples(st.none() | fractions(50), st.none() | fractions(36)), min_size=1, max_size=8))
def test_totals_of_any_size_are_exact_as_text_and_come_back(
    values: list[tuple[Fraction | None, Fraction | None]],
) -> None:
    rows = [parts("sum_n", total) | parts("max_n", most) for total, most in values]
    names = ("sum_n.hi", "sum_n.lo", "sum_n.frac", "max_n.lo", "max_n.frac")
    columns = [pl.Series(name, [row.get(name) for row in rows], dtype=pl.Int128) for name in names]
    built = build(totals([0] * len(rows)).with_columns(columns), SCHEMA, 1, 0)
    for row, (total, most) in zip(built.sort("tuple_key").iter_rows(named=True), values, strict=True):
        assert Fraction(row["sum_n"]) == (total or 0)
        assert (None if row["max_n"] is None else Fraction(row["max_n"])) == most
    again = parse(built, SCHEMA).with_columns(pl.col("count"))
    assert build(again, SCHEMA, 1, 0).equals(built)


@pytest.mark.parametrize("text", ["0.000", "-0", "-0.5", "12.50", "1" * 36, "-" + "9" * 37 + ".000000001"])
def test_decimal_text_in_any_form_is_read_back(text: str) -> None:
    rows = build(totals([0]), SCHEMA, 1, 0).with_columns(
        pl.lit(text).alias("sum_n"), pl.lit(None, pl.String).alias("max_n")
    )
    built = build(parse(rows, SCHEMA), SCHEMA, 2, 0)
    assert Fraction(built["sum_n"][0]) == Fraction(text)
    assert built["max_n"][0] is None


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
    assert (month_of(FIRST_MS), month_of(LAST_MS)) == (None, None)
