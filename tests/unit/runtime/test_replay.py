"""Which letters may be sent again, as what; and the topics they go to."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollup_engine.config.model import Bucket, Config, Match
from rollup_engine.errors import UsageError
from rollup_engine.runtime.replay import SENTENCES_MAX, LeftOut, Outcome, Rules, Wanted
from rollup_engine.topology import replays, replays_topic
from tests.contract.specs import event_type, rollup

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
HORIZON = timedelta(days=1)
CONFIG = Config(
    events=(
        event_type("download", grace_ms=0, match=(Match(path="kind", value="d"),)),
        event_type("upload", rollup("uploads"), grace_ms=0),
        event_type("alone", rollup("alone"), kafka_topics=("elsewhere",)),
    )
)
GOOD = b'{"id": "1", "at": "2024-05-01T11:00:00Z", "customer": "c", "bytes": 1}'


def rules(**wanted: Any) -> Rules:
    return Rules("app", CONFIG, Wanted(**wanted))


def letter(**changes: Any) -> dict[str, Any]:
    plain = {"id": 7, "event": "download", "outcome": "late", "recorded_at": NOW, "created_at": NOW}
    return plain | {"replayed_at": None, "replayed_to": None} | changes


def cause(checked: Rules, changes: dict[str, Any]) -> str:
    with pytest.raises(LeftOut) as left_out:
        checked.check(letter(**changes), NOW_MS)
    assert "ead letter 7" in left_out.value.sentence
    return left_out.value.cause


@pytest.mark.parametrize("outcome", ["late", "invalid"])
def test_one_inside_the_horizon_goes_as_its_own_event_type(outcome: str) -> None:
    assert rules().check(letter(outcome=outcome, recorded_at=NOW - HORIZON), NOW_MS).event == "download"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"replayed_at": NOW, "replayed_to": "app.replays.download/0 3"}, "replayed already"),
        ({"recorded_at": NOW - HORIZON - timedelta(milliseconds=1)}, "older than dedup_horizon"),
        ({"outcome": "conflicting"}, "conflict"),
        ({"event": "topic:raw"}, "of no event type"),
        ({"event": "dropped"}, "of no event type"),
    ],
)
def test_left_out(changes: dict[str, Any], why: str) -> None:
    assert cause(rules(), changes) == why


def test_may_double_count_sends_old_ones_and_conflicts_but_none_twice() -> None:
    told = rules(may_double_count=True)
    for changes in ({"recorded_at": NOW - 9 * HORIZON}, {"outcome": "conflicting"}):
        assert told.check(letter(**changes), NOW_MS).event == "download"
    assert cause(told, {"replayed_at": NOW}) == "replayed already"


def test_a_repaired_conflict_may_go_but_no_old_one() -> None:
    repaired = rules(repaired=GOOD)
    assert repaired.check(letter(outcome="conflicting"), NOW_MS).event == "download"
    assert cause(repaired, {"recorded_at": NOW - 2 * HORIZON}) == "older than dedup_horizon"


def test_letters_of_a_topic_go_as_its_only_event_type_or_as_what_is_said() -> None:
    assert rules().check(letter(event="topic:elsewhere"), NOW_MS).event == "alone"
    assert rules(as_event="upload").check(letter(event="topic:raw"), NOW_MS).event == "upload"
    assert rules(as_event="upload").check(letter(event="dropped"), NOW_MS).event == "upload"
    assert cause(rules(as_event="upload"), {"event": "download"}) == "of another event type"
    with pytest.raises(
        UsageError, match=r"'nonsense' is no event type of the YAML. There are: alone, download, upload"
    ):
        rules(as_event="nonsense")


def test_foreseen() -> None:
    """What route takes is sent: late and of another `match` too."""
    checked = rules()
    for value in (GOOD, GOOD.replace(b"2024-05-01", b"1999-05-01"), GOOD.replace(b"T11", b"T12")):
        checked.foresee(letter(), CONFIG.events[0], value, NOW_MS)
    for value, reason in (
        (b"", "malformed_json"),
        (b"[]", "not_an_object"),
        (GOOD.replace(b'"c"', b"null"), "missing_customer"),
        (GOOD.replace(b"2024", b"2025"), "future_timestamp"),
    ):
        with pytest.raises(LeftOut) as left_out:
            checked.foresee(letter(), CONFIG.events[0], value, NOW_MS)
        assert left_out.value.cause == f"would be refused again: {reason}"


def test_cells_of_a_csv_are_numbers_in_a_repaired_event_too() -> None:
    cells = GOOD.replace(b": 1}", b': "1"}')
    bucket = Bucket(url="s3://usage/", format="csv", poll_ms=30_000)
    of_csv = event_type("download", bucket=bucket)
    Rules("app", Config(events=(of_csv,)), Wanted()).foresee(letter(), of_csv, cells, NOW_MS)
    with pytest.raises(LeftOut, match="must be a number, not the text '1'"):
        rules().foresee(letter(), CONFIG.events[0], cells, NOW_MS)


def test_a_letter_of_a_bucket_goes_as_its_only_event_type() -> None:
    bucket = Bucket(url="s3://usage/", format="csv", poll_ms=30_000)
    only = Rules("app", Config(events=(event_type("download", bucket=bucket, kafka_topics=()),)), Wanted())
    assert only.check(letter(event=f"topic:{bucket.topic}"), NOW_MS).event == "download"


def test_only_the_first_sentences_are_kept() -> None:
    outcome = Outcome()
    for number in range(SENTENCES_MAX + 5):
        outcome.leave("conflict", str(number))
    assert outcome.left_out == {"conflict": SENTENCES_MAX + 5}
    assert outcome.sentences == {"conflict": [str(number) for number in range(SENTENCES_MAX)]}


def test_what_is_sent_again_is_never_late_and_matches() -> None:
    found = replays("app", CONFIG)
    assert sorted(found) == ["app.replays.alone", "app.replays.download", "app.replays.upload"]
    again = found["app.replays.download"]
    assert (again.event, again.grace_ms, again.match) == ("download", None, ())


@given(st.sets(st.text(min_size=1), max_size=5))
def test_every_event_has_a_topic_of_its_own_that_kafka_takes(names: set[str]) -> None:
    topics = [replays_topic("app", name) for name in names]
    assert len(set(topics)) == len(names)
    assert all(re.fullmatch(r"app\.replays\.[A-Za-z0-9_-]{1,100}", topic) for topic in topics)


def test_plain_names_stay_and_others_can_be_told_apart() -> None:
    assert replays_topic("app", "API_REQUEST-2") == "app.replays.API_REQUEST-2"
    assert replays_topic("app", "a b") == "app.replays.a_b-c8687a08"
    assert replays_topic("app", "a\n") != replays_topic("app", "a")
    assert len(replays_topic("app", "x" * 300)) < 120
