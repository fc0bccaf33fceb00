"""Raw bytes to mapped values: every way in which a record can be odd."""

from __future__ import annotations

import json
import time

import pytest

from rollup_engine.numbers import NumberText, describe
from rollup_engine.route.decode import NESTING_MAX, RECORD_BYTES_MAX, Decoder, NotAnObject, Undecodable
from tests.unit.route.decoding import BOTH, DEEP, FLAT, GOOD, decode, reason, value
from tests.unit.route.specs import event_type


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


def test_a_null_parent_beside_one_that_is_no_object_is_still_missing() -> None:
    event = event_type(groups=["data.zone.name", "meta.x"])
    for data in ("null", '{"zone":null}', "{}"):
        raw = f'{{"data":{data},"meta":5}}'.encode()
        assert value(raw, "data.zone.name", event) is None
        assert isinstance(value(raw, "meta.x", event), NotAnObject)


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
        event = event_type(groups=[path], id_paths=("id",))
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
