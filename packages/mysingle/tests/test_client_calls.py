"""A call of a client behaves as grpc.aio's, in every shape, and says what happened."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from echo import SERVICE, SHAPES, Echo, EchoClient, add_echo_to_server
from google.protobuf.wrappers_pb2 import StringValue
from prometheus_client import REGISTRY

from mysingle.core.config import CommonSettings
from mysingle.core.context import RequestContext, _current
from mysingle.grpc.client import BaseGrpcClient, close_channels
from mysingle.grpc.errors import GrpcCallError
from mysingle.testing import run_server, server_of


class Client(BaseGrpcClient[EchoClient]):
    stub_class = EchoClient
    service_name = "echo-service"


class Mirror(Echo):
    """Answers with the metadata it got."""

    async def Unary(self, request: StringValue, context: Any) -> StringValue:
        got = [[key, value] for key, value in context.invocation_metadata()]
        return StringValue(value=json.dumps(got))


@pytest.fixture(autouse=True)
async def _closed() -> AsyncIterator[None]:
    yield
    await close_channels()


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.fixture
async def target(echo: Echo) -> AsyncIterator[str]:
    async with run_server(server_of(lambda s: add_echo_to_server(echo, s))) as server:
        yield server.address


@pytest.fixture
async def mirror() -> AsyncIterator[str]:
    async with run_server(
        server_of(lambda s: add_echo_to_server(Mirror(), s)), enable_auth=False
    ) as server:
        yield server.address


def of(target: str, *, user_id: str = "alice", **settings: Any) -> Client:
    return Client(target, settings=CommonSettings(_env_file=None, **settings), user_id=user_id)


@contextmanager
def inside(**context: Any) -> Iterator[RequestContext]:
    """As inside of a served call."""
    request = RequestContext(**context)
    token = _current.set(request)
    try:
        yield request
    finally:
        _current.reset(token)


async def metadata_of(client: Client, **options: Any) -> dict[str, str]:
    [answer] = await client.stub.texts("Unary", "a", **options)
    pairs = json.loads(answer)
    keys = [key for key, _ in pairs]
    assert len(keys) == len(set(keys)), f"sent twice: {pairs}"
    return dict(pairs)


# -- What is sent ---------------------------------------------------------------------------


async def test_who_calls_and_what_it_belongs_to(mirror: str) -> None:
    async with of(mirror, user_id="") as client:
        with inside(user_id="bob", correlation_id="c1", request_id="r1"):
            first, second = await metadata_of(client), await metadata_of(client)
        assert first["user-id"] == "bob"
        assert first["correlation-id"] == second["correlation-id"] == "c1"
        assert len({first["request-id"], second["request-id"], "r1"}) == 3
        outside, other = await metadata_of(client), await metadata_of(client)
        assert "user-id" not in outside
        assert outside["correlation-id"] != other["correlation-id"]


async def test_an_explicit_identity_wins_over_the_enclosing_calls(mirror: str) -> None:
    settings = CommonSettings(_env_file=None)
    metadata = (("tenant", "t1"),)
    async with Client(
        mirror, settings=settings, user_id="alice", token="jwt", metadata=metadata
    ) as client:
        with inside(user_id="bob", correlation_id="c1"):
            sent = await metadata_of(client)
            own = (("X-Correlation-Id", "mine"), ("user-id", "carol"), ("tenant", "t2"))
            other = await metadata_of(client, metadata=own)
            as_metadata = await metadata_of(client, metadata=grpc.aio.Metadata(("tenant", "t3")))
    assert sent["user-id"] == "alice"
    assert sent["authorization"] == "Bearer jwt"
    assert sent["tenant"] == "t1"
    assert other["user-id"] == "carol"
    assert other["tenant"] == "t2"
    assert other["x-correlation-id"] == "mine"
    assert "correlation-id" not in other
    assert as_metadata["tenant"] == "t3"


async def test_the_trace_goes_along_where_there_is_one(mirror: str) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    async with of(mirror) as client, of(mirror, GRPC_ENABLE_TRACING=False) as untraced:
        assert "traceparent" not in await metadata_of(client)
        tracer = TracerProvider().get_tracer("test")
        with tracer.start_as_current_span("outer") as span:
            sent = await metadata_of(client)
            assert "traceparent" not in await metadata_of(untraced)
    context = span.get_span_context()
    assert sent["traceparent"].startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}")


@pytest.mark.parametrize(
    "wrong", [{"user_id": "김"}, {"token": "a\nb"}, {"metadata": [("a", b"")]}]
)
def test_what_metadata_cannot_carry_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="metadata") as caught:
        Client("there:1", settings=CommonSettings(_env_file=None), **wrong)
    assert "a\nb" not in str(caught.value)


async def test_an_identity_that_metadata_cannot_carry_fails_the_call(target: str) -> None:
    async with of(target, user_id="") as client:
        with inside(user_id="김"):
            error = await client.stub.error("Unary", "a")
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "token" in (error.details() or "")


# -- Deadlines ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "given", "left", "limit"),
    [
        (None, None, None, 30),
        (None, 7, None, 7),
        (None, 50, None, 50),
        (None, None, 3, 3),
        (None, None, 100, 100),
        (None, 50, 3, 3),
        (None, 2, 3, 2),
        (6, None, None, 6),
        (6, 50, None, 50),
        (60, None, 3, 3),
        (None, math.inf, None, None),
        (None, math.inf, 3, 3),
    ],
)
async def test_the_deadline_is_the_nearest(
    target: str, own: float | None, given: float | None, left: float | None, limit: float | None
) -> None:
    settings = CommonSettings(_env_file=None)
    async with Client(target, settings=settings, user_id="alice", timeout=own) as client:
        with inside(deadline=None if left is None else time.monotonic() + left):
            call = client.stub.call("Unary", "a", timeout=given)
        remaining = call.time_remaining()
        if limit is None:
            assert remaining is None
        else:
            assert limit * 0.5 < remaining <= limit
        await call


@pytest.mark.parametrize("shape", SHAPES)
async def test_nothing_is_sent_when_the_enclosing_call_is_too_late(
    target: str, echo: Echo, shape: str
) -> None:
    async with of(target) as client:
        with inside(deadline=time.monotonic() - 1):
            call = client.stub.call(shape, "a")  # does not raise, as in grpc.aio
            error = await client.stub.error(shape, "a")
        assert isinstance(error, GrpcCallError)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert call.done()
        assert not call.cancel()
    assert echo.calls == 0


@pytest.mark.parametrize("timeout", [0, -1.0])
def test_a_timeout_must_be_positive(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be positive"):
        Client("there:1", settings=CommonSettings(_env_file=None), timeout=timeout)


# -- The call object ------------------------------------------------------------------------

KINDS = {
    "Unary": grpc.aio.UnaryUnaryCall,
    "ServerStream": grpc.aio.UnaryStreamCall,
    "ClientStream": grpc.aio.StreamUnaryCall,
    "Bidi": grpc.aio.StreamStreamCall,
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_calls_tell_what_grpcios_tell(target: str, shape: str) -> None:
    async with of(target) as client:
        call = client.stub.call(shape, "trailing:")
        assert isinstance(call, KINDS[shape])
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        call.add_done_callback(done.set_result)
        if shape in ("Unary", "ClientStream"):
            assert (await call).value == "trailing:"
            assert (await call).value == "trailing:"  # as often as one likes
        else:
            assert [message.value async for message in call][-1] == "trailing:"
        assert await done is call
        assert call.done()
        assert not call.cancelled()
        assert await call.code() is grpc.StatusCode.OK
        assert await call.details() == ""
        trailing = dict(await call.trailing_metadata())
        assert trailing["mine"] == "1"
        assert trailing["data-bin"] == b"\x00\xff"
        initial = dict(await call.initial_metadata())
        assert ("correlation-id" in initial) == (shape in ("ServerStream", "Bidi"))


async def test_the_options_of_grpcios_calls(target: str) -> None:
    async with of(target) as client:
        options = {"compression": grpc.Compression.Gzip, "wait_for_ready": True, "timeout": 20}
        assert await client.stub.texts("Unary", "a" * 1000, **options) == ["a" * 1000]
        with pytest.raises(TypeError):
            client.stub.call("Unary", "a", colour="red")


async def test_read_and_write(target: str) -> None:
    async with of(target) as client:
        method = client.channel.stream_stream(
            f"/{SERVICE}/Bidi",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        call = method()
        await call.wait_for_connection()
        for text in ("a", "b"):
            await call.write(StringValue(value=text))
            assert (await call.read()).value == text
        with pytest.raises(GrpcCallError, match="request int cannot be serialized"):
            await call.write(3)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("shape", SHAPES)
async def test_cancelled_by_the_caller(target: str, echo: Echo, shape: str) -> None:
    async with of(target) as client:
        call = client.stub.call(shape, "hang:")
        await echo.entered.wait()
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            if shape in ("Unary", "ClientStream"):
                await call
            else:
                [message async for message in call]
        assert call.cancelled()
        assert not call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert await echo.ended.get() == "hang"
        assert await client.stub.texts("Unary", "b") == ["b"]


@pytest.mark.parametrize("shape", SHAPES)
async def test_cancelled_with_the_task_that_waits(target: str, echo: Echo, shape: str) -> None:
    async with of(target) as client:
        task = asyncio.create_task(client.stub.texts(shape, "hang:"))
        await echo.entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await echo.ended.get() == "hang"


async def test_a_stream_that_nobody_can_read_any_more_ends(target: str, echo: Echo) -> None:
    async with of(target) as client:
        async for message in client.stub.call("ServerStream", "hang:"):
            assert message.value == "first"
            await echo.entered.wait()
            break
        assert await echo.ended.get() == "hang"


@pytest.mark.parametrize("shape", ["ClientStream", "Bidi"])
@pytest.mark.parametrize("style", ["iterator", "async"])
async def test_requests_that_fail_tell_why(target: str, shape: str, style: str) -> None:
    def requests() -> Iterator[StringValue]:
        yield StringValue(value="a")
        raise LookupError("no more rows")

    async def requests_async() -> AsyncIterator[StringValue]:
        for request in requests():
            yield request

    async with of(target) as client:
        maker = (
            client.channel.stream_unary
            if shape == "ClientStream"
            else (client.channel.stream_stream)
        )
        method = maker(f"/{SERVICE}/{shape}", StringValue.SerializeToString, StringValue.FromString)
        call = method(requests() if style == "iterator" else requests_async())
        with pytest.raises(LookupError, match="no more rows"):
            if shape == "ClientStream":
                await call
            else:
                [message async for message in call]
        with pytest.raises(GrpcCallError, match="request str cannot be serialized"):
            call = method(["text"])
            if shape == "ClientStream":
                await call
            else:
                [message async for message in call]


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_an_answer_that_cannot_be_read_is_no_none(target: str, kind: str) -> None:
    def broken(data: bytes) -> None:
        raise ValueError("wire type 7")

    name = "Unary" if kind == "unary_unary" else "ServerStream"
    async with of(target) as client:
        method = getattr(client.channel, kind)(
            f"/{SERVICE}/{name}", StringValue.SerializeToString, broken
        )
        with pytest.raises(GrpcCallError, match="cannot be parsed: wire type 7") as caught:
            call = method(StringValue(value="a"))
            await (call if kind == "unary_unary" else call.read())
    assert caught.value.code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("shape", ["ServerStream", "Bidi"])
async def test_a_server_gone_mid_stream(shape: str) -> None:
    echo = Echo()
    async with (
        run_server(server_of(lambda s: add_echo_to_server(echo, s)), grace_seconds=0.0) as server,
        of(server.address) as client,
    ):
        call = client.stub.call(shape, "hang:")
        await echo.entered.wait()
        await server.stop()
        with pytest.raises(GrpcCallError) as caught:
            [message async for message in call]
        assert await call.code() is caught.value.code()


async def test_many_calls_at_once(target: str) -> None:
    async with of(target) as client:
        texts = [f"{number}" for number in range(200)]
        answers = await asyncio.gather(
            *(client.stub.texts(SHAPES[int(text) % 4], text) for text in texts)
        )
    assert [answer[-1] for answer in answers] == texts


# -- What is counted ------------------------------------------------------------------------


def sample(name: str, prefix: str, method: str, **labels: str) -> float:
    kinds = dict(
        zip(SHAPES, ("unary", "server_stream", "client_stream", "bidi_stream"), strict=True)
    )
    labels = {"grpc_service": SERVICE, "grpc_method": method, "grpc_type": kinds[method], **labels}
    return REGISTRY.get_sample_value(f"{prefix}grpc_client_{name}", labels) or 0.0


@pytest.mark.parametrize(
    ("shape", "sent", "received"),
    [("Unary", 1, 1), ("ServerStream", 1, 2), ("ClientStream", 2, 1), ("Bidi", 2, 2)],
)
async def test_calls_are_counted(
    target: str, echo: Echo, shape: str, sent: int, received: int
) -> None:
    prefix = f"counted_{shape}_".lower()
    many = shape in ("ClientStream", "Bidi")
    async with of(target, GRPC_METRICS_PREFIX=prefix) as client:
        await client.stub.texts(shape, *(["a", "b"] if many else ["a"]))
        assert sample("started_total", prefix, shape) == 1
        assert sample("handled_total", prefix, shape, grpc_code="OK") == 1
        assert sample("msg_sent_total", prefix, shape) == sent
        assert sample("msg_received_total", prefix, shape) == received
        assert sample("handling_seconds_count", prefix, shape) == 1
        await client.stub.error(shape, "abort:")
        assert sample("handled_total", prefix, shape, grpc_code="NotFound") == 1
        call = client.stub.call(shape, "hang:")
        await echo.entered.wait()
        assert sample("in_flight", prefix, shape) == 1
        call.cancel()
        assert sample("handled_total", prefix, shape, grpc_code="Canceled") == 1
        with inside(deadline=0.0):
            await client.stub.error(shape, "a")
        assert sample("handled_total", prefix, shape, grpc_code="DeadlineExceeded") == 1
        assert sample("in_flight", prefix, shape) == 0
        assert sample("started_total", prefix, shape) == 4
