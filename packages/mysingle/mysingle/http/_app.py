"""Everything an HTTP service of the platform has in common, in one call."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from mysingle.core.config import CommonSettings
from mysingle.core.logging import configure_logging
from mysingle.grpc._metrics import render
from mysingle.http._correlation import CorrelationMiddleware
from mysingle.http._errors import add_error_handlers
from mysingle.http._ready import ReadyCheck, ReadyChecks

__all__ = ["ReadyCheck", "install"]


def install(
    app: FastAPI,
    settings: CommonSettings,
    *,
    ready: Mapping[str, ReadyCheck] | None = None,
) -> None:
    """Adds logs, correlation ids, error answers, `/healthz`, `/readyz` and `/metrics`.

    Args:
        app: The application.
        settings: Of the service.
        ready: Checks by name; `/readyz` answers 503 and names those that fail, raise, or take
            longer than 2 s. A plain `def` runs in a thread.
    """
    configure_logging(settings)
    app.add_middleware(CorrelationMiddleware)
    add_error_handlers(app)
    checks = ReadyChecks(ready or {})

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return PlainTextResponse("ok\n")

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        state = await checks.run()
        passed = all(state.values())
        return JSONResponse({"ready": passed, "checks": state}, 200 if passed else 503)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        body, content_type = render()
        return Response(body, headers={"Content-Type": content_type})
