"""What must hold between the values of the files, as a tuple of rules.

Owns: every check that needs more than one value. A rule is a function of all drafts; it yields each problem it finds
and passes over what could not be read. Must never depend on another rule having run, nor change a draft.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count
from typing import Final, TypeAlias

from rollup_engine.config.draft import Amount, Draft, DraftRollup, Group
from rollup_engine.config.durations import DAY_MS, format_duration
from rollup_engine.config.naming import (
    FIXED_COLUMNS,
    INNER_COLUMNS,
    NAME_BYTES_MAX,
    SYSTEM_COLUMNS,
    TABLE_SUFFIX,
    TIER_SUFFIXES,
    aggregate_column,
    column_name,
)
from rollup_engine.config.nodes import Place
from rollup_engine.config.reader import Located
from rollup_engine.config.sources import DraftBucket
from rollup_engine.errors import Problem

Rule: TypeAlias = Callable[[Sequence[Draft]], Iterator[Problem]]

EMIT_EVERY_MS_MIN: Final = 100
WINDOW_MS_MIN: Final = 1_000
POLL_MS_MIN: Final = 1_000

_HANDY_WINDOWS = [seconds * 1_000 for seconds in (1, 2, 5, 10, 15, 20, 30)]
_HANDY_WINDOWS += [minutes * 60_000 for minutes in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30)]
_HANDY_WINDOWS += [hours * 3_600_000 for hours in (1, 2, 3, 4, 6, 8, 12, 24)]
_TOPIC = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")  # org.apache.kafka.common.internals.Topic
_BUCKET_TOPIC = re.compile(r"bucket\.[^.]*\.[0-9a-f]{8}")  # config.model.Bucket.topic
_BARE = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]*")
_OUR_COLUMNS = FIXED_COLUMNS | INNER_COLUMNS


def events_are_declared_once(drafts: Sequence[Draft]) -> Iterator[Problem]:
    first: dict[str, Place] = {}
    for draft in drafts:
        if draft.event and (other := first.setdefault(draft.event.value, draft.event.place)) != draft.event.place:
            hint = "Keep one file per event type: merge the two, or rename this one."
            yield draft.event.place.problem(f"event '{draft.event.value}' is already declared in {other}", hint)


def events_leave_the_books_their_names(drafts: Sequence[Draft]) -> Iterator[Problem]:
    """Records that no event type can claim are booked under `topic:<name>`, beside the event types."""
    for draft in drafts:
        if draft.event and draft.event.value.startswith("topic:"):
            hint = "Names beginning with 'topic:' are kept for records of no event type; write another one."
            yield draft.event.place.problem(f"event '{draft.event.value}' has a reserved name", hint)


def topics_are_kafka_names(drafts: Sequence[Draft]) -> Iterator[Problem]:
    for draft in drafts:
        seen: set[str] = set()
        for topic in draft.source.topics:
            if not _TOPIC.fullmatch(topic.value):
                hint = "Kafka allows 1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-'."
                yield topic.place.problem(f"{topic.value!r} cannot be a topic's name", hint)
            elif _BUCKET_TOPIC.fullmatch(topic.value):
                hint = "Names such as bucket.<words>.<8 hex digits> are kept for buckets; write another one."
                yield topic.place.problem(f"topic '{topic.value}' has a reserved name", hint)
            elif topic.value in seen:
                yield topic.place.problem(f"topic '{topic.value}' is listed twice", "Remove one.")
            seen.add(topic.value)


def buckets_are_read_one_way(drafts: Sequence[Draft]) -> Iterator[Problem]:
    """An object is read once for all event types of its bucket."""
    first: dict[str, DraftBucket] = {}
    for draft in drafts:
        bucket = draft.source.bucket
        if bucket is None:
            continue
        if bucket.poll and bucket.poll.value < POLL_MS_MIN:
            hint = "Write 1s or more; 30s is the default."
            yield bucket.poll.place.problem(f"poll {format_duration(bucket.poll.value)} is shorter than 1s", hint)
        other = first.setdefault(bucket.url.value, bucket)
        if bucket.format and other.format and bucket.format.value != other.format.value:
            message = f"bucket {bucket.url.value} is read as {bucket.format.value} here and as {other.format.value}"
            hint = "Its objects are read once for all event types: write one format, or give each a folder of its own."
            yield bucket.format.place.problem(f"{message} in {other.format.place}", hint)
        if bucket.poll and other.poll and bucket.poll.value != other.poll.value:
            here, there = format_duration(bucket.poll.value), format_duration(other.poll.value)
            message = f"bucket {bucket.url.value} is polled every {here} here and every {there} in {other.poll.place}"
            yield bucket.poll.place.problem(message, f"Write 'poll: {there}' here, or the same in both.")


def windows_divide_the_day(drafts: Sequence[Draft]) -> Iterator[Problem]:
    for _, rollup in _rollups(drafts):
        if (window := rollup.window) is None:
            continue
        if window.value < WINDOW_MS_MIN:
            hint = "Write 1s or more; 10m is the default."
            yield window.place.problem(f"window {format_duration(window.value)} is shorter than 1s", hint)
        elif DAY_MS % window.value:
            less = max(handy for handy in _HANDY_WINDOWS if handy < window.value)
            more = next((handy for handy in _HANDY_WINDOWS if handy > window.value), None)
            choice = f"{format_duration(less)} or {format_duration(more)}" if more else format_duration(less)
            message = f"window {format_duration(window.value)} does not divide a day evenly"
            yield window.place.problem(message, f"Write {choice} instead.")


def emissions_leave_time_to_work(drafts: Sequence[Draft]) -> Iterator[Problem]:
    for _, rollup in _rollups(drafts):
        if (every := rollup.emit_every) and every.value < EMIT_EVERY_MS_MIN:
            hint = "Write 100ms or more; 30s is the default."
            yield every.place.problem(f"emit_every {format_duration(every.value)} is shorter than 100ms", hint)


def horizon_covers_grace(drafts: Sequence[Draft]) -> Iterator[Problem]:
    """A copy that comes within the grace period must still be known as a copy."""
    for draft in drafts:
        if draft.horizon is None or draft.grace is None:
            continue
        horizon_ms, grace_ms = draft.horizon.value, draft.grace.value
        if horizon_ms == 0:
            yield draft.horizon.place.problem("dedup_horizon must be longer than 0s", "Write 24h, the default.")
        elif grace_ms is not None and horizon_ms < grace_ms:
            horizon, grace = format_duration(horizon_ms), format_duration(grace_ms)
            # Either may be a default, which stands at the file's top; the one that was written is the later.
            place = max(draft.horizon.place, draft.grace.place, key=lambda place: (place.line, place.column))
            message = f"dedup_horizon {horizon} is shorter than grace_period {grace}"
            yield place.problem(message, f"Write 'dedup_horizon: {grace}' or more, or a shorter grace_period.")


def paths_are_values_or_objects(drafts: Sequence[Draft]) -> Iterator[Problem]:
    """`data` and `data.region` cannot both be read: a property is either a value or an object."""
    for draft in drafts:
        paths = {path.value: path for path in reversed(list(_paths(draft)))}
        for path in sorted(paths.values(), key=lambda path: (path.place.line, path.place.column)):
            parents = (path.value[: dot.start()] for dot in re.finditer(r"\.", path.value))
            for parent in parents:
                if parent in paths:
                    message = (
                        f"'{path.value}' lies inside '{parent}', read as a value on line {paths[parent].place.line}"
                    )
                    yield path.place.problem(message, "A property is a value or an object; remove one of the two.")


def columns_are_free(drafts: Sequence[Draft]) -> Iterator[Problem]:
    for _, rollup in _rollups(drafts):
        table = column_name(rollup.name.value) if rollup.name else None
        entries: list[Group | Amount] = [*rollup.groups, *rollup.amounts]
        held: dict[str, Group | Amount] = {}
        for entry in entries:
            column = column_of(entry)
            if column in FIXED_COLUMNS:
                holder = "a column that every rollup has"
            elif column in INNER_COLUMNS:
                holder = "a name that the engine keeps for itself"
            elif column in SYSTEM_COLUMNS:
                holder = "a column that Postgres keeps for itself"
            elif table and column in (table, table + TABLE_SUFFIX):
                holder = "the name of this rollup's " + ("view" if column == table else "table")
            elif column in held and _same(held[column], entry):
                message = f"{_shown(entry)} is listed twice, first on line {held[column].path.place.line}"
                yield entry.path.place.problem(message, "Remove one.")
                continue
            elif column in held:
                holder = f"that of {_shown(held[column])} on line {held[column].path.place.line}"
            else:
                held[column] = entry
                continue
            taken = _OUR_COLUMNS | {column_of(other) for other in entries} | {table}
            place = entry.alias.place if entry.alias else entry.path.place
            yield place.problem(f"{_shown(entry)} becomes column '{column}', {holder}", _rename(entry, column, taken))


def rollups_are_declared_once(drafts: Sequence[Draft]) -> Iterator[Problem]:
    first: dict[str, tuple[Draft, DraftRollup]] = {}
    for draft, rollup in _rollups(drafts):
        if rollup.name is None:
            continue
        before, other = first.setdefault(rollup.name.value, (draft, rollup))
        # Two files for one event type are reported as that; their unnamed rollups would only repeat it.
        if other is rollup or (before is not draft and not rollup.named and not other.named):
            continue
        message = f"rollup '{rollup.name.value}' is already declared in {other.place}"
        yield rollup.name.place.problem(message, "Give this one another 'name:'.")


def tables_are_claimed_once(drafts: Sequence[Draft]) -> Iterator[Problem]:
    """Names that differ may still become one table, or the view of one may be the table of another."""
    first: dict[str, DraftRollup] = {}
    for _, rollup in _rollups(drafts):
        if rollup.name is None:
            continue
        table = column_name(rollup.name.value)
        for relation in (table, *(table + suffix for suffix in (TABLE_SUFFIX, *TIER_SUFFIXES.values()))):
            other = first.setdefault(relation, rollup)
            if other is not rollup and other.name and other.name.value != rollup.name.value:
                message = (
                    f"rollup '{rollup.name.value}' claims rollups.{relation}, "
                    f"which rollup '{other.name.value}' in {other.place} already has"
                )
                yield rollup.name.place.problem(message, "Give this one another 'name:'.")
                break


RULES: Final[tuple[Rule, ...]] = (
    events_are_declared_once,
    events_leave_the_books_their_names,
    topics_are_kafka_names,
    buckets_are_read_one_way,
    windows_divide_the_day,
    emissions_leave_time_to_work,
    horizon_covers_grace,
    paths_are_values_or_objects,
    columns_are_free,
    rollups_are_declared_once,
    tables_are_claimed_once,
)


def broken_rules(drafts: Sequence[Draft]) -> list[Problem]:
    """Every problem every rule finds."""
    return [problem for rule in RULES for problem in rule(drafts)]


def column_of(entry: Group | Amount) -> str:
    """The column an entry becomes: from its `as:`, or else from its path (and kind)."""
    if entry.alias:
        return column_name(entry.alias.value)
    return column_name(entry.path.value) if isinstance(entry, Group) else aggregate_column(entry.kind, entry.path.value)


def _rollups(drafts: Sequence[Draft]) -> Iterator[tuple[Draft, DraftRollup]]:
    return ((draft, rollup) for draft in drafts for rollup in draft.rollups)


def _paths(draft: Draft) -> Iterator[Located[str]]:
    matched = (path for path, _ in draft.source.match)
    fields = (*draft.id_paths, draft.timestamp_path, draft.customer_path, *matched)
    yield from (path for path in fields if path)
    for rollup in draft.rollups:
        yield from (group.path for group in rollup.groups)
        yield from (amount.path for amount in rollup.amounts)


def _same(one: Group | Amount, other: Group | Amount) -> bool:
    kinds = [entry.kind if isinstance(entry, Amount) else None for entry in (one, other)]
    return one.path.value == other.path.value and kinds[0] == kinds[1]


def _shown(entry: Group | Amount) -> str:
    return f"'{entry.path.value}'" if isinstance(entry, Group) else f"{entry.kind} of '{entry.path.value}'"


def _rename(entry: Group | Amount, column: str, taken: frozenset[str | None]) -> str:
    stem = column[: NAME_BYTES_MAX - 6]
    names = chain([f"event_{stem}"] if column in _OUR_COLUMNS else [], (f"{stem}_{n}" for n in count(2)))
    free = next(name for name in names if name not in taken)
    if entry.alias:
        return f"Write another name after 'as:', such as {free}."
    key = entry.kind if isinstance(entry, Amount) else "path"
    path = entry.path.value if _BARE.fullmatch(entry.path.value) else repr(entry.path.value)
    return f"Write {{{key}: {path}, as: {free}}} instead."
