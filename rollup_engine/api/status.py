"""How far the engine is: for operators, over all customers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from billable_metrics.times import shown
from rollup_engine.api import documents
from rollup_engine.api.auth import UnboundReader
from rollup_engine.api.services import Services
from rollup_engine.clock import FIRST_MS
from rollup_engine.runtime.database import at_time

router = APIRouter(prefix="/v1/status", tags=["status"])


@router.get("", summary="Lag, watermarks, books", responses=documents.answers(documents.StatusAnswer))
async def status(request: Request, key: UnboundReader) -> Response:
    """The books per event type, with lag and watermark; how fresh each rollup is; and what stands still."""
    services: Services = request.app.state.services
    now = await services.current()
    found = await services.status()
    content: dict[str, Any] = found.to_dict()
    content["rollups"] = {
        table: {
            "data_through": None if through_ms is None else shown(at_time(through_ms)),
            "closed_before": None if closed_ms == FIRST_MS else shown(at_time(closed_ms)),
        }
        for table, (through_ms, closed_ms) in sorted(now.fresh.by_table.items())
    }
    return documents.json_response(request, content)
