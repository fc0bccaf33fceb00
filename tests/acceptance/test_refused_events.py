"""Every malformed kind of event is one dead letter, with its reason and its bytes, and its neighbours are counted."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.acceptance.cli import Engine
from tests.acceptance.traffic import event, rows, send, totals, yaml

NOW = datetime.now(UTC)
LONG = "9" * 60


def at(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def good(number: int, **changes: object) -> bytes:
    return event(**({"id": f"good-{number}", "customer": "good", "download_timestamp": at(NOW)} | changes)).encode()


def bad(**changes: object) -> bytes:
    """An event of now with something wrong; `...` leaves a field out."""
    fields = json.loads(event(customer="bad", download_timestamp=at(NOW))) | changes
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def raw(name: str, literal: str) -> bytes:
    """An event with a field written just so."""
    return bad(**{name: "@"}).replace(b'"@"', literal.encode("utf-8", "surrogatepass"))


KINDS: dict[str, tuple[bytes | None, str]] = {
    "cut off": (b'{"id": "x", "customer"', "malformed_json"),
    "no JSON": (b"GET / HTTP/1.1", "malformed_json"),
    "two values": (b"{}{}", "malformed_json"),
    "empty": (b"", "malformed_json"),
    "no value at all": (None, "malformed_json"),
    "not UTF-8": (raw("customer", '"c@"').replace(b"c@", b"\xff\xfe"), "malformed_json"),
    "a list": (b"[1, 2]", "not_an_object"),
    "a string": (b'"text"', "not_an_object"),
    "null": (b"null", "not_an_object"),
    "no id": (bad(id=...), "missing_id"),
    "an id of null": (bad(id=None), "missing_id"),
    "an empty id": (bad(id=""), "missing_id"),
    "an id of the wrong type": (bad(id={"a": 1}), "invalid_id"),
    "no customer": (bad(customer=...), "missing_customer"),
    "an empty customer": (bad(customer=""), "missing_customer"),
    "a customer of the wrong type": (bad(customer=["c"]), "invalid_customer"),
    "no time": (bad(download_timestamp=...), "invalid_timestamp"),
    "a time without offset": (bad(download_timestamp="2022-08-14T15:14:31"), "invalid_timestamp"),
    "a time of the wrong type": (bad(download_timestamp=1660489800), "invalid_timestamp"),
    "no such day": (bad(download_timestamp="2022-02-30T00:00:00Z"), "invalid_timestamp"),
    "a sum of the wrong type": (bad(bytes_downloaded="12"), "invalid_number"),
    "a boolean sum": (bad(bytes_downloaded=True), "invalid_number"),
    "NaN": (raw("bytes_downloaded", "NaN"), "malformed_json"),
    "Infinity": (raw("bytes_downloaded", "-Infinity"), "malformed_json"),
    "an over-long number": (raw("bytes_downloaded", LONG), "invalid_number"),
    "a huge exponent": (raw("bytes_downloaded", "1e400"), "invalid_number"),
    "thousands of digits": (raw("bytes_downloaded", "1" * 6_000), "number_too_long"),
    "too fine a fraction": (raw("bytes_downloaded", "0.0000000001"), "invalid_number"),
    "below the minimum": (bad(bytes_downloaded=-1), "below_minimum"),
    "U+0000 in the id": (bad(id="a\0b"), "invalid_id"),
    "U+0000 in the customer": (bad(customer="a\0b"), "invalid_customer"),
    "U+0000 in a group": (bad(download_speed="a\0b"), "invalid_group_column"),
    "half a surrogate pair": (raw("customer", '"\\ud800"'), "malformed_json"),
    "a group that is an object": (bad(download_speed={"v": 1}), "invalid_group_column"),
    "1,000 levels": (raw("download_speed", '{"a":' * 1_000 + "1" + "}" * 1_000), "nested_too_deep"),
    "10 MB": (bad(filler="x" * 10_000_000), "record_too_large"),
    "in the future": (bad(download_timestamp=at(NOW + timedelta(days=2))), "future_timestamp"),
    "late": (bad(download_timestamp=at(NOW - timedelta(days=2))), "late"),
    "a conflict": (good(0, bytes_downloaded=1), "conflict"),
}
OUTCOMES = {"late": "late", "a conflict": "conflicting"}
FINE = {  # near to what is refused, and none of it
    "a number as a group": good(1_001, download_speed=12.50),
    "nothing to sum": good(1_002, bytes_downloaded=None),
    "an exact fraction": good(1_003).replace(b"3256", b"0.000000001"),
    "brackets in text": good(1_004, note="[" * 5_000),
    "other fields": good(1_005, more={"deeply": [{"nested": None}] * 5}),
}


def test_each_is_one_dead_letter_and_its_neighbours_are_counted(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(yaml(grace_period="12h"))
    up = engine.up()
    values: list[bytes | None] = [good(0)]
    for number, (value, _) in enumerate(KINDS.values(), 1):
        values += [value, good(number)]
    values += FINE.values()
    offsets = asyncio.run(send(engine.endpoints()["kafka"], [(1, value) for value in values]))
    assert offsets == list(range(len(values)))
    status = engine.settled(len(values))
    late_and_conflicting = len(OUTCOMES)
    assert status["received"] == status["routed"] == len(values)
    assert status["counted"] == 1 + len(KINDS) + len(FINE)
    assert (status["late"], status["conflicting"], status["duplicate"], status["unmatched"]) == (1, 1, 0, 0)
    assert status["invalid"] == len(KINDS) - late_and_conflicting

    letters = _listed(engine, "--limit", "1000")
    assert sorted(letter["source_offset"] for letter in letters) == [1 + 2 * n for n in range(len(KINDS))]
    by_offset = {letter["source_offset"]: letter for letter in letters}
    for number, (name, (value, reason)) in enumerate(KINDS.items()):
        letter = by_offset[1 + 2 * number]
        assert (letter["event"], letter["source"]) == ("file_download", "downloads/1"), name
        assert letter["outcome"] == OUTCOMES.get(name, "invalid"), name
        assert letter["reason"] == reason, name
        assert letter["detail"], name
        if value is not None and name not in OUTCOMES and name != "in the future":
            assert letter["original_bytes"] == len(value), name

    shown = engine.ok("dead-letters", "show", str(by_offset[3]["id"]))
    assert "malformed_json" in shown
    assert "GET / HTTP/1.1" in shown
    assert [x["reason"] for x in _listed(engine, "--reason", "late")] == ["late"]
    no_such = engine.run("dead-letters", "show", "999999")
    assert (no_such.returncode, no_such.stderr.strip().count("\n")) == (1, 0)

    assert up.stop() == 0, up.output
    url = engine.environment["ROLLUP_DATABASE_URL"]
    kept = asyncio.run(rows(url, "SELECT * FROM rollup_engine.dead_letters ORDER BY source_offset"))
    for row, (name, (value, _)) in zip(kept, KINDS.items(), strict=True):
        if row["original"] is not None:
            assert bytes(row["original"]) == (value or b"")[: 512 * 1024], name
    found = asyncio.run(totals(url))
    assert sum(count for count, _ in found.values()) == status["counted"]
    assert {customer for _, customer, _ in found} == {"good"}
    assert {speed for _, _, speed in found} == {"fast", "12.5"}


@pytest.mark.parametrize("command", ["list", "show 1"])
def test_before_anything_ran(make_engine: Callable[..., Engine], command: str) -> None:
    engine = make_engine()
    engine.ok("migrate")
    done = engine.run("dead-letters", *command.split())
    assert "Traceback" not in done.stderr
    assert (done.returncode, "No dead letters" in done.stdout or "no dead letter" in done.stderr) == (
        int(command != "list"),
        True,
    )


def _listed(engine: Engine, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(engine.ok("dead-letters", "list", "--format", "json", *options))
    return found
