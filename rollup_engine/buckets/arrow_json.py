"""Arrow arrays to Python values that msgspec writes as exact JSON. See `parquet` for which JSON stands for what."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

_YEARS_1_TO_9999 = (-62_135_596_800, 253_402_300_799)  # seconds since the epoch: what RFC 3339 can say
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class Unfit:
    """Stands for a value that no JSON can say; its text says which, and in which column."""

    __slots__ = ("_said",)

    def __init__(self, said: str) -> None:
        self._said = said

    def __str__(self) -> str:
        return self._said


def values(array: pa.Array, path: str) -> list[Any]:
    """One JSON value or `Unfit` per element; None for null. `path` names the column in what `Unfit` says."""
    for is_it, read in _READERS:
        if is_it(array.type):
            return read(array, path)
    return _unfit(array, path, f"{array.type} has no JSON")


def _list(array: pa.Array) -> list[Any]:
    found: list[Any] = array.to_pylist()
    return found


def _texts(array: pa.Array, path: str) -> list[Any]:
    try:
        return _list(array)
    except UnicodeDecodeError:
        return [_text(value, path) for value in array.cast(pa.large_binary()).to_pylist()]


def _text(value: bytes | None, path: str) -> str | Unfit | None:
    try:
        return value if value is None else value.decode()
    except UnicodeDecodeError:
        return Unfit(f"{path} is no UTF-8 text")


def _doubles(array: pa.Array, path: str) -> list[Any]:
    found = _list(array)
    if pc.all(pc.is_finite(array)).as_py() is False:
        return [
            _not_finite(value, path) if value is not None and not math.isfinite(value) else value for value in found
        ]
    return found


def _not_finite(value: object, path: str) -> Unfit:
    return Unfit(f"{path} is {value}, which no JSON number can be")


def _floats(array: pa.Array, path: str) -> list[Any]:
    """Of 32 and 16 bits: the digits that Arrow gives are the fewest for this width, not for 64 bits."""
    if types.is_float16(array.type):
        array = array.cast(pa.float32())
    return [
        None if text is None else msgspec.Raw(text.encode()) if finite else _not_finite(text, path)
        for text, finite in zip(array.cast(pa.string()).to_pylist(), pc.is_finite(array).to_pylist(), strict=True)
    ]


def _timestamps(array: pa.Array, path: str) -> list[Any]:
    unit = array.type.unit
    first, last = (bound * _PER_SECOND[unit] for bound in _YEARS_1_TO_9999)
    ticks = array.cast(pa.int64())
    fits = _within(ticks, first, last + _PER_SECOND[unit] - 1)
    at = pc.if_else(fits, ticks, pa.scalar(None, pa.int64())).view(pa.timestamp(unit))  # of the zone only UTC is left
    return _years(pc.strftime(at, "%Y-%m-%dT%H:%M:%SZ"), fits, path)


def _dates(array: pa.Array, path: str) -> list[Any]:
    days = array.cast(pa.date32(), safe=False).cast(pa.int32())
    first, last = (bound // 86_400 for bound in _YEARS_1_TO_9999)
    fits = _within(days, first, last)
    at = pc.if_else(fits, days, pa.scalar(None, pa.int32())).view(pa.date32())
    return _years(pc.strftime(at, "%Y-%m-%d"), fits, path)


def _within(array: pa.Array, first: int, last: int) -> pa.Array:
    first, last = max(first, -(1 << 63)), min(last, (1 << 63) - 1)  # in nanoseconds, 64 bits are fewer years
    return pc.and_(pc.greater_equal(array, first), pc.less_equal(array, last))


def _years(text: pa.Array, fits: pa.Array, path: str) -> list[Any]:
    found = _list(text)
    if pc.all(fits).as_py() is False:
        beyond = Unfit(f"{path} lies outside the years 1 to 9999")
        return [beyond if fit is False else value for value, fit in zip(found, fits.to_pylist(), strict=True)]
    return found


def _times(array: pa.Array, path: str) -> list[Any]:
    """Times of a day: as a timestamp's text on the epoch's day, without that day."""
    ticks = array.cast(pa.int64() if types.is_time64(array.type) else pa.int32()).cast(pa.int64())
    texts = _timestamps(ticks.view(pa.timestamp(array.type.unit)), path)
    return [None if text is None else text[len("1970-01-01T") : -1] for text in texts]


def _structs(array: pa.Array, path: str) -> list[Any]:
    names = [field.name for field in array.type]
    if len(set(names)) < len(names):
        return _unfit(array, path, f"two of its fields have one name, of {names}")
    columns = [values(child, f"{path}.{name}") for child, name in zip(array.flatten(), names, strict=True)]
    valid = array.is_valid().to_pylist()
    if not columns:
        return [{} if fits else None for fits in valid]
    return [
        dict(zip(names, cells, strict=True)) if fits else None
        for fits, cells in zip(valid, zip(*columns, strict=True), strict=True)
    ]


def _lists(array: pa.Array, path: str) -> list[Any]:
    return _nested(array, values(array.flatten(), f"{path}[]"), pc.list_value_length(array))


def _maps(array: pa.Array, path: str) -> list[Any]:
    key_type = array.type.key_type
    if not (types.is_string(key_type) or types.is_large_string(key_type)):
        return _unfit(array, path, f"it has keys of type {key_type}, and those of a JSON object are text")
    pairs = array.cast(pa.list_(pa.struct([("key", key_type), ("value", array.type.item_type)])))
    flat = pairs.flatten()
    keys, items = (values(child, path) for child in flat.flatten())
    entries = _nested(pairs, list(zip(keys, items, strict=True)), pc.list_value_length(pairs))
    return [None if entry is None else _object(entry, path) for entry in entries]


def _object(entry: list[tuple[Any, Any]], path: str) -> dict[str, Any] | Unfit:
    made = dict(entry)
    return made if len(made) == len(entry) else Unfit(f"{path} has a key twice")


def _nested(array: pa.Array, flat: list[Any], lengths: pa.Array) -> list[Any]:
    """`flat` cut into one list per element of `array`; null ones have no part of it."""
    ends = accumulate(lengths.fill_null(0).to_pylist(), initial=0)
    cut = [flat[start:end] for start, end in pairwise(ends)]
    return [part if fits else None for part, fits in zip(cut, array.is_valid().to_pylist(), strict=True)]


def _extensions(array: pa.Array, path: str) -> list[Any]:
    if array.type.extension_name == "arrow.uuid":
        return [value if value is None else str(uuid.UUID(bytes=value)) for value in array.storage.to_pylist()]
    return values(array.storage, path)


def _unfit(array: pa.Array, path: str, why: str) -> list[Any]:
    unfit = Unfit(f"{path}: {why}")
    return [unfit if fits else None for fits in array.is_valid().to_pylist()]


def _binary(array: pa.Array, path: str) -> list[Any]:
    return _unfit(array, path, "it is binary; write it as a string (UTF8)")


_Reader = Callable[[pa.Array, str], list[Any]]
_READERS: list[tuple[Callable[[pa.DataType], bool], _Reader]] = [
    (lambda type_: isinstance(type_, pa.BaseExtensionType), _extensions),
    (lambda type_: types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_), _texts),
    (types.is_integer, lambda array, path: _list(array)),
    (types.is_boolean, lambda array, path: _list(array)),
    (types.is_decimal, lambda array, path: _list(array)),
    (types.is_null, lambda array, path: _list(array)),
    (types.is_float64, _doubles),
    (types.is_floating, _floats),
    (types.is_timestamp, _timestamps),
    (types.is_date, _dates),
    (types.is_time, _times),
    (types.is_struct, _structs),
    (types.is_map, _maps),
    (lambda type_: types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_), _lists),
    (types.is_dictionary, lambda array, path: values(array.dictionary_decode(), path)),
    (
        lambda type_: types.is_binary(type_) or types.is_large_binary(type_) or types.is_fixed_size_binary(type_),
        _binary,
    ),
]
