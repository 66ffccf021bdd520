"""Certificates for tests."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["CertificateAuthority", "Issued"]

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """Files of one certificate, in PEM.

    Attributes:
        cert_file: The certificate.
        key_file: Its private key, without a password.
    """

    cert_file: Path
    key_file: Path


class CertificateAuthority:
    """A certificate authority of its own, valid for a day; keys are P-256.

        authority = CertificateAuthority(tmp_path)
        server = authority.issue("localhost")
        client = authority.issue("alice", uris=["spiffe://example.org/alice"])

    Args:
        directory: Where files are written; made if it is not there.
        name: Its common name, and the beginning of its files' names.

    Attributes:
        ca_file: Its own certificate, for those who shall trust it.
    """

    def __init__(self, directory: Path, name: str = "test-ca") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        certificate = (
            _builder(self._name, self._name, self._key.public_key(), self._key, _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file = directory / f"{name}.pem"
        self.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        file_name: str = "",
        dns_names: Sequence[str] | None = None,
        ip_addresses: Sequence[str] = ("127.0.0.1", "::1"),
        uris: Sequence[str] = (),
        emails: Sequence[str] = (),
        valid_for: timedelta = _DAY,
    ) -> Issued:
        """Issues a certificate that serves servers and clients alike.

        Args:
            name: Its common name.
            file_name: Beginning of the files' names; `name` if left out. Issuing to the same
                files again replaces them.
            dns_names: DNS names among its alternative names; `name` if left out.
            ip_addresses: IP addresses among them; the loopback if left out.
            uris: URIs among them, such as a SPIFFE id.
            emails: Email addresses among them.
            valid_for: From now on; a negative time makes one that has expired.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives: list[x509.GeneralName] = [
            *map(x509.UniformResourceIdentifier, uris),
            *map(x509.DNSName, [name] if dns_names is None else dns_names),
            *map(x509.RFC822Name, emails),
            *(x509.IPAddress(ipaddress.ip_address(one)) for one in ip_addresses),
        ]
        builder = (
            _builder(_name(name), self._name, key.public_key(), self._key, valid_for)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
        )
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        certificate = builder.sign(self._key, hashes.SHA256())
        issued = Issued(
            self._directory / f"{file_name or name}.pem",
            self._directory / f"{file_name or name}-key.pem",
        )
        issued.cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        issued.key_file.touch(mode=0o600)
        issued.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return issued


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    valid_for: timedelta,
) -> x509.CertificateBuilder:
    ends = datetime.now(UTC) + valid_for
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(datetime.now(UTC), ends) - timedelta(minutes=5))
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
