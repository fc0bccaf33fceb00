"""What `source` says in a YAML file: topics, a bucket, and which of their events are meant.

Owns: its keys and defaults. Must never stop at the first problem, as `draft` does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rollup_engine.config.bucket_urls import HOW_TO_WRITE, BucketUrlError, parse_bucket_url
from rollup_engine.config.model import Format
from rollup_engine.config.nodes import Node, YamlList, YamlMap, YamlScalar
from rollup_engine.config.reader import Located, Reader, nearest

POLL_MS: Final = 30_000
FORMATS: Final[tuple[Format, ...]] = ("ndjson", "csv", "parquet")
SOURCE: Final = dict.fromkeys(("topic", "bucket", "format", "poll", "match"), "")


@dataclass(frozen=True, slots=True)
class DraftBucket:
    url: Located[str]
    format: Located[Format] | None
    poll: Located[int] | None


@dataclass(frozen=True, slots=True)
class DraftSource:
    topics: tuple[Located[str], ...] = ()
    bucket: DraftBucket | None = None
    match: tuple[tuple[Located[str], Located[str]], ...] = ()


def read_source(node: Node | None, reader: Reader) -> DraftSource:
    """An empty one where it is absent, or no mapping."""
    source = reader.mapping(node, "'source'", {}, SOURCE, "{topic: downloads}")
    if source is None:
        return DraftSource()
    assert isinstance(node, YamlMap)
    if not source.keys() & {"topic", "bucket"} and not _is_meant(node, "topic", "bucket"):
        hint = "Add 'topic: downloads', or 'bucket: s3://name/prefix/' and 'format: ndjson'."
        reader.wrong(node.place, "missing key 'topic' or 'bucket' in 'source'", hint)
    return DraftSource(
        topics=_topics(source.get("topic"), reader),
        bucket=_bucket(node, source, reader),
        match=_match(source.get("match"), reader),
    )


def _is_meant(node: YamlMap, *keys: str) -> bool:
    """Whether a key that `source` does not know is taken for one of these."""
    others = (key.text for key, _ in node.entries if isinstance(key, YamlScalar) and key.text not in SOURCE)
    return any(nearest(other, keys) for other in others)


def _topics(topic: Node | None, reader: Reader) -> tuple[Located[str], ...]:
    example = "the name of a Kafka topic, or a list of names"
    if isinstance(topic, YamlList):
        names = [reader.text(item, "an entry of 'topic'", example) for item in topic.items]
        if not names:
            reader.wrong(topic.place, "'topic' is an empty list", f"Write {example}.")
    else:
        names = [reader.text(topic, "'topic'", example)]
    return tuple(name for name in names if name is not None)


def _bucket(node: YamlMap, source: dict[str, Node], reader: Reader) -> DraftBucket | None:
    bucket = source.get("bucket")
    if bucket is None:
        for key in ("format", "poll"):
            if key in source and "topic" in source:
                hint = "Remove it: a Kafka record is one JSON event, and is read as it arrives. Or add 'bucket: …'."
                reader.wrong(source[key].place, f"'{key}' is there without 'bucket'", hint)
        return None
    if "format" not in source and not _is_meant(node, "format"):
        hint = f"Add 'format: ndjson', or another one of {', '.join(FORMATS)}."
        reader.wrong(bucket.place, "missing key 'format' in 'source', which has a bucket", hint)
    format_ = reader.choice(source.get("format"), "'format'", FORMATS)
    poll: Located[int] | None = Located(POLL_MS, bucket.place)
    if "poll" in source:
        poll = reader.duration_ms(source["poll"], "'poll'", "a duration such as 30s or 5m")
    text = reader.text(bucket, "'bucket'", HOW_TO_WRITE.removeprefix("Write ").rstrip("."))
    if text is None:
        return None
    try:
        return DraftBucket(Located(parse_bucket_url(text.value), text.place), format_, poll)
    except BucketUrlError as error:
        reader.wrong(text.place, f"'bucket' {error}", error.hint)
        return None


def _match(node: Node | None, reader: Reader) -> tuple[tuple[Located[str], Located[str]], ...]:
    """Sorted by path: the order of keys in a mapping means nothing."""
    if reader.mapping(node, "'match'", {}, {}, "a property and its value, such as {event_name: download}") is None:
        return ()
    assert isinstance(node, YamlMap)
    pairs: dict[str, tuple[Located[str], Located[str]]] = {}
    for key, value in node.entries:
        path = reader.path(key, "a key of 'match'", "a property's path") if isinstance(key, YamlScalar) else None
        text = reader.json_text(value, f"the value of {path.value!r}") if path else None
        if path and text:
            pairs[path.value] = (path, text)
    return tuple(pairs[path] for path in sorted(pairs))
