"""YAML text as a small tree in which every value knows its file, line and column.

Owns: the YAML library, and which scalars are text (YAML 1.2: `NO`, `on` and dates are). Must never know what the
keys mean. Values keep their text exactly as written, so that a number never passes through a float.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from rollup_engine.errors import Problem

DEPTH_MAX: Final = 32

Kind = Literal["text", "number", "boolean", "null", "tagged"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value starts. Lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    def problem(self, message: str, hint: str) -> Problem:
        return Problem(self.file, self.line, self.column, message, hint)


@dataclass(frozen=True, slots=True, eq=False)
class YamlScalar:
    """`text` is as written, without quotes. `kind` follows YAML 1.2's core schema; `tagged` has a tag of its own."""

    kind: Kind
    text: str
    place: Place


@dataclass(frozen=True, slots=True, eq=False)
class YamlList:
    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True, slots=True, eq=False)
class YamlMap:
    """Entries in file order; keys may repeat and may be any node."""

    entries: tuple[tuple[Node, Node], ...]
    place: Place


Node: TypeAlias = YamlScalar | YamlList | YamlMap

# The library fails on some versions in ways of its own, and under 1.1 reads NO as a boolean.
_OTHER_VERSION: Final = re.compile(
    r"(?:^|[\r\x85\u2028\u2029])\ufeff?(%YAML)(?![ \t]+1\.2[ \t\r]*(?:#.*)?$)", re.MULTILINE
)

_KINDS: Final[dict[str, Kind]] = {
    "tag:yaml.org,2002:str": "text",
    "tag:yaml.org,2002:timestamp": "text",
    "tag:yaml.org,2002:value": "text",
    "tag:yaml.org,2002:merge": "text",
    "tag:yaml.org,2002:int": "number",
    "tag:yaml.org,2002:float": "number",
    "tag:yaml.org,2002:bool": "boolean",
    "tag:yaml.org,2002:null": "null",
}


def parse(text: str, file: str) -> Node | Problem | None:
    """The one document in `text`; None when there is none; the first problem when it is not YAML. `file` is a label."""
    if other := _OTHER_VERSION.search(text):
        return _position(text, other.start(1), file).problem("this is not YAML 1.2", "Remove the %YAML line.")
    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = DEPTH_MAX
    yaml.composer.warn_double_anchors = False  # YAML 1.2 allows an anchor to be set again
    try:
        root = yaml.compose(text)
    except MaxDepthExceededError as error:
        return _at(error, file, f"more than {DEPTH_MAX} levels of nesting", "The format has four; remove the others.")
    except MarkedYAMLError as error:
        what = " ".join(str(error.problem or error.context or "").split())
        if what == "but found another document":
            return _at(error, file, "a second YAML document", "Put each document into a file of its own.")
        message = f"this is not valid YAML ({what})" if what else "this is not valid YAML"
        return _at(error, file, message, "Check the indentation, quotes, brackets and colons here and just above.")
    except ReaderError as error:
        message = f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"
        return _position(text, error.position, file).problem(message, "Remove it.")
    except (YAMLError, ValueError, OverflowError) as error:  # a directive or escape out of range: no place is given
        what = " ".join(str(error).split())
        return Place(file, 1, 1).problem(f"this is not valid YAML ({what})", "Check the directives and tags.")
    return None if root is None else _convert(root, file)


def _position(text: str, index: int, file: str) -> Place:
    return Place(file, text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


def _at(error: MarkedYAMLError, file: str, message: str, hint: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    return (Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)).problem(message, hint)


def _convert(root: Any, file: str) -> Node | Problem:
    """Each node once, however many aliases name it. A node that contains itself is a problem."""
    done: dict[int, Node] = {}
    under_way: set[int] = set()

    def place(node: Any) -> Place:
        return Place(file, node.start_mark.line + 1, node.start_mark.column + 1)

    def visit(node: Any) -> Node:
        key = id(node)
        if key in done:
            return done[key]
        if key in under_way:
            raise _ContainsItself(place(node))
        under_way.add(key)
        done[key] = _CONVERT[type(node)](node, place(node), visit)
        return done[key]

    try:
        return visit(root)
    except _ContainsItself as error:
        return error.place.problem("this value contains itself through an alias", "Write the value out.")


class _ContainsItself(Exception):
    def __init__(self, place: Place) -> None:
        self.place = place


def _scalar(node: Any, place: Place, _visit: Callable[[Any], Node]) -> Node:
    return YamlScalar(_KINDS.get(str(node.tag), "tagged"), node.value, place)


def _sequence(node: Any, place: Place, visit: Callable[[Any], Node]) -> Node:
    return YamlList(tuple(visit(item) for item in node.value), place)


def _mapping(node: Any, place: Place, visit: Callable[[Any], Node]) -> Node:
    return YamlMap(tuple((visit(key), visit(value)) for key, value in node.value), place)


_CONVERT: Final[dict[type, Callable[[Any, Place, Callable[[Any], Node]], Node]]] = {
    ScalarNode: _scalar,
    SequenceNode: _sequence,
    MappingNode: _mapping,
}
