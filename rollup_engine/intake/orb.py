"""Events in Orb's shape: the body of `POST /v1/ingest` to submitted events, each with what is wrong with its envelope.

Owns: the rules of https://docs.withorb.com/api-reference/event/ingest-events as the docstring of `Events.ingest` in
Orb's client gives them. Bytes stay as they were sent, with two exceptions, by which the engine understands what Orb
does: `external_customer_id` is added where only `customer_id` is given, and a timestamp without an offset gets its `Z`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from rollup_engine.config.model import Timestamp
from rollup_engine.intake.bodies import UNDECODABLE, events_of
from rollup_engine.intake.door import Submitted
from rollup_engine.route import timestamps
from rollup_engine.route.timestamps import TimestampError, parse_rfc3339

_TIMESTAMP: Final = Timestamp(path="timestamp")


class _Body(msgspec.Struct, gc=False):
    events: list[msgspec.Raw]


class _Event(msgspec.Struct, gc=False):
    event_name: str
    idempotency_key: str
    timestamp: str
    properties: msgspec.Raw
    customer_id: str | None = None
    external_customer_id: str | None = None


_body = msgspec.json.Decoder(_Body)
_event = msgspec.json.Decoder(_Event)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read(body: bytes, events_max: int) -> list[Submitted]:
    """The events of a request, in order. Raises `Unreadable`."""
    found = events_of(body, lambda text: _body.decode(text).events, 'The body must be {"events": […]}', events_max)
    return _with_timestamps([_read(*one) for one in found])


def _read(value: bytes, wrong: Sequence[str]) -> tuple[Submitted, str | None]:
    """The event, and its timestamp where it is text."""
    try:
        event = _event.decode(value)
    except UNDECODABLE:
        return _broken(value, wrong), None
    errors = [*wrong]
    if not event.event_name:
        errors.append("event_name is empty")
    if not event.idempotency_key:
        errors.append("idempotency_key is empty")
    if not bytes(event.properties).startswith(b"{"):
        errors.append("properties must be an object")
    if (event.customer_id is None) == (event.external_customer_id is None):
        errors.append("exactly one of customer_id and external_customer_id must be given")
    elif not (event.customer_id or event.external_customer_id):
        errors.append("the customer's id is empty")
    elif event.external_customer_id is None:
        value = value[:-1] + b',"external_customer_id":' + msgspec.json.encode(event.customer_id) + b"}"
    return Submitted(value, event.event_name, event.idempotency_key, errors), event.timestamp


def _broken(value: bytes, wrong: Sequence[str]) -> Submitted:
    """An event with members missing or of another type: all of them named."""
    try:
        members: dict[str, Any] = _members.decode(value)
    except UNDECODABLE as error:
        deep = isinstance(error, RecursionError)
        what = "the event is nested too deep" if deep else "an event must be an object"
        return Submitted(value, "", "", [*wrong, what])
    errors = [*wrong]
    for name, kind in (("event_name", "text"), ("idempotency_key", "text"), ("timestamp", "text")):
        if _text(members.get(name)) is None:
            errors.append(f"{name} must be {kind}" if name in members else f"{name} is missing")
    if "properties" not in members:
        errors.append("properties is missing")
    elif not bytes(members["properties"]).startswith(b"{"):
        errors.append("properties must be an object")
    ids = [members[name] for name in ("customer_id", "external_customer_id") if _given(members.get(name))]
    if len(ids) != 1:
        errors.append("exactly one of customer_id and external_customer_id must be given")
    elif _text(ids[0]) is None:
        errors.append("the customer's id must be text")
    key = _text(members.get("idempotency_key")) or ""
    return Submitted(value, "", key, errors or ["the event cannot be read"])


def _given(raw: msgspec.Raw | None) -> bool:
    return raw is not None and bytes(raw) != b"null"


def _text(raw: msgspec.Raw | None) -> str | None:
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=str)
    except UNDECODABLE:
        return None


def _with_timestamps(events: Sequence[tuple[Submitted, str | None]]) -> list[Submitted]:
    """Timestamps looked at in one column; Orb takes one without an offset for UTC, and the record has to say so."""
    read = [event for event, _ in events]
    rows = [row for row, (_, text) in enumerate(events) if text is not None]
    _, wrong = timestamps.column([events[row][1] for row in rows], _TIMESTAMP)
    for place, why in wrong.items():
        row = rows[place]
        event, text = events[row]
        try:
            parse_rfc3339(f"{text}Z")
        except TimestampError:
            read[row] = event._replace(errors=[*event.errors, f"timestamp: {why}"])
        else:
            try:
                members = _members.decode(event.value)
            except RecursionError:
                read[row] = event._replace(errors=[*event.errors, "the event is nested too deep"])
                continue
            members["timestamp"] = msgspec.Raw(msgspec.json.encode(f"{text}Z"))
            read[row] = event._replace(value=msgspec.json.encode(members))
    return read
