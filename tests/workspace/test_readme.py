"""The README's code, run as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest

from mysingle.grpc.client import close_channels
from mysingle.testing import connect, run_server
from shared_protos import math_pb2, math_pb2_grpc

README = Path(__file__).parents[2] / "README.md"
USER = (("user-id", "alice"),)


@pytest.fixture
def readme(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the README's Python blocks, one after the other."""
    module = ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, str(README), "exec"), module.__dict__)
    return module


async def test_the_service(readme: Any) -> None:
    async with run_server(readme.MathServer) as server, connect(server) as channel:
        stub = math_pb2_grpc.MathServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Add(math_pb2.AddRequest(a=-1), metadata=USER)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details() == "a must not be negative"


async def test_the_client(readme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with run_server(readme.MathServer) as server:
        monkeypatch.setenv("MATH_SERVICE_GRPC_TARGET", server.address)
        assert await readme.add() == 8
        await close_channels()
