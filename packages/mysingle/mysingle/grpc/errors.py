"""The one error of calls, on both sides of the wire.

    GrpcError                what a servicer raises and what a client catches
    └── GrpcCallError        raised by a client; also a `grpc.aio.AioRpcError`

A servicer raises [GrpcError][] to answer with a status, a message and rich details
(`google.rpc.Status` in the `grpc-status-details-bin` trailer, as
https://google.aip.dev/193 asks). A client of ours raises [GrpcCallError][] with the same
attributes, read back from the wire.
"""

from __future__ import annotations

from mysingle.grpc._errors import GrpcCallError, GrpcError, code_of_exception

__all__ = ["GrpcCallError", "GrpcError", "code_of_exception"]
