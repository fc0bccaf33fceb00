"""Rule 3: verdicts follow from the log alone.

Duplicate iff an earlier copy of the id lies within the horizon before it; every copy renews the horizon. Time is the
running maximum of the raw records' own time per raw partition, carried in each row, so a backlog ages nothing.
`conflicting` compares with the earliest copy still inside the horizon that was mapped by the same fields: what a YAML
of before or after maps cannot be compared, and such a repeat is a duplicate. Late and future ids are not remembered.

A remembered id is its copies as runs of one payload: (payload hash, latest time), times rising. Nearly always one.
This module is pure: no clock, no store.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Final

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
    order for less. Rows whose id is new and stands once in the frame are judged as columns; the others one by one.
    """
    keys = to_bytes(frame["id_hash"])
    order = _in_order(keys)
    keys = keys[order]
    payload, clock_ms, future, late = (frame[name].to_numpy()[order] for name in JUDGED_BY[1:])
    ids: list[bytes] = keys.tolist()
    found = lookup(ids)
    again = np.zeros(len(ids) + 1, dtype=np.bool_)  # in order of keys, an id that stands twice has it beside it
    again[1:-1] = keys[1:] == keys[:-1]
    plain = ~(again[:-1] | again[1:])
    plain[[row for row, value in enumerate(found) if value is not None]] = False
    codes = np.where(future, CODES[FUTURE], np.where(late, CODES[LATE], CODES[COUNTED]))
    new = plain & (codes == CODES[COUNTED])
    values = pairs(payload, clock_ms)  # as `encode` has them
    puts: Puts = list(compress(ids, new.tolist())), values[new].tolist()
    others = np.flatnonzero(~plain)
    if others.size:
        runs: dict[bytes, Runs] = {}
        changed: list[int] = []
        copies = zip(*(column[others].tolist() for column in (payload, clock_ms, future, late)), strict=True)
        for row, (of_payload, at_ms, is_future, is_late) in zip(others.tolist(), copies, strict=True):
            key, value = ids[row], found[row]
            before = runs[key] if key in runs else decode(value) if value is not None else ()
            verdict, runs[key] = judge(before, of_payload, at_ms, horizon_ms, future=is_future, late=is_late)
            changed.append(CODES[verdict])
        remembered = {key: after for key, after in runs.items() if after}
        puts[0].extend(remembered)
        puts[1].extend(map(encode, remembered.values()))
        codes[others] = changed
    judged = np.empty(len(codes), dtype=np.uint8)
    judged[order] = codes
    return Judged(judged, puts)


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
