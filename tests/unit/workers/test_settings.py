"""Settings are read once and refused loudly: the variable, what was expected, what came; never a secret."""

import pytest
from pydantic import ValidationError

from workers.broker.client import connection_pool
from workers.broker.rules import Pool
from workers.errors import ConfigurationError
from workers.settings import Settings, load, variable

CANARY = "canary-pw"


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.chdir(str(tmp_path))
    for field in Settings.model_fields:
        monkeypatch.delenv(variable(field), raising=False)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("POSTROOM_MAX_ATTEMPTS", "many", "valid integer"),
        ("POSTROOM_MAX_ATTEMPTS", "0", "greater than or equal to 1"),
        ("POSTROOM_STANDARD_TURNS", "-1", "greater than or equal to 1"),
        ("POSTROOM_EXPRESS_TURNS", "1e9", "valid integer"),
        ("POSTROOM_TURN_DEADLINE_SECONDS", "0", "greater than 0"),
        ("POSTROOM_TURN_DEADLINE_SECONDS", "nan", ""),
        ("POSTROOM_TURN_DEADLINE_SECONDS", "99999", "less than or equal to 3600"),
        ("POSTROOM_BACKOFF_BASE_SECONDS", "0.0001", "greater than or equal to 0.001"),
        ("POSTROOM_BACKOFF_CAP_SECONDS", "0.5", "at least POSTROOM_BACKOFF_BASE_SECONDS"),
        ("POSTROOM_KEPT_DAYS", "0.5", "greater than or equal to 1"),
        ("POSTROOM_POOLS", "express,slow", "'express', 'standard' or 'bulk'"),
        ("POSTROOM_LOG_FORMAT", "xml", "'console' or 'json'"),
        ("POSTROOM_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("POSTROOM_ACCEPT_LOSS", "perhaps", "valid boolean"),
        ("POSTROOM_TENANT", "Acme Corp", "match pattern"),
        ("LETTA_BASE_URL", "ftp://letta", "http:// or https://"),
    ],
)
def test_a_wrong_value_names_its_variable_what_was_expected_and_what_came(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load()

    assert str(caught.value).startswith(f"{name}: ")
    assert expected in str(caught.value)
    assert value.rpartition(",")[2] in str(caught.value)


def test_several_wrong_values_are_all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROOM_MAX_ATTEMPTS", "x")
    monkeypatch.setenv("POSTROOM_LOG_LEVEL", "y")

    with pytest.raises(ConfigurationError) as caught:
        load()
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "POSTROOM_MAX_ATTEMPTS",
        "POSTROOM_LOG_LEVEL",
    ]


@pytest.mark.parametrize("field", ["redis_url", "arq_redis_url", "letta_api_key", "log_key"])
def test_a_secret_shows_nowhere(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    monkeypatch.setenv(variable(field), f"redis://:{CANARY}@host")
    settings = load()

    assert CANARY not in repr(settings) + str(settings) + str(settings.model_dump())
    with pytest.raises(ConfigurationError) as caught:
        load(**{field: [CANARY]})
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"http://:{CANARY}@host",
        f"redis://:{CANARY}/x@host:6379/0",
        f"redis://:a@host:{CANARY}/0",
        f"redis://[{CANARY}",
        f"redis://host:6379/0?socket_timeout={CANARY}",
        f"//:{CANARY}@host",
        CANARY,
        "",
    ],
)
def test_a_redis_url_that_cannot_be_read_is_a_setting_that_is_wrong_and_is_not_quoted(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        connection_pool(url)

    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "redis://" in str(caught.value)


def test_settings_do_not_change() -> None:
    settings = load()

    with pytest.raises(ValidationError):
        settings.max_attempts = 7  # type: ignore[misc]


def test_the_environment_is_read_and_what_is_empty_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROOM_POOLS", " express , bulk ")
    monkeypatch.setenv("POSTROOM_MAX_ATTEMPTS", "")
    monkeypatch.setenv("LETTA_BASE_URL", "http://letta:8283")
    settings = load()

    assert settings.pools == (Pool.EXPRESS, Pool.BULK)
    assert settings.max_attempts == 5
    assert settings.required_letta_base_url() == "http://letta:8283"


def test_what_is_needed_and_not_set_is_said_with_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match=r"POSTROOM_REDIS_URL is not set: expected redis://"):
        load().required_redis_url()
    with pytest.raises(ConfigurationError, match="LETTA_BASE_URL is not set"):
        load().required_letta_base_url()
