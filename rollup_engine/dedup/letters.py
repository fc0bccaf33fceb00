"""Dead letters: every raw record that is neither counted nor a duplicate, with a reason a person understands."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import polars as pl

from rollup_engine import keys, numbers
from rollup_engine.config.model import EventType
from rollup_engine.dedup.verdicts import CONFLICTING, FUTURE, INVALID, LATE
from rollup_engine.route.decode import number_scales, text_paths

SCHEMA: dict[str, Any] = {
    "event": pl.String,
    "source": pl.String,
    "source_offset": pl.Int64,
    "record_ms": pl.Int64,
    "outcome": pl.String,
    "reason": pl.String,
    "detail": pl.String,
    "event_id": pl.String,
    "mapped": pl.String,  # the values the YAML maps, as JSON; null where they could not be read
    "original": pl.Binary,  # null: still in the raw topic at source and source_offset, as long as that keeps it
    "original_bytes": pl.Int64,
    "original_sha256": pl.String,
}


def from_rejected(rows: pl.DataFrame) -> pl.DataFrame:
    """Letters of rejected rows; the frame also has `source`."""
    return rows.select(
        "event",
        "source",
        pl.col("offset").alias("source_offset"),
        "record_ms",
        pl.lit(INVALID).alias("outcome"),
        "reason",
        "detail",
        pl.lit(None, dtype=pl.String).alias("event_id"),
        pl.lit(None, dtype=pl.String).alias("mapped"),
        "original",
        "original_bytes",
        "original_sha256",
    )


def from_verdicts(event: EventType, rows: pl.DataFrame, verdicts: Iterable[str]) -> pl.DataFrame:
    """Letters of well-formed rows that are late, future or conflicting; the frame also has `source`."""
    written = [_letter(event, row, is_) for row, is_ in zip(rows.iter_rows(named=True), verdicts, strict=True)]
    return pl.DataFrame(written, schema=SCHEMA, orient="row")


def _letter(event: EventType, row: Mapping[str, Any], verdict: str) -> tuple[object, ...]:
    at = _rfc3339(row["timestamp_ms"])
    if verdict == CONFLICTING:
        reason = "conflict"
        parts = keys.split(row["id"], len(event.id_paths))
        detail = f"the id {', '.join(map(_short, parts))} was seen before with other values; the first copy counts"
    elif verdict == LATE:
        reason = "late"
        behind = _duration(row["watermark_ms"] - row["timestamp_ms"])
        detail = (
            f"its time {at} is {behind} behind the latest event of its raw partition"
            f" ({_rfc3339(row['watermark_ms'])}); grace_period allows {_duration(event.grace_ms or 0)}"
        )
    else:
        reason = "future_timestamp"
        detail = (
            f"its time {at} is more than {_duration(event.max_future_ms)} (max_future) ahead of"
            f" when it was recorded ({_rfc3339(row['record_ms'])})"
        )
    outcome = INVALID if verdict == FUTURE else verdict
    mapped = json.dumps(mapped_values(event, row), ensure_ascii=False)
    return (
        event.event,
        row["source"],
        row["offset"],
        row["record_ms"],
        outcome,
        reason,
        detail,
        row["id"],
        mapped,
        row.get("original"),
        row.get("original_bytes"),
        row.get("original_sha256"),
    )


def mapped_values(event: EventType, row: Mapping[str, Any]) -> dict[str, str | None]:
    """Path to text for every mapped value of a row."""
    values: dict[str, str | None] = {
        **dict(zip(event.id_paths, keys.split(row["id"], len(event.id_paths)), strict=True)),
        event.timestamp.path: _rfc3339(row["timestamp_ms"]),
        event.customer_path: row["customer"],
    }
    values.update((path, row[f"t.{path}"]) for path in text_paths(event))
    for path in number_scales(event):
        hi, lo, frac = (row.get(f"n.{path}.{part}") for part in numbers.PARTS)
        values[path] = None if lo is None else f"{numbers.decimal(hi or 0, lo, frac or 0):f}"
    return values


def empty() -> pl.DataFrame:
    return pl.DataFrame(schema=SCHEMA)


def combined(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat([empty(), *frames])


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _rfc3339(at_ms: int) -> str:
    try:
        at = datetime.fromtimestamp(at_ms // 1000, UTC).replace(microsecond=at_ms % 1000 * 1000)
    except (ValueError, OverflowError, OSError):
        return f"{at_ms} ms since 1970"
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _duration(ms: int) -> str:
    """`1d 2h 3m 4s`, the two largest units that are not zero."""
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, ms = divmod(ms, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
