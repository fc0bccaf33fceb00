"""Rule 3: verdicts follow from the log alone.

Duplicate iff an earlier copy of the id lies within the horizon before it; every copy renews the horizon. Time is the
running maximum of the raw records' own time per raw partition, carried in each row, so a backlog ages nothing.
`conflicting` compares with the earliest copy still inside the horizon that was mapped by the same fields: what a YAML
of before or after maps cannot be compared, and such a repeat is a duplicate. Late and future ids are not remembered.

A remembered id is its copies as runs of one payload: (payload hash, latest time), times rising. Nearly always one.
This module is pure: no clock, no store.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from rollup_engine.keys import FIELDS_MASK

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
_RUN = struct.Struct(">Qq")
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
    puts: Mapping[bytes, bytes]


def id_keys(frame: pl.DataFrame) -> list[bytes]:
    """The store's keys of a frame's rows."""
    return [number.to_bytes(KEY_BYTES, "big") for number in frame["id_hash"].to_list()]


def judge_frame(frame: pl.DataFrame, keys: list[bytes], found: list[bytes | None], horizon_ms: int) -> Judged:
    """Judges rows in log order, all of one event type: columns id_hash, payload, clock_ms, future, late.

    `found` is what the store holds per row, from before the frame. Rows whose id is new and stands once in the frame
    are judged as columns; the others one by one, in order.
    """
    plain = ~frame["id_hash"].is_duplicated() & pl.Series([value is None for value in found], dtype=pl.Boolean)
    verdicts = frame.select(
        pl.when("future").then(pl.lit(FUTURE)).when("late").then(pl.lit(LATE)).otherwise(pl.lit(COUNTED))
    ).to_series()
    remembered = plain & (verdicts == COUNTED)
    payloads, times = frame["payload"].to_list(), frame["clock_ms"].to_list()
    pack = _RUN.pack
    if remembered.all():
        return Judged(verdicts, dict(zip(keys, map(pack, payloads, times), strict=True)))
    puts = {keys[row]: pack(payloads[row], times[row]) for row in remembered.arg_true().to_list()}
    runs: dict[bytes, Runs] = {}
    rows = (~plain).arg_true().to_list()
    futures, lates = frame["future"], frame["late"]
    changed: list[str] = []
    for row in rows:
        key = keys[row]
        before = runs.get(key)
        if before is None:
            value = found[row]
            before = decode(value) if value is not None else ()
        verdict, runs[key] = judge(before, payloads[row], times[row], horizon_ms, future=futures[row], late=lates[row])
        changed.append(verdict)
    puts.update((key, encode(after)) for key, after in runs.items() if after)
    return Judged(verdicts.scatter(rows, changed) if rows else verdicts, puts)
