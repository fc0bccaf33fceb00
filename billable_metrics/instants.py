"""Instants written as constants in a metric, as Postgres reads them in a session in UTC.

Owns: which forms are understood. Must never guess: None means that only Postgres knows, and is always right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from sqlglot import exp

from billable_metrics.timeline import to_micros

_DATE = r"\d{4}-\d\d-\d\d"
_OFFSET = r"(?P<offset>Z|[+-]\d\d(:\d\d)?)"
_TEXT: Final = re.compile(rf"{_DATE}([ T]\d\d:\d\d(:\d\d(\.\d{{1,6}})?)?{_OFFSET}?)?", re.ASCII)
_ZONED: Final = frozenset({exp.DType.TIMESTAMPTZ})
_PLAIN: Final = frozenset({exp.DType.TIMESTAMP, exp.DType.DATE})

_SECOND = 1_000_000
_FIXED_US: Final = {
    "SECOND": _SECOND,
    "MINUTE": 60 * _SECOND,
    "HOUR": 3600 * _SECOND,
    "DAY": 86_400 * _SECOND,
    "WEEK": 7 * 86_400 * _SECOND,
}
_GRAIN_MS: Final = dict.fromkeys(("DAY", "WEEK", "MONTH", "QUARTER", "YEAR"), 86_400_000) | {"HOUR": 3_600_000}
"""Unit of date_trunc -> what its results are multiples of."""


def instant_us(node: exp.Expr, params: Sequence[object]) -> int | None:
    """Microseconds since the epoch of a constant that is compared with a timestamp, or None."""
    node = node.unnest()
    if isinstance(node, exp.Literal):
        return _text_us(node, with_offset=True)
    if isinstance(node, exp.Cast):
        return _cast_us(node, params)
    if isinstance(node, (exp.Add, exp.Sub)):
        if not isinstance(node.this.unnest(), exp.Cast):
            return None  # text, which Postgres would read as an interval too
        base, step = instant_us(node.this, params), _interval_us(node.expression)
        if base is None or step is None:
            return None
        return base + step if isinstance(node, exp.Add) else base - step
    return None


def millis_us(node: exp.Expr) -> int | None:
    """Microseconds since the epoch of a constant that is compared with milliseconds, or None."""
    node = node.unnest()
    return int(node.name) * 1000 if isinstance(node, exp.Literal) and node.is_int else None


def grain_ms(node: exp.Expr) -> int | None:
    """What the instant is always a whole multiple of, where it moves with the clock (`date_trunc('day', now())`)."""
    node = node.unnest()
    if isinstance(node, exp.CurrentDate) and not node.this:
        return _GRAIN_MS["DAY"]
    if isinstance(node, exp.TimestampTrunc) and isinstance(node.this.unnest(), exp.CurrentTimestamp):
        return None if node.args.get("zone") else _GRAIN_MS.get(unit_of(node))
    if isinstance(node, (exp.Add, exp.Sub)):
        base, unit = grain_ms(node.this), _interval_unit(node.expression)
        step = _GRAIN_MS.get(unit) if unit else None
        return min(base, step) if base is not None and step is not None else None
    return None


def unit_of(node: exp.Expr) -> str:
    """The unit of a date_trunc, extract or interval, upper case and without a plural's s; empty if there is none."""
    unit = node.this if isinstance(node, exp.Extract) else node.args.get("unit")
    return unit.name.upper().removesuffix("S") if isinstance(unit, exp.Var) else ""


def _cast_us(node: exp.Cast, params: Sequence[object]) -> int | None:
    kind = node.args["to"]
    if kind.expressions or kind.this not in _ZONED | _PLAIN:
        return None
    if isinstance(node.this, exp.Parameter):
        value = params[int(node.this.name) - 1]
        return to_micros(value) if kind.this in _ZONED and isinstance(value, datetime) else None
    if kind.this is exp.DType.DATE and not re.fullmatch(_DATE, node.this.name, re.ASCII):
        return None
    return _text_us(node.this, with_offset=kind.this in _ZONED)


def _text_us(node: exp.Expr, *, with_offset: bool) -> int | None:
    found = _TEXT.fullmatch(node.name) if isinstance(node, exp.Literal) and node.is_string else None
    if found is None or (found["offset"] and not with_offset):
        return None  # Postgres drops the offset of a timestamp without time zone
    try:
        instant = datetime.fromisoformat(found[0])
        return to_micros(instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return None


def _interval_us(node: exp.Expr) -> int | None:
    unit = _interval_unit(node)
    return int(node.this.name) * _FIXED_US[unit] if unit in _FIXED_US else None


def _interval_unit(node: exp.Expr) -> str | None:
    """The unit of an interval of a whole number of units, or None."""
    is_whole = isinstance(node, exp.Interval) and re.fullmatch(r"\d{1,6}", node.this.name, re.ASCII)
    return unit_of(node) if is_whole else None
