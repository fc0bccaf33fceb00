"""Reads typed values out of YAML nodes, and notes every wrong one on the way.

Owns: unknown, repeated and missing keys, wrong types, and the syntax of text, paths, durations and decimals. Must
never stop at the first problem, and never judge how values fit together: the rules do.

Every function takes the node (None: the key is absent), a label for messages, and an example of what to write. It
returns None where there is no good value, and then the reason is in `problems`, or the key is absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from typing import Final, Generic, TypeVar

from rollup_engine.config.durations import HOW_TO_WRITE, parse_duration
from rollup_engine.config.nodes import Node, Place, YamlList, YamlMap, YamlScalar
from rollup_engine.errors import Problem

TEXT_CHARS_MAX: Final = 255
PATH_PARTS_MAX: Final = 32
DIGITS_MAX: Final = 38
SCALE_MAX: Final = 18

_DECIMAL = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?|[-+]?\.[0-9]+")
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_UNSTORABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")

T = TypeVar("T")
Word = TypeVar("Word", bound=str)


@dataclass(frozen=True, slots=True)
class Located(Generic[T]):
    """A value and where it stands."""

    value: T
    place: Place


def describe(node: Node) -> str:
    """What a node is, for messages: `the number 12`, `a list`, `nothing`."""
    if isinstance(node, YamlMap):
        return "a mapping"
    if isinstance(node, YamlList):
        return "a list"
    if node.kind == "null":
        return "nothing"
    if node.kind == "tagged":
        return "a value with a tag"
    return f"the {node.kind} {_shown(node.text) if node.kind == 'text' else node.text}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that `word` is most likely a misspelling of, without regard to case."""
    return next(iter(get_close_matches(word.lower(), sorted(words), n=1, cutoff=0.6)), None)


class Reader:
    """Collects the problems of one file in `problems`. `belongs` says for a key where in the file it may stand."""

    def __init__(self, belongs: dict[str, str]) -> None:
        self.problems: list[Problem] = []
        self._belongs = belongs

    def wrong(self, place: Place, message: str, hint: str) -> None:
        self.problems.append(place.problem(message, hint))

    def wrong_type(self, node: Node, label: str, wanted: str, example: str) -> None:
        if isinstance(node, YamlScalar) and node.kind == "null":
            self.wrong(node.place, f"{label} has no value", f"Write {example}.")
        else:
            self.wrong(node.place, f"{label} must be {wanted}, not {describe(node)}", f"Write {example}.")

    def mapping(
        self, node: Node | None, label: str, required: dict[str, str], optional: dict[str, str], example: str
    ) -> dict[str, Node] | None:
        """The values by key. `required` and `optional`: the keys, each with an example of its value."""
        if node is None:
            return None
        if not isinstance(node, YamlMap):
            self.wrong_type(node, label, "a mapping of keys to values", example)
            return None
        known = required | optional
        found: dict[str, Node] = {}
        places: dict[str, Place] = {}
        unknown: list[YamlScalar] = []
        for key, value in node.entries:
            if not isinstance(key, YamlScalar):
                self.wrong(key.place, f"a key of {label} is {describe(key)}", _known_keys(known))
            elif key.text in found:
                first = places[key.text]
                self.wrong(key.place, f"duplicate key {_shown(key.text)}, first on line {first.line}", "Remove one.")
            elif key.text in known or not known:
                found[key.text], places[key.text] = _at_key(value, key), key.place
            else:
                unknown.append(key)
        meant: set[str] = set()
        for key in unknown:
            near = nearest(key.text, known.keys() - found.keys())
            if key.text in self._belongs:
                hint = f"It belongs in {self._belongs[key.text]}."
            elif near:
                meant.add(near)
                hint = f"Write '{near}' instead."
            else:
                hint = _known_keys(known)
            self.wrong(key.place, f"unknown key {_shown(key.text)}", hint)
        for name, sample in required.items():
            if name not in found and name not in meant:
                self.wrong(node.place, f"missing key '{name}' in {label}", f"Add '{name}: {sample}'.")
        return found

    def items(self, node: Node | None, label: str, example: str) -> tuple[Node, ...]:
        """The nodes of a list; none where it is absent."""
        if node is None:
            return ()
        if not isinstance(node, YamlList):
            self.wrong_type(node, label, "a list", example)
            return ()
        return node.items

    def text(self, node: Node | None, label: str, example: str) -> Located[str] | None:
        """Text that Postgres and JSON can hold, 1 to 255 characters, without control characters."""
        if node is None:
            return None
        if isinstance(node, YamlScalar) and node.kind in ("number", "boolean"):
            self.wrong(node.place, f"{label} must be text, not {describe(node)}", f"Quote it: '{node.text}'.")
        elif not isinstance(node, YamlScalar) or node.kind != "text":
            self.wrong_type(node, label, "text", example)
        elif not node.text:
            self.wrong(node.place, f"{label} is empty", f"Write {example}.")
        elif len(node.text) > TEXT_CHARS_MAX:
            self.wrong(node.place, f"{label} is longer than {TEXT_CHARS_MAX} characters", "Write a shorter one.")
        elif bad := _UNSTORABLE.search(node.text):
            self.wrong(node.place, f"{label} holds the character U+{ord(bad[0]):04X}", "Remove it.")
        else:
            return Located(node.text, node.place)
        return None

    def path(self, node: Node | None, label: str, example: str) -> Located[str] | None:
        """A dotted path: property names joined by single dots."""
        text = self.text(node, label, example)
        if text is None:
            return None
        parts = text.value.split(".")
        if not all(parts):
            hint = "Write property names joined by single dots, such as data.region."
            self.wrong(text.place, f"{label} is not a dotted path: {_shown(text.value)}", hint)
            return None
        if len(parts) > PATH_PARTS_MAX:
            self.wrong(text.place, f"{label} is more than {PATH_PARTS_MAX} levels deep", "Write a shorter path.")
            return None
        return text

    def json_text(self, node: Node, label: str) -> Located[str] | None:
        """A scalar as its JSON text: text is itself; numbers and booleans are as JSON writes them."""
        if isinstance(node, YamlScalar) and node.kind == "boolean":
            return Located(node.text.lower(), node.place)
        if isinstance(node, YamlScalar) and node.kind == "number" and _JSON_NUMBER.fullmatch(node.text):
            return Located(node.text, node.place)
        return self.text(node, label, "the text to look for")

    def duration_ms(self, node: Node | None, label: str, example: str) -> Located[int] | None:
        """Milliseconds of `10m`, `1h30m`, `200ms` and the like."""
        if node is None:
            return None
        if not isinstance(node, YamlScalar) or node.kind != "text":
            if isinstance(node, YamlScalar) and node.kind == "number":
                self.wrong(node.place, f"{label} must be a duration, not {describe(node)}", HOW_TO_WRITE)
            else:
                self.wrong_type(node, label, "a duration", example)
            return None
        try:
            return Located(parse_duration(node.text), node.place)
        except ValueError as error:
            self.wrong(node.place, f"{label} is {error}", HOW_TO_WRITE)
            return None

    def decimal(self, node: Node | None, label: str) -> Located[Decimal] | None:
        """An exact decimal from the text as written: at most 38 digits, 18 of them after the point."""
        if node is None:
            return None
        if not isinstance(node, YamlScalar) or node.kind not in ("number", "text"):
            self.wrong_type(node, label, "a decimal number", "digits, such as 0 or 0.01")
        elif not _DECIMAL.fullmatch(node.text):
            hint = "Write digits, such as 0 or 0.01."
            self.wrong(node.place, f"{label} is not an exact decimal number: {_shown(node.text)}", hint)
        elif len(re.sub("[^0-9]", "", node.text)) > DIGITS_MAX or len(node.text.partition(".")[2]) > SCALE_MAX:
            hint = f"Write at most {DIGITS_MAX} digits, {SCALE_MAX} of them after the point."
            self.wrong(node.place, f"{label} has too many digits: {_shown(node.text)}", hint)
        else:
            return Located(Decimal(node.text), node.place)
        return None

    def whole_number(self, node: Node | None, label: str, most: int) -> Located[int] | None:
        """A number from 0 to `most`, written in digits."""
        if node is None:
            return None
        digits = node.text if isinstance(node, YamlScalar) and node.kind == "number" else ""
        if re.fullmatch("[0-9]{1,9}", digits) and int(digits) <= most:
            return Located(int(digits), node.place)
        self.wrong_type(node, label, f"a whole number from 0 to {most}", "digits, without quotes")
        return None

    def choice(self, node: Node | None, label: str, choices: tuple[Word, ...]) -> Located[Word] | None:
        """One of a few words."""
        example = f"one of {', '.join(choices)}"
        text = self.text(node, label, example)
        if text is None:
            return None
        for choice in choices:
            if choice == text.value:
                return Located(choice, text.place)
        near = nearest(text.value, choices)
        hint = f"Write {near} instead." if near else f"Write {example}."
        self.wrong(text.place, f"{label} cannot be {_shown(text.value)}", hint)
        return None


def _at_key(value: Node, key: YamlScalar) -> Node:
    """A value that was left out has the place of whatever comes next in the file; its key's says more."""
    return YamlScalar("null", "", key.place) if isinstance(value, YamlScalar) and value.kind == "null" else value


def _known_keys(known: Iterable[str]) -> str:
    return f"The keys here are {', '.join(known)}."
