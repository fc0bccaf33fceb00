"""The parameters of a catalogue metric: which types they have, and how a value given as text becomes one.

Owns: types, reading and checking of values. Must never put a value into SQL: the rewriter binds it, with its type.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Literal, TypeAlias

from billable_metrics.catalog import nearest
from billable_metrics.times import parse_instant, shown
from rollup_engine.errors import MetricError

ParameterType = Literal["number", "text", "boolean", "timestamp"]
Value: TypeAlias = Decimal | str | bool | datetime

SQL_TYPES: Final[Mapping[ParameterType, str]] = {
    "number": "NUMERIC",
    "text": "TEXT",
    "boolean": "BOOLEAN",
    "timestamp": "TIMESTAMPTZ",
}
"""The type that each is bound as."""

SAMPLES: Final[Mapping[ParameterType, Value]] = {
    "number": Decimal(1),
    "text": "x",
    "boolean": True,
    "timestamp": datetime(2024, 1, 1, tzinfo=UTC),
}
"""A value of each type, for checking a metric where no value is given."""

DIGITS_MAX: Final = 60
TEXT_CHARS_MAX: Final = 1_000

_NUMBER: Final = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)", re.ASCII)
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_EXAMPLES: Final[Mapping[ParameterType, str]] = {
    "number": "digits, such as 0 or 0.01",
    "text": "text",
    "boolean": "true or false",
    "timestamp": "a time with its offset, such as 2024-03-14T10:00:00Z",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter, written `:name` in the metric's SQL. Without a default a value has to be given."""

    name: str
    type: ParameterType
    default: Value | None = None
    description: str = ""

    @property
    def required(self) -> bool:
        return self.default is None


def parse_value(kind: ParameterType, text: str, label: str) -> Value:
    """The value that text means. `label` says in messages what is read. Raises MetricError."""
    if kind == "timestamp":
        return parse_instant(text, label)
    if kind == "boolean":
        if text.lower() not in ("true", "false"):
            raise _wrong(kind, text, label)
        return text.lower() == "true"
    if kind == "number":
        if not _NUMBER.fullmatch(text):
            raise _wrong(kind, text, label)
        if sum(map(str.isdigit, text)) > DIGITS_MAX:
            raise MetricError(f"{label} has more than {DIGITS_MAX} digits; write fewer")
        return Decimal(text)
    if len(text) > TEXT_CHARS_MAX:
        raise MetricError(f"{label} is longer than {TEXT_CHARS_MAX} characters; write a shorter one")
    if bad := _UNSTORABLE.search(text):
        raise MetricError(f"{label} holds the character U+{ord(bad[0]):04X}, which Postgres cannot hold; remove it")
    return text


def parse_values(parameters: Mapping[str, Parameter], given: Mapping[str, str]) -> dict[str, Value]:
    """A value for every parameter: the one given as text, or the default.

    Raises MetricError for a name that is no parameter, a value missing that has no default, and a wrong value.
    """
    _check_names(parameters, given)
    parsed = {name: parse_value(parameters[name].type, text, f"the parameter {name!r}") for name, text in given.items()}
    return checked_values(parameters, parsed)


def checked_values(parameters: Mapping[str, Parameter], given: Mapping[str, Value]) -> dict[str, Value]:
    """A value for every parameter: the one given, or the default.

    Raises MetricError for a name that is no parameter, and for a value missing that has no default.
    """
    _check_names(parameters, given)
    values: dict[str, Value] = {}
    for name, parameter in parameters.items():
        value = given.get(name, parameter.default)
        if value is None:
            raise MetricError(f"the parameter {name!r} has no value; give {_EXAMPLES[parameter.type]}")
        values[name] = value
    return values


def _check_names(parameters: Mapping[str, Parameter], given: Collection[str]) -> None:
    for name in given:
        if name not in parameters:
            raise MetricError(f"there is no parameter {name!r}; {_meant(name, parameters)}")


def bound(parameters: Mapping[str, Parameter], values: Mapping[str, Value]) -> dict[str, tuple[str, object]]:
    """What the rewriter binds: for each parameter its SQL type and value. `values` are those of `parse_values`."""
    return {name: (SQL_TYPES[parameter.type], values[name]) for name, parameter in parameters.items()}


def sample_values(parameters: Mapping[str, Parameter]) -> dict[str, Value]:
    """A value for every parameter: its default, or any of its type."""
    return {
        name: SAMPLES[parameter.type] if parameter.default is None else parameter.default
        for name, parameter in parameters.items()
    }


def written(value: Value) -> str:
    """A value as the text that `parse_value` reads."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return shown(value)
    return format(value, "f") if isinstance(value, Decimal) else value


def _wrong(kind: ParameterType, text: str, label: str) -> MetricError:
    is_shown = text if len(text) <= 40 else f"{text[:37]}..."
    return MetricError(f"{label} is no {kind}: {is_shown!r}; write {_EXAMPLES[kind]}")


def _meant(name: str, parameters: Mapping[str, Parameter]) -> str:
    if close := nearest(name, parameters):
        return f"did you mean {close!r}?"
    return f"those there are: {', '.join(sorted(parameters))}" if parameters else "the metric takes none"
