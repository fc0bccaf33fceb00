"""The metric catalogue: one YAML file a metric, read strictly, with the place of every problem.

Owns: the format and its loading. Must never stop at the first problem, and never hand out a catalogue while one is
known. What a metric's SQL may say is `metric_checks`'s.

    name: billable_downloads
    description: Downloads of at least so many bytes.
    unit: downloads
    sql: |
      SELECT SUM(aggregated_count) FROM AGGREGATED_EVENTS('file_download') WHERE sum_bytes_downloaded >= :min_bytes
    parameters:
      min_bytes: {type: number, default: 0, description: The least bytes of a window.}
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from billable_metrics.metric import Metric, Metrics, SqlPlace
from billable_metrics.metric_checks import check_metrics as check_metrics  # beside what loads them
from billable_metrics.parameters import SQL_TYPES, Parameter, ParameterType, Value, parse_value
from billable_metrics.parse import SQL_CHARACTERS_MAX
from rollup_engine.config.files import label, read_text, unreadable, yaml_files
from rollup_engine.config.nodes import Node, Place, YamlMap, YamlScalar, parse
from rollup_engine.config.reader import Located, Reader
from rollup_engine.errors import ConfigError, MetricError, Problem

DESCRIPTION_CHARACTERS_MAX: Final = 2_000
PARAMETERS_MAX: Final = 20

RESERVED: Final = frozenset(
    ("external_customer_id", "start", "end", "granularity", "timezone", "group_by", "snap", "fill", "limit", "cursor")
)
"""What a request for usage has beside the metric's parameters, under names of the same kind."""

_REQUIRED: Final = {
    "name": "billable_downloads",
    "description": "Downloads that are paid for.",
    "unit": "downloads",
    "sql": "SELECT SUM(aggregated_count) FROM AGGREGATED_EVENTS('file_download')",
}
_OPTIONAL: Final = {"parameters": ""}
_PARAMETER_REQUIRED: Final = {"type": "number"}
_PARAMETER_OPTIONAL: Final = {"default": "", "description": ""}
_BELONGS: Final = (
    dict.fromkeys(_REQUIRED | _OPTIONAL, "the top level of the file")
    | dict.fromkeys(_PARAMETER_REQUIRED | _PARAMETER_OPTIONAL, "an entry of 'parameters'")
    | {"description": "the top level of the file, or an entry of 'parameters'"}
)
_TYPES: Final[tuple[ParameterType, ...]] = tuple(SQL_TYPES)
_ROLLUP_KEYS: Final = frozenset({"event", "source", "fields", "rollups"})

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,59}")
_HOW_TO_NAME: Final = "Write 1 to 60 of the characters a-z, 0-9 and _, the first a letter."
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def load_metrics(directory: Path) -> Metrics:
    """The metrics of a directory's *.yaml and *.yml files; none where there is no such directory.

    Raises ConfigError with every problem of every file.
    """
    if not directory.exists():
        return {}
    try:
        files = yaml_files(directory)
    except OSError as error:
        raise ConfigError(problems=[_unreadable(directory, error)]) from error
    metrics, problems = read_metrics(files)
    if problems:
        raise ConfigError(problems=problems)
    return metrics


def read_metrics(files: Iterable[Path]) -> tuple[Metrics, list[Problem]]:
    """The metrics of files that could be read, and every problem of all of them. Raises nothing for what they hold."""
    metrics: dict[str, Metric] = {}
    problems: list[Problem] = []
    for file in files:
        metric, found = _read(file)
        problems += found
        if metric is None:
            continue
        if (first := metrics.get(metric.name)) is not None:
            message = f"the metric '{metric.name}' is declared twice, first in {first.file}:{first.line}"
            problems.append(Problem(metric.file, metric.line, None, message, "Rename or remove one of them."))
        else:
            metrics[metric.name] = metric
    return dict(sorted(metrics.items())), problems


def is_metric_file(path: Path) -> bool:
    """Whether a YAML file declares a metric rather than an event type, by the keys that it has."""
    try:
        text = read_text(path, "YAML")
    except OSError:
        return False
    root = None if isinstance(text, Problem) else parse(text, label(path))
    if not isinstance(root, YamlMap):
        return False
    keys = {key.text for key, _ in root.entries if isinstance(key, YamlScalar)}
    return len(keys & _REQUIRED.keys()) > len(keys & _ROLLUP_KEYS)


def _read(path: Path) -> tuple[Metric | None, list[Problem]]:
    file = label(path)
    try:
        text = read_text(path, "a metric YAML")
    except OSError as error:
        return None, [_unreadable(path, error)]
    root = text if isinstance(text, Problem) else parse(text, file)
    if isinstance(root, Problem) or isinstance(text, Problem):
        assert isinstance(root, Problem)
        return None, [root]
    if root is None or (isinstance(root, YamlScalar) and root.kind == "null"):
        hint = f"Write the keys {', '.join(_REQUIRED)}, or remove the file."
        return None, [Problem(file, 1, 1, "this file is empty", hint)]
    reader = Reader(_BELONGS)
    metric = _metric(root, text, file, reader)
    return (None if reader.problems else metric), sorted(reader.problems, key=lambda each: (each.line, each.column))


def _metric(root: Node, text: str, file: str, reader: Reader) -> Metric | None:
    top = reader.mapping(root, "the file", _REQUIRED, _OPTIONAL, f"the keys {', '.join(_REQUIRED)}")
    if top is None:
        return None
    name = reader.text(top.get("name"), "'name'", "the metric's name, such as billable_downloads")
    if name is not None and not _NAME.fullmatch(name.value):
        reader.wrong(name.place, f"'name' cannot be {name.value!r}", _HOW_TO_NAME)
    description = _prose(top.get("description"), "'description'", "a sentence on what is counted", reader)
    unit = reader.text(top.get("unit"), "'unit'", "what is counted, such as downloads or bytes")
    sql = _long_text(top.get("sql"), "'sql'", "one SELECT statement", SQL_CHARACTERS_MAX, reader)
    parameters = _parameters(top.get("parameters"), reader)
    if name is None or description is None or unit is None or sql is None:
        return None
    statement = sql.value.rstrip()
    return Metric(
        name=name.value,
        description=description,
        unit=unit.value,
        sql=statement,
        parameters=parameters,
        file=file,
        line=name.place.line,
        sql_place=_sql_place(statement, sql.place, text),
    )


def _parameters(node: Node | None, reader: Reader) -> dict[str, Parameter]:
    example = "name: {type: number, default: 0, description: …}"
    entries = reader.mapping(node, "'parameters'", {}, {}, example) or {}
    named = node.entries if isinstance(node, YamlMap) else ()
    places = {key.text: key.place for key, _ in named if isinstance(key, YamlScalar)}
    if node is not None and len(entries) > PARAMETERS_MAX:
        reader.wrong(node.place, f"more than {PARAMETERS_MAX} parameters", "Remove some.")
    parameters = {}
    for name, entry in entries.items():
        if not _NAME.fullmatch(name):
            reader.wrong(places[name], f"a parameter cannot be called {name!r}", _HOW_TO_NAME)
        if name in RESERVED:
            hint = "Choose another name: this one is what a request for usage calls a part of its own."
            reader.wrong(places[name], f"a parameter cannot be called '{name}'", hint)
        values = reader.mapping(entry, f"'{name}'", _PARAMETER_REQUIRED, _PARAMETER_OPTIONAL, "{type: number}") or {}
        kind = reader.choice(values.get("type"), "'type'", _TYPES)
        default = _default(values.get("default"), kind.value, reader) if kind is not None else None
        description = _prose(values.get("description"), "'description'", "a sentence on what it means", reader)
        if kind is not None:
            parameters[name] = Parameter(name, kind.value, default, description or "")
    return parameters


def _default(node: Node | None, kind: ParameterType, reader: Reader) -> Value | None:
    if node is None:
        return None
    fitting = {"number": ("number", "text"), "boolean": ("boolean",)}.get(kind, ("text",))
    if not isinstance(node, YamlScalar) or node.kind not in fitting:
        if kind == "text" and isinstance(node, YamlScalar) and node.kind in ("number", "boolean"):
            reader.text(node, "'default'", "text")
        else:
            reader.wrong_type(node, "'default'", f"a {kind}", f"a {kind}, or leave it out")
        return None
    try:
        return parse_value(kind, node.text, "'default'")
    except MetricError as error:
        message, _, hint = error.message.partition("; ")
        reader.wrong(node.place, message, f"{hint[:1].upper()}{hint[1:]}." if hint else "")
        return None


def _prose(node: Node | None, name: str, example: str, reader: Reader) -> str | None:
    """Text of several lines as one."""
    text = _long_text(node, name, example, DESCRIPTION_CHARACTERS_MAX, reader)
    return " ".join(text.value.split()) if text is not None else None


def _long_text(node: Node | None, name: str, example: str, characters_max: int, reader: Reader) -> Located[str] | None:
    """Text that may have several lines."""
    if node is None:
        return None
    if not isinstance(node, YamlScalar) or node.kind != "text" or not node.text.strip():
        reader.text(node, name, example)  # says what is wrong with it
        if isinstance(node, YamlScalar) and node.kind == "text" and node.text:
            reader.wrong(node.place, f"{name} is empty", f"Write {example}.")
    elif len(node.text) > characters_max:
        reader.wrong(node.place, f"{name} is longer than {characters_max} characters", "Write a shorter one.")
    elif bad := _CONTROL.search(node.text):
        reader.wrong(node.place, f"{name} holds the character U+{ord(bad[0]):04X}", "Remove it.")
    else:
        return Located(node.text, node.place)
    return None


def _sql_place(sql: str, place: Place, text: str) -> SqlPlace:
    """Where the SQL's lines stand in the file: known for a block that keeps its lines (`|`), and for a single line."""
    lines = text.splitlines()
    line = lines[place.line - 1]
    written = line[place.column - 1 :]
    if written.startswith("|"):
        first = next(number for number, each in enumerate(sql.split("\n")) if each)
        indent = len(lines[place.line + first]) - len(sql.split("\n")[first])
        return SqlPlace(place.line + 1, indent)
    for quote in ("", "'", '"'):
        if written.startswith(quote + sql):
            return SqlPlace(place.line, place.column - 1 + len(quote))
    return SqlPlace(place.line, None)


def _unreadable(path: Path, error: OSError) -> Problem:
    return unreadable(path, error, f"a YAML file per metric into it, such as {path / 'billable_downloads.yaml'}")
