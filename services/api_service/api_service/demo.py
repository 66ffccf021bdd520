"""Real HTTP requests to a running api_service: `python -m api_service.demo`.

`API_SERVICE_HTTP_URL` says where it is.
"""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
import urllib.request
from email.message import Message

from mysingle.cli.walk import Walk, run

__all__ = ["main"]


async def main(walk: Walk) -> None:
    """Adds, overflows, sends nonsense, asks for readiness and metrics."""
    base = os.environ.get("API_SERVICE_HTTP_URL", "http://localhost:8000")

    with walk.step(f"GET {base}/add?a=3&b=5") as step:
        status, headers, body = await _get(
            f"{base}/add?a=3&b=5", {"x-correlation-id": "demo-2"}
        )
        step.expect(status == 200 and json.loads(body) == {"result": 8}, f"{status} {body}")
        returned = headers.get("x-correlation-id")
        step.expect(returned == "demo-2", f"x-correlation-id: {returned}")

    with walk.step(f"GET {base}/add?a=2147483647&b=1") as step:
        status, _, body = await _get(f"{base}/add?a=2147483647&b=1")
        step.expect(status == 400 and "does not fit an int32" in body, f"{status} {body}")

    with walk.step(f"GET {base}/add?a=three&b=5") as step:
        status, _, body = await _get(f"{base}/add?a=three&b=5")
        step.expect(status == 422, f"{status} {body}")

    with walk.step(f"GET {base}/readyz") as step:
        status, _, body = await _get(f"{base}/readyz")
        step.expect(status == 200, f"{status} {body}")

    with walk.step(f"GET {base}/metrics") as step:
        _, _, body = await _get(f"{base}/metrics")
        found = [
            line
            for line in body.splitlines()
            if line.startswith("mysingle_grpc_client_handled_total{") and '"Add"' in line
        ]
        for line in found:
            step.answer(line)
        step.expect(any('grpc_code="OK"' in line for line in found))


async def _get(url: str, headers: dict[str, str] | None = None) -> tuple[int, Message, str]:
    """Status, headers and body, whatever the status."""

    def get() -> tuple[int, Message, str]:
        request = urllib.request.Request(url, headers=headers or {})
        try:
            with urllib.request.urlopen(request) as response:
                return response.status, response.headers, response.read().decode().strip()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode().strip()

    return await asyncio.to_thread(get)


if __name__ == "__main__":
    run(main)
