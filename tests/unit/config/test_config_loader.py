"""Good rollup YAML becomes exactly the Config it says, and comes back from JSON as the same."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from rollup_engine.config.durations import DURATION_MS_MAX, format_duration, parse_duration
from rollup_engine.config.loader import check, load
from rollup_engine.config.model import (
    Aggregate,
    Bucket,
    Config,
    EventType,
    GroupColumn,
    Match,
    Rollup,
    Timestamp,
)
from rollup_engine.config.naming import column_name
from rollup_engine.errors import ConfigError, UsageError

FULL = """\
event: file_download
source:
  topic: [downloads, downloads-eu]
  match: {event_name: download, data.country: NO, paid: True, version: 2, ratio: 1.50}
fields:
  id: id
  timestamp: {path: ts, unit: ms}
  external_customer_id: account.customer
rollups:
  - name: File-Download
    group_by: [download_speed, data.Region, {path: data.zone, as: Zone}]
    aggregates:
      - {sum: bytes_downloaded, minimum: 0}
      - {sum: cost.amount, scale: 18, minimum: -0.100000000000000000}
      - {min: latency, as: fastest}
      - {max: latency}
    window: 1h30m
    emit_every: 200ms
  - name: per_customer
grace_period: unlimited
dedup_horizon: 7d
max_future: 0s
"""
SMALL = """\
event: api
source: {topic: api}
fields: {id: id, timestamp: ts, external_customer_id: customer}
rollups: [{}]
"""


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)
    return directory


def test_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, downloads=FULL)
    assert load(Path()) == Config(
        events=(
            EventType(
                event="file_download",
                kafka_topics=("downloads", "downloads-eu"),
                match=(
                    Match(path="data.country", value="NO"),
                    Match(path="event_name", value="download"),
                    Match(path="paid", value="true"),
                    Match(path="ratio", value="1.50"),
                    Match(path="version", value="2"),
                ),
                id_paths=("id",),
                timestamp=Timestamp(path="ts", unit="ms"),
                customer_path="account.customer",
                rollups=(
                    Rollup(
                        name="File-Download",
                        table="file_download",
                        group_by=(
                            GroupColumn(path="download_speed", column="download_speed"),
                            GroupColumn(path="data.Region", column="data_region"),
                            GroupColumn(path="data.zone", column="zone"),
                        ),
                        aggregates=(
                            Aggregate(
                                kind="sum", path="bytes_downloaded", column="sum_bytes_downloaded", minimum=Decimal(0)
                            ),
                            Aggregate(
                                kind="sum",
                                path="cost.amount",
                                column="sum_cost_amount",
                                minimum=Decimal("-0.1"),
                                scale=18,
                            ),
                            Aggregate(kind="min", path="latency", column="fastest"),
                            Aggregate(kind="max", path="latency", column="max_latency"),
                        ),
                        window_ms=5_400_000,
                        emit_every_ms=200,
                    ),
                    Rollup(name="per_customer", table="per_customer", window_ms=600_000, emit_every_ms=30_000),
                ),
                grace_ms=None,
                horizon_ms=7 * 86_400_000,
                max_future_ms=0,
                file="downloads.yaml",
            ),
        )
    )


def test_defaults(tmp_path: Path) -> None:
    [event] = load(write(tmp_path, api=SMALL)).events
    assert (event.grace_ms, event.horizon_ms, event.max_future_ms) == (43_200_000, 86_400_000, 300_000)
    assert event.timestamp == Timestamp(path="ts", unit=None)
    assert event.match == ()
    [rollup] = event.rollups
    assert rollup == Rollup(name="api", table="api", window_ms=600_000, emit_every_ms=30_000)
    assert (rollup.view_name, rollup.table_name) == ("api", "api_aggregated")


@pytest.mark.parametrize("text", ["NO", "on", "yes", "2015-05-17", "1e", "0x", "~a", "<<", "="])
def test_text_that_only_looks_like_something_else_is_text(text: str, tmp_path: Path) -> None:
    """YAML 1.2; dates and merge keys are not in its core schema."""
    [event] = load(write(tmp_path, api=SMALL.replace("event: api", f"event: {text}"))).events
    assert event.event == text


def test_a_path_may_be_a_group_and_summed_and_the_id(tmp_path: Path) -> None:
    text = SMALL.replace("{}", "{group_by: [a.b], aggregates: [{sum: a.b}, {min: a.b}, {sum: id}]}")
    [rollup] = load(write(tmp_path, api=text)).rollups
    assert [aggregate.column for aggregate in rollup.aggregates] == ["sum_a_b", "min_a_b", "sum_id"]


@pytest.mark.filterwarnings("error")
def test_anchors_are_allowed_and_may_be_set_again(tmp_path: Path) -> None:
    text = SMALL.replace(
        "[{}]", "[{name: a, group_by: &g [x]}, {name: b, group_by: *g}, {name: c, group_by: &g [y, z]}]"
    )
    assert [len(rollup.group_by) for rollup in load(write(tmp_path, api=text)).rollups] == [1, 1, 2]


def test_a_byte_order_mark_and_windows_line_ends_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "api.yml").write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert load(tmp_path).events[0].event == "api"


def test_a_minimum_is_never_a_float(tmp_path: Path) -> None:
    exact = "12345678901234567890.123456789012345678"
    text = SMALL.replace("{}", f"{{aggregates: [{{sum: x, minimum: {exact}}}]}}")
    config = load(write(tmp_path, api=text))
    assert config.rollups[0].aggregates[0].minimum == Decimal(exact)
    assert Config.from_json(config.to_json()).rollups[0].aggregates[0].minimum == Decimal(exact)


def test_the_directory_holds_yaml_yml_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(SMALL.replace("event: api", "event: b"))
    (tmp_path / "b.yaml").write_text(SMALL.replace("event: api", "event: a"))
    (tmp_path / ".c.yaml").write_text("half a file: [")
    (tmp_path / "notes.txt").write_text("{")
    (tmp_path / "d.yaml").mkdir()
    assert [event.event for event in load(tmp_path).events] == ["a", "b"]


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    write(tmp_path, api=SMALL)
    config, problems = check([tmp_path, tmp_path / "api.yaml", tmp_path / ".." / tmp_path.name / "api.yaml"])
    assert (config is not None, problems) == (True, [])


def test_load_raises_all_problems_with_status_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, api=SMALL.replace("event", "evnt").replace("topic", "tpoic"))
    with pytest.raises(ConfigError) as caught:
        load(Path())
    assert caught.value.exit_status == 2
    assert len(caught.value.problems) == 2
    assert str(caught.value).splitlines() == [
        "api.yaml:1: unknown key 'evnt'. Write 'event' instead.",
        "api.yaml:2: unknown key 'tpoic'. Write 'topic' instead.",
    ]


def test_json_round_trip(tmp_path: Path) -> None:
    config = load(write(tmp_path, downloads=FULL, api=SMALL))
    again = Config.from_json(config.to_json())
    assert again == config
    assert again.to_json() == config.to_json()
    assert again.digest == config.digest
    with pytest.raises(ValidationError):
        Config.from_json(config.to_json().replace('"scale"', '"scales"'))


def test_the_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
    first, other_files, same_values, other_values = (
        load(write(tmp_path / "a", x=FULL, y=SMALL)),
        load(write(tmp_path / "b", x=SMALL, y=FULL)),
        load(
            write(
                tmp_path / "c",
                x=FULL.replace("minimum: 0}", "minimum: 0.00}").replace("1h30m", "90m").replace("200ms", '"200ms"'),
                y=SMALL + "grace_period: 12h\n# a comment\n",
            )
        ),
        load(write(tmp_path / "d", x=FULL.replace("minimum: 0}", "minimum: 1}"), y=SMALL)),
    )
    assert first.digest == other_files.digest == same_values.digest
    assert first.digest != other_values.digest
    assert Config(events=first.events[::-1]).digest == first.digest


def test_the_order_of_rollups_and_topics_is_no_content(tmp_path: Path) -> None:
    [event] = load(write(tmp_path, downloads=FULL)).events
    turned = event.model_copy(update={"rollups": event.rollups[::-1], "kafka_topics": event.kafka_topics[::-1]})
    assert Config(events=(turned,)) != Config(events=(event,))
    assert Config(events=(turned,)).digest == Config(events=(event,)).digest


BUCKET = SMALL.replace("{topic: api}", "{bucket: s3://usage/new, format: csv}")


def test_a_bucket_beside_a_topic_or_instead_of_it(tmp_path: Path) -> None:
    both = "{topic: [b, a], bucket: file:///srv/usage, format: parquet, poll: 1s, match: {kind: call}}"
    write(tmp_path, one=BUCKET, two=SMALL.replace("api", "both").replace("{topic: both}", both))
    config = load(tmp_path)
    alone, beside = config.events
    assert alone.bucket == Bucket(url="s3://usage/new/", format="csv", poll_ms=30_000)
    assert (alone.kafka_topics, alone.topics) == ((), (alone.bucket.topic,))
    assert beside.bucket == Bucket(url="file:///srv/usage/", format="parquet", poll_ms=1_000)
    assert (beside.kafka_topics, beside.topics) == (("b", "a"), ("b", "a", beside.bucket.topic))
    assert beside.match == (Match(path="kind", value="call"),)
    assert config.kafka_topics == ("a", "b")
    assert config.topics == tuple(sorted([*beside.topics, *alone.topics]))
    assert config.buckets == {bucket.topic: bucket for bucket in (beside.bucket, alone.bucket)}
    assert list(config.buckets) == sorted(config.buckets)
    assert Config.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("url", "topic"),
    [
        ("s3://usage/new/", "bucket.usage-new.43f4c02a"),
        ("s3://usage/", "bucket.usage.666dd221"),
        ("file:///srv/a b/ü.d/", "bucket.srv-a-b-d.31bf8ad0"),
        (f"s3://usage/{'x' * 100}/", f"bucket.usage-{'x' * 54}.83c6f5e2"),
    ],
)
def test_the_topic_of_a_bucket_is_a_name_of_kafkas_and_of_that_bucket_alone(url: str, topic: str) -> None:
    """A change would make another bucket of it, and read it all over again."""
    assert Bucket(url=url, format="csv", poll_ms=1).topic == topic


def test_one_bucket_has_one_spelling(tmp_path: Path) -> None:
    texts = ("s3://usage/new", "s3://usage/new/", "'s3://usage/new/'")
    spelt = [BUCKET.replace("s3://usage/new", text).replace("api", f"e{n}") for n, text in enumerate(texts)]
    config = load(write(tmp_path, **{f"f{n}": text for n, text in enumerate(spelt)}))
    assert len(config.events) == 3
    assert len(config.buckets) == 1


def test_a_bucket_is_read_one_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, a=BUCKET, b=BUCKET.replace("event: api", "event: b").replace("csv", "ndjson, poll: 1m"))
    _, problems = check([Path()])
    assert [str(problem) for problem in problems] == [
        (
            "b.yaml:2: bucket s3://usage/new/ is read as ndjson here and as csv in a.yaml:2. "
            "Its objects are read once for all event types: write one format, or give each a folder of its own."
        ),
        (
            "b.yaml:2: bucket s3://usage/new/ is polled every 1m here and every 30s in a.yaml:2. "
            "Write 'poll: 30s' here, or the same in both."
        ),
    ]


def test_an_id_of_several_parts(tmp_path: Path) -> None:
    several = SMALL.replace("id: id", "id: [source, data.id]")
    assert load(write(tmp_path, api=several)).events[0].id_paths == ("source", "data.id")
    assert load(write(tmp_path, api=SMALL.replace("id: id", "id: [id]"))) == load(write(tmp_path, api=SMALL))
    turned = several.replace("source, data.id", "data.id, source")
    assert load(write(tmp_path, api=turned)).digest != load(write(tmp_path, api=several)).digest


def test_what_was_stored_before_buckets_and_ids_of_parts_is_the_same(tmp_path: Path) -> None:
    config = load(write(tmp_path, downloads=FULL, api=SMALL))
    stored = json.loads(config.to_json())
    for event in stored["events"]:
        event["topics"], [event["id_path"]] = event.pop("kafka_topics"), event.pop("id_paths")
        del event["bucket"]
    again = Config.from_json(json.dumps(stored))
    assert again == config
    assert again.digest == config.digest


def test_an_event_type_has_a_source_and_an_id(tmp_path: Path) -> None:
    [event] = json.loads(load(write(tmp_path, api=SMALL)).to_json())["events"]
    for without in ({"kafka_topics": []}, {"id_paths": []}):
        with pytest.raises(ValidationError):
            EventType.model_validate(event | without)


def test_looking_things_up(tmp_path: Path) -> None:
    config = load(write(tmp_path, downloads=FULL, api=SMALL))
    assert config.topics == ("api", "downloads", "downloads-eu")
    assert config.rollup("file-download") is config.rollup("FILE_DOWNLOAD")
    assert config.event_of(config.rollup("per_customer")).event == "file_download"
    with pytest.raises(UsageError, match=r"There is no rollup named 'x'\. Those declared: File-Download, api, per_cus"):
        config.rollup("x")
    with pytest.raises(KeyError):
        Config(events=()).event_of(config.rollup("api"))


def test_the_model_refuses_what_is_not_exact() -> None:
    for minimum in (0.1, "NaN", "Infinity", "1e101", "1e999999999"):
        with pytest.raises(ValidationError):
            Aggregate.model_validate({"kind": "sum", "path": "x", "column": "sum_x", "minimum": minimum})
    with pytest.raises(ValidationError):
        Aggregate(kind="sum", path="x", column="sum_x").scale = 3


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [
        ("0s", 0),
        ("200ms", 200),
        ("90s", 90_000),
        ("1h30m", 5_400_000),
        ("1d1h1m1s1ms", 90_061_001),
        ("3650d", DURATION_MS_MAX),
    ],
)
def test_durations(text: str, duration_ms: int) -> None:
    assert parse_duration(text) == duration_ms
    assert parse_duration(format_duration(duration_ms)) == duration_ms


@pytest.mark.parametrize("text", ["", "10", "m", "1.5h", "-1s", "10M", "10 m", "1m1h", "1s1s", "٣s", "1h ", "10m\n"])
def test_what_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("duration_ms", "text"), [(86_400_000, "24h"), (90_000_000, "25h"), (7 * 86_400_000, "7d"), (90_500, "1m30s500ms")]
)
def test_durations_are_shown_as_people_write_them(duration_ms: int, text: str) -> None:
    assert format_duration(duration_ms) == text


@pytest.mark.parametrize(
    ("text", "name"),
    [("data.clusterId", "data_clusterid"), ("API Request", "api_request"), ("größe", "gr__e"), ("x" * 50, "x" * 40)],
)
def test_names(text: str, name: str) -> None:
    assert column_name(text) == name == column_name(name)
