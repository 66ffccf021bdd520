"""TLS for servers and clients, from files named by the settings."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc

from mysingle.core.config import CommonSettings
from mysingle.core.errors import ConfigError

__all__ = ["client_credentials", "server_credentials"]

_log = logging.getLogger("mysingle.grpc")


def server_credentials(settings: CommonSettings) -> grpc.ServerCredentials | None:
    """Credentials that follow the files: replaced certificates serve new connections.

    Returns:
        None where no certificate is set, which means plaintext.

    Raises:
        ConfigError: A file is missing, unreadable or no PEM; one line names setting and path.
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

    Raises:
        ConfigError: A file is missing, unreadable or no PEM; one line names setting and path.
    """
    ca, cert, key = (
        settings.GRPC_CLIENT_TLS_CA_FILE,
        settings.GRPC_CLIENT_TLS_CERT_FILE,
        settings.GRPC_CLIENT_TLS_KEY_FILE,
    )
    if not (settings.GRPC_CLIENT_TLS or ca or cert):
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=_read(ca, "GRPC_CLIENT_TLS_CA_FILE") if ca else None,
        private_key=_read(key, "GRPC_CLIENT_TLS_KEY_FILE") if key else None,
        certificate_chain=_read(cert, "GRPC_CLIENT_TLS_CERT_FILE") if cert else None,
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
        cert = _read(self._cert, "GRPC_TLS_CERT_FILE")
        key = _read(self._key, "GRPC_TLS_KEY_FILE")
        _check_pair(cert, key, self._cert, self._key)
        ca = _read(self._client_ca, "GRPC_TLS_CLIENT_CA_FILE") if self._client_ca else None
        return grpc.ssl_server_certificate_configuration([(key, cert)], ca)

    def reload_if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """For gRPC, which asks at each handshake; None keeps what it has.

        Files that cannot be used, such as a certificate whose key is not there yet, are
        reported once and read again when they change.
        """
        try:
            if self._stamps() == self._seen:
                return None
            configuration = self.load()
        except ConfigError as error:
            _log.error("the old certificate stays in use: %s", error)
            return None
        _log.info("certificate reloaded from %s", self._cert)
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
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting}: cannot read {path}: {error.strerror}") from None
    if b"-----BEGIN " not in content:
        raise ConfigError(f"{setting}: {path} is no PEM file")
    return content


def _check_pair(cert: bytes, key: bytes, cert_path: Path, key_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_private_key,
    )

    try:
        certified = x509.load_pem_x509_certificate(cert).public_key()
    except ValueError:
        raise ConfigError(f"GRPC_TLS_CERT_FILE: {cert_path} holds no certificate") from None
    try:
        private = load_pem_private_key(key, password=None).public_key()
    except (ValueError, TypeError):
        raise ConfigError(
            f"GRPC_TLS_KEY_FILE: {key_path} holds no private key without a password"
        ) from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if certified.public_bytes(*form) != private.public_bytes(*form):
        raise ConfigError(
            f"GRPC_TLS_KEY_FILE: {key_path} is not the key of GRPC_TLS_CERT_FILE {cert_path}"
        )
