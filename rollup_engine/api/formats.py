"""The forms of an answer: JSON, CSV or Parquet, as `Accept` asks. Numbers are exact in each, and no float on the way.

JSON      whole numbers up to 38 digits are numbers, all others are strings of their digits; times are RFC 3339
CSV       RFC 4180, UTF-8; a missing value is empty, an empty text is ""
Parquet   a numeric column is the first that holds it: int64, decimal(38, s), or text
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

from rollup_engine.api.problems import Problem

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
MEDIA_TYPES: Final = (JSON, CSV, PARQUET)  # in the order of our preference

_DIGITS_MAX = 38
_WHOLE_MAX = 10**_DIGITS_MAX


@dataclass(frozen=True)
class Table:
    """Rows of one shape."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


def chosen(accept: str | None) -> str:
    """The media type to answer with (RFC 9110, 12.5.1). Raises `Problem` 406."""
    wanted = [_range(part) for part in (accept or "*/*").split(",") if part.strip()]
    best, quality = JSON, 0.0
    for offered in MEDIA_TYPES:
        fitting = [(specificity, q) for name, q in wanted if (specificity := _fits(name, offered))]
        q = max(fitting)[1] if fitting else 0.0  # the most specific range decides
        if q > quality:
            best, quality = offered, q
    if quality <= 0.0:
        raise Problem(406, f"This comes as {', '.join(MEDIA_TYPES)}; `Accept` asks for none of them.")
    return best


def _range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return name, min(1.0, max(0.0, float(value)))
            except ValueError:
                return name, 0.0
    return name, 1.0


def _fits(name: str, offered: str) -> int:
    """How specifically a range means a type; 0: not at all."""
    if name == offered:
        return 3
    if name == offered.split("/")[0] + "/*":
        return 2
    return int(name == "*/*")


def plain(value: object) -> object:
    """A value as JSON has it."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return value if -_WHOLE_MAX < value < _WHOLE_MAX else f"{Decimal(value):f}"
    return text(value)


def text(value: object) -> str:
    """A value as CSV has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, int):
        return f"{Decimal(value):f}"  # str() refuses beyond 4,300 digits
    if isinstance(value, Decimal):
        return f"{value:f}"
    return str(value)


def to_json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def to_csv(table: Table) -> bytes:
    lines = [",".join(map(_quoted, table.columns))]
    lines += [",".join("" if value is None else _quoted(text(value)) for value in row) for row in table.rows]
    return "".join(line + "\r\n" for line in lines).encode()


def _quoted(value: str) -> str:
    if value and not any(special in value for special in ',"\r\n'):
        return value
    return '"' + value.replace('"', '""') + '"'


def to_parquet(table: Table) -> bytes:
    import polars as pl  # large: loaded once someone asks for it

    series = []
    for number, name in enumerate(table.columns):
        series.append(_series(pl, name, [row[number] for row in table.rows]))
    buffer = io.BytesIO()
    pl.DataFrame(series).write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def _series(pl: Any, name: str, values: list[object]) -> Any:
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {bool}:
        return pl.Series(name, values, dtype=pl.Boolean)
    if kinds and all(issubclass(kind, datetime) for kind in kinds):
        return pl.Series(name, values, dtype=pl.Datetime("us", "UTC"))
    if kinds == {date}:
        return pl.Series(name, values, dtype=pl.Date)
    if kinds and kinds <= {int, Decimal}:
        return _numbers(pl, name, values)
    return pl.Series(name, [None if value is None else text(value) for value in values], dtype=pl.String)


def _numbers(pl: Any, name: str, values: list[Any]) -> Any:
    present = [value for value in values if value is not None]
    if all(isinstance(value, int) and -(1 << 63) <= value < 1 << 63 for value in present):
        return pl.Series(name, values, dtype=pl.Int64)
    numbers = [Decimal(value) for value in present]
    if all(number.is_finite() for number in numbers):
        scale = max(max(0, -int(number.as_tuple().exponent)) for number in numbers)
        whole = max(max(0, number.adjusted() + 1) for number in numbers)
        if scale + whole <= _DIGITS_MAX:
            exact = [None if value is None else Decimal(value) for value in values]
            return pl.Series(name, exact, dtype=pl.Decimal(_DIGITS_MAX, scale))
    return pl.Series(name, [None if value is None else text(value) for value in values], dtype=pl.String)
