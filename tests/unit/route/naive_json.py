"""Raw bytes by the book: the standard library's json, numbers kept as their text, replaced pairs remembered."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

LEVELS_MAX, RECORD_MAX = 200, 1 << 20


class Rejected(Exception):
    """With the reason's code."""


class Int(str):
    __slots__ = ()


class Float(str):
    __slots__ = ()


class Object(dict[str, object]):
    """A JSON object that also remembers the pairs that later ones of the same name replaced."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def levels(raw: bytes) -> int:
    """How deep brackets outside strings nest, in any bytes."""
    depth = deepest = 0
    in_string = escaped = False
    for byte in raw:
        if in_string:
            in_string = escaped or byte != ord('"')
            escaped = not escaped and byte == ord("\\")
        elif byte == ord('"'):
            in_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def loads(raw: bytes, errors: str) -> object:
    def no_constant(name: str) -> object:
        raise ValueError(name)

    text = raw.decode("utf-8", errors)
    return json.loads(text, parse_int=Int, parse_float=Float, parse_constant=no_constant, object_pairs_hook=Object)


def texts(value: object) -> Iterator[str]:
    """Every text and name inside a value, replaced pairs included."""
    if isinstance(value, Object):
        for name, inner in value.pairs:
            yield name
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def broken(strings: Iterable[str]) -> bool:
    return any("\ud800" <= char <= "\udfff" for string in strings for char in string)


def mapped(value: Object, paths: Sequence[tuple[str, ...]]) -> Iterator[tuple[bool, object]]:
    """(whether it is a parent, value) of all that `paths` touch below an object."""
    for name, inner in value.pairs:
        below = [path[1:] for path in paths if path[0] == name]
        if not below:
            continue
        parent = () not in below
        yield parent, inner
        if parent and isinstance(inner, Object):
            yield from mapped(inner, below)


def decode(raw: bytes, dotted: Iterable[str]) -> Object:
    """Raises `Rejected`. Names and texts that no path touches may be of any bytes.

    Except where all must be built to tell: a parent is no object, or a mapped name holds a quote or backslash.
    """
    if len(raw) > RECORD_MAX:
        raise Rejected("record_too_large")
    if levels(raw) > LEVELS_MAX:
        raise Rejected("nested_too_deep")
    try:
        value = loads(raw, "surrogateescape")
        if broken(texts(loads(raw, "replace"))):  # an escape without its other half, wherever it is
            raise Rejected("malformed_json")
    except ValueError as error:
        raise Rejected("malformed_json") from error
    paths = [tuple(path.split(".")) for path in dotted]
    touched = list(mapped(value, paths)) if isinstance(value, Object) else []
    odd = not isinstance(value, Object) or any(
        parent and inner is not None and not isinstance(inner, Object) for parent, inner in touched
    )
    odd = odd or any('"' in step or "\\" in step for path in paths for step in path)
    if broken(texts(value) if odd else (text for parent, inner in touched if not parent for text in texts(inner))):
        raise Rejected("malformed_json")
    if not isinstance(value, Object):
        raise Rejected("not_an_object")
    return value
