"""The HTTP application: `uvicorn api_service.app:app --port 8000`."""

from __future__ import annotations

import sys
from typing import Annotated

from fastapi import FastAPI, Query
from pydantic import BaseModel

from api_service.config import ApiSettings
from api_service.math_client import MathClient
from mysingle.core.errors import ConfigError
from mysingle.http import install
from shared_protos import math_pb2

__all__ = ["Sum", "app", "create_app"]

Int32 = Annotated[int, Query(ge=-(2**31), le=2**31 - 1)]


class Sum(BaseModel):
    """What `/add` answers."""

    result: int


def create_app(settings: ApiSettings | None = None) -> FastAPI:
    """The application: `/add`, `/healthz`, `/readyz` and `/metrics`.

    Raises:
        ConfigError: A setting is wrong.
    """
    settings = settings or ApiSettings()
    application = FastAPI(title="api_service")
    install(application, settings)

    @application.get("/add")
    async def add_route(a: Int32, b: Int32) -> Sum:
        """Adds two numbers by asking math_service.

        400 when the sum does not fit, 502 when math_service is away, 504 when it is too slow.
        """
        async with MathClient(settings=settings) as client:
            reply = await client.stub.Add(math_pb2.AddRequest(a=a, b=b))
        return Sum(result=reply.result)

    return application


try:
    app = create_app()
except ConfigError as error:  # uvicorn would print a traceback around it
    sys.exit(f"api_service: {error}")
