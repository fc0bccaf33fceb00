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
from typing import Final

import numpy as np
import polars as pl

from rollup_engine.keys import FIELDS_MASK, pairs, to_bytes

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

Runs = tuple[tuple[int, int], ...]
Puts = tuple[list[bytes], list[bytes]]  # ids to remember: keys, each once, and the value of each
Lookup = Callable[[list[bytes]], list[bytes | None]]
_RUN = struct.Struct(">Qq")
JUDGED_BY: Final = ("id_hash", "payload", "clock_ms", "future", "late")
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
    """Verdicts per row of the frame given, and the ids to remember afterwards."""

    verdicts: pl.Series
    puts: Puts


def judge_frame(frame: pl.DataFrame, lookup: Lookup, horizon_ms: int) -> Judged:
    """Judges rows in log order, all of one event type: columns `JUDGED_BY`.

    They are worked off by id: verdicts on one id know nothing of others, and the store answers and takes in keys in
    order for less. Rows whose id is new and stands once in the frame are judged as columns; the others one by one.
    """
    rows = frame.select(JUDGED_BY).with_row_index("row")
    rows = rows.sort("id_hash", maintain_order=True)
    keys = to_bytes(rows["id_hash"])
    ids: list[bytes] = keys.tolist()
    found = lookup(ids)
    new_key = (rows["id_hash"] != rows["id_hash"].shift()).fill_null(value=True)
    plain = new_key & new_key.shift(-1, fill_value=True)  # in order of keys, an id that stands twice has it beside it
    if found.count(None) < len(found):
        plain &= pl.Series([value is None for value in found], dtype=pl.Boolean)
    verdicts = rows.select(
        pl.when("future").then(pl.lit(FUTURE)).when("late").then(pl.lit(LATE)).otherwise(pl.lit(COUNTED))
    ).to_series()
    new = (plain & (verdicts == COUNTED)).to_numpy()
    values = pairs(rows["payload"].to_numpy(), rows["clock_ms"].to_numpy())  # as `encode` has them
    puts: Puts = list(compress(ids, new.tolist())), values[new].tolist()
    others = (~plain).arg_true()
    if others.len():
        runs: dict[bytes, Runs] = {}
        changed: list[str] = []
        copies = rows[others].select("payload", "clock_ms", "future", "late").iter_rows()
        for row, (payload, at_ms, future, late) in zip(others.to_list(), copies, strict=True):
            key, value = ids[row], found[row]
            before = runs[key] if key in runs else decode(value) if value is not None else ()
            verdict, runs[key] = judge(before, payload, at_ms, horizon_ms, future=future, late=late)
            changed.append(verdict)
        remembered = {key: after for key, after in runs.items() if after}
        puts[0].extend(remembered)
        puts[1].extend(map(encode, remembered.values()))
        verdicts = verdicts.scatter(others, changed)
    place = np.empty(rows.height, dtype=np.uint32)
    place[rows["row"].to_numpy()] = np.arange(rows.height, dtype=np.uint32)
    return Judged(verdicts.gather(place).alias("verdict"), puts)
