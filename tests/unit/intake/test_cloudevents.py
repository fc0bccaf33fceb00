"""CloudEvents in JSON: what is read, what is wrong with it, and that nothing is changed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollup_engine.config.loader import load
from rollup_engine.intake.bodies import Unreadable
from rollup_engine.intake.cloudevents import Key, _read, read
from rollup_engine.intake.door import Door, Request

ROLLUPS = Path(__file__).resolve().parents[3] / "examples" / "cloudevents" / "rollups"
DOOR = Door(load(ROLLUPS))
NOW_MS = 1_710_406_970_000  # 2024-03-14T09:02:50Z
GOOD: dict[str, Any] = {"specversion": "1.0", "id": "a", "source": "/s", "type": "t"}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
events = st.fixed_dictionaries({}, optional=dict.fromkeys((*GOOD, "data", "data_base64", "time"), values))


def one(**changes: Any) -> list[str]:
    content = {name: value for name, value in (GOOD | changes).items() if value is not ...}
    (event,) = read(json.dumps(content).encode(), 1, batched=False)
    return list(event.errors)


def test_a_record_is_the_event_as_it_was_sent() -> None:
    text = b'{"specversion":"1.0", "id":"a","source":"/s","type":"t","data":{"n":1.10, "m":1E3,"big":%s}}' % (b"9" * 40)
    (event,) = read(b"  " + text + b"\n", 1, batched=False)
    assert (event.value, event.name, Key.of(event.key), list(event.errors)) == (text, "t", ("/s", "a"), [])
    first, second = read(b"[ " + text + b" ,\n" + text + b"]", 2, batched=True)
    assert first.value == second.value == text
    assert read(b"[]", 1, batched=True) == []


@pytest.mark.parametrize("missing", [..., None, "", 5, True, [], {}])
@pytest.mark.parametrize("name", ["id", "source", "type"])
def test_what_the_specification_requires(name: str, missing: object) -> None:
    (error,) = one(**{name: missing})
    assert error.startswith(f"{name} must be a text that is not empty")


@pytest.mark.parametrize("version", [..., None, "0.3", "1.0.2", 1.0])
def test_the_version(version: object) -> None:
    (error,) = one(specversion=version)
    assert error.startswith("specversion must be '1.0'")


def test_binary_data_is_refused_and_null_counts_as_left_out() -> None:
    assert "send `data`" in one(data_base64="e30=")[0]
    assert one(data_base64=None, data={}, time=None, subject=None) == []


@pytest.mark.parametrize(
    ("body", "batched", "says"),
    [
        (b"", False, "not JSON"),
        (b"{", False, "not JSON"),
        (b"{} {}", False, "not JSON"),
        (b"{}", True, "array"),
        (b"[{}, {}, {}]", True, "3 events; 2 are allowed"),
        (b'{"a": "\xff"}', False, "UTF-8"),
        (b"[" * 100_000, False, "nested"),
        (b'[{"a": ' + b"[" * 100_000, True, "nested"),
    ],
)
def test_bodies_that_hold_no_events(body: bytes, batched: bool, says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        read(body, 2, batched=batched)


def test_what_is_no_object_is_one_bad_event_among_others() -> None:
    numbers = b'{"specversion": 1e999}'
    found = read(b"[3, [], null, " + numbers + b", " + json.dumps(GOOD).encode() + b"]", 5, batched=True)
    assert [bool(event.errors) for event in found] == [True, True, True, True, False]


def test_half_a_surrogate_pair_costs_the_others_nothing() -> None:
    bad = json.dumps(GOOD | {"id": "@"}).replace("@", "\\ud800")
    good, other = read(f"[{json.dumps(GOOD)}, {bad}]".encode(), 2, batched=True)
    assert (list(good.errors), len(other.errors), Key.of(other.key)) == ([], 1, ("/s", "\ufffd"))
    (only,) = read(bad.encode(), 1, batched=False)
    assert "surrogate" in only.errors[0]


@pytest.mark.parametrize("name", ["specversion", "id", "data"])
def test_whatever_is_nested_is_read_or_refused(name: str) -> None:
    for depth in range(880, 1_010):
        value = json.dumps(GOOD | {name: "@"}).replace('"@"', "[" * depth + "]" * depth)
        _read(value.encode(), (), 0)  # whatever stack is left for it


def test_events_without_a_key_take_nothing_from_the_others() -> None:
    plain = {"specversion": "1.0", "type": "com.example.tokens", "time": "2024-03-14T09:02:50Z", "subject": "acme"}
    nameless = [plain | {"data": number} for number in range(2)] + [plain | {"id": "", "source": "/s", "data": 5}] * 2
    good = plain | {"id": "a", "source": "/s"}
    body = json.dumps([*nameless, 3, "4", good]).encode()
    (judged,) = DOOR.judge([Request(read(body, 9, batched=True), None)], NOW_MS)
    assert [bool(errors) for errors in judged.errors] == [True] * 6 + [False]
    assert [Key.of(event.key) for event, _ in judged.refused][1:4] == [(None, None), ("/s", ""), ("/s", "")]


def test_two_events_with_one_key_are_refused_together() -> None:
    one = {"specversion": "1.0", "type": "com.example.tokens", "time": "2024-03-14T09:02:50Z", "subject": "acme"}
    one |= {"id": "a", "source": "/s"}
    for other, refused in (
        (one, 0),
        (one | {"subject": "globex"}, 2),
        (one | {"source": "/t", "subject": "globex"}, 0),
    ):
        found = read(json.dumps([one, other]).encode(), 2, batched=True)
        (judged,) = DOOR.judge([Request(found, None)], NOW_MS)
        assert len(judged.refused) == refused


@given(st.lists(events | values, max_size=4))
def test_whatever_json_it_is_every_event_comes_back(content: list[Any]) -> None:
    body = json.dumps(content).encode()
    try:
        found = read(body, 4, batched=True)
    except Unreadable:
        return
    assert [json.dumps(json.loads(event.value)) for event in found] == [json.dumps(event) for event in content]
    for event in found:
        if not event.errors:
            told = json.loads(event.value)
            assert (event.name, *Key.of(event.key)) == (told["type"], told["source"], told["id"])


mapped = st.fixed_dictionaries(
    {"specversion": st.just("1.0"), "id": st.text(min_size=1), "source": st.text(min_size=1)},
    optional={
        "type": st.just("com.example.tokens") | st.text(),
        "time": st.just("2024-03-14T09:02:50Z") | values,
        "subject": st.just("acme") | values,
        "data": st.fixed_dictionaries({}, optional={"model": values, "tokens": values}) | values,
    },
)


@given(st.lists(mapped, max_size=4))
def test_the_door_judges_whatever_is_read(content: list[Any]) -> None:
    try:
        found = read(json.dumps(content).encode(), 4, batched=True)
    except Unreadable:  # NaN is no JSON
        return
    (judged,) = DOOR.judge([Request(found, None)], NOW_MS)
    for event, errors, topics in zip(judged.events, judged.errors, judged.topics, strict=True):
        assert bool(errors) != bool(topics)
        if topics:
            told = json.loads(event.value)
            assert (told["type"], topics) == ("com.example.tokens", ("cloudevents",))
            assert told["time"] is not None


@given(st.binary(max_size=60), st.booleans())
def test_no_bytes_do_harm(body: bytes, batched: bool) -> None:
    try:
        read(body, 1, batched=batched)
    except Unreadable:
        return


@given(st.lists(st.tuples(st.text(), st.text()), min_size=2, max_size=2, unique=True))
def test_no_two_keys_have_the_same_text(pairs: list[tuple[str, str]]) -> None:
    first, second = (Key(*pair).text(place) for place, pair in enumerate(pairs))
    assert first != second
