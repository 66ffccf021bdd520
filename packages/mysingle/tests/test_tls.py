"""TLS and mTLS: files that are wrong, replaced, broken and mended while the server runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from auth_tools import echo_server, served_with, trusting
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from echo import EchoClient

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError
from mysingle.grpc import BaseGrpcClient
from mysingle.grpc._tls import client_credentials, server_credentials
from mysingle.testing import CertificateAuthority, Issued, connect, run_server

ALICE = (("user-id", "alice"),)
KEPT = "TLS: the old files stay in use"


async def reaches(server: Any, credentials: grpc.ChannelCredentials | None) -> bool:
    async with connect(server, credentials) as channel:
        call = EchoClient(channel).call("Unary", "a", metadata=ALICE)
        code = await call.code()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE), code
    return code is grpc.StatusCode.OK


async def test_only_tls_is_spoken(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    stranger = CertificateAuthority(tmp_path, "stranger")
    async with run_server(echo_server(), **served_with(authority)) as server:
        assert await reaches(server, trusting(authority))
        assert not await reaches(server, trusting(stranger))
        assert not await reaches(server, None)
    async with run_server(echo_server()) as plain:
        assert not await reaches(plain, trusting(authority))


async def test_mtls_asks_for_a_certificate_of_our_authority(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    stranger = CertificateAuthority(tmp_path, "stranger")
    options = served_with(authority, mutual=True)
    expired = authority.issue("late", valid_for=timedelta(minutes=-1))
    async with run_server(echo_server(), **options) as server:
        assert await reaches(server, trusting(authority, authority.issue("alice")))
        assert not await reaches(server, trusting(authority))
        assert not await reaches(server, trusting(authority, stranger.issue("bob")))
        assert not await reaches(server, trusting(authority, expired))


async def test_a_replaced_authority_of_clients_counts_for_new_connections(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    one, two = CertificateAuthority(tmp_path, "one"), CertificateAuthority(tmp_path, "two")
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(one.ca_file.read_bytes())
    options = {**served_with(authority), "tls_client_ca_file": trusted}
    of_one, of_two = (trusting(authority, ca.issue("alice")) for ca in (one, two))
    async with run_server(echo_server(), **options) as server:
        async with connect(server, of_one) as channel:
            client = EchoClient(channel)
            assert await client.texts("Unary", "a", metadata=ALICE) == ["a"]
            assert not await reaches(server, of_two)
            trusted.write_bytes(one.ca_file.read_bytes() + two.ca_file.read_bytes())
            assert await reaches(server, of_one)
            assert await reaches(server, of_two)
            trusted.write_bytes(two.ca_file.read_bytes())
            assert await reaches(server, of_two)
            # A connection that is open goes on.
            assert await client.texts("Unary", "a", metadata=ALICE) == ["a"]


@pytest.mark.parametrize(
    "break_it",
    [
        lambda issued: issued.cert_file.write_text("-----BEGIN CERTIFICATE-----\nnonsense"),
        lambda issued: issued.cert_file.unlink(),
        lambda issued: issued.key_file.write_text(""),
        lambda issued: issued.key_file.write_bytes(
            _private(ec.generate_private_key(ec.SECP256R1()))
        ),
    ],
    ids=["broken", "gone", "empty", "of another"],
)
async def test_a_broken_replacement_keeps_the_old_certificate(
    break_it: Callable[[Issued], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = CertificateAuthority(tmp_path, "old"), CertificateAuthority(tmp_path, "new")
    issued = old.issue("localhost", file_name="server")
    tls = {"tls_cert_file": issued.cert_file, "tls_key_file": issued.key_file}
    async with run_server(echo_server(), **tls) as server:
        assert await reaches(server, trusting(old))
        break_it(issued)
        for _ in range(3):
            assert await reaches(server, trusting(old))
        assert caplog.text.count(KEPT) == 1
        new.issue("localhost", file_name="server")
        assert await reaches(server, trusting(new))
        assert not await reaches(server, trusting(old))
        assert f"TLS: files reloaded, certificate {issued.cert_file}" in caplog.text


def _private(key: ec.EllipticCurvePrivateKey, password: bytes = b"") -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption(),
    )


LOCKED = _private(ec.generate_private_key(ec.SECP256R1()), b"password")
WRONG: list[tuple[str, bytes | None, str]] = [
    ("CERT_FILE", None, "cannot read {path}: No such file or directory"),
    ("CERT_FILE", b"nothing", "{path} is no PEM file of certificates"),
    ("CERT_FILE", b"-----BEGIN CERTIFICATE-----\nx", "{path} is no PEM file of certificates"),
    ("KEY_FILE", None, "cannot read {path}: No such file or directory"),
    ("KEY_FILE", b"nothing", "{path} holds no PEM private key without a password"),
    ("KEY_FILE", LOCKED, "{path} holds no PEM private key without a password"),
    ("KEY_FILE", _private(ec.generate_private_key(ec.SECP256R1())), "{path} is not the key of"),
    ("CA_FILE", None, "cannot read {path}: No such file or directory"),
    ("CA_FILE", b"nothing", "{path} is no PEM file of certificates"),
]


@pytest.mark.parametrize("side", ["GRPC_TLS_", "GRPC_CLIENT_TLS_"])
@pytest.mark.parametrize(("what", "content", "message"), WRONG)
def test_a_wrong_file_is_one_line(
    side: str, what: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    authority = CertificateAuthority(tmp_path)
    issued = authority.issue("localhost")
    path = tmp_path / "wrong.pem"
    if content is not None:
        path.write_bytes(content)
    ca = f"{side}CLIENT_CA_FILE" if side == "GRPC_TLS_" else f"{side}CA_FILE"
    setting = ca if what == "CA_FILE" else side + what
    good = {
        f"{side}CERT_FILE": issued.cert_file,
        f"{side}KEY_FILE": issued.key_file,
        ca: authority.ca_file,
    }
    make: Any = server_credentials if side == "GRPC_TLS_" else client_credentials
    assert make(CommonSettings(_env_file=None, **good)) is not None
    expected = "^" + re.escape(f"{setting}: " + message.format(path=path))
    with pytest.raises(ConfigError, match=expected) as raised:
        make(CommonSettings(_env_file=None, **{**good, setting: path}))
    assert "\n" not in str(raised.value)


async def test_the_server_says_so_instead_of_starting(tmp_path: Path) -> None:
    options = {**served_with(CertificateAuthority(tmp_path)), "tls_key_file": tmp_path / "none"}
    with pytest.raises(ConfigError, match="^GRPC_TLS_KEY_FILE: cannot read"):
        async with run_server(echo_server(), **options):
            pass


def test_an_expired_certificate_is_worth_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    late = CertificateAuthority(tmp_path).issue("localhost", valid_for=timedelta(days=-2))
    settings = CommonSettings(
        _env_file=None, GRPC_TLS_CERT_FILE=late.cert_file, GRPC_TLS_KEY_FILE=late.key_file
    )
    assert server_credentials(settings) is not None
    assert f"GRPC_TLS_CERT_FILE: {late.cert_file} expired on " in caplog.text


def test_no_settings_mean_plaintext() -> None:
    settings = CommonSettings(_env_file=None)
    assert server_credentials(settings) is None
    assert client_credentials(settings) is None


async def test_client_credentials_from_settings(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    client = authority.issue("alice")
    trust = {"GRPC_CLIENT_TLS_CA_FILE": authority.ca_file}
    pair = {
        "GRPC_CLIENT_TLS_CERT_FILE": client.cert_file,
        "GRPC_CLIENT_TLS_KEY_FILE": client.key_file,
    }
    async with run_server(echo_server(), **served_with(authority, mutual=True)) as server:
        for settings, reached in (({**trust, **pair}, True), (trust, False), (pair, False)):
            credentials = client_credentials(CommonSettings(_env_file=None, **settings))
            assert await reaches(server, credentials) is reached


async def test_the_example_in_the_documentation(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs/security.md").read_text()
    [block] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    seen: list[str] = []

    class Stub:
        def __init__(self, channel: Any) -> None:
            self.client = EchoClient(channel)

    class Client(BaseGrpcClient[Any]):
        stub_class = Stub

    async def look(client: Any) -> None:
        seen.extend(await client.stub.client.texts("Unary", "who:"))

    names: dict[str, Any] = {
        "MyGrpcServer": echo_server(),
        "MyServiceSettings": CommonSettings,
        "MyServiceClient": Client,
        "look": look,
    }
    assert block.count("...  # the servicer sees") == 1
    exec(block.replace("...  #", "await look(client)  #"), names)
    await names["test_mtls"](tmp_path)
    assert [one.rpartition("/")[0] for one in seen] == ["spiffe://example.org/alice"]
