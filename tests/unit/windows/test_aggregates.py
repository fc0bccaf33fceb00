"""Windows and aggregates against plain Python with exact fractions; the merge commutes and associates."""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from rollup_engine import keys, numbers
from rollup_engine.config.model import Aggregate, EventType, GroupColumn, Rollup, Timestamp
from rollup_engine.emit import partials
from rollup_engine.numbers import NumberText
from rollup_engine.tables import Schema
from rollup_engine.windows.accumulator import KEYS
from rollup_engine.windows.aggregates import from_events, merge

AGGREGATES = (
    Aggregate(kind="sum", path="n", column="sum_n"),
    Aggregate(kind="min", path="n", column="min_n"),
    Aggregate(kind="max", path="n", column="max_n"),
)


def rollup(window_ms: int = 600_000) -> Rollup:
    group = (GroupColumn(path="g", column="g"),)
    return Rollup(name="r", table="r", group_by=group, aggregates=AGGREGATES, window_ms=window_ms, emit_every_ms=1000)


def event(one: Rollup) -> EventType:
    return EventType(
        event="e",
        kafka_topics=("t",),
        id_paths=("id",),
        timestamp=Timestamp(path="at"),
        customer_path="c",
        rollups=(one,),
        grace_ms=None,
        horizon_ms=1000,
        max_future_ms=1000,
    )


Row = tuple[int, int, str, str | None, str | None]  # events offset, time, customer, group, number

number_texts = st.one_of(
    st.none(),
    st.integers(-(10**36) + 1, 10**36 - 1).map(str),
    st.integers(-1000, 1000).map(str),
    st.decimals(-(10**6), 10**6, places=9, allow_nan=False).map(lambda d: f"{d:f}"),
)
rows_of = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(-3_000_000, 3_000_000),
        st.sampled_from("ab"),
        st.sampled_from([None, "", "x"]),
        number_texts,
    ),
    min_size=1,
    max_size=25,
)


def columns(rows: Sequence[Row]) -> pl.DataFrame:
    values = [None if r[4] is None else int(r[4]) if "." not in r[4] else NumberText(r[4]) for r in rows]
    series, errors = numbers.columns("n.n", values, 9)
    assert not errors
    return pl.DataFrame(
        [
            pl.Series("events_offset", [r[0] for r in rows], dtype=pl.Int64),
            pl.Series("timestamp_ms", [r[1] for r in rows], dtype=pl.Int64),
            pl.Series("customer", [r[2] for r in rows], dtype=pl.String),
            pl.Series("t.g", [r[3] for r in rows], dtype=pl.String),
            *series,
        ]
    )


def deltas(rows: Sequence[Row], one: Rollup) -> pl.DataFrame:
    frame = from_events(event(one), one, columns(rows))
    return frame.with_columns(keys.tuple_key(["external_customer_id", "g"]).alias("tuple_key"))


def naive(rows: Sequence[Row], window_ms: int) -> dict[tuple[int, str, str | None], tuple[object, ...]]:
    groups: dict[tuple[int, str, str | None], list[Fraction | None]] = {}
    for _, at_ms, customer, group, text in rows:
        start = at_ms - at_ms % window_ms
        groups.setdefault((start, customer, group), []).append(None if text is None else Fraction(text))
    return {
        group: (
            len(values),
            sum((v for v in values if v is not None), Fraction(0)),
            min((v for v in values if v is not None), default=None),
            max((v for v in values if v is not None), default=None),
        )
        for group, values in groups.items()
    }


def totals(frames: list[pl.DataFrame], one: Rollup) -> dict[tuple[int, str, str | None], tuple[object, ...]]:
    merged = merge([frame.drop("offset", strict=False) for frame in frames], Schema.of(one), KEYS)
    built = partials.build(merged, Schema.of(one), 1, 0)
    return {
        (row["window_ms"], row["external_customer_id"], row["g"]): (
            row["count"],
            *(None if row[name] is None else Fraction(Decimal(row[name])) for name in ("sum_n", "min_n", "max_n")),
        )
        for row in built.iter_rows(named=True)
    }


@given(rows=rows_of, window_ms=st.sampled_from([1000, 600_000, 86_400_000]))
def test_totals_are_exact(rows: list[Row], window_ms: int) -> None:
    one = rollup(window_ms)
    assert totals([deltas(rows, one)], one) == naive(rows, window_ms)


@given(rows=rows_of, cut=st.integers(0, 25), seed=st.randoms(use_true_random=False))
def test_merging_in_any_order_and_grouping_gives_the_same(rows: list[Row], cut: int, seed: object) -> None:
    one = rollup()
    whole = totals([deltas(rows, one)], one)
    shuffled = list(rows)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    parts = [part for part in (shuffled[:cut], shuffled[cut:]) if part]
    frames = [deltas(part, one).drop("offset") for part in parts]
    merged = merge(frames[::-1], Schema.of(one), KEYS)
    assert totals([merged], one) == whole
    assert totals([*frames], one) == whole


@given(rows=rows_of)
def test_totals_read_back_go_on_as_if_never_written(rows: list[Row]) -> None:
    one, schema = rollup(), Schema.of(rollup())
    half = len(rows) // 2
    if not half:
        return
    first = merge([deltas(rows[:half], one).drop("offset")], schema, KEYS)
    back = partials.parse(partials.build(first, schema, 5, 0), schema)
    second = deltas(rows[half:], one).drop("offset")
    assert totals([back, second], one) == naive(rows, 600_000)


def test_rows_of_different_events_offsets_are_never_merged_before_the_receiver() -> None:
    rows: list[Row] = [(0, 5, "a", "x", "1"), (0, 6, "a", "x", "2"), (1, 7, "a", "x", "4")]
    frame = deltas(rows, rollup())
    assert frame.select("offset", "count").rows() == [(0, 2), (1, 1)]


def test_a_tenth_a_million_times_is_a_hundred_thousand() -> None:
    one = rollup()
    frame = deltas([(0, 5, "a", "x", "0.1")], one).drop("offset")
    many = frame.select(pl.all().repeat_by(1_000_000).explode())
    assert totals([many], one)[0, "a", "x"] == (10**6, Fraction(100_000), Fraction(1, 10), Fraction(1, 10))
