"""What one YAML file says, with the place of every value, before anything is checked across values.

Owns: the format's keys and defaults. Must never stop at the first problem: a part that cannot be read is None (or
left out), the reader has the reason, and the rules look at the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from rollup_engine.config.model import Kind, Unit
from rollup_engine.config.nodes import Node, Place, YamlList, YamlMap, YamlScalar
from rollup_engine.config.reader import SCALE_MAX, Located, Reader
from rollup_engine.config.sources import SOURCE, DraftSource, read_source

WINDOW_MS: Final = 600_000
EMIT_EVERY_MS: Final = 30_000
GRACE_MS: Final = 12 * 3_600_000
HORIZON_MS: Final = 24 * 3_600_000
MAX_FUTURE_MS: Final = 5 * 60_000
ID_PARTS_MAX: Final = 8
SCALE: Final = 9

KINDS: Final[tuple[Kind, ...]] = ("sum", "min", "max")
UNITS: Final[tuple[Unit, ...]] = ("s", "ms", "us", "ns")

_FIELDS = {"id": "id", "timestamp": "timestamp", "external_customer_id": "customer"}
_ROLLUP = {"name": "", "group_by": "", "aggregates": "", "window": "", "emit_every": ""}
_FILE_REQUIRED = {
    "event": "file_download",
    "source": "{topic: downloads}",
    "fields": "{id: id, timestamp: timestamp, external_customer_id: customer}",
    "rollups": "[{aggregates: [{sum: bytes}]}]",
}
_FILE_OPTIONAL = {"grace_period": "", "dedup_horizon": "", "max_future": ""}

BELONGS: Final = (
    dict.fromkeys(_FILE_REQUIRED | _FILE_OPTIONAL, "the top level of the file")
    | dict.fromkeys(SOURCE, "'source'")
    | dict.fromkeys(_FIELDS, "'fields'")
    | dict.fromkeys(_ROLLUP, "an entry of 'rollups'")
    | dict.fromkeys((*KINDS, "minimum", "scale"), "an entry of 'aggregates'")
)
"""Where each key of the format belongs, for one that stands elsewhere."""


@dataclass(frozen=True, slots=True)
class Group:
    path: Located[str]
    alias: Located[str] | None


@dataclass(frozen=True, slots=True)
class Amount:
    """An entry of `aggregates`."""

    kind: Kind
    path: Located[str]
    alias: Located[str] | None
    minimum: Located[Decimal] | None
    scale: int


@dataclass(frozen=True, slots=True)
class DraftRollup:
    place: Place
    name: Located[str] | None
    named: bool
    """False where the name is the event's."""
    groups: tuple[Group, ...]
    amounts: tuple[Amount, ...]
    window: Located[int] | None
    emit_every: Located[int] | None


@dataclass(frozen=True, slots=True)
class Draft:
    """One file. `grace` of None is unreadable, of a None value `unlimited`."""

    file: str
    event: Located[str] | None
    source: DraftSource
    id_paths: tuple[Located[str], ...]
    timestamp_path: Located[str] | None
    timestamp_unit: Unit | None
    customer_path: Located[str] | None
    rollups: tuple[DraftRollup, ...]
    grace: Located[int | None] | None
    horizon: Located[int] | None
    max_future: Located[int] | None


def read_draft(root: Node, file: str, reader: Reader) -> Draft | None:
    """None only where the file is not a mapping at all."""
    example = f"the keys {', '.join(_FILE_REQUIRED)}"
    top = reader.mapping(root, "the file", _FILE_REQUIRED, _FILE_OPTIONAL, example)
    if top is None:
        return None
    event = reader.text(top.get("event"), "'event'", "the event type, such as file_download")
    fields = reader.mapping(top.get("fields"), "'fields'", _FIELDS, {}, "id, timestamp and external_customer_id") or {}
    timestamp_path, timestamp_unit = _timestamp(fields.get("timestamp"), reader)
    return Draft(
        file=file,
        event=event,
        source=read_source(top.get("source"), reader),
        id_paths=_id_paths(fields.get("id"), reader),
        timestamp_path=timestamp_path,
        timestamp_unit=timestamp_unit,
        customer_path=reader.path(
            fields.get("external_customer_id"), "'external_customer_id'", "the path of the customer's id"
        ),
        rollups=_rollups(top.get("rollups"), event, reader),
        grace=_grace(top.get("grace_period"), root.place, reader),
        horizon=_duration(top, "dedup_horizon", HORIZON_MS, root.place, reader),
        max_future=_duration(top, "max_future", MAX_FUTURE_MS, root.place, reader),
    )


def _id_paths(node: Node | None, reader: Reader) -> tuple[Located[str], ...]:
    """One path, or a list of them whose values together are the id."""
    example = "the path of the event's id, or a list of paths, such as [source, id]"
    if not isinstance(node, YamlList):
        path = reader.path(node, "'id'", example)
        return (path,) if path else ()
    if not node.items:
        reader.wrong(node.place, "'id' is an empty list", f"Write {example}.")
    if len(node.items) > ID_PARTS_MAX:
        reader.wrong(node.place, f"'id' lists {len(node.items)} paths", f"Write {ID_PARTS_MAX} at the most.")
    paths: dict[str, Located[str]] = {}
    for item in node.items:
        path = reader.path(item, "an entry of 'id'", example)
        if path and paths.setdefault(path.value, path) is not path:
            reader.wrong(path.place, f"'id' lists '{path.value}' twice", "Remove one.")
    return tuple(paths.values())


def _timestamp(node: Node | None, reader: Reader) -> tuple[Located[str] | None, Unit | None]:
    example = "the path of the event's time, or {path: ts, unit: ms}"
    if not isinstance(node, YamlMap):
        return reader.path(node, "'timestamp'", example), None
    keys = reader.mapping(node, "'timestamp'", {"path": "ts"}, {"unit": ""}, example) or {}
    unit = reader.choice(keys.get("unit"), "'unit'", UNITS)
    return reader.path(keys.get("path"), "'path'", example), unit.value if unit else None


def _grace(node: Node | None, place: Place, reader: Reader) -> Located[int | None] | None:
    if node is None:
        return Located(GRACE_MS, place)
    if isinstance(node, YamlScalar) and node.text == "unlimited":
        return Located(None, node.place)
    duration = reader.duration_ms(node, "'grace_period'", "a duration such as 12h, or unlimited")
    return Located(duration.value, duration.place) if duration else None


def _duration(keys: dict[str, Node], key: str, default_ms: int, place: Place, reader: Reader) -> Located[int] | None:
    if key not in keys:
        return Located(default_ms, place)
    return reader.duration_ms(keys[key], f"'{key}'", "a duration such as 30s, 10m or 12h")


def _rollups(node: Node | None, event: Located[str] | None, reader: Reader) -> tuple[DraftRollup, ...]:
    example = "a list with an entry per rollup, such as [{aggregates: [{sum: bytes}]}]"
    items = reader.items(node, "'rollups'", example)
    if isinstance(node, YamlList) and not items:
        reader.wrong(node.place, "'rollups' is an empty list", f"Write {example}.")
    rollups = (_rollup(item, event, reader) for item in items)
    return tuple(rollup for rollup in rollups if rollup is not None)


def _rollup(node: Node, event: Located[str] | None, reader: Reader) -> DraftRollup | None:
    keys = reader.mapping(node, "an entry of 'rollups'", {}, _ROLLUP, "a mapping, such as {group_by: [region]}")
    if keys is None:
        return None
    named = "name" in keys
    own = reader.text(keys.get("name"), "'name'", "the rollup's name, such as file_download")
    groups = (_group(item, reader) for item in reader.items(keys.get("group_by"), "'group_by'", "[region, status]"))
    amounts = (_amount(item, reader) for item in reader.items(keys.get("aggregates"), "'aggregates'", "[{sum: bytes}]"))
    return DraftRollup(
        place=node.place,
        name=own if named else event and Located(event.value, node.place),
        named=named,
        groups=tuple(group for group in groups if group is not None),
        amounts=tuple(amount for amount in amounts if amount is not None),
        window=_duration(keys, "window", WINDOW_MS, node.place, reader),
        emit_every=_duration(keys, "emit_every", EMIT_EVERY_MS, node.place, reader),
    )


def _group(node: Node, reader: Reader) -> Group | None:
    label, example = "an entry of 'group_by'", "a property's path, or {path: data.region, as: region}"
    if not isinstance(node, YamlMap):
        path = reader.path(node, label, example)
        return Group(path, None) if path else None
    keys = reader.mapping(node, label, {"path": "data.region"}, {"as": ""}, example) or {}
    path = reader.path(keys.get("path"), "'path'", "a property's path")
    alias = reader.text(keys.get("as"), "'as'", "a column name")
    return Group(path, alias) if path else None


def _amount(node: Node, reader: Reader) -> Amount | None:
    label, example = "an entry of 'aggregates'", "{sum: bytes}, {min: latency_ms} or {max: latency_ms}"
    optional = dict.fromkeys((*KINDS, "as", "minimum", "scale"), "")
    before = len(reader.problems)
    keys = reader.mapping(node, label, {}, optional, example)
    if keys is None:
        return None
    kinds = [kind for kind in KINDS if kind in keys]
    if len(kinds) > 1:
        hint = "Give each an entry of its own: " + ", ".join(f"{{{kind}: …}}" for kind in kinds) + "."
        reader.wrong(node.place, f"{label} has {' and '.join(map(repr, kinds))}", hint)
    elif not kinds and len(reader.problems) == before:
        reader.wrong(node.place, f"{label} has none of 'sum', 'min' and 'max'", f"Write {example}.")
    paths = [reader.path(keys[kind], f"'{kind}'", "a property's path") for kind in kinds]
    alias = reader.text(keys.get("as"), "'as'", "a column name")
    minimum = reader.decimal(keys.get("minimum"), "'minimum'")
    scale = reader.whole_number(keys.get("scale"), "'scale'", SCALE_MAX)
    if len(kinds) != 1 or paths[0] is None:
        return None
    return Amount(kinds[0], paths[0], alias, minimum, scale.value if scale else SCALE)
