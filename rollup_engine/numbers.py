"""Exact numbers in columns: no float, no overflow.

A number is three integers: `hi`·10^18 + `lo` + `frac`/10^18, with 0 <= lo, frac < 10^18. Each is an Int64 column named
`<name>.hi`, `<name>.lo`, `<name>.frac`; `hi` and `frac` are left out of a frame where they are zero throughout. Summed
as Int128 they hold more than 10^19 values before any could overflow. A missing number is null in `lo`.
"""

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal

import polars as pl

BASE = 10**18
DIGITS_MAX = 36  # before the decimal point
PARTS = ("hi", "lo", "frac")
_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?", re.ASCII)


class NumberError(ValueError):
    """A JSON number that cannot be held exactly; the text says why."""


class NumberText(str):
    """A JSON number with a fraction or an exponent, as it was written."""

    __slots__ = ()


def split(text: str, scale: int) -> tuple[int, int, int]:
    """(hi, lo, frac) of a JSON number's text, exactly.

    Raises `NumberError` where it has more than 36 digits before the point or more than `scale` after it.
    """
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise NumberError(f"{text[:40]!r} is not a number")
    sign, whole, fraction, exponent = found[1], found[2], found[3] or "", found[4] or "0"
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return 0, 0, 0
    power = _clipped(exponent) - len(fraction)
    significant = digits.rstrip("0")
    power += len(digits) - len(significant)
    if len(significant) + power > DIGITS_MAX:
        raise NumberError(f"{_short(text)} has more than {DIGITS_MAX} digits before the decimal point")
    if -power > scale:
        raise NumberError(f"{_short(text)} has more than {scale} digits after the decimal point")
    scaled = int(significant) * 10 ** (power + 18) * (-1 if sign else 1)  # power + 18 >= 0, for scale <= 18
    whole_part, frac = divmod(scaled, BASE)
    hi, lo = divmod(whole_part, BASE)
    return hi, lo, frac


def _clipped(exponent: str) -> int:
    """The exponent, or one as hopeless: its text may have more digits than `int` takes, and any number of zeros."""
    size = exponent.lstrip("+-").lstrip("0") or "0"
    return (int(size) if len(size) < 8 else 10**7) * (-1 if exponent.startswith("-") else 1)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


def columns(name: str, values: Sequence[object], scale: int) -> tuple[list[pl.Series], dict[int, str]]:
    """Columns of a number for `values` (int, `NumberText` or None), and {row: reason} for what is no exact number."""
    types = set(map(type, values))
    if types <= {int, type(None)}:
        try:
            whole = pl.Series(f"{name}.lo", values, dtype=pl.Int64)
        except (OverflowError, TypeError):
            pass
        else:
            low, high = whole.min(), whole.max()
            if low is None or (isinstance(low, int) and isinstance(high, int) and low >= 0 and high < BASE):
                return [whole], {}
    return _general(name, values, scale)


def _general(name: str, values: Sequence[object], scale: int) -> tuple[list[pl.Series], dict[int, str]]:
    parts: list[tuple[int, int, int] | tuple[None, None, None]] = []
    errors: dict[int, str] = {}
    nothing = (None, None, None)
    for row, value in enumerate(values):
        if value is None:
            parts.append(nothing)
        elif type(value) is int and 0 <= value < BASE:
            parts.append((0, value, 0))
        elif type(value) is int or type(value) is NumberText:
            try:
                parts.append(split(str(value), scale))
            except NumberError as error:
                errors[row] = str(error)
                parts.append(nothing)
        else:
            errors[row] = f"must be a number, not {describe(value)}"
            parts.append(nothing)
    series = [pl.Series(f"{name}.{part}", [p[i] for p in parts], dtype=pl.Int64) for i, part in enumerate(PARTS)]
    return [s for s in series if s.name.endswith(".lo") or bool((s != 0).any())], errors


def describe(value: object) -> str:
    """How a decoded JSON value is called in a message; what stands for one says it itself."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | NumberText():
            return "a number"
        case str():
            return f"the text {_short(value)!r}"
        case dict():
            return "an object"
        case list():
            return "a list"
    return str(value)


def whole(name: str, present: Iterable[str]) -> pl.Expr:
    """hi·10^18 + lo as Int128, null where the number is missing."""
    lo = pl.col(f"{name}.lo").cast(pl.Int128)
    return pl.col(f"{name}.hi").fill_null(0).cast(pl.Int128) * BASE + lo if f"{name}.hi" in set(present) else lo


def decimal(hi: int, lo: int, frac: int) -> Decimal:
    """The number as an exact Decimal without trailing zeros after the point; parts may be sums of parts."""
    units = (hi * BASE + lo) * BASE + frac
    if units % BASE == 0:
        return Decimal(units // BASE)
    digits = str(abs(units))
    significant = digits.rstrip("0")
    return Decimal((int(units < 0), tuple(map(int, significant)), len(digits) - len(significant) - 18))


def from_decimal(value: Decimal) -> tuple[int, int, int]:
    """(hi, lo, frac) of a stored total of any size; the inverse of `decimal`."""
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or exponent < -18:
        raise NumberError(f"{value} is not a total that this engine wrote")
    units = int("".join(map(str, digits))) * 10 ** (exponent + 18) * (-1 if sign else 1)
    whole_part, frac = divmod(units, BASE)
    hi, lo = divmod(whole_part, BASE)
    return hi, lo, frac
