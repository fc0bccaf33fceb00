"""Hypothesis: any valid YAML loads as what it says; no input, however broken, does more than report problems."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from rollup_engine.config.bucket_urls import BucketUrlError, parse_bucket_url
from rollup_engine.config.durations import DURATION_MS_MAX, format_duration, parse_duration
from rollup_engine.config.loader import check
from rollup_engine.config.model import Config
from rollup_engine.config.naming import FIXED_COLUMNS, INNER_COLUMNS, SYSTEM_COLUMNS, column_name

GOOD = """\
event: file_download
source: {topic: [downloads], bucket: "s3://usage/new/", format: csv, poll: 10s, match: {event_name: "download"}}
fields:
  id: [source, id]
  timestamp: {path: ts, unit: ms}
  external_customer_id: customer
rollups:
  - name: downloads
    group_by: [speed, {path: data.region, as: region}]
    aggregates:
      - {sum: bytes, minimum: 0, scale: 2}
      - max: bytes
    window: 10m
grace_period: unlimited
dedup_horizon: 1d
"""
WINDOWS = {"1s": 1_000, "1m30s": 90_000, "10m": 600_000, "1h": 3_600_000, "1d": 86_400_000}
SHORT = {"100ms": 100, "1s": 1_000, "90m": 5_400_000}

words = st.text("abcdefgXYZ_é -", min_size=1, max_size=12).filter(lambda text: text == text.strip())
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["10m", "sum", "unlimited", "data.region", "data", "count", "7m", "200ms"])
    | st.sampled_from(["s3://usage/", "file:///srv", "s3:/x", "file:", "csv", "s3://u/*"])
)
KEYS = (
    "event source topic bucket format poll match fields id timestamp path unit external_customer_id rollups name "
    "group_by as aggregates "
    "sum min max minimum scale window emit_every grace_period dedup_horizon max_future"
)
keys = st.sampled_from(KEYS.split()) | st.text(max_size=4)
junk = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))


@st.composite
def sources(draw: Callable[[Any], Any], number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """`source` without `match`, and the fields that it must become."""
    least = draw(st.integers(0, 1))
    names = st.from_regex(r"[a-zA-Z0-9_-]{1,20}", fullmatch=True)
    topics = draw(st.lists(names, min_size=least, max_size=3, unique=True))
    data: dict[str, Any] = {"topic": topics} if topics else {}
    made: dict[str, Any] = {"kafka_topics": tuple(topics), "bucket": None}
    if least and draw(st.booleans()):
        return data, made
    where = draw(st.sampled_from(["s3://bucket-", "file:///srv/d"])) + str(number)
    folders = draw(st.lists(words.filter(lambda word: word != "-"), max_size=3))
    url = "/".join([where, *folders])
    kind, poll_ms = draw(st.sampled_from(["ndjson", "csv", "parquet"])), draw(st.integers(1_000, 10**9))
    made["bucket"] = {"url": f"{url}/", "format": kind, "poll_ms": poll_ms}
    data |= {"bucket": url + draw(st.sampled_from(["", "/"])), "format": kind, "poll": format_duration(poll_ms)}
    return data, made


@st.composite
def documents(draw: Callable[[Any], Any], number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """One valid file as data, and the EventType it must become (without `file`)."""
    serial = iter(range(1_000))

    def fresh(prefix: str = "") -> str:
        """A dotted path that shares no first part with another, so that columns and objects never clash."""
        parts = [f"{prefix}p{number}q{next(serial)}{draw(words)}"[:20], *draw(st.lists(words, max_size=2))]
        return ".".join(parts)

    def group() -> tuple[Any, dict[str, Any]]:
        path = fresh()
        if draw(st.booleans()):
            return path, {"path": path, "column": column_name(path)}
        alias = f"a{number}q{next(serial)}"
        return {"path": path, "as": alias.upper()}, {"path": path, "column": alias}

    def aggregate() -> tuple[Any, dict[str, Any]]:
        path, kind = fresh(), draw(st.sampled_from(["sum", "min", "max"]))
        text = draw(st.none() | st.from_regex(r"-?[0-9]{1,20}(\.[0-9]{1,18})?", fullmatch=True))
        scale = draw(st.none() | st.integers(0, 18))
        entry: dict[str, Any] = {kind: path}
        entry |= ({"minimum": text} if text else {}) | ({} if scale is None else {"scale": scale})
        minimum = None if text is None else Decimal(text)
        column = re.sub("[^a-z0-9_]", "_", f"{kind}_{path}".lower())[:40]
        made = {"kind": kind, "path": path, "column": column, "minimum": minimum}
        return entry, made | {"scale": 9 if scale is None else scale}

    def rollup() -> tuple[dict[str, Any], dict[str, Any]]:
        name, window, every = f"r{number}q{next(serial)}", *(draw(st.sampled_from(list(x))) for x in (WINDOWS, SHORT))
        groups, aggregates = (
            [group() for _ in range(draw(st.integers(0, 3)))],
            [aggregate() for _ in range(draw(st.integers(0, 3)))],
        )
        entry = {"name": name, "group_by": [a for a, _ in groups], "aggregates": [a for a, _ in aggregates]}
        made: dict[str, Any] = {"name": name, "table": name, "group_by": tuple(b for _, b in groups)}
        made |= {"aggregates": tuple(b for _, b in aggregates), "window_ms": WINDOWS[window]}
        return entry | {"window": window, "emit_every": every}, made | {"emit_every_ms": SHORT[every]}

    event, customer, path = f"e{number}{draw(words)}", fresh(), fresh()
    unit = draw(st.sampled_from([None, "s", "ms", "us", "ns"]))
    source, made_source = draw(sources(number))
    parts = [fresh() for _ in range(draw(st.integers(1, 3)))]
    grace_ms = draw(st.none() | st.integers(0, 10**9))
    horizon_ms = draw(st.integers(max(grace_ms or 0, 1), 10**10))
    rollups = [rollup() for _ in range(draw(st.integers(1, 3)))]
    matches = sorted({fresh(): draw(words) for _ in range(draw(st.integers(0, 2)))}.items())
    data = {
        "event": event,
        "source": source | {"match": dict(matches)},
        "fields": {
            "id": parts if draw(st.booleans()) or parts[1:] else parts[0],
            "timestamp": {"path": path} | ({"unit": unit} if unit else {}),
        }
        | {"external_customer_id": customer},
        "rollups": [a for a, _ in rollups],
        "grace_period": "unlimited" if grace_ms is None else format_duration(grace_ms),
        "dedup_horizon": format_duration(horizon_ms),
    }
    return data, {
        "event": event,
        **made_source,
        "match": tuple({"path": key, "value": value} for key, value in matches),
        "id_paths": tuple(parts),
        "timestamp": {"path": path, "unit": unit},
        "customer_path": customer,
        "rollups": tuple(b for _, b in rollups),
        "grace_ms": grace_ms,
        "horizon_ms": horizon_ms,
        "max_future_ms": 300_000,
    }


def as_block_yaml(data: Any) -> str:
    stream = StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump(data, stream)
    return stream.getvalue()


def check_texts(*texts: bytes) -> Config | None:
    """What `check` makes of the files, after asserting what must hold for any files."""
    with tempfile.TemporaryDirectory() as directory:
        for number, text in enumerate(texts):
            (Path(directory) / f"{number}.yaml").write_bytes(text)
        config, problems = check([Path(directory)])
    assert (config is None) == bool(problems)
    for problem in problems:
        assert problem.file is not None
        assert problem.file.startswith(directory)
        line = str(problem)
        line.encode()
        assert line.isprintable(), "a problem is one line that any terminal can show"
        assert line.endswith("."), "and ends in what to do"
        assert problem.line is None or problem.line >= 1
    if config is not None:
        assert Config.from_json(config.to_json()) == config
        for topic, bucket in config.buckets.items():
            assert parse_bucket_url(bucket.url) == bucket.url
            assert re.fullmatch(r"bucket\.[a-zA-Z0-9-]{0,60}\.[0-9a-f]{8}", topic)
        for rollup in config.rollups:
            columns = [group.column for group in rollup.group_by]
            columns += [aggregate.column for aggregate in rollup.aggregates]
            assert len(set(columns)) == len(columns)
            assert all(re.fullmatch("[a-z0-9_]{1,40}", column) for column in [*columns, rollup.table])
            taken = FIXED_COLUMNS | INNER_COLUMNS | SYSTEM_COLUMNS | {rollup.view_name, rollup.table_name}
            assert not {*columns} & taken
            assert 86_400_000 % rollup.window_ms == 0
    return config


@given(st.tuples(documents(0), documents(1)), st.sampled_from([json.dumps, as_block_yaml]))
@settings(max_examples=100, deadline=None)
def test_valid_yaml_loads_as_what_it_says(
    files: tuple[tuple[dict[str, Any], dict[str, Any]], ...], write: Callable[[Any], str]
) -> None:
    config = check_texts(*(write(data).encode() for data, _ in files))
    assert config is not None
    assert [event.model_dump(exclude={"file"}) for event in config.events] == [made for _, made in files]


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(max_examples=150, deadline=None)
@example(b"%YAML 1.61")
@example(b'"\\U99999999"')
@example(b"? ")
@example(b"event: \xed\xa0\x80")
def test_junk_is_only_reported(content: bytes) -> None:
    check_texts(content)


@given(junk)
@settings(max_examples=150, deadline=None)
def test_well_formed_junk_is_only_reported(data: Any) -> None:
    check_texts(json.dumps(data).encode())


@given(
    st.text(max_size=30)
    | st.lists(st.sampled_from(["s3", "file", ":", "/", "//", ".", "..", "a", "*", "x.csv", "\0", " "])).map("".join)
)
@settings(max_examples=300, deadline=None)
@example("s3:///")
@example("file://.")
@example("file:////srv")
@example("s3://usage/..")
def test_any_text_is_an_address_or_is_refused_with_what_to_write(text: str) -> None:
    try:
        url = parse_bucket_url(text)
    except BucketUrlError as error:
        url, refused = "", error
    if not url:
        assert f"{refused}. {refused.hint}".isprintable()
        assert refused.hint.endswith(".")
        return
    assert parse_bucket_url(url) == url
    assert url.startswith(("s3://", "file:///"))
    assert url.endswith("/")
    assert url.rstrip("/") == text.rstrip("/"), "nothing is added but the slash"


edits = st.tuples(
    st.integers(0, len(GOOD)),
    st.integers(0, 12),
    st.sampled_from(
        [*"{}[]:,-#&*!|>'\"%@`\n\t ?=<~.0a\\\0\a\u2028\ud800", "\n---\n", "\n...\n", "%YAML 1.1\n", "!!int "]
    )
    | st.sampled_from(["&a ", "*a", "<<: *a", "\ufeff", "\r", "0x", '"\\ud800"', "? ", "- ", "|2", ">-\n", "!!binary "])
    | st.text(max_size=3),
)


@given(st.lists(edits, min_size=1, max_size=6))
@settings(max_examples=300, deadline=None)
def test_mutated_yaml_loads_or_is_reported(changes: list[tuple[int, int, str]]) -> None:
    text = GOOD
    for at, cut, put in changes:
        text = text[:at] + put + text[at + cut :]
    check_texts(text.encode("utf-8", "surrogatepass"))


@given(st.lists(st.tuples(st.sampled_from(list(range(len(GOOD.splitlines())))), scalars), min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_values_of_other_types_load_or_are_reported(changes: list[tuple[int, Any]]) -> None:
    lines = GOOD.splitlines()
    for at, value in changes:
        key, colon, _ = lines[at].rpartition(": ")
        if colon:
            lines[at] = f"{key}: {json.dumps(value)}{'}' * lines[at].count('{')}"
    check_texts("\n".join(lines).encode())


@given(st.integers(0, DURATION_MS_MAX))
def test_durations_come_back(duration_ms: int) -> None:
    assert parse_duration(format_duration(duration_ms)) == duration_ms
