"""Dead letters sent again: counted once, whatever is run twice, killed or sent by the producer once more."""

import asyncio
import json
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.cli import Engine, until
from tests.acceptance.test_roles import create
from tests.acceptance.traffic import event, recount, rows, send, totals, yaml

FRESH = event(id="fresh", download_timestamp="2022-08-14T15:14:31Z")
LATE = event(id="late", download_timestamp="2022-08-12T15:14:31Z", bytes_downloaded=7)
ODD = "naïve / über.v2"
SHARED = yaml(grace_period="12h").replace("{topic: downloads}", "{topic: downloads, match: {kind: download}}")
OTHER = SHARED.replace("file_download", f"'{ODD}'").replace("kind: download", "kind: other")
BOOKS = "received", "counted", "duplicate", "conflicting", "late", "invalid"


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    return make_engine(yaml(grace_period="12h"))


def feed(engine: Engine, values: Iterable[str | bytes]) -> None:
    """In this order, into one partition."""
    records = [(1, value.encode() if isinstance(value, str) else value) for value in values]
    asyncio.run(send(engine.endpoints()["kafka"], records))


def letters(engine: Engine, *options: str) -> list[dict[str, Any]]:
    """Oldest first."""
    found: list[dict[str, Any]] = json.loads(
        engine.ok("dead-letters", "list", "--limit", "1000", "--format", "json", *options)
    )
    return found[::-1]


def replay(engine: Engine, *arguments: str | int, status: int = 0) -> str:
    """What `dead-letters replay` says."""
    done = engine.run("dead-letters", "replay", *map(str, arguments))
    assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def books(engine: Engine, received: int, name: str = "file_download") -> dict[str, int]:
    """Those that are not 0, once so many were received and nothing is under way. They balance."""
    status = engine.settled(received, name)
    assert status["received"] == status["routed"] == sum(status[kind] for kind in BOOKS[1:])
    return {kind: status[kind] for kind in BOOKS if status[kind]}


def rolled_up(engine: Engine, view: str = "file_download") -> Any:
    return asyncio.run(totals(engine.environment["ROLLUP_DATABASE_URL"], view))


def sql(engine: Engine, query: str, *arguments: object) -> Any:
    return asyncio.run(rows(engine.environment["ROLLUP_DATABASE_URL"], query, *arguments))


def test_a_late_event_and_its_retries_are_counted_once(engine: Engine) -> None:
    up = engine.up()
    feed(engine, [FRESH, LATE, LATE])  # a late id is not remembered: its retry is another letter
    assert books(engine, 3) == {"received": 3, "counted": 1, "late": 2}
    watermark = engine.status()["watermark"]
    first, second = letters(engine)
    assert (first["replayed_at"], first["replayed_to"]) == (None, None)

    assert "1 dead letter sent again." in replay(engine, first["id"])
    assert books(engine, 4) == {"received": 4, "counted": 2, "late": 2}
    again = letters(engine)[0]
    assert again["replayed_to"] == "rollup-engine.replays.file_download/0 0"
    sent = datetime.fromisoformat(again["replayed_at"])
    assert timedelta(0) <= datetime.now(UTC) - sent < timedelta(minutes=5)
    refused = replay(engine, first["id"], 999_999, status=1)
    assert "0 dead letters sent again." in refused
    assert f"Dead letter {first['id']} was replayed already, at {again['replayed_at'][:10]}" in refused
    assert "There is no dead letter 999999." in refused

    assert "1 dead letter sent again." in replay(engine, "--reason", "late", "--event", "file_download")
    assert books(engine, 5) == {"received": 5, "counted": 2, "duplicate": 1, "late": 2}
    feed(engine, [LATE])  # the producer knows nothing of all this
    assert books(engine, 6) == {"received": 6, "counted": 2, "duplicate": 2, "late": 2}
    assert replay(engine, "--all") == "0 dead letters sent again.\n"
    assert engine.status()["received"] == 6
    assert engine.status()["watermark"] == watermark, "what is sent again says nothing of how far events are"
    assert letters(engine)[1]["replayed_at"] is not None
    shown = engine.ok("dead-letters", "show", str(second["id"]))
    assert "rollup-engine.replays.file_download/0 1" in shown
    assert up.stop() == 0, up.output
    assert rolled_up(engine) == recount([FRESH, LATE])


def test_repaired_ones_on_a_topic_of_two_event_types(make_engine: Callable[..., Engine]) -> None:
    """What is malformed belongs to neither; one has a name that is no topic's."""
    engine = make_engine(SHARED)
    (engine.config / "other.yaml").write_text(OTHER)
    up = engine.up()
    good = event(id="good", kind="download")
    values = [
        good,
        '{"id": "cut off',
        event(id="below", kind="other", bytes_downloaded=-1),
        event(id="good", kind="download", bytes_downloaded=1),
        event(id="other", kind="other"),
        event(id="late", kind="other", download_timestamp="2022-08-01T00:00:00Z"),
    ]
    feed(engine, values)
    books(engine, 2)
    books(engine, 3, ODD)
    until("the malformed one is in the books", lambda: engine.status("topic:downloads").get("invalid") == 1)
    by_reason = {letter["reason"]: letter["id"] for letter in letters(engine)}
    assert len(by_reason) == 4
    malformed, below, conflict = (by_reason[reason] for reason in ("malformed_json", "below_minimum", "conflict"))

    file = engine.directory / "repaired.json"
    mended = {
        "cut off": event(id="cut off"),  # no `kind`: it was said what it is
        "below": event(id="below", kind="other", bytes_downloaded=2),
        "apart": event(id="good, once more", kind="download", bytes_downloaded=1),
    }
    bulk = replay(engine, "--all", "--event", "topic:downloads", status=1)
    assert "1 left out, of no event type." in bulk
    assert "by --as-event: file_download, " in bulk
    assert "would be refused again, malformed_json" in replay(engine, malformed, "--as-event", ODD, status=1)
    assert "would be refused again, below_minimum" in replay(engine, below, status=1)
    assert "of event type" in replay(engine, below, "--as-event", "file_download", status=1)
    assert "give it an id of its own" in replay(engine, conflict, status=1)
    assert "is no event type" in replay(engine, below, "--as-event", "nonsense", status=2)
    file.write_text(event(id="cut off", customer=None))
    still_bad = replay(engine, malformed, "--with", file, "--as-event", "file_download", status=1)
    assert "repaired event would be refused again, missing_customer" in still_bad
    assert {letter["replayed_at"] for letter in letters(engine)} == {None}, "none of this has used a letter up"

    for number, name, options in (
        (malformed, "cut off", ("--as-event", "file_download")),
        (below, "below", ()),
        (conflict, "apart", ()),
    ):
        file.write_text(json.dumps(json.loads(mended[name]), indent=2) + "\n")
        assert "1 dead letter sent again." in replay(engine, number, "--with", file, *options)
        assert "was replayed already" in replay(engine, number, "--with", file, *options, status=1)
    assert "1 dead letter sent again.\n" in replay(engine, "--reason", "late", "--event", ODD)
    assert books(engine, 4) == {"received": 4, "counted": 3, "conflicting": 1}
    assert books(engine, 5, ODD) == {"received": 5, "counted": 3, "late": 1, "invalid": 1}
    assert len(letters(engine)) == 4
    places = {letter["reason"]: letter["replayed_to"] for letter in letters(engine)}
    assert places["below_minimum"].startswith("rollup-engine.replays.na_ve____ber_v2-")
    assert up.stop() == 0, up.output
    assert rolled_up(engine) == recount([good, mended["cut off"], mended["apart"]])
    (view,) = (
        row["view"] for row in sql(engine, "SELECT table_name AS view FROM rollup_engine.rollups WHERE event = $1", ODD)
    )
    assert rolled_up(engine, view) == recount([mended["below"], values[4], values[5]])


def test_beyond_the_horizon_only_when_told_to(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(yaml(grace_period="1s") + "dedup_horizon: 2s\n")
    up = engine.up()
    feed(engine, [FRESH, LATE])
    books(engine, 2)
    (letter,) = letters(engine)
    forgotten = datetime.fromisoformat(letter["recorded_at"]) + timedelta(seconds=2)
    until("the letter is older than the horizon", lambda: datetime.now(UTC) > forgotten)
    assert "more than 2s (dedup_horizon) ago" in replay(engine, letter["id"], status=1)
    assert "1 left out, older than dedup_horizon." in replay(engine, "--all", status=1)
    assert engine.status()["received"] == 2
    assert "1 dead letter sent again." in replay(engine, letter["id"], "--may-double-count")
    assert books(engine, 3) == {"received": 3, "counted": 2, "late": 1}
    assert "was replayed already" in replay(engine, letter["id"], "--may-double-count", status=1)
    assert up.stop() == 0, up.output
    assert rolled_up(engine) == recount([FRESH, LATE])


def test_an_original_too_long_for_its_letter_comes_from_the_raw_topic(engine: Engine) -> None:
    up = engine.up()
    long = event(id="long", download_timestamp="2022-08-12T00:00:00Z", filler="x" * 700_000)
    feed(engine, [FRESH, long])
    books(engine, 2)
    (letter,) = letters(engine)
    assert letter["original_bytes"] > 700_000
    move = "UPDATE rollup_engine.dead_letters SET source_offset = $1"
    for elsewhere in (0, 2, 7):  # another record, one to come, none
        sql(engine, move, elsewhere)
        gone = replay(engine, letter["id"], status=1)
        assert f"is no longer in Kafka at downloads/1, offset {elsewhere}. Send it by --with FILE." in gone
    sql(engine, move, 1)
    assert "1 dead letter sent again." in replay(engine, letter["id"])
    assert books(engine, 3) == {"received": 3, "counted": 2, "late": 1}
    assert up.stop() == 0, up.output
    assert rolled_up(engine) == recount([FRESH, long])


def test_killed_between_sending_and_noting_it(engine: Engine) -> None:
    up = engine.up()
    feed(engine, [FRESH, LATE])
    books(engine, 2)
    engine.environment["ROLLUP_INJECT"] = "kill:replay.sent"
    assert engine.run("dead-letters", "replay", "--all").returncode == -signal.SIGKILL
    del engine.environment["ROLLUP_INJECT"]
    assert books(engine, 3) == {"received": 3, "counted": 2, "late": 1}
    assert letters(engine)[0]["replayed_at"] is None
    assert "1 dead letter sent again." in replay(engine, "--all")
    assert books(engine, 4) == {"received": 4, "counted": 2, "duplicate": 1, "late": 1}
    assert up.stop() == 0, up.output
    assert rolled_up(engine) == recount([FRESH, LATE])


def test_two_at_once_share_what_there_is(engine: Engine) -> None:
    count = 900  # several batches
    late = [  # behind each other too
        event(id=f"late-{number}", download_timestamp=f"2022-08-{12 - number % 10:02}T00:00:00Z")
        for number in range(count)
    ]
    up = engine.up()
    feed(engine, [FRESH, *late, "{}"])
    books(engine, count + 2)
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda _: replay(engine, "--reason", "late"), range(2)))
    assert sum(int(line.split()[0].replace(",", "")) for line in said) == count, said
    assert books(engine, 2 * count + 2) == {
        "received": 2 * count + 2,
        "counted": count + 1,
        "late": count,
        "invalid": 1,
    }
    assert engine.status()["received"] == 2 * count + 2, "none was sent twice"
    assert up.stop() == 0, up.output
    assert rolled_up(engine) == recount([FRESH, *late])


def test_on_apache_kafka_with_nobody_at_work(make_engine: Callable[..., Engine], apache: str) -> None:
    """What was sent again waits in Kafka, and shows as lag, until somebody works again."""
    topic = f"downloads-{uuid4().hex}"
    asyncio.run(create(apache, topic))
    engine = make_engine(
        yaml(grace_period="12h").replace("topic: downloads", f"topic: {topic}"),
        kafka_bootstrap_servers=apache,
        app_id=f"replay-{uuid4().hex}",
    )
    up = engine.up()
    conflict = event(id="fresh", download_timestamp="2022-08-14T15:14:31Z", bytes_downloaded=1)
    asyncio.run(send(apache, [(1, line.encode()) for line in (FRESH, LATE, conflict)], topic))
    books(engine, 3)
    assert up.stop() == 0, up.output
    said = replay(engine, "--all")
    assert "1 dead letter sent again." in said
    assert "1 left out, conflict." in said
    assert engine.status()["lag"] == 1
    up = engine.up()
    assert books(engine, 4) == {"received": 4, "counted": 2, "conflicting": 1, "late": 1}
    assert "1 dead letter sent again." in replay(engine, "--all", "--may-double-count")  # read from the raw topic
    assert books(engine, 5) == {"received": 5, "counted": 2, "conflicting": 2, "late": 1}
    assert [letter["source"].split(".")[-1] for letter in letters(engine)][-1] == "file_download/0"
    assert up.stop() == 0, up.output
    assert rolled_up(engine) == recount([FRESH, LATE])


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ((), 2, "Say which dead letters: by ID, or else all by --event, --reason or --all."),
        ((1, "--all"), 2, "Say which dead letters: by ID, or else all"),
        ((1, 2, "--with", "-"), 2, "--with FILE repairs one dead letter"),
        (("--all", "--with", "-"), 2, "--with FILE repairs one dead letter"),
        ((1, "--with", "no such file"), 2, "no such file cannot be read"),
        ((1,), 1, "Start `rollup-engine up` first."),
    ],
)
def test_said_what_is_wrong(
    make_engine: Callable[..., Engine], arguments: tuple[str | int, ...], status: int, says: str
) -> None:
    assert says in replay(make_engine(), *arguments, status=status)
