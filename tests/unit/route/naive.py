"""Route by the book, one record at a time: the standard library's json, exact fractions, no columns, no batches.

What `rollup_engine.route` must come to, for any records. Slow and plain on purpose; shares no code with the engine
but the spec objects.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from fractions import Fraction
from typing import Any

import xxhash

from rollup_engine.config.model import EventType, Timestamp
from tests.unit.route.naive_json import Float, Int, Object, Rejected, decode, loads

ORIGINAL_MAX, TEXT_MAX = 512 << 10, 65_536
NEVER_MS = -(1 << 62)
Row = dict[str, Any]
INSIDE_NO_OBJECT = object()


def lookup(value: object, path: str) -> object:
    for step in path.split("."):
        if value is None:
            return None
        if not isinstance(value, Object):
            return INSIDE_NO_OBJECT
        value = value.get(step)
    return value


def json_form(value: object) -> str | None:
    match value:
        case Int():
            return "0" if value == "-0" else str(value)
        case bool():
            return "true" if value else "false"
        case str():
            return str(value)
    return None


def text(value: object, code: str, *, required: bool) -> str | None:
    if required and (value is None or (type(value) is str and not value)):
        raise Rejected(f"missing_{code}")
    form = json_form(value)
    if value is not None and (form is None or (required and type(value) not in (str, Int))):
        raise Rejected(f"invalid_{code}")
    if form is not None and ("\x00" in form or len(form.encode()) > TEXT_MAX):
        raise Rejected(f"invalid_{code}")
    return form


def time_ms(value: object, timestamp: Timestamp) -> int:
    try:
        if timestamp.unit is None:
            at = rfc3339(value) if type(value) is str else None
        else:
            per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[timestamp.unit]
            at = exact(value, 18) * 1000 / per_second if type(value) in (Int, Float) else None
    except ValueError:
        at = None
    if at is None or not -62_135_596_800_000 <= at // 1 <= 253_402_300_799_999:
        raise Rejected("invalid_timestamp")
    return at // 1


def rfc3339(value: str) -> Fraction:
    form = r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]+)?(?:[Zz]|([+-])([0-9]{2}:[0-9]{2}))"
    found = re.fullmatch(form, value)
    if found is None:
        raise ValueError(value)
    at = datetime.combine(date.fromisoformat(found[1]), time.fromisoformat(found[2]))
    since = at - datetime(1970, 1, 1)  # noqa: DTZ001 - both are UTC
    seconds = Fraction(since.days * 86_400 + since.seconds) + Fraction(f"0{found[3] or ''}")
    if found[4]:
        offset = time.fromisoformat(found[5])
        seconds -= (offset.hour * 60 + offset.minute) * 60 * (1 if found[4] == "+" else -1)
    return seconds * 1000


def exact(value: object, scale: int) -> Fraction:
    mantissa, _, exponent = str(value).lower().partition("e")
    if len(exponent.lstrip("+-0")) <= 3:
        number = Fraction(str(value))
    elif Fraction(mantissa):
        raise ValueError("far out of any range")
    else:
        number = Fraction(0)
    if abs(number) >= 10**36 or (number * 10**scale).denominator != 1:
        raise ValueError("too many digits")
    return number


def number_in_text(value: object) -> object:
    """The number that a text is, by the standard library's JSON; anything else as it is."""
    if type(value) is not str or value != value.strip():
        return value
    try:
        found = loads(value.encode(), "strict")
    except (ValueError, RecursionError):
        return value
    return found if type(found) in (Int, Float) else value


def number_parts(value: object, scale: int) -> tuple[int | None, int | None, int | None]:
    if value is None:
        return None, None, None
    if type(value) not in (Int, Float):
        raise Rejected("invalid_number")
    try:
        units = (exact(value, scale) * 10**18).numerator
    except ValueError as error:
        raise Rejected("invalid_number") from error
    return units // 10**36, units // 10**18 % 10**18, units % 10**18


def prefixed(parts: Iterable[object]) -> bytes:
    encoded = (None if part is None else str(part).encode() for part in parts)
    return b"".join(b"-" if part is None else b"%d:" % len(part) + part for part in encoded)


def joined(parts: Sequence[str]) -> str:
    return "".join(f"{len(part.encode())}:{part}:" for part in parts[:-1]) + parts[-1]


def groups(event: EventType) -> list[str]:
    return sorted({column.path for rollup in event.rollups for column in rollup.group_by})


def scales(event: EventType) -> dict[str, int]:
    declared = sorted((a.path, a.scale) for rollup in event.rollups for a in rollup.aggregates)
    return dict(declared)  # the greatest scale of a path comes last


def all_paths(event: EventType) -> set[str]:
    paths = {*event.id_paths, event.timestamp.path, event.customer_path, *(match.path for match in event.match)}
    return paths | set(groups(event)) | set(scales(event))


def row_of(event: EventType, found: Object) -> Row:
    """The columns that hang on the record alone. Raises `Rejected`."""
    cells_are_text = event.bucket is not None and event.bucket.format == "csv"

    def number(path: str) -> object:
        value = lookup(found, path)
        return number_in_text(value) if cells_are_text else value

    moment = number(event.timestamp.path) if event.timestamp.unit else lookup(found, event.timestamp.path)
    row: Row = {
        "id": joined([str(text(lookup(found, path), "id", required=True)) for path in event.id_paths]),
        "customer": text(lookup(found, event.customer_path), "customer", required=True),
        "timestamp_ms": time_ms(moment, event.timestamp),
    }
    payload: list[object] = [row["timestamp_ms"], row["customer"]]
    for path in groups(event):
        row[f"t.{path}"] = text(lookup(found, path), "group_column", required=False)
        payload.append(row[f"t.{path}"])
    numbers = {path: number_parts(number(path), scale) for path, scale in scales(event).items()}
    for path, (hi, lo, frac) in numbers.items():
        row |= {f"n.{path}.hi": hi, f"n.{path}.lo": lo, f"n.{path}.frac": frac}
        payload += [hi or None, lo, frac or None]
    for aggregate in (aggregate for rollup in event.rollups for aggregate in rollup.aggregates):
        value = number(aggregate.path)
        if value is not None and aggregate.minimum is not None and exact(value, 18) < aggregate.minimum:
            raise Rejected("below_minimum")
    row["id_hash"] = xxhash.xxh3_128_intdigest(b"2i" + prefixed([event.event]) + str(row["id"]).encode())
    fields = [f"{event.timestamp.path}:{event.timestamp.unit}", event.customer_path, *groups(event), "", *scales(event)]
    named = hashlib.sha256(b"".join(b"%d:%s" % (len(name.encode()), name.encode()) for name in fields)).digest()[6:8]
    nulls = "".join(f"{number}," for number, value in enumerate(payload) if value is None)
    hashed = "\0".join([f"2p{nulls}", *("" if value is None else str(value) for value in payload)]).encode()
    row["payload"] = xxhash.xxh3_64_intdigest(hashed) >> 16 << 16 | int.from_bytes(named, "big")
    return row


@dataclass
class NaiveRouter:
    """Feed it (offset, record_ms, value) in order; `rows` and the rest is what must have come out."""

    topic: str
    events: Sequence[EventType]
    partitions: int
    now_ms: int
    rows: list[Row] = field(default_factory=list)
    received: dict[str, int] = field(default_factory=dict)
    watermarks: dict[str, int] = field(default_factory=dict)
    clock_ms: int = 0

    def feed(self, offset: int, record_ms: int, value: bytes | None, reason: str = "", detail: str = "") -> None:
        """`reason` and `detail`: of what is unreadable."""
        raw = value or b""
        self.clock_ms = max(self.clock_ms, min(record_ms, self.now_ms + 7_200_000))
        whose = self.events[0].event if len(self.events) == 1 else f"topic:{self.topic}"
        by_offset: Row = {"to": offset % self.partitions, "offset": offset}
        original: Row = {"original": raw[:ORIGINAL_MAX], "record_ms": record_ms}
        original |= {"original_bytes": len(raw), "original_sha256": hashlib.sha256(raw).hexdigest()}
        rejected: Row = {"table": "rejected", **by_offset, **original}
        try:
            if reason:
                raise Rejected(reason)
            found = decode(raw, {path for event in self.events for path in all_paths(event)})
        except Rejected as why:
            self.received[whose] = self.received.get(whose, 0) + 1
            self.rows.append({**rejected, "event": whose, "primary": True, "reason": str(why)})
            return
        primary = True
        for event in sorted(self.events, key=lambda event: event.event):
            if any(json_form(lookup(found, match.path)) != match.value for match in event.match):
                continue
            self.received[event.event] = self.received.get(event.event, 0) + 1
            watermark = self.watermarks.get(event.event, NEVER_MS)
            try:
                row = row_of(event, found)
            except Rejected as why:
                self.rows.append({**rejected, "event": event.event, "primary": primary, "reason": str(why)})
            else:
                as_of_ms = self.now_ms if self.topic.startswith("bucket.") else min(record_ms, self.now_ms)
                future = row["timestamp_ms"] > as_of_ms + event.max_future_ms
                watermark = watermark if future else max(watermark, row["timestamp_ms"])
                late = event.grace_ms is not None and row["timestamp_ms"] < watermark - event.grace_ms
                row |= {"table": f"event:{event.event}", "to": row["id_hash"] % self.partitions, "offset": offset}
                row |= {"primary": primary, "record_ms": record_ms, "clock_ms": self.clock_ms, "future": future}
                row |= {"watermark_ms": watermark, "late": late}
                kept = {name: original[name] for name in ("original", "original_bytes", "original_sha256")}
                self.rows.append({**row, **(kept if future or late else dict.fromkeys(kept))})
            self.watermarks[event.event] = watermark
            primary = False
        if primary:
            self.rows.append({"table": "unmatched", **by_offset, "event": whose})
