"""How the commands find a running `postroom up`, and tell it from a dead one."""

from pathlib import Path

import pytest

from console import session
from console.local import Home, here
from workers.errors import ConfigurationError, RefusedError

REDIS, LETTA = "redis://127.0.0.1:1234/0", "http://127.0.0.1:4321"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.chdir(tmp_path)
    for name in ("POSTROOM_REDIS_URL", "LETTA_BASE_URL", "POSTROOM_HOME"):
        monkeypatch.delenv(name, raising=False)
    return Home(Path(".postroom"))


def test_the_addresses_are_found_while_their_writer_lives(home: Home) -> None:
    with home.occupied():
        home.write(here(redis_url=REDIS, letta_base_url=LETTA))

        settings = session.find_settings()
        assert settings.required_redis_url() == REDIS
        assert settings.required_letta_base_url() == LETTA
    assert home.running() is None


def test_what_is_set_wins(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROOM_REDIS_URL", "redis://elsewhere:6379/0")
    with home.occupied():
        home.write(here(redis_url=REDIS, letta_base_url=LETTA))

        settings = session.find_settings()
        assert settings.required_redis_url() == "redis://elsewhere:6379/0"
        assert settings.required_letta_base_url() == LETTA


def test_a_stale_file_is_ignored_and_said_to_be(home: Home) -> None:
    with home.occupied():
        pass
    home.write(here(4_194_305, redis_url=REDIS, letta_base_url=LETTA))

    settings = session.find_settings()
    assert settings.redis_url is None
    with pytest.raises(ConfigurationError, match=r"process 4194305\) has ended"):
        session.require_addresses(settings, letta=False)


def test_without_any_up_the_commands_say_what_to_do(home: Home) -> None:
    with pytest.raises(ConfigurationError, match=r"POSTROOM_REDIS_URL and LETTA_BASE_URL not set.*`postroom up`"):
        session.require_addresses(session.find_settings(), letta=True)


def test_an_up_with_its_own_redis_does_not_tell_its_address(home: Home) -> None:
    with home.occupied():
        home.write(here(redis_url=None, letta_base_url=LETTA))

        with pytest.raises(ConfigurationError, match="was given its own by setting"):
            session.require_addresses(session.find_settings(), letta=False)


def test_one_up_at_a_time(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.local.LOCK_PATIENCE_SECONDS", 0.0)
    with home.occupied():
        home.write(here(77, redis_url=REDIS, letta_base_url=LETTA))
        with pytest.raises(RefusedError, match=r"is running already \(process 77\)"), Home(home.path).occupied():
            pass


def test_a_folder_that_cannot_be_written_is_told_by_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigurationError, match="POSTROOM_HOME"), Home(tmp_path / "file").occupied():
        pass


def test_what_lies_there_is_nobodys_commit(home: Home) -> None:
    with home.occupied():
        assert (home.path / ".gitignore").read_text() == "*\n"


def test_a_broken_file_is_no_file(home: Home) -> None:
    home.path.mkdir()
    home.endpoints_file.write_text("{")

    assert home.recorded() is None


async def test_a_service_gives_up_waiting_with_the_reason(home: Home) -> None:
    with pytest.raises(ConfigurationError, match="no `postroom up` runs in this folder"):
        await session.wait_for_addresses(seconds=0)
