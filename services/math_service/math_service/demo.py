"""Real calls to a running math_service: `python -m math_service.demo`.

`MATH_SERVICE_GRPC_TARGET` and `MATH_SERVICE_METRICS_URL` say where it is.
"""

from __future__ import annotations

import os

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mysingle.cli.walk import Walk, http_get, run
from mysingle.grpc.errors import GrpcCallError
from shared_protos import math_pb2, math_pb2_grpc

__all__ = ["main"]


async def main(walk: Walk) -> None:
    """Adds, overflows, asks for health and metrics."""
    target = os.environ.get("MATH_SERVICE_GRPC_TARGET", "localhost:50051")
    metrics = os.environ.get("MATH_SERVICE_METRICS_URL", "")
    async with grpc.aio.insecure_channel(target) as channel:
        stub = math_pb2_grpc.MathServiceStub(channel)

        with walk.step(f"grpc {target} math.MathService/Add a=3 b=5") as step:
            call = stub.Add(math_pb2.AddRequest(a=3, b=5), metadata=(("correlation-id", "demo-1"),))
            reply = await call
            step.expect(reply.result == 8, f"result: {reply.result}")
            returned = dict(await call.trailing_metadata() or ()).get("correlation-id")
            step.expect(returned == "demo-1", f"correlation-id: {returned!r}")

        with walk.step(f"grpc {target} math.MathService/Add a=2147483647 b=1") as step:
            try:
                reply = await stub.Add(math_pb2.AddRequest(a=2**31 - 1, b=1))
                step.expect(False, f"result: {reply.result}")
            except grpc.aio.AioRpcError as failure:
                error = GrpcCallError(failure)
                step.expect(error.code() is grpc.StatusCode.OUT_OF_RANGE, error)
                for field, text in error.violations.items():
                    step.answer(f"{field}: {text}")
                step.expect(set(error.violations) == {"a", "b"})

        with walk.step(f"grpc {target} grpc.health.v1.Health/Check math.MathService") as step:
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest(service="math.MathService"))
            name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            step.expect(name == "SERVING", name)

    if metrics:
        with walk.step(f"GET {metrics}") as step:
            found = [
                line
                for line in (await http_get(metrics)).body.splitlines()
                if line.startswith("mysingle_grpc_server_handled_total{") and '"Add"' in line
            ]
            for line in found:
                step.answer(line)
            step.expect({'grpc_code="OK"', 'grpc_code="OutOfRange"'} <= _labels(found))


def _labels(lines: list[str]) -> set[str]:
    return {
        label for line in lines for label in line.partition("{")[2].rpartition("}")[0].split(",")
    }


if __name__ == "__main__":
    run(main)
