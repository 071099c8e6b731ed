"""Exit codes: the one place that says which end of a command is which number, and in which words."""

import json
import sys
from enum import IntEnum

from redis.exceptions import AuthenticationError, RedisError

from console.output import err, safe
from workers.broker.client import REDIS_AWAY
from workers.errors import (
    ConfigurationError,
    DeadlineError,
    NotAcceptedError,
    NotFoundError,
    PostroomError,
    RefusedError,
)


class Code(IntEnum):
    """What a command ends with."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NOT_FOUND = 4
    NOT_DELIVERED = 5
    NOT_ACCEPTED = 6
    DEADLINE = 7
    PARTIAL = 8
    CONFIGURATION = 78
    """EX_CONFIG of sysexits.h."""
    INTERRUPTED = 130


MEANINGS: dict[Code, str] = {
    Code.OK: "done",
    Code.FAILED: "failed",
    Code.USAGE: "wrong usage",
    Code.REFUSED: "refused; nothing was stored or changed",
    Code.NOT_FOUND: "no such tenant, message or agent",
    Code.NOT_DELIVERED: "ended, but not delivered",
    Code.NOT_ACCEPTED: "Redis did not confirm; send again under the same --id",
    Code.DEADLINE: "not over in time; the message goes on",
    Code.PARTIAL: "done for some, not for all",
    Code.CONFIGURATION: "a setting is wrong, or Redis would lose messages",
}

EPILOG = "Exit codes: " + " · ".join(f"{code.value} {meaning}" for code, meaning in MEANINGS.items()) + "."

_CODES: tuple[tuple[type[BaseException], Code], ...] = (
    (ConfigurationError, Code.CONFIGURATION),
    (RefusedError, Code.REFUSED),
    (NotFoundError, Code.NOT_FOUND),
    (NotAcceptedError, Code.NOT_ACCEPTED),
    (DeadlineError, Code.DEADLINE),
)
"""The first that fits."""


def code_of(error: BaseException) -> Code:
    """The exit code of an exception that ended a command."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Code.FAILED)


def is_expected(error: BaseException) -> bool:
    """Whether a sentence is enough; anything else is a bug of ours and deserves its traceback."""
    return isinstance(error, (PostroomError, *REDIS_AWAY))


def sentence(error: BaseException) -> str:
    """What went wrong and what to do, for people."""
    if isinstance(error, PostroomError):
        return str(error)
    if isinstance(error, AuthenticationError):
        return "Redis refuses the credential: check user and password in POSTROOM_REDIS_URL"
    if isinstance(error, RedisError | TimeoutError):
        said = str(error) or type(error).__name__
        return f"Redis does not answer as it should: {said} (`postroom doctor` looks at it)"
    return f"{type(error).__name__}: {error}"


def report(error: BaseException, *, as_json: bool) -> Code:
    """Says on stderr why a command ended, and gives its code."""
    code = code_of(error)
    if as_json:
        document = {"error": {"code": code.value, "meaning": MEANINGS[code], "message": sentence(error)}}
        sys.stderr.write(json.dumps(document) + "\n")
    else:
        err.print("error:", style="bold red", end=" ")
        err.print(safe(sentence(error)), markup=False, highlight=False, soft_wrap=True)
    return code
