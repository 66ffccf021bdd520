"""Who calls: by header or certificate, in every call shape; and who only says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from auth_tools import (
    SECRET,
    Metadata,
    echo_server,
    refusal,
    served_with,
    signed,
    trusting,
    who,
)
from echo import SERVICE, SHAPES, Echo, EchoClient, add_echo_to_server
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError
from mysingle.grpc._codec import same
from mysingle.grpc._context import CallContext
from mysingle.grpc._identity import Unidentified, from_certificate, from_header
from mysingle.grpc._method import Method
from mysingle.testing import CertificateAuthority, connect, run_server, server_of

ALICE = (("user-id", "alice"),)


@pytest.mark.parametrize("key", ["user-id", "x-user-id"])
@pytest.mark.parametrize("tls", [False, True])
async def test_header(key: str, tls: bool, tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    options = served_with(authority) if tls else {}
    credentials = trusting(authority) if tls else None
    async with run_server(echo_server(), **options) as server:
        assert await who(server, ((key, "alice"),), credentials) == "alice"
        assert await who(server, ((key, " alice "),), credentials) == "alice"
        assert await who(server, ((key, "a" * 256),), credentials) == "a" * 256
        both = (("user-id", "alice"), ("x-user-id", "alice"))
        assert await who(server, both, credentials) == "alice"
        assert await refusal(server, (), credentials) == "Missing user-id"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ((), "Missing user-id"),
        ((("user-id", ""),), "Missing user-id"),
        ((("user-id", " "),), "Missing user-id"),
        ((("user-id", "a" * 257),), "Invalid user-id"),
        ((("user-id", "alice"), ("x-user-id", "bob")), "More than one user-id"),
        ((("user-id", "alice"), ("user-id", "bob")), "More than one user-id"),
        ((("user-id", "alice"), ("x-user-id", "")), "More than one user-id"),
    ],
)
async def test_bad_header(metadata: Metadata, message: str) -> None:
    servicer = Echo()
    server_class = server_of(lambda server: add_echo_to_server(servicer, server))
    async with run_server(server_class) as server:
        assert await refusal(server, metadata) == message
    assert servicer.calls == 0


class Wire:
    """The least of a transport, for what no real client can send."""

    def __init__(self, user_id: Any, certificate: dict[str, list[bytes]]) -> None:
        self._user_id = user_id
        self._certificate = certificate

    def invocation_metadata(self) -> Any:
        return (("user-id", self._user_id),)

    def auth_context(self) -> Any:
        return self._certificate

    def time_remaining(self) -> None:
        return None


def call_with(user_id: Any = "", **certificate: list[bytes]) -> CallContext:
    method = Method("/test.Echo/Unary", request_streaming=False, response_streaming=False)
    wire: Any = Wire(user_id, certificate)
    return CallContext(method, wire, same, same)


@pytest.mark.parametrize(
    "user_id", ["a\nb", "a\x00b", "a\x1b[31m", "a\u2028b", "a\u202eb", "a\x7f"]
)
def test_control_characters_are_no_part_of_an_identity(user_id: str) -> None:
    sent: Any = call_with(user_id)
    with pytest.raises(Unidentified, match="^Invalid user-id$"):
        from_header(sent)
    proven: Any = call_with(peer_uri=[user_id.encode()], x509_common_name=[b"alice"])
    with pytest.raises(Unidentified, match="^Invalid client certificate$"):
        from_certificate(proven)


def test_a_certificate_whose_name_is_not_text() -> None:
    proven: Any = call_with(x509_common_name=[b"\xff\xfe"])
    with pytest.raises(Unidentified, match="^Invalid client certificate$"):
        from_certificate(proven)


def test_bytes_are_no_identity() -> None:
    sent: Any = call_with(b"alice")
    with pytest.raises(Unidentified, match="^Missing user-id$"):
        from_header(sent)


@pytest.mark.parametrize("shape", SHAPES)
async def test_every_call_shape_is_refused_before_the_servicer(shape: str) -> None:
    servicer = Echo()
    server_class = server_of(lambda server: add_echo_to_server(servicer, server))
    async with run_server(server_class) as server, connect(server) as channel:
        error = await EchoClient(channel).error(shape, "a")
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert error.details() == "Missing user-id"
        assert servicer.calls == 0
        assert (await EchoClient(channel).texts(shape, "who:", metadata=ALICE))[-1].startswith(
            "alice/"
        )


@pytest.mark.parametrize("exempt", [f"/{SERVICE}/Unary", f"/{SERVICE}/*"])
async def test_exempt_methods(exempt: str) -> None:
    async with run_server(echo_server(), auth_exempt_methods=[exempt]) as server:
        assert await who(server, ()) == ""
        assert await who(server, ALICE) == "alice"
        assert await who(server, (("user-id", "a" * 257),)) == ""
        assert await who(server, (*ALICE, ("x-user-id", "bob"))) == ""


async def test_exempt_is_only_what_was_named() -> None:
    async with run_server(echo_server(), auth_exempt_methods=[f"/{SERVICE}/Bidi"]) as server:
        assert await refusal(server, ()) == "Missing user-id"


async def test_an_invalid_token_to_an_exempt_method_is_nobodys() -> None:
    options = {"jwt_secret": SECRET, "auth_exempt_methods": [f"/{SERVICE}/Unary"]}
    async with run_server(echo_server(), **options) as server:
        assert await who(server, signed(SECRET, algorithm="HS256")) == "alice"
        assert await who(server, signed(SECRET, algorithm="HS256", exp=1)) == ""
        assert await who(server, signed("x" * 32, algorithm="HS256")) == ""
        assert await who(server, ALICE) == ""  # a header proves nothing here


async def test_health_needs_no_identity() -> None:
    async with run_server(echo_server(), jwt_secret=SECRET) as server, connect(server) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_exempt_entry_that_is_no_method() -> None:
    with pytest.raises(ConfigError, match="GRPC_AUTH_EXEMPT_METHODS: 'Unary' is no method"):
        async with run_server(echo_server(), auth_exempt_methods=["Unary"]):
            pass


async def test_without_auth_a_header_is_no_identity_and_peers_are_limited() -> None:
    options = {"enable_auth": False, "rate_limit_max_requests": 2}
    async with run_server(echo_server(), **options) as server:
        assert await who(server, ALICE) == ""
        assert await who(server, (("user-id", "bob"),)) == ""
        # A header that counted would give each made-up user a window of its own.
        exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "Rate limit" in await refusal(server, (("user-id", "carol"),), code=exhausted)


@pytest.mark.parametrize(
    ("names", "user_id"),
    [
        ({"dns_names": (), "ip_addresses": ()}, "common"),
        ({"dns_names": ()}, "common"),  # an IP address is where somebody is, not who
        ({"dns_names": ["a.example"]}, "a.example"),
        ({"dns_names": ["a.example", "b.example"]}, "a.example"),
        ({"dns_names": (), "emails": ["a@example.org"]}, "a@example.org"),
        ({"uris": ["spiffe://example.org/a"], "emails": ["a@b.c"]}, "spiffe://example.org/a"),
    ],
)
async def test_the_name_in_a_certificate(
    names: dict[str, Any], user_id: str, tmp_path: Path
) -> None:
    authority = CertificateAuthority(tmp_path)
    client = authority.issue("common", **names)
    options = {**served_with(authority, mutual=True), "auth_identity": "mtls"}
    async with run_server(echo_server(), **options) as server:
        credentials = trusting(authority, client)
        assert await who(server, (), credentials) == user_id
        assert await who(server, (("user-id", "mallory"),), credentials) == user_id


async def test_a_certificate_without_any_name(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    nameless: Any = call_with(x509_subject=[b"O=somebody"])
    with pytest.raises(Unidentified, match="^Missing client certificate$"):
        from_certificate(nameless)
    options = {**served_with(authority, mutual=True), "auth_identity": "mtls"}
    other = CertificateAuthority(tmp_path, "other")
    async with run_server(echo_server(), **options) as server:
        for client in (None, other.issue("alice", file_name="stranger")):
            unreachable = grpc.StatusCode.UNAVAILABLE
            await refusal(server, ALICE, trusting(authority, client), code=unreachable)


async def test_behind_mtls_a_header_counts_where_it_was_asked_for(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    gateway = trusting(authority, authority.issue("gateway"))
    async with run_server(echo_server(), **served_with(authority, mutual=True)) as server:
        assert await who(server, ALICE, gateway) == "alice"
        assert await refusal(server, (), gateway) == "Missing user-id"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"auth_identity": "mtls"}, "GRPC_AUTH_IDENTITY=mtls needs GRPC_TLS_CLIENT_CA_FILE"),
        ({"auth_identity": "jwt"}, "exactly one of GRPC_JWT_SECRET"),
        ({"jwt_issuer": "us"}, "GRPC_JWT_ISSUER is set but no key"),
        ({"jwt_audience": "api"}, "GRPC_JWT_AUDIENCE is set but no key"),
        ({"jwt_algorithms": ["RS256"]}, "GRPC_JWT_ALGORITHMS is set but no key"),
    ],
)
async def test_a_source_without_what_it_needs_is_one_line(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        async with run_server(echo_server(), **settings):
            pass
    assert "\n" not in str(raised.value)


async def test_what_is_meant_may_be_said() -> None:
    options = {"jwt_issuer": "us", "jwt_secret": SECRET, "auth_identity": "user-id"}
    async with run_server(echo_server(), **options) as server:
        assert await who(server, ALICE) == "alice"
    assert CommonSettings(_env_file=None).GRPC_AUTH_IDENTITY == "auto"
