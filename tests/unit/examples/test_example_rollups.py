"""The examples' rollup YAML, the Orb events and what their README says they add up to."""

import json
import re
import uuid
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from examples import access_log, orb
from examples.orb.make_events import FIRST_EVENT, event_lines

ORB = Path(str(orb.__file__)).parent
ACCESS_LOG = Path(str(access_log.__file__)).parent
TOP_KEYS = {"event", "source", "fields", "rollups", "grace_period", "dedup_horizon", "max_future"}
ROLLUP_KEYS = {"name", "group_by", "aggregates", "window", "emit_every"}


def _load(path: Path) -> dict[str, Any]:
    loaded = YAML(typ="safe").load(path)
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("directory", [ORB, ACCESS_LOG], ids=["orb", "access_log"])
def test_the_yaml_has_only_the_keys_a_rollup_file_knows(directory: Path) -> None:
    (path,) = (directory / "rollups").glob("*.yaml")
    declared = _load(path)
    assert set(declared) <= TOP_KEYS
    assert declared["event"] == "file_download"
    assert declared["source"]["topic"] == "downloads"
    assert set(declared["source"]) <= {"topic", "match"}
    assert declared["fields"] == {"id": "id", "timestamp": "download_timestamp", "external_customer_id": "customer"}
    assert declared["grace_period"] == "unlimited"
    assert declared["dedup_horizon"] == "24h"
    (rollup,) = declared["rollups"]
    assert set(rollup) <= ROLLUP_KEYS
    assert rollup["aggregates"] == [{"sum": "bytes_downloaded", "minimum": 0}]
    assert rollup["window"] == "10m"


def test_what_the_two_group_by() -> None:
    access = _load(ACCESS_LOG / "rollups" / "downloads.yaml")
    assert access["rollups"][0]["group_by"] == ["status", "method"]
    assert access["rollups"][0]["emit_every"] == "2s"
    assert access["source"]["match"] == {"event_name": "download"}
    assert _load(ORB / "rollups" / "file_download.yaml")["rollups"][0]["group_by"] == ["download_speed"]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return (ORB / "events.ndjson").read_text(encoding="utf-8").splitlines()


def test_the_orb_events_are_what_make_events_writes(lines: list[str]) -> None:
    assert lines == list(event_lines())


def test_the_orb_events_have_the_documented_form(lines: list[str]) -> None:
    for line in lines:
        event = json.loads(line)
        assert list(event) == list(FIRST_EVENT)
        assert str(uuid.UUID(event["id"])) == event["id"]
        assert str(uuid.UUID(event["customer"])) == event["customer"]
        assert re.fullmatch(r"2022-08-14T15:[0-3]\d:\d\d\.\d{3}Z", event["download_timestamp"])
        assert type(event["bytes_downloaded"]) is int
        assert event["bytes_downloaded"] > 0
        assert event["download_speed"] in ("fast", "medium", "slow")
    assert json.dumps(FIRST_EVENT) in lines
    assert len({json.loads(line)["customer"] for line in lines}) == 4


def test_equal_ids_are_equal_lines(lines: list[str]) -> None:
    assert len(lines) == 210
    assert len({json.loads(line)["id"] for line in lines}) == len(set(lines)) == 200


def test_the_orb_readme_states_the_true_totals(lines: list[str]) -> None:
    readme = (ORB / "README.md").read_text(encoding="utf-8")
    distinct = [json.loads(line) for line in dict.fromkeys(lines)]
    sent = Counter(json.loads(line)["download_speed"] for line in lines)
    for speed in ("fast", "medium", "slow"):
        sizes = [event["bytes_downloaded"] for event in distinct if event["download_speed"] == speed]
        assert f"| {speed} | {sent[speed]} | {len(sizes)} | {sum(sizes):,} |" in readme
    assert f"**{sum(event['bytes_downloaded'] for event in distinct):,}**" in readme
    assert "the answer is **67**" in readme
    group = [
        event["bytes_downloaded"]
        for event in distinct
        if event["customer"] == FIRST_EVENT["customer"]
        and event["download_speed"] == "fast"
        and 10 <= datetime.fromisoformat(event["download_timestamp"]).minute < 20
    ]
    row = f"| 2022-08-14T15:10:00Z | {FIRST_EVENT['customer']} | fast | {len(group)} | {sum(group):,} |"
    assert row in readme
    assert json.dumps(FIRST_EVENT) in readme
