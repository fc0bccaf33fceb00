"""The decoder on any bytes and any JSON: as the standard library reads it, batches as their records, nothing raised."""

from __future__ import annotations

import json
import random
from decimal import Decimal

from hypothesis import example, given
from hypothesis import strategies as st

from rollup_engine.config.model import EventType
from rollup_engine.numbers import NumberText
from rollup_engine.route.decode import NESTING_MAX, RECORD_BYTES_MAX, Decoder, NotAnObject, Undecodable, paths_of
from tests.unit.route.decoding import BOTH, DEEP, FLAT, GOOD, mapped
from tests.unit.route.naive_json import levels
from tests.unit.route.specs import event_type

PLAIN_KINDS = (str, int, bool, NumberText, type(None))
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
        for path in {path for event in events for path in paths_of(event)}:
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


@given(
    st.lists(st.sampled_from([b"[", b"]", b"{", b"}", b'"', b"\\", b"a", b'\\"', b"\xff"]), max_size=60).map(b"".join)
)
def test_nesting_is_measured_like_counting_by_hand(raw: bytes) -> None:
    deep = b"[" * (NESTING_MAX - 10) + raw
    found = Decoder([FLAT]).decode([deep])[0]
    assert (found.reason == "nested_too_deep") == (levels(deep) > NESTING_MAX)
