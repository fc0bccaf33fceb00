"""Each example as it stands, against a running engine: whatever is sent twice, every call counts once."""

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest

from tests.acceptance.cli import until
from tests.producers.faulty import BUSY, faulty
from tests.producers.running import Running, calls, event_of, ndjson, recount

KAFKA_CLIENTS = ("aiokafka_producer.py", "confluent_kafka_producer.py", "kafkajs_producer.mjs")


def test_every_call_counts_once(running: Running, producer: list[str], tmp_path: Path) -> None:
    customer = f"customer-{uuid4().hex}"
    made = calls(customer, distinct=1_020, repeated=40)  # more than two requests over HTTP, or one batch, may hold
    takes_events = producer[-1].endswith(".sh")
    file = ndjson(tmp_path / "calls.ndjson", [event_of(call) for call in made] if takes_events else made)
    with faulty(running.api, BUSY) as proxy:
        for _ in range(2):  # the second time as after a crash that lost which ones were acknowledged
            done = running.run([*producer, str(file)], f"{proxy.url}/v1")
            assert done.returncode == 0, done.stdout + done.stderr
            told = done.stdout.count('{"validation_failed":[]}') == 3 or "1060 of 1060 acknowledged" in done.stdout
            assert told, done.stdout
    over_http = Path(producer[-1]).name not in KAFKA_CLIENTS
    assert len(proxy.headers) == (
        7 if over_http else 0
    )  # three requests each time, and a 503 that it tries again itself
    until("its totals", lambda: asyncio.run(running.totals(customer)) == recount(made))


@pytest.mark.parametrize("running", ["embedded"], indirect=True)  # what Kafka it is makes no difference here
def test_a_refusal_is_shown_and_takes_nothing_from_the_others(
    running: Running, http_producer: list[str], tmp_path: Path
) -> None:
    customer = f"customer-{uuid4().hex}"
    made = calls(customer, distinct=3, repeated=0)
    bad = made[0] | {"request_id": uuid4().hex, "at": "yesterday"}
    sent = [*made, bad]
    takes_events = http_producer[-1].endswith(".sh")
    file = ndjson(tmp_path / "calls.ndjson", [event_of(call) for call in sent] if takes_events else sent)
    done = running.run([*http_producer, str(file)])
    assert done.returncode != 0
    assert bad["request_id"] in done.stdout + done.stderr
    assert "timestamp" in done.stdout + done.stderr
    until("the totals of the others", lambda: asyncio.run(running.totals(customer)) == recount(made))


@pytest.mark.parametrize("running", ["embedded"], indirect=True)
def test_good_ones_of_a_request_with_one_id_for_two_events_are_sent_again(
    running: Running, http_producer: list[str], tmp_path: Path
) -> None:
    customer = f"customer-{uuid4().hex}"
    made = calls(customer, distinct=4, repeated=0)
    other = made[3] | {"tokens": made[3]["tokens"] + 1}
    takes_events = http_producer[-1].endswith(".sh")
    sent = [*made, other]
    file = ndjson(tmp_path / "calls.ndjson", [event_of(call) for call in sent] if takes_events else sent)
    done = running.run([*http_producer, str(file)])
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert said.count("its key stands in this call for events with different bodies") == 2
    assert said.count("send it again") == (3 if takes_events else 0), "a shell script leaves that to its reader"
    if not takes_events:
        assert "3 of 5 acknowledged" in done.stdout
        until("the totals of the others", lambda: asyncio.run(running.totals(customer)) == recount(made[:3]))


@pytest.mark.parametrize("running", ["embedded"], indirect=True)
def test_a_request_that_is_refused_as_a_whole_is_not_taken_for_acknowledged(
    running: Running, http_producer: list[str], tmp_path: Path
) -> None:
    program, file = http_producer[0], Path(http_producer[1])
    made = calls("nobody", distinct=501, repeated=0)
    copy = file.with_name(f"too-many-{file.name}") if file.is_relative_to(tmp_path) else tmp_path / file.name
    copy.write_text(file.read_text(encoding="utf-8").replace("500", "600"), encoding="utf-8")
    sent = ndjson(tmp_path / "calls.ndjson", [event_of(call) for call in made] if file.suffix == ".sh" else made)
    done = running.run([program, str(copy), str(sent)])
    assert done.returncode != 0
    assert "501 events; 500 are allowed" in done.stdout + done.stderr
    assert "acknowledged" not in done.stdout
