"""Raw bytes to Python values: one msgspec struct per raw topic, built from the paths its event types name.

Only mapped values are built; the rest of an event is skipped. Numbers with a fraction or exponent stay text, so no
value passes through a float. What cannot be decoded is `Undecodable`, with a reason; nothing else is raised.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec

from rollup_engine.config.model import EventType
from rollup_engine.numbers import NumberText, describe
from rollup_engine.ports import RECORD_TOO_LARGE

RECORD_BYTES_MAX = 1 << 20
NESTING_MAX = 200
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_STRING = re.compile(rb'"(?:[^"\\]|\\.?)*+"?', re.DOTALL)  # always matches, and never turns back: linear in any bytes
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_NO_FIELD_NAME = re.compile(r'["\\\x00-\x1f]')  # what msgspec takes in no struct's field name


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Why a raw record cannot be decoded: a short code, and a sentence for people."""

    reason: str
    detail: str


def too_large(size: int) -> Undecodable:
    """Why a record of so many bytes is not decoded."""
    return Undecodable(RECORD_TOO_LARGE, f"the record has {size:,} bytes; {RECORD_BYTES_MAX:,} are allowed")


class NotAnObject:
    """Stands for every value below a path step that is no object."""

    __slots__ = ()

    def __str__(self) -> str:
        return "part of something that is no object"


_NOT_AN_OBJECT = NotAnObject()


class _Node:
    """One step of the tree of paths; a leaf where some path ends here."""

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.leaf = False


class Decoder:
    """Decodes the records of one raw topic for all its event types."""

    def __init__(self, events: Iterable[EventType]) -> None:
        root = _Node()
        self._getters: dict[str, Callable[[Any], object]] = {}
        paths = sorted({path for event in events for path in paths_of(event)})
        for path in paths:
            node = root
            for step in path.split("."):
                node = node.children.setdefault(step, _Node())
            node.leaf = True
        self._root = root
        self._types: dict[int, type[msgspec.Struct]] = {}
        self._typed = not any(map(_NO_FIELD_NAME.search, paths))  # otherwise every record is decoded untyped
        self._decoder = msgspec.json.Decoder(self._struct(root), float_hook=NumberText)
        self._untyped = msgspec.json.Decoder(float_hook=NumberText)
        for path in paths:
            self._getters[path] = _getter(root, path.split("."))

    def _struct(self, node: _Node) -> type[msgspec.Struct]:
        names = list(node.children)
        fields: list[tuple[str, Any, Any]] = []
        for index, child in enumerate(node.children.values()):
            nested = child.children and not child.leaf
            fields.append((f"f{index}", (self._struct(child) | None) if nested else Any, None))
        rename = {f"f{index}": name for index, name in enumerate(names)}
        made = msgspec.defstruct("Mapped", fields, rename=rename if self._typed else None, gc=False)
        self._types[id(node)] = made
        return made

    def getter(self, path: str) -> Callable[[Any], object]:
        """Reads the value at `path` off a decoded record; None where it is missing or null."""
        return self._getters[path]

    def decode(self, values: list[bytes]) -> list[Any]:
        """One decoded struct, or `Undecodable`, per value."""
        decode = self._decoder.decode
        try:
            too_short = max(map(len, values), default=0) <= NESTING_MAX  # to nest too deep, all of them: seen at once
            if self._typed and (too_short or not any(map(_suspicious, values))):
                return [decode(value) for value in values]
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass  # at least one is bad: find out which
        return [self._decode_one(value) for value in values]

    def _decode_one(self, value: bytes) -> Any:
        if len(value) > RECORD_BYTES_MAX:
            return too_large(len(value))
        if _too_deep(value):
            return Undecodable("nested_too_deep", f"the JSON is nested deeper than {NESTING_MAX} levels")
        try:
            if self._typed:
                return self._decoder.decode(value)
        except msgspec.ValidationError:
            pass  # it, or a parent in it, is no object; or a mapped integer has thousands of digits
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _malformed(value, error)
        return self._decode_untyped(value)

    def _decode_untyped(self, value: bytes) -> Any:
        try:
            decoded = self._untyped.decode(value)
        except msgspec.ValidationError as again:  # an integer of thousands of digits
            return Undecodable("number_too_long", f"a number in it is too long: {again}")
        except (msgspec.DecodeError, UnicodeDecodeError) as malformed:
            return _malformed(value, malformed)
        if not isinstance(decoded, dict):
            return Undecodable("not_an_object", f"the record must be a JSON object, not {describe(decoded)}")
        return self._build(self._root, decoded)

    def _build(self, node: _Node, found: object) -> Any:
        """The struct that the typed decoder would make, with `NotAnObject` below a step that is none."""
        made = self._types[id(node)]
        if not isinstance(found, dict):
            values: list[object] = [
                self._build(child, found) if child.children and not child.leaf else _NOT_AN_OBJECT
                for child in node.children.values()
            ]
            return made(*values)
        built: list[object] = []
        for name, child in node.children.items():
            value = found.get(name)
            nested = child.children and not child.leaf and value is not None
            built.append(self._build(child, value) if nested else value)
        return made(*built)


def _getter(root: _Node, steps: list[str]) -> Callable[[Any], object]:
    """Attribute access along the structs; below a leaf that is also a parent, plain dictionary access."""
    names: list[str] = []
    node = root
    for depth, step in enumerate(steps):
        names.append(f"f{list(node.children).index(step)}")
        node = node.children[step]
        if node.leaf:
            below = steps[depth + 1 :]
            break
    if len(names) == 1 and not below:
        return attrgetter(names[0])

    def get(found: Any) -> object:
        for name in names:
            if found is None:
                return None
            found = getattr(found, name)
        for step in below:
            if found is None:
                return None
            if not isinstance(found, dict):
                return _NOT_AN_OBJECT
            found = found.get(step)
        return found

    return get


def _malformed(value: bytes, error: Exception) -> Undecodable:
    if not value:
        return Undecodable("malformed_json", "the record is empty")
    if _SURROGATE.search(value):
        return Undecodable("malformed_json", "the JSON is malformed, or its text holds half a surrogate pair")
    return Undecodable("malformed_json", str(error))


def _suspicious(value: bytes) -> bool:
    """Whether size and nesting need a closer look."""
    return len(value) > RECORD_BYTES_MAX or value.count(b"[") + value.count(b"{") > NESTING_MAX


def _too_deep(value: bytes) -> bool:
    """Whether brackets outside strings nest too deep; the same answer wherever it is asked, unlike a stack's limit."""
    if value.count(b"[") + value.count(b"{") <= NESTING_MAX:
        return False
    depth = 0
    for byte in _STRING.sub(b"", value).translate(None, _NOT_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        if depth > NESTING_MAX:
            return True
    return False


def paths_of(event: EventType) -> set[str]:
    """Every path an event type reads."""
    paths = {*event.id_paths, event.timestamp.path, event.customer_path, *(match.path for match in event.match)}
    return paths | set(text_paths(event)) | set(number_scales(event))


def text_paths(event: EventType) -> list[str]:
    """The paths of grouping columns over all rollups, sorted."""
    return sorted({column.path for rollup in event.rollups for column in rollup.group_by})


def number_scales(event: EventType) -> dict[str, int]:
    """Path to digits allowed after the decimal point, over all rollups' aggregates, sorted by path."""
    scales: dict[str, int] = {}
    for rollup in event.rollups:
        for aggregate in rollup.aggregates:
            scales[aggregate.path] = max(aggregate.scale, scales.get(aggregate.path, 0))
    return dict(sorted(scales.items()))
