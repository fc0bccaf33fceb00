"""Rule 3 against its naive definition: keep every copy ever seen, and look for those inside the horizon."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from rollup_engine.dedup import verdicts
from rollup_engine.dedup.memory import MemoryIds
from rollup_engine.dedup.verdicts import (
    CONFLICTING,
    COUNTED,
    DUPLICATE,
    FUTURE,
    LATE,
    decode,
    encode,
    judge,
    judge_frame,
)

HORIZON_MS = 100

copies = st.lists(
    st.tuples(
        st.integers(0, 3),  # id
        st.integers(1, 2),  # payload
        st.integers(0, 400),  # the raw partition's clock: it may lie behind another partition's
        st.sampled_from(["", "", "", "late", "future"]),
    ),
    max_size=40,
)


def naive(rows: list[tuple[int, int, int, str]]) -> list[str]:
    """The definition: an earlier copy, remembered, no more than the horizon before this one."""
    seen: dict[int, list[tuple[int, int]]] = {}
    found = []
    for ident, payload, at_ms, mark in rows:
        inside = [p for p, t in seen.get(ident, []) if t >= at_ms - HORIZON_MS]
        if inside:
            verdict = DUPLICATE if inside[0] == payload else CONFLICTING
        else:
            verdict = {"late": LATE, "future": FUTURE}.get(mark, COUNTED)
        if inside or verdict == COUNTED:
            seen.setdefault(ident, []).append((payload, at_ms))
        found.append(verdict)
    return found


def frame(rows: list[tuple[int, int, int, str]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id_hash": pl.Series([row[0] for row in rows], dtype=pl.UInt128),
            "payload": pl.Series([row[1] for row in rows], dtype=pl.UInt64),
            "clock_ms": pl.Series([row[2] for row in rows], dtype=pl.Int64),
            "late": pl.Series([row[3] == "late" for row in rows], dtype=pl.Boolean),
            "future": pl.Series([row[3] == "future" for row in rows], dtype=pl.Boolean),
        }
    )


def judged(batches: list[list[tuple[int, int, int, str]]]) -> tuple[list[str], dict[bytes, bytes]]:
    store = MemoryIds()
    found: list[str] = []
    for number, rows in enumerate(batches):
        if rows:
            columns = frame(rows)
            keys = verdicts.id_keys(columns)
            outcome = judge_frame(columns, keys, store.get(keys), HORIZON_MS)
            found += outcome.verdicts.to_list()
            store.write(outcome.puts, number, "life")
    return found, store.ids


@given(rows=copies)
def test_one_by_one_is_the_definition(rows: list[tuple[int, int, int, str]]) -> None:
    runs: dict[int, verdicts.Runs] = {}
    found = []
    for ident, payload, at_ms, mark in rows:
        verdict, runs[ident] = judge(
            runs.get(ident, ()), payload, at_ms, HORIZON_MS, future=mark == "future", late=mark == "late"
        )
        found.append(verdict)
    assert found == naive(rows)


@given(rows=copies, cuts=st.lists(st.integers(0, 40), max_size=4))
def test_batches_however_cut_are_the_definition_and_leave_the_same_store(
    rows: list[tuple[int, int, int, str]], cuts: list[int]
) -> None:
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    found, store = judged([rows[a:b] for a, b in zip(edges, edges[1:], strict=False)])
    assert found == naive(rows)
    assert store == judged([rows])[1]


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=5))
def test_runs_survive_encoding(runs: list[tuple[int, int]]) -> None:
    value = encode(tuple(runs))
    assert decode(value) == tuple(runs)
    assert verdicts.last_seen_ms(value) == runs[-1][1]


def test_every_copy_renews_the_horizon() -> None:
    rows = [(1, 1, 0, ""), (1, 1, 90, ""), (1, 1, 180, ""), (1, 1, 281, "")]
    assert judged([rows])[0] == [COUNTED, DUPLICATE, DUPLICATE, COUNTED]


def test_a_late_or_future_id_is_not_remembered() -> None:
    rows = [(1, 1, 0, "late"), (1, 1, 1, "future"), (1, 1, 2, ""), (1, 1, 3, "late")]
    assert judged([rows])[0] == [LATE, FUTURE, COUNTED, DUPLICATE]


def test_a_conflict_is_with_the_earliest_copy_inside_the_horizon() -> None:
    rows = [(1, 1, 0, ""), (1, 2, 60, ""), (1, 2, 120, ""), (1, 1, 121, "")]
    assert judged([rows])[0] == [COUNTED, CONFLICTING, DUPLICATE, CONFLICTING]


def test_an_id_of_very_many_payloads_stays_bounded_and_counted_once() -> None:
    runs: verdicts.Runs = ()
    seen = []
    for number in range(10 * verdicts.RUNS_MAX):
        verdict, runs = judge(runs, number % 2, number, 10**6, future=False, late=False)
        seen.append(verdict)
    assert seen[0] == COUNTED
    assert COUNTED not in seen[1:]
    assert len(runs) == verdicts.RUNS_MAX
