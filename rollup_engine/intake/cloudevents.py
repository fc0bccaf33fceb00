"""CloudEvents 1.0 in JSON: a request's body to submitted events, each with what is wrong with its form.

Owns: what the specification asks of an event (https://github.com/cloudevents/spec: `spec.md`,
`formats/json-format.md`). Must never change or fill in anything: the record is the event as it was sent, and a time of
arrival would differ between an event and its retry. What the YAML asks of it is the door's matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from rollup_engine.intake.bodies import UNDECODABLE, events_of
from rollup_engine.intake.door import Submitted

SPECVERSION: Final = "1.0"
_TEXTS: Final = ("id", "source", "type")
_SHOWN: Final = 100


class _Envelope(msgspec.Struct, gc=False):
    """What is looked at. An attribute that is null counts as left out (JSON format, 2.2)."""

    specversion: Any = None
    id: Any = None
    source: Any = None
    type: Any = None
    data_base64: Any = None


class Key(NamedTuple):
    """What identifies an event: "source + id is unique for each distinct event" (spec.md). None where it is no text."""

    source: str | None
    id: str | None

    def text(self, place: int) -> str:
        """As `Submitted.key`; no two keys have the same. One that identifies nothing is told apart by its place in the
        request, so that it does not count as the key of other events too."""
        parts = [*self] if self.source and self.id else [*self, place]
        return msgspec.json.encode(parts).decode()

    @classmethod
    def of(cls, text: str) -> Key:
        """The key that `text` returned this for."""
        source, name, *_ = msgspec.json.decode(text)
        return cls(source, name)


_envelope = msgspec.json.Decoder(_Envelope)
_single = msgspec.json.Decoder(msgspec.Raw)
_batch = msgspec.json.Decoder(list[msgspec.Raw])


def read(body: bytes, events_max: int, *, batched: bool) -> list[Submitted]:
    """The events of a request, in order; one unless `batched`. Raises `Unreadable`."""
    found = events_of(
        body,
        _batch.decode if batched else lambda text: [_single.decode(text)],
        "A batch must be a JSON array of events",
        events_max,
    )
    return [_read(*one, place) for place, one in enumerate(found)]


def _read(value: bytes, wrong: Sequence[str], place: int) -> Submitted:
    try:
        envelope = _envelope.decode(value)
    except UNDECODABLE as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else error
        return Submitted(value, "", Key(None, None).text(place), [*wrong, f"is no CloudEvent in JSON: {why}"])
    key = Key(_text(envelope.source), _text(envelope.id))
    return Submitted(value, _text(envelope.type) or "", key.text(place), [*wrong, *_errors(envelope)])


def _errors(envelope: _Envelope) -> list[str]:
    errors = []
    if envelope.specversion != SPECVERSION:
        errors.append(f"specversion must be {SPECVERSION!r}, and is {_shown(envelope.specversion)}")
    for name in _TEXTS:
        value = getattr(envelope, name)
        if not _text(value):
            errors.append(f"{name} must be a text that is not empty, and is {_shown(value)}")
    if envelope.data_base64 is not None:
        errors.append("data_base64 holds what no path of a YAML can reach: send `data`, as JSON")
    return errors


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _shown(value: object) -> str:
    try:
        return "missing" if value is None else msgspec.json.encode(value).decode()[:_SHOWN]
    except RecursionError:
        return "nested too deep"
