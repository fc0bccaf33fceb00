"""What a deployment rolls up: the checked content of its YAML files, as immutable values.

Owns: the spec objects every stage reads, and their JSON form, which Postgres keeps per generation. Must never read
files or the environment, and must stay quick to import. Build them through the loader: it makes the checks across
fields and files that these types leave out.
"""

from __future__ import annotations

import hashlib
import json
import re
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from rollup_engine.config.naming import TABLE_SUFFIX
from rollup_engine.errors import UsageError

Kind = Literal["sum", "min", "max"]
Unit = Literal["s", "ms", "us", "ns"]
Format = Literal["ndjson", "csv", "parquet"]
Millis = Annotated[int, Field(gt=0)]
MillisOrZero = Annotated[int, Field(ge=0)]

_EXPONENT_MAX = 100
_READABLE_MAX = 60
_NOT_READABLE = re.compile(r"[^a-zA-Z0-9]+")


def _no_float(value: object) -> object:
    if isinstance(value, float):
        raise ValueError("a float is not exact; give a Decimal or text")  # noqa: TRY004 - pydantic collects ValueErrors
    return value


def _canonical_decimal(value: Decimal) -> Decimal:
    """One representation per number (`0`, not `-0.00`), so that equal content has equal JSON. Never rounds."""
    if value and abs(value.adjusted()) > _EXPONENT_MAX:
        raise ValueError(f"the exponent is beyond {_EXPONENT_MAX}")
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return Decimal(0) if text in ("0", "-0") else Decimal(text)


ExactDecimal = Annotated[Decimal, BeforeValidator(_no_float), AfterValidator(_canonical_decimal)]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GroupColumn(_Spec):
    """A grouping property: its dotted path in the event, and its column."""

    path: str
    column: str


class Aggregate(_Spec):
    """A numeric property that is summed, or whose least or greatest value is kept.

    `column` is e.g. `sum_bytes_downloaded`. Values below `minimum` are refused. `scale`: decimal places kept, 0 to 18.
    """

    kind: Kind
    path: str
    column: str
    minimum: ExactDecimal | None = None
    scale: int = Field(default=9, ge=0, le=18)


class Rollup(_Spec):
    """One series of totals per window and grouping tuple. The customer is always part of the tuple, and not listed."""

    name: str
    table: str
    group_by: tuple[GroupColumn, ...] = ()
    aggregates: tuple[Aggregate, ...] = ()
    window_ms: Millis
    emit_every_ms: Millis

    @property
    def view_name(self) -> str:
        """View with one row per window and tuple, in schema `rollups`."""
        return self.table

    @property
    def table_name(self) -> str:
        """Table of the partial rollups, in schema `rollups`."""
        return self.table + TABLE_SUFFIX


class Timestamp(_Spec):
    """Where an event's time is. `unit` None: RFC 3339 text with an offset; otherwise a number since the epoch."""

    path: str
    unit: Unit | None = None


class Match(_Spec):
    """Only events whose property at `path` is `value` belong to the event type; numbers and booleans in JSON form."""

    path: str
    value: str


class Bucket(_Spec):
    """A bucket or directory whose objects hold events. `url` is what `parse_bucket_url` returns.

    It is looked at for new objects every `poll_ms`.
    """

    url: str
    format: Format
    poll_ms: Millis

    @property
    def topic(self) -> str:
        """The raw topic that its rows are: `bucket.<readable>.<hash of url>`. There are no records in Kafka's."""
        readable = _NOT_READABLE.sub("-", self.url.partition("://")[2]).strip("-")[:_READABLE_MAX]
        return f"bucket.{readable}.{hashlib.sha256(self.url.encode()).hexdigest()[:8]}"


class EventType(_Spec):
    """One YAML file. `grace_ms` None means `unlimited`. `file` is where it was read; no result depends on it.

    An event's id is the text at `id_paths`; the texts of several are joined (`keys.joined`).
    """

    event: str
    kafka_topics: tuple[str, ...] = ()
    bucket: Bucket | None = None
    match: tuple[Match, ...] = ()
    id_paths: tuple[str, ...] = Field(min_length=1)
    timestamp: Timestamp
    customer_path: str
    rollups: tuple[Rollup, ...] = Field(min_length=1)
    grace_ms: MillisOrZero | None
    horizon_ms: Millis
    max_future_ms: MillisOrZero
    file: str = ""

    @model_validator(mode="before")
    @classmethod
    def _earlier_names(cls, data: Any) -> Any:
        """What was stored before there were buckets, and ids of several parts."""
        if isinstance(data, dict):
            data = dict(data)
            if "id_path" in data and "id_paths" not in data:
                data["id_paths"] = (data.pop("id_path"),)
            if "topics" in data and "kafka_topics" not in data:
                data["kafka_topics"] = data.pop("topics")
        return data

    @model_validator(mode="after")
    def _has_a_source(self) -> EventType:
        if not self.topics:
            raise ValueError("needs a topic or a bucket")
        return self

    @property
    def topics(self) -> tuple[str, ...]:
        """The raw topics whose records may belong to it: Kafka's, then its bucket's."""
        return (*self.kafka_topics, self.bucket.topic) if self.bucket else self.kafka_topics


class Config(_Spec):
    """All event types of one app id."""

    events: tuple[EventType, ...]

    def to_json(self) -> str:
        """JSON with sorted keys and no spaces; decimals are text. `from_json` gives an equal Config back."""
        return _dumps(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Raises pydantic.ValidationError for anything `to_json` did not write."""
        return cls.model_validate_json(text)

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of the content. The names and order of files, and the order of rollups in one, do not count."""
        content = self.model_dump(mode="json", exclude={"events": {"__all__": {"file"}}})
        for event in content["events"]:
            event["rollups"].sort(key=_dumps)
            event["kafka_topics"].sort()
        content["events"].sort(key=_dumps)
        return hashlib.sha256(_dumps(content).encode()).hexdigest()

    @cached_property
    def topics(self) -> tuple[str, ...]:
        """Every raw topic, once, sorted; those of buckets too."""
        return tuple(sorted({topic for event in self.events for topic in event.topics}))

    @cached_property
    def kafka_topics(self) -> tuple[str, ...]:
        """Every raw topic whose records are in Kafka, once, sorted."""
        return tuple(sorted({topic for event in self.events for topic in event.kafka_topics}))

    @cached_property
    def buckets(self) -> dict[str, Bucket]:
        """Every bucket by its raw topic, sorted. Event types that share one agree on its format and poll."""
        return dict(sorted((event.bucket.topic, event.bucket) for event in self.events if event.bucket))

    @cached_property
    def rollups(self) -> tuple[Rollup, ...]:
        """Every rollup of every event type."""
        return tuple(rollup for event in self.events for rollup in event.rollups)

    def rollup(self, name: str) -> Rollup:
        """The rollup of this name or table, without regard to case. Raises UsageError naming those there are."""
        wanted = name.lower()
        for rollup in self.rollups:
            if wanted in (rollup.name.lower(), rollup.table):
                return rollup
        known = ", ".join(sorted(rollup.name for rollup in self.rollups)) or "none"
        raise UsageError(f"There is no rollup named {name!r}. Those declared: {known}.")

    def event_of(self, rollup: Rollup) -> EventType:
        """The event type that declares the rollup. Raises KeyError for a rollup of another Config."""
        for event in self.events:
            if rollup in event.rollups:
                return event
        raise KeyError(rollup.name)


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
