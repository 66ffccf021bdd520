"""Settings: where they come from, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from mysingle.core.config import CommonSettings, ConfigError
from mysingle.database import get_mongodb_client, get_redis_client
from mysingle.grpc.server import GrpcServerConfig


class MySettings(CommonSettings):
    SERVICE_NAME: str = "my-service"
    GRPC_SERVER_PORT: int = 50052


def test_the_defaults_of_the_platform() -> None:
    settings = CommonSettings(_env_file=None)
    assert settings.REDIS_DB_GRPC == 1
    assert settings.REDIS_DB_RATE_LIMIT == 2
    assert settings.GRPC_SERVER_PORT == 50051
    assert settings.GRPC_SERVER_MAX_WORKERS == 10
    assert settings.GRPC_SERVER_ENABLE_REFLECTION is False
    assert settings.GRPC_ENABLE_AUTH
    assert settings.GRPC_ENABLE_RATE_LIMITING
    assert settings.GRPC_ENABLE_METRICS
    assert settings.GRPC_ENABLE_ERROR_HANDLING
    assert settings.GRPC_RATE_LIMIT_MAX_REQUESTS == 1000
    assert settings.GRPC_RATE_LIMIT_WINDOW_SECONDS == 60
    assert settings.GRPC_CACHE_L1_TTL_SECONDS == 300
    assert settings.GRPC_CACHE_L1_MAX_SIZE == 100
    assert settings.GRPC_CACHE_L2_TTL_SECONDS == 3600


def test_sources_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = "GRPC_RATE_LIMIT_MAX_REQUESTS", "GRPC_SERVER_MAX_WORKERS", "GRPC_SERVER_PORT"
    for name in names:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text("ENVIRONMENT=staging\n" + "".join(f"{n}=1\n" for n in names))
    (tmp_path / ".env.staging").write_text("".join(f"{n}=2\n" for n in names[:2]))
    monkeypatch.delenv("ENVIRONMENT", raising=False)
    monkeypatch.setenv(names[0], "3")
    settings = MySettings()
    assert [getattr(settings, name) for name in names] == [3, 2, 1]
    assert MySettings(**{names[0]: 4}).GRPC_RATE_LIMIT_MAX_REQUESTS == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"GRPC_SERVER_PORT": "x"}, "GRPC_SERVER_PORT: "),
        ({"GRPC_SERVER_PORT": 70000}, "GRPC_SERVER_PORT: "),
        ({"GRPC_SERVER_MAX_WORKERS": 0}, "GRPC_SERVER_MAX_WORKERS: "),
        ({"GRPC_TLS_CERT_FILE": "c"}, "GRPC_TLS_CERT_FILE is set but GRPC_TLS_KEY_FILE is not"),
        ({"ENVIRONMENT": "production", "GRPC_ENABLE_AUTH": False}, "GRPC_ENABLE_AUTH=false"),
        (
            {"ENVIRONMENT": "production", "GRPC_SERVER_ENABLE_REFLECTION": True},
            "GRPC_SERVER_ENABLE_REFLECTION=true",
        ),
    ],
)
def test_wrong_values_name_the_variable(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        MySettings(_env_file=None, **values)
    assert "\n" not in str(raised.value)


def test_a_secret_is_not_in_the_message_nor_in_the_repr() -> None:
    with pytest.raises(ConfigError) as raised:
        CommonSettings(_env_file=None, REDIS_DB_GRPC="hunter2")
    assert "hunter2" not in str(raised.value)
    assert "hunter2" not in repr(CommonSettings(_env_file=None, GRPC_JWT_SECRET="hunter2"))


def test_production_said_twice() -> None:
    CommonSettings(
        _env_file=None,
        ENVIRONMENT="production",
        GRPC_ENABLE_AUTH=False,
        GRPC_ALLOW_NO_AUTH_IN_PRODUCTION=True,
        GRPC_SERVER_ENABLE_REFLECTION=True,
        GRPC_ALLOW_REFLECTION_IN_PRODUCTION=True,
    )


def test_overrides_are_settings_under_short_names() -> None:
    settings = MySettings(_env_file=None, ENVIRONMENT="production")
    config = GrpcServerConfig.from_settings(
        settings, service_name="x", port=50099, max_workers=3, rate_limit_max_requests=7
    )
    assert (config.port, config.max_workers, config.rate_limit_max_requests) == (50099, 3, 7)
    assert GrpcServerConfig.from_settings(settings, service_name="x").port == 50052
    assert settings.GRPC_SERVER_PORT == 50052
    with pytest.raises(ConfigError, match="GRPC_ENABLE_AUTH=false"):
        GrpcServerConfig.from_settings(settings, service_name="x", enable_auth=False)
    with pytest.raises(ConfigError, match="GRPC_SERVER_PORT"):
        GrpcServerConfig.from_settings(settings, service_name="x", port="abc")


async def test_databases_that_are_not_configured_name_the_variable() -> None:
    settings = CommonSettings(_env_file=None)
    with pytest.raises(ConfigError, match="REDIS_URL is not set"):
        await get_redis_client(settings)
    with pytest.raises(ConfigError, match="MONGODB_URL is not set"):
        await get_mongodb_client(settings)
    with pytest.raises(ConfigError, match="REDIS_URL: "):
        await get_redis_client(CommonSettings(_env_file=None, REDIS_URL="nonsense"))
