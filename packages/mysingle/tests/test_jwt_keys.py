"""Key sets: replaced, rotated, gone, back, slow, broken, and asked for by strangers."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from auth_tools import (
    KeyEndpoint,
    bearer,
    by_hand,
    claims,
    echo_server,
    jwk,
    refusal,
    signed,
    who,
    write_keys,
)
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from echo import EchoClient

from mysingle.core.errors import ConfigError
from mysingle.grpc import _jwks
from mysingle.testing import CertificateAuthority, connect, run_server

OLD = rsa.generate_private_key(65537, 2048)
NEW = ec.generate_private_key(ec.SECP256R1())
AWAY = "Tokens cannot be verified just now"
CANNOT_READ = "the keys of GRPC_JWT_JWKS cannot be read"


@pytest.fixture
def endpoint() -> Iterator[KeyEndpoint]:
    serving = KeyEndpoint()
    serving.serve(jwk(OLD, "old"))
    yield serving
    serving.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if time passed quickly: whatever may be done from time to time may be done now."""
    for name in ("_REFETCH_SECONDS", "_FIRST_FETCH_SECONDS", "_FILE_CHECK_SECONDS"):
        monkeypatch.setattr(_jwks, name, 0.0)


# -- By URL -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
async def test_one_fetch_for_everybody_who_waits(endpoint: KeyEndpoint) -> None:
    endpoint.release.clear()
    async with run_server(echo_server(), jwt_jwks=endpoint.url) as server:
        callers = [
            asyncio.ensure_future(who(server, signed(OLD, "old", sub=f"user{n}")))
            for n in range(20)
        ]
        await asyncio.to_thread(endpoint.entered.wait)
        endpoint.release.set()
        assert await asyncio.gather(*callers) == [f"user{n}" for n in range(20)]
    assert endpoint.asked == 1


async def test_who_leaves_does_not_take_the_keys_of_those_who_wait(endpoint: KeyEndpoint) -> None:
    endpoint.release.clear()
    async with run_server(echo_server(), jwt_jwks=endpoint.url) as server:
        async with connect(server) as channel:
            first = EchoClient(channel).call("Unary", "who:", metadata=signed(OLD, "old"))
            await asyncio.to_thread(endpoint.entered.wait)
            second = asyncio.ensure_future(who(server, signed(OLD, "old", sub="bob")))
            first.cancel()
            assert await first.code() is grpc.StatusCode.CANCELLED
            endpoint.release.set()
            assert await second == "bob"
    assert endpoint.asked == 1


async def test_a_stranger_cannot_make_us_ask_and_ask(endpoint: KeyEndpoint) -> None:
    async with run_server(echo_server(), jwt_jwks=endpoint.url) as server:
        assert await who(server, signed(OLD, "old")) == "alice"
        refused = await asyncio.gather(
            *(refusal(server, signed(OLD, f"unknown{n}")) for n in range(30))
        )
        assert set(refused) == {"Invalid token"}
        assert endpoint.asked == 1


async def test_bad_algorithms_are_refused_without_asking(endpoint: KeyEndpoint) -> None:
    async with run_server(echo_server(), jwt_jwks=endpoint.url) as server:
        for header in ({"alg": "none"}, {"alg": "HS256", "kid": "old"}):
            assert await refusal(server, bearer(by_hand(header, claims()))) == "Invalid token"
        assert endpoint.asked == 0


@pytest.mark.usefixtures("impatient")
async def test_a_key_that_is_new_is_found(endpoint: KeyEndpoint) -> None:
    async with run_server(echo_server(), jwt_jwks=endpoint.url) as server:
        assert await who(server, signed(OLD, "old")) == "alice"
        endpoint.serve(jwk(OLD, "old"), jwk(NEW, "new"))
        assert await who(server, signed(NEW, "new", "ES256")) == "alice"
        assert endpoint.asked == 2


async def test_keys_grow_old_and_one_that_is_withdrawn_counts_no_more(
    endpoint: KeyEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = signed(OLD, "old")
    async with run_server(echo_server(), jwt_jwks=endpoint.url) as server:
        assert await who(server, token) == "alice"  # and remembered
        endpoint.serve(jwk(NEW, "new"))
        monkeypatch.setattr(_jwks, "_LIFETIME_SECONDS", 0.0)
        monkeypatch.setattr(_jwks, "_REFETCH_SECONDS", 0.0)
        # The old keys serve while new ones are fetched in the background.
        while await _code(server, token) is grpc.StatusCode.OK:
            pass
        assert await refusal(server, token) == "Invalid token"


async def _code(server: Any, metadata: Any) -> grpc.StatusCode:
    async with connect(server) as channel:
        return await EchoClient(channel).call("Unary", "who:", metadata=metadata).code()


@pytest.mark.usefixtures("impatient")
async def test_the_endpoint_goes_away_and_comes_back(
    endpoint: KeyEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_server(echo_server(), jwt_jwks=endpoint.url) as server:
        assert await who(server, signed(OLD, "old")) == "alice"
        endpoint.stop()
        for n in range(3):  # unknown keys make us ask, in vain; the old ones go on serving
            assert await refusal(server, signed(NEW, "new", "ES256")) == "Invalid token"
            assert await who(server, signed(OLD, "old", sub=f"user{n}")) == f"user{n}"
        assert caplog.text.count(CANNOT_READ) == 1
        endpoint.serve(jwk(NEW, "new"))
        endpoint.start()
        assert await who(server, signed(NEW, "new", "ES256")) == "alice"
        assert await refusal(server, signed(OLD, "old")) == "Invalid token"
        assert "are read again" in caplog.text


@pytest.mark.usefixtures("impatient")
async def test_an_endpoint_that_was_never_there_is_not_the_callers_fault(
    endpoint: KeyEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.stop()
    async with run_server(echo_server(), jwt_jwks=endpoint.url) as server:
        for _ in range(3):
            away = await refusal(server, signed(OLD, "old"), code=grpc.StatusCode.UNAVAILABLE)
            assert away == AWAY
        assert await refusal(server, ()) == "Missing bearer token"
        assert caplog.text.count(CANNOT_READ) == 1
        endpoint.start()
        assert await who(server, signed(OLD, "old")) == "alice"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not of the form"),
        (b"<html>", "not of the form"),
        (b'{"keys": 1}', "it holds no public"),
        (b'{"keys": []}', "it holds no public"),
        (b'{"keys": [1, {"kty": "oct", "k": "c2VjcmV0", "kid": "old"}]}', "it holds no public"),
        (b"[" * 100_000, "not of the form"),
        (b" " * (1024 * 1024 + 1), "larger than 1 MiB"),
    ],
    ids=range(7),
)
async def test_an_endpoint_that_answers_nonsense(
    endpoint: KeyEndpoint, body: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.body, good = body, endpoint.body
    async with run_server(echo_server(), jwt_jwks=endpoint.url) as server:
        assert await refusal(server, signed(OLD, "old"), code=grpc.StatusCode.UNAVAILABLE) == AWAY
        assert reason in caplog.text
        endpoint.body = good
        assert await who(server, signed(OLD, "old")) == "alice"


async def test_redirects_are_not_followed(endpoint: KeyEndpoint) -> None:
    other = KeyEndpoint()
    try:
        other.serve(jwk(OLD, "old"))
        endpoint.redirect = other.url
        async with run_server(echo_server(), jwt_jwks=endpoint.url) as server:
            unavailable = grpc.StatusCode.UNAVAILABLE
            assert await refusal(server, signed(OLD, "old"), code=unavailable) == AWAY
        assert (endpoint.asked, other.asked) == (1, 0)
    finally:
        other.stop()


@pytest.mark.parametrize("how", ["hangs", "trickles"])
async def test_an_answer_that_does_not_end_is_given_up(
    endpoint: KeyEndpoint, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_jwks, "_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(_jwks, "_MAX_BYTES", 1 << 40)
    endpoint.trickles = how == "trickles"
    if how == "hangs":
        endpoint.release.clear()
    async with run_server(echo_server(), jwt_jwks=endpoint.url) as server:
        unavailable = grpc.StatusCode.UNAVAILABLE
        assert await refusal(server, signed(OLD, "old"), code=unavailable) == AWAY


async def test_a_server_that_stops_does_not_wait_for_keys(endpoint: KeyEndpoint) -> None:
    endpoint.release.clear()
    async with run_server(echo_server(), jwt_jwks=endpoint.url, grace_seconds=0.0) as server:
        async with connect(server) as channel:
            call = EchoClient(channel).call("Unary", "who:", metadata=signed(OLD, "old"))
            await asyncio.to_thread(endpoint.entered.wait)
            await server.stop()
            assert await call.code() is not grpc.StatusCode.OK
        running = [str(task.get_coro()) for task in asyncio.all_tasks()]
        assert not [one for one in running if "KeySet._fetch" in one]


async def test_https_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = CertificateAuthority(tmp_path)
    issued = authority.issue("localhost")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(issued.cert_file, issued.key_file)
    endpoint = KeyEndpoint(tls=tls)
    try:
        endpoint.serve(jwk(OLD, "old"))
        async with run_server(echo_server(), jwt_jwks=endpoint.url) as server:
            unavailable = grpc.StatusCode.UNAVAILABLE
            assert await refusal(server, signed(OLD, "old"), code=unavailable) == AWAY
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
        async with run_server(echo_server(), jwt_jwks=endpoint.url) as server:
            assert await who(server, signed(OLD, "old")) == "alice"
    finally:
        endpoint.stop()


@pytest.mark.parametrize(
    "url",
    [
        "http://far.example/keys",
        "http://10.0.0.1/keys",
        "http://localhost.example/keys",
        "http://127.0.0.1@far.example/keys",
        "https:///keys",
        "ftp://localhost/keys",
        "file:///etc/keys",
        "http://[::1/keys",
    ],
)
async def test_where_keys_are_not_asked_for(url: str) -> None:
    with pytest.raises(ConfigError, match="^GRPC_JWT_JWKS must be a file or an https") as raised:
        async with run_server(echo_server(), jwt_jwks=url):
            pass
    assert "example" not in str(raised.value)


# -- In a file ----------------------------------------------------------------------------------


async def test_a_replaced_file_is_read(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", jwk(OLD, "old"))
    async with run_server(echo_server(), jwt_jwks=str(keys)) as server:
        assert await who(server, signed(OLD, "old")) == "alice"
        assert await refusal(server, signed(NEW, "new", "ES256")) == "Invalid token"
        write_keys(tmp_path / "next.json", jwk(OLD, "old"), jwk(NEW, "new")).replace(keys)
        assert await who(server, signed(NEW, "new", "ES256")) == "alice"


@pytest.mark.usefixtures("impatient")
async def test_a_key_that_leaves_the_file_counts_no_more(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", jwk(OLD, "old"), jwk(NEW, "new"))
    token = signed(OLD, "old")
    async with run_server(echo_server(), jwt_jwks=str(keys)) as server:
        assert await who(server, token) == "alice"  # and remembered
        write_keys(keys, jwk(NEW, "new"))
        assert await refusal(server, token) == "Invalid token"
        assert await who(server, signed(NEW, "new", "ES256")) == "alice"


@pytest.mark.usefixtures("impatient")
async def test_a_broken_file_keeps_the_old_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = write_keys(tmp_path / "keys.json", jwk(OLD, "old"))
    async with run_server(echo_server(), jwt_jwks=str(keys)) as server:
        for break_it in (lambda: keys.write_text("{"), keys.unlink):
            break_it()
            for n in range(3):
                assert await who(server, signed(OLD, "old", sub=f"user{n}")) == f"user{n}"
        assert caplog.text.count(CANNOT_READ) == 1
        write_keys(keys, jwk(NEW, "new"))
        assert await who(server, signed(NEW, "new", "ES256")) == "alice"
        assert "are read again" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "GRPC_JWT_JWKS: cannot read .*: No such file"),
        ("", "GRPC_JWT_JWKS: .* is no key set: not of the form"),
        ("{}", "GRPC_JWT_JWKS: .* is no key set: not of the form"),
        ('{"keys": []}', "GRPC_JWT_JWKS: .* is no key set: it holds no public"),
        (" " * (1024 * 1024 + 1), "GRPC_JWT_JWKS: .* larger than 1 MiB"),
    ],
    ids=range(5),
)
async def test_a_wrong_file_is_one_line(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message) as raised:
        async with run_server(echo_server(), jwt_jwks=str(path)):
            pass
    assert "\n" not in str(raised.value)


# -- Which keys of a set ------------------------------------------------------------------------


async def test_without_an_id_the_only_key_that_fits_is_taken(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", jwk(OLD, "old"), jwk(NEW, "new"))
    async with run_server(echo_server(), jwt_jwks=str(keys)) as server:
        assert await who(server, signed(OLD)) == "alice"
        assert await who(server, signed(NEW, algorithm="ES256")) == "alice"
        other = ec.generate_private_key(ec.SECP256R1())
        write_keys(keys, jwk(NEW, "new"), jwk(other, "other"))
        assert await refusal(server, signed(other, algorithm="ES256")) == "Invalid token"
        assert await who(server, signed(other, "other", "ES256")) == "alice"


@pytest.mark.parametrize(
    "entry",
    [
        jwk(OLD, "old", use="enc"),
        jwk(OLD, "old", alg="RS512"),
        jwk(OLD, "old", alg="PS256"),
        jwk(rsa.generate_private_key(65537, 1024), "old"),
        {"kty": "oct", "kid": "old", "k": "c2VjcmV0" * 8},
        {"kty": "RSA", "kid": "old"},
        json.loads(json.dumps(jwk(NEW, "old", crv="P-384"))),
    ],
    ids=["encryption", "RS512", "PS256", "short", "secret", "incomplete", "curve"],
)
async def test_keys_that_are_left_out_do_not_harm_the_others(
    entry: dict[str, Any], tmp_path: Path
) -> None:
    keys = write_keys(tmp_path / "keys.json", entry, jwk(NEW, "new"))
    async with run_server(echo_server(), jwt_jwks=str(keys)) as server:
        assert await refusal(server, signed(OLD, "old")) == "Invalid token"
        assert await refusal(server, signed("c2VjcmV0" * 8, "old", "HS256")) == "Invalid token"
        assert await who(server, signed(NEW, "new", "ES256")) == "alice"
