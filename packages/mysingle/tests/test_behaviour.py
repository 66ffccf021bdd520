"""What a servicer and its caller see: the same in every call shape, with TLS and without."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from echo import SERVICE, SHAPES, SYNC_SHAPES, Echo, EchoClient, add_echo_to_server
from google.protobuf.wrappers_pb2 import StringValue

from mysingle.core.errors import ConfigError, StartError
from mysingle.grpc.errors import GrpcCallError, GrpcError
from mysingle.grpc.interceptors import Interceptor
from mysingle.grpc.server import BaseGrpcServer, GrpcServerConfig
from mysingle.testing import CertificateAuthority, connect, run_server, server_of

ALL = (*SHAPES, *SYNC_SHAPES)
ALICE = (("user-id", "alice"),)


class Running:
    """A server with the echo servicer and a client for it."""

    def __init__(self, server: BaseGrpcServer, echo: Echo, client: EchoClient) -> None:
        self.server = server
        self.echo = echo
        self.client = client


Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture(params=["plaintext", "tls"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    """Starts the echo server, over each kind of connection."""
    tls: dict[str, Any] = {}
    credentials: grpc.ChannelCredentials | None = None
    if request.param == "tls":
        authority = CertificateAuthority(tmp_path)
        issued = authority.issue("localhost")
        tls = {"tls_cert_file": issued.cert_file, "tls_key_file": issued.key_file}
        credentials = grpc.ssl_channel_credentials(authority.ca_file.read_bytes())

    @asynccontextmanager
    async def starting(**overrides: Any) -> AsyncIterator[Running]:
        echo = Echo()
        server_class = server_of(lambda server: add_echo_to_server(echo, server))
        async with (
            run_server(server_class, **{**tls, **overrides}) as server,
            connect(server, credentials) as channel,
        ):
            yield Running(server, echo, EchoClient(channel))

    return starting


@pytest.mark.parametrize("shape", ALL)
async def test_answers(start: Start, shape: str) -> None:
    async with start() as running:
        texts = ["a"] if shape.endswith(("Unary", "ServerStream")) else ["a", "b", "c"]
        answer = await running.client.texts(shape, *texts, metadata=ALICE)
    expected = {
        "Unary": ["a"],
        "ServerStream": ["first", "a"],
        "ClientStream": ["a,b,c"],
        "Bidi": ["a", "b", "c"],
    }
    assert answer == expected[shape.removeprefix("Sync")]


@pytest.mark.parametrize(
    ("method", "expected"), [("WriteStream", ["first", "x"]), ("ReadWrite", ["x"])]
)
async def test_reader_writer_style(start: Start, method: str, expected: list[str]) -> None:
    async with start() as running:
        assert await running.client.texts(method, "x", metadata=ALICE) == expected


@pytest.mark.parametrize("shape", ALL)
@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ("value", "INVALID_ARGUMENT", "bad value"),
        ("odd", "INVALID_ARGUMENT", "odd value"),
        ("type", "INVALID_ARGUMENT", "bad type"),
        ("permission", "PERMISSION_DENIED", "not yours"),
        ("file", "NOT_FOUND", "no such thing"),
        ("key", "NOT_FOUND", "missing"),
        ("timeout", "DEADLINE_EXCEEDED", "too slow"),
        ("unimplemented", "UNIMPLEMENTED", "not yet"),
    ],
)
async def test_exceptions_become_statuses(
    start: Start, shape: str, error: str, code: str, message: str
) -> None:
    async with start() as running:
        raised = await running.client.error(shape, f"raise:{error}", metadata=ALICE)
    assert (raised.code().name, raised.details()) == (code, message)


@pytest.mark.parametrize("shape", ALL)
async def test_unexpected_error_shows_only_the_correlation_id(
    start: Start, shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = (*ALICE, ("correlation-id", "find-me"))
    with caplog.at_level(logging.ERROR, "mysingle.grpc"):
        async with start() as running:
            raised = await running.client.error(shape, "raise:secret", metadata=metadata)
    assert raised.code() is grpc.StatusCode.INTERNAL
    assert raised.details() == "Internal error; correlation-id: find-me"
    assert "hunter2" not in str(raised.trailing_metadata())
    [record] = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert "hunter2" in str(record.exc_info[1])


@pytest.mark.parametrize("shape", ALL)
async def test_abort_passes_unchanged(start: Start, shape: str) -> None:
    async with start() as running:
        raised = await running.client.error(shape, "abort:", metadata=ALICE)
    assert (raised.code(), raised.details()) == (grpc.StatusCode.NOT_FOUND, "aborted")
    assert ("why", "test") in tuple(raised.trailing_metadata())


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_abort_that_was_swallowed_still_ends_the_call(start: Start, shape: str) -> None:
    async with start() as running:
        raised = await running.client.error(shape, "swallow:", metadata=ALICE)
    assert raised.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("shape", ALL)
async def test_set_code_and_details(start: Start, shape: str) -> None:
    async with start() as running:
        raised = await running.client.error(shape, "code:", metadata=ALICE)
    assert (raised.code(), raised.details()) == (grpc.StatusCode.DATA_LOSS, "lost")


@pytest.mark.parametrize("shape", ALL)
async def test_rich_details_arrive(start: Start, shape: str) -> None:
    async with start() as running:
        raised = GrpcCallError(await running.client.error(shape, "rich:", metadata=ALICE))
    assert raised.violations == {"value": "wrong"}
    assert raised.reason == "TOO_EARLY"
    assert raised.retry_after == 1.5


@pytest.mark.parametrize("shape", ALL)
async def test_trailing_metadata_is_joined_with_ours(start: Start, shape: str) -> None:
    async with start() as running:
        call = running.client.call(shape, "trailing:", metadata=(*ALICE, ("request-id", "r1")))
        if shape.endswith(("ServerStream", "Bidi")):
            async for _ in call:
                pass
        else:
            await call
        trailing = dict(await call.trailing_metadata())
    assert trailing["mine"] == "1"
    assert trailing["data-bin"] == b"\x00\xff"
    assert trailing["request-id"] == "r1"


@pytest.mark.parametrize("shape", ALL)
async def test_the_servicer_knows_who_calls(start: Start, shape: str) -> None:
    async with start() as running:
        metadata = (("user-id", "alice"), ("correlation-id", "c1"))
        answer = await running.client.texts(shape, "who:", metadata=metadata)
    assert answer[-1] == "alice/c1"


@pytest.mark.parametrize("shape", ALL)
async def test_refused_without_identity_in_every_shape(start: Start, shape: str) -> None:
    async with start() as running:
        raised = await running.client.error(shape, "a")
        assert running.echo.calls == 0
    assert raised.code() is grpc.StatusCode.UNAUTHENTICATED
    assert raised.details() == "Missing user-id"
    assert re.fullmatch("[0-9a-f]{32}", dict(raised.trailing_metadata())["correlation-id"])


@pytest.mark.parametrize("shape", ALL)
async def test_rate_limit_in_every_shape(start: Start, shape: str) -> None:
    async with start(rate_limit_max_requests=2) as running:
        for _ in range(2):
            await running.client.texts(shape, "a", metadata=ALICE)
        raised = GrpcCallError(await running.client.error(shape, "a", metadata=ALICE))
        await running.client.texts(shape, "a", metadata=(("user-id", "bob"),))
    assert raised.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert raised.retry_after is not None
    assert 0 < raised.retry_after <= 60


@pytest.mark.parametrize("sent", ["", "x" * 129, "two words", "täg"])
async def test_a_bad_correlation_id_is_replaced(start: Start, sent: str) -> None:
    async with start() as running:
        key = "correlation-id"
        metadata = ALICE if "ä" in sent else (*ALICE, (key, sent))
        [answer] = await running.client.texts("Unary", "who:", metadata=metadata)
    assert re.fullmatch("alice/[0-9a-f]{32}", answer)


async def test_bytes_that_are_no_message(start: Start) -> None:
    async with start() as running:
        call = running.client.channel.unary_unary(f"/{SERVICE}/Unary")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"\xff\xff\xff", metadata=ALICE)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


class Recorder(Interceptor):
    """Keeps what the chain says of each call."""

    def __init__(self) -> None:
        self.outcomes: asyncio.Queue[str] = asyncio.Queue()

    def after(self, call: Any, outcome: Any) -> None:
        self.outcomes.put_nowait(outcome.code.name)


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_cancelled_call_is_cancelled_not_failed(
    start: Start, shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    with caplog.at_level(logging.ERROR, "mysingle.grpc"):
        async with start(interceptors=[recorder]) as running:
            call = running.client.call(shape, "hang:", metadata=ALICE)
            running_call = asyncio.ensure_future(_drain(call, shape))
            await running.echo.entered.wait()
            call.cancel()
            await asyncio.gather(running_call, return_exceptions=True)
            assert await running.echo.ended.get() == "hang"
            assert await recorder.outcomes.get() == "CANCELLED"
    assert not caplog.records


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_deadline_cancels_the_servicer(start: Start, shape: str) -> None:
    recorder = Recorder()
    async with start(interceptors=[recorder]) as running:
        raised = await running.client.error(shape, "hang:", metadata=ALICE, timeout=0.3)
        assert raised.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await running.echo.ended.get() == "hang"
        assert await recorder.outcomes.get() == "DEADLINE_EXCEEDED"


async def _drain(call: Any, shape: str) -> None:
    if shape.endswith(("ServerStream", "Bidi")):
        async for _ in call:
            pass
    else:
        await call


async def test_a_generator_is_closed_when_its_caller_leaves(start: Start) -> None:
    async with start() as running:
        call = running.client.call("ServerStream", "hang:", metadata=ALICE)
        assert (await call.read()).value == "first"
        await running.echo.entered.wait()
        call.cancel()
        assert {await running.echo.ended.get(), await running.echo.ended.get()} == {
            "hang",
            "stream",
        }


async def test_many_calls_at_once(start: Start) -> None:
    async with start() as running:
        answers = await asyncio.gather(
            *(running.client.texts("Unary", f"n{n}", metadata=ALICE) for n in range(200)),
            *(running.client.texts("SyncBidi", f"n{n}", metadata=ALICE) for n in range(20)),
        )
    assert answers == [[f"n{n}"] for n in (*range(200), *range(20))]


# -- A user's own interceptors ------------------------------------------------------------------


class Guard(Interceptor):
    """Refuses some calls and rewrites an outcome."""

    async def before(self, call: Any) -> None:
        if call.text("deny") == "yes":
            raise GrpcError(grpc.StatusCode.PERMISSION_DENIED, "guarded")
        if call.text("break") == "yes":
            raise ValueError("guard is broken")


@pytest.mark.parametrize("shape", ALL)
async def test_own_interceptor_refuses(start: Start, shape: str) -> None:
    async with start(interceptors=[Guard()]) as running:
        denied = await running.client.error(shape, "a", metadata=(*ALICE, ("deny", "yes")))
        broken = await running.client.error(shape, "a", metadata=(*ALICE, ("break", "yes")))
        await running.client.texts(shape, "a", metadata=ALICE)
    assert (denied.code(), denied.details()) == (grpc.StatusCode.PERMISSION_DENIED, "guarded")
    assert broken.code() is grpc.StatusCode.INVALID_ARGUMENT


class GrpcioInterceptor(grpc.aio.ServerInterceptor):
    """As in grpcio's own examples: gives another handler to some callers."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        if ("deny", "yes") in tuple(handler_call_details.invocation_metadata):

            async def deny(_request: Any, context: Any) -> Any:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "by grpcio's kind")

            return grpc.unary_unary_rpc_method_handler(deny)
        return await continuation(handler_call_details)


@pytest.mark.parametrize("shape", ALL)
async def test_grpcio_interceptor(start: Start, shape: str) -> None:
    async with start(interceptors=[GrpcioInterceptor()]) as running:
        denied = await running.client.error(shape, "a", metadata=(*ALICE, ("deny", "yes")))
        assert (await running.client.texts(shape, "a", metadata=ALICE))[-1] == "a"
        mapped = await running.client.error(shape, "raise:value", metadata=ALICE)
    assert denied.details() == "by grpcio's kind"
    assert mapped.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_handlers_that_decide_at_each_call(start: Start) -> None:
    class Anything(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            if not handler_call_details.method.startswith("/any.Thing/"):
                return None

            async def answer(_request: Any, _context: Any) -> StringValue:
                return StringValue(value=handler_call_details.method)

            return grpc.unary_unary_rpc_method_handler(
                answer, response_serializer=StringValue.SerializeToString
            )

    server_class = server_of(lambda server: server.add_generic_rpc_handlers((Anything(),)))
    async with run_server(server_class) as server, connect(server) as channel:
        call = channel.unary_unary("/any.Thing/X", response_deserializer=StringValue.FromString)
        assert (await call(b"", metadata=ALICE)).value == "/any.Thing/X"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"")
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await channel.unary_unary("/no.Such/Method")(b"", metadata=ALICE)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED


# -- Each step can be left out ------------------------------------------------------------------


async def test_without_error_handling_it_is_as_in_grpcio(start: Start) -> None:
    async with start(enable_error_handling=False) as running:
        raised = await running.client.error("Unary", "raise:value", metadata=ALICE)
        rich = await running.client.error("Unary", "rich:", metadata=ALICE)
    assert raised.code() is grpc.StatusCode.UNKNOWN
    assert raised.details() == "Unexpected <class 'ValueError'>: bad value"
    assert rich.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("shape", ALL)
async def test_with_the_chain_off(start: Start, shape: str) -> None:
    off = {
        f"enable_{step}": False
        for step in ("metrics", "auth", "rate_limiting", "metadata", "logging", "error_handling")
    }
    async with start(**off) as running:
        assert (await running.client.texts(shape, "a"))[-1] == "a"


# -- Configuration ------------------------------------------------------------------------------


def test_unknown_option_names_the_nearest() -> None:
    from mysingle.core.config import CommonSettings

    with pytest.raises(ConfigError, match="unknown option 'prot'; did you mean 'port'"):
        GrpcServerConfig.from_settings(CommonSettings(), service_name="x", prot=1)


async def test_port_in_use_is_one_line(start: Start) -> None:
    async with start() as running:
        with pytest.raises(StartError, match=f"port {running.server.port} is in use"):
            async with start(port=running.server.port):
                pass
