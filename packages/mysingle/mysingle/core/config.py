"""Settings of a service: one class, read from the environment and `.env` files.

Subclass [CommonSettings][] to override a default or to add settings of your own:

    class StrategySettings(CommonSettings):
        SERVICE_NAME: str = "strategy-service"
        GRPC_SERVER_PORT: int = 50052
"""

from __future__ import annotations

import os
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.exceptions import SettingsError

from mysingle.core.errors import ConfigError

__all__ = ["CommonSettings", "ConfigError", "StringList"]

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def _split_commas(value: object) -> object:
    """`"a, b"` → `["a", "b"]`: lists in the environment are comma-separated."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


StringList = Annotated[list[str], NoDecode, BeforeValidator(_split_commas)]
"""A list that the environment writes as `a,b,c`."""


class CommonSettings(BaseSettings):
    """Settings every service shares, with the defaults of the platform.

    Each value comes from the first of: an argument, an environment variable,
    `.env.<ENVIRONMENT>`, `.env`, the default below. A wrong value raises [ConfigError][]
    with one line for each variable at fault.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        case_sensitive=True,
        extra="ignore",
        populate_by_name=True,
        validate_default=True,
        frozen=True,
        hide_input_in_errors=True,
    )

    # -- The service --------------------------------------------------------------------
    SERVICE_NAME: str = "mysingle"
    ENVIRONMENT: str = "development"
    """`development`, `test`, `production` or a name of your own; picks `.env.<ENVIRONMENT>`."""

    # -- Backends -----------------------------------------------------------------------
    REDIS_URL: str = ""
    """`redis://`, `rediss://` or `unix://`; empty means no Redis is configured."""
    REDIS_DB_GRPC: Annotated[int, Field(ge=0)] = 1
    REDIS_DB_RATE_LIMIT: Annotated[int, Field(ge=0)] = 2
    MONGODB_URL: str = ""

    # -- Logs ---------------------------------------------------------------------------
    LOG_LEVEL: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    LOG_FORMAT: Literal["auto", "json", "console"] = "auto"
    """`auto` is `console` in development on a terminal, `json` elsewhere."""
    LOG_FILE: Path | None = None
    """A file that JSON lines are appended to, besides the console."""

    # -- Server: addresses and processes ------------------------------------------------
    GRPC_SERVER_HOST: str = "[::]"
    GRPC_SERVER_PORT: Port = 50051
    """0 takes a free port."""
    GRPC_SERVER_UNIX_SOCKET: Path | None = None
    """Listen on this socket instead of a port."""
    GRPC_SERVER_MAX_WORKERS: Count = 10
    """Threads that run plain `def` servicers."""
    GRPC_SERVER_WORKERS: Count = 1
    """Processes that share the port; `BaseGrpcServer.main()` and `mysingle serve` start them."""
    GRPC_SERVER_GRACE_SECONDS: Annotated[float, Field(ge=0)] = 10.0
    """How long running calls may go on after a stop was asked for."""
    GRPC_SERVER_ENABLE_REFLECTION: bool = False
    GRPC_SERVER_REFLECTION_SERVICE_NAMES: StringList = []
    """Services shown by reflection; empty shows every registered one."""
    GRPC_METRICS_PORT: Port | None = None
    """Serve `/metrics`, `/healthz` and `/readyz` over HTTP on this port; unset serves none."""

    # -- Server: limits of the transport ------------------------------------------------
    GRPC_MAX_RECEIVE_MESSAGE_BYTES: Count = 4 * 1024 * 1024
    GRPC_MAX_SEND_MESSAGE_BYTES: Count = 64 * 1024 * 1024
    GRPC_MAX_METADATA_BYTES: Count = 16 * 1024
    GRPC_MAX_CONCURRENT_STREAMS: Count = 1000
    """Calls that one connection may have open at once."""
    GRPC_MAX_CONCURRENT_CALLS: Count | None = None
    """Calls that one process serves at once; more are refused with `RESOURCE_EXHAUSTED`."""
    GRPC_KEEPALIVE_TIME_SECONDS: Seconds = 7200.0
    GRPC_KEEPALIVE_TIMEOUT_SECONDS: Seconds = 20.0
    GRPC_KEEPALIVE_MIN_CLIENT_INTERVAL_SECONDS: Seconds = 300.0
    """Clients that ping more often than this are disconnected (`too_many_pings`)."""
    GRPC_MAX_CONNECTION_IDLE_SECONDS: Seconds | None = None
    GRPC_MAX_CONNECTION_AGE_SECONDS: Seconds | None = None
    GRPC_MAX_CONNECTION_AGE_GRACE_SECONDS: Seconds | None = None
    GRPC_COMPRESSION: Literal["none", "gzip", "deflate"] = "none"
    """How the server compresses its answers."""

    # -- TLS ----------------------------------------------------------------------------
    GRPC_TLS_CERT_FILE: Path | None = None
    GRPC_TLS_KEY_FILE: Path | None = None
    GRPC_TLS_CLIENT_CA_FILE: Path | None = None
    """Accept only clients whose certificate was signed by one of these (mTLS)."""

    # -- The standard chain -------------------------------------------------------------
    GRPC_ENABLE_METRICS: bool = True
    GRPC_ENABLE_AUTH: bool = True
    GRPC_ENABLE_RATE_LIMITING: bool = True
    GRPC_ENABLE_METADATA: bool = True
    GRPC_ENABLE_LOGGING: bool = True
    GRPC_ENABLE_ERROR_HANDLING: bool = True
    GRPC_ALLOW_NO_AUTH_IN_PRODUCTION: bool = False
    GRPC_ALLOW_REFLECTION_IN_PRODUCTION: bool = False

    # -- Auth ---------------------------------------------------------------------------
    GRPC_AUTH_EXEMPT_METHODS: StringList = []
    """Full names, or `/package.Service/*`, that need no identity. Health never does."""
    GRPC_AUTH_IDENTITY: Literal["auto", "user-id", "jwt", "mtls"] = "auto"
    """Where the user id comes from. `auto` is `jwt` as soon as a JWT key is set, else `user-id`."""
    GRPC_JWT_SECRET: SecretStr | None = None
    """Shared secret for HS256."""
    GRPC_JWT_PUBLIC_KEY_FILE: Path | None = None
    """PEM public key for RS256 or ES256."""
    GRPC_JWT_JWKS: str = ""
    """File or `https://` URL of a JSON Web Key Set."""
    GRPC_JWT_ALGORITHMS: StringList = []
    """Empty takes what fits the key: HS256 for a secret, RS256 and ES256 for public keys."""
    GRPC_JWT_ISSUER: str = ""
    GRPC_JWT_AUDIENCE: str = ""
    GRPC_JWT_LEEWAY_SECONDS: Annotated[float, Field(ge=0)] = 0.0

    # -- Rate limit ---------------------------------------------------------------------
    GRPC_RATE_LIMIT_MAX_REQUESTS: Count = 1000
    GRPC_RATE_LIMIT_WINDOW_SECONDS: Count = 60
    GRPC_RATE_LIMIT_BACKEND: Literal["auto", "redis", "local"] = "auto"
    """`auto` counts in Redis where `REDIS_URL` is set, else in this process."""
    GRPC_RATE_LIMIT_REDIS_AWAY: Literal["local", "refuse"] = "local"
    """While Redis is away: count in this process, or refuse calls with `UNAVAILABLE`."""

    # -- Observability ------------------------------------------------------------------
    GRPC_METRICS_PREFIX: str = "mysingle_"
    """Put before `grpc_server_handled_total` and its kin; empty matches stock dashboards."""
    GRPC_LOG_SAMPLE: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the successful calls that are logged; failures always are."""
    GRPC_ENABLE_TRACING: bool = True
    """Trace calls where OpenTelemetry is installed and configured."""

    # -- Cache --------------------------------------------------------------------------
    GRPC_CACHE_L1_TTL_SECONDS: Seconds = 300
    GRPC_CACHE_L1_MAX_SIZE: Count = 100
    GRPC_CACHE_L2_TTL_SECONDS: Seconds = 3600

    # -- Client -------------------------------------------------------------------------
    GRPC_CLIENT_TIMEOUT_SECONDS: Seconds = 30.0
    """Deadline of a call that names none and is inside of no other call."""
    GRPC_CLIENT_RETRY_MAX_ATTEMPTS: Annotated[int, Field(ge=1, le=5)] = 3
    """Attempts at a call that the server never began to serve; 1 turns retries off."""
    GRPC_CLIENT_BREAKER_FAILURES: Annotated[int, Field(ge=0)] = 10
    """Failures in a row that open the circuit breaker of a target; 0 turns it off."""
    GRPC_CLIENT_BREAKER_RESET_SECONDS: Seconds = 5.0
    """How long an open breaker refuses before it lets one call try."""
    GRPC_CLIENT_TLS: bool = False
    """Talk TLS to servers; on as well when a CA or certificate below is set."""
    GRPC_CLIENT_TLS_CA_FILE: Path | None = None
    GRPC_CLIENT_TLS_CERT_FILE: Path | None = None
    GRPC_CLIENT_TLS_KEY_FILE: Path | None = None

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_one_line_each(error)) from None
        except SettingsError as error:
            raise ConfigError(str(error)) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Adds `.env.<ENVIRONMENT>` between the environment and `.env`."""
        del file_secret_settings
        environment = (
            init_settings().get("ENVIRONMENT")
            or os.environ.get("ENVIRONMENT")
            or dotenv_settings().get("ENVIRONMENT")
            or cls.model_fields["ENVIRONMENT"].default
        )
        of_environment = DotEnvSettingsSource(settings_cls, env_file=f".env.{environment}")
        return (init_settings, env_settings, of_environment, dotenv_settings)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        _check_redeclared(self)
        check_production(self)
        for one, other in (
            ("GRPC_TLS_CERT_FILE", "GRPC_TLS_KEY_FILE"),
            ("GRPC_TLS_KEY_FILE", "GRPC_TLS_CERT_FILE"),
            ("GRPC_TLS_CLIENT_CA_FILE", "GRPC_TLS_CERT_FILE"),
            ("GRPC_CLIENT_TLS_CERT_FILE", "GRPC_CLIENT_TLS_KEY_FILE"),
            ("GRPC_CLIENT_TLS_KEY_FILE", "GRPC_CLIENT_TLS_CERT_FILE"),
        ):
            if getattr(self, one) is not None and getattr(self, other) is None:
                raise ConfigError(f"{one} is set but {other} is not; they go together")
        return self

    @property
    def is_production(self) -> bool:
        """Whether `ENVIRONMENT` is `production`."""
        return self.ENVIRONMENT == "production"

    def override(self, **values: object) -> Self:
        """A copy with these settings replaced and everything checked again.

        Raises:
            ConfigError: A value is wrong; the text names the setting.
        """
        return type(self)(**{**self.model_dump(), **values})


def _check_redeclared(settings: CommonSettings) -> None:
    """Holds settings that a subclass declared anew, `GRPC_SERVER_PORT: int`, to our limits.

    Raises:
        ConfigError: A value is beyond them.
    """
    for name, field in CommonSettings.model_fields.items():
        if type(settings).model_fields[name].metadata == field.metadata or not field.metadata:
            continue
        limited: Any = getitem(Annotated, (field.annotation, *field.metadata))
        try:
            TypeAdapter(limited).validate_python(getattr(settings, name))
        except ValidationError as error:
            raise ConfigError(f"{name}: {error.errors()[0]['msg']}") from None


def check_production(settings: CommonSettings) -> None:
    """Refuses what is dangerous in production unless it was said twice.

    Raises:
        ConfigError: Auth is off or reflection on, and the setting that allows it is not set.
    """
    if not settings.is_production:
        return
    if not settings.GRPC_ENABLE_AUTH and not settings.GRPC_ALLOW_NO_AUTH_IN_PRODUCTION:
        raise ConfigError(
            "GRPC_ENABLE_AUTH=false in production lets anybody in; "
            "if that is meant, set GRPC_ALLOW_NO_AUTH_IN_PRODUCTION=true as well"
        )
    if settings.GRPC_SERVER_ENABLE_REFLECTION and not settings.GRPC_ALLOW_REFLECTION_IN_PRODUCTION:
        raise ConfigError(
            "GRPC_SERVER_ENABLE_REFLECTION=true in production shows every contract to anybody; "
            "if that is meant, set GRPC_ALLOW_REFLECTION_IN_PRODUCTION=true as well"
        )


def _one_line_each(error: ValidationError) -> str:
    """`GRPC_SERVER_PORT: Input should be less than or equal to 65535`, without the value.

    The value is left out because it may be a secret.
    """
    lines = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        name = ".".join(str(part) for part in fault["loc"])
        text = fault["msg"].removeprefix("Value error, ")
        line = f"{name}: {text}" if name else text
        if line not in lines:
            lines.append(line)
    return "\n".join(lines)
