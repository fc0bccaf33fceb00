"""Memory is a bounded cache: totals are the same whatever of them is read back."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollup_engine.emit import partials
from rollup_engine.exchange import Marks
from rollup_engine.packing import Packed
from rollup_engine.tables import Column, Schema
from rollup_engine.windows import accumulator
from rollup_engine.windows.accumulator import Accumulator

SCHEMA = Schema("r", (), (Column("sum", "sum_n"),))
Delta = tuple[int, int, int]  # window, group, amount


def packed(offset: int, deltas: list[Delta]) -> Packed:
    frame = pl.DataFrame(
        {
            "offset": pl.Series([offset] * len(deltas), dtype=pl.Int64),
            "window_ms": pl.Series([d[0] for d in deltas], dtype=pl.Int64),
            "tuple_key": pl.Series([d[1] for d in deltas], dtype=pl.UInt128),
            "external_customer_id": [f"c{d[1]}" for d in deltas],
            "count": pl.Series([1] * len(deltas), dtype=pl.Int128),
            "sum_n.lo": pl.Series([d[2] for d in deltas], dtype=pl.Int128),
        }
    )
    return Packed("life", 1, "events/0", offset, offset + 1, 0, {"r": frame})


batches = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(-9, 9)), min_size=1, max_size=6), max_size=8
)


before = st.dictionaries(
    st.tuples(st.integers(0, 2), st.integers(0, 4)), st.tuples(st.integers(1, 9), st.integers(-9, 9))
)


@pytest.mark.parametrize("cache_rows", [0, 1, 3, 1000])
@given(before=before, data=batches, emit_after=st.sets(st.integers(0, 8)))
def test_totals_do_not_depend_on_the_cache(
    cache_rows: int, before: dict[tuple[int, int], tuple[int, int]], data: list[list[Delta]], emit_after: set[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accumulator, "CACHE_ROWS_MAX", cache_rows)
        patch.setattr(accumulator, "_FRAMES_MAX", 2)
        whole_from = max((window + 1 for window, _ in before), default=0)
        one, marks = Accumulator(SCHEMA, whole_from_ms=whole_from), Marks({"events/0": 0})
        written, expected = dict(before), dict(before)
        for offset, deltas in enumerate([*data, [(0, 0, 1)]]):
            one.add(marks, [(offset, packed(offset, deltas))])
            touched = set()
            for window, group, amount in deltas:
                count, total = expected.get((window, group), (0, 0))
                expected[window, group] = count + 1, total + amount
                touched.add((window, group))
            if offset in emit_after or offset == len(data):
                changes = one.changes()
                assert changes is not None
                missing = one.missing(changes)
                wanted = [key for key in missing.iter_rows() if key in written]
                back = pl.DataFrame(
                    {
                        "window_ms": pl.Series([w for w, _ in wanted], dtype=pl.Int64),
                        "tuple_key": pl.Series([g for _, g in wanted], dtype=pl.UInt128),
                        "external_customer_id": pl.Series([f"c{g}" for _, g in wanted], dtype=pl.String),
                        "count": pl.Series([written[key][0] for key in wanted], dtype=pl.Int64),
                        "sum_n": pl.Series([str(written[key][1]) for key in wanted], dtype=pl.String),
                    }
                )
                totals = one.totals(changes, partials.parse(back, SCHEMA))
                rows = partials.build(totals, SCHEMA, offset, 0)
                assert touched <= set(rows.select("window_ms", "tuple_key").iter_rows())
                for row in rows.iter_rows(named=True):
                    written[row["window_ms"], row["tuple_key"]] = row["count"], int(row["sum_n"])
                one.emitted(totals)
                assert one.changes() is None  # an unchanged group is not emitted again
                assert one.cache is not None
                assert one.cache.height <= cache_rows
        assert written == expected


def test_what_the_marks_cut_is_not_added_again() -> None:
    one, marks = Accumulator(SCHEMA), Marks({"events/0": 0})
    record = packed(0, [(0, 1, 5)])
    one.add(marks, [(0, record), (1, record), (2, record)])
    changes = one.changes()
    assert changes is not None
    assert changes["count"].to_list() == [1]


def test_only_totals_that_may_be_there_are_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accumulator, "CACHE_ROWS_MAX", 2)
    one, marks = Accumulator(SCHEMA, whole_from_ms=1), Marks({"events/0": 0})

    def asked_for(offset: int, *deltas: Delta) -> list[tuple[int, int]]:
        one.add(marks, [(offset, packed(offset, list(deltas)))])
        changes = one.changes()
        assert changes is not None
        missing = one.missing(changes)
        one.emitted(changes)
        return list(missing.iter_rows())

    assert asked_for(0, (0, 7, 5), (1, 7, 5)) == [(0, 7)], "window 1 is new: nobody has written to it"
    assert asked_for(1, (0, 7, 5), (1, 8, 5)) == []
    assert asked_for(2, (1, 7, 5), (1, 8, 5), (2, 7, 5)) == [(1, 7)], "the cache had to forget it"
