"""From YAML files to a checked Config, or to the list of everything that is wrong with them.

Owns: finding the files, and the order: read each, check all, build. Must never hand out a Config while a problem is
known, and never raise for anything a file holds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from rollup_engine.config import model
from rollup_engine.config.draft import BELONGS, Amount, Draft, DraftRollup, Group, read_draft
from rollup_engine.config.files import label, read_text, unreadable, yaml_files
from rollup_engine.config.naming import column_name
from rollup_engine.config.nodes import YamlScalar, parse
from rollup_engine.config.reader import Reader
from rollup_engine.config.rules import broken_rules, column_of
from rollup_engine.config.sources import DraftBucket
from rollup_engine.errors import ConfigError, Problem

T = TypeVar("T")


def load(config_dir: Path) -> model.Config:
    """The Config of a directory's *.yaml and *.yml files. Raises ConfigError with every problem of every file."""
    config, problems = check([config_dir])
    if config is None:
        raise ConfigError(problems=problems)
    return config


def check(paths: Sequence[Path]) -> tuple[model.Config | None, list[Problem]]:
    """Checks files, and the *.yaml and *.yml files of directories, as one configuration.

    Returns the Config and no problems, or None and every problem of every file, in the order of files and lines.
    Event types are ordered by name. Raises nothing for what the files hold or where they are missing.
    """
    files, problems = _find(paths)
    drafts: list[Draft] = []
    for file in files:
        draft, found = _read(file)
        problems += found
        if draft:
            drafts.append(draft)
    problems += broken_rules(drafts)
    if problems:
        order = {label(file): number for number, file in enumerate(files)}
        return None, sorted(problems, key=lambda p: (order.get(p.file or "", -1), p.line or 0, p.column or 0))
    events = sorted((_event(draft) for draft in drafts), key=lambda event: event.event)
    return model.Config(events=tuple(events)), []


def _find(paths: Sequence[Path]) -> tuple[list[Path], list[Problem]]:
    files: dict[str, Path] = {}
    problems: list[Problem] = []
    for path in paths:
        try:
            found = yaml_files(path) if path.is_dir() else [path]
            for file in found:
                files.setdefault(os.path.realpath(file), file)  # Path.resolve raises for a link to itself
        except OSError as error:
            problems.append(_unreadable(path, error))
            continue
        if not found:
            hint = f"Create one per event type, such as {path / 'file_download.yaml'}."
            problems.append(Problem(label(path), None, None, "no *.yaml or *.yml file in this directory", hint))
    if not paths:
        problems.append(Problem(None, None, None, "no configuration to check", "Name a file or a directory."))
    return list(files.values()), problems


def _read(path: Path) -> tuple[Draft | None, list[Problem]]:
    try:
        text = read_text(path, "a rollup YAML")
    except OSError as error:
        return None, [_unreadable(path, error)]
    if isinstance(text, Problem):
        return None, [text]
    file = label(path)
    root = parse(text, file)
    if isinstance(root, Problem):
        return None, [root]
    if root is None or (isinstance(root, YamlScalar) and root.kind == "null"):
        hint = "Write at least the keys event, source, fields and rollups, or remove the file."
        return None, [Problem(file, 1, 1, "this file is empty", hint)]
    reader = Reader(BELONGS)
    return read_draft(root, file, reader), reader.problems


def _unreadable(path: Path, error: OSError) -> Problem:
    return unreadable(path, error, f"a YAML file per event type into it, such as {path / 'file_download.yaml'}")


def _event(draft: Draft) -> model.EventType:
    return model.EventType(
        event=_read_value(draft.event).value,
        kafka_topics=tuple(topic.value for topic in draft.source.topics),
        bucket=_bucket(draft.source.bucket) if draft.source.bucket else None,
        match=tuple(model.Match(path=path.value, value=value.value) for path, value in draft.source.match),
        id_paths=tuple(path.value for path in draft.id_paths),
        timestamp=model.Timestamp(path=_read_value(draft.timestamp_path).value, unit=draft.timestamp_unit),
        customer_path=_read_value(draft.customer_path).value,
        rollups=tuple(_rollup(rollup) for rollup in draft.rollups),
        grace_ms=_read_value(draft.grace).value,
        horizon_ms=_read_value(draft.horizon).value,
        max_future_ms=_read_value(draft.max_future).value,
        file=draft.file,
    )


def _bucket(draft: DraftBucket) -> model.Bucket:
    return model.Bucket(
        url=draft.url.value, format=_read_value(draft.format).value, poll_ms=_read_value(draft.poll).value
    )


def _rollup(draft: DraftRollup) -> model.Rollup:
    name = _read_value(draft.name).value
    return model.Rollup(
        name=name,
        table=column_name(name),
        group_by=tuple(_group(group) for group in draft.groups),
        aggregates=tuple(_aggregate(amount) for amount in draft.amounts),
        window_ms=_read_value(draft.window).value,
        emit_every_ms=_read_value(draft.emit_every).value,
    )


def _group(group: Group) -> model.GroupColumn:
    return model.GroupColumn(path=group.path.value, column=column_of(group))


def _aggregate(amount: Amount) -> model.Aggregate:
    return model.Aggregate(
        kind=amount.kind,
        path=amount.path.value,
        column=column_of(amount),
        minimum=amount.minimum.value if amount.minimum else None,
        scale=amount.scale,
    )


def _read_value(value: T | None) -> T:
    """A value that was left out would have left a problem, and with a problem nothing is built."""
    assert value is not None, "a draft without problems has all its values"
    return value
