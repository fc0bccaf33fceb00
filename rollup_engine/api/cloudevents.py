"""CloudEvents over HTTP: `POST /v1/cloudevents`, and the address that OpenMeter's clients post to.

Owns: content types and answers, by the specification's `bindings/http-protocol-binding.md` and `http-webhook.md`: 204
for what was taken, 415 for a mode or format that is not understood. An answer means what it means at `/v1/ingest`.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.message import Message
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from rollup_engine.api import ingest_documents as documents
from rollup_engine.api.auth import Ingester
from rollup_engine.api.ingesting import answered, not_taken
from rollup_engine.api.problems import MEDIA_TYPE, Problem
from rollup_engine.api.services import Services
from rollup_engine.runtime.api_keys import ApiKey

STRUCTURED: Final = "application/cloudevents+json"
BATCHED: Final = "application/cloudevents-batch+json"
PLAIN: Final = "application/json"

_TEXT: Final = {"type": "string", "minLength": 1}
_EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": _TEXT,
        "source": {**_TEXT, "description": "`source` and `id` together are unique."},
        "type": _TEXT,
        "subject": {"type": ["string", "null"]},
        "time": {"type": ["string", "null"], "format": "date-time"},
        "data": {"description": "JSON; its paths are what a YAML names."},
    },
    "not": {"required": ["data_base64"]},
}
_EVENTS: Final[dict[str, Any]] = {"type": "array", "items": _EVENT, "maxItems": 500}
_CONTENT: Final = {STRUCTURED: {"schema": _EVENT}, BATCHED: {"schema": _EVENTS}}
_NOT_TAKEN: Final = {
    "type": "object",
    "required": ["source", "id", "validation_errors"],
    "properties": {
        "source": {"type": ["string", "null"]},
        "id": {"type": ["string", "null"]},
        "validation_errors": {"type": "array", "items": {"type": "string"}},
    },
}
_PROBLEM: Final = {
    "allOf": [
        {"$ref": "#/components/schemas/Problem"},
        {"type": "object", "properties": {"validation_failed": {"type": "array", "items": _NOT_TAKEN}}},
    ]
}


def _responses() -> dict[int | str, dict[str, Any]]:
    found = documents.taken(None)
    found[400] = {**found[400], "content": {MEDIA_TYPE: {"schema": _PROBLEM}}}
    return found


router = APIRouter(tags=["ingest"])


@router.post(
    "/v1/cloudevents",
    status_code=204,
    summary="Take CloudEvents",
    responses=_responses(),
    openapi_extra=documents.events_body(_CONTENT),
)
async def cloudevents(request: Request, key: Ingester) -> Response:
    """One CloudEvent 1.0, or an array of up to 500. 204: all of them are durable. 400: those in `validation_failed`
    were not taken, and all others are durable. Anything else: send the same again; no event counts twice."""
    return await _take(request, key)


@router.post(
    "/api/v1/events",
    status_code=204,
    summary="Take CloudEvents, where OpenMeter's clients send them",
    responses=_responses(),
    openapi_extra=documents.events_body(_CONTENT | {PLAIN: {"schema": {"oneOf": [_EVENT, _EVENTS]}}}),
)
async def openmeter_events(request: Request, key: Ingester) -> Response:
    """As `/v1/cloudevents`; `application/json` holds one event or an array of them."""
    return await _take(request, key, plain=True)


async def _take(request: Request, key: ApiKey, *, plain: bool = False) -> Response:
    if request.query_params:
        raise Problem(422, f"{next(iter(request.query_params))!r} is no parameter of this address. It takes none.")
    kind = _kind(request.headers, plain=plain)
    services: Services = request.app.state.services

    async def work(body: bytes) -> Response:
        intake = await services.intake()
        from rollup_engine.intake import cloudevents as form  # brings polars along, as the line above does

        batched = kind == BATCHED or (kind == PLAIN and body.lstrip()[:1] == b"[")
        events = form.read(body, services.settings.ingest_events_max, batched=batched)
        judged = await intake.take(events, key.customer)
        failed = [
            {**form.Key.of(event.key)._asdict(), "validation_errors": list(errors)} for event, errors in judged.refused
        ]
        if failed:
            return not_taken({"validation_failed": failed})
        return Response(status_code=204, headers={"Cache-Control": "no-store"})

    return await answered(request, key, work)


def _kind(headers: Mapping[str, str], *, plain: bool) -> str:
    """The media type of the body. Raises `Problem` 415."""
    parsed = Message()
    parsed["content-type"] = headers.get("content-type", "")
    kind, charset = parsed.get_content_type(), str(parsed.get_param("charset", "utf-8"))
    accepted = [STRUCTURED, BATCHED, *([PLAIN] if plain else [])]
    if any(name.lower().startswith("ce-") for name in headers) and kind not in (STRUCTURED, BATCHED):
        why = "Binary mode, with attributes in `ce-` headers, is not understood: put them into the JSON"
    elif not headers.get("content-type") or kind not in accepted:
        why = f"Content-Type {headers.get('content-type', '')[:60]!r} is not understood"
    elif charset.lower() not in ("utf-8", "utf8"):
        why = f"Charset {charset[:20]!r} is not understood: CloudEvents in JSON are UTF-8"
    else:
        return kind
    raise Problem(
        415,
        f"{why}. Send one event as {STRUCTURED}, or an array of them as {BATCHED}.",
        headers={"Accept": ", ".join(accepted)},
    )
