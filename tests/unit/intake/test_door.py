"""The door against route: what it passes, route takes on every topic it goes to; what it refuses, route would too."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollup_engine.config.model import Config, EventType
from rollup_engine.intake import door as door_module
from rollup_engine.intake.door import EVENT_BYTES_MAX, Door, Judged, Request, Submitted, by_topic
from rollup_engine.route.decode import Decoder
from rollup_engine.route.router import Router
from rollup_engine.route.state import RouteState
from rollup_engine.runtime.memory import MemoryRecord
from tests.unit.route.specs import NOW_MS, a_sum, event, event_type
from tests.unit.route.test_router_against_naive import SETUPS, values

TOPICS = ["a", "b", "c"]


def on(topics: Sequence[str], one: EventType) -> EventType:
    return one.model_copy(update={"kafka_topics": tuple(topics)})


def judge(events: Sequence[EventType], *submitted: Submitted, customer: str | None = None) -> Judged:
    (judged,) = Door(Config(events=tuple(events))).judge([Request(submitted, customer)], NOW_MS)
    return judged


def errors(events: Sequence[EventType], *submitted: Submitted, customer: str | None = None) -> list[str]:
    """What is wrong with each, as one text."""
    return ["; ".join(found) for found in judge(events, *submitted, customer=customer).errors]


def routed(events: Sequence[EventType], value: bytes) -> tuple[set[str], set[str]]:
    """By route: the event types that take the record, and those that find it malformed or in the future."""
    tables = Router("t", events, 1).route(RouteState(), [MemoryRecord(0, NOW_MS, value)], NOW_MS).tables[0]
    taken, bad = set(), set()
    for name, frame in tables.items():
        if name == "rejected":
            bad |= set(frame["event"])
        elif name.startswith("event:"):
            (bad if frame["future"].any() else taken).add(name.removeprefix("event:"))
    return taken, bad


def wanted(events: Sequence[EventType], name: str, value: bytes) -> set[str]:
    """The event types that an event is for; those that cannot tell, because it is no JSON, are not among them."""
    found = set()
    for one in events:
        taken, bad = routed([one], value)
        if (taken | bad) & {one.event} and (one.match or one.event == name):
            found.add(one.event)
    return found


@settings(max_examples=40)
@given(st.data())
def test_it_agrees_with_route(data: st.DataObject) -> None:
    types = data.draw(st.sampled_from(sorted(SETUPS)).map(SETUPS.__getitem__))
    many = data.draw(st.booleans())
    places = [data.draw(st.sets(st.sampled_from(TOPICS), min_size=1)) if many else {"a"} for _ in types]
    types = [on(sorted(place), one) for place, one in zip(places, types, strict=True)]
    readers = {topic: [one for one in types if topic in one.kafka_topics] for topic in TOPICS}
    names = st.sampled_from([*(one.event for one in types), types[0].event, "nobody"])
    submitted = [
        Submitted(data.draw(values) or b"", data.draw(names), str(row)) for row in range(data.draw(st.integers(1, 5)))
    ]
    judged = judge(types, *submitted)
    for (value, name, *_), found, topics in zip(submitted, judged.errors, judged.topics, strict=True):
        assert bool(found) != bool(topics)
        targets = wanted(types, name, value)
        if topics:
            reached: set[str] = set()
            for topic in topics:
                taken, bad = routed(readers[topic], value)
                assert not bad, (topic, value)
                assert taken & targets, "a topic for nothing"
                reached |= taken
            assert targets
            assert targets <= reached
        else:
            refused = {who for topic, own in readers.items() if own for who in routed(own, value)[1]}
            assert refused or not targets, (found, value)
            if not many and targets and name == types[0].event:
                assert refused


@settings(max_examples=15)
@given(st.lists(st.lists(values, max_size=4), min_size=1, max_size=4))
def test_requests_judged_together_are_judged_as_alone(calls: list[list[bytes | None]]) -> None:
    types = SETUPS["two that share records"]
    door = Door(Config(events=tuple(types)))
    requests = [
        Request([Submitted(value or b"", "b_all", str(row % 3)) for row, value in enumerate(call)], customer)
        for call, customer in zip(calls, [None, "c", "c", None], strict=False)
    ]
    together = door.judge(requests, NOW_MS)
    assert together == [door.judge([request], NOW_MS)[0] for request in requests]


class TestWhereTo:
    def test_as_few_topics_as_reach_everybody(self) -> None:
        types = [
            on(["a", "b"], event_type("one", match={"kind": "x"})),
            on(["b"], event_type("two", match={"kind": "x"})),
            on(["c"], event_type("three", match={"kind": "x"})),
            on(["d"], event_type("four", match={"kind": "y"})),
        ]
        assert sorted(judge(types, Submitted(event(kind="x"), "", "1")).topics[0]) == ["b", "c"]

    def test_without_match_the_name_decides(self) -> None:
        types = [on(["a"], event_type("one")), on(["b"], event_type("two"))]
        judged = judge(types, *(Submitted(event(), name, name) for name in ("one", "two", "One", "", "three")))
        assert judged.topics == [("a",), ("b",), (), (), ()]
        assert all("those declared: one, two" in found[0] for found in judged.errors[2:])
        assert by_topic([judged]) == {"a": [event()], "b": [event()]}

    def test_whoever_reads_the_topic_as_well_must_find_it_well_formed(self) -> None:
        """Route would refuse it for the event type that takes everything there."""
        types = [on(["a"], event_type("one", match={"kind": "x"})), on(["a"], event_type("all", sums=[a_sum("size")]))]
        bad, good = Submitted(event(kind="x", size="1"), "", "1"), Submitted(event(kind="x", size=1), "", "2")
        refused, taken = errors(types, bad, good)
        assert refused.startswith("event type 'all': 'size': must be a number")
        assert taken == ""

    def test_one_is_not_true(self) -> None:
        types = [on(["a"], event_type("one", match={"kind": "true"}))]
        values = [event(kind=kind) for kind in (b"1", b"true", b'"true"', b"1.0", b"[]", b"null")]
        judged = judge(types, *(Submitted(value, "", str(row)) for row, value in enumerate(values)))
        assert [bool(topics) for topics in judged.topics] == [False, True, True, False, False, False]

    def test_a_bucket_s_topic_is_not_written_to(self) -> None:
        (only,) = SETUPS["a bucket of csv"][:1]
        assert "needs a Kafka topic" in errors([on([], only)], Submitted(event(), only.event, "1"))[0]

    def test_many_names_are_not_all_listed(self) -> None:
        types = [on(["a"], event_type(f"type_{number:03}")) for number in range(40)]
        (found,) = errors(types, Submitted(event(), "x" * 5_000, "1"))
        assert len(found) < 700
        assert "type_019, …" in found


class TestRefusals:
    DOWNLOAD = on(["a"], event_type(sums=[a_sum("bytes", minimum="0")]))

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (event(id=...), "the id ('id') is missing"),
            (event(customer=""), "the customer ('customer') is empty"),
            (event(at="2022-08-14"), "no RFC 3339 timestamp"),
            (event(at="2022-08-14T15:19:31.133Z"), "more than 5m in the future"),
            (event(at="2022-08-14T15:19:31.132Z"), ""),
            (event(at="1970-01-01T00:00:00Z"), ""),  # late or not: only the log knows
            (event(bytes=-1), "below its declared minimum of 0"),
            (event(bytes=b"1e99"), "'bytes'"),
            (b"{", "truncated"),
            (b"[]", "must be a JSON object"),
            (event(id="\0"), "U+0000"),
        ],
    )
    def test_of_form(self, value: bytes, words: str) -> None:
        (found,) = errors([self.DOWNLOAD], Submitted(value, "download", "1"))
        assert words in found
        assert bool(words) == bool(found)

    def test_an_envelope_s_errors_stand_alone(self) -> None:
        assert errors([self.DOWNLOAD], Submitted(b"", "", "", ["no"])) == ["no"]

    def test_too_large(self) -> None:
        at_most = event(more="x" * (EVENT_BYTES_MAX - len(event(more=""))))
        assert len(at_most) == EVENT_BYTES_MAX
        more = at_most.replace(b'"x', b'"xx', 1)
        found = errors([self.DOWNLOAD], Submitted(at_most, "download", "1"), Submitted(more, "download", "2"))
        assert found == ["", "the event has 1,000,001 bytes; 1,000,000 are allowed"]

    def test_of_another_customer(self) -> None:
        """Whichever property the YAML takes for the customer's."""
        types = [
            on(["a"], event_type("one", match={"kind": "x"})),
            on(["b"], event_type("two", match={"kind": "x"}, customer="owner")),
        ]
        mine, theirs = event(kind="x", owner="c"), event(kind="x", owner="d")
        found = errors(types, Submitted(mine, "", "1"), Submitted(theirs, "", "2"), customer="c")
        assert found == ["", "event type 'two': this API key is bound to another customer"]

    def test_a_key_with_two_bodies_refuses_all(self) -> None:
        same, spaced = event(), event().replace(b'":', b'" : ')
        keys = [Submitted(value, "download", key) for value, key in ((same, "k"), (spaced, "k"), (same, "other"))]
        assert errors([self.DOWNLOAD], *keys) == ["", "", ""]
        keys.append(Submitted(event(bytes=1), "download", "k"))
        found = judge([self.DOWNLOAD], *keys)
        assert [bool(one) for one in found.errors] == [True] * 4
        assert found.accepted == []
        assert by_topic([found]) == {}
        assert "under the key 'k'" in found.errors[2][0]

    def test_no_key_is_no_key_in_common(self) -> None:
        events = [Submitted(event(), "download", ""), Submitted(event(bytes=1), "download", "")]
        assert errors([self.DOWNLOAD], *events) == ["", ""]


class TestCost:
    """Bodies made to be dear: each would cost 20 times as much if it were looked at per topic, or per key."""

    def test_many_events_under_the_key_of_a_large_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compacted, compact = [], door_module._compact
        monkeypatch.setattr(door_module, "_compact", lambda value: compacted.append(len(value)) or compact(value))
        first = event(more="x" * 500_000)
        spaced = [Submitted(first.replace(b'":', b'": ' + b" " * n), "download", "k") for n in range(5)]
        small = [Submitted(event(n=n), "download", "k") for n in range(200)]
        found = errors([TestRefusals.DOWNLOAD], Submitted(first, "download", "k"), *spaced, *small)
        assert all("its key stands" in one for one in found)
        assert sum(compacted) < sum(len(one.value) for one in spaced) + 2 * len(first)

    def test_what_no_topic_asks_for_is_not_decoded_for_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        types = [on([f"t{n}"], event_type(f"e{n}", match={"kind": f"e{n}"})) for n in range(20)]
        decoded, decode = [], Decoder.decode
        monkeypatch.setattr(Decoder, "decode", lambda self, values: decoded.extend(values) or decode(self, values))
        judged = judge(types, *(Submitted(event(kind=f"e{n % 20}"), "", str(n)) for n in range(100)))
        assert [topics for (topics,) in judged.topics] == [f"t{n % 20}" for n in range(100)]
        assert len(decoded) == 200, "once for `match`, once for its topic"

    def test_no_more_is_decoded_at_a_time_than_a_part(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(door_module, "PART_BYTES", 1_000)
        sizes, decode = [], Decoder.decode

        def seen(decoder: Decoder, values: list[bytes]) -> list[object]:
            sizes.append((len(values), sum(map(len, values))))
            return decode(decoder, values)

        monkeypatch.setattr(Decoder, "decode", seen)
        types = [on(["a"], event_type(match={"kind": "x"}))]
        sent = [Submitted(event(kind="x", more="x" * (2_000 if n == 7 else n)), "", str(n)) for n in range(30)]
        assert errors(types, *sent) == [""] * 30
        assert all(size <= 1_000 or count == 1 for count, size in sizes)
        assert sum(count for count, _ in sizes) == 60
