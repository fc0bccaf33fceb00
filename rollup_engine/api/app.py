"""The application: its paths, what stands before them, and how every error leaves.

measuring → interruption by a stop → authentication → limit on bodies → path
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from typing import Final

from fastapi import FastAPI

from rollup_engine.api import documents, health, metrics, pages, query, status, volume
from rollup_engine.api.auth import Authentication
from rollup_engine.api.bodies import BodyLimit
from rollup_engine.api.interrupted import Interrupted
from rollup_engine.api.measuring import Measuring
from rollup_engine.api.problems import add_handlers
from rollup_engine.api.services import Services

BODY_BYTES_MAX: Final = 128 << 10  # metric SQL has at most 20,000 characters; JSON may escape each

DESCRIPTION: Final = (
    "Billable metrics over rolled-up events. Every answer says how fresh it is: `data_through` and `final`."
    " Errors are `application/problem+json`."
)


def application(services: Callable[[], AbstractAsyncContextManager[Services]], rate: str) -> FastAPI:
    """`services` is entered as the application starts. `rate`: what a key may do, such as 600/minute."""

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
    for module in (metrics, query, volume, status, health, pages):
        app.include_router(module.router)
    add_handlers(app)
    app.add_middleware(BodyLimit, bytes_max=BODY_BYTES_MAX)
    app.add_middleware(Authentication, services=lambda: app.state.services, rate=rate)
    app.add_middleware(Interrupted)
    app.add_middleware(Measuring)
    app.openapi = lambda: documents.document(app)  # type: ignore[method-assign]
    return app
