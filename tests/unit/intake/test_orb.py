"""Orb's shape: what its documentation says of an event, and bytes that stay as they were sent."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollup_engine.intake.bodies import Unreadable
from rollup_engine.intake.orb import _read, read
from tests.unit.route.test_router_against_naive import values

GOOD: dict[str, Any] = {
    "event_name": "api_request",
    "idempotency_key": "k",
    "timestamp": "2024-03-14T10:09:58Z",
    "properties": {"ms": 1},
    "external_customer_id": "acme",
}


def event(**changes: Any) -> dict[str, Any]:
    """A good one with some members changed; `...` leaves one out."""
    return {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}


def only(one: Any) -> tuple[bytes, str]:
    """The record of one event, and what is wrong with it."""
    (found,) = read(json.dumps({"events": [one]}).encode(), 500)
    return found.value, "; ".join(found.errors)


def test_bytes_stay_as_they_were_sent() -> None:
    one = (
        b'{ "idempotency_key":"\\u006b","event_name" : "n", "more": [1e400, {"\xc3\xa9":-0.0}],'
        b'"timestamp":"2024-03-14T10:09:58.5+01:00" ,"properties":{"n":12345678901234567890.10},'
        b'"external_customer_id":"\xf0\x9f\x98\x80"}'
    )
    (found,) = read(b'\n{"x": 1, "events" :[ ' + one + b" ]}", 1)
    assert (found.value, found.name, found.key, list(found.errors)) == (one, "n", "k", [])


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (event(), ""),
        (event(timestamp="2024-03-14T10:09:58.123456+00:00"), ""),
        (event(customer_id=None), ""),
        (event(properties={}), ""),
        (event(event_name=""), "event_name is empty"),
        (event(event_name=...), "event_name is missing"),
        (event(event_name=None), "event_name must be text"),
        (event(idempotency_key=7), "idempotency_key must be text"),
        (event(idempotency_key=""), "idempotency_key is empty"),
        (event(timestamp=1710410998), "timestamp must be text"),
        (event(timestamp="2024-03-14"), "no RFC 3339 timestamp"),
        (event(timestamp="2024-02-30T00:00:00Z"), "no time that exists"),
        (event(properties=...), "properties is missing"),
        (event(properties=[]), "properties must be an object"),
        (event(properties=None), "properties must be an object"),
        (event(external_customer_id=...), "exactly one of"),
        (event(customer_id="c"), "exactly one of"),
        (event(external_customer_id=3), "the customer's id must be text"),
        (event(external_customer_id=""), "the customer's id is empty"),
        ([], "must be an object"),
        (None, "must be an object"),
    ],
)
def test_what_an_event_needs(one: Any, words: str) -> None:
    _, found = only(one)
    assert words in found
    assert bool(words) == bool(found)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    _, found = only({"idempotency_key": 1, "properties": 2})
    assert found.count(";") == 4
    _, found = only(event(event_name="", timestamp="x", properties=[], customer_id="c"))
    assert found.count(";") == 3


def test_only_a_customer_id_becomes_the_external_one() -> None:
    """Exactly: also where the other one is there and null, and whatever characters it has."""
    for other in (..., None):
        value, found = only(event(external_customer_id=other, customer_id='é"\\😀'))
        assert not found
        assert json.loads(value)["external_customer_id"] == 'é"\\😀' == json.loads(value)["customer_id"]


def test_a_timestamp_without_offset_is_utc() -> None:
    value, found = only(event(timestamp="2024-03-14T10:09:58.25", properties={"n": 1, "é": "ü"}))
    assert not found
    assert json.loads(value) == event(timestamp="2024-03-14T10:09:58.25Z", properties={"n": 1, "é": "ü"})
    raw = b"""{"timestamp":"2024-03-14T10:09:58","properties":{"n":1.50e3},"a":0.10,
        "event_name":"n","idempotency_key":"k","customer_id":"c"}"""
    (found_,) = read(b'{"events":[' + raw + b"]}", 1)
    assert b'"n":1.50e3}' in found_.value
    assert b'"a":0.10' in found_.value
    assert json.loads(found_.value)["external_customer_id"] == "c"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"events":[{"a":1,}]}', "not JSON"),
        (b'{"events":["\xff"]}', "not UTF-8"),
        (b'{"events":["\\ud8"]}', "not JSON"),
        (b'{"events":["\\ud800", \\ud800]}', "not JSON"),
        (b'{"events":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
        (b"[]", "must be"),
        (b"{}", "must be"),
        (b'{"events":{}}', "must be"),
        (b'{"events":[1,2,3]}', "3 events; 2 are allowed"),
    ],
)
def test_bodies_without_events(body: bytes, words: str) -> None:
    with pytest.raises(Unreadable, match=words):
        read(body, 2)


@pytest.mark.parametrize("half", ["\\ud800", "\\uDFff\\ud83d", "\\ud83d\\u0041", "\\\\\\udc00"])
def test_half_a_surrogate_pair_costs_the_others_nothing(half: str) -> None:
    good = event(idempotency_key="g", properties={"x": "\\ud800", "y": "😀", "z": '\ue000"\\'})
    bad = json.dumps(event(idempotency_key="b@", properties={"x": "@"})).replace("@", half)
    body = f'{{"events":[{json.dumps(good)}, {bad}, {json.dumps(good, ensure_ascii=False)}]}}'
    first, second, third = read(body.encode(), 3)
    assert (first.value, first.errors, third.errors) == (json.dumps(good).encode(), [], [])
    assert second.errors == ["its text holds half a surrogate pair, as in \\ud800"]
    assert second.key.startswith("b")
    assert "\ufffd" in second.key


def test_half_surrogates_take_no_longer_than_their_bytes() -> None:
    body = b'{"events":[%s]}' % b",".join(b'"%s"' % (b"\\n\\ud800" * 1_000) for _ in range(300))
    begun = time.monotonic()
    assert all(one.errors for one in read(body, 300))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("changes", [{"event_name": 1}, {"timestamp": "2024-03-14T10:09:58"}, {"customer_id": None}])
@pytest.mark.parametrize("name", ["properties", "event_name", "customer_id"])
def test_whatever_is_nested_is_read_or_refused(name: str, changes: dict[str, Any]) -> None:
    for depth in range(880, 1_010):
        one = json.dumps(event(**(changes | {name: "@"}))).replace('"@"', '{"a":' + "[" * depth + "]" * depth + "}")
        _read(one.encode(), ())  # whatever stack is left for it


@given(st.lists(values, max_size=4), st.booleans())
def test_whatever_comes(parts: list[bytes | None], listed: bool) -> None:
    """It is read, or refused in words; never anything else. Each event keeps its place."""
    body = b",".join(part or b"" for part in parts)
    if listed:
        body = b'{"events":[' + body + b"]}"
    try:
        found = read(body, 100)
    except Unreadable:
        return
    assert [event.value for event in found] or body.replace(b" ", b"") == b'{"events":[]}'
    expected = json.loads(body)["events"]
    assert len(found) == len(expected)
    assert all(one.errors for one in found)  # none of these has an event's name
