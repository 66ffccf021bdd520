"""Real HTTP requests to a running api_service: `python -m api_service.demo`.

`API_SERVICE_HTTP_URL` says where it is.
"""

from __future__ import annotations

import json
import os

from mysingle.cli.walk import Walk, http_get, run

__all__ = ["main"]


async def main(walk: Walk) -> None:
    """Adds, overflows, sends nonsense, asks for readiness and metrics."""
    base = os.environ.get("API_SERVICE_HTTP_URL", "http://localhost:8000")

    with walk.step(f"GET {base}/add?a=3&b=5") as step:
        answer = await http_get(f"{base}/add?a=3&b=5", {"x-correlation-id": "demo-2"})
        step.expect(answer.status == 200 and json.loads(answer.body) == {"result": 8}, answer)
        returned = answer.headers.get("x-correlation-id")
        step.expect(returned == "demo-2", f"x-correlation-id: {returned}")

    with walk.step(f"GET {base}/add?a=2147483647&b=1") as step:
        answer = await http_get(f"{base}/add?a=2147483647&b=1")
        step.expect(answer.status == 400 and "does not fit an int32" in answer.body, answer)

    with walk.step(f"GET {base}/add?a=three&b=5") as step:
        answer = await http_get(f"{base}/add?a=three&b=5")
        step.expect(answer.status == 422, answer)

    with walk.step(f"GET {base}/readyz") as step:
        answer = await http_get(f"{base}/readyz")
        step.expect(answer.status == 200, answer)

    with walk.step(f"GET {base}/metrics") as step:
        found = [
            line
            for line in (await http_get(f"{base}/metrics")).body.splitlines()
            if line.startswith("mysingle_grpc_client_handled_total{") and '"Add"' in line
        ]
        for line in found:
            step.answer(line)
        step.expect(any('grpc_code="OK"' in line for line in found))


if __name__ == "__main__":
    run(main)
