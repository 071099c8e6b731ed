"""Which error ends a command with which code."""

import json

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from console.exits import EPILOG, MEANINGS, Code, code_of, is_expected, report, sentence
from workers.broker.client import REDIS_AWAY
from workers.bus.door import Refusal
from workers.errors import (
    ConfigurationError,
    ConflictError,
    DeadlineError,
    LettaUnavailableError,
    NotAcceptedError,
    NotFoundError,
    PostroomError,
    SuspendedError,
    TooLateError,
    UnsafeRedisError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refusal("odd", where="id"), 3),
        (ConflictError("other body"), 3),
        (SuspendedError("suspended"), 3),
        (TooLateError("too late"), 3),
        (NotFoundError("nobody"), 4),
        (NotAcceptedError("not confirmed"), 6),
        (DeadlineError("not in time"), 7),
        (ConfigurationError("wrong"), 78),
        (UnsafeRedisError("no AOF"), 78),
        (LettaUnavailableError("away"), 1),
        (RedisConnectionError("refused"), 1),
        (KeyError("a bug"), 1),
    ],
)
def test_an_error_has_its_code(error: Exception, code: int) -> None:
    assert code_of(error) == code


def test_only_a_bug_of_ours_keeps_its_traceback() -> None:
    assert is_expected(PostroomError("said"))
    assert all(is_expected(kind("gone")) for kind in REDIS_AWAY)
    assert not is_expected(KeyError("a bug"))


def test_an_error_is_one_sentence_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    code = report(ConflictError("was published before with another body", where="id 'a'"), as_json=False)

    captured = capsys.readouterr()
    assert (code, captured.out) == (3, "")
    assert captured.err == "error: id 'a': was published before with another body\n"


def test_an_error_is_a_document_where_json_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    report(NotFoundError("there is no tenant 'x'"), as_json=True)

    document = json.loads(capsys.readouterr().err)
    assert document == {"error": {"code": 4, "meaning": MEANINGS[Code.NOT_FOUND], "message": "there is no tenant 'x'"}}


def test_an_error_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report(NotFoundError("there is no tenant '\x1b[2J'"), as_json=False)

    assert "\x1b" not in capsys.readouterr().err


def test_a_redis_that_is_away_is_told_with_what_to_do() -> None:
    assert "postroom doctor" in sentence(RedisConnectionError("Connection refused"))


def test_the_help_names_every_code() -> None:
    assert all(f"{code.value} {meaning}" in EPILOG for code, meaning in MEANINGS.items())
    assert {0, 1, 2, 3, 4, 5, 6, 7, 8, 78} == {code.value for code in MEANINGS}
