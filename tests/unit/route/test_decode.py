"""Raw bytes to mapped values: every way in which a record can be odd, and nothing raised for any bytes at all."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rollup_engine.config.model import EventType
from rollup_engine.numbers import NumberText, describe
from rollup_engine.route.decode import NESTING_MAX, RECORD_BYTES_MAX, Decoder, NotAnObject, Undecodable
from rollup_engine.route.decode import paths_of as paths_of_event
from tests.unit.route.naive import levels
from tests.unit.route.specs import a_sum, event_type

FLAT = event_type(groups=["speed"], sums=[a_sum("bytes")])
DEEP = event_type(groups=["data.region", "data.zone.name"], sums=[a_sum("data.cost")])
BOTH = [event_type("whole", groups=["data"]), event_type("inside", groups=["data.region", "data.zone.name"])]
GOOD = b'{"id":"1","at":"2022-08-14T15:14:31Z","customer":"c","speed":"fast","bytes":3256}'
PLAIN_KINDS = (str, int, bool, NumberText, type(None))


def decode(raw: bytes, *events: EventType) -> dict[str, object] | Undecodable:
    """Path to value, decoded alone; as part of a batch it must be the same, and its neighbours untouched."""
    decoder = Decoder(events or [FLAT])
    alone = mapped(decoder, decoder.decode([raw])[0], events or [FLAT])
    before, inside, after = decoder.decode([GOOD, raw, GOOD])
    assert mapped(decoder, inside, events or [FLAT]) == alone
    good = mapped(decoder, decoder.decode([GOOD])[0], events or [FLAT])
    assert mapped(decoder, before, events or [FLAT]) == mapped(decoder, after, events or [FLAT]) == good
    return alone if isinstance(alone, Undecodable) else {path: value for path, (_, value) in alone.items()}


def mapped(
    decoder: Decoder, decoded: object, events: Sequence[EventType]
) -> dict[str, tuple[type, object]] | Undecodable:
    """With the types: True is not 1, and a number's text is no text."""
    if isinstance(decoded, Undecodable):
        return decoded
    paths = sorted({path for event in events for path in paths_of_event(event)})
    found = {path: decoder.getter(path)(decoded) for path in paths}
    return {path: (type(value), value) for path, value in found.items()}


def reason(raw: bytes, *events: EventType) -> str:
    found = decode(raw, *events)
    assert isinstance(found, Undecodable), found
    assert found.detail
    return found.reason


def value(raw: bytes, path: str, *events: EventType) -> object:
    found = decode(raw, *events)
    assert isinstance(found, dict), found
    return found[path]


def test_mapped_values_are_built_as_they_were_written() -> None:
    found = decode(b'{"bytes": 1.50, "extra": {"deep": [1, 2]}, "id": 7, "speed": true, "customer": null}')
    assert found == {"at": None, "bytes": "1.50", "customer": None, "id": 7, "speed": True}
    assert isinstance(found, dict)
    assert type(found["bytes"]) is NumberText


@pytest.mark.parametrize("text", ["0.1", "-0.0", "1e400", "1E+5", "1.0e-05", "0." + "3" * 5_000])
def test_a_number_with_fraction_or_exponent_stays_text(text: str) -> None:
    found = value(f'{{"bytes":{text}}}'.encode(), "bytes")
    assert type(found) is NumberText
    assert found == text


def test_integers_of_any_size_are_exact() -> None:
    for number in (0, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**30, 10**4299, -(10**4298)):
        assert value(f'{{"bytes":{number}}}'.encode(), "bytes") == number


def test_dotted_paths_reach_into_objects() -> None:
    raw = b'{"data":{"x":1,"zone":{"name":"a","id":2},"region":"eu","cost":0.5}}'
    assert value(raw, "data.region", DEEP) == "eu"
    assert value(raw, "data.zone.name", DEEP) == "a"
    assert value(raw, "data.cost", DEEP) == "0.5"


@pytest.mark.parametrize("raw", [b"{}", b'{"data":null}', b'{"data":{}}', b'{"data":{"zone":null,"region":null}}'])
def test_below_a_missing_or_null_parent_everything_is_missing(raw: bytes) -> None:
    for events in ([DEEP], BOTH):
        assert value(raw, "data.region", *events) is None
        assert value(raw, "data.zone.name", *events) is None


@pytest.mark.parametrize("parent", ["5", "0.5", '"eu"', "true", "false", "[]", '[{"region":"eu"}]', '""', "0"])
def test_a_parent_that_is_no_object_is_a_wrong_value_not_a_missing_one(parent: str) -> None:
    raw = f'{{"id":"1","data":{parent},"at":"x"}}'.encode()
    for events in ([DEEP], BOTH):
        for path in ("data.region", "data.zone.name"):
            found = value(raw, path, *events)
            assert isinstance(found, NotAnObject)
            assert describe(found) == "part of something that is no object"
        assert value(raw, "id", *events) == "1"  # its neighbours in the record are as they were
    inner = f'{{"data":{{"region":"eu","zone":{parent}}}}}'.encode()
    assert value(inner, "data.region", DEEP) == "eu"
    assert isinstance(value(inner, "data.zone.name", DEEP), NotAnObject)


def test_a_path_can_be_a_value_and_an_object_at_once() -> None:
    raw = b'{"data":{"region":"eu","zone":{"name":1.5},"other":[1]}}'
    assert value(raw, "data", *BOTH) == {"region": "eu", "zone": {"name": "1.5"}, "other": [1]}
    assert value(raw, "data.region", *BOTH) == "eu"
    assert type(value(raw, "data.zone.name", *BOTH)) is NumberText
    assert value(b'{"data":"eu"}', "data", *BOTH) == "eu"


NAMES = ["f0", "f1", "é", "e\u0301", "字", "a b", "$id", "data-x", "class", "Mapped", "__init__", "self", "'", "\u2028"]
ESCAPED_NAMES = ['say "hi"', "back\\slash", '"', "\\", "\\u0041"]


@pytest.mark.parametrize("name", [*NAMES, *ESCAPED_NAMES, "x" * 255])
def test_any_property_name_can_be_mapped(name: str) -> None:
    for path, raw in (
        (name, json.dumps({"id": "1", name: "v"})),
        (f"data.{name}", json.dumps({"id": "1", "data": {name: "v"}}, ensure_ascii=False)),
        (f"{name}.x", json.dumps({"id": "1", name: {"x": "v"}})),
    ):
        event = event_type(groups=[path], id_path="id")
        assert value(raw.encode(), path, event) == "v"
        assert value(raw.encode(), "id", event) == "1"
        assert value(b'{"id":"1","data":5}', "id", event) == "1"
        assert reason(b"[1]", event) == "not_an_object"
        assert reason(b'{"id":', event) == "malformed_json"


def test_names_that_look_alike_are_not_mixed_up() -> None:
    event = event_type(groups=["f1", "f0", "data.f1", "data.f0", "e\u0301", "é"])
    raw = json.dumps({"f0": "a", "f1": "b", "data": {"f0": "c", "f1": "d"}, "é": "nfc", "e\u0301": "nfd"})
    found = decode(raw.encode(), event)
    assert isinstance(found, dict)
    assert [found[path] for path in ("f0", "f1", "data.f0", "data.f1", "é", "e\u0301")] == [*"abcd", "nfc", "nfd"]


def test_an_escaped_name_is_the_name() -> None:
    assert value(b'{"\\u0069d":"1"}', "id") == "1"


def test_of_a_repeated_name_the_last_counts() -> None:
    assert value(b'{"id":"1","id":"2"}', "id") == "2"
    assert value(b'{"data":{"region":"eu"},"data":{"cost":1}}', "data.region", DEEP) is None
    assert value(b'{"data":5,"data":{"region":"eu"}}', "data.region", DEEP) == "eu"
    assert isinstance(value(b'{"data":{"region":"eu"},"data":5}', "data.region", DEEP), NotAnObject)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"\n\n",
        b"\x00",
        b"\xef\xbb\xbf" + GOOD,
        GOOD.decode().encode("utf-16"),
        GOOD + b"x",
        GOOD + GOOD,
        GOOD + b"\x00",
        GOOD[:-1],
        GOOD + b",",
        b'{"id":NaN}',
        b'{"extra":NaN}',
        b'{"bytes":Infinity}',
        b'{"bytes":-Infinity}',
        b'{"bytes":01}',
        b'{"bytes":+1}',
        b'{"bytes":1.}',
        b'{"bytes":.5}',
        b'{"bytes":1e}',
        b'{"bytes":0x10}',
        b'{"bytes":1_000}',
        b'{"extra":[1,]}',
        b'{"id":"1",}',
        b"{'id':'1'}",
        b'{id:"1"}',
        b'{1:"1"}',
        b'{"id":"a\nb"}',
        b'{"extra":"a\x01b"}',
        b'{"id":"\\x41"}',
        b'{"id":"\\u12"}',
        b'{"id":"\\ud800"}',
        b'{"id":"\\udc00"}',
        b'{"id":"\\ud800\\u0041"}',
        b'{"id":"\\ud800\\ud800"}',
        b'{"extra":"\\ud800"}',
        b'{"\\ud800":1}',
        b'{"id":"\xff"}',
        b'{"id":"\xed\xa0\x80"}',
        b'{"id":"\xc0\xaf"}',
        b"\xff\xfe\x00\x01",
        b"\x80\x04\x95",
    ],
)
def test_what_is_no_json_is_malformed(raw: bytes) -> None:
    assert reason(raw) == "malformed_json"


@pytest.mark.parametrize("raw", [b"[1]", b'"text"', b"5", b"1.5", b"null", b"true", b"[]", b" [ { } ] "])
def test_a_record_must_be_an_object(raw: bytes) -> None:
    assert reason(raw) == "not_an_object"
    assert reason(raw, DEEP) == "not_an_object"


def test_bytes_that_are_no_utf8_spoil_mapped_texts_only() -> None:
    assert value(b'{"id":"1","extra":"\xff","\xfe":2}', "id") == "1"


def test_u0000_and_whole_surrogate_pairs_are_text() -> None:
    assert value(b'{"id":"a\\u0000"}', "id") == "a\x00"
    assert value(b'{"id":"\\ud83d\\ude00"}', "id") == "😀"


@pytest.mark.parametrize("digits", [4_301, 5_000, 500_000])
def test_an_integer_of_thousands_of_digits_is_too_long_where_it_is_mapped(digits: int) -> None:
    assert reason(b'{"id":"1","bytes":%s}' % (b"9" * digits)) == "number_too_long"
    assert reason(b'{"id":"1","bytes":-%s}' % (b"9" * digits)) == "number_too_long"
    assert value(b'{"id":"1","extra":%s}' % (b"9" * digits), "id") == "1"


@pytest.mark.parametrize("depth", [NESTING_MAX + 1, 1_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_deep_nesting_is_refused_mapped_or_not(depth: int, opening: bytes, closing: bytes) -> None:
    deep = opening * (depth - 1) + b"1" + closing * (depth - 1)
    for name in (b"speed", b"extra"):
        assert reason(b'{"id":"1","%s":%s}' % (name, deep)) == "nested_too_deep"
    assert reason(opening * depth) == "nested_too_deep"


def test_nesting_up_to_the_limit_is_read() -> None:
    for name in (b"speed", b"extra"):
        deep = b"[" * (NESTING_MAX - 1) + b"]" * (NESTING_MAX - 1)
        assert value(b'{"id":"1","%s":%s}' % (name, deep), "id") == "1"


@pytest.mark.parametrize("pattern", [b"[", b"{", b'\\"[{', b"\\\\[", b"[]}{"])
def test_brackets_in_texts_do_not_nest(pattern: bytes) -> None:
    many = pattern * 100_000
    raw = b'{"id":"1","extra":"%s","speed":"[%s"}' % (many, many)
    assert value(raw, "id") == "1"


def test_many_brackets_side_by_side_do_not_nest() -> None:
    assert value(b'{"id":"1","extra":[%s{}]}' % (b"{},[]," * 50_000), "id") == "1"


@given(
    st.lists(st.sampled_from([b"[", b"]", b"{", b"}", b'"', b"\\", b"a", b'\\"', b"\xff"]), max_size=60).map(b"".join)
)
def test_nesting_is_measured_like_counting_by_hand(raw: bytes) -> None:
    deep = b"[" * (NESTING_MAX - 10) + raw
    found = Decoder([FLAT]).decode([deep])[0]
    assert (found.reason == "nested_too_deep") == (levels(deep) > NESTING_MAX)


@pytest.mark.parametrize("pattern", [b'\\"', b'"', b'"\\', b"\\", b"[", b"[]", b'["', b'{"a":[', b"1,", b"\xff"])
def test_no_bytes_take_long(pattern: bytes) -> None:
    """Nor does a search for strings turn back: a megabyte in well under a second, whatever it repeats."""
    raw = (b"[" * (NESTING_MAX + 1) + b'"' + pattern * RECORD_BYTES_MAX)[:RECORD_BYTES_MAX]
    started = time.perf_counter()
    assert type(Decoder([FLAT]).decode([raw])[0]) is Undecodable
    assert time.perf_counter() - started < 2


def test_a_record_may_have_a_mebibyte_and_no_more() -> None:
    frame = b'{"id":"1","extra":"%s"}'
    room = RECORD_BYTES_MAX - len(frame) + 2
    assert value(frame % (b"x" * room), "id") == "1"
    assert reason(frame % (b"x" * (room + 1))) == "record_too_large"
    assert reason(frame % (b"x" * 10_000_000)) == "record_too_large"
    assert reason(b"x" * 10_000_000) == "record_too_large"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "empty"),
        (b"[1]", "must be a JSON object, not a list"),
        (b"null", "not null"),
        (b"1.5", "not a number"),
        (b'{"id":"\\ud800"}', "half a surrogate pair"),
        (b'{"id":"1"}x', "trailing characters"),
        (b"[" * 300, "deeper than 200 levels"),
        (b" " * 2_000_000, "2,000,000 bytes; 1,048,576 are allowed"),
    ],
)
def test_the_detail_is_for_people(raw: bytes, words: str) -> None:
    found = decode(raw)
    assert isinstance(found, Undecodable)
    assert words in found.detail


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.decimals(allow_nan=False, allow_infinity=False).map(float)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "data", "region", "zone", "name", "cost"]) | st.text(max_size=3), inner
        )
    ),
    max_leaves=10,
)
SETUPS = [[FLAT], [DEEP], BOTH, [event_type(groups=['a"b'])]]


@given(st.lists(json_values, min_size=1, max_size=5), st.sampled_from(SETUPS), st.booleans())
def test_any_json_is_what_the_standard_library_reads(
    values: list[object], events: list[EventType], ascii: bool
) -> None:
    raws = [json.dumps(one, ensure_ascii=ascii).encode("utf-8", "replace") for one in values]
    decoder = Decoder(events)
    for raw, found in zip(raws, decoder.decode(raws), strict=True):
        expected = json.loads(raw, parse_float=NumberText)
        if not isinstance(expected, dict):
            assert found.reason == "not_an_object"
            continue
        for path in {path for event in events for path in paths_of_event(event)}:
            wanted: object = expected
            for step in path.split("."):
                if isinstance(wanted, dict):
                    wanted = wanted.get(step)
                elif wanted is not None:
                    wanted = NotAnObject
            got = decoder.getter(path)(found)
            if wanted is NotAnObject:
                assert isinstance(got, NotAnObject)
            else:
                assert (got, type(got)) == (wanted, type(wanted))


any_bytes = st.one_of(
    st.binary(max_size=50),
    st.builds(lambda at, junk: GOOD[:at] + junk + GOOD[at:], st.integers(0, len(GOOD)), st.binary(max_size=3)),
    st.lists(
        st.sampled_from([b'{"data":', b'{"id":', b"[", b"]", b"}", b'"', b"\\", b",", b"1", b"5e", b"\xff", b"null"])
    ).map(b"".join),
    st.sampled_from(
        [GOOD, b"", b"[" * 400, b'{"data":5}', b'{"id":%s}' % (b"1" * 5_000), b" " * (RECORD_BYTES_MAX + 1)]
    ),
)


@given(st.lists(any_bytes, max_size=8), st.sampled_from(SETUPS))
@example([b'{"data":{"zone":5}}', b'{"data":5}', b'"', GOOD], [DEEP])
def test_any_batch_is_its_records_one_by_one_and_nothing_is_raised(raws: list[bytes], events: list[EventType]) -> None:
    decoder = Decoder(events)
    together = [mapped(decoder, one, events) for one in decoder.decode(raws)]
    assert together == [mapped(decoder, decoder.decode([raw])[0], events) for raw in raws]
    for one in together:
        if isinstance(one, dict):
            assert all(issubclass(kind, (*PLAIN_KINDS, NotAnObject, dict, list)) for kind, _ in one.values())


def test_a_seeded_storm_of_broken_records_raises_nothing() -> None:
    random_bytes = random.Random(20_260_101)
    decoder = Decoder([DEEP])
    good = b'{"id":"1","at":"2022-08-14T15:14:31Z","customer":7,"data":{"x":"eu","zone":{"name":"\\u00e9"},"cost":1}}'
    raws = []
    for _ in range(20_000):
        raw = bytearray(good)
        for _ in range(random_bytes.randint(1, 3)):
            raw[random_bytes.randrange(len(raw))] = random_bytes.randrange(256)
        raws.append(bytes(raw[: random_bytes.randint(0, len(raw))] if random_bytes.random() < 0.2 else raw))
    found = decoder.decode(raws)
    bad = sum(isinstance(one, Undecodable) for one in found)
    assert 0 < bad < len(raws)


def test_no_value_passes_through_a_float() -> None:
    texts = [f"{Decimal(number).scaleb(-17)}" for number in random.Random(7).choices(range(10**17, 10**18), k=100)]
    decoder = Decoder([FLAT])
    found = decoder.decode([f'{{"bytes":{text}}}'.encode() for text in texts])
    assert [decoder.getter("bytes")(one) for one in found] == texts
