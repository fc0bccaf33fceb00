"""Rule 3 against its naive definition: a list of all copies ever seen."""

import struct
from dataclasses import dataclass
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollup_engine.dedup import verdicts
from rollup_engine.dedup.verdicts import (
    CONFLICTING,
    COUNTED,
    DUPLICATE,
    FUTURE,
    KEY_BYTES,
    LATE,
    VERDICTS,
    Runs,
    decode,
    encode,
    judge,
    judge_frame,
    last_seen_ms,
    renewed,
)
from rollup_engine.keys import to_bytes

REPEATS = (DUPLICATE, CONFLICTING)


@dataclass(frozen=True)
class Copy:
    """One row of the events log. Times are those of its raw partition's clock: they need not rise over partitions."""

    id: int
    payload: int
    at_ms: int
    future: bool
    late: bool


times = st.integers(0, 30) | st.sampled_from((-(1 << 63), (1 << 63) - 1))
copies = st.builds(
    Copy,
    id=st.integers(1, 3),
    payload=st.sampled_from((1 << 16, 2 << 16, 7 << 61, (1 << 16) + 9, (2 << 16) + 9)),  # the last two: other fields
    at_ms=times,
    future=st.sampled_from((False, False, False, True)),
    late=st.sampled_from((False, False, True)),
)
horizons = st.integers(0, 12)


class Naive:
    """Keeps every remembered copy in the order of the log."""

    def __init__(self, horizon_ms: int) -> None:
        self.horizon_ms = horizon_ms
        self.seen: dict[int, list[Copy]] = {}

    def judge(self, copy: Copy) -> str:
        earlier = self.seen.setdefault(copy.id, [])
        inside = [one for one in earlier if one.at_ms >= copy.at_ms - self.horizon_ms]
        if inside:
            earlier.append(copy)
            alike = [one.payload for one in inside if one.payload % (1 << 16) == copy.payload % (1 << 16)]
            return DUPLICATE if not alike or alike[0] == copy.payload else CONFLICTING
        if copy.future or copy.late:
            return FUTURE if copy.future else LATE
        earlier.append(copy)
        return COUNTED


def judged_one_by_one(log: list[Copy], horizon_ms: int) -> list[str]:
    runs: dict[int, Runs] = {}
    found = []
    for copy in log:
        verdict, runs[copy.id] = judge(
            runs.get(copy.id, ()), copy.payload, copy.at_ms, horizon_ms, future=copy.future, late=copy.late
        )
        found.append(verdict)
    return found


@given(st.lists(copies, max_size=30), horizons)
def test_verdicts_are_those_of_the_definition(log: list[Copy], horizon_ms: int) -> None:
    naive = Naive(horizon_ms)
    assert judged_one_by_one(log, horizon_ms) == [naive.judge(copy) for copy in log]


@pytest.mark.parametrize("runs_max", [1, 2, 3])
@given(log=st.lists(copies, max_size=40), horizon_ms=horizons)
def test_beyond_the_greatest_number_of_runs_a_repeat_is_still_a_repeat(
    runs_max: int, log: list[Copy], horizon_ms: int
) -> None:
    naive = Naive(horizon_ms)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdicts, "RUNS_MAX", runs_max)
        for copy, found in zip(log, judged_one_by_one(log, horizon_ms), strict=True):
            expected = naive.judge(copy)
            assert found == expected or {found, expected} == set(REPEATS)


def example(*rows: tuple[int, int, str]) -> list[str]:
    """Verdicts on copies of one id, (payload, time, "" or "late" or "future"), under a horizon of 100 ms."""
    log = [Copy(1, payload << 16, at_ms, mark == "future", mark == "late") for payload, at_ms, mark in rows]
    return judged_one_by_one(log, 100)


def test_every_copy_renews_the_horizon() -> None:
    assert example((1, 0, ""), (1, 90, ""), (1, 180, ""), (1, 281, "")) == [COUNTED, DUPLICATE, DUPLICATE, COUNTED]


def test_a_late_or_future_id_is_not_remembered() -> None:
    assert example((1, 0, "late"), (1, 1, "future"), (1, 2, ""), (1, 3, "late")) == [LATE, FUTURE, COUNTED, DUPLICATE]


def test_a_conflict_is_with_the_earliest_copy_inside_the_horizon() -> None:
    rows = (1, 0, ""), (2, 60, ""), (2, 120, ""), (1, 121, "")
    assert example(*rows) == [COUNTED, CONFLICTING, DUPLICATE, CONFLICTING]


def test_the_oldest_run_goes_first() -> None:
    runs: Runs = ()
    for number in range(verdicts.RUNS_MAX + 3):
        runs = renewed(runs, number % 2 << 16, number)
    assert len(runs) == verdicts.RUNS_MAX
    assert (runs[0][1], runs[-1][1]) == (3, verdicts.RUNS_MAX + 2)


def test_copies_mapped_by_other_fields_are_repeats_and_no_conflict() -> None:
    one, other = (7 << 16) + 1, (8 << 16) + 2
    assert judge(((one, 100),), other, 101, 10, future=False, late=False) == (DUPLICATE, ((one, 100), (other, 101)))
    assert judge(((one, 100), (other, 101)), (9 << 16) + 2, 102, 10, future=False, late=False)[0] == CONFLICTING


def test_the_edge_of_the_horizon_is_inside() -> None:
    runs = ((7, 100),)
    assert judge(runs, 7, 110, 10, future=False, late=False)[0] == DUPLICATE
    assert judge(runs, 7, 111, 10, future=False, late=False)[0] == COUNTED


def test_a_copy_of_a_lagging_raw_partition_is_a_repeat_of_one_ahead_of_it() -> None:
    assert judge(((7, 100),), 7, 5, 10, future=False, late=False)[0] == DUPLICATE


def test_repeats_are_told_before_future_and_late_and_future_before_late() -> None:
    assert judge(((7 << 16, 100),), 8 << 16, 100, 10, future=True, late=True)[0] == CONFLICTING
    assert judge((), 7, 100, 10, future=True, late=True) == (FUTURE, ())
    assert judge((), 7, 100, 10, future=False, late=True) == (LATE, ())


@given(st.lists(st.tuples(st.integers(0, (1 << 64) - 1), st.integers(-(1 << 62), 1 << 62)), min_size=1, max_size=5))
def test_encoded_runs_come_back(runs: list[tuple[int, int]]) -> None:
    value = encode(tuple(runs))
    assert decode(value) == tuple(runs)
    assert last_seen_ms(value) == runs[-1][1]
    assert len(value) == struct.calcsize(">Qq") * len(runs)


# ------------------------------------------------------------------------------------------------------------ frames


def frame_of(log: list[Copy]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id_hash": pl.Series([copy.id << 100 for copy in log], dtype=pl.UInt128),
            "payload": pl.Series([copy.payload for copy in log], dtype=pl.UInt64),
            "clock_ms": pl.Series([copy.at_ms for copy in log], dtype=pl.Int64),
            "future": pl.Series([copy.future for copy in log], dtype=pl.Boolean),
            "late": pl.Series([copy.late for copy in log], dtype=pl.Boolean),
        }
    )


def judged_in_frames(log: list[Copy], cuts: list[int], horizon_ms: int, store: dict[bytes, bytes]) -> list[str]:
    found: list[str] = []
    bounds = sorted({0, len(log), *(cut % (len(log) + 1) for cut in cuts)})
    for start, end in pairwise(bounds):
        frame = frame_of(log[start:end])
        judged = judge_frame(frame, lambda keys: [store.get(key) for key in keys], horizon_ms)
        found += [VERDICTS[code] for code in judged.codes.tolist()]
        store.update(zip(*judged.puts, strict=True))
    return found


wide = st.builds(
    lambda copy, id_: Copy(id_, copy.payload, copy.at_ms, copy.future, copy.late), copies, st.integers(1, 40)
)
alike = st.builds(  # nearly all there is: repeats with the payload of before
    lambda id_, at_ms, odd: Copy(id_, id_ << 16, at_ms, odd == 0, odd == 1),
    st.integers(1, 12),
    times,
    st.integers(0, 19),
)
logs = st.lists(copies | wide, max_size=40) | st.lists(alike, max_size=40)


@given(logs, st.lists(st.integers(0, 100), max_size=4), horizons)
def test_a_frame_is_judged_as_its_rows_one_by_one(log: list[Copy], cuts: list[int], horizon_ms: int) -> None:
    assert judged_in_frames(log, cuts, horizon_ms, {}) == judged_one_by_one(log, horizon_ms)


@given(
    logs,
    st.lists(st.integers(0, 100), max_size=4),
    st.lists(st.integers(0, 100), max_size=4),
    horizons,
)
def test_what_is_remembered_does_not_depend_on_the_batches(
    log: list[Copy], cuts: list[int], others: list[int], horizon_ms: int
) -> None:
    store: dict[bytes, bytes] = {}
    rebuilt: dict[bytes, bytes] = {}
    judged_in_frames(log, cuts, horizon_ms, store)
    judged_in_frames(log, others, horizon_ms, rebuilt)
    assert rebuilt == store


def test_keys_are_as_long_as_the_store_expects_and_keep_their_order() -> None:
    keys = to_bytes(frame_of([Copy(number, 1, 0, False, False) for number in (3, 1, 2)])["id_hash"]).tolist()
    assert [len(key) for key in keys] == [KEY_BYTES] * 3
    assert [int.from_bytes(key, "big") >> 100 for key in keys] == [3, 1, 2]
