"""The core of the first stage: raw records to rows for the exchange by id. Pure, and judges nothing.

What it cannot decode travels on as a rejected row with its reason. Which destination a record's row goes to is a
function of (source, offset, record) alone. The wall clock serves two purposes. A timestamp in the future is marked
against the earlier of the record's time and `now`, once, here, and the mark travels in the row; in a bucket against
`now` alone, for what is read may be newer than the first listing of its name. And a record that says it is hours ahead
of `now` does not make the clock, by which ids are kept, run so far ahead.
"""

import hashlib
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import polars as pl

from rollup_engine import keys
from rollup_engine.config.model import EventType
from rollup_engine.ports import Record, Unreadable
from rollup_engine.route.columns import EventColumns
from rollup_engine.route.decode import Decoder, Undecodable
from rollup_engine.route.state import NO_WATERMARK_MS, RouteState

ORIGINAL_BYTES_MAX = 512 * 1024
ORIGINALS_BYTES_MAX = 3 * ORIGINAL_BYTES_MAX  # of one record, over all its event types: they travel in one record
CLOCK_AHEAD_MS = 2 * 3_600_000  # of a record's time to ours: Kafka's default allows an hour, and ours may be wrong
REJECTED, UNMATCHED, EVENT = "rejected", "unmatched", "event:"  # tables of a packed record

Tables = dict[str, pl.DataFrame]

_REJECTED_SCHEMA: dict[str, Any] = {
    "offset": pl.Int64,
    "event": pl.String,
    "primary": pl.Boolean,
    "record_ms": pl.Int64,
    "reason": pl.String,
    "detail": pl.String,
    "original": pl.Binary,
    "original_bytes": pl.Int64,
    "original_sha256": pl.String,
}


@dataclass(frozen=True)
class Routed:
    """The outcome of one batch: the state after it, and per destination partition the tables of its rows."""

    state: RouteState
    tables: dict[int, Tables] = field(default_factory=dict)


class Router:
    """Routes the records of one raw topic to `partitions` destinations."""

    def __init__(self, topic: str, events: Sequence[EventType], partitions: int) -> None:
        self._partitions = partitions
        events = sorted(events, key=lambda event: event.event)  # which is primary must not hang on files' names
        self._original_bytes_max = min(ORIGINAL_BYTES_MAX, ORIGINALS_BYTES_MAX // len(events))
        decoder = Decoder(events)
        self._decoder = decoder
        self._events = [EventColumns(event, decoder) for event in events]
        self._whose = events[0].event if len(events) == 1 else f"topic:{topic}"
        self._of_a_bucket = any(event.bucket is not None and event.bucket.topic == topic for event in events)

    def route(self, state: RouteState, records: Sequence[Record], now_ms: int) -> Routed:
        """`records` in offset order, at least one; a bucket's may be `Unreadable`."""
        decoded = self._decoded(records)
        # Kafka's oldest format has no times: such a record is of now.
        recorded = [now_ms if record.timestamp is None else record.timestamp for record in records]
        record_ms = np.array(recorded, dtype=np.int64)
        clock_ms = np.maximum.accumulate(np.minimum(record_ms, now_ms + CLOCK_AHEAD_MS)).clip(min=state.clock_ms)
        offsets = np.array([record.offset for record in records], dtype=np.int64)
        times = pl.DataFrame({"offset": offsets, "record_ms": record_ms, "clock_ms": clock_ms})
        tables: dict[int, Tables] = {}
        good: Sequence[int] = range(len(records))
        rejected: list[tuple[object, ...]] = []
        unclaimed = np.ones(len(records), dtype=np.bool_)  # by any event type yet: the first to take one is primary
        if Undecodable in set(map(type, decoded)):
            good = [row for row, one in enumerate(decoded) if type(one) is not Undecodable]
            bad_rows = set(range(len(records))).difference(good)
            rejected = [
                self._rejected(records[row], recorded[row], self._whose, True, decoded[row]) for row in sorted(bad_rows)
            ]
            unclaimed[list(bad_rows)] = False
        received = Counter(state.received)
        received[self._whose] += len(rejected)
        watermarks = dict(state.watermarks)
        for columns in self._events:
            rows = good if columns.takes_all else [row for row in good if columns.matches(decoded[row])]
            if not rows:
                continue
            name = columns.event.event
            received[name] += len(rows)
            every = len(rows) == len(records)
            at: Any = slice(None) if every else rows
            frame, bad = columns.frame(decoded if every else [decoded[row] for row in rows], times[at])
            rejected += [
                self._rejected(records[row], recorded[row], name, bool(unclaimed[row]), why)
                for row, why in ((rows[i], why) for i, why in bad.items())
            ]
            primary = pl.Series("primary", np.delete(unclaimed[at], list(bad)))
            unclaimed[at] = False
            timed, watermarks[name] = self._timed(frame, columns.event, watermarks.get(name), now_ms)
            frame = frame.hstack([primary, *timed])
            frame = self._with_originals(frame, records)
            self._spread(tables, EVENT + name, frame, keys.partition_of("id_hash", self._partitions))
        by_offset = (pl.col("offset") % self._partitions).cast(pl.UInt32)
        if rejected:
            frame = pl.DataFrame(rejected, schema=_REJECTED_SCHEMA, orient="row").sort("offset", maintain_order=True)
            self._spread(tables, REJECTED, frame, by_offset)
        if unclaimed.any():
            unmatched = times.filter(unclaimed).select("offset", pl.lit(self._whose).alias("event"))
            self._spread(tables, UNMATCHED, unmatched, by_offset)
        last = records[-1]
        after = msgspec.structs.replace(
            state,
            watermarks=watermarks,
            clock_ms=times["clock_ms"][-1],
            records=state.records + len(records),
            received={name: count for name, count in received.items() if count},
            last_offset=last.offset,
            last_crc=zlib.crc32(last.value or b""),
            quiet_ms=0,
        )
        return Routed(after, tables)

    def _decoded(self, records: Sequence[Record]) -> list[Any]:
        if not self._of_a_bucket:
            return self._decoder.decode([record.value or b"" for record in records])
        # `{}` in place of what is unreadable: the decoder's fast path is left for a batch with anything malformed in it
        bad = {row: record for row, record in enumerate(records) if type(record) is Unreadable}
        decoded = self._decoder.decode([b"{}" if row in bad else one.value or b"" for row, one in enumerate(records)])
        for row, record in bad.items():
            decoded[row] = Undecodable(record.reason, record.detail)
        return decoded

    def _timed(
        self, frame: pl.DataFrame, event: EventType, watermark: int | None, now_ms: int
    ) -> tuple[list[pl.Series], int]:
        """Columns future, watermark_ms and late; and the watermark after the frame."""
        at_ms = frame["timestamp_ms"].to_numpy()
        now = now_ms if self._of_a_bucket else np.minimum(frame["record_ms"].to_numpy(), now_ms)
        before = NO_WATERMARK_MS if watermark is None else watermark
        future = at_ms > now + event.max_future_ms
        watermark_ms = np.maximum.accumulate(np.where(future, before, at_ms)).clip(min=before)
        late = np.zeros(len(at_ms), np.bool_) if event.grace_ms is None else watermark_ms - event.grace_ms > at_ms
        columns = {"future": future, "watermark_ms": watermark_ms, "late": late}
        after = int(watermark_ms[-1]) if len(at_ms) else before
        return [pl.Series(name, values) for name, values in columns.items()], after

    def _spread(self, tables: dict[int, Tables], name: str, frame: pl.DataFrame, partition: pl.Expr) -> None:
        for to, part in keys.spread(frame, partition).items():
            tables.setdefault(to, {})[name] = part

    def _rejected(
        self, record: Record, record_ms: int, event: str, primary: bool, why: Undecodable
    ) -> tuple[object, ...]:
        value = record.value or b""
        return (
            record.offset,
            event,
            primary,
            record_ms,
            why.reason,
            why.detail[:500],
            value[: self._original_bytes_max],
            len(value),
            hashlib.sha256(value).hexdigest(),
        )

    def _with_originals(self, frame: pl.DataFrame, records: Sequence[Record]) -> pl.DataFrame:
        """Late and future rows carry the original bytes: they may become dead letters."""
        dying = frame["late"] | frame["future"]
        if not dying.any():
            return frame
        wanted = frame["offset"].filter(dying)
        by_offset = {record.offset: record.value or b"" for record in records}
        values = [by_offset[offset] for offset in wanted]
        originals = pl.DataFrame(
            {
                "offset": wanted,
                "original": pl.Series([value[: self._original_bytes_max] for value in values], dtype=pl.Binary),
                "original_bytes": pl.Series([len(value) for value in values], dtype=pl.Int64),
                "original_sha256": [hashlib.sha256(value).hexdigest() for value in values],
            }
        )
        return frame.join(originals, on="offset", how="left", maintain_order="left")
