"""`POST /v1/ingest`: events in Orb's shape, taken for good before the answer.

Owns: the form of its answers. 200 and 400 both mean: every event that `validation_failed` does not name is acknowledged
by all in-sync replicas of Kafka. Any other answer says nothing, and sending the same again counts nothing twice.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from rollup_engine.api import ingest_documents as documents
from rollup_engine.api.auth import Ingester
from rollup_engine.api.formats import JSON
from rollup_engine.api.ingesting import answered, not_taken
from rollup_engine.api.problems import Problem
from rollup_engine.api.services import Services

router = APIRouter(prefix="/v1/ingest", tags=["ingest"])


@router.post(
    "",
    summary="Take events in Orb's shape",
    responses=documents.taken(documents.Ingested),
    openapi_extra=documents.events_body({JSON: {"schema": {"$ref": "#/components/schemas/EventsToIngest"}}}),
)
async def ingest(
    request: Request,
    key: Ingester,
    debug: Annotated[bool, Query(description="Name the events that were taken as well.")] = False,
    backfill_id: Annotated[str | None, Query(description="Backfills are not supported: leave it out.")] = None,
) -> Response:
    """Up to 500 events a call. 200: all of them are durable. 400: those in `validation_failed` were not taken, and all
    others are durable. Anything else: send the same again; no event counts twice."""
    unknown = sorted(set(request.query_params) - {"debug", "backfill_id"})
    if unknown:
        raise Problem(422, f"{unknown[0]!r} is no parameter of this address. It takes 'debug'.")
    if backfill_id is not None:
        raise Problem(422, "Backfills are not supported. Leave backfill_id out: events are taken within grace_period.")
    services: Services = request.app.state.services

    async def work(body: bytes) -> Response:
        intake = await services.intake()
        from rollup_engine.intake import orb  # brings polars along, as the line above does

        events = orb.read(body, services.settings.ingest_events_max)
        judged = await intake.take(events, key.customer)
        failed = [{"idempotency_key": event.key, "validation_errors": list(errors)} for event, errors in judged.refused]
        members: dict[str, Any] = {"validation_failed": failed}
        if debug:
            times = Counter(event.key for event in judged.accepted)
            members["debug"] = {"ingested": list(times), "duplicate": [name for name, n in times.items() if n > 1]}
        if failed:
            return not_taken(members)
        return Response(msgspec.json.encode(members), headers={"Cache-Control": "no-store"}, media_type=JSON)

    return await answered(request, key, work)
