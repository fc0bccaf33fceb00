"""Helpers for tests of the decoder: a record decoded alone, and in a batch between two good ones."""

from __future__ import annotations

from collections.abc import Sequence

from rollup_engine.config.model import EventType
from rollup_engine.route.decode import Decoder, Undecodable, paths_of
from tests.unit.route.specs import a_sum, event_type

FLAT = event_type(groups=["speed"], sums=[a_sum("bytes")])
DEEP = event_type(groups=["data.region", "data.zone.name"], sums=[a_sum("data.cost")])
BOTH = [event_type("whole", groups=["data"]), event_type("inside", groups=["data.region", "data.zone.name"])]
GOOD = b'{"id":"1","at":"2022-08-14T15:14:31Z","customer":"c","speed":"fast","bytes":3256}'


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
    paths = sorted({path for event in events for path in paths_of(event)})
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
