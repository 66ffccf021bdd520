"""TLS for servers and clients, from files named by the settings."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

# cryptography is imported where it is used: plaintext, the most frequent case, does without.

__all__ = ["client_credentials", "server_credentials"]

_log = logging.getLogger("mysingle.grpc")


def server_credentials(settings: CommonSettings) -> grpc.ServerCredentials | None:
    """Credentials that follow the files: replaced ones serve new connections.

    That goes for certificate, key and client CA alike. A replacement that cannot be used is
    reported once, and what was there before stays in use.

    Returns:
        None where no certificate is set, which means plaintext.

    Raises:
        ConfigError: A file cannot be read or used, or the key is not the certificate's; one
            line names setting and path.
    """
    if settings.GRPC_TLS_CERT_FILE is None or settings.GRPC_TLS_KEY_FILE is None:
        return None
    files = _ServerFiles(
        settings.GRPC_TLS_CERT_FILE, settings.GRPC_TLS_KEY_FILE, settings.GRPC_TLS_CLIENT_CA_FILE
    )
    return grpc.dynamic_ssl_server_credentials(
        files.load(),
        files.reload_if_changed,  # type: ignore[arg-type]  # the stubs lack None, "no change"
        require_client_authentication=settings.GRPC_TLS_CLIENT_CA_FILE is not None,
    )


def client_credentials(settings: CommonSettings) -> grpc.ChannelCredentials | None:
    """Credentials for calls to other servers; None for plaintext.

    Without a CA file the authorities that gRPC brings along are trusted.

    Raises:
        ConfigError: A file cannot be read or used, or the key is not the certificate's; one
            line names setting and path.
    """
    ca, cert, key = (
        settings.GRPC_CLIENT_TLS_CA_FILE,
        settings.GRPC_CLIENT_TLS_CERT_FILE,
        settings.GRPC_CLIENT_TLS_KEY_FILE,
    )
    if not (settings.GRPC_CLIENT_TLS or ca or cert):
        return None
    chain = private = None
    if cert and key:
        chain, private = _pair(cert, key, "GRPC_CLIENT_TLS_CERT_FILE", "GRPC_CLIENT_TLS_KEY_FILE")
    return grpc.ssl_channel_credentials(
        root_certificates=_certificates(ca, "GRPC_CLIENT_TLS_CA_FILE") if ca else None,
        private_key=private,
        certificate_chain=chain,
    )


class _ServerFiles:
    """Certificate, key and client CA, read again when one of them changed."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._cert = cert
        self._key = key
        self._client_ca = client_ca
        self._seen: tuple[tuple[int, int, int], ...] = ()

    def load(self) -> grpc.ServerCertificateConfiguration:
        """Reads the files.

        Raises:
            ConfigError: One of them cannot be used.
        """
        self._seen = self._stamps()
        cert, key = _pair(self._cert, self._key, "GRPC_TLS_CERT_FILE", "GRPC_TLS_KEY_FILE")
        ca = self._client_ca
        trusted = _certificates(ca, "GRPC_TLS_CLIENT_CA_FILE") if ca else None
        return grpc.ssl_server_certificate_configuration([(key, cert)], trusted)

    def reload_if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """For gRPC, which asks at each handshake; None keeps what it has.

        Files that cannot be used, such as a certificate whose key is not there yet, are
        reported once and read again when they change.
        """
        try:
            if self._stamps() == self._seen:
                return None
            configuration = self.load()
        except Exception as error:  # out of here it would fail the handshake
            _log.error("TLS: the old files stay in use: %s", error)
            return None
        _log.info("TLS: files reloaded, certificate %s", self._cert)
        return configuration

    def _stamps(self) -> tuple[tuple[int, int, int], ...]:
        files = (self._cert, self._key, self._client_ca)
        return tuple(_stamp(one) for one in files if one)


def _stamp(path: Path) -> tuple[int, int, int]:
    """Tells a file from what it was before; a missing one has a stamp too."""
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting}: cannot read {path}: {error.strerror}") from None


def _certificates(path: Path, setting: str) -> bytes:
    """The content of a file of certificates, once it is clear that it can be used."""
    content = _read(path, setting)
    _first_certificate(content, path, setting)
    return content


def _first_certificate(content: bytes, path: Path, setting: str) -> Certificate:
    from cryptography.x509 import load_pem_x509_certificates

    try:
        first = load_pem_x509_certificates(content)[0]
    except ValueError:
        raise ConfigError(f"{setting}: {path} is no PEM file of certificates") from None
    if first.not_valid_after_utc < datetime.now(UTC):
        # No error: whoever looks at the log is helped, and a clock may be wrong.
        _log.warning("%s: %s expired on %s", setting, path, first.not_valid_after_utc.date())
    return first


def _pair(
    cert_path: Path, key_path: Path, cert_setting: str, key_setting: str
) -> tuple[bytes, bytes]:
    """The content of a certificate file and of the file with its key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_private_key,
    )

    cert, key = _read(cert_path, cert_setting), _read(key_path, key_setting)
    certified = _first_certificate(cert, cert_path, cert_setting).public_key()
    try:
        private = load_pem_private_key(key, password=None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(
            f"{key_setting}: {key_path} holds no PEM private key without a password"
        ) from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if certified.public_bytes(*form) != private.public_bytes(*form):
        raise ConfigError(f"{key_setting}: {key_path} is not the key of {cert_setting} {cert_path}")
    return cert, key
