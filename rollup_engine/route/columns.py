"""Decoded events to columns: checks every mapped value, vectorised where a column is of one kind.

A well-formed row has: offset i64, primary bool, id str, id_hash u128, payload u64, timestamp_ms i64, customer str,
`t.<path>` str per grouping path, `n.<path>.hi/.lo/.frac` i64 per summed path (see `numbers`).
A row that fails a check is left out of these, and named with a reason; its neighbours are not touched.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, cast

import polars as pl

from rollup_engine import keys, numbers
from rollup_engine.config.model import EventType
from rollup_engine.numbers import NumberText, describe
from rollup_engine.route.decode import Decoder, Undecodable, number_scales, text_paths
from rollup_engine.route.numeric_text import numbers_in_text
from rollup_engine.route.timestamps import column as timestamp_column

TEXT_BYTES_MAX = 65_536
_JOINED = 5_000


class EventColumns:
    """Maps the decoded records of one event type to columns."""

    def __init__(self, event: EventType, decoder: Decoder) -> None:
        self.event = event
        self._get: dict[str, Callable[[Any], object]] = {
            path: decoder.getter(path)
            for path in (*event.id_paths, event.timestamp.path, event.customer_path, *text_paths(event))
        }
        self._text_paths = text_paths(event)
        self._scales = number_scales(event)
        time = f"{event.timestamp.path}:{event.timestamp.unit}"
        self._fields = (time, event.customer_path, *self._text_paths, "", *self._scales)
        self._numbers = {path: decoder.getter(path) for path in self._scales}
        self._minimums: list[tuple[str, Decimal]] = [
            (aggregate.path, aggregate.minimum)
            for rollup in event.rollups
            for aggregate in rollup.aggregates
            if aggregate.minimum is not None
        ]
        self._numeric_text = event.bucket is not None and event.bucket.format == "csv"  # its cells are all text
        self._matches = [(decoder.getter(match.path), match.value) for match in event.match]

    @property
    def takes_all(self) -> bool:
        """Whether every record of the topic belongs to the event type."""
        return not self._matches

    def matches(self, decoded: Any) -> bool:
        """Whether the event type's `match` takes this record."""
        return all(_text_of(get(decoded)) == value for get, value in self._matches)

    def frame(self, decoded: Sequence[Any], records: pl.DataFrame) -> tuple[pl.DataFrame, dict[int, Undecodable]]:
        """Columns of the good rows, after those of their `records`; and {row: why} of the others."""
        bad: dict[int, Undecodable] = {}
        event = self.event
        ids = [_text(_values(self._get[path], decoded), path, "id", bad, required=True) for path in event.id_paths]
        customers = _text(
            _values(self._get[event.customer_path], decoded), event.customer_path, "customer", bad, required=True
        )
        moments = _values(self._get[event.timestamp.path], decoded)
        if self._numeric_text and event.timestamp.unit is not None:
            moments = numbers_in_text(moments)
        times, wrong = timestamp_column(moments, event.timestamp)
        for row, why in wrong.items():
            bad.setdefault(row, Undecodable("invalid_timestamp", f"timestamp {event.timestamp.path!r}: {why}"))
        columns = [
            *records,
            keys.joined(ids).alias("id"),
            times.alias("timestamp_ms"),
            customers.alias("customer"),
        ]
        for path in self._text_paths:
            values = _values(self._get[path], decoded)
            columns.append(_text(values, path, "group column", bad).alias(f"t.{path}"))
        for path, scale in self._scales.items():
            amounts = _values(self._numbers[path], decoded)
            if self._numeric_text:
                amounts = numbers_in_text(amounts)
            series, wrong = numbers.columns(f"n.{path}", amounts, scale)
            columns += series
            for row, why in wrong.items():
                bad.setdefault(row, Undecodable("invalid_number", f"{path!r}: {why}"))
        frame = pl.DataFrame(columns)
        self._check_minimums(frame, bad)
        if bad:
            good = [row for row in range(frame.height) if row not in bad]
            frame = frame[good]
        return self._hashed(frame), bad

    def _check_minimums(self, frame: pl.DataFrame, bad: dict[int, Undecodable]) -> None:
        for path, minimum in self._minimums:
            least: Any = frame[f"n.{path}.lo"].min()
            has_more = f"n.{path}.hi" in frame.columns or f"n.{path}.frac" in frame.columns
            if not has_more and (least is None or least >= minimum):
                continue
            low = frame.select(_below(f"n.{path}", minimum, frame.columns)).to_series()
            for row in low.arg_true():
                why = Undecodable("below_minimum", f"{path!r} is below its declared minimum of {minimum}")
                bad.setdefault(row, why)

    def _hashed(self, frame: pl.DataFrame) -> pl.DataFrame:
        def text(name: str) -> pl.Series | None:
            return frame[name].cast(pl.String) if name in frame.columns else None

        def part(name: str) -> pl.Series | None:
            # zero hashes as absent: whether a batch carries the column at all depends on its other rows
            if name not in frame.columns:
                return None
            return frame.select(pl.when(pl.col(name) != 0).then(pl.col(name).cast(pl.String))).to_series()

        mapped = [text(name) for name in ("timestamp_ms", "customer", *(f"t.{path}" for path in self._text_paths))]
        for path in self._scales:
            mapped += [part(f"n.{path}.hi"), text(f"n.{path}.lo"), part(f"n.{path}.frac")]
        return frame.with_columns(
            keys.id_hash(self.event.event, pl.col("id")).alias("id_hash"),
            keys.payload_hash(self._fields, mapped).alias("payload"),
        )


def _below(name: str, minimum: Decimal, present: Sequence[str]) -> pl.Expr:
    hi, lo, frac = numbers.from_decimal(minimum)
    least = pl.lit(hi * numbers.BASE + lo, dtype=pl.Int128)
    value = numbers.whole(name, present)
    fraction = pl.col(f"{name}.frac").fill_null(0) if f"{name}.frac" in present else pl.lit(0, dtype=pl.Int64)
    return ((value < least) | ((value == least) & (fraction < frac))).fill_null(False)


def _values(get: Callable[[Any], object], decoded: Sequence[Any]) -> list[object]:
    return list(map(get, decoded))


def _text(
    values: list[object], path: str, what: str, bad: dict[int, Undecodable], *, required: bool = False
) -> pl.Series:
    """A String column; numbers and booleans in their JSON form. Names the rows that hold anything else."""
    code = what.replace(" ", "_")
    if set(map(type, values)) <= {str, type(None)}:
        texts = cast("list[str | None]", values)
    else:
        texts = [_converted(value, row, path, what, bad, required) for row, value in enumerate(values)]
    text = pl.Series(texts, dtype=pl.String)
    sizes = text.str.len_bytes()
    if required and (text.null_count() or sizes.min() == 0):
        for row in (sizes.fill_null(0) == 0).arg_true():
            state = "missing" if text[row] is None else "empty"
            bad.setdefault(row, Undecodable(f"missing_{code}", f"the {what} ({path!r}) is {state}"))
    wrong: dict[str, list[int]] = {}
    # Polars takes as long to begin with such a search as this does in all. So many at a time: joined, they are a copy.
    joined = ("".join(filter(None, texts[at : at + _JOINED])) for at in range(0, len(texts), _JOINED))
    if any("\0" in some for some in joined):
        wrong["holds the character U+0000"] = [row for row, one in enumerate(texts) if one and "\0" in one]
    if (sizes > TEXT_BYTES_MAX).any():
        wrong[f"is longer than {TEXT_BYTES_MAX:,} bytes"] = (sizes > TEXT_BYTES_MAX).arg_true().to_list()
    for of_it, rows in wrong.items():
        for row in rows:
            bad.setdefault(row, Undecodable(f"invalid_{code}", f"the {what} ({path!r}) {of_it}"))
    return text


def _converted(
    value: object, row: int, path: str, what: str, bad: dict[int, Undecodable], required: bool
) -> str | None:
    kind = type(value)
    if kind is str or kind is type(None) or kind is int or (not required and kind in (bool, NumberText)):
        return _text_of(value)
    kinds = "text or a whole number" if required else "text, a number or a boolean"
    why = f"the {what} ({path!r}) must be {kinds}, not {describe(value)}"
    bad.setdefault(row, Undecodable(f"invalid_{what.replace(' ', '_')}", why))
    return None


def _text_of(value: object) -> str | None:
    """A grouping value's text: numbers and booleans in their JSON form; None for null and for what has none."""
    match value:
        case NumberText():
            return str.__str__(value)
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
    return None
