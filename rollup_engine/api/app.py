"""The application: its paths, what stands before them, and how every error leaves.

measuring → interruption by a stop → authentication → admission of events → limit on bodies → path
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from typing import Final

from fastapi import FastAPI

from rollup_engine.api import (
    cloudevents,
    documents,
    health,
    ingest,
    ingest_documents,
    metrics,
    pages,
    query,
    status,
    volume,
)
from rollup_engine.api.admission import INGEST_BODY_BYTES_MAX, INGEST_PATHS, Admission
from rollup_engine.api.auth import Authentication
from rollup_engine.api.bodies import BodyLimit
from rollup_engine.api.interrupted import Interrupted
from rollup_engine.api.measuring import Measuring
from rollup_engine.api.problems import add_handlers
from rollup_engine.api.services import Services
from rollup_engine.config.settings import Settings

BODY_BYTES_MAX: Final = 128 << 10  # metric SQL has at most 20,000 characters; JSON may escape each

DESCRIPTION: Final = (
    "Billable metrics over rolled-up events. Every answer says how fresh it is: `data_through` and `final`."
    " Errors are `application/problem+json`."
)


def application(services: Callable[[], AbstractAsyncContextManager[Services]], settings: Settings) -> FastAPI:
    """`services` is entered as the application starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with services() as started:
            app.state.services = started
            yield

    app = FastAPI(
        title="Rollup engine",
        version=version("rollup-engine"),
        description=DESCRIPTION,
        docs_url=None,  # these load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    for module in (ingest, cloudevents, metrics, query, volume, status, health, pages):
        app.include_router(module.router)
    add_handlers(app)
    app.add_middleware(BodyLimit, bytes_max=_body_bytes_max)
    app.add_middleware(Admission, bytes_max=settings.ingest_held_mb << 20)
    app.add_middleware(
        Authentication,
        services=lambda: app.state.services,
        rate=settings.api_rate,
        ingest_rate=settings.ingest_rate,
    )
    app.add_middleware(Interrupted)
    app.add_middleware(Measuring)
    app.openapi = lambda: documents.document(app, ingest_documents.MODELS)  # type: ignore[method-assign]  # as FastAPI says
    return app


def _body_bytes_max(path: str) -> int:
    return INGEST_BODY_BYTES_MAX if path in INGEST_PATHS else BODY_BYTES_MAX
