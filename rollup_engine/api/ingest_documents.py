"""What the OpenAPI document says of the paths that take events, which read their bodies themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, Field

from rollup_engine.api import documents, problems


class EventToIngest(BaseModel):
    """One event in Orb's shape; further members are passed on. Exactly one of the two customer ids is given."""

    event_name: str = Field(examples=["file_download"])
    idempotency_key: str = Field(examples=["8a0f7c9e-8d2b-4c8b-9a6e-0f4f2a4f2d1c"], description="The event's id.")
    timestamp: str = Field(examples=["2024-03-14T10:09:58Z"], description="RFC 3339; without an offset it is UTC.")
    properties: dict[str, Any]
    external_customer_id: str | None = Field(default=None, examples=["acme"])
    customer_id: str | None = None


class EventsToIngest(BaseModel):
    events: list[EventToIngest] = Field(max_length=500)


class NotTaken(BaseModel):
    """`idempotency_key`: of the event; empty where it has none."""

    idempotency_key: str
    validation_errors: list[str]


class Taken(BaseModel):
    """With `?debug=true`: the keys of the events that were taken, and of those the ones that came twice in the call."""

    ingested: list[str]
    duplicate: list[str]


class Ingested(BaseModel):
    """All events are durable."""

    validation_failed: list[NotTaken] = Field(max_length=0)
    debug: Taken | None = None


class IngestProblem(documents.Problem):
    """Every event that `validation_failed` does not name is durable. An empty list: the body could not be read, and
    nothing of it is."""

    validation_failed: list[NotTaken] | None = None
    debug: Taken | None = None


MODELS: Final[tuple[type[BaseModel], ...]] = (EventsToIngest, IngestProblem)

_IDEMPOTENCY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A new text for each call, the same on its retries: these get the first answer again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}


def taken(model: Any) -> dict[int | str, Any]:
    """The `responses` of a path that takes events. `model` None: it answers 204."""
    found = documents.answers(model, 400, 408, 413, 415, not_modified=False)
    del found[200]
    if model is None:
        found[204] = {"description": "All events are durable"}
    else:
        found[200] = {"description": "All events are durable", "model": model}
    found[400] = {
        "description": "Some events were not taken, and `validation_failed` names them; or the body cannot be read",
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/IngestProblem"}}},
    }
    found[503] = {
        **documents.problem_response(503),
        "description": "Kafka does not acknowledge, too much waits, or the server stops",
    }
    return found


def events_body(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a path that reads its body itself says of it. `content`: by media type."""
    return {"requestBody": {"required": True, "content": dict(content)}, "parameters": [_IDEMPOTENCY]}
