"""Whether the process lives, whether it can answer, and its own metrics. Without a key: for probes and scrapers."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse, Response

from rollup_engine.api import documents
from rollup_engine.api.problems import MEDIA_TYPE, unavailable
from rollup_engine.api.services import Services

router = APIRouter(tags=["health"])
READY_SECONDS: Final = 2.0
_NOT_READY: Final = {
    "description": "Not now",
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


@router.get("/health/live", summary="The process runs", responses={200: {"model": documents.Health}})
async def live() -> Response:
    """Asks nothing of anybody."""
    return JSONResponse({"status": "ok"})


@router.get("/health/ready", summary="It can answer", responses={200: {"model": documents.Health}, 503: _NOT_READY})
async def ready(request: Request) -> Response:
    """503 while Postgres does not answer, or has no table of keys yet."""
    services: Services = request.app.state.services
    try:
        async with asyncio.timeout(READY_SECONDS):
            await services.pool.fetchval("SELECT count(*) FROM rollup_engine.api_keys WHERE id = ''")
    except Exception as error:
        raise unavailable("Postgres does not answer, or was not migrated.") from error
    return JSONResponse({"status": "ok"})


@router.get(
    "/metrics",
    summary="Prometheus' text format",
    responses={
        200: {"description": "This process's metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}
    },
    response_class=Response,
)
async def metrics() -> Response:
    """Of this process: requests, seconds, answers from the cache. Nothing of customers."""
    return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
