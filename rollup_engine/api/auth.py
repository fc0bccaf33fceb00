"""Who asks: the key of every request under /v1, how often it may ask, and what for.

Owns: 401, 403 and 429. A request without a good key learns nothing, not even whether its address exists: the key is
looked up before anything else, in the database each time, so that a revocation holds at once. While Postgres does not
answer, and only then, events are taken with a key that was good minutes ago (`outage`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Annotated, Final

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from rollup_engine.api.admission import INGEST_PATHS
from rollup_engine.api.problems import Problem, problem_of
from rollup_engine.api.services import DATABASE_SECONDS, Services
from rollup_engine.runtime import api_keys
from rollup_engine.runtime.api_keys import ApiKey

PREFIXES: Final = ("/v1/", "/api/v1/")
REALM: Final = 'Bearer realm="rollup-engine"'

_bearer = HTTPBearer(
    scheme_name="ApiKey",
    bearerFormat="rk_<id>_<secret>",
    description="A key made by `rollup-engine api-keys create`, as `Authorization: Bearer rk_…`.",
    auto_error=False,
)


class Rate:
    """Requests of each key within a moving window, counted by this process."""

    def __init__(self, rate: str, kind: type[RateLimiter] = MovingWindowRateLimiter) -> None:
        """`rate`: such as 600/minute. `kind`: the moving window is exact and remembers the time of every request."""
        self._limit, self._text = parse(rate), rate
        self._limiter = kind(MemoryStorage())

    async def check(self, key: ApiKey) -> None:
        """Count one request. Raises `Problem` 429 where there were too many."""
        if await self._limiter.hit(self._limit, key.id):
            return
        reset_time, _ = await self._limiter.get_window_stats(self._limit, key.id)
        seconds = max(1, math.ceil(reset_time - time.time()))
        raise Problem(
            429,
            f"This key may make {self._text.replace('/', ' requests a ')}. Try again in {seconds} s.",
            headers={"Retry-After": str(seconds)},
        )


class Authentication:
    """ASGI middleware: lets requests under /v1 through with a good key, which `needs` then finds in their scope."""

    def __init__(self, app: ASGIApp, services: Callable[[], Services], rate: str, ingest_rate: str) -> None:
        self._app, self._services, self._rate = app, services, Rate(rate)
        self._ingest_rate = Rate(ingest_rate, SlidingWindowCounterRateLimiter)  # thousands a minute: two counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PREFIXES):
            ingests = scope["path"] in INGEST_PATHS
            try:
                scope["api_key"] = await self._key(HTTPConnection(scope), ingests)
                await (self._ingest_rate if ingests else self._rate).check(scope["api_key"])
            except Exception as error:
                problem = problem_of(error)
                if problem.status == 500:
                    raise
                await problem.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _key(self, connection: HTTPConnection, ingests: bool) -> ApiKey:
        given = connection.headers.get("authorization", "")
        scheme, _, text = given.partition(" ")
        if not given or scheme.lower() != "bearer":
            raise Problem(401, "A key is needed, as `Authorization: Bearer rk_…`.", headers={"WWW-Authenticate": REALM})
        find = self._find_for_ingestion if ingests else self._find
        key = await find(text.strip())
        if key is None:
            raise Problem(
                401,
                "This key is not known, or was revoked.",
                headers={"WWW-Authenticate": f'{REALM}, error="invalid_token"'},
            )
        return key

    async def _find(self, text: str) -> ApiKey | None:
        services = self._services()
        async with asyncio.timeout(DATABASE_SECONDS):
            return await api_keys.find(services.pool, services.settings.app_id, text)

    async def _find_for_ingestion(self, text: str) -> ApiKey | None:
        services = self._services()

        async def ask() -> ApiKey | None:
            key = await self._find(text)
            services.known_keys.put(text, key)
            return key

        return await services.outage.bridged(services.known_keys.get(text), ask)


def needs(scope: str, *, unbound: bool = False) -> Callable[[Request, object], ApiKey]:
    """A dependency: the request's key, which has `scope`; with `unbound` also one that is bound to no customer.

    Raises `Problem` 403.
    """

    def check(request: Request, _: Annotated[object, Security(_bearer)]) -> ApiKey:
        key: ApiKey = request.scope["api_key"]
        if not key.may(scope):
            raise Problem(
                403,
                f"This needs a key of scope {scope!r}, and this one has {' and '.join(sorted(key.scopes))}.",
                headers={"WWW-Authenticate": f'{REALM}, error="insufficient_scope", scope="{scope}"'},
            )
        if unbound and key.customer is not None:
            raise Problem(403, "This tells of all customers, and this key is bound to one.")
        return key

    return check


def customer_of(key: ApiKey, asked: str | None) -> str | None:
    """Whose rows are read: the key's customer, if it is bound to one. Raises `Problem` 403 for another's."""
    if key.customer is not None and asked is not None and asked != key.customer:
        raise Problem(403, "This key is bound to another customer.")
    return key.customer if key.customer is not None else asked


Reader = Annotated[ApiKey, Depends(needs("read"))]
UnboundReader = Annotated[ApiKey, Depends(needs("read", unbound=True))]
Ingester = Annotated[ApiKey, Depends(needs("ingest"))]
Querier = Annotated[ApiKey, Depends(needs("query"))]
