"""Rule 3: verdicts follow from the log alone.

Duplicate iff an earlier copy of the id lies within the horizon before it; every copy renews the horizon. Time is the
running maximum of the raw records' own time per raw partition, carried in each row, so a backlog ages nothing.
`conflicting` compares with the earliest copy still inside the horizon that was mapped by the same fields: what a YAML
of before or after maps cannot be compared, and such a repeat is a duplicate. Late and future ids are not remembered.

A remembered id is its copies as runs of one payload: (payload hash, latest time), times rising. Nearly always one.
This module is pure: no clock, no store.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import polars as pl

from rollup_engine.keys import FIELDS_MASK, pairs, to_bytes
from rollup_engine.packing import KEYS, PIECES

if TYPE_CHECKING:
    from numpy.typing import NDArray

COUNTED, DUPLICATE, CONFLICTING, LATE, INVALID, UNMATCHED = (
    "counted",
    "duplicate",
    "conflicting",
    "late",
    "invalid",
    "unmatched",
)
FUTURE = "future"  # booked as invalid
RUNS_MAX = 64  # beyond it the oldest run goes: still a repeat, perhaps told as conflicting instead of duplicate

VERDICTS: Final = (COUNTED, DUPLICATE, CONFLICTING, LATE, FUTURE)
"""What may come of a well-formed row; all after the first two leave a dead letter."""
CODES: Final = {verdict: code for code, verdict in enumerate(VERDICTS)}

Runs = tuple[tuple[int, int], ...]
Puts = tuple[list[bytes], list[bytes]]  # ids to remember: keys, each once, and the value of each
Lookup = Callable[[list[bytes]], list[bytes | None]]
_RUN = struct.Struct(">Qq")
JUDGED_BY: Final = PIECES[KEYS]
"""The columns that verdicts follow from."""
KEY_BYTES = 16


def encode(runs: Runs) -> bytes:
    return b"".join(_RUN.pack(payload, at_ms) for payload, at_ms in runs)


def decode(value: bytes) -> Runs:
    return tuple(_RUN.iter_unpack(value))


def last_seen_ms(value: bytes) -> int:
    """The latest time in an encoded value."""
    return int.from_bytes(value[-8:], "big", signed=True)


def renewed(runs: Runs, payload: int, at_ms: int) -> Runs:
    """The runs after one more copy. One no later than the last run of its fields can never be the earliest of these
    inside a horizon."""
    last = next((number for number in reversed(range(len(runs))) if comparable(runs[number][0], payload)), None)
    if last is not None and runs[last][1] >= at_ms:
        return runs
    others = runs[:last] + runs[last + 1 :] if last is not None and runs[last][0] == payload else runs
    return tuple(sorted((*others, (payload, at_ms)), key=lambda run: run[1]))[-RUNS_MAX:]


def comparable(payload: int, other: int) -> bool:
    """Whether two payloads come of the same fields."""
    return not (payload ^ other) & FIELDS_MASK


def judge(runs: Runs, payload: int, at_ms: int, horizon_ms: int, *, future: bool, late: bool) -> tuple[str, Runs]:
    """The verdict on one copy of an id, and what is remembered after it."""
    inside = [seen for seen, seen_ms in runs if seen_ms >= at_ms - horizon_ms]
    if inside:
        earliest = next((seen for seen in inside if comparable(seen, payload)), payload)
        return (DUPLICATE if earliest == payload else CONFLICTING), renewed(runs, payload, at_ms)
    if future:
        return FUTURE, runs
    if late:
        return LATE, runs
    return COUNTED, renewed(runs, payload, at_ms)


@dataclass(frozen=True)
class Judged:
    """Per row of the frame given the number of its verdict among `VERDICTS`, and the ids to remember afterwards."""

    codes: "NDArray[np.uint8]"
    puts: Puts


def judge_frame(frame: pl.DataFrame, lookup: Lookup, horizon_ms: int) -> Judged:
    """Judges rows in log order, all of one event type: columns `JUDGED_BY`.

    They are worked off by id: verdicts on one id know nothing of others, and the store answers and takes in keys in
    order for less. Ids whose copies, with what is remembered, have one payload and lie within one horizon are judged as
    columns: once one is counted, all after it are duplicates. The others row by row, and those of several
    copies of which one is late or future.
    """
    keys = to_bytes(frame["id_hash"])
    order = _in_order(keys)
    keys = keys[order]
    payload, clock_ms, future, late = (frame[name].to_numpy()[order] for name in JUDGED_BY[1:])
    first = np.ones(len(keys), dtype=np.bool_)
    first[1:] = keys[1:] != keys[:-1]
    starts = np.flatnonzero(first)
    copies = np.diff(starts, append=len(keys))
    ids: list[bytes] = keys[starts].tolist()
    values = lookup(ids)
    seen = _Seen.of(values)

    payloads = payload[starts]
    payloads[seen.ids] = seen.payload
    earliest, latest = np.minimum.reduceat(clock_ms, starts), np.maximum.reduceat(clock_ms, starts)
    earliest[seen.ids] = np.minimum(earliest[seen.ids], seen.at_ms)
    latest[seen.ids] = np.maximum(latest[seen.ids], seen.at_ms)
    plain = (copies == 1) | ~np.logical_or.reduceat(future | late, starts)
    plain &= (latest - earliest).view(np.uint64) <= horizon_ms  # up to 2^64 apart
    plain &= ~np.logical_or.reduceat(payload != payloads.repeat(copies), starts)
    plain[seen.of_several_runs] = False

    codes = np.where(future, CODES[FUTURE], np.where(late, CODES[LATE], CODES[COUNTED]))
    codes[~first] = CODES[DUPLICATE]
    codes[starts[seen.ids]] = CODES[DUPLICATE]
    put = (plain & (codes[starts] <= CODES[DUPLICATE])).tolist()
    after: list[bytes] = pairs(payloads, latest).tolist()  # as `encode` has it
    for number in np.flatnonzero(~plain).tolist():
        value = values[number]
        runs = decode(value) if value is not None else ()
        for row in range(starts[number], starts[number] + copies[number]):
            copy = int(payload[row]), int(clock_ms[row])
            verdict, runs = judge(runs, *copy, horizon_ms, future=bool(future[row]), late=bool(late[row]))
            codes[row] = CODES[verdict]
        put[number], after[number] = bool(runs), encode(runs)
    puts = list(compress(ids, put)), list(compress(after, put))
    judged = np.empty(len(codes), dtype=np.uint8)
    judged[order] = codes
    return Judged(judged, puts)


class _Seen(NamedTuple):
    """What is remembered of ids, by their numbers: of each in `ids` one run, and of the others several."""

    ids: "NDArray[np.intp]"
    payload: "NDArray[np.uint64]"
    at_ms: "NDArray[np.int64]"
    of_several_runs: "NDArray[np.intp]"

    @classmethod
    def of(cls, values: Sequence[bytes | None]) -> "_Seen":
        found = list(filter(None, values))  # nothing remembered is of no bytes
        numbers = np.fromiter(compress(range(len(values)), values), dtype=np.intp, count=len(found))
        single = np.fromiter((len(value) == _RUN.size for value in found), dtype=np.bool_, count=len(found))
        runs = np.frombuffer(b"".join(compress(found, single)), dtype=[("payload", ">u8"), ("at_ms", ">i8")])
        payload, at_ms = runs["payload"].astype(np.uint64), runs["at_ms"].astype(np.int64)
        return cls(numbers[single], payload, at_ms, numbers[~single])


def _in_order(keys: "NDArray[np.void]") -> "NDArray[np.intp]":
    """The rows in order of their keys; of one key, as they stand."""
    halves = keys.view(">u8").reshape(-1, 2).astype(np.uint64)
    high, low = halves[:, 0], halves[:, 1]
    order = high.argsort()  # a quarter of what a stable sort takes; and few rows are alike
    alike = np.zeros(len(keys) + 1, dtype=np.bool_)
    alike[1:-1] = high[order[1:]] == high[order[:-1]]
    tied = np.flatnonzero(alike[:-1] | alike[1:])
    rows = order[tied]
    order[tied] = rows[np.lexsort((rows, low[rows], high[rows]))]
    return order
